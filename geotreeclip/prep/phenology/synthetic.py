"""Years of vegetation with known dates, to measure the fit by. N places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.phenology.circular import YEAR
from geotreeclip.schema import MONTH_DAYS

__all__ = ["DoubleLogistic", "double_logistic", "monthly_medians"]

REVISIT = 5.0
"""Days between looks of the two Sentinel-2 satellites."""


@dataclass(frozen=True, slots=True)
class DoubleLogistic:
    """Years of vegetation and their dates.

    Attributes:
        daily: [N, 3650], EVI2 at tenths of a day.
        dates: [N, 5], greenup, maturity, peak, senescence and dormancy by 15 and 90 % of the amplitude.
    """

    daily: NDArray[np.float64]
    dates: NDArray[np.float64]


def double_logistic(number: int, seed: int) -> DoubleLogistic:
    """Draw years: greenup anywhere in the year (both hemispheres, New Year included), seasons of 130 to 230 days.

    The curve is base + amplitude (1 / (1 + exp(-r (t - a))) - 1 / (1 + exp(-s (t - b)))) with base 0.05 to 0.2,
    amplitude 0.25 to 0.55 and rates 0.05 to 0.12 a day.
    """
    rng = np.random.default_rng(seed)
    base, height = rng.uniform(0.05, 0.2, number), rng.uniform(0.25, 0.55, number)
    rise, fall = rng.uniform(0.05, 0.12, (2, number))
    length = rng.uniform(130, 230, number)
    time = np.arange(0, YEAR, 0.1) - (YEAR - length[:, None]) / 2  # a year that starts and ends in the low season
    shape = 1 / (1 + np.exp(-rise[:, None] * time)) - 1 / (1 + np.exp(-fall[:, None] * (time - length[:, None])))
    curve = base[:, None] + height[:, None] * shape
    dates = np.empty((number, 5))
    top = curve.argmax(1)
    rows = np.arange(number)
    for columns, side in (((0, 1), -1), ((4, 3), 1)):
        for column, share in zip(columns, (0.15, 0.90), strict=True):
            low = np.where(np.arange(curve.shape[1]) * side > (top * side)[:, None], curve, np.inf).min(1)
            above = curve >= (low + share * (curve[rows, top] - low))[:, None]
            dates[:, column] = above.argmax(1) if side < 0 else curve.shape[1] - 1 - above[:, ::-1].argmax(1)
    dates[:, 2] = top
    start = rng.integers(0, 3650, number)
    daily = np.stack([np.roll(row, shift) for row, shift in zip(curve, start, strict=True)])
    return DoubleLogistic(daily, (dates + start[:, None]) / 10 % YEAR)


def monthly_medians(
    daily: NDArray[np.float64], seed: int, *, noise: float = 0.0, clear: float = 1.0, missing: int = 0
) -> NDArray[np.float64]:
    """What a sensor makes of years: medians of the clear looks of each month, [N, 12], NaN where there is none.

    Args:
        daily: [N, 3650].
        seed: Of the dates, the clouds and the noise.
        noise: Standard deviation of a look.
        clear: Chance that a look is clear.
        missing: Further months that are lost in each year.
    """
    rng = np.random.default_rng(seed)
    number = len(daily)
    day = (rng.uniform(0, REVISIT, (number, 1)) + np.arange(0, YEAR, REVISIT)) % YEAR
    look = np.take_along_axis(daily, (day * 10).astype(int) % 3650, 1) + rng.normal(0, noise, day.shape)
    look[rng.random(day.shape) >= clear] = np.nan
    months = np.full((number, 12), np.nan)
    for month, (first, last) in enumerate(MONTH_DAYS):
        part = np.where((day >= first - 1) & (day < last), look, np.nan)
        some = ~np.isnan(part).all(1)
        months[some, month] = np.nanmedian(part[some], axis=1)
    for row in range(number if missing else 0):
        months[row, rng.choice(12, missing, replace=False)] = np.nan
    return months
