"""Days on a year that closes on itself.

A day is a real number in [0, 365): 0 is the first moment of 1 January, 15.5 the middle of January. N samples, Y years.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MIN_RESULTANT", "YEAR", "circular_mean", "circular_median", "day_of_year", "wrap"]

YEAR = 365.0
"""Days of a year; 29 February shares the day of 28 February."""

MIN_RESULTANT = 0.3
"""Below this mean resultant length, days point in all directions and have no middle."""


def wrap(difference: ArrayLike) -> NDArray[np.float64]:
    """Differences of days as the shorter way round, in [-182.5, 182.5)."""
    return np.asarray((np.asarray(difference, dtype=np.float64) + YEAR / 2) % YEAR - YEAR / 2)


def day_of_year(dates: ArrayLike) -> NDArray[np.float64]:
    """Day of the year, [N], of dates (``datetime64``), NaN where a date is missing: noon of the calendar day.

    The same month and day are the same number in every year: 29 February is counted as 28 February.
    """
    date = np.asarray(dates, dtype="datetime64[D]")
    years = date.astype("datetime64[Y]")
    day = (date - years.astype("datetime64[D]")).astype(np.float64)
    number = years.astype(np.int64) + 1970
    leap = (number % 4 == 0) & ((number % 100 != 0) | (number % 400 == 0))
    return np.where(np.isnat(date), np.nan, day - (leap & (day >= 59)) + 0.5)


def circular_mean(days: ArrayLike, weights: ArrayLike | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean day over the last axis, and the mean resultant length (1: all agree; 0: no direction).

    Args:
        days: [..., Y], NaN where missing.
        weights: Of the same shape, or None for equal ones.

    Returns:
        Mean in [0, 365), NaN where no day is there or the resultant is shorter than `MIN_RESULTANT`; and the resultant.
    """
    values = np.asarray(days, dtype=np.float64)
    weight = np.where(np.isnan(values), 0.0, 1.0 if weights is None else np.asarray(weights, dtype=np.float64))
    angle = np.exp(2j * np.pi * np.nan_to_num(values) / YEAR)
    total = weight.sum(-1)
    mean = (weight * angle).sum(-1) / np.where(total > 0, total, 1.0)
    length = np.abs(mean)
    day = np.angle(mean) * YEAR / (2 * np.pi) % YEAR % YEAR  # a tiny negative angle rounds up to 365 the first time
    return np.where((total > 0) & (length >= MIN_RESULTANT), day, np.nan), length


def circular_median(days: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median day over the last axis, and its spread.

    With mu the circular mean, the median is mu + median(wrap(d - mu)), so days around New Year have a median there.

    Args:
        days: [..., Y], NaN where missing.

    Returns:
        Median in [0, 365) and median absolute deviation, both NaN where there is no day or no direction.
    """
    values = np.asarray(days, dtype=np.float64)
    mean, _ = circular_mean(values)
    offset = wrap(values - mean[..., None])
    defined = ~np.isnan(mean)
    middle, spread = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    if defined.any():
        middle[defined] = np.nanmedian(offset[defined], axis=-1)
        spread[defined] = np.nanmedian(np.abs(offset[defined] - middle[defined, None]), axis=-1)
    return (mean + middle) % YEAR % YEAR, spread
