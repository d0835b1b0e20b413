"""Scores of parts of a set: by rarity, by continent, by any column; and the mean over places rather than over samples.

Shape letters: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.continents import CONTINENTS, continent_of_country, continent_of_place
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval
from geotreeclip.evaluation.metrics import RARITY_GROUPS, bootstrap_of, hits_at
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.ranking import rank_codes

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "unknown"


class Stratum(NamedTuple):
    """Scores of the samples of one group.

    Attributes:
        name: of the group; samples of no group are "unknown".
        n: samples.
        classes: distinct true classes among them.
        top1: share right at first.
        macro_top1: mean over the true classes.
    """

    name: str
    n: int
    classes: int
    top1: Interval
    macro_top1: Interval


def by_group(
    predictions: Predictions,
    groups: ArrayLike,
    *,
    rank: str | None = None,
    order: Sequence[str] = (),
    bootstrap: BlockBootstrap | None = None,
) -> list[Stratum]:
    """Scores of each group of samples.

    Args:
        predictions: of N samples.
        groups: [N] names; "" is reported as "unknown", so that every sample is counted somewhere.
        rank: rank to score at, the predictions' own by default.
        order: names in the order wanted; others follow by name, unknown last.
        bootstrap: resamples to share.
    """
    names = np.asarray(groups, dtype=str)
    if names.shape != (len(predictions),):
        raise InputError(f"groups: {names.shape} names for {len(predictions)} samples")
    rank = rank or predictions.rank
    bootstrap = bootstrap or bootstrap_of(predictions)
    hits = hits_at(predictions, rank, 1)
    own = rank == predictions.rank
    truth = predictions.truth if own else rank_codes(predictions.classes, rank)[predictions.truth]
    present = sorted(set(names.tolist()), key=lambda name: (name == "", _place(name, order), name))
    strata = []
    for name in present:
        rows = names == name
        strata.append(
            Stratum(
                name or UNKNOWN,
                int(rows.sum()),
                len(np.unique(truth[rows])),
                bootstrap.mean(hits, rows),
                bootstrap.macro(hits, truth, rows),
            )
        )
    return strata


def by_rarity(predictions: Predictions, **options: BlockBootstrap | None) -> list[Stratum]:
    """Scores by rarity of the species; none where the predictions state no rarity."""
    if predictions.rarity is None:
        return []
    return by_group(predictions, predictions.rarity, order=RARITY_GROUPS, bootstrap=options.get("bootstrap"))


def by_continent(
    predictions: Predictions, countries: ArrayLike | None = None, bootstrap: BlockBootstrap | None = None
) -> list[Stratum]:
    """Scores by continent, from country codes or, where they are unknown, from coarse boxes; none without either."""
    groups = continents_of(predictions, countries)
    return [] if groups is None else by_group(predictions, groups, order=CONTINENTS, bootstrap=bootstrap)


def continents_of(predictions: Predictions, countries: ArrayLike | None = None) -> NDArray[np.str_] | None:
    """Continent [N] of each sample, "" where unknown; None where neither country nor place is known of any.

    Args:
        predictions: with coordinates or without.
        countries: [N] ISO 3166-1 alpha-2 codes, "" unknown; they go before the coordinates.
    """
    found = np.full(len(predictions), "", dtype="<U13")
    if countries is not None:
        found = continent_of_country(countries).astype("<U13")
    if predictions.longitude is not None and predictions.latitude is not None:
        by_place = continent_of_place(predictions.longitude, predictions.latitude)
        found = np.where(found == "", by_place, found)
    return found if (found != "").any() else None


def countries_of(predictions: Predictions, samples: pd.DataFrame) -> NDArray[np.str_]:
    """Country code [N] of each sample, looked up by sample id in the table of a set; "" where it has none.

    Raises:
        DataError: the table lacks a column, or none of the samples is in it.
    """
    missing = [name for name in ("sample_id", "country") if name not in samples.columns]
    if missing:
        raise DataError(
            f"the table of samples lacks {', '.join(missing)}; it has {', '.join(map(str, samples.columns))}"
        )
    known = dict(zip(samples["sample_id"].astype(str), samples["country"].fillna("").astype(str), strict=True))
    found = [known.get(name) for name in predictions.sample_id.tolist()]
    if all(code is None for code in found):
        raise DataError("none of the scored samples is in the table of samples; is it that of another set?")
    return np.array([code or "" for code in found], dtype=str)


def mean_over_blocks(predictions: Predictions, rank: str | None = None) -> Interval:
    """Top-1 with every spatial block counting alike, however many samples it holds.

    Records crowd around cities and roads; a map is used everywhere. The interval resamples blocks.
    """
    hits = hits_at(predictions, rank or predictions.rank, 1)
    if predictions.block is None:
        return bootstrap_of(predictions).mean(hits)
    _, code = np.unique(predictions.block, return_inverse=True)
    code = code.reshape(-1)
    means = np.bincount(code, hits) / np.bincount(code)
    return BlockBootstrap(np.arange(len(means))).mean(means)


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
