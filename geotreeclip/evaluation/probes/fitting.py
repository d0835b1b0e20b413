"""Probes of a frozen embedding: linear, ridge and nearest neighbours, each a path of settings, chosen on inner folds.

Shape letters: N training samples, M others, F features, K targets (classes, labels or quantities).

Targets are a matrix: one-hot rows for classes, 0 and 1 for several labels at once, numbers for regression. Every probe
predicts such a matrix, and every choice goes by the squared error to it (for classes and labels the score of Brier
1950, which is proper), so that probes and tasks are chosen alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.evaluation.few_shot.heads import log_softmax, logistic_path
from geotreeclip.evaluation.splits import assign_folds

Floats = NDArray[np.float64]
Predictor = Callable[[Floats], Floats]
Path = Callable[[Floats, Floats], "Mapping[str, Predictor]"]

TASKS = ("multiclass", "multilabel", "regression")
PROBES = ("linear", "ridge", "knn")
INNER_FOLDS = 5
NEIGHBOURS = (1, 5, 10, 20, 30, 50)
RIDGE_PENALTY = tuple(float(value) for value in np.logspace(-8, 4, 25))
LABEL_PENALTY = (1.0, 0.1, 0.01, 1e-3, 1e-4)
SHARPNESS = 0.07  # of the weights exp(cosine / 0.07), as in the k-NN protocol of Wu et al. 2018
_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class Chosen:
    """A fitted probe.

    Attributes:
        predict: features [M, F] to [M, K].
        setting: what was chosen, in words.
        held_out: [N, K], predictions of the training samples by probes that had not seen them.
    """

    predict: Predictor
    setting: str
    held_out: Floats


def choose(
    probe: str, task: str, features: Floats, target: Floats, units: NDArray[np.int64], *, seed: int = 0
) -> Chosen:
    """Choose a probe's setting on inner folds of the training samples, and refit it to all of them.

    Args:
        probe: of `PROBES`.
        task: of `TASKS`.
        features: [N, F], finite.
        target: [N, K].
        units: int64 [N], blocks or places that inner folds keep whole.
        seed: of the inner folds.

    Raises:
        ConfigError: an unknown probe or task.
        DataError: fewer than two units.
    """
    path = path_of(probe, task)
    count = min(INNER_FOLDS, len(np.unique(units)))
    if count < 2:
        raise DataError("probe: all training samples lie in one block, so nothing can be chosen; take smaller blocks")
    fold = assign_folds(units, count, seed)
    held_out: dict[str, Floats] = {}
    for number in range(count):
        held = fold == number
        others = features[held]
        for setting, predict in path(features[~held], target[~held]).items():
            held_out.setdefault(setting, np.full(target.shape, np.nan))[held] = predict(others)
    weight = _weights(task, target)
    size = np.where(target.std(axis=0) > 0, target.std(axis=0), 1.0) if task == "regression" else 1.0
    error = {
        setting: float((weight * np.square((found - target) / size).sum(axis=1)).sum())
        for setting, found in held_out.items()
        if not np.isnan(found).any()  # a number of neighbours that some inner fold does not have
    }
    best = min(error, key=lambda setting: error[setting])
    return Chosen(path(features, target)[best], best, held_out[best])


def _weights(task: str, target: Floats) -> Floats:
    """Weight of each sample in the choice: classes weigh alike; quantities and labels are taken as they are."""
    if task != "multiclass":
        return np.full(len(target), 1 / len(target))
    count = target.sum(axis=0)
    return np.asarray(1 / count[target.argmax(axis=1)])


def path_of(probe: str, task: str) -> Path:
    """The solver of a probe for a task. Raises ConfigError for an unknown one."""
    if task not in TASKS or probe not in PROBES:
        raise ConfigError(f"probe {probe!r} for task {task!r}: choose from {', '.join(PROBES)}; {', '.join(TASKS)}")
    if probe == "linear":
        return {"multiclass": _classes, "multilabel": _labels, "regression": ridge_path}[task]
    return ridge_path if probe == "ridge" else knn_path


def _standard(features: Floats) -> tuple[Floats, Floats, Floats]:
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    return (features - centre) / scale, centre, scale


def ridge_path(features: Floats, target: Floats) -> dict[str, Predictor]:
    """Ridge regression of every target on standardised features (Hoerl and Kennard 1970), intercept not penalised.

    The penalty is per sample: it minimises |y - X w|^2 / N + penalty |w|^2.
    """
    standard, centre, scale = _standard(features)
    mean = target.mean(axis=0)
    left, singular, right = np.linalg.svd(standard, full_matrices=False)
    projected = left.T @ (target - mean)
    path: dict[str, Predictor] = {}
    for penalty in reversed(RIDGE_PENALTY):
        shrunk = singular / (singular**2 + penalty * len(features))
        weight = right.T @ (shrunk[:, None] * projected)
        path[f"penalty {penalty:.3g}"] = _affine(weight / scale[:, None], centre, mean)
    return path


def _affine(weight: Floats, centre: Floats, mean: Floats) -> Predictor:
    return lambda features: np.asarray((features - centre) @ weight + mean)


def knn_path(features: Floats, target: Floats) -> dict[str, Predictor]:
    """Mean of the targets of the k nearest by cosine, weighted by exp(cosine / 0.07)."""
    counts = [k for k in NEIGHBOURS if k <= len(features)]
    neighbours = _Neighbours(_unit(features), max(counts))

    def predictor(k: int) -> Predictor:
        def predict(others: Floats) -> Floats:
            row, cosine = neighbours.of(others)
            weight = np.exp((cosine[:, :k] - cosine[:, :1]) / SHARPNESS)
            weight /= weight.sum(axis=1, keepdims=True)
            found = np.zeros((len(others), target.shape[1]))
            for place in range(k):  # a sum over neighbours that never holds [M, k, K] at once
                found += weight[:, place, None] * target[row[:, place]]
            return found

        return predict

    return {f"{k} neighbours": predictor(k) for k in counts}


class _Neighbours:
    """The nearest by cosine, nearest first; those of the last array asked for are kept for the other numbers k."""

    def __init__(self, reference: Floats, count: int) -> None:
        self._reference = reference.astype(np.float32)
        self._count = count
        self._asked: Floats | None = None
        self._found: tuple[NDArray[np.int64], Floats] | None = None

    def of(self, others: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Rows and cosines [M, count]."""
        if self._found is None or self._asked is not others:
            unit = _unit(others).astype(np.float32)
            rows = np.empty((len(unit), self._count), dtype=np.int64)
            cosines = np.empty((len(unit), self._count))
            for start in range(0, len(unit), _CHUNK):
                cosine = unit[start : start + _CHUNK] @ self._reference.T
                near = np.argpartition(-cosine, self._count - 1, axis=1)[:, : self._count]
                value = np.take_along_axis(cosine, near, axis=1)
                order = np.argsort(-value, axis=1, kind="stable")
                rows[start : start + _CHUNK] = np.take_along_axis(near, order, axis=1)
                cosines[start : start + _CHUNK] = np.take_along_axis(value, order, axis=1)
            self._asked, self._found = others, (rows, cosines)
        return self._found


