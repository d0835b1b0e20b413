"""The number of steps of a run, from a number, from epochs, or from timed steps whose effect is undone."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list

from geotreeclip.training.optimizer import WeightAverage

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["fixed_steps"]

_TIMED_STEPS = 50
_UNTIMED_STEPS = 3  # the first steps allocate memory and fill caches


def fixed_steps(trainer: Trainer) -> int:
    """The number of steps; with a budget in minutes the run is timed, and left as it was before."""
    config = trainer.config

    def passes(epochs: float) -> int:
        return math.ceil(epochs * len(trainer.loader) / config.batch_size)

    if config.minutes <= 0:
        return config.steps or passes(config.epochs)
    weights = copy.deepcopy(trainer.plain.state_dict())
    optimizer = copy.deepcopy(trainer.optimizer.state_dict())
    trainer.steps = _TIMED_STEPS
    batches = trainer.loader.batches()
    for _ in range(_UNTIMED_STEPS):
        trainer.train_step(next(batches))
    start = time.monotonic()
    for _ in range(_TIMED_STEPS - _UNTIMED_STEPS):
        float(trainer.train_step(next(batches)))
    seconds = (time.monotonic() - start) / (_TIMED_STEPS - _UNTIMED_STEPS)
    batches.close()  # type: ignore[attr-defined]
    start = time.monotonic()
    if len(trainer.samples.validation):
        trainer.score()
    validation = (time.monotonic() - start) * (config.schedule.validations + 1)
    trainer.plain.load_state_dict(weights)
    trainer.optimizer.load_state_dict(optimizer)
    trainer.average = WeightAverage(trainer.plain, config.optimizer.average)
    trainer.guard.reset()
    if trainer.objective.cache:
        trainer.objective.cache.rows = None
    trainer.step = 0
    left = config.minutes * 60 - (time.monotonic() - trainer.started) - validation
    steps = max(_TIMED_STEPS, int(left / seconds))
    if config.most_epochs:
        steps = min(steps, passes(config.most_epochs))
    return int(broadcast_object_list([steps])[0])
