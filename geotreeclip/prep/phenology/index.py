"""EVI2 of a place from red and near infrared, and series made ready for a fit. N samples, T steps, H W pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.prep.phenology.circular import YEAR
from geotreeclip.schema import MISSING_DN, MONTH_DAYS, MONTHS, REFLECTANCE_SCALE

__all__ = ["MONTH_MIDDLES", "composite", "evi2", "evi2_of_patches", "screen_spikes", "step_middles"]

EVI2_RANGE = (-0.05, 1.2)
"""Values outside are water, snow, cloud or error."""

SPIKE = 0.15
"""Red reflectance by which a step must be brighter than both valid neighbours to be a spike. Of the 500 monthly series
of WorldCereal (presto-worldcereal 84d38e6) about a fifth hold one; crops and snow-free soil stay below."""


def step_middles(days: ArrayLike) -> NDArray[np.float64]:
    """Middle of time steps, days in [0, 365).

    Args:
        days: [..., 2], first and last day, days of a 365-day year counted from 1, both inclusive (as stored in shards).
    """
    first, last = np.moveaxis(np.asarray(days, dtype=np.float64), -1, 0)
    length = (last - first) % YEAR + 1
    return np.asarray((first - 1 + length / 2) % YEAR)


MONTH_MIDDLES = step_middles(MONTH_DAYS)
"""15.5, 45, 74.5 ...: the time stamp of a monthly median. The true days are unknown, an error of days."""


def evi2(red: ArrayLike, nir: ArrayLike) -> NDArray[np.float64]:
    """EVI2 = 2.5 (N - R) / (N + 2.4 R + 1) of reflectances (Jiang et al. 2008), any shape.

    Missing where a reflectance is, where N + R <= 0, and outside -0.05 to 1.2.
    """
    r, n = np.asarray(red, dtype=np.float64), np.asarray(nir, dtype=np.float64)
    usable = n + r > 0  # False for NaN
    index = 2.5 * (n - r) / np.where(usable, n + 2.4 * r + 1, 1.0)
    return np.where(usable & (index >= EVI2_RANGE[0]) & (index <= EVI2_RANGE[1]), index, np.nan)


def evi2_of_patches(red: ArrayLike, nir: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """EVI2 and red reflectance of places from digital numbers: the median over the pixels that are valid.

    Args:
        red: [N, T, H, W], digital numbers, 65535 or NaN where missing, offset removed.
        nir: [N, T, H, W].

    Returns:
        EVI2 [N, T] and red reflectance [N, T], NaN where no pixel is valid.
    """
    bands = []
    for band in (red, nir):
        values = np.asarray(band, dtype=np.float64)
        if values.ndim != 4:
            raise InputError(f"patches have shape {values.shape}; give [N, T, H, W]")
        bands.append(np.where(values == MISSING_DN, np.nan, values).reshape(*values.shape[:2], -1) / REFLECTANCE_SCALE)
    index = evi2(*bands)
    return _median(index), _median(np.where(np.isnan(index), np.nan, bands[0]))


def screen_spikes(values: ArrayLike, red: ArrayLike, threshold: float = SPIKE) -> NDArray[np.float64]:
    """Series without single bright spikes: clouds that a mask missed.

    A step goes if its red reflectance exceeds that of the valid steps before and after it (round the year) by more than
    the threshold.

    Args:
        values: [N, T], EVI2.
        red: [N, T], red reflectance.
        threshold: Reflectance.

    Returns:
        [N, T], NaN at spikes.
    """
    index, bright = np.asarray(values, dtype=np.float64), np.asarray(red, dtype=np.float64)
    bright = np.where(np.isnan(index), np.nan, bright)
    before, after = np.full(bright.shape, np.nan), np.full(bright.shape, np.nan)
    for shift in range(1, bright.shape[1]):
        before = np.where(np.isnan(before), np.roll(bright, shift, axis=1), before)
        after = np.where(np.isnan(after), np.roll(bright, -shift, axis=1), after)
    return np.where(bright - np.fmax(before, after) > threshold, np.nan, index)


def composite(
    values: ArrayLike, days: ArrayLike, bins: int = MONTHS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A series of any dates as one year of medians.

    A curve through every single look would follow its noise, and several years have to become one.

    Args:
        values: [N], NaN where missing.
        days: [N], day of the year.
        bins: Equal parts of the year. Twelve outvote a single cloud shadow that a mask missed, more do not.

    Returns:
        Median [bins], NaN in empty parts, and the mean day of the looks in each (its middle where it is empty).
    """
    value, day = np.asarray(values, dtype=np.float64), np.asarray(days, dtype=np.float64)
    if value.shape != day.shape or value.ndim != 1:
        raise InputError(f"values {value.shape} and days {day.shape} must be two rows of one length")
    usable = ~(np.isnan(value) | np.isnan(day))
    value, day = value[usable], day[usable] % YEAR
    place = np.minimum((day / YEAR * bins).astype(np.int64), bins - 1)
    medians = np.full(bins, np.nan)
    stamps = (np.arange(bins) + 0.5) * YEAR / bins
    for number in np.unique(place):
        medians[number], stamps[number] = np.median(value[place == number]), day[place == number].mean()
    return medians, stamps


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the last axis without NaN, NaN where all are; sorted NaN come last."""
    order = np.sort(values, axis=-1)
    count = (~np.isnan(values)).sum(-1)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[-1] - 1)
    ends = [np.take_along_axis(order, at[..., None], axis=-1)[..., 0] for at in (low, high)]
    return np.asarray((ends[0] + ends[1]) / 2)
