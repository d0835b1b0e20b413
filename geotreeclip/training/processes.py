"""The processes of a run: Accelerate, precision, trackers and threads, for every kind of training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import KwargsHandler
from torch import nn

__all__ = ["prepare", "start_accelerator"]


class _Settings(Protocol):
    """What the configurations of all kinds of training have."""

    @property
    def precision(self) -> str: ...
    @property
    def trackers(self) -> Sequence[str]: ...
    @property
    def out(self) -> str: ...
    @property
    def threads(self) -> int: ...


def start_accelerator(config: _Settings, handlers: Sequence[KwargsHandler] = ()) -> Accelerator:
    """Start Accelerate for a run.

    Precision "auto" is bfloat16 where the GPU computes it, else float32. The tracker tensorboard is left out, and said
    to be, where it is not installed. On the processor each process gets its share of the cores.

    Args:
        config: The run.
        handlers: Options of what Accelerate wraps.
    """
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    trackers = list(config.trackers)
    if "tensorboard" in trackers:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            trackers.remove("tensorboard")
            print("tensorboard is not installed: no log (pip install 'geotreeclip[train]')", flush=True)
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=trackers or None,
        project_dir=config.out,
        kwargs_handlers=list(handlers) or None,
    )
    if accelerator.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(config.threads or max(1, cores // accelerator.num_processes))
        torch.set_flush_denormal(True)  # vanishing moments of AdamW would be computed in slow motion
    return accelerator


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """`accelerator.prepare`, without torch's advice on an option that Accelerate still gives under its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        prepared: tuple[nn.Module, torch.optim.Optimizer] = accelerator.prepare(model, optimizer)
    return prepared
