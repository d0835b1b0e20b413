"""Cycles from the layers of MODIS MCD12Q2 (version 6.1, 500 m, yearly). N places, Y years."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.prep.phenology.circular import YEAR, circular_median, day_of_year
from geotreeclip.prep.phenology.cycles import Cycle, Cycles, Reason, Source, ordered

__all__ = ["VALID_DAYS", "cycles_from_mcd12q2", "from_mcd12q2"]

VALID_DAYS = (11138, 32766)
"""Valid days since 1970-01-01 (the product's fill is 32767)."""


def from_mcd12q2(days: ArrayLike, num_cycles: ArrayLike, amplitude: ArrayLike | None = None) -> Cycle:
    """The cycle of one place over years; see :func:`cycles_from_mcd12q2`.

    Args:
        days: [Y, 2, 4].
        num_cycles: [Y].
        amplitude: [Y, 2] or None.
    """
    stored = None if amplitude is None else np.asarray(amplitude)[None]
    return cycles_from_mcd12q2(np.asarray(days)[None], np.asarray(num_cycles)[None], stored)[0]


def cycles_from_mcd12q2(days: ArrayLike, num_cycles: ArrayLike, amplitude: ArrayLike | None = None) -> Cycles:
    """The cycles of places: the circular median of each date over the years, put in order from greenup on.

    The first cycle of the product is the cycle, the second the second. The peak, which these layers do not hold, is set
    to the middle between maturity and senescence.

    Args:
        days: [N, Y, 2, 4], days since 1970-01-01 of greenup, maturity, senescence and dormancy in the first and second
            cycle; outside `VALID_DAYS` is missing.
        num_cycles: [N, Y], cycles of each year (0 to 7; anything else is missing).
        amplitude: [N, Y, 2], EVI2 amplitude in units of the index, NaN where missing, or None.

    Returns:
        Cycles with source ``PRODUCT``, or ``NONE`` / ``INVALID`` with the reason. The quality is the share of the years
        that have a cycle, the spread the largest median absolute deviation of a date.
    """
    stored, number = np.asarray(days, dtype=np.int64), np.asarray(num_cycles, dtype=np.int64)
    if stored.ndim != 4 or stored.shape[2:] != (2, 4) or number.shape != stored.shape[:2]:
        raise InputError(f"days have shape {stored.shape}, cycles {number.shape}; give [N, Y, 2, 4] and [N, Y]")
    cycles_there = (number >= 1) & (number <= 7)
    valid = (stored >= VALID_DAYS[0]) & (stored <= VALID_DAYS[1])
    valid = valid & (cycles_there[..., None] & (number[..., None] >= np.array([1, 2])))[..., None]
    day = np.where(valid, day_of_year(np.where(valid, stored, 0).astype("datetime64[D]")), np.nan)
    median, spread = circular_median(np.moveaxis(day, 1, -1))  # [N, 2, 4]
    result = Cycles.empty(len(stored), Reason.NO_PRODUCT)
    for cycle, target in ((0, result.dates), (1, result.second)):
        four = median[:, cycle]
        middle = (four[:, 1] + (four[:, 2] - four[:, 1]) % YEAR / 2) % YEAR
        target[:] = np.stack([four[:, 0], four[:, 1], middle, four[:, 2], four[:, 3]], axis=1)
        bad = ~ordered(target)
        if cycle == 0:
            seen = np.asarray(valid[:, :, 0].all(axis=2), dtype=np.bool_)
            known = np.asarray(~np.isnan(target).any(axis=1))
            result.reason[seen.any(1) & ~known] = Reason.NO_DIRECTION
            result.source[known & bad] = Source.INVALID
            result.reason[known & bad] = Reason.ORDER
            good = known & ~bad
            result.source[good], result.reason[good] = Source.PRODUCT, Reason.NONE
            result.quality[good] = seen[good].mean(1)
            result.spread[good] = spread[good, 0].max(1)
            result.n_cycles[good] = np.round(_mean(np.where(cycles_there, number, np.nan)[good]))
            if amplitude is not None:
                first = np.where(seen, np.asarray(amplitude, dtype=np.float64)[:, :, 0], np.nan)
                result.amplitude[good] = _mean(first[good])
        target[bad] = np.nan
    result.second[np.isnan(result.dates).any(1)] = np.nan
    return result


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without NaN, NaN where all are."""
    count = (~np.isnan(values)).sum(-1)
    return np.asarray(np.where(count > 0, np.nansum(values, -1) / np.maximum(count, 1), np.nan))
