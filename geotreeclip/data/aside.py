"""Files and folders that appear only when they are complete: written aside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geotreeclip.errors import DataError

__all__ = ["folder_aside", "sync_directory", "write_atomically"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then sync and rename it.

    Raises:
        DataError: If it cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def folder_aside(directory: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `directory` at the end of the block, if that ends without an error.

    An older folder of the name is removed only once the new one stands in its place.

    Raises:
        DataError: If it cannot be written.
    """
    aside = directory.with_name(f".partial-{directory.name}")
    older = directory.with_name(f".old-{directory.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
        aside.mkdir(parents=True)
        yield aside
        shutil.rmtree(older, ignore_errors=True)
        if directory.exists():
            directory.rename(older)
        aside.rename(directory)
        shutil.rmtree(older, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{directory}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make renames in a directory last."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
