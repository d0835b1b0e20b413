"""What a run says of itself at its start and its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["announcement", "farewell"]

_CANDIDATES = {
    "all": "all taxa",
    "batch": "taxa of the batch",
    "cached": "all taxa, those absent from the batch as they were encoded before",
}


def announcement(trainer: Trainer, resumed: bool) -> str:
    """What will be done, with what, in numbers."""
    config, model = trainer.config, trainer.model_config
    parameters = sum(parameter.numel() for parameter in trainer.plain.parameters())
    observation = sum(parameter.numel() for parameter in trainer.plain.observation_encoder.parameters())
    epochs = trainer.steps * config.batch_size / len(trainer.loader)
    on_cpu = trainer.device.type == "cpu"
    processes = f"{trainer.accelerator.num_processes} {trainer.device.type} process(es)"
    parts = f", {config.micro_batch} at a time" if config.micro_batch else ""
    return (
        f"{'going on with' if resumed else 'training'} {model.name}: {parameters / 1e6:.1f} M parameters "
        f"({observation / 1e6:.2f} M read places), inputs {', '.join(model.observation.inputs)}\n"
        f"data: {len(trainer.samples.train):,} training and {len(trainer.samples.validation):,} validation samples of "
        f"{int((trainer.counts > 0).sum()):,} taxa, split {trainer.samples.split or 'none'}"
        f"{', streamed' if config.stream else ''}; candidates: {_CANDIDATES[trainer.labels.mode]}\n"
        f"steps: {trainer.step:,} to {trainer.steps:,} of {config.batch_size} samples{parts} ({epochs:.1f} epochs) on "
        f"{processes}{f' of {torch.get_num_threads()} threads' if on_cpu else ''}, precision "
        f"{trainer.accelerator.mixed_precision}{', compiled' if config.compile else ''}\n"
        f"arithmetic: {trainer.speed.flops_per_sample / 1e6:,.1f} MFLOP a sample, forward and backward, text included"
    )


def farewell(trainer: Trainer, directory: Path) -> str:
    """What was done, and where it lies."""
    score = trainer.best["validation"]
    best = f"best validation at step {trainer.best['step']}: top-1 {score['top1']:.1%}; " if score else ""
    told = (
        f"{best}{trainer.speed.summary()}{(time.monotonic() - trainer.started) / 60:.1f} minutes; model in {directory}"
    )
    skipped = trainer.loader.tolerance.summary() if hasattr(trainer.loader, "tolerance") else ""
    return f"{told}\n{skipped}" if skipped else told
