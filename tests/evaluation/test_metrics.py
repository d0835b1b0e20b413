"""Metrics: hand-computed values, calibration in closed form, protocols, groups, paired differences."""

import numpy as np
import pytest

from geotreeclip.errors import InputError
from geotreeclip.evaluation.metrics import (
    calibration_error,
    difference,
    difference_row,
    equal_mass_bins,
    rarity_of_column,
    rarity_of_counts,
    score,
)
from geotreeclip.evaluation.predictions import Context, from_log_prob
from geotreeclip.taxonomy import Taxon, Taxonomy

FAMILIES = {"Quercus": "Fagaceae", "Fagus": "Fagaceae", "Pinus": "Pinaceae"}
NAMES = ("Quercus robur", "Quercus ilex", "Fagus sylvatica", "Pinus mugo")
TAXA = Taxonomy(Taxon("Leaf", FAMILIES[name.split()[0]], name.split()[0], name) for name in NAMES)


def predictions(rows, truth, **columns):
    ids = [f"s{i}" for i in range(len(rows))]
    with np.errstate(divide="ignore"):
        return from_log_prob(np.log(np.array(rows, float)), TAXA, truth, ids, **columns)


def value(rows, metric, group="all"):
    (row,) = (row for row in rows if row["metric"] == metric and row["group"] == group)
    return row["value"]


def test_micro_and_macro_by_hand():
    rows = [[0.7, 0.1, 0.1, 0.1]] * 3 + [[0.1, 0.1, 0.7, 0.1]]
    result = score(predictions(rows, np.array([0, 0, 3, 2])))
    assert value(result, "top1") == pytest.approx(3 / 4)
    assert value(result, "macro_top1") == pytest.approx((1 + 0 + 1) / 3)
    assert value(result, "top5") == 1
    assert value(result, "log_loss") == pytest.approx(-np.log([0.7, 0.7, 0.1, 0.7]).mean())
    assert all(row["n"] == 4 for row in result)


def test_rolled_up_genus_is_right_where_the_ranked_species_is_not():
    scores = np.log([[0.3, 0.3, 0.4, 1e-9], [0.1, 0.1, 0.5, 0.3]])
    truth = [TAXA[0], TAXA[1]]
    genus, labels = TAXA.roll_up(scores, "genus")
    np.testing.assert_allclose(np.exp(genus).sum(axis=1), 1, rtol=1e-6)
    published = from_log_prob(scores, TAXA, truth, "ab")
    summed = from_log_prob(genus, labels, truth, "ab", rank="genus")
    assert value(score(published, rank="genus"), "top1") == 0  # beech leads, 0.4 against 0.3
    assert value(score(summed, protocol="rolled-up"), "top1") == 0.5  # but the oaks together have 0.6
    with pytest.raises(InputError, match="needs predictions of that rank"):
        score(published, protocol="rolled-up", rank="genus")


def test_calibration_error_in_closed_form():
    # Confidence 0.8 everywhere and right half of the time: one bin, error 0.3
    rows = [[0.8, 0.2, 0, 0]] * 40
    assert calibration_error(predictions(rows, np.arange(40) % 2)) == pytest.approx(0.3, abs=1e-6)
    # Two confidences, right in 60 of 100 at 0.9 and in 90 of 100 at 0.6: mean of 0.3 and 0.3
    rows = [[0.9, 0.1, 0, 0]] * 100 + [[0.6, 0.4, 0, 0]] * 100
    truth = np.r_[np.arange(100) >= 60, np.arange(100) >= 90].astype(int)
    p = predictions(rows, truth)
    assert calibration_error(p) == pytest.approx(0.3, abs=1e-6)
    assert value(score(p), "ece") == pytest.approx(0.3, abs=1e-6)


