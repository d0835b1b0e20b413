"""Linear heads fitted to a few labelled samples, each with its strength of regularisation chosen on them alone.

Shape letters: N support samples, Q others, F features, L labels, P settings of a path.

A solver turns samples into a *path*: one linear head for each strength of regularisation, strongest first. `fit_path`
scores the path on inner folds of the support by log loss, averages the heads of the settings by how well they did,
refitted to the whole support, and sets the temperature that the held-out scores ask for. No solver sees a query sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.models.head import LinearHead

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Solver = Callable[[Floats, Integers, Integers], "Iterable[tuple[str, LinearHead]]"]

INNER_FOLDS = 5
LEAVE_ONE_OUT = 60  # samples or groups up to which each is held out by itself
CERTAINTY = 0.5  # of the weights of settings, see `fit_path`
LEAST = 0.01  # settings of less weight are left out
LDA_SHRINKAGE = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003)
LOGISTIC_PENALTY = (100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
_TEMPERATURES = np.logspace(-2, 2, 81)
_SPREAD_FLOOR = 1e-6  # of a feature's total deviation: what varies less within labels is taken for rounding


@dataclass(frozen=True, eq=False)
class Fit:
    """A head and how it was chosen.

    Attributes:
        head: fitted to the whole support.
        setting: the choice in words.
        loss: log loss (nats) of the support samples when held out, NaN where a single shot leaves none.
        held_out: float64 [N, L], scores of each support sample from heads that had not seen it; None likewise.
        scored: bool [N], samples whose label was among those learnt when they were held out.
    """

    head: LinearHead
    setting: str
    loss: float = float("nan")
    held_out: Floats | None = None
    scored: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Folds:
    """Inner folds of the support, int64 [N]: few for heads that are slow to fit, many for those that are quick."""

    few: Integers
    many: Integers


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def balanced_log_loss(scores: Floats, truth: Integers) -> float:
    """Mean over labels of the mean log loss (nats) of their samples, so that no label outweighs another."""
    loss = -log_softmax(scores)[np.arange(len(truth)), truth]
    count = np.bincount(truth)
    return float((np.bincount(truth, loss)[count > 0] / count[count > 0]).mean())


def inner_folds(labels: Integers, groups: NDArray[Any] | None = None, folds: int = INNER_FOLDS) -> Folds | None:
    """Folds on which settings are chosen; None where every label has a single sample and nothing can be held out.

    Groups (spatial blocks) stay whole, so that a setting is not chosen for what it makes of neighbours; unless every
    label lies in a single one. Up to 60 groups are left out one by one where fitting is quick.

    Args:
        labels: int [N], 0 to L - 1.
        groups: [N], or None for samples on their own.
        folds: at most so many for heads that are slow to fit.
    """
    samples = np.arange(len(labels))
    unit = samples if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    table = _cross_table(unit, labels)
    if ((table > 0).sum(axis=0) < 2).all():
        unit, table = samples, _cross_table(samples, labels)
        if ((table > 0).sum(axis=0) < 2).all():
            return None
    filled = np.zeros((min(folds, len(table)), table.shape[1]))
    fold_of = np.empty(len(table), dtype=np.int64)
    size = np.maximum(table.sum(axis=0), 1)
    for row in np.argsort(-table.sum(axis=1), kind="stable"):  # large groups first, each where its labels are fewest
        cost = ((2 * filled + table[row]) * table[row] / size**2).sum(axis=1)  # growth of the sum of squared shares
        fold_of[row] = int(np.lexsort((filled.sum(axis=1), cost))[0])
        filled[fold_of[row]] += table[row]
    few = fold_of[unit]
    return Folds(few, unit if len(table) <= LEAVE_ONE_OUT else few)


def _cross_table(unit: Integers, labels: Integers) -> Floats:
    table = np.zeros((unit.max() + 1, labels.max() + 1))
    np.add.at(table, (unit, labels), 1)
    return table


def fit_path(solver: Solver, features: NDArray[Any], labels: Integers, count: int, fold: Integers | None) -> Fit:
    """Weigh the settings of a solver's path on the inner folds, refit, and set the temperature.

    The heads of all settings are averaged with weights exp(-n loss / 2), n samples of that log loss when held out
    (pseudo-Bayesian model averaging, Geisser and Eddy 1979; halved, as held-out losses of few samples are far from
    independent). With a dozen samples the single best setting is mostly luck; with many the average is the best one.

    Args:
        solver: (features [N, F], codes [N], labels [L]) -> path of (setting, head), strongest regularisation first; the
            codes are rows of the labels.
        features: [N, F], NaN where missing.
        labels: int [N], 0 to L - 1, each of them there.
        count: L.
        fold: of `inner_folds`; None takes the first (strongest) setting.

    Returns:
        The fit.

    Raises:
        InputError: a label has no sample.
    """
    values = np.asarray(features, dtype=np.float64)
    everything = np.arange(count)
    if absent := sorted(set(everything.tolist()) - set(labels.tolist())):
        raise InputError(f"label {absent[0]} of {count} has no support sample")
    if fold is None:
        setting, head = next(iter(solver(values, labels, everything)))
        return Fit(head, f"{setting}, not chosen: one shot")
    scores: dict[str, Floats] = {}
    scored = np.zeros(len(labels), dtype=bool)
    for number in np.unique(fold):
        held = fold == number
        present, codes = np.unique(labels[~held], return_inverse=True)
        scored[held] = np.isin(labels[held], present)
        for setting, head in solver(values[~held], codes.reshape(-1), present):
            table = scores.setdefault(setting, np.full((len(labels), count), -np.inf))
            table[np.ix_(held, present)] = head.logits(values[held])
    # Settings are compared at their own best temperature.
    rated = {setting: best_temperature(table[scored], labels[scored]) for setting, table in scores.items()}
    losses = np.array([loss for _, loss in rated.values()])
    weight = np.exp(-CERTAINTY * scored.sum() * (losses - losses.min()))
    weight = np.where(weight < LEAST * weight.sum(), 0.0, weight)
    share = dict(zip(rated, weight / weight.sum(), strict=True))
    used = {setting: value for setting, value in share.items() if value > 0}
    held_out = np.asarray(sum(scores[setting] * (value * rated[setting][0]) for setting, value in used.items()))
    factor, loss = best_temperature(held_out[scored], labels[scored])
    heads, values_of = [], []
    for setting, head in solver(values, labels, everything):
        if setting in used:
            heads.append(head)
            values_of.append(used[setting] * rated[setting][0] * factor)
        if len(heads) == len(used):  # weaker regularisation is not asked for
            break
    words = ", ".join(f"{setting} ({value:.2f})" if len(used) > 1 else setting for setting, value in used.items())
    return Fit(_sum(heads, np.array(values_of)), words, loss, held_out * factor, scored)


def best_temperature(scores: Floats, truth: Integers) -> tuple[float, float]:
    """Factor on scores of the lowest log loss, and that loss."""
    losses = [balanced_log_loss(scores * factor, truth) for factor in _TEMPERATURES]
    best = int(np.argmin(losses))
    return float(_TEMPERATURES[best]), losses[best]


# -- solvers -----------------------------------------------------------------------------------------------------------


def prototype_path(features: Floats, labels: Integers, present: Integers) -> list[tuple[str, LinearHead]]:
    """Nearest prototype: cosine to the mean of each label's embeddings (Snell et al. 2017, with the cosine).

    The embeddings have unit length, so that the cosine is linear in them.
    """
    filled, fill = _filled(features)
    mean = _means(filled, labels, len(present))
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    weight = mean / np.where(length > 0, length, 1.0)
    return [("cosine", LinearHead(weight, np.zeros(len(present)), fill))]


def lda_path(features: Floats, labels: Integers, present: Integers) -> list[tuple[str, LinearHead]]:
    """Linear discriminant analysis with the pooled covariance shrunk towards its diagonal, uniform prior.

    Features are divided by their deviation within labels; the correlation R is then replaced by (1 - s) R + s I
    (Friedman 1989). Solved in the span of the residuals, so that F may be far larger than N.
    """
    filled, fill = _filled(features)
    mean = _means(filled, labels, len(present))
    residual = filled - mean[labels]
    freedom = len(labels) - len(present)
    total = filled.std(axis=0)
    within = np.sqrt((residual**2).sum(axis=0) / max(freedom, 1))
    alone = freedom <= 0  # one sample a label: nothing is known of the spread within labels
    scale = np.where(within > _SPREAD_FLOOR * total, within, total) if not alone else total
    scale = np.where(scale > 0, scale, np.inf)  # a constant feature tells nothing
    centre = filled.mean(axis=0)
    mean = (mean - centre) / scale
    path = []
    if not alone:
        _, singular, axes = np.linalg.svd(residual / scale, full_matrices=False)
        variance = singular**2 / freedom
        projected = mean @ axes.T
    for shrinkage in LDA_SHRINKAGE[:1] if alone else LDA_SHRINKAGE:
        weight = mean / shrinkage
        if not alone:
            inverse = 1 / ((1 - shrinkage) * variance + shrinkage)
            weight = weight + (projected * (inverse - 1 / shrinkage)) @ axes
        bias = -(weight * mean).sum(axis=1) / 2
        path.append((f"shrinkage {shrinkage:g}", _unscaled(weight, bias, centre, scale, fill)))
    return path


def logistic_path(features: Floats, labels: Integers, present: Integers) -> Iterator[tuple[str, LinearHead]]:
    """Multinomial logistic regression on standardised features with an L2 penalty; every label weighs the same."""
    filled, fill = _filled(features)
    centre, scale = filled.mean(axis=0), filled.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    standard = (filled - centre) / scale
    start = np.zeros((len(present), standard.shape[1]))
    for penalty, weight, bias in _penalised(standard, labels, start, np.zeros(len(present))):
        yield f"penalty {penalty:g}", _unscaled(weight, bias, centre, scale, fill)


def anchored_path(anchor: LinearHead) -> Solver:
    """Solver of a linear head that starts at text embeddings and is held to them (L2 distance as the penalty).

    Args:
        anchor: the head of zero-shot classification; its biases are free to move.
    """
    size = float(np.square(anchor.weight).sum(axis=1).mean()) ** 0.5 or 1.0  # makes the penalty free of units

    def path(features: Floats, labels: Integers, present: Integers) -> Iterator[tuple[str, LinearHead]]:
        filled, fill = _filled(features)
        if anchor.weight.shape[1] != filled.shape[1]:
            raise InputError(f"text embeddings {anchor.weight.shape} do not fit {filled.shape[1]} features")
        start, offset = anchor.weight[present], anchor.bias[present]
        yield "text alone", LinearHead(start, offset, fill)
        for penalty, weight, bias in _penalised(filled * size, labels, start / size, offset):
            yield f"penalty {penalty:g}", LinearHead(weight * size, bias, fill)

    return path


def _penalised(
    features: Floats, labels: Integers, start: Floats, offset: Floats
) -> Iterator[tuple[float, Floats, Floats]]:
    """Minimise mean loss + penalty / 2 |W - start|^2 along the penalties, biases from `offset` on and not penalised.

    W - start lies in the span of the samples.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ConfigError("fitting heads needs scipy: pip install 'geotreeclip[eval]'") from error

    count = len(start)
    _, singular, axes = np.linalg.svd(features, full_matrices=False)
    axes = axes[singular > 1e-10 * max(singular.max(initial=0.0), 1e-300)]
    reduced = features @ axes.T
    base = features @ start.T + offset
    share = 1 / (np.bincount(labels, minlength=count)[labels] * len(np.unique(labels)))
    target = np.eye(count)[labels]
    rank = len(axes)

    def loss(flat: Floats, penalty: float) -> tuple[float, Floats]:
        step = flat.reshape(count, rank + 1)
        log_probability = log_softmax(base + reduced @ step[:, :rank].T + step[:, rank])
        value = -(share * log_probability[np.arange(len(labels)), labels]).sum()
        value += penalty / 2 * np.square(step[:, :rank]).sum()
        error = (np.exp(log_probability) - target) * share[:, None]
        slope = np.concatenate([error.T @ reduced + penalty * step[:, :rank], error.sum(axis=0)[:, None]], axis=1)
        return float(value), slope.reshape(-1)

    current = np.zeros(count * (rank + 1))
    for penalty in LOGISTIC_PENALTY:
        found = minimize(loss, current, args=(penalty,), jac=True, method="L-BFGS-B", options={"maxiter": 100})
        current = found.x
        step = current.reshape(count, rank + 1)
        yield penalty, start + step[:, :rank] @ axes, offset + step[:, rank]


