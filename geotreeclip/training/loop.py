"""The training loop under Accelerate: one process or many, the same run.

A step is a function of the weights and of its position in the stream of samples: order, augmentation, dropout and the
draw of coarse ranks all follow from (seed, position), so a run that goes on from a checkpoint is the run that was never
stopped.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from geotreeclip.data.loader import Loader
from geotreeclip.data.packed import PackedBatch
from geotreeclip.data.statistics import compute_statistics
from geotreeclip.data.stream import StreamedSet
from geotreeclip.errors import ConfigError
from geotreeclip.losses import gather_with_gradient
from geotreeclip.models.clip import GeoTreeCLIP, create_model
from geotreeclip.observations import ObservationBatch, from_packed
from geotreeclip.prep.phase import check_days
from geotreeclip.schema import Rank
from geotreeclip.training.account import announcement, farewell
from geotreeclip.training.augment import augment
from geotreeclip.training.budget import fixed_steps
from geotreeclip.training.checkpoint import newest_checkpoint, read_checkpoint, write_checkpoint
from geotreeclip.training.config import RunConfig, resolve_model
from geotreeclip.training.faults import FiniteGuard, save_fault
from geotreeclip.training.finish import write_final_model
from geotreeclip.training.initialise import initial_statistics, initialise
from geotreeclip.training.interrupt import Interrupt
from geotreeclip.training.labels import TrainingLabels
from geotreeclip.training.objective import Objective
from geotreeclip.training.open_data import make_loader, open_data
from geotreeclip.training.optimizer import WeightAverage, build_optimizer, learning_rate
from geotreeclip.training.processes import prepare, start_accelerator
from geotreeclip.training.resume import load_run_state, run_state
from geotreeclip.training.samples import choose_samples
from geotreeclip.training.speed import speed_of
from geotreeclip.training.validation import ValidationScore, validate

__all__ = ["Trainer", "train"]

_LOOK_EVERY = 20
"""Steps between two looks at the loss; each look waits for the device."""
_STATISTICS_SAMPLES = 50_000
"""Enough for means and deviations to three digits."""
_FITTED_SAMPLES = 4_000
"""Tens of thousands of time steps, and places enough for the covariance of 19 climate variables."""


def train(config: RunConfig, *, quiet: bool = False) -> Path:
    """Train a model as configured and write it to `config.out`/model.

    Args:
        config: The run.
        quiet: No progress bar and no messages (for use inside other jobs).

    Returns:
        The model directory.

    Raises:
        ConfigError: If settings do not go together, or `out` holds another run.
        DataError: If the data is not what it should be, or the loss stops being finite.
        KeyboardInterrupt: When interrupted; a checkpoint is written first.
    """
    return Trainer(config, quiet=quiet).run()


class Trainer:
    """All parts of a run, and its loop.

    Args:
        config: The run.
        quiet: No progress bar and no messages.
    """

    def __init__(self, config: RunConfig, *, quiet: bool = False) -> None:
        if not config.data or not config.out:
            raise ConfigError("name the packed shards with --data DIR and the folder of the run with --out RUN")
        self.config = config
        self.out = Path(config.out)
        self.started = time.monotonic()
        self.accelerator = _accelerator(config)
        self.quiet = quiet or not self.accelerator.is_main_process
        self.dataset = open_data(config, self._say)
        self.samples = choose_samples(self.dataset, config)
        self.loader = make_loader(
            self.dataset,
            self.samples,
            config,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            pin=self.device.type == "cuda",
        )
        self.counts = np.bincount(self.dataset.taxa[self.samples.train], minlength=len(self.dataset.taxonomy)).astype(
            np.int64
        )
        self.model_config = resolve_model(config.model, has_images=self.dataset.has_images)
        check_days(config.data, self.model_config)
        if isinstance(self.dataset, StreamedSet):
            statistics = self.dataset.statistics
        else:
            statistics = compute_statistics(self.dataset, self._some_rows(_STATISTICS_SAMPLES))
        self.statistics = initial_statistics(config.init, self.model_config, statistics)
        torch.manual_seed(config.seed)
        model = create_model(self.model_config, self.statistics)
        model.observation_encoder.fit(from_packed(self.dataset.read(self._some_rows(_FITTED_SAMPLES))))
        self.fresh = initialise(model, config.init)
        if config.init:
            self._say(f"starts from {config.init}; random as ever: {', '.join([*self.fresh, 'text'])}")
        self.labels = TrainingLabels(
            self.dataset.taxonomy, self.counts, model, config.loss, config.batch_size, config.seed
        )
        if config.compile:
            model.observation_encoder.compile()
            model.text_encoder.compile()
        optimizer = build_optimizer(model, config.optimizer)
        self.model, self.optimizer = prepare(self.accelerator, model, optimizer)
        self.objective = Objective(self.accelerator, self.model, self.labels, config)
        self.plain: GeoTreeCLIP = self.objective.plain
        self.guard = FiniteGuard(self.accelerator, optimizer)
        self.speed = speed_of(self, from_packed(self.dataset.read(self._some_rows(8)), self.device))
        self.average = WeightAverage(self.plain, config.optimizer.average)
        self.variable_deviation = torch.as_tensor(self.statistics.variable_deviation, device=self.device)
        self.step = 0
        self.steps = 0
        # A stream cannot be asked again for the batch that went wrong; and pinned memory must not be reused before the
        # device has read it, which is sure after a look.
        self._recent: deque[PackedBatch] = deque(maxlen=_LOOK_EVERY)
        self.best: dict[str, Any] = {"score": -math.inf, "step": -1, "validation": {}, "weights": {}}
        self.history: list[dict[str, float]] = []

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        device: torch.device = self.accelerator.device
        return device

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end and write the model directory."""
        try:
            self._train()
            directory = self.out / "model"
            if self.accelerator.is_main_process:
                self._restore_best()
                write_final_model(directory, self)
            self.accelerator.wait_for_everyone()
        finally:
            self.accelerator.end_training()  # closes logs and the process group, also when interrupted
        self._say(farewell(self, directory))
        return directory

    def _train(self) -> None:
        resumed = self._resume()
        if not resumed:
            self.steps = self._fix_steps()
        self._say(announcement(self, resumed))
        self._start_trackers()
        batches = self.loader.batches(start=self.step * self.config.batch_size)
        bar = tqdm(
            total=self.steps * self.config.batch_size,
            initial=self.step * self.config.batch_size,
            unit=" samples",
            unit_scale=True,
            desc="training",
            disable=self.quiet,
            mininterval=1.0,
        )
        validate_at = _milestones(self.steps, self.config.schedule.validations) | {self.steps}
        save_at = _milestones(self.steps, self.config.schedule.checkpoints) - {self.steps}
        running: list[Tensor] = []
        self.speed.restart()
        with Interrupt() as interrupt, bar:
            try:
                while self.step < self.steps:
                    running.append(self.train_step(next(batches)))
                    bar.update(self.config.batch_size)
                    stop = interrupt.requested(self.accelerator, self.step)
                    if self.step % _LOOK_EVERY == 0 or self.step in validate_at | save_at or stop:
                        self._log(running, bar)
                        running = []
                    if self.step in validate_at:
                        self._validate(bar)
                        self.speed.restart()
                    if self.step in save_at or stop:
                        self._save()
                    if stop:
                        self._say(f"stopped at step {self.step} of {self.steps}; the same command goes on from there")
                        raise KeyboardInterrupt
            finally:
                batches.close()  # type: ignore[attr-defined]

    def train_step(self, packed: PackedBatch) -> Tensor:
        """One optimizer step on this process's share of a global batch; returns the loss, detached."""
        config, position = self.config, self.step * self.config.batch_size
        self._recent.append(packed)
        loss = self.objective.backward(self._augmented(packed, position), self._taxa(packed, position), position)
        rate = learning_rate(self.step, self.steps, config.optimizer.learning_rate, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        whole = self.guard.watch(loss, norm, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        self.step += 1
        self.speed.add(config.batch_size)
        return whole

    def _augmented(self, packed: PackedBatch, position: int) -> ObservationBatch:
        """This process's share of a batch on the device, augmented."""
        config, rank = self.config, self.accelerator.process_index
        share = config.batch_size // self.accelerator.num_processes
        return augment(
            from_packed(packed, self.device),
            config.augment,
            self.variable_deviation,
            config.seed,
            position,
            slice(rank * share, (rank + 1) * share),
            config.batch_size,
        )

    def _taxa(self, packed: PackedBatch, position: int) -> npt.NDArray[np.int64]:
        """Taxa of the global batch: where the order is known, no process needs to ask another."""
        if isinstance(self.loader, Loader):
            return self.dataset.taxa[self.loader.global_rows(position)]
        own = torch.from_numpy(packed.taxon).to(self.device)
        return np.asarray(gather_with_gradient(own).cpu().numpy(), dtype=np.int64)

    def _stop_if_not_finite(self) -> None:
        """Look whether a step went wrong since the last look; save what it happened with and stop."""
        fault = self.guard.fault()
        if fault is None:
            self.guard.check_scale()
            return
        position = fault.step * self.config.batch_size
        if isinstance(self.loader, Loader):
            packed = self.loader.dataset.read(self.loader.rows(position))
        else:
            packed = self._recent[fault.step - self.step]
        raise save_fault(
            self.out,
            fault,
            self.accelerator,
            packed,
            self.dataset.sample_ids(packed.index),
            self._augmented(packed, position),
            self.config.to_dict(),
            self.plain.state_dict(),
            torch.as_tensor(self.statistics.variable_mean, device=self.device),
            self.variable_deviation,
        )

    # -- length, start and end ---------------------------------------------------------------------------------

    def _fix_steps(self) -> int:
        """The number of steps of the run; with a budget in minutes, from timed steps whose effect is undone."""
        steps = fixed_steps(self)
        self._recent.clear()
        return steps

    def _some_rows(self, most: int) -> Any:
        """At most so many training rows, drawn by seed, that can be read at will."""
        rows = self.samples.train
        if isinstance(self.dataset, StreamedSet):
            rows = rows[rows < self.dataset.probe_rows]
            if not len(rows):
                raise ConfigError(f"{self.dataset.directory}: the first shard holds no training samples of the split")
        if len(rows) > most:
            rows = np.sort(np.random.default_rng([self.config.seed, 0x57]).choice(rows, most, False))
        return rows

    def _validate(self, bar: Any) -> None:
        """Score the averaged weights and keep them if they are the best so far."""
        if not len(self.samples.validation):
            return
        score = self.score()
        value = -score.log_loss if self.config.select == "log_loss" else score.top1
        entry = {"step": float(self.step), **{f"validation/{k}": float(v) for k, v in score._asdict().items()}}
        self.history.append(entry)
        self.accelerator.log({k: v for k, v in entry.items() if k != "step"}, step=self.step)
        if value > self.best["score"]:
            with self.average.applied():
                weights = {name: tensor.detach().clone() for name, tensor in self.plain.state_dict().items()}
            self.best = {"score": value, "step": self.step, "validation": score._asdict(), "weights": weights}
        if not self.quiet:
            bar.write(
                f"step {self.step}: validation top-1 {score.top1:.1%}, log loss {score.log_loss:.3f}, uniform prior "
                f"macro top-1 {score.uniform_top1:.1%}{'  (best)' if self.best['step'] == self.step else ''}"
            )

    def score(self) -> ValidationScore:
        """Scores of the averaged weights on the validation samples."""
        with self.average.applied():
            return validate(
                self.plain, self.dataset, self.samples.validation, self.labels.ranks[Rank.SPECIES], self.device
            )

    def _restore_best(self) -> None:
        if self.best["weights"]:
            self.plain.load_state_dict(self.best["weights"])
        else:  # nothing to choose by: the average of the last steps
            self.average.keep()

    # -- logging and checkpoints -------------------------------------------------------------------------------

    def _log(self, losses: list[Tensor], bar: Any) -> None:
        self._stop_if_not_finite()
        if not losses:
            return
        mean = float(torch.stack(losses).mean())
        rate = self.optimizer.param_groups[0]["lr"]
        speed = self.speed.take()
        shown = {"loss": f"{mean:.3f}", "lr": f"{rate:.1e}"}
        if "utilisation" in speed:
            shown["use"] = f"{speed['utilisation']:.1%}"
        bar.set_postfix(shown, refresh=False)
        values = {
            "training/loss": mean,
            "training/learning_rate": rate,
            "training/scale": float(self.plain.logit_scale.detach()),
            **{f"training/{name}": value for name, value in speed.items()},
        }
        self.accelerator.log(values, step=self.step)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = run_state(self)
            write_checkpoint(self.out / "checkpoints", self.step, state, self.config.schedule.keep)
        self.accelerator.wait_for_everyone()
        self.speed.restart()

    def _resume(self) -> bool:
        """Go on from the newest checkpoint of the folder, if there is one and it is of this very run."""
        folder = self.out / "checkpoints"
        if self.config.resume == "never":
            if self.accelerator.is_main_process and folder.is_dir():
                shutil.rmtree(folder)  # those of another run would be taken for ours later on
            return False
        newest = newest_checkpoint(folder, self._say) if self.accelerator.is_main_process else None
        path: Path | None = broadcast_object_list([newest])[0]
        if path is None:
            return False
        told = load_run_state(self, read_checkpoint(path), path)
        if told:
            self._say(f"not exactly the run that was never stopped: {told}")
        return True

    def _start_trackers(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            text = json.dumps({**self.config.to_dict(), "steps_fixed": self.steps}, indent=1)
            (self.out / "config.json").write_text(text + "\n")
        self.accelerator.init_trackers("log")

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


def _accelerator(config: RunConfig) -> Accelerator:
    # Buffers are constants here: sending them at every pass would be for nothing.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = start_accelerator(config, [wrapper])
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ConfigError(
            f"Accelerate is configured for {kind.value}; this release replicates the weights on every device: launch "
            "with --multi_gpu, or on a CPU"
        )
    return accelerator


def _milestones(steps: int, count: int) -> set[int]:
    """`count` steps evenly spread over a run, the last one its end."""
    return {round(steps * part / count) for part in range(1, count + 1)} if count else set()
