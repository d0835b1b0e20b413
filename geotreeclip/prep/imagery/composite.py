"""Monthly medians of the clear looks at a place, with what they were made of.

L looks (one acquisition each), N points, T 12 months, C 10 bands, H W 5 x 5 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH

__all__ = ["Composites", "Look", "median"]


@dataclass(frozen=True, slots=True)
class Look:
    """One acquisition seen at some of the points.

    Attributes:
        rows: Which points, int64 [K], each once.
        values: Digital numbers, offset removed, NaN where not clear, float32 [K, C, H, W].
        clear: Pixels seen clear and free of snow, bool [K, H, W].
        snow: Pixels seen clear and under snow, bool [K, H, W].
        clipped: Values raised to 1, int64 [K].
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    clear: NDArray[np.bool_]
    snow: NDArray[np.bool_]
    clipped: NDArray[np.int64]


@dataclass(slots=True)
class Composites:
    """A year of N points.

    Attributes:
        images: uint16 [N, T, C, H, W], 65535 where missing.
        scenes: Acquisitions that gave at least one value of the month, int16 [N, T].
        snow: Share of the clear pixels of all looks of the month that were snow, NaN without a clear pixel, [N, T].
        clipped: Values below 1 that were raised to it, int32 [N].
    """

    images: NDArray[np.uint16]
    scenes: NDArray[np.int16]
    snow: NDArray[np.float32]
    clipped: NDArray[np.int32]

    @classmethod
    def empty(cls, points: int) -> Composites:
        """Nothing seen yet."""
        return cls(
            np.full((points, MONTHS, len(BANDS), PATCH, PATCH), MISSING_DN, np.uint16),
            np.zeros((points, MONTHS), np.int16),
            np.full((points, MONTHS), np.nan, np.float32),
            np.zeros(points, np.int32),
        )

    def found(self) -> NDArray[np.bool_]:
        """Which points have at least one value, [N]."""
        return np.asarray(np.any(self.scenes > 0, axis=1))

    def put(self, rows: NDArray[Any], other: Composites) -> None:
        """Take over other composites at some of the points."""
        self.images[rows], self.scenes[rows] = other.images, other.scenes
        self.snow[rows], self.clipped[rows] = other.snow, other.clipped

    def add_month(self, month: int, looks: Iterable[Look]) -> None:
        """Set a month from its looks.

        Args:
            month: 0 for January.
            looks: Its acquisitions, each once.
        """
        kept = [look for look in looks if len(look.rows)]
        if not kept:
            return
        points = np.unique(np.concatenate([look.rows for look in kept]))
        stack = np.full((len(kept), len(points), len(BANDS), PATCH, PATCH), np.nan, np.float32)
        clear, snow = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
        for number, look in enumerate(kept):
            at = np.searchsorted(points, look.rows)
            stack[number, at] = look.values
            clear[at] += look.clear.sum(axis=(1, 2))
            snow[at] += look.snow.sum(axis=(1, 2))
            self.clipped[look.rows] += look.clipped.astype(np.int32)
        gave = ~np.isnan(stack).all(axis=(2, 3, 4))  # [L, N]
        self.scenes[points, month] = gave.sum(axis=0)
        with np.errstate(invalid="ignore"):
            self.snow[points, month] = snow / np.where(clear + snow == 0, np.nan, clear + snow)
        middle = median(stack)
        self.images[points, month] = np.where(np.isnan(middle), MISSING_DN, np.rint(middle)).astype(np.uint16)


def median(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over the first axis of the values that are not NaN, NaN where there are none.

    Of an even number it is the mean of the middle two. Composites are rounded to integers after it, halves to the
    even one (:func:`numpy.rint`), so that rounding has no bias.

    Args:
        stack: [L, ...].
    """
    ordered = np.sort(stack, axis=0)  # NaN last
    count = (~np.isnan(ordered)).sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(stack) - 1)[None], axis=0)[0]
    result: NDArray[np.float32] = np.where(count > 0, (low + high) / 2, np.nan).astype(np.float32)
    return result
