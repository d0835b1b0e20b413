"""Seasons of a place by its vegetation cycle, and the phase of a day in it.

Spring runs from greenup to maturity, summer to senescence, autumn to dormancy, winter to the next greenup. Windows are
half-open and fill the year. N places, T steps; season codes 0 spring, 1 summer, 2 autumn, 3 winter, -1 none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.prep.phenology.circular import YEAR
from geotreeclip.prep.phenology.cycles import Cycle, Cycles
from geotreeclip.schema import MONTH_DAYS

__all__ = ["MIN_WINDOW", "SEASONS", "phase", "season_middles", "season_of", "season_weights", "windows"]

SEASONS = ("spring", "summer", "autumn", "winter")

MIN_WINDOW = 10.0
"""Least length of a season, days: a shorter one takes days from its longer neighbour."""


def windows(cycles: Cycle | Cycles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and length of the seasons of places.

    Returns:
        Start [N, 4], days in [0, 365), and length [N, 4], at least `MIN_WINDOW` and 365 together; NaN without a cycle.
    """
    start = Cycles.of(cycles).dates[:, [0, 1, 3, 4]].copy()
    length = (np.roll(start, -1, axis=1) - start) % YEAR
    rows = np.arange(len(start))
    for _ in range(2 * len(SEASONS)):  # each pass mends the shortest window of each place
        shortest = np.where(np.isnan(length), np.inf, length).argmin(1)
        need = np.maximum(MIN_WINDOW - length[rows, shortest], 0.0)
        need = np.where(np.isnan(need), 0.0, need)
        if not need.any():
            break
        before, after = (shortest - 1) % 4, (shortest + 1) % 4
        from_before = length[rows, before] >= length[rows, after]
        length[rows, np.where(from_before, before, after)] -= need
        length[rows, shortest] += need
        start[rows, shortest] -= np.where(from_before, need, 0.0)
        start[rows, after] += np.where(from_before, 0.0, need)
    return start % YEAR, length


def season_middles(cycles: Cycle | Cycles) -> NDArray[np.float64]:
    """Middle day of each season, [N, 4]."""
    start, length = windows(cycles)
    return np.asarray((start + length / 2) % YEAR)


def season_of(days: ArrayLike, cycles: Cycle | Cycles) -> NDArray[np.int8]:
    """Season of days.

    Args:
        days: [T], or [N, T] for days of their own at each place; NaN is no day.
        cycles: N places.

    Returns:
        [N, T], -1 without a cycle or a day.
    """
    start, length = windows(cycles)
    day = np.asarray(days, dtype=np.float64)
    if day.ndim == 0 or (day.ndim == 2 and len(day) != len(start)) or day.ndim > 2:
        raise InputError(f"days have shape {day.shape} for {len(start)} places; give [T] or [N, T]")
    after = (np.broadcast_to(day, (len(start), day.shape[-1])) - start[:, :1]) % YEAR
    edges = np.cumsum(length, axis=1)[:, :3]
    season = (after[:, :, None] >= edges[:, None, :]).sum(2)
    return np.where(np.isnan(after), -1, season).astype(np.int8)


def season_weights(cycles: Cycle | Cycles, steps: ArrayLike = MONTH_DAYS) -> NDArray[np.float64]:
    """Share of each time step that lies in each season, [N, T, 4]; rows sum to 1, NaN without a cycle.

    Args:
        cycles: N places.
        steps: [T, 2] or [N, T, 2], first and last day of each step, days of a 365-day year from 1, both inclusive; the
            calendar months by default.
    """
    start, length = windows(cycles)
    days = np.asarray(steps, dtype=np.float64)
    if days.shape[-1:] != (2,) or days.ndim not in (2, 3):
        raise InputError(f"steps have shape {days.shape}; give [T, 2] or [N, T, 2]")
    first = days[..., 0] - 1
    whole = (days[..., 1] - days[..., 0]) % YEAR + 1
    first, whole = (np.broadcast_to(each, (len(start), days.shape[-2])) for each in (first, whole))
    offset = (first[:, :, None] - start[:, None, :]) % YEAR  # of the step within the circle that starts with the season
    end = offset + whole[:, :, None]
    long = length[:, None, :]
    shared = np.maximum(np.minimum(end, long) - offset, 0) + np.maximum(np.minimum(end - YEAR, long), 0)
    return np.asarray(shared / whole[:, :, None])


def phase(days: ArrayLike, cycles: Cycle | Cycles) -> NDArray[np.float64]:
    """Time since greenup as an angle, 2 pi ((day - greenup) mod 365) / 365, [N, T]; NaN without a cycle.

    Args:
        days: [T] or [N, T].
        cycles: N places.
    """
    greenup = Cycles.of(cycles).dates[:, :1]
    return np.asarray(2 * np.pi * ((np.asarray(days, dtype=np.float64) - greenup) % YEAR) / YEAR)