def _unit(features: Floats) -> Floats:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if (length == 0).any():
        row = int(np.flatnonzero(length[:, 0] == 0)[0])
        raise InputError(f"probe: the embedding in row {row} has length 0, and no direction to compare; leave it out")
    return np.asarray(features / length)


def _classes(features: Floats, target: Floats) -> dict[str, Predictor]:
    """Multinomial logistic regression; classes weigh alike. A class without samples gets probability 0."""
    present, code = np.unique(target.argmax(axis=1), return_inverse=True)
    count = target.shape[1]

    def predictor(head: Any) -> Predictor:
        def predict(others: Floats) -> Floats:
            found = np.zeros((len(others), count))
            found[:, present] = np.exp(log_softmax(head.logits(others)))
            return found

        return predict

    return {setting: predictor(head) for setting, head in logistic_path(features, code.reshape(-1), present)}


def _labels(features: Floats, target: Floats) -> dict[str, Predictor]:
    """One logistic regression for each label on standardised features, the same L2 penalty for all."""
    from scipy.optimize import minimize
    from scipy.special import expit

    standard, centre, scale = _standard(features)
    width, count = standard.shape[1], target.shape[1]

    def loss(flat: Floats, penalty: float) -> tuple[float, Floats]:
        weight = flat.reshape(width + 1, count)
        score = standard @ weight[:-1] + weight[-1]
        value = (np.logaddexp(0, score) - target * score).sum() / len(target) + penalty / 2 * (weight[:-1] ** 2).sum()
        error = (expit(score) - target) / len(target)
        slope = np.concatenate([standard.T @ error + penalty * weight[:-1], error.sum(axis=0)[None]])
        return float(value), slope.reshape(-1)

    share = np.clip(target.mean(axis=0), 1e-4, 1 - 1e-4)
    current = np.concatenate([np.zeros((width, count)), np.log(share / (1 - share))[None]]).reshape(-1)
    path: dict[str, Predictor] = {}
    for penalty in LABEL_PENALTY:
        current = minimize(loss, current, args=(penalty,), jac=True, method="L-BFGS-B", options={"maxiter": 50}).x
        weight = current.reshape(width + 1, count)
        path[f"penalty {penalty:g}"] = _sigmoid(weight[:-1] / scale[:, None], centre, weight[-1])
    return path


def _sigmoid(weight: Floats, centre: Floats, bias: Floats) -> Predictor:
    from scipy.special import expit

    return lambda features: np.asarray(expit((features - centre) @ weight + bias))
