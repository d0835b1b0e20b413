"""Scores over several draws of the support: means with 95 % intervals, and paired differences.

Shape letters: N samples of a draw, K draws (seeds), B blocks, C classes.

A mean over draws is uncertain in two ways: other supports would have been drawn, and other places queried. The first
is the variance of the scores over draws; the second that of the influence of whole blocks on the mean score (the
infinitesimal jackknife; Efron 1982), since the draws share their places. Both are added: the variance over draws holds
some of the second too, so that the interval is rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.intervals import LEVEL, MIN_BLOCKS, Interval
from geotreeclip.evaluation.predictions import Predictions

Floats = NDArray[np.float64]
Statistic = Callable[[Predictions], tuple[float, Floats]]


def top1(item: Predictions, rank: str = "") -> tuple[float, Floats]:
    """Share of samples whose first label is right, and the influence of each sample [N] on it.

    A rank above that of the predictions is read off the first label.
    """
    hits = item.hits(1) if rank in ("", item.rank) else item.read_off(rank, 1)
    return float(hits.mean()), (hits - hits.mean()) / len(hits)


def macro_top1(item: Predictions) -> tuple[float, Floats]:
    """Mean over classes of the share of their samples that are right, and influences [N]."""
    hits, code = item.hits(1), np.unique(item.truth, return_inverse=True)[1].reshape(-1)
    count = np.bincount(code)
    recall = np.bincount(code, hits) / count
    return float(recall.mean()), (hits - recall[code]) / (count[code] * len(count))


def macro_f1(item: Predictions) -> tuple[float, Floats]:
    """Mean over classes of 2 TP / (2 TP + FP + FN), and influences [N].

    The classes are those of the truth; a class that no sample has is left out.
    """
    truth, predicted = item.truth, item.top[:, 0]
    classes = np.unique(truth)
    code = np.full(len(item.classes), -1)
    code[classes] = np.arange(len(classes))
    of_truth, of_predicted = code[truth], code[predicted]
    right = truth == predicted
    above = np.zeros((2, len(classes)))
    above[0] = 2 * np.bincount(of_truth[right], minlength=len(classes))
    above[1] = np.bincount(of_truth, minlength=len(classes))
    above[1] += np.bincount(of_predicted[of_predicted >= 0], minlength=len(classes))
    score = above[0] / above[1]
    # A sample adds 2 to the numerator of its class where right, and 1 to the denominators of truth and answer.
    influence = (2 * right - score[of_truth]) / above[1][of_truth]
    other = of_predicted >= 0
    influence[other] -= score[of_predicted[other]] / above[1][of_predicted[other]]
    return float(score.mean()), influence / len(classes)


METRICS: dict[str, Statistic] = {"top1": top1, "macro_top1": macro_top1, "macro_f1": macro_f1}


def mean_of_draws(items: Sequence[Predictions], metric: str, rank: str = "") -> Interval:
    """Mean of a metric over draws.

    Args:
        items: predictions of the K draws.
        metric: of `METRICS`.
        rank: a coarser rank to read "top1" at; that of the predictions by default.
    """
    values, influences = _values(items, metric, rank)
    return _interval(values, influences)


def paired_difference(first: Sequence[Predictions], second: Sequence[Predictions], metric: str) -> Interval:
    """Mean over draws of the difference first minus second; the draws must ask for the same samples.

    Raises:
        InputError: other samples, or another number of draws.
    """
    if len(first) != len(second):
        raise InputError(f"paired difference: {len(first)} draws against {len(second)}")
    for one, two in zip(first, second, strict=True):
        if not np.array_equal(one.sample_id, two.sample_id):
            raise InputError(f"paired difference: draw {one.context.seed} was scored on different samples")
    one_values, one_influences = _values(first, metric)
    two_values, two_influences = _values(second, metric)
    return _interval(one_values - two_values, one_influences - two_influences)


def _values(items: Sequence[Predictions], metric: str, rank: str = "") -> tuple[Floats, Floats]:
    """Values [K], and the influence of each block on the mean of the draws [B]."""
    if not items:
        raise InputError("there are no draws to average")
    if metric not in METRICS:
        raise ConfigError(f"metric {metric!r}: choose from {', '.join(METRICS)}")
    if rank and metric != "top1" and any(item.rank != rank for item in items):
        raise ConfigError(f"{metric} at {rank}: only top1 is read off at other ranks than that of the predictions")
    found = [top1(item, rank) if metric == "top1" else METRICS[metric](item) for item in items]
    keys: list[NDArray[Any]] = [item.sample_id if item.block is None else item.block for item in items]
    names = np.unique(np.concatenate(keys))
    influence = np.zeros(len(names))
    for key, (_, part) in zip(keys, found, strict=True):
        np.add.at(influence, np.searchsorted(names, key), part / len(items))
    return np.array([value for value, _ in found]), influence


def _interval(values: Floats, influence: Floats) -> Interval:
    """Mean with its interval; none for a single draw or fewer than five blocks."""
    mean = float(values.mean())
    draws, blocks = len(values), len(influence)
    if draws < 2 or blocks < MIN_BLOCKS:
        return Interval(mean, None, None)
    from scipy.stats import t

    upper = (1 + LEVEL) / 2
    of_draws = t.ppf(upper, draws - 1) ** 2 * values.var(ddof=1) / draws
    of_blocks = t.ppf(upper, blocks - 1) ** 2 * blocks / (blocks - 1) * np.square(influence).sum()
    half = float(np.sqrt(of_draws + of_blocks))
    return Interval(mean, mean - half, mean + half)
