"""Checkpoints that are there whole or not at all.

A checkpoint is written aside, synced and renamed; what a crash of the machine or a bad disk still damages is found by
the checksums of its parts. It holds tensors and plain values only and is read with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
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
    # Only now, with a newer one safely there; and never those of a later step that an earlier run left.
    for older in [found for found in _named(directory) if found <= path][:-keep]:
        older.unlink(missing_ok=True)
    return path


def newest_checkpoint(directory: Path, tell: Callable[[str], None] = print) -> Path | None:
    """The newest checkpoint of a folder that is whole, or None.

    What an interrupted write left is removed.

    Args:
        directory: Folder of the run's checkpoints.
        tell: Receives a line for each damaged one that is passed over.

    Raises:
        DataError: If there are checkpoints but all are damaged.
    """
    if not directory.is_dir():
        return None
    for partial in directory.glob(".partial-step-*"):
        partial.unlink(missing_ok=True)
    found = _named(directory)
    for path in reversed(found):
        fault = _damage(path)
        if not fault:
            return path
        tell(f"{path}: damaged ({fault}), passed over for an older one")
    if found:
        raise DataError(
            f"{directory}: all {len(found)} checkpoints are damaged; check the disk, remove them and start anew"
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        DataError: If the file is damaged, or holds anything but tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError, KeyError, TypeError) as error:
        # The first line says what was met; the rest of torch's message advises to load it unsafely.
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a readable checkpoint ({detail:.200}); remove it and start anew") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: not a checkpoint of this package")
    return state


def _named(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _damage(path: Path) -> str:
    """What is wrong with the file as a zip archive, "" if every part agrees with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        return str(error)
    return f"checksum of {broken}" if broken else ""
