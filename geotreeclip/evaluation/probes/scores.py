"""Scores of probes, and intervals that know of spatial blocks.

Shape letters: N samples, K targets.

Intervals are a delete-a-group jackknife (Kott 2001): blocks are dealt into 20 groups, each is left out of the score in
turn, and a t interval with 19 degrees of freedom goes around the score. It needs nothing of a score but its value,
so average precision and R2 have intervals of one kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.intervals import LEVEL, MIN_BLOCKS, Interval
from geotreeclip.evaluation.splits import assign_folds

Floats = NDArray[np.float64]
Score = Callable[[Floats, Floats], float]

GROUPS = 20


def top1(truth: Floats, predicted: Floats) -> float:
    """Share of samples whose likeliest class is right."""
    return float((truth.argmax(axis=1) == predicted.argmax(axis=1)).mean())


def macro_top1(truth: Floats, predicted: Floats) -> float:
    """Mean over the classes that occur of the share that is right (balanced accuracy)."""
    right = truth.argmax(axis=1) == predicted.argmax(axis=1)
    count = truth.sum(axis=0)
    return float(((truth * right[:, None]).sum(axis=0)[count > 0] / count[count > 0]).mean())


def macro_f1_of_classes(truth: Floats, predicted: Floats) -> float:
    """Mean over the classes that occur of F1, the likeliest class being the answer."""
    return _macro_f1(truth, np.eye(truth.shape[1])[predicted.argmax(axis=1)])


def macro_f1_of_labels(truth: Floats, predicted: Floats) -> float:
    """Mean over the labels that occur of F1, where predictions (minus their threshold) above 0 are answers."""
    return _macro_f1(truth, (predicted > 0).astype(np.float64))


def _macro_f1(truth: Floats, answer: Floats) -> float:
    occurs = truth.sum(axis=0) > 0
    both = (truth * answer).sum(axis=0)
    return float((2 * both / np.maximum(truth.sum(axis=0) + answer.sum(axis=0), 1))[occurs].mean())


def micro_f1_of_labels(truth: Floats, predicted: Floats) -> float:
    """F1 over all pairs of sample and label, where predictions (minus their threshold) above 0 are answers."""
    answer = predicted > 0
    return float(2 * (truth * answer).sum() / max(truth.sum() + answer.sum(), 1))


def average_precision(truth: Floats, score: Floats) -> float:
    """Area under precision over recall, sum of precision at each gain in recall; ties count as one step."""
    order = np.argsort(-score, kind="stable")
    hit, ranked = truth[order], score[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = np.cumsum(hit)[last]
    precision = found / (last + 1)
    return float((np.diff(np.concatenate([[0.0], found])) * precision).sum() / found[-1]) if found[-1] else float("nan")


def macro_ap(truth: Floats, predicted: Floats) -> float:
    """Mean average precision over the labels that occur."""
    return float(
        np.mean([average_precision(truth[:, k], predicted[:, k]) for k in np.flatnonzero(truth.sum(axis=0) > 0)])
    )


def micro_ap(truth: Floats, predicted: Floats) -> float:
    """Average precision over all pairs of sample and label."""
    return average_precision(truth.reshape(-1), predicted.reshape(-1))


def r2(truth: Floats, predicted: Floats) -> float:
    """Mean over the quantities of 1 - SSE / SST; 0 is no better than the mean, and it can be negative."""
    error = np.square(truth - predicted).sum(axis=0)
    total = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    return float((1 - error[total > 0] / total[total > 0]).mean())


def mean_absolute_error(truth: Floats, predicted: Floats) -> float:
    """Mean over samples and quantities, in their units."""
    return float(np.abs(truth - predicted).mean())


SCORES: dict[str, dict[str, Score]] = {
    "multiclass": {"macro_f1": macro_f1_of_classes, "top1": top1, "macro_top1": macro_top1},
    "multilabel": {"macro_ap": macro_ap, "micro_ap": micro_ap},
    "regression": {"r2": r2, "mae": mean_absolute_error},
}
"""Task -> name -> score of (truth [N, K], predictions [N, K]). The first is the one to read."""


def jackknife(
    score: Score, truth: Floats, predicted: Floats, blocks: NDArray[np.int64], *, groups: int = GROUPS, seed: int = 0
) -> Interval:
    """A score with its 95 % interval over blocks; no interval with fewer than five blocks."""
    value = score(truth, predicted)
    count = min(groups, len(np.unique(blocks)))
    if count < MIN_BLOCKS:
        return Interval(value, None, None)
    from scipy.stats import t

    group = assign_folds(blocks, count, seed)
    left = np.array([score(truth[group != k], predicted[group != k]) for k in range(count)])
    half = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))
    return Interval(value, value - half, value + half)


def best_thresholds(truth: Floats, score: Floats) -> Floats:
    """Threshold of the highest F1 for each label, [K]; 0.5 for a label that does not occur."""
    found = np.full(truth.shape[1], 0.5)
    for k in np.flatnonzero(truth.sum(axis=0) > 0):
        order = np.argsort(-score[:, k], kind="stable")
        ranked = score[order, k]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        f1 = 2 * np.cumsum(truth[order, k])[last] / (last + 1 + truth[:, k].sum())
        at = last[int(f1.argmax())]
        below = ranked[at + 1] if at + 1 < len(ranked) else ranked[at] - 1e-9
        found[k] = (ranked[at] + below) / 2
    return found
