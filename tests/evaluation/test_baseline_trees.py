"""Features and tree ensembles: months and missing pixels by hand, validation never learnt from, bounded cost."""

import numpy as np
import pytest

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.baselines import Fold, country_majority, trees
from geotreeclip.evaluation.baselines.features import features, filled, monthly_means
from geotreeclip.evaluation.baselines.systems import DEFAULT, SYSTEMS, usable
from geotreeclip.evaluation.baselines.trees import Budget, extra_trees, fitting_rows, gradient_boosting
from geotreeclip.schema import MISSING_DN, MONTH_DAYS, VARIABLE_INDEX, VARIABLES


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trees.EXTRA_TREES, "n_estimators", 20)


def make_fold(seed: int = 0, *, informative: str = "image") -> Fold:
    """Three taxa of 40 samples; the taxon shows in one band of one month, or in bio01, the rest is noise."""
    rng = np.random.default_rng(seed)
    taxon = np.arange(120) % 3
    series = rng.normal(1000, 50, (120, 12, 2)).astype(np.float32)
    environment = np.full((120, len(VARIABLES)), np.nan, dtype=np.float32)
    environment[:, :2] = rng.uniform(-50, 50, (120, 2))
    environment[:, VARIABLE_INDEX["bio01"]] = rng.normal(10, 1, 120)
    if informative == "image":
        series[:, 6, 1] += 1000 * taxon
    else:
        environment[:, VARIABLE_INDEX["bio01"]] += 10 * taxon
    block = np.arange(120) // 6
    rows = np.arange(120)
    return Fold(environment, taxon, block, rows[rows % 4 > 0], rows[rows % 4 == 0], seed=seed, series=series)


def top1(fold: Fold, log_prob: np.ndarray) -> float:
    return float((log_prob.argmax(axis=1) == fold.taxon[fold.test]).mean())


def test_monthly_means_are_over_valid_pixels_and_find_the_month_of_a_step() -> None:
    images = np.full((1, 3, 2, 1, 2), MISSING_DN, dtype=np.uint16)
    images[0, 0, 0] = [[10, 30]]
    images[0, 1, 0] = [[70, MISSING_DN]]  # the same month: three valid pixels in all
    images[0, 2, 1] = [[5, 5]]
    days = np.array([[[182, 190], [195, 212], [360, 372]]], dtype=np.float32)  # July, July, and past New Year's Eve
    found = monthly_means(images, days)
    expected = np.full((1, 12, 2), np.nan)
    expected[0, 6, 0] = (10 + 30 + 70) / 3
    expected[0, 0, 1] = 5
    np.testing.assert_allclose(found, expected)


def test_steps_that_are_the_months_stay_in_place() -> None:
    images = np.arange(12, dtype=np.uint16).reshape(1, 12, 1, 1, 1)
    np.testing.assert_array_equal(monthly_means(images)[0, :, 0], np.arange(12))
    np.testing.assert_array_equal(monthly_means(images, MONTH_DAYS[None])[0, :, 0], np.arange(12))
    with pytest.raises(DataError, match="4 time steps without days"):
        monthly_means(images[:, :4])


def test_features_hold_what_the_inputs_name_and_turn_aspect() -> None:
    fold = make_fold()
    fold.environment[:, VARIABLE_INDEX["aspect"]] = 270
    assert features(fold, "image").shape[1] == 24
    assert features(fold, "environment").shape[1] == 2 + 2 + 1  # place, sine and cosine, bio01
    assert features(fold, "no-location").shape[1] == 24 + 3
    assert features(fold, "all").shape[1] == 24 + 5
    np.testing.assert_allclose(features(fold, "environment")[:, 2:4], [[-1, 0]] * 120, atol=1e-6)


def test_sets_without_imagery_keep_what_they_have() -> None:
    fold = make_fold()
    bare = Fold(fold.environment, fold.taxon, fold.block, fold.train, fold.test)
    assert features(bare, "no-location").shape[1] == 1  # bio01
    with pytest.raises(DataError, match="inputs image need imagery"):
        features(bare, "image")


def test_gaps_are_filled_with_medians_of_training_alone() -> None:
    table = np.array([[1.0], [3.0], [np.nan], [99.0]], dtype=np.float32)
    np.testing.assert_array_equal(filled(table, np.array([0, 1]))[:, 0], [1, 3, 2, 99])


