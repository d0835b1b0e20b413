"""What the pixels of a stack are worth: digital numbers or reflectance, offset, no data; told once for the whole stack.

Were it told tile by tile, a tile of lake or of snow would be read on another scale than its neighbour.

Shapes: T months, C bands, H W pixels of a window, P pixels looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.inputs.scale import to_digital_numbers
from geotreeclip.mapping.stack import Stack
from geotreeclip.schema import BANDS, MISSING_DN, REFLECTANCE_SCALE

__all__ = ["Reading", "find_reading"]

_BLOCKS, _SIDE = 4, 48  # windows along each side of the stack that are looked at, and their pixels
_LOWEST = -1000.0  # digital numbers; reflectance below -0.1 does not occur


@dataclass(frozen=True)
class Reading:
    """How stored values become digital numbers (reflectance x 10,000), as `build_observations` does it.

    Attributes:
        scale: "dn" or "reflectance".
        offset: Digital numbers to take away.
        nodata: Values that mean missing beside NaN and 65535.
    """

    scale: str
    offset: float
    nodata: tuple[float, ...]

    def known(self, stored: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which of the values [T, C, H, W] are there; a pixel that is 0 in all bands is fill."""
        valid: NDArray[np.bool_] = np.isfinite(stored)
        for value in (MISSING_DN, *self.nodata):
            valid &= stored != np.float32(value)
        if stored.shape[1] > 1:
            valid &= ((stored != 0) & valid).any(axis=1, keepdims=True)
        return valid

    def digital_numbers(self, stored: NDArray[np.float32], where: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Digital numbers [T, C, H, W], 0 where missing, and whether each is there.

        Args:
            stored: As read.
            where: Names the window in messages.

        Raises:
            DataError: If a value cannot be one of an image; each value is judged by itself, whatever the window.
        """
        valid = self.known(stored)
        values = np.where(valid, stored, np.float32(0))
        if self.scale == "reflectance":
            values *= np.float32(REFLECTANCE_SCALE)
        for extreme, wrong in ((values.max(initial=0), values.max(initial=0) >= MISSING_DN),
                               (values.min(initial=0), values.min(initial=0) < _LOWEST)):  # fmt: skip
            if wrong:
                raise DataError(
                    f"{where}: holds a value of {extreme:.6g} digital numbers, which no image does; if it marks no "
                    "data, pass it as --nodata (in the units of the file)"
                )
        values -= np.float32(self.offset)
        np.maximum(values, np.float32(1), out=values)
        values[~valid] = 0
        return values, valid


def find_reading(stack: Stack, *, scale: str = "auto", offset: float = 0.0, nodata: tuple[float, ...] = ()) -> Reading:
    """Tell the scale of a stack from windows spread over it.

    Args:
        stack: The stack.
        scale: "auto", "dn" or "reflectance".
        offset: Digital numbers to take away.
        nodata: Values that mean missing.

    Raises:
        InputError: If the values cannot be what `scale` and `offset` say.
        DataError: If all windows are empty and the scale is not given.
    """
    reading = Reading("dn", offset, nodata)
    parts = []
    for top in _starts(stack.grid.height):
        for left in _starts(stack.grid.width):
            bottom, right = min(top + _SIDE, stack.grid.height), min(left + _SIDE, stack.grid.width)
            part = stack.read(top, bottom, left, right)
            valid = reading.known(part)
            some = valid.any(axis=(0, 1)).ravel()
            flat = np.where(valid, part, np.nan).reshape(*part.shape[:2], -1)
            parts.append(flat[..., some])
    seen = np.concatenate(parts, axis=2)[:, :, None, :]  # [T, C, 1, P]
    if not seen.size:
        if scale == "auto":
            raise DataError(
                f"{stack.location}: no valid pixel in {_BLOCKS * _BLOCKS} windows spread over it, so the scale of its "
                'values cannot be told; if there is data elsewhere, say --scale "dn" or "reflectance"'
            )
        return Reading(scale, offset, nodata)
    valid = np.isfinite(seen)
    values = np.where(valid, seen, np.float32(0)).astype(np.float32)
    slots = [BANDS.index(band) for band in stack.bands]
    numbers = to_digital_numbers(
        values[None], valid[None], slots, scale=scale, offset=offset, name=lambda _: stack.location
    )
    # Reflectance times 10,000 is more than it was, digital numbers without their offset are not.
    grew = float(numbers.max()) > float(values.max())
    return Reading("reflectance" if grew else "dn", offset, nodata)


def _starts(length: int) -> list[int]:
    """First pixels of windows spread evenly along a side."""
    last = max(0, length - _SIDE)
    return sorted({round(last * part / (_BLOCKS - 1)) for part in range(_BLOCKS)})