def test_calibrated_scores_have_a_small_error():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 20_000)
    truth = (rng.random((20_000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    assert calibration_error(predictions(shares, truth)) < 0.012
    sharp = shares**2 / (shares**2).sum(axis=1, keepdims=True)
    assert calibration_error(predictions(sharp, truth)) > 0.1


def test_bins_have_equal_mass_and_equal_confidences_share_one():
    values = np.random.default_rng(1).permutation(300) / 300
    bins = equal_mass_bins(values)
    assert np.bincount(bins).tolist() == [20] * 15
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()
    assert len(set(equal_mass_bins([0.5] * 9 + [0.9]).tolist())) == 2


def test_truth_outside_the_candidates_counts_as_wrong_and_is_reported():
    other = Taxon("Leaf", "Fagaceae", "Quercus", "Quercus suber")
    stranger = Taxon("Leaf", "Myrtaceae", "Eucalyptus", "Eucalyptus globulus")
    p = predictions([[0.97, 0.01, 0.01, 0.01]] * 4, [TAXA[0], TAXA[0], other, stranger])
    rows = score(p)
    assert value(rows, "top1") == 0.5
    assert value(rows, "truth_not_candidate") == 0.5
    assert {row["metric"]: row["n"] for row in rows}["log_loss"] == 2
    genus = score(p, rank="genus")
    assert value(genus, "top1") == 0.75
    assert value(genus, "truth_not_candidate") == 0.25
    assert {row["n"] for row in genus} == {4}


def test_perfect_and_random_classifiers():
    truth = np.arange(400) % 4
    perfect = score(predictions(np.eye(4)[truth], truth))
    assert [value(perfect, name) for name in ("top1", "macro_top1", "top5", "ece", "log_loss")] == [1, 1, 1, 0, 0]
    flat = score(predictions(np.full((400, 4), 0.25), truth))
    assert value(flat, "top1") == pytest.approx(0.25)
    assert value(flat, "ece") == pytest.approx(0, abs=1e-6)
    assert value(flat, "log_loss") == pytest.approx(np.log(4))
    impossible = score(predictions(np.eye(4)[(truth + 1) % 4], truth))
    assert value(impossible, "top1") == 0
    assert value(impossible, "log_loss") is None  # infinite, which a report cannot hold


def test_rarity():
    counts = [0, 1, 20, 21, 100, 101, 1499, 1500]
    expected = ["unseen", "scarce", "scarce", "rare", "rare", "common", "common", "frequent"]
    assert rarity_of_counts(counts).tolist() == expected
    assert rarity_of_column(["Rare", None, float("nan"), " Frequent "]).tolist() == ["rare", "", "", "frequent"]
    rows = [[0.7, 0.1, 0.1, 0.1]] * 4
    result = score(predictions(rows, np.array([0, 1, 1, 1]), rarity=["rare", "rare", "common", ""]))
    assert value(result, "top1", "rare") == 0.5
    assert value(result, "top1", "common") == 0
    assert [row["group"] for row in result if row["metric"] == "top1"] == ["all", "rare", "common"]
    assert {row["group"]: row["n"] for row in result} == {"all": 4, "rare": 2, "common": 1}


def test_difference_of_systems_on_the_same_samples_in_another_order():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 200)
    good = predictions(
        np.eye(4)[truth] * 0.9 + 0.025, truth, context=Context(system="good"), block=np.arange(200) // 10
    )
    wrong = np.where(rng.random(200) < 0.3, (truth + 1) % 4, truth)
    poor = predictions(np.eye(4)[wrong] * 0.9 + 0.025, truth, context=Context(system="poor"))
    interval = difference(good, poor.take(rng.permutation(200)))
    assert interval.value == pytest.approx((wrong != truth).mean())
    assert 0 < interval.low < interval.value < interval.high
    assert difference([good, poor], poor).value == pytest.approx(interval.value / 2)
    row = difference_row(good, poor, interval, rank="species")
    assert row["system"] == "good - poor"
    assert row["metric"] == "top1_difference"
    with pytest.raises(InputError, match="different samples"):
        difference(good, poor.take(np.arange(150)))