@pytest.mark.parametrize("method", [gradient_boosting, extra_trees])
@pytest.mark.parametrize("informative", ["image", "environment"])
def test_trees_find_the_signal_where_they_look_and_only_there(method, informative: str) -> None:  # type: ignore[no-untyped-def]
    fold = make_fold(informative=informative)
    other = "environment" if informative == "image" else "image"
    scores = method(fold, informative)
    assert top1(fold, scores.log_prob) > 0.9
    assert top1(fold, method(fold, "all").log_prob) > 0.9
    assert top1(fold, method(fold, other).log_prob) < 0.7
    np.testing.assert_allclose(np.exp(scores.log_prob).sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(scores.log_prob).all()


def test_trees_never_read_test_labels_and_repeat_by_seed() -> None:
    fold = make_fold()
    blind = Fold(
        fold.environment, np.where(np.isin(np.arange(120), fold.test), 77, fold.taxon), fold.block, fold.train,
        fold.test, series=fold.series,
    )  # fmt: skip
    for method in (gradient_boosting, extra_trees):
        np.testing.assert_array_equal(method(fold).log_prob, method(blind).log_prob)


def test_rounds_are_chosen_on_validation_samples_that_are_not_learnt_from() -> None:
    fold = make_fold()
    named = Fold(fold.environment, fold.taxon, fold.block, fold.train, fold.test, validation=fold.train[:9])
    fit, held = fitting_rows(named, 10**6)
    assert held.tolist() == fold.train[:9].tolist()
    assert not set(fit) & set(held)
    fit, held = fitting_rows(fold, 10**6)  # none named: whole blocks of training
    assert len(held)
    assert not set(fold.block[fit]) & set(fold.block[held])


def test_a_taxon_that_would_be_held_out_whole_is_learnt_from() -> None:
    fold = make_fold()
    taxon = fold.taxon.copy()
    taxon[fold.train[0]] = 9
    fold = Fold(fold.environment, taxon, fold.block, fold.train, fold.test, validation=fold.train[:9])
    fit, held = fitting_rows(fold, 10**6)
    assert fold.train[0] in fit
    assert len(held) == 8
    assert 9 in gradient_boosting(fold, "environment").labels


def test_too_many_taxa_for_the_budget_are_refused_with_the_way_out() -> None:
    fold = make_fold()
    with pytest.raises(ConfigError, match=r"27 trees make 9 rounds.*raise --trees, or take extra-trees"):
        gradient_boosting(fold, "all", Budget(trees=27))
    assert "of at most 12 rounds" in gradient_boosting(fold, "image", Budget(trees=36)).method
    assert "40 samples" in extra_trees(fold, "image", Budget(samples=40)).method


def test_country_majority_on_a_table_made_by_hand() -> None:
    environment = np.zeros((9, len(VARIABLES)))
    taxon = np.array([5, 5, 8, 8, 8, 8, 0, 0, 0])
    country = np.array(["FR", "FR", "FR", "DE", "DE", "", "FR", "XX", ""])
    fold = Fold(environment, taxon, np.zeros(9, int), np.arange(6), np.arange(6, 9), country=country)
    scores = country_majority(fold)
    assert scores.labels.tolist() == [5, 8]
    # France has two of taxon 5, one of taxon 8, and one more record of the shares of all six: 1/3 and 2/3
    france = [(2 + 1 / 3) / 4, (1 + 2 / 3) / 4]
    np.testing.assert_allclose(np.exp(scores.log_prob), [france, [1 / 3, 2 / 3], [1 / 3, 2 / 3]], rtol=1e-6)
    with pytest.raises(DataError, match="countries"):
        country_majority(Fold(environment, taxon, np.zeros(9, int), np.arange(6), np.arange(6, 9)))


def test_baselines_without_their_inputs_are_left_out_with_the_reason() -> None:
    kept, left_out = usable(DEFAULT, has_images=False, has_countries=False)
    assert kept == [
        "majority",
        "location-neighbours",
        "random-forest",
        "boosting-environment",
        "boosting-no-location",
    ]
    assert any(line.startswith("country-majority: the samples state no country") for line in left_out)
    assert usable(list(SYSTEMS), has_images=True, has_countries=True) == (list(SYSTEMS), [])
