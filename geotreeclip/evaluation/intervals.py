"""95 % intervals by block bootstrap: whole spatial blocks are drawn, because neighbours are not independent.

Shape letters: N samples, B blocks, R resamples.

Sums are taken once for each block, so a resample costs a row of an [R, B] product and never touches the samples again.
Quantiles are expanded for few blocks (Hesterberg 2015, "What teachers should know about the bootstrap"): the
plain percentile interval is a normal interval with the biased standard deviation, too narrow by a few points of
coverage at 20 blocks.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.options import RESAMPLES

LEVEL = 0.95
MIN_BLOCKS = 5  # fewer say nothing about the spread between blocks: no interval
MAX_BLOCKS = 10_000  # more are joined at random into as many groups: the variance stays right, memory stays bounded


class Interval(NamedTuple):
    """A value and the interval around it; low and high are None where too few blocks were there."""

    value: float
    low: float | None
    high: float | None


class BlockBootstrap:
    """Resamples of the blocks of one set of rows, shared by every statistic of those rows.

    Systems scored on the same rows get the same resamples from the same seed, so their differences are paired.

    Args:
        blocks: [N] block of each sample (numbers or text); None resamples single samples instead.
        size: N, needed where blocks is None.
        resamples: R.
        seed: of the draws.

    Attributes:
        unit: "blocks", or "samples" where no blocks were given.
        blocks: B, how many units are drawn.

    Raises:
        InputError: If there are neither blocks nor a size, or no resamples.
    """

    def __init__(
        self, blocks: ArrayLike | None, size: int | None = None, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        if resamples < 1:
            raise InputError(f"bootstrap: {resamples} resamples; give at least 1, better {RESAMPLES:,}")
        if blocks is None:
            if size is None:
                raise InputError("bootstrap: give the blocks, or the number of samples")
            block, count = np.arange(size), size
        else:
            names, block = np.unique(np.asarray(blocks), return_inverse=True)
            block, count = block.reshape(-1), len(names)
        self.unit = "samples" if blocks is None else "blocks"
        self.blocks = count
        self.resamples = resamples
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        if count > MAX_BLOCKS:
            block = (rng.permutation(count) % MAX_BLOCKS)[block]
            count = MAX_BLOCKS
        self._block = block
        self._count = count
        self._weights: NDArray[np.float32] | None = None

    def describe(self) -> str:
        """In words, for a report."""
        unit = f"{self.blocks:,} {'spatial blocks' if self.unit == 'blocks' else 'single samples (no blocks known)'}"
        return f"{LEVEL:.0%} bootstrap over {unit}, {self.resamples:,} resamples, seed {self.seed}"

    def mean(self, values: ArrayLike, rows: NDArray[np.bool_] | None = None) -> Interval:
        """Mean of per-sample values.

        Args:
            values: float [N].
            rows: bool [N], the samples that the mean is of; all by default.
        """
        values, rows = self._checked(values, rows)
        if not rows.any():
            return Interval(float("nan"), None, None)
        total = self._sums(values * rows)
        number = self._sums(rows.astype(np.float64))
        return self._interval(float(total.sum() / number.sum()), _ratio(self._draw(total), self._draw(number)))

    def macro(self, values: ArrayLike, classes: ArrayLike, rows: NDArray[np.bool_] | None = None) -> Interval:
        """Mean over classes of the mean within each class.

        Resamples go by the linear part of the ratio (Taylor linearisation, as for ratio estimators in surveys): a block
        adds the deviations of its samples from the means of their classes, each over the size of its class. Recomputing
        the ratio instead would drop every rare class from about a third of the resamples and lean to the common ones.
        Deviations grow by sqrt(k / (k - 1)) for a class found in k blocks, since its mean was fitted to them. A class
        found in one block has no spread to resample, so many such classes leave the interval too narrow.
        """
        values, rows = self._checked(values, rows)
        if not rows.any():
            return Interval(float("nan"), None, None)
        names, code = np.unique(np.asarray(classes)[rows], return_inverse=True)
        code, block = code.reshape(-1), self._block[rows]
        number = np.bincount(code)
        mean = np.bincount(code, values[rows]) / number
        blocks = np.bincount(np.unique(code * self._count + block) // self._count)
        scale = np.sqrt(blocks / np.maximum(blocks - 1, 1)) / (number * len(names))
        deviation = np.zeros(len(values))
        deviation[rows] = (values[rows] - mean[code]) * scale[code]
        value = float(mean.mean())
        drawn = value + self._draw(self._sums(deviation))  # a linear form knows no bounds; the mean does
        return self._interval(value, np.clip(drawn, values[rows].min(), values[rows].max()))

    def calibration_error(self, gaps: ArrayLike, bins: ArrayLike, rows: NDArray[np.bool_] | None = None) -> Interval:
        """Expected calibration error: the mean over samples of the absolute mean gap of their bin.

        Bins stay as they are in all resamples. Resampling inflates the absolute value, so the distribution is centred
        on the estimate: the interval tells its spread, not the upward bias that every plug-in calibration error has.

        Args:
            gaps: float [N], confidence minus correctness.
            bins: int [N].
            rows: bool [N].
        """
        gaps, rows = self._checked(gaps, rows)
        if not rows.any():
            return Interval(float("nan"), None, None)
        names, code = np.unique(np.asarray(bins)[rows], return_inverse=True)
        cell = self._block[rows] * len(names) + code.reshape(-1)
        table = np.bincount(cell, gaps[rows], self._count * len(names)).astype(np.float64)
        table = table.reshape(self._count, len(names))
        value = float(np.abs(table.sum(axis=0)).sum() / rows.sum())
        size = self._draw(self._sums(rows.astype(np.float64)))
        drawn = _ratio(np.abs(self._draw(table)).sum(axis=1), size)
        drawn = drawn[np.isfinite(drawn)]
        interval = self._interval(value, drawn - drawn.mean() + value)
        return interval._replace(low=None if interval.low is None else max(0.0, interval.low))

    def _checked(
        self, values: ArrayLike, rows: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != self._block.shape:
            raise InputError(f"bootstrap: {array.shape} values for {len(self._block)} samples")
        mask = np.ones(len(array), dtype=bool) if rows is None else np.asarray(rows, dtype=bool)
        return np.where(mask, array, 0.0), mask

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self._block, weights=values, minlength=self._count).astype(np.float64)

    def weights(self) -> NDArray[np.float32]:
        """Float32 [R, B]: how often each block is drawn in each resample."""
        if self._weights is None:
            rng = np.random.default_rng([self.seed, 1])
            weights = np.empty((self.resamples, self._count), dtype=np.float32)
            step = max(1, 1_000_000 // self._count)  # resamples at a time
            for start in range(0, self.resamples, step):
                part = weights[start : start + step]
                drawn = rng.integers(0, self._count, part.shape) + np.arange(len(part))[:, None] * self._count
                part[:] = np.bincount(drawn.reshape(-1), minlength=part.size).reshape(part.shape)
            self._weights = weights
        return self._weights

    def _draw(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return (self.weights() @ sums.astype(np.float32)).astype(np.float64)

    def _interval(self, value: float, drawn: NDArray[np.float64]) -> Interval:
        drawn = drawn[np.isfinite(drawn)]
        if self._count < MIN_BLOCKS:
            return Interval(value, None, None)
        low, high = np.quantile(drawn, expanded_quantiles(self._count))
        return Interval(value, float(low), float(high))


def expanded_quantiles(count: int, level: float = LEVEL) -> tuple[float, float]:
    """The two quantiles of the bootstrap distribution that make an interval of a level, for a number of blocks (>= 5).

    The t quantile is the expansion 26.7.5 of Abramowitz and Stegun, right to 0.01 from 4 degrees of freedom on.
    """
    z = -NormalDist().inv_cdf((1 - level) / 2)
    freedom = count - 1
    t = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    tail = NormalDist().cdf(-t * (count / freedom) ** 0.5)
    return tail, 1 - tail


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, blocks: ArrayLike | None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean difference first minus second on the same samples, with its interval.

    Args:
        first: float [N], or [N, M] for M repeats (seeds), which are averaged within each sample.
        second: float [N] or [N, M'].
        blocks: [N] spatial blocks, or None.
        resamples: R.
        seed: of the draws.
    """
    one, two = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if len(one) != len(two):
        raise InputError(f"paired bootstrap: {len(one)} values against {len(two)}; both must be of the same samples")
    one, two = (values.mean(axis=1) if values.ndim == 2 else values for values in (one, two))
    return BlockBootstrap(blocks, len(one), resamples=resamples, seed=seed).mean(one - two)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
