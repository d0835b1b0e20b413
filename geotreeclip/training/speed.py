"""How much arithmetic a sample takes, how fast the run is, and how much of the device that uses."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import Rank

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["Cost", "Speed", "count_cost", "peak_flops", "speed_of"]

_PROBE = 8
"""Samples that are counted; arithmetic is linear in samples."""

_PEAKS = (
    (re.compile(r"\bB200\b"), 2250e12),
    (re.compile(r"\bH200\b"), 989.5e12),
    (re.compile(r"\bH100\b.*PCIe"), 756e12),
    (re.compile(r"\bH100 80GB HBM3\b"), 989.5e12),
    (re.compile(r"\bA100\b"), 312e12),
    (re.compile(r"\bL40S\b"), 362e12),
    (re.compile(r"\bL4\b"), 121e12),
)
"""Dense bf16 and fp16 tensor-core FLOP/s by device name, from NVIDIA's data sheets (figures with sparsity halved)."""


class Cost(NamedTuple):
    """Arithmetic of a training step: forward, and twice that for backward where weights are trained.

    Attributes:
        place: FLOP of a place.
        text: FLOP of a prompt.
    """

    place: float
    text: float

    def of_sample(self, prompts: int, batch_size: int) -> float:
        """FLOP of a sample, with its share of the prompts that a batch encodes."""
        return self.place + self.text * prompts / batch_size


@torch.no_grad()
def count_cost(model: GeoTreeCLIP, batch: ObservationBatch, tokens: Tensor) -> Cost:
    """Count the matrix products and attention of a few samples; without an effect on weights or random draws.

    Args:
        model: The model.
        batch: Some places.
        tokens: [L, K] some prompts.
    """
    was_training = model.training
    model.eval()
    few, prompts = batch.select(slice(0, _PROBE)), tokens[:_PROBE].to(model.log_scale.device)
    with FlopCounterMode(display=False) as place:
        model.encode_observations(few)
    with FlopCounterMode(display=False) as text:
        model.encode_text(prompts)
    model.train(was_training)
    return Cost(
        place.get_total_flops() / max(1, few.size) * _passes(model.observation_encoder),
        text.get_total_flops() / max(1, len(prompts)) * _passes(model.text_encoder),
    )


def speed_of(trainer: Trainer, batch: ObservationBatch) -> Speed:
    """A run's speed, its arithmetic counted on some samples and the prompts of a typical batch."""
    batch_size = trainer.config.batch_size
    typical = np.random.default_rng(0).choice(trainer.samples.train, batch_size)
    candidates = trainer.labels.candidates(trainer.dataset.taxa[typical], Rank.SPECIES.value)
    lengths = trainer.plain.text_encoder.lengths(candidates.tokens)
    few = torch.linspace(0, len(lengths) - 1, _PROBE).long()  # some short, some long
    tokens = candidates.tokens[lengths.argsort()[few]][:, : int(lengths.float().mean().ceil())]
    cost = count_cost(trainer.plain, batch, tokens)
    peak = peak_flops(trainer.device, trainer.accelerator.mixed_precision)
    flops = cost.of_sample(len(candidates.tokens), batch_size)
    return Speed(flops, peak * trainer.accelerator.num_processes if peak else None)


def _passes(module: nn.Module) -> int:
    return 3 if any(parameter.requires_grad for parameter in module.parameters()) else 1


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s of a device in 16-bit precision, or None where it is not known for sure."""
    if device.type != "cuda" or precision not in ("bf16", "fp16"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for pattern, peak in _PEAKS if pattern.search(name)), None)


class Speed:
    """Samples a second since the last question, and what share of the devices' peak that is.

    Args:
        flops_per_sample: Of a training step.
        peak: FLOP/s of all devices together, None if unknown.
    """

    def __init__(self, flops_per_sample: float, peak: float | None) -> None:
        self.flops_per_sample = flops_per_sample
        self.peak = peak
        self._then = time.monotonic()
        self._samples = 0
        self._all_samples, self._all_seconds = 0, 0.0

    def restart(self) -> None:
        """Leave out the time that passed since the last question, such as that of a validation."""
        self._then, self._samples = time.monotonic(), 0

    def add(self, samples: int) -> None:
        """Count samples that were trained on."""
        self._samples += samples

    def take(self) -> dict[str, float]:
        """Samples a second and, where the peak is known, the utilisation; then count anew."""
        seconds = max(time.monotonic() - self._then, 1e-9)
        rate = self._samples / seconds
        self._all_samples += self._samples
        self._all_seconds += seconds
        self.restart()
        values = {"samples_per_second": rate}
        if self.peak:
            values["utilisation"] = rate * self.flops_per_sample / self.peak
        return values

    def summary(self) -> str:
        """Mean speed over all that was taken, in words; "" before anything was."""
        if not self._all_seconds:
            return ""
        rate = self._all_samples / self._all_seconds
        use = f", {rate * self.flops_per_sample / self.peak:.1%} of the devices' peak" if self.peak else ""
        return f"{rate:,.0f} samples/s in training ({rate * self.flops_per_sample / 1e12:.3g} TFLOP/s{use}); "
