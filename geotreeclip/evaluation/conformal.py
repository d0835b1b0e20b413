"""Prediction sets that hold the truth nine times in ten, whatever the model.

Shape letters: N samples, L candidates.

Split conformal prediction (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2023, "A gentle introduction"): a
score says how badly a label fits a sample; the threshold is the ceil((n + 1) * level)-th smallest score of the truths
of n calibration samples (infinite where that exceeds n); the set of a new sample holds every label at or below it. It
covers the truth with at least the level as long as the new sample is exchangeable with the calibration samples. Scores:

* ``lac``: 1 - p(label), so that the set is every label above one probability (Sadinle, Lei and Wasserman 2019). The
  smallest sets on average for a given coverage; hard samples are covered less often than easy ones. One probability
  can be kept with the model and needs no other label's, so it is the default.
* ``aps``: the mass of all labels at least as probable (Romano, Sesia and Candes 2020, without its randomisation, so it
  covers a little more): larger sets, more even over easy and hard samples. The first label is always in the set.

Neighbouring trees are not exchangeable with trees of a new region. With blocks given, blocks are what is
exchangeable (hierarchical conformal prediction: Lee, Barber and Willett 2023, "Distribution-free inference with
hierarchical data"; Dunn, Wasserman and Ramdas 2023): every block shares one weight among its samples and one more block
sits at infinity, which covers a sample of a new block. That threshold is the honest one for a map of a new region.
A change of prior, candidate list or region between calibration and use breaks either promise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.calibration import block_groups
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval
from geotreeclip.evaluation.metrics import bootstrap_of
from geotreeclip.evaluation.predictions import Predictions

LEVEL = 0.9
SCORES = ("lac", "aps")


def conformal_scores(log_prob: NDArray[Any], kind: str = "lac") -> NDArray[np.float64]:
    """Score [N, L] of every label; small fits well.

    Args:
        log_prob: [N, L].
        kind: one of `SCORES`.
    """
    probability = np.exp(np.asarray(log_prob, dtype=np.float64))
    if kind == "lac":
        return np.asarray(1.0 - probability)
    if kind != "aps":
        raise InputError(f"conformal score {kind!r} is unknown; there are {', '.join(SCORES)}")
    order = np.argsort(-probability, axis=1, kind="stable")
    ordered = np.take_along_axis(probability, order, axis=1)
    mass = np.cumsum(ordered, axis=1)
    # Labels of one probability enter together
    last = np.ones(ordered.shape, dtype=bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    for row in np.flatnonzero(~last.all(axis=1)):
        ends = np.flatnonzero(last[row])
        mass[row] = mass[row][ends[np.searchsorted(ends, np.arange(ordered.shape[1]))]]
    result = np.empty_like(mass)
    np.put_along_axis(result, order, mass, axis=1)
    return result


def conformal_quantile(scores: ArrayLike, level: float = LEVEL) -> float:
    """The threshold: the ceil((n + 1) * level)-th smallest score, infinite where n is too small for the level."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if not 0 < level < 1:
        raise InputError(f"conformal level is {level}; give a share between 0 and 1")
    place = math.ceil(round((len(values) + 1) * level, 9))  # rounding takes the noise of the product away
    return float(values[place - 1]) if place <= len(values) else math.inf


