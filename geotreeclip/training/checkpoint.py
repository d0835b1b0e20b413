"""Checkpoints that are there whole or not at all.

A checkpoint is written aside, synced and renamed; the newest complete one is found by name. It holds tensors and plain
values only and is read with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError

__all__ = ["newest_checkpoint", "read_checkpoint", "write_checkpoint"]

_NAME = re.compile(r"step-(\d{9})")


def write_checkpoint(directory: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write the state of a run.

    Args:
        directory: Folder of the run's checkpoints.
        step: Optimizer steps done.
        state: Tensors, numbers, strings, and lists and dicts of these.
        keep: How many of the newest checkpoints stay.

    Returns:
        The new checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:09d}"

    def save(aside: Path) -> None:
        with aside.open("wb") as file:  # torch names its archive after a path, and refuses one with a leading dot
            torch.save(state, file)

    write_atomically(path, save)
    for older in _complete(directory)[:-keep]:
        older.unlink()
    return path


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a folder, or None."""
    found = _complete(directory) if directory.is_dir() else []
    return found[-1] if found else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        DataError: If the file is damaged, or holds anything but tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({error}); remove it to go on from an older one") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: not a checkpoint of this package")
    return state


def _complete(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
