"""Does a probability of 0.8 come true in 80 of 100? How far from it, and the temperature that mends it.

Shape letters: N samples, L candidates, K parameters (1 or 2).

The calibration error of a report is that of the first label, over bins of equal mass (so that no bin is nearly empty).
Its plug-in value is biased upwards: a calibrated model has gaps in every bin by chance alone. `calibration_table`
therefore also gives the root of the mean squared gap, each squared gap less its sampling variance: the debiased
estimator of Kumar, Liang and Ma (2019, "Verified Uncertainty Calibration", definition 4.1), whose square is unbiased;
here with the sampling variance between spatial blocks. It is 0 where the gaps are no larger than chance makes them.

The temperature is the maximum-likelihood estimate. The loss is convex in beta = 1 / T (the log-sum-exp of a linear
form), and jointly so in beta and the weight of the log prior, so that Newton's method finds the one optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.intervals import MIN_BLOCKS, expanded_quantiles
from geotreeclip.evaluation.metrics import CALIBRATION_BINS, confidence_and_hits, equal_mass_bins
from geotreeclip.evaluation.predictions import Predictions

CHUNK = 4_000_000  # scores worked on at a time: 32 MB in double precision
BETA = (0.01, 100.0)  # 1 / T is kept in here: a perfectly separated set has no finite optimum
_Z = NormalDist().inv_cdf(0.975)


class Bin(NamedTuple):
    """One bin of a reliability plot.

    Attributes:
        n: samples.
        confidence: mean probability of the first label.
        accuracy: share of them that is right.
        low: lower end of the 95 % interval of the accuracy; None where too few blocks.
        high: upper end.
    """

    n: int
    confidence: float
    accuracy: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CalibrationTable:
    """Reliability of one set of predictions.

    Attributes:
        bins: of equal mass, from the least to the most confident.
        error: expected calibration error, plug-in.
        debiased: root of the mean squared gap less its sampling variance; 0 where nothing is left.
        n: samples.
    """

    bins: tuple[Bin, ...]
    error: float
    debiased: float
    n: int


def calibration_table(predictions: Predictions, bins: int = CALIBRATION_BINS) -> CalibrationTable:
    """Reliability of the first label of predictions (see `reliability`)."""
    confidence, hits = confidence_and_hits(predictions)
    return reliability(confidence, hits, predictions.block, bins)


def reliability(
    confidence: ArrayLike, hits: ArrayLike, blocks: ArrayLike | None = None, bins: int = CALIBRATION_BINS
) -> CalibrationTable:
    """Confidence against accuracy in bins of equal mass.

    Args:
        confidence: float [N], probability of the first label.
        hits: float [N], whether it is right (0 to 1).
        blocks: [N] spatial blocks; the sampling error of a bin is taken between them. None: between samples.
        bins: how many.

    Raises:
        InputError: nothing to table.
    """
    values, right = np.asarray(confidence, dtype=np.float64), np.asarray(hits, dtype=np.float64)
    if not len(values) or values.shape != right.shape:
        raise InputError(f"reliability: {values.shape} confidences and {right.shape} outcomes; give one to one")
    code = equal_mass_bins(values, bins)
    unit = np.arange(len(values)) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    rows: list[Bin] = []
    error = squared = 0.0
    for number in np.unique(code):
        inside = code == number
        count = int(inside.sum())
        gap, spread = _cluster_mean(values[inside] - right[inside], unit[inside])
        accuracy, deviation = _cluster_mean(right[inside], unit[inside])
        blocks_here = len(np.unique(unit[inside]))
        low = high = None
        if blocks_here >= MIN_BLOCKS:
            reach = -NormalDist().inv_cdf(expanded_quantiles(blocks_here)[0]) * deviation
            low, high = max(0.0, accuracy - reach), min(1.0, accuracy + reach)
        rows.append(Bin(count, float(values[inside].mean()), accuracy, low, high))
        weight = count / len(values)
        error += weight * abs(gap)
        squared += weight * (gap**2 - spread**2)
    return CalibrationTable(tuple(rows), error, max(0.0, squared) ** 0.5, len(values))


def classwise_error(log_prob: NDArray[Any], truth: NDArray[np.integer[Any]], bins: int = CALIBRATION_BINS) -> float:
    """Classwise calibration error (Kull et al. 2019): the calibration error of each label's probability, averaged.

    Bins have equal mass within each label. Plug-in: compare it between models on the same samples only.

    Args:
        log_prob: [N, L].
        truth: int [N], columns; outside 0 .. L - 1 for a truth that is no candidate.
        bins: for each label.
    """
    total = 0.0
    for label in range(log_prob.shape[1]):
        probability = np.exp(log_prob[:, label].astype(np.float64))
        gaps = np.bincount(equal_mass_bins(probability, bins), weights=probability - (truth == label))
        total += float(np.abs(gaps).sum()) / len(probability)
    return total / int(log_prob.shape[1])


class TemperatureFit(NamedTuple):
    """Maximum-likelihood calibration.

    Attributes:
        temperature: T.
        low: lower end of its 95 % interval (cluster-robust over blocks).
        high: upper end.
        prior_weight: b, 0 where it was not fitted.
        log_loss_before: nats, mean over samples.
        log_loss: after the fit, on the same samples.
        n: samples whose truth is a candidate.
    """

    temperature: float
    low: float
    high: float
    prior_weight: float
    log_loss_before: float
    log_loss: float
    n: int


def fit_temperature(
    log_prob: NDArray[Any],
    truth: ArrayLike,
    *,
    log_prior: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
    steps: int = 100,
) -> TemperatureFit:
    """Fit temperature, and optionally a weight of the log prior, by maximum likelihood.

    Gradient and Hessian are exact: with q the softmax of beta s + b log p, the loss has the gradient
    E_q[f] - f_truth and the Hessian Cov_q[f] for the features f = (s, log p). The interval is the sandwich
    H^-1 (sum over blocks of g g') H^-1 (White 1982), by the delta method for T = 1 / beta.

    Args:
        log_prob: [N, L] scores or log-probabilities under the training prior (a constant per row does not matter).
        truth: int [N] column of the truth; samples with another number are left out.
        log_prior: [L] log prior of the candidates; fits its weight b too. None: b = 0.
        blocks: [N] spatial blocks for the interval; None: every sample on its own.
        steps: of Newton's method at most.

    Raises:
        InputError: no sample whose truth is a candidate, or scores that are not finite.
        DataError: the optimum is no temperature above 0: the scores say nothing about the truth.
    """
    scores = np.asarray(log_prob)
    column = np.asarray(truth, dtype=np.int64)
    kept = np.flatnonzero((column >= 0) & (column < scores.shape[1]))
    if not len(kept):
        raise InputError("temperature: no sample has a truth among the candidates")
    prior = None if log_prior is None else np.asarray(log_prior, dtype=np.float64)
    theta = np.array([1.0] if prior is None else [1.0, 0.0])
    loss, gradient, hessian = _derivatives(scores, column, kept, prior, theta)
    before = loss
    for _ in range(steps):
        ridge = 1e-12 * np.trace(hessian) * np.eye(len(theta))
        step = np.linalg.solve(hessian + ridge, -gradient.mean(axis=0)) if np.trace(hessian) > 0 else 0 * theta
        slope = float(gradient.mean(axis=0) @ step)
        if slope > -1e-14:
            break
        size = 1.0
        while True:
            moved = theta + size * step
            moved[0] = np.clip(moved[0], *BETA)
            tried = _derivatives(scores, column, kept, prior, moved)
            if tried[0] <= loss + 1e-4 * size * slope or size < 1e-6:
                break
            size /= 2
        if tried[0] >= loss:
            break
        theta, (loss, gradient, hessian) = moved, tried
    if theta[0] <= BETA[0]:
        raise DataError(
            f"temperature: the best fit is above {1 / BETA[0]:g}, so the scores say nothing about these samples; "
            "check that labels and samples belong to the model"
        )
    unit = np.arange(len(kept)) if blocks is None else np.unique(np.asarray(blocks)[kept], return_inverse=True)[1]
    deviation = _sandwich(gradient, hessian, unit.reshape(-1))[0]
    beta = float(theta[0])
    reach = _Z * deviation / beta**2
    temperature = 1 / beta
    return TemperatureFit(
        temperature, max(0.0, temperature - reach), temperature + reach,
        0.0 if prior is None else float(theta[1]), before, loss, len(kept),
    )  # fmt: skip


def cross_fitted(
    log_prob: NDArray[Any],
    truth: ArrayLike,
    blocks: ArrayLike | None,
    *,
    log_prior: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Calibrated log-probabilities [N, L] of each sample by a fit that has not seen its block.

    What the fit changes on samples that it was fitted to flatters it; this does not.

    Args:
        log_prob: [N, L].
        truth: int [N].
        blocks: [N], or None for samples on their own.
        log_prior: [L], see `fit_temperature`.
        folds: groups of blocks.
        seed: of the groups.
    """
    scores, column = np.asarray(log_prob), np.asarray(truth, dtype=np.int64)
    group = block_groups(blocks, len(scores), folds, seed)
    result = np.empty(scores.shape, dtype=np.float64)
    prior = None if log_prior is None else np.asarray(log_prior, dtype=np.float64)
    for number in np.unique(group):
        out = group == number
        fit = fit_temperature(scores[~out], column[~out], log_prior=prior)
        result[out] = calibrated(scores[out], fit.temperature, fit.prior_weight, prior)
    return result


def calibrated(
    log_prob: NDArray[Any], temperature: float, prior_weight: float = 0.0, log_prior: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Log-softmax [N, L] of the calibrated scores."""
    scores = np.asarray(log_prob, dtype=np.float64) / temperature
    if prior_weight and log_prior is not None:
        scores = scores + prior_weight * np.asarray(log_prior, dtype=np.float64)
    peak = scores.max(axis=1, keepdims=True)
    return np.asarray(scores - peak - np.log(np.exp(scores - peak).sum(axis=1, keepdims=True)))


def block_groups(blocks: ArrayLike | None, size: int, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Int [N]: whole blocks drawn into groups of about equal numbers of blocks; fewer groups where blocks are few."""
    names, code = np.unique(np.arange(size) if blocks is None else np.asarray(blocks), return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise InputError("all samples lie in one block; cross-fitting needs two")
    order = np.random.default_rng([seed, 5]).permutation(len(names))
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.arange(len(names)) % folds
    return np.asarray(group[code.reshape(-1)], dtype=np.int64)


def restricted_lists(
    log_prob: NDArray[Any], truth: NDArray[np.integer[Any]], sizes: Sequence[int], *, draws: int = 5, seed: int = 0
) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
    """What the first label says when the candidate list is cut at random to fewer labels.

    For each size, `draws` lists are drawn; the samples whose truth is on the list are scored over it alone.

    Args:
        log_prob: [N, L].
        truth: int [N].
        sizes: numbers of candidates, from 2 on; L is the whole list.
        draws: lists for each size.
        seed: of the draws.

    Returns:
        size -> (confidence [M], right [M], sample row [M]), the lists put behind one another.
    """
    rng = np.random.default_rng([seed, 6])
    found = {}
    width = log_prob.shape[1]
    for size in sizes:
        parts = []
        for _ in range(1 if size >= width else draws):
            labels = np.sort(rng.permutation(width)[:size])
            rows = np.flatnonzero(np.isin(truth, labels))
            if len(rows):
                part = calibrated(log_prob[np.ix_(rows, labels)], 1.0)
                first = part.argmax(axis=1)
                right = labels[first] == truth[rows]
                parts.append((np.exp(part[np.arange(len(rows)), first]), right.astype(np.float64), rows))
        if parts:
            confidence, right, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            found[int(size)] = (confidence, right, rows)
    return found


def _derivatives(
    scores: NDArray[Any],
    truth: NDArray[np.int64],
    rows: NDArray[np.int64],
    prior: NDArray[np.float64] | None,
    theta: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Mean loss, gradient of each sample [N, K], mean Hessian [K, K]; in slices, whatever L."""
    size = len(theta)
    gradient = np.empty((len(rows), size))
    hessian, loss = np.zeros((size, size)), 0.0
    step = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        values = scores[part].astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError("temperature: scores must be finite; a label that is impossible cannot be calibrated")
        values -= values.max(axis=1, keepdims=True)  # the features keep a modest size
        features = [values] if prior is None else [values, np.broadcast_to(prior, values.shape)]
        linear = sum(weight * feature for weight, feature in zip(theta, features, strict=True))
        linear = np.asarray(linear)
        linear = linear - linear.max(axis=1, keepdims=True)
        normaliser = np.log(np.exp(linear).sum(axis=1))
        probability = np.exp(linear - normaliser[:, None])
        own = (np.arange(len(part)), truth[part])
        loss += float((normaliser - linear[own]).sum())
        means = [(probability * feature).sum(axis=1) for feature in features]
        for i, one in enumerate(features):
            gradient[start : start + step, i] = means[i] - one[own]
            for j, two in enumerate(features[: i + 1]):
                hessian[i, j] += float(((probability * one * two).sum(axis=1) - means[i] * means[j]).sum())
                hessian[j, i] = hessian[i, j]
    return loss / len(rows), gradient, hessian / len(rows)


def _sandwich(
    gradient: NDArray[np.float64], hessian: NDArray[np.float64], unit: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Standard errors [K], robust to dependence within units."""
    sums = np.stack([np.bincount(unit, gradient[:, k]) for k in range(gradient.shape[1])], axis=1)
    inverse = np.linalg.pinv(hessian * len(gradient))
    return np.sqrt(np.maximum(np.diag(inverse @ (sums.T @ sums) @ inverse), 0.0))


def _cluster_mean(values: NDArray[np.float64], unit: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Mean and its standard error between units (linearised ratio of sums, Cochran 1977, chapter 2)."""
    mean = float(values.mean())
    _, code = np.unique(unit, return_inverse=True)
    sums = np.bincount(code.reshape(-1), values - mean)
    units = len(sums)
    if units < 2:
        return mean, 0.0
    return mean, float(np.sqrt(units / (units - 1) * (sums**2).sum()) / len(values))
