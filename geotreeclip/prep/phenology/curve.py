"""The curve of a year through its observations, its peaks, and where it crosses a level.

The curve is the periodic, shape-preserving cubic of Fritsch and Carlson (1980; PCHIP, slopes by Fritsch and Butland
1984): it is monotone between neighbouring observations. So peaks and valleys are observations, and a crossing lies
between the two observations on either side of the level, where bisection finds it exactly; no daily grid is needed.
Shifting all days shifts every crossing by as much. n places with K observations each, sorted by day.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.phenology.circular import YEAR

__all__ = ["crossing", "evaluate", "peaks", "slopes", "valley"]

_HALVINGS = 40  # of at most 365 days: below 1e-9 days


def gaps(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Days from each observation to the next, round the year, [n, K]."""
    return np.asarray((np.roll(days, -1, axis=1) - days) % YEAR)


def slopes(days: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope of the curve at each observation, per day, [n, K]: 0 at peaks and valleys."""
    after = gaps(days)
    before = np.roll(after, 1, axis=1)
    rise = (np.roll(values, -1, axis=1) - values) / after
    earlier = np.roll(rise, 1, axis=1)
    same = earlier * rise > 0
    first, second = 2 * after + before, after + 2 * before
    safe, safe_earlier = np.where(same, rise, 1.0), np.where(same, earlier, 1.0)
    return np.where(same, (first + second) / (first / safe_earlier + second / safe), 0.0)


def evaluate(days: NDArray[np.float64], values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve at some days.

    Args:
        days: [n, K].
        values: [n, K].
        at: [M] days.

    Returns:
        [n, M].
    """
    when = np.broadcast_to(at % YEAR, (len(days), len(at)))
    number = (days[:, None, :] <= when[:, :, None]).sum(2) - 1  # -1: before the first, so after the last
    number %= days.shape[1]
    share = (when - np.take_along_axis(days, number, 1)) % YEAR / np.take_along_axis(gaps(days), number, 1)
    return _cubic(_pieces(days, values, slopes(days, values), number), share)


def peaks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Circular prominence of each observation, [n, K]; 0 where it is no peak.

    The prominence of a peak is its height above the higher of the lowest points between it and higher ground on either
    side; the highest peak stands above the lowest point of the year. Of a level top, the first observation counts.
    """
    count = values.shape[1]
    falls = np.zeros(values.shape, dtype=bool)
    undecided = np.ones(values.shape, dtype=bool)
    key = np.zeros(values.shape)
    for side in (1, -1):  # left, right
        low, open_ = values.copy(), np.ones(values.shape, dtype=bool)
        for step in range(1, count):
            other = np.roll(values, side * step, axis=1)
            open_ &= other <= values
            low = np.where(open_, np.minimum(low, other), low)
            if side == -1:
                falls |= undecided & (other < values)
                undecided &= other == values
        key = low if side == 1 else np.maximum(key, low)
    rises = np.roll(values, 1, axis=1) < values
    return np.where(rises & falls, values - key, 0.0)


def valley(
    values: NDArray[np.float64], tops: NDArray[np.bool_], top: NDArray[np.int64], side: int
) -> NDArray[np.int64]:
    """Steps from a peak to the lowest observation between it and the next peak on one side, [n].

    Args:
        values: [n, K].
        tops: [n, K], the peaks that count.
        top: [n], the peak.
        side: 1 for later, -1 for earlier.
    """
    count, rows = values.shape[1], np.arange(len(values))
    lowest, at = values[rows, top], np.zeros(len(values), dtype=np.int64)
    open_ = np.ones(len(values), dtype=bool)
    for step in range(1, count):
        where = (top + side * step) % count
        open_ &= ~tops[rows, where]
        lower = open_ & (values[rows, where] < lowest)
        at, lowest = np.where(lower, step, at), np.where(lower, values[rows, where], lowest)
    return at


def crossing(
    days: NDArray[np.float64],
    values: NDArray[np.float64],
    top: NDArray[np.int64],
    steps: NDArray[np.int64],
    level: NDArray[np.float64],
    side: int,
) -> NDArray[np.float64]:
    """Day on which the curve crosses a level, between a peak and the valley on one side, [n].

    Before the peak (side -1) it is the first way up that counts, after it (side 1) the last way down: the crossing
    farthest from the peak. NaN where the level is not between valley and peak.

    Args:
        days: [n, K].
        values: [n, K].
        top: [n], the peak.
        steps: [n], steps from the peak to the valley.
        level: [n].
        side: -1 or 1.
    """
    count, rows = values.shape[1], np.arange(len(values))
    found = np.full(len(values), -1, dtype=np.int64)
    for step in range(1, count):  # from the peak outwards, so the farthest stays
        near, far = values[rows, (top + side * (step - 1)) % count], values[rows, (top + side * step) % count]
        found = np.where((step <= steps) & (near >= level) & (far < level), step, found)
    some = np.flatnonzero(found > 0)
    start = (top + side * found)[some] if side < 0 else (top + found - 1)[some]
    start = (start % count)[:, None]
    piece = _pieces(days[some], values[some], slopes(days[some], values[some]), start)
    low, high = np.zeros((len(some), 1)), np.ones((len(some), 1))
    rising = side < 0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _cubic(piece, middle) >= level[some, None]
        before = above if rising else ~above  # the crossing lies before the middle
        low, high = np.where(before, low, middle), np.where(before, middle, high)
    result = np.full(len(values), np.nan)
    at = np.take_along_axis(days[some], start, 1) + high * np.take_along_axis(gaps(days[some]), start, 1)
    result[some] = at[:, 0] % YEAR
    return result


_Pieces = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _pieces(
    days: NDArray[np.float64], values: NDArray[np.float64], slope: NDArray[np.float64], number: NDArray[np.int64]
) -> _Pieces:
    """Values and rises at both ends of the cubics that begin at observations `number` [n, M]."""
    following = (number + 1) % days.shape[1]
    length = np.take_along_axis(gaps(days), number, 1)
    start, end = (np.take_along_axis(values, at, 1) for at in (number, following))
    leaving, reaching = (np.take_along_axis(slope, at, 1) * length for at in (number, following))
    return start, leaving, end, reaching


def _cubic(piece: _Pieces, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubics in Hermite form at a share [n, M] of the way."""
    start, leaving, end, reaching = piece
    bend = 3 * (end - start) - 2 * leaving - reaching
    twist = leaving + reaching - 2 * (end - start)
    return np.asarray(start + share * (leaving + share * (bend + share * twist)))
