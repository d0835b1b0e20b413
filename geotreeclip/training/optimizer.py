"""AdamW groups, the learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from geotreeclip.training.config import OptimizerConfig, ScheduleConfig

__all__ = ["WeightAverage", "build_optimizer", "learning_rate"]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over every trainable parameter; weight decay only on the matrices of linear maps.

    Args:
        model: The model.
        config: Learning rate, decay and moments.
    """
    matrices = {
        id(parameter)
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim >= 2 and name.endswith("weight")
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in matrices else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """Learning rate of a step: linear warm-up, then a cosine from the peak to `final` x peak.

    Args:
        step: From 0 to steps - 1.
        steps: Length of the run.
        peak: The highest rate.
        config: Warm-up share and final share.
    """
    warmup = max(1, round(steps * config.warmup))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress)))


class WeightAverage:
    """Exponential moving average of the trainable weights (Polyak averaging).

    The decay grows as min(decay, (1 + n) / (10 + n)) over the updates n, so that the random start is soon forgotten.

    Args:
        model: Whose weights to follow.
        decay: Final decay; 0 makes the average equal the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._mean = [parameter.detach().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._mean, [parameter.detach() for parameter in self._live], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        own = [parameter.detach().clone() for parameter in self._live]
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(own)

    def keep(self) -> None:
        """Give the model the averaged weights for good."""
        self._copy(self._mean)

    def state(self) -> dict[str, list[Tensor] | int]:
        """For a checkpoint."""
        return {"updates": self.updates, "mean": self._mean}

    def load(self, state: dict[str, list[Tensor] | int]) -> None:
        """From a checkpoint."""
        mean, updates = state["mean"], state["updates"]
        if not isinstance(mean, list) or not isinstance(updates, int):
            raise TypeError("not the state of a weight average")
        self.updates = updates
        for kept, given in zip(self._mean, mean, strict=True):
            kept.copy_(given)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._live, values, strict=True):
            parameter.copy_(value)
