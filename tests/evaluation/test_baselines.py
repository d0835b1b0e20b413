"""Baselines: what they learn, what they must not see, and that blocks unmask a location fingerprint."""

import numpy as np
import pytest

from geotreeclip.errors import DataError
from geotreeclip.evaluation import baselines, splits
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

LON, LAT = VARIABLE_INDEX["longitude"], VARIABLE_INDEX["latitude"]


def make_fold(size_km: float, *, climate: bool, seed: int = 0, buffer_km: float = 0.0) -> baselines.Fold:
    """Clumps of 20 trees: the taxon is either that of the clump alone (a fingerprint) or of a climate variable."""
    rng = np.random.default_rng(seed)
    clump = np.repeat(np.arange(60), 20)
    lon = rng.uniform(-120, 120, 60)[clump] + rng.normal(0, 0.05, len(clump))
    lat = rng.uniform(-50, 50, 60)[clump] + rng.normal(0, 0.05, len(clump))
    environment = np.full((len(clump), len(VARIABLES)), np.nan, dtype=np.float32)
    environment[:, LON], environment[:, LAT] = lon, lat
    warmth = rng.uniform(0, 6, 60)[clump] + rng.normal(0, 0.05, len(clump))
    environment[:, VARIABLE_INDEX["bio01"]] = warmth
    taxon = np.minimum(warmth.astype(np.int64), 5) if climate else rng.integers(0, 6, 60)[clump]
    frame = splits.spatial_folds(lon, lat, size_km, folds=4, seed=1, buffer_km=buffer_km, validation=0)
    part = frame[frame["fold"] == 0].reset_index(drop=True)
    rows = {role: np.flatnonzero(part["role"] == role) for role in ("train", "test")}
    block = part["block"].to_numpy()
    return baselines.Fold(environment, taxon, block, rows["train"], rows["test"], buffer_km=buffer_km, seed=seed)


def top1(fold: baselines.Fold, scores: baselines.Scores) -> float:
    return float((scores.labels[scores.log_prob.argmax(axis=1)] == fold.taxon[fold.test]).mean())


def test_a_location_fingerprint_scores_high_at_random_and_near_chance_in_blocks() -> None:
    at_random = make_fold(0, climate=False)
    assert top1(at_random, baselines.location_neighbours(at_random)) > 0.95
    blocked = [make_fold(1000, climate=False, seed=seed, buffer_km=100) for seed in range(4)]
    scores = [top1(fold, baselines.location_neighbours(fold)) for fold in blocked]
    assert np.mean(scores) < 0.35  # chance is 1/6


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(baselines.FOREST, "n_estimators", 30)


@pytest.mark.usefixtures("few_trees")
def test_the_forest_carries_a_climate_niche_across_blocks() -> None:
    fold = make_fold(1000, climate=True)
    assert top1(fold, baselines.random_forest(fold)) > 0.55
    assert top1(fold, baselines.location_neighbours(fold)) < 0.35


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_scores_are_probabilities_over_the_training_taxa_and_ignore_the_test_labels(name: str) -> None:
    fold = make_fold(0, climate=True)
    taxon = fold.taxon * 3 + 7
    taxon[fold.test[0]] = 500  # a taxon that training has not
    hidden = np.where(np.isin(np.arange(len(taxon)), fold.test), -1, taxon)
    run = baselines.BASELINES[name][0]
    scores, blind = (
        run(baselines.Fold(fold.environment, labels, fold.block, fold.train, fold.test)) for labels in (taxon, hidden)
    )
    assert scores.labels.tolist() == sorted(set(taxon[fold.train]))
    assert scores.log_prob.shape == (len(fold.test), len(scores.labels))
    np.testing.assert_allclose(np.exp(scores.log_prob).sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(scores.log_prob).all()
    np.testing.assert_array_equal(scores.log_prob, blind.log_prob)


def test_majority_gives_the_training_shares() -> None:
    fold = make_fold(0, climate=False)
    taxon = np.where(np.arange(len(fold.taxon)) % 4 == 0, 2, 9)
    fold = baselines.Fold(fold.environment, taxon, fold.block, np.arange(100), np.arange(100, 103))
    scores = baselines.majority(fold)
    assert scores.labels.tolist() == [2, 9]
    np.testing.assert_allclose(np.exp(scores.log_prob), [[0.25, 0.75]] * 3, rtol=1e-6)


def test_neighbours_look_across_the_antimeridian_and_weigh_by_distance() -> None:
    environment = np.full((5, len(VARIABLES)), np.nan)
    environment[:, LON] = [179.9, -179.0, -178.9, 170.0, -179.95]
    environment[:, LAT] = 0.0
    fold = baselines.Fold(environment, np.array([4, 6, 6, 6, 0]), np.arange(5), np.arange(4), np.array([4]))
    scores = baselines.location_neighbours(fold)
    km = np.array([0.15, 0.95, 1.05, 10.05]) * np.pi * splits.EARTH_RADIUS_KM / 180
    weight = 1 / (km + baselines.NEIGHBOUR_KM)
    used = min(int(scores.method.split()[0]), 4)
    share = weight[0] / weight[:used].sum()
    mixed = (share + 0.25 / int(scores.method.split()[0])) / (1 + 1 / int(scores.method.split()[0]))
    np.testing.assert_allclose(np.exp(scores.log_prob[0]), [mixed, 1 - mixed], rtol=1e-5)


@pytest.mark.usefixtures("few_trees")
def test_the_forest_fills_gaps_with_training_medians_and_turns_aspect() -> None:
    fold = make_fold(0, climate=True)
    environment = fold.environment.copy()
    environment[:, VARIABLE_INDEX["aspect"]] = 90
    environment[fold.test, VARIABLE_INDEX["bio01"]] = np.nan
    environment[fold.test[0], VARIABLE_INDEX["bio02"]] = 1e6  # known in no training sample
    features = baselines.forest_features(baselines.Fold(environment, fold.taxon, fold.block, fold.train, fold.test))
    assert features.shape[1] == 5  # longitude, latitude, bio01, sine, cosine
    assert np.isfinite(features).all()
    median = np.median(environment[fold.train, VARIABLE_INDEX["bio01"]])
    np.testing.assert_allclose(features[fold.test, 2], median, rtol=1e-6)
    np.testing.assert_allclose(features[:, 3:], [[1, 0]] * len(features), atol=1e-6)


def test_broken_folds_are_refused() -> None:
    fold = make_fold(0, climate=True)
    empty = baselines.Fold(fold.environment, fold.taxon, fold.block, np.array([], dtype=np.int64), fold.test)
    with pytest.raises(DataError, match="no training sample"):
        baselines.majority(empty)
    nowhere = fold.environment.copy()
    nowhere[fold.test[0], LON] = np.nan
    with pytest.raises(DataError, match="longitude and latitude of every sample"):
        baselines.location_neighbours(baselines.Fold(nowhere, fold.taxon, fold.block, fold.train, fold.test))
