"""Baselines that keep one honest: what majority, place, climate and plain trees reach on the same fold."""

from __future__ import annotations

from collections.abc import Callable

from geotreeclip.evaluation.baselines.fold import Fold, Scores
from geotreeclip.evaluation.baselines.plain import (
    FOREST,
    NEIGHBOUR_KM,
    NEIGHBOURS,
    country_majority,
    forest_features,
    location_neighbours,
    majority,
    random_forest,
)

__all__ = [
    "BASELINES",
    "FOREST",
    "NEIGHBOURS",
    "NEIGHBOUR_KM",
    "SEEDED",
    "Fold",
    "Scores",
    "country_majority",
    "forest_features",
    "location_neighbours",
    "majority",
    "random_forest",
]

BASELINES: dict[str, tuple[Callable[[Fold], Scores], str]] = {
    "majority": (majority, "none"),
    "location neighbours": (location_neighbours, "location"),
    "random forest": (random_forest, "environment"),
}
"""Baselines of the spatial benchmark, which need places and environment alone: name to the baseline and its inputs, as
reports name them. `geotreeclip.evaluation.baselines.systems` has them all."""

SEEDED = ("random forest",)
"""Those of them whose result depends on the seed."""
