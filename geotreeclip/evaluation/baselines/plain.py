"""Baselines that need no images: what majority, place alone, and climate with place reach on the same fold.

They are refitted on the training samples of every fold and score over the taxa seen there. Each adds a small share of
the training prior to its probabilities, so that no taxon it has seen is ever impossible and its log loss is finite;
top-1 changes by that only where a baseline ties.

Shape letters: N samples of the set, M test samples, S training taxa, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.baselines.fold import Fold, Scores, finish, training_labels
from geotreeclip.evaluation.splits import assign_folds, nearest_km
from geotreeclip.schema import VARIABLE_INDEX, VARIABLE_NAMES
from geotreeclip.sphere import chord_to_km, search_tree, unit_vectors

NEIGHBOURS = (1, 3, 5, 10, 20, 30, 50, 100)
"""Numbers of neighbours that are tried on the training part."""

NEIGHBOUR_KM = 1.0
"""Neighbours weigh 1 / (distance + this), so that a duplicate of a place counts much, not everything."""

FOREST = {"n_estimators": 500, "max_features": "sqrt", "min_samples_leaf": 1, "criterion": "gini"}
"""Parameters of the random forest, scikit-learn's names."""


def majority(fold: Fold) -> Scores:
    """The shares of the taxa in training, for every sample alike."""
    labels, _, prior = training_labels(fold)
    return Scores(labels, np.log(np.tile(prior, (len(fold.test), 1))).astype(np.float32), "shares in training")


def country_majority(fold: Fold) -> Scores:
    """The shares of the taxa among the training samples of the same country.

    One more training sample, of the overall shares, is counted in every country, so a sample of a country that training
    has not, or that states none, gets the overall shares.

    Raises:
        DataError: The set states no countries.
    """
    labels, code, prior = training_labels(fold)
    if fold.country is None:
        raise DataError("country majority needs the countries of the samples; pack the set with a column country")
    names, place = np.unique(fold.country, return_inverse=True)
    place = place.reshape(-1)
    count = np.zeros((len(names), len(labels)))
    np.add.at(count, (place[fold.train], code), 1)
    count[names == ""] = 0
    at = count[place[fold.test]]
    total = at.sum(axis=1, keepdims=True)
    known = int((total > 0).sum())
    mixed = (at + prior) / (total + 1)
    method = f"shares in the country; {known} of {len(at)} test samples lie in a country of the training part"
    return Scores(labels, np.log(mixed).astype(np.float32), method)


def location_neighbours(fold: Fold) -> Scores:
    """Votes of the nearest training samples, weighted by great-circle distance.

    The number of neighbours is chosen from :data:`NEIGHBOURS` by top-1 over three folds of whole blocks within the
    training part, with the buffer of the fold between them.
    """
    labels, code, prior = training_labels(fold)
    lon, lat = fold.longitude, fold.latitude
    if not np.isfinite(lon).all() or not np.isfinite(lat).all():
        raise DataError("location neighbours need longitude and latitude of every sample; drop those without")
    train_lon, train_lat = lon[fold.train], lat[fold.train]
    most = _choose_neighbours(train_lon, train_lat, code, prior, fold)
    votes = _votes(train_lon, train_lat, code, lon[fold.test], lat[fold.test], (most,), len(labels))[most]
    return finish(labels, votes, prior, 1 / most, f"{most} neighbours, weights 1 / (distance + {NEIGHBOUR_KM:g} km)")


def random_forest(fold: Fold) -> Scores:
    """A random forest on every environmental variable that the training part has, and the place.

    Aspect enters as sine and cosine; missing values become the median of the training part. Parameters:
    :data:`FOREST`, the rest as scikit-learn has it.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise ConfigError("the random forest needs scikit-learn: pip install 'geotreeclip[eval]'") from error
    labels, code, prior = training_labels(fold)
    features = forest_features(fold)
    forest = RandomForestClassifier(**FOREST, random_state=fold.seed, n_jobs=fold.jobs)
    forest.fit(features[fold.train], code)
    probability = forest.predict_proba(features[fold.test])
    trees = int(FOREST["n_estimators"])  # type: ignore[call-overload]
    words = ", ".join(f"{name} {value}" for name, value in FOREST.items())
    return finish(labels, probability, prior, 1 / trees, f"{words}, {features.shape[1]} features")


def forest_features(fold: Fold) -> NDArray[np.float32]:
    """Features of all samples, [N, F], without missing values."""
    values = np.asarray(fold.environment, dtype=np.float64)
    aspect = VARIABLE_INDEX["aspect"]
    angle = np.radians(values[:, aspect])
    columns = [values[:, [index]] for index in range(len(VARIABLE_NAMES)) if index != aspect]
    table = np.concatenate([*columns, np.sin(angle)[:, None], np.cos(angle)[:, None]], axis=1)
    known = np.isfinite(table[fold.train]).any(axis=0)
    if not known.any():
        raise DataError("no training sample has any environmental variable or place; nothing to fit a forest on")
    table = table[:, known]
    median = np.nanmedian(table[fold.train], axis=0)
    return np.where(np.isfinite(table), table, median).astype(np.float32)


def _votes(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    code: NDArray[np.int64],
    at_lon: NDArray[np.float64],
    at_lat: NDArray[np.float64],
    counts: tuple[int, ...],
    labels: int,
) -> dict[int, NDArray[np.float64]]:
    """Weighted shares of the labels among the nearest samples, [M, S] for each number of neighbours."""
    most = min(max(counts), len(lon))
    chord, near = search_tree(unit_vectors(lon, lat)).query(unit_vectors(at_lon, at_lat), k=[*range(1, most + 1)])
    weight = 1 / (chord_to_km(chord) + NEIGHBOUR_KM)
    rows = np.repeat(np.arange(len(at_lon)), most).reshape(-1, most)
    result = {}
    for count in counts:
        votes = np.zeros((len(at_lon), labels))
        np.add.at(votes, (rows[:, :count], code[near[:, :count]]), weight[:, :count])
        result[count] = votes / votes.sum(axis=1, keepdims=True)
    return result


def _choose_neighbours(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    code: NDArray[np.int64],
    prior: NDArray[np.float64],
    fold: Fold,
) -> int:
    """The number of neighbours with the highest top-1 over folds of blocks within the training part."""
    block = fold.block[fold.train]
    inner = min(3, len(np.unique(block)))
    if inner < 2:
        return NEIGHBOURS[len(NEIGHBOURS) // 2]
    fold_of = assign_folds(block, inner, fold.seed)
    right = dict.fromkeys(NEIGHBOURS, 0)
    for number in range(inner):
        test = fold_of == number
        train = ~test
        if fold.buffer_km > 0:
            train[train] = nearest_km(lon[train], lat[train], lon[test], lat[test]) > fold.buffer_km
        if not train.any():
            continue
        votes = _votes(lon[train], lat[train], code[train], lon[test], lat[test], NEIGHBOURS, len(prior))
        for count, share in votes.items():
            right[count] += int((np.argmax(share + prior / count, axis=1) == code[test]).sum())
    return max(right, key=lambda count: (right[count], count))