def _filled(features: Floats) -> tuple[Floats, Floats]:
    """Features with the mean of the known values where missing (0 where none is known), and these means."""
    known = ~np.isnan(features)
    fill = np.where(known, features, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, features, fill), fill


def _means(features: Floats, labels: Integers, count: int) -> Floats:
    number = np.bincount(labels, minlength=count)
    sums = np.zeros((count, features.shape[1]))
    np.add.at(sums, labels, features)
    return np.asarray(sums / number[:, None])


def _unscaled(weight: Floats, bias: Floats, centre: Floats, scale: Floats, fill: Floats) -> LinearHead:
    """A head of standardised features as one of the features themselves."""
    weight = weight / scale
    return LinearHead(weight, bias - weight @ centre, fill)


# -- several heads as one ----------------------------------------------------------------------------------------------


def combine(fits: Sequence[Fit], names: Sequence[str], labels: Integers) -> Fit:
    """Weighted sum of the scores of several heads over the same features: a linear head again.

    The weights are stacked (Wolpert 1992): they lie in the simplex and minimise the log loss of the held-out support
    scores, to which a prior worth one sample is added (the cross-entropy from equal weights), so that few samples never
    rule a head out. Without held-out scores all weigh the same.
    """
    if any(fit.held_out is None for fit in fits):
        weight = np.full(len(fits), 1 / len(fits))
        head = _sum([fit.head for fit in fits], weight)
        return Fit(head, "equal weights, not chosen: one shot")
    from scipy.optimize import minimize

    scored = fits[0].scored
    scores = np.stack([fit.held_out[scored] for fit in fits if fit.held_out is not None])
    truth = labels[scored]

    def objective(free: Floats) -> float:
        log_weight = log_softmax(free)
        mixed = np.tensordot(np.exp(log_weight), scores, axes=1)
        return float(len(truth) * balanced_log_loss(mixed, truth) - log_weight.mean())

    weight = np.exp(log_softmax(minimize(objective, np.zeros(len(fits)), method="L-BFGS-B").x))
    factor, loss = best_temperature(np.tensordot(weight, scores, axes=1), truth)
    words = "; ".join(f"{w:.2f} {name} ({fit.setting})" for w, name, fit in zip(weight, names, fits, strict=True))
    held_out = np.zeros((len(labels), scores.shape[2]))
    held_out[scored] = np.tensordot(weight, scores, axes=1) * factor
    return Fit(_sum([fit.head for fit in fits], weight * factor), words, loss, held_out, scored)


def _sum(heads: Sequence[LinearHead], weight: Floats) -> LinearHead:
    """Weighted sum of heads. Fills agree where heads read a feature; a head that does not read it has 0 there."""
    fill = np.zeros_like(heads[0].fill)
    for head in heads:
        fill = np.where(fill == 0, head.fill, fill)
    return LinearHead(
        np.asarray(sum(w * head.weight for w, head in zip(weight, heads, strict=True))),
        np.asarray(sum(w * head.bias for w, head in zip(weight, heads, strict=True))),
        fill,
    )
