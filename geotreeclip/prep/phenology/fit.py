"""Cycles from EVI2 series. N places, T steps; n of them share K valid observations, and are computed at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.prep.phenology import curve
from geotreeclip.prep.phenology.circular import YEAR
from geotreeclip.prep.phenology.cycles import Cycle, Cycles, PhenologyConfig, Reason, Source, ordered
from geotreeclip.prep.phenology.index import composite

__all__ = ["fill_winter", "fit_cycle", "fit_cycles", "fitted_curve", "noon_sun"]

MOST_STEPS = 24
"""A series of more steps is made one of monthly medians first."""

WINTER_LATITUDE = 45.0
WINTER_SUN = 20.0
WINTER_QUANTILE = 0.05
SOLSTICE = {True: 354.5, False: 171.5}
"""Middle of 21 December (north) and of 21 June (south), days."""

CONTRAST = 0.1
"""Amplitude, EVI2, that gives half of the quality."""

NEAR_DAYS = 32.0
"""An observation stands for so many days: with one in every month, the whole year is near one."""


def fit_cycle(
    values: ArrayLike, days: ArrayLike, latitude: float | None = None, config: PhenologyConfig | None = None
) -> Cycle:
    """The cycle of one place; see :func:`fit_cycles`.

    Args:
        values: [T], EVI2, NaN where missing; any number of dates, of one year or several.
        days: [T], day of the year of each, in [0, 365).
        latitude: Degrees, or None to fill no winter.
        config: Options.
    """
    value, day = np.atleast_1d(np.asarray(values, np.float64)), np.atleast_1d(np.asarray(days, np.float64))
    if value.shape != day.shape or value.ndim != 1:
        raise InputError(f"values {value.shape} and days {day.shape} must be two rows of one length")
    if len(value) > MOST_STEPS or len(np.unique(day)) < len(day):
        value, day = composite(value, day)
    return fit_cycles(value[None], day, None if latitude is None else np.array([latitude]), config)[0]


def fit_cycles(
    values: ArrayLike,
    days: ArrayLike,
    latitude: ArrayLike | None = None,
    config: PhenologyConfig | None = None,
) -> Cycles:
    """The cycles of many places from series of one year.

    A periodic curve runs through the observations (:mod:`.curve`). Peaks count from a circular prominence of
    ``max(min_amplitude, rel_amplitude (max - min))`` on; the one of the largest amplitude is the cycle (of equal ones
    the earlier), the next is kept as second. Rise and fall have amplitudes of their own: greenup and maturity are the
    first crossings of 15 and 90 % on the way up from the valley before the peak, senescence and dormancy the last
    crossings of 90 and 15 % on the way down to the valley after it.

    Args:
        values: [N, T], EVI2, NaN where missing.
        days: [T] or [N, T], day of the year of each step in [0, 365), distinct.
        latitude: [N], degrees, or None to fill no winter.
        config: Options.

    Returns:
        Cycles with source ``OBSERVED``, or ``NONE`` with the reason.

    Raises:
        InputError: Shapes do not go together, or a place has two observations on one day.
    """
    config = config or PhenologyConfig()
    value = np.array(values, dtype=np.float64)
    if value.ndim != 2:
        raise InputError(f"values have shape {value.shape}; give [N, T]")
    day = np.asarray(days, dtype=np.float64)
    if day.shape not in (value.shape, value.shape[1:]):
        raise InputError(f"days have shape {day.shape}; give {value.shape[1:]} or {value.shape}")
    day = np.broadcast_to(day, value.shape) % YEAR
    order = np.argsort(day, axis=1, kind="stable")
    day, value = np.take_along_axis(day, order, 1), np.take_along_axis(value, order, 1)
    wrong = np.isnan(day).any(1) | (np.diff(day, axis=1) <= 0).any(1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"place {row}: two steps on one day of the year, or a day that is no number; composite() first"
        )
    filled = np.zeros(value.shape, dtype=bool)
    if config.winter_fill and latitude is not None:
        value, filled = fill_winter(value, day, np.asarray(latitude, dtype=np.float64))
    valid = ~np.isnan(value)
    result = Cycles.empty(len(value))
    result.filled[:] = filled.sum(1)
    result.reason[(valid & ~filled).sum(1) < config.min_valid] = Reason.TOO_FEW
    count = valid.sum(1)
    for number in np.unique(count[result.reason == Reason.NONE]):
        rows = np.flatnonzero((count == number) & (result.reason == Reason.NONE))
        pick = np.argsort(~valid[rows], axis=1, kind="stable")[:, :number]
        known_day = np.take_along_axis(day[rows], pick, 1)
        known_value = np.take_along_axis(value[rows], pick, 1)
        longest = curve.gaps(known_day).max(1)
        if config.smoother == "binomial":
            known_day, known_value = day[rows], _binomial(known_day, known_value, day[rows])
        _fit(result, rows, known_day, known_value, config)
        result.quality[rows] *= _near_share(day[rows], valid[rows] & ~filled[rows])
        gone = rows[longest > config.max_gap_days]
        _forget(result, gone, Reason.GAP)
    return result


def fitted_curve(
    values: ArrayLike, days: ArrayLike, latitude: float | None, at: ArrayLike, config: PhenologyConfig | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The curve that `fit_cycles` puts through one series, to draw it.

    Args:
        values: [T], EVI2, NaN where missing.
        days: [T], distinct days of the year in [0, 365).
        latitude: Degrees, or None to fill no winter.
        at: [M] days.
        config: Options.

    Returns:
        The curve [M], NaN where there is nothing to fit, and which steps were filled as polar winter [T].
    """
    config = config or PhenologyConfig()
    day, value = np.asarray(days, dtype=np.float64) % YEAR, np.asarray(values, dtype=np.float64)
    order = np.argsort(day)
    day, value = day[order][None], value[order][None]
    filled = np.zeros(value.shape, dtype=bool)
    if config.winter_fill and latitude is not None:
        value, filled = fill_winter(value, day, np.array([latitude], dtype=np.float64))
    valid = ~np.isnan(value[0])
    back = np.empty(len(order), dtype=bool)
    back[order] = filled[0]
    when = np.asarray(at, dtype=np.float64)
    if valid.sum() < 2:
        return np.full(len(when), np.nan), back
    known_day, known = day[:, valid], value[:, valid]
    if config.smoother == "binomial":
        known_day, known = day, _binomial(known_day, known, day)
    return curve.evaluate(known_day, known, when)[0], back


