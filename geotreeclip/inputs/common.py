"""What the readers of user input share: warnings, how samples are named in messages, plain arrays."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError

__all__ = ["InputWarning", "SampleNamer", "listed", "sample_number", "to_masked_array", "warn"]

SampleNamer = Callable[[int], str]
"""Row number -> how a message names that sample ("sample 3", "row 5 (plot-17)")."""


class InputWarning(UserWarning):
    """Input that was accepted but looks odd; the message says what to check."""


def sample_number(index: int) -> str:
    """The default way to name a sample in a message."""
    return f"sample {index}"


def warn(message: str) -> None:
    """Issue an `InputWarning` that points at the first caller outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("geotreeclip."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, InputWarning, stacklevel=level)


def listed(items: Iterable[object], limit: int = 10) -> str:
    """Join for a message: the first `limit` items, then how many more."""
    texts = [str(item) for item in items]
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


def to_masked_array(values: Any, what: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Turn an array-like, a torch tensor or a numpy masked array into a numeric array and its mask.

    Args:
        values: Anything that numpy can read as numbers.
        what: Name of the argument, for the message.

    Returns:
        The values, and True where a masked array hides a value (None without a mask).

    Raises:
        InputError: If the values are not numbers, or nested lists of unequal length.
    """
    if hasattr(values, "detach"):  # a torch tensor, recognised without importing torch
        values = values.detach().cpu().numpy()
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":  # None among numbers, as in columns of a table
            array = array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} cannot be read as an array of numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{what} must hold numbers, got {array.dtype.name}")
    return array, mask