def block_quantile(scores: ArrayLike, blocks: ArrayLike, level: float = LEVEL) -> float:
    """The threshold that covers a sample of a new block: each of B blocks weighs 1 / (B + 1), shared by its samples."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return math.inf
    _, code, count = np.unique(np.asarray(blocks), return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    weight = 1.0 / (count[code.reshape(-1)] * (len(count) + 1.0))
    reached = np.cumsum(weight[order])
    place = int(np.searchsorted(reached, level - 1e-12))
    return float(values[order][place]) if place < len(values) else math.inf


def class_quantiles(
    scores: ArrayLike, truth: NDArray[np.integer[Any]], labels: int, level: float = LEVEL
) -> NDArray[np.float64]:
    """A threshold for each label, [L]: class-conditional (Mondrian) sets cover every species alike (Vovk 2012).

    A label with fewer than level / (1 - level) calibration samples (9 at 90 %) gets an infinite threshold: it is in
    every set, because nothing less can be promised of it.

    Args:
        scores: float [N], of the truths.
        truth: int [N].
        labels: L.
        level: coverage.
    """
    values = np.asarray(scores, dtype=np.float64)
    return np.array([conformal_quantile(values[truth == label], level) for label in range(labels)])


def prediction_sets(
    log_prob: NDArray[Any], threshold: float | NDArray[np.float64], kind: str = "lac"
) -> NDArray[np.bool_]:
    """Bool [N, L]: the labels in the set of each sample; the threshold is one number or [L]."""
    return np.asarray(conformal_scores(log_prob, kind) <= threshold + 1e-12)


class SetScores(NamedTuple):
    """How prediction sets fare; means are over what the promise is of, samples or blocks (each counting alike).

    Attributes:
        coverage: share of samples whose set holds the truth.
        size: mean number of labels in a set.
        single: share of sets with exactly one label.
        empty: share of sets with none.
        censored: share of samples whose set may be larger than the labels kept in the file (their size is a lower
            bound then).
        unit: "sample" or "block": what the threshold took for exchangeable.
    """

    coverage: Interval
    size: Interval
    single: Interval
    empty: float
    censored: float
    unit: str


def cross_conformal(
    predictions: Predictions,
    level: float = LEVEL,
    *,
    by_block: bool = False,
    folds: int = 2,
    seed: int = 0,
    resamples: int = 1000,
) -> SetScores:
    """Coverage and size of ``lac`` sets when each half of the blocks is covered by the threshold of the other.

    Works on stored predictions: a set is all labels above one probability, and with ten labels kept it is whole for
    every threshold above 0.1 (or ten candidates).

    Args:
        predictions: of one rank.
        level: coverage to aim at.
        by_block: whether the threshold is to cover samples of new blocks (`block_quantile`).
        folds: groups of blocks; the threshold of each comes from the others.
        seed: of the groups.
        resamples: of the intervals.
    """
    group = block_groups(predictions.block, len(predictions), folds, seed)
    own = np.where(predictions.truth_is_candidate, -np.exp(predictions.log_prob.astype(np.float64)), np.inf)
    floor = np.empty(len(predictions))
    unit = "block" if by_block and predictions.block is not None else "sample"
    for number in range(folds):
        out = group == number
        if unit == "block":
            limit = block_quantile(own[~out], np.asarray(predictions.block)[~out], level)
        else:
            limit = conformal_quantile(own[~out], level)
        floor[out] = -limit if math.isfinite(limit) else -np.inf
    covered, size, censored = set_sizes(predictions, floor)
    parts = [covered, size, size == 1, size == 0, censored]
    bootstrap = bootstrap_of(predictions, resamples=resamples)
    if unit == "block":
        _, code = np.unique(np.asarray(predictions.block), return_inverse=True)
        code = code.reshape(-1)
        parts = [np.bincount(code, values) / np.bincount(code) for values in parts]
        bootstrap = BlockBootstrap(np.arange(len(parts[0])), resamples=resamples)
    coverage, mean_size, single, empty, short = (bootstrap.mean(values) for values in parts)
    return SetScores(coverage, mean_size, single, empty.value, short.value, unit)


def set_sizes(
    predictions: Predictions, floor: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Whether the truth is in the set [N], how many labels are [N], and whether there may be more than were kept [N].

    Args:
        predictions: stored predictions.
        floor: the smallest probability that a label in the set may have, one number or [N]; -inf for all labels.
    """
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), len(predictions))
    kept = np.exp(predictions.top_log_prob.astype(np.float64))
    inside = kept >= lowest[:, None]
    size = inside.sum(axis=1)
    everything = ~np.isfinite(lowest)
    size = np.where(everything, predictions.candidates, size)
    censored = inside.all(axis=1) & (kept.shape[1] < predictions.candidates) & ~everything
    own = np.where(predictions.truth_is_candidate, np.exp(predictions.log_prob.astype(np.float64)), -1.0)
    covered = (own >= lowest) & predictions.truth_is_candidate
    return covered.astype(np.float64), size.astype(np.int64), censored