def noon_sun(day: ArrayLike, latitude: ArrayLike) -> NDArray[np.float64]:
    """Elevation of the sun at noon, degrees: 90 - |latitude - declination|.

    The declination is 23.44 sin(2 pi (284 + n) / 365) degrees, n the day of the year counted from 1 (Cooper 1969).
    """
    number = np.asarray(day, dtype=np.float64) + 0.5  # our days count from the first moment: noon of day n is n - 0.5
    declination = 23.44 * np.sin(2 * np.pi * (284 + number) / YEAR)
    return np.asarray(90 - np.abs(np.asarray(latitude, dtype=np.float64) - declination))


def fill_winter(
    values: NDArray[np.float64], days: NDArray[np.float64], latitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fill missing polar winters with the 5th percentile of the valid values.

    Only beyond 45 degrees, only steps with the noon sun below 20 degrees, and only in a run of missing steps round the
    winter solstice: what is missing for other reasons stays missing, and the tropics are never filled.

    Args:
        values: [N, T].
        days: [N, T], ascending.
        latitude: [N], degrees.

    Returns:
        Values, and which were filled, both [N, T].
    """
    missing = np.asarray(np.isnan(values))
    north = latitude > 0
    solstice = np.where(north, SOLSTICE[True], SOLSTICE[False])
    ends = (days + np.roll(days, -1, axis=1) + YEAR * (np.arange(days.shape[1]) == days.shape[1] - 1)) / 2
    span = (ends - np.roll(ends, 1, axis=1)) % YEAR if days.shape[1] > 1 else np.full(days.shape, YEAR)
    run = missing & ((solstice[:, None] - np.roll(ends, 1, axis=1)) % YEAR < span)  # the step that holds the solstice
    for _ in range(days.shape[1]):
        run |= missing & (np.roll(run, 1, axis=1) | np.roll(run, -1, axis=1))
    fill = run & (np.abs(latitude) > WINTER_LATITUDE)[:, None] & (noon_sun(days, latitude[:, None]) < WINTER_SUN)
    fill &= ~missing.all(axis=1, keepdims=True)
    some = np.flatnonzero(np.asarray(fill.any(1)))
    result = values.copy()
    if len(some):
        low = np.nanquantile(values[some], WINTER_QUANTILE, axis=1)
        result[some] = np.where(fill[some], low[:, None], values[some])
    return result, fill


def _fit(
    result: Cycles,
    rows: NDArray[np.int64],
    days: NDArray[np.float64],
    values: NDArray[np.float64],
    config: PhenologyConfig,
) -> None:
    """Fits places with the same number of observations, [n, K], and writes them into their rows of the result."""
    prominence = curve.peaks(values)
    least = np.maximum(config.min_amplitude, config.rel_amplitude * np.ptp(values, axis=1))
    tops = (prominence >= least[:, None]) & (prominence > 0)
    result.n_cycles[rows] = tops.sum(1)
    result.reason[rows[~tops.any(1)]] = Reason.NO_CYCLE
    # Amplitudes of all peaks first: the strongest is the cycle, the next strongest the second.
    amplitude = np.full(values.shape, -np.inf)
    for number in range(values.shape[1]):
        some = np.flatnonzero(tops[:, number])
        if len(some):
            top = np.full(len(some), number)
            low = np.minimum(*(_at(values[some], top, curve.valley(values[some], tops[some], top, side), side)
                               for side in (-1, 1)))  # fmt: skip
            amplitude[some, number] = values[some, number] - low
    ranked = np.argsort(-amplitude, axis=1, kind="stable")
    for rank, target in ((0, result.dates), (1, result.second)):
        if rank >= values.shape[1]:
            continue
        some = np.flatnonzero(tops.sum(1) > rank)
        top = ranked[some, rank]
        target[rows[some]] = _dates(days[some], values[some], tops[some], top, config.thresholds)
    found = np.flatnonzero(tops.any(1))
    at = rows[found]
    result.amplitude[at] = amplitude[found, ranked[found, 0]]
    result.quality[at] = result.amplitude[at] / (result.amplitude[at] + CONTRAST)
    result.source[at] = Source.OBSERVED
    good = ordered(result.dates[at])
    _forget(result, at[~good], Reason.ORDER, Source.INVALID)


def _dates(
    days: NDArray[np.float64],
    values: NDArray[np.float64],
    tops: NDArray[np.bool_],
    top: NDArray[np.int64],
    thresholds: tuple[float, float],
) -> NDArray[np.float64]:
    """The five dates of a peak, [n, 5]."""
    rows, count = np.arange(len(values)), values.shape[1]
    height = values[rows, top]
    dates = np.full((len(values), 5), np.nan)
    for side, (low_column, high_column) in ((-1, (0, 1)), (1, (4, 3))):
        steps = curve.valley(values, tops, top, side)
        low = _at(values, top, steps, side)
        for column, share in zip((low_column, high_column), thresholds, strict=True):
            dates[:, column] = curve.crossing(days, values, top, steps, low + share * (height - low), side)
    last = top.copy()
    for _ in range(count - 1):  # the middle of a level top
        following = (last + 1) % count
        last = np.where((values[rows, following] == height) & (following != top), following, last)
    width = (days[rows, last] - days[rows, top]) % YEAR
    dates[:, 2] = (days[rows, top] + width / 2) % YEAR
    return dates


def _at(
    values: NDArray[np.float64], top: NDArray[np.int64], steps: NDArray[np.int64], side: int
) -> NDArray[np.float64]:
    return np.asarray(values[np.arange(len(values)), (top + side * steps) % values.shape[1]])


def _binomial(
    days: NDArray[np.float64], values: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Observations [n, K] at all steps [n, T]: gaps filled linearly, then weights 1/4, 1/2, 1/4 round the year."""
    number = ((days[:, None, :] <= steps[:, :, None]).sum(2) - 1) % days.shape[1]
    start = np.take_along_axis(values, number, 1)
    end = np.take_along_axis(np.roll(values, -1, axis=1), number, 1)
    share = (steps - np.take_along_axis(days, number, 1)) % YEAR / np.take_along_axis(curve.gaps(days), number, 1)
    whole = start + share * (end - start)
    return np.asarray(0.25 * np.roll(whole, 1, axis=1) + 0.5 * whole + 0.25 * np.roll(whole, -1, axis=1))


def _near_share(days: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the year within 16 days of an observation, [n]: of each gap between two, at most 32 days are near."""
    first = np.take_along_axis(days, valid.argmax(1)[:, None], 1)
    following = np.where(valid, days, np.inf)[:, ::-1]
    following = np.minimum.accumulate(following, axis=1)[:, ::-1]  # the next valid day, the step's own included
    following = np.concatenate([following[:, 1:], np.full((len(days), 1), np.inf)], axis=1)
    following = np.where(np.isinf(following), first + YEAR, following)
    return np.asarray((np.minimum(following - days, NEAR_DAYS) * valid).sum(1) / YEAR)


def _forget(result: Cycles, rows: NDArray[np.int64], reason: Reason, source: Source = Source.NONE) -> None:
    """Takes the dates of some places away, and says why."""
    result.dates[rows] = np.nan
    result.second[rows] = np.nan
    result.n_cycles[rows] = 0
    result.quality[rows] = 0
    result.source[rows] = source
    result.reason[rows] = reason
