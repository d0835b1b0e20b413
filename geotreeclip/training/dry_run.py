"""What a run would take, without running it: steps, parameters, memory and hours."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from geotreeclip.data.statistics import Statistics
from geotreeclip.losses import contrastive_loss
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import ModelConfig
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, MONTH_DAYS, MONTHS, PATCH, VARIABLES
from geotreeclip.training.config import RunConfig, resolve_model

__all__ = ["Plan", "plan"]

_PROBE = 8
"""Samples of the probing step; cost is linear in samples from there."""

_PROMPT = "Evergreen Broadleaf / Euphorbiaceae / Macaranga / Macaranga heterophylla"
_MEMORY_OVER_ACTIVATIONS = 1.5
"""Allocator slack and temporary buffers over what autograd keeps."""


class Plan(NamedTuple):
    """The size of a run.

    Attributes:
        samples: Training samples in an epoch.
        taxa: Distinct taxa.
        processes: Devices.
        steps: Optimizer steps.
        parameters: All parameters of the model.
        flops_per_sample: Of one training step, forward and backward, text included.
        gib_per_process: Estimated peak memory.
        hours: Wall time at the assumed sustained rate.
        tflops: That rate, TFLOP/s on each device.
    """

    samples: int
    taxa: int
    processes: int
    steps: int
    parameters: int
    flops_per_sample: float
    gib_per_process: float
    hours: float
    tflops: float

    def text(self) -> str:
        """The plan in words."""
        return (
            f"{self.samples:,} samples of {self.taxa:,} taxa on {self.processes} process(es)\n"
            f"steps: {self.steps:,}\nparameters: {self.parameters / 1e6:.1f} M\n"
            f"operations: {self.flops_per_sample / 1e9:.2f} GFLOP a sample (forward, backward, text)\n"
            f"memory: about {self.gib_per_process:.1f} GiB on each process (weights, gradients, moments, average, "
            f"activations)\n"
            f"time: about {self.hours:.1f} hours if each process sustains {self.tflops:g} TFLOP/s"
        )


def expected_candidates(samples: int, taxa: int, batch_size: int) -> float:
    """Expected distinct taxa of a batch under a Zipf tail (count of the k-th taxon proportional to 1 / k).

    Args:
        samples: Training samples (bounds the batch).
        taxa: Distinct taxa.
        batch_size: Samples of the global batch.
    """
    share = 1 / torch.arange(1, taxa + 1, dtype=torch.float64)
    share /= share.sum()
    return float((1 - (1 - share) ** min(batch_size, samples)).sum())


def plan(config: RunConfig, samples: int, taxa: int, processes: int, tflops: float) -> Plan:
    """Estimate a run by counting the operations and the saved activations of one small step.

    Args:
        config: The run.
        samples: Training samples.
        taxa: Distinct taxa among them.
        processes: Devices that share the batch.
        tflops: Sustained TFLOP/s of one device; an assumption, so measure 100 real steps before believing the hours.
    """
    model_config: ModelConfig = resolve_model(config.model, has_images=True)
    model = create_model(model_config, Statistics.empty())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    days = torch.from_numpy(MONTH_DAYS).expand(_PROBE, MONTHS, 2)
    images = torch.randn(_PROBE, MONTHS, len(BANDS), PATCH, PATCH)
    environment = torch.randn(_PROBE, len(VARIABLES))
    batch = ObservationBatch(
        images,
        torch.ones_like(images, dtype=torch.bool),
        days[..., 0],
        days[..., 1],
        environment,
        torch.ones_like(environment, dtype=torch.bool),
    )
    tokens = model.tokenize([_PROMPT] * _PROBE)

    kept = 0
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: set[int] = set()

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = tensor.untyped_storage().data_ptr()
        if storage not in weights and storage not in seen:  # one activation is often saved by several operations
            seen.add(storage)
            kept += tensor.untyped_storage().nbytes()
        return tensor

    def cost(run_text: bool) -> tuple[float, int]:
        nonlocal kept
        kept = 0
        seen.clear()
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if run_text:
                model.encode_text(tokens).sum().backward()
            else:
                places = model.encode_observations(batch)
                texts = torch.nn.functional.normalize(torch.randn(_PROBE, model_config.embed_dim), dim=-1)
                contrastive_loss(places, texts, torch.arange(_PROBE), model.logit_scale).place_to_text.backward()
        return counter.get_total_flops() / _PROBE, kept // _PROBE

    place_flops, place_bytes = cost(run_text=False)
    text_flops, text_bytes = cost(run_text=True)
    use_all = config.loss.candidates == "all" or (config.loss.candidates == "auto" and taxa <= config.loss.all_up_to)
    candidates = taxa if use_all else expected_candidates(samples, taxa, config.batch_size)
    if config.loss.candidates == "cached":  # those present, and all of them every so many steps
        candidates = expected_candidates(samples, taxa, config.batch_size) + taxa / (3 * config.loss.refresh)
    # Each process encodes its share of the candidates, or all of them.
    encoded = candidates / processes if config.loss.share_text else candidates
    flops = place_flops + text_flops * encoded * processes / config.batch_size
    steps = config.steps or math.ceil(config.epochs * samples / config.batch_size)
    own = config.batch_size / processes
    part = min(1.0, config.micro_batch / own) if config.micro_batch else 1.0
    activations = part * (place_bytes * own + text_bytes * encoded)
    if config.precision in ("bf16", "fp16"):
        activations *= 0.6  # most, not all, of what is kept has half the bytes
    memory = 5 * 4 * parameters + _MEMORY_OVER_ACTIVATIONS * activations
    seconds = flops * steps * config.batch_size / (processes * tflops * 1e12)
    return Plan(samples, taxa, processes, steps, parameters, flops, memory / 2**30, seconds / 3600, tflops)
