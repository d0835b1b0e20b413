"""Gradient boosting and extremely randomised trees on any of the inputs, in bounded time.

Boosting grows one tree for each taxon in every round, so its cost is rounds x taxa x samples. A budget of trees bounds
it: the number of rounds is at most ``trees / taxa``, and with fewer than `FEWEST_ROUNDS` the baseline refuses and
points to the forest, whose trees serve all taxa at once. Large sets are thinned by seed to `MOST_SAMPLES` training
samples.

Shape letters: N samples, M test samples, S training taxa, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.baselines.features import features, filled
from geotreeclip.evaluation.baselines.fold import Fold, Scores, finish, training_labels
from geotreeclip.evaluation.splits import assign_folds

__all__ = ["EXTRA_TREES", "FEWEST_ROUNDS", "MOST_SAMPLES", "Budget", "extra_trees", "gradient_boosting"]

BOOSTING = {
    "learning_rate": 0.1,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 10,
    "max_features": 0.3,
    "l2_regularization": 1.0,
    "max_bins": 127,
}
"""Parameters of boosting, scikit-learn's names: small trees on a third of the features a split, as many taxa have tens
of samples."""

EXTRA_TREES = {"n_estimators": 300, "max_features": 0.2, "min_samples_leaf": 2}
"""Parameters of the extremely randomised trees (Geurts et al. 2006), scikit-learn's names."""

FEWEST_ROUNDS = 10
MOST_SAMPLES = 200_000
MOST_BYTES = 8e9
"""Memory that a forest may take: a node keeps a share for every taxon."""

_PATIENCE = 10
"""Rounds without a better validation loss before boosting stops."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What boosting may cost.

    Attributes:
        rounds: Rounds at most.
        trees: Trees at most, over all rounds and taxa.
        samples: Training samples at most, drawn by seed.
    """

    rounds: int = 150
    trees: int = 9000
    samples: int = MOST_SAMPLES


def gradient_boosting(fold: Fold, inputs: str = "all", budget: Budget | None = None) -> Scores:
    """Histogram gradient boosting (scikit-learn's HistGradientBoostingClassifier) with missing values as they are.

    The number of rounds is the one with the least log loss on the fold's validation samples, or on a tenth of the
    blocks of training where the fold names none; the trees never learn from those.

    Raises:
        ConfigError: scikit-learn is absent, or the taxa are too many for the budget.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise ConfigError("gradient boosting needs scikit-learn: pip install 'geotreeclip[eval]'") from error
    budget = budget or Budget()
    labels, _, prior = training_labels(fold)
    rounds = min(budget.rounds, budget.trees // max(1, len(labels)))
    if rounds < FEWEST_ROUNDS:
        raise ConfigError(
            f"gradient boosting grows a tree for each of {len(labels):,} taxa in every round: {budget.trees:,} trees "
            f"make {rounds} rounds, fewer than {FEWEST_ROUNDS}; raise --trees, or take extra-trees"
        )
    table = features(fold, inputs)
    fit, held = fitting_rows(fold, budget.samples)
    fit_code, held_code = (np.searchsorted(labels, fold.taxon[rows]) for rows in (fit, held))
    probability = np.zeros((len(fold.test), len(labels)))
    if len(np.unique(fit_code)) < 2:  # one taxon: nothing to tell apart
        probability[:, fit_code[0]] = 1
        return finish(labels, probability, prior, 1 / len(fit), "one taxon")
    validated = len(held) > 0
    model = HistGradientBoostingClassifier(
        **BOOSTING,
        max_iter=rounds,
        early_stopping=validated,
        n_iter_no_change=_PATIENCE,
        random_state=fold.seed,
    )
    more: dict[str, Any] = {"X_val": table[held], "y_val": held_code} if validated else {}
    model.fit(table[fit], fit_code, **more)
    best = model.n_iter_
    if validated:
        # The first entry is the loss before any tree
        best = max(1, int(np.argmax(model.validation_score_)))
    for grown, shares in enumerate(model.staged_predict_proba(table[fold.test]), 1):
        if grown == best:
            probability[:, model.classes_] = shares
            break
    method = f"{best} of at most {rounds} rounds, {table.shape[1]} features, {len(fit)} samples"
    return finish(labels, probability, prior, 1 / len(fit), method)


def extra_trees(fold: Fold, inputs: str = "all", budget: Budget | None = None) -> Scores:
    """Extremely randomised trees; a missing value is the median of training. Parameters: `EXTRA_TREES`.

    Raises:
        ConfigError: scikit-learn is absent, or the forest would not fit in memory.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
    except ImportError as error:
        raise ConfigError("extra trees need scikit-learn: pip install 'geotreeclip[eval]'") from error
    labels, _, prior = training_labels(fold)
    rows = _thinned(fold.train, (budget or Budget()).samples, fold.seed)
    trees, leaf = int(EXTRA_TREES["n_estimators"]), int(EXTRA_TREES["min_samples_leaf"])
    size = trees * 2 * len(rows) / leaf * len(labels) * 8
    if size > MOST_BYTES:
        raise ConfigError(
            f"extra trees on {len(rows):,} samples of {len(labels):,} taxa would take about {size / 1e9:,.0f} GB; "
            "lower --train-samples"
        )
    table = filled(features(fold, inputs), fold.train)
    forest = ExtraTreesClassifier(**EXTRA_TREES, random_state=fold.seed, n_jobs=fold.jobs)
    forest.fit(table[rows], np.searchsorted(labels, fold.taxon[rows]))
    probability = np.zeros((len(fold.test), len(labels)))
    probability[:, forest.classes_] = forest.predict_proba(table[fold.test])
    method = f"{trees} trees, {table.shape[1]} features, {len(rows)} samples"
    return finish(labels, probability, prior, 1 / trees, method)


def fitting_rows(fold: Fold, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from, and rows to choose the number of rounds on.

    A taxon that would be held out whole stays among the rows to learn from: rounds cannot be judged by it.
    """
    rows = _thinned(fold.train, most, fold.seed)
    if len(fold.validation):
        held = np.isin(rows, fold.validation)
    elif len(np.unique(fold.block[rows])) >= 2:
        held = assign_folds(fold.block[rows], min(10, len(np.unique(fold.block[rows]))), fold.seed) == 0
    else:
        held = np.zeros(len(rows), dtype=bool)
    held &= np.isin(fold.taxon[rows], fold.taxon[rows[~held]])
    return rows[~held], rows[held]


def _thinned(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng([seed, 0xBA5E]).choice(rows, most, replace=False))
