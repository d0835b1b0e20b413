"""Every baseline by name, and its scores on a fold as predictions.

Shape letters: M test samples, S training taxa.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.baselines.clip import ClipModel, clip_log_prob
from geotreeclip.evaluation.baselines.fold import Fold, Scores
from geotreeclip.evaluation.baselines.plain import country_majority, location_neighbours, majority, random_forest
from geotreeclip.evaluation.baselines.trees import Budget, extra_trees, gradient_boosting
from geotreeclip.evaluation.collect import Collector, Scored, Truth
from geotreeclip.evaluation.predictions import Context
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["DEFAULT", "SYSTEMS", "WITH_IMAGES", "System", "clip_predictions", "predictions_of", "usable"]

_BATCH = 4096


@dataclass(frozen=True, slots=True)
class System:
    """A baseline.

    Attributes:
        name: Column `system` of reports; the inputs stand in a column of their own.
        inputs: Column `inputs`.
        run: The baseline, bounded by a budget.
        seeded: Whether the result depends on the seed.
    """

    name: str
    inputs: str
    run: Callable[[Fold, Budget], Scores]
    seeded: bool = False


def _plain(function: Callable[[Fold], Scores]) -> Callable[[Fold, Budget], Scores]:
    return lambda fold, _: function(fold)


def _boosting(inputs: str) -> System:
    run = partial(_with_budget, gradient_boosting, inputs)
    return System("gradient boosting", inputs, run, seeded=True)


def _extra(inputs: str) -> System:
    return System("extra trees", inputs, partial(_with_budget, extra_trees, inputs), seeded=True)


def _with_budget(function: Callable[[Fold, str, Budget], Scores], inputs: str, fold: Fold, budget: Budget) -> Scores:
    return function(fold, inputs, budget)


SYSTEMS: dict[str, System] = {
    "majority": System("majority", "none", _plain(majority)),
    "country-majority": System("country majority", "country", _plain(country_majority)),
    "location-neighbours": System("location neighbours", "location", _plain(location_neighbours), seeded=True),
    "random-forest": System("random forest", "environment", _plain(random_forest), seeded=True),
    "extra-trees": _extra("all"),
    "extra-trees-image": _extra("image"),
    "extra-trees-environment": _extra("environment"),
    "extra-trees-no-location": _extra("no-location"),
    "boosting-environment": _boosting("environment"),
    "boosting-image": _boosting("image"),
    "boosting-no-location": _boosting("no-location"),
    "boosting": _boosting("all"),
}
"""Name on the command line -> baseline, cheap ones first. ``boosting`` sees everything that the model sees."""

DEFAULT = tuple(name for name in SYSTEMS if not name.startswith("extra-trees-"))


WITH_IMAGES = ("all", "image", "no-location")
"""Inputs that imagery is part of."""


def usable(names: Sequence[str], *, has_images: bool, has_countries: bool) -> tuple[list[str], list[str]]:
    """Which baselines a set has the inputs for, and why the others are left out."""
    kept, left_out = [], []
    for name in names:
        inputs = SYSTEMS[name].inputs
        if inputs == "country" and not has_countries:
            left_out.append(f"{name}: the samples state no country")
        elif inputs in ("all", "image") and not has_images:
            left_out.append(f"{name}: the set has no imagery; {name.partition('-')[0]}-environment is all of it")
        else:
            kept.append(name)
    return kept, left_out


def predictions_of(
    name: str,
    fold: Fold,
    dataset: PackedDataset,
    truth: Truth,
    context: Context,
    *,
    priors: Sequence[str] = ("uniform", "training"),
    budget: Budget | None = None,
) -> list[Scored]:
    """Fit a baseline on a fold and score its test samples against the taxa of the training part.

    Args:
        name: Key of `SYSTEMS`.
        fold: The fold.
        dataset: The set that it is of.
        truth: Of the test samples, in the order of `fold.test`.
        context: Set, split and fold; the rest is filled in.
        priors: "training" are the probabilities as they are; "uniform" divides them by the shares in training.
        budget: Of the trees.

    Returns:
        One for each prior.
    """
    system = SYSTEMS[name]
    scores = system.run(fold, budget or Budget())
    candidates = dataset.taxonomy.take(scores.labels.tolist())
    shares = np.unique(fold.taxon[fold.train], return_counts=True)[1]
    context = replace(
        context,
        system=system.name,
        inputs=system.inputs,
        candidates=f"{len(candidates)} taxa of the training part",
        method=scores.method,
        seed=fold.seed if system.seeded else None,
    )
    return [
        _collected(scores.log_prob, candidates, truth, replace(context, prior=prior), log_prior)
        for prior, log_prior in (("uniform", np.log(shares)), ("training", np.zeros(len(shares))))
        if prior in priors
    ]


def clip_predictions(
    clip: ClipModel,
    fold: Fold,
    dataset: PackedDataset,
    truth: Truth,
    context: Context,
    *,
    priors: Sequence[str] = ("uniform", "training"),
    progress: bool = False,
) -> list[Scored]:
    """`predictions_of` for an open_clip model on true-colour composites, which learns nothing from the training part.

    Under the prior "training" its probabilities are multiplied by the shares in training.
    """
    labels, shares = np.unique(fold.taxon[fold.train], return_counts=True)
    candidates = dataset.taxonomy.take(labels.tolist())
    log_prob = clip_log_prob(clip, dataset, fold.test, candidates, progress=progress)
    context = replace(
        context,
        system=clip.name,
        inputs="true colour",
        candidates=f"{len(candidates)} taxa of the training part",
        method="mean over months",
    )
    return [
        _collected(log_prob, candidates, truth, replace(context, prior=prior), -log_prior)
        for prior, log_prior in (("uniform", np.zeros(len(shares))), ("training", np.log(shares)))
        if prior in priors
    ]


def _collected(
    log_prob: NDArray[np.float32], candidates: Taxonomy, truth: Truth, context: Context, log_prior: NDArray[Any]
) -> Scored:
    collector = Collector(candidates, truth, context)
    for start in range(0, len(log_prob), _BATCH):
        part = log_prob[start : start + _BATCH] - log_prior
        part = part - part.max(axis=1, keepdims=True)
        # Rounded, so that taxa whose quotient is the same in exact arithmetic tie (majority under the uniform prior)
        collector.add(np.round(part - np.log(np.exp(part).sum(axis=1, keepdims=True)), 6))
    return collector.finish()
