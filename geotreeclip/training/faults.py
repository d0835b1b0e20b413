"""A loss or gradient that is not finite stops the run, and everything needed to look into it is saved.

Looking at every loss would make the host wait for the device at every step. So the device itself remembers the first
step that went wrong and, from there on, holds back every update; the host asks now and then, finds the weights as they
were when it happened, and saves them with the batch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from geotreeclip.data.packed import PackedBatch
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError
from geotreeclip.observations import ObservationBatch

__all__ = ["Fault", "FiniteGuard", "save_fault"]


_LEAST_SCALE = 2.0**-10
"""Sixteen-bit floats reach 65,504: a sound gradient needs no scale as small as this."""


class Fault(NamedTuple):
    """The first step that went wrong.

    Attributes:
        step: Counted from 0.
        loss: Its loss.
        norm: The norm of its gradient.
    """

    step: int
    loss: float
    norm: float

    @property
    def what(self) -> str:
        """What is wrong, in words."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return f"the gradient has norm {self.norm} (the loss is {self.loss:.4g})"


class FiniteGuard:
    """Watches losses and gradients on the device.

    Args:
        accelerator: The processes.
        optimizer: AdamW, fused: it makes no update where its `found_inf` is 1, and nobody has to wait to know.
    """

    def __init__(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator = accelerator
        self.optimizer = optimizer
        self.scaled = accelerator.scaler is not None
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._first = torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float32, device=self.accelerator.device)

    def watch(self, loss: Tensor, norm: Tensor, step: int) -> Tensor:
        """Take in a step before its update; all processes agree.

        Args:
            loss: This process's share of the loss.
            norm: Norm of the whole gradient.
            step: The step, from 0.

        Returns:
            The whole loss.
        """
        whole: Tensor = self.accelerator.reduce(loss.float(), reduction="sum")
        wrong = ~whole.isfinite()
        if not self.scaled:  # loss scaling expects gradients that overflow, and lowers its scale
            wrong = wrong | ~norm.isfinite()
        seen = torch.stack([torch.full_like(self._first[0], step), whole, norm.float()])
        self._first = torch.where(wrong & (self._first[0] < 0), seen, self._first)
        if not self.scaled:
            self.optimizer.found_inf = (self._first[0] >= 0).float()  # type: ignore[attr-defined]
        return whole

    def check_scale(self) -> None:
        """Loss scaling passes over updates that overflow, which is meant for the first steps, not for ever.

        Raises:
            DataError: If gradients overflow whatever the scale.
        """
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() < _LEAST_SCALE:
            raise DataError(
                f"gradients overflow 16-bit numbers even with the loss scaled by {scaler.get_scale():g}: no update is "
                "made any more; use --precision bf16 or no, or lower --optimizer.learning_rate"
            )

    def fault(self) -> Fault | None:
        """The first step that went wrong, or None; waits for the device."""
        step, loss, norm = self._first.tolist()
        return Fault(int(step), loss, norm) if step >= 0 else None


def save_fault(
    out: Path,
    fault: Fault,
    accelerator: Accelerator,
    packed: PackedBatch,
    sample_ids: list[str],
    batch: ObservationBatch,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    variable_mean: Tensor,
    variable_deviation: Tensor,
) -> DataError:
    """Save what a fault happened with; every process saves its share of the batch.

    `OUT/nonfinite-step-N/` holds `fault.json` (step, loss, norm, configuration), `weights.safetensors` (before the
    step), and for each process `batch-R.json` (rows, sample ids, taxa, and the largest variable of each sample in
    deviations) and `batch-R.safetensors` (stored values under `packed/`, what the model read under `seen/`).

    Args:
        out: Folder of the run.
        fault: What happened.
        accelerator: The processes.
        packed: The stored values.
        sample_ids: Their ids.
        batch: What augmentation made of them.
        config: The run.
        weights: Of the model, before the step.
        variable_mean: [V] of the training samples.
        variable_deviation: [V] of the training samples.

    Returns:
        The error to raise.
    """
    folder = out / f"nonfinite-step-{fault.step:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    rank = accelerator.process_index
    tensors = {f"seen/{name}": value for name, value in batch._asdict().items()}
    tensors |= {
        f"packed/{name}": torch.from_numpy(np.asarray(value))
        for name, value in packed._asdict().items()
        if value is not None
    }
    distance = (batch.environment - variable_mean).abs() / variable_deviation * batch.environment_valid
    account = {
        "rank": rank,
        "rows": packed.index.tolist(),
        "sample_ids": sample_ids,
        "taxa": packed.taxon.tolist(),
        "largest_variable": distance.amax(1).tolist(),
    }
    _save(folder / f"batch-{rank}.safetensors", tensors)
    _write(folder / f"batch-{rank}.json", account)
    if accelerator.is_main_process:
        _save(folder / "weights.safetensors", weights)
        broken = sorted(
            name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()
        )
        told = {"step": fault.step, "loss": repr(fault.loss), "gradient_norm": repr(fault.norm)}
        _write(folder / "fault.json", {**told, "weights_not_finite": broken, "config": config})
    accelerator.wait_for_everyone()
    return DataError(
        f"{fault.what} at step {fault.step}, samples {', '.join(sample_ids[:3])}...; stopped before the update. The "
        f"batch, the weights and the configuration are in {folder}; the newest checkpoint is from before. Lower "
        "--optimizer.learning_rate, or look for extreme values in the batch"
    )


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, lambda aside: save_file(plain, aside))


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1, allow_nan=True)
    write_atomically(path, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))
