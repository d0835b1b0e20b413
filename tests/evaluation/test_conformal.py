"""Prediction sets: the finite-sample quantile, coverage on simulated data, sets of stored predictions."""

import math

import numpy as np
import pytest

from geotreeclip.errors import InputError
from geotreeclip.evaluation.conformal import (
    block_quantile,
    class_quantiles,
    conformal_quantile,
    conformal_scores,
    cross_conformal,
    prediction_sets,
    set_sizes,
)
from geotreeclip.evaluation.predictions import from_log_prob
from geotreeclip.taxonomy import Taxon


def test_quantile_is_the_ceiling_of_n_plus_one_times_the_level():
    values = np.arange(1.0, 10)  # 9 values: ceil(10 * 0.9) = 9
    assert conformal_quantile(values) == 9
    assert conformal_quantile(values[:8]) == math.inf  # ceil(9 * 0.9) = 9 > 8
    assert conformal_quantile(np.arange(1.0, 100), 0.5) == 50
    with pytest.raises(InputError, match="level"):
        conformal_quantile(values, 1.0)


def test_scores_by_hand():
    log_prob = np.log([[0.5, 0.3, 0.2], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(conformal_scores(log_prob), [[0.5, 0.7, 0.8], [0.6, 0.8, 0.6]])
    np.testing.assert_allclose(conformal_scores(log_prob, "aps"), [[0.5, 0.8, 1.0], [0.8, 1.0, 0.8]])
    with pytest.raises(InputError, match="lac, aps"):
        conformal_scores(log_prob, "raps")


def simulate(size, labels, rng):
    """A model that is wrong about everything: the truth is drawn from other probabilities than it states."""
    stated, real = rng.normal(size=(2, size, labels))
    real = 0.7 * stated + 0.7 * real
    truth = (real + rng.gumbel(size=real.shape)).argmax(axis=1)
    return stated - np.log(np.exp(stated).sum(axis=1, keepdims=True)), truth


@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_exchangeable_samples_are_covered_at_the_level(kind):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        log_prob, truth = simulate(150, 6, rng)
        scores = conformal_scores(log_prob, kind)[np.arange(150), truth]
        limit = conformal_quantile(scores[:100])
        sets = prediction_sets(log_prob[100:], limit, kind)
        found.append(sets[np.arange(50), truth[100:]].mean())
    # Exactly ceil(101 * 0.9) / 101 = 0.901 for continuous scores; standard error 0.004
    assert np.mean(found) == pytest.approx(0.901, abs=0.012)


def test_new_blocks_are_covered_only_by_the_block_threshold():
    """Blocks of very different difficulty and size: samples of a new block are not exchangeable with the old ones."""
    rng = np.random.default_rng(1)
    plain, blocked = [], []
    for _ in range(400):
        hard = rng.random(31) < 0.25
        size = np.where(hard, 3, 60)  # hard blocks are small: samples say little of them
        block = np.repeat(np.arange(31), size)
        score = rng.random(len(block)) + hard[block]
        train = block < 30
        new = score[~train]
        plain.append((new <= conformal_quantile(score[train])).mean())
        blocked.append((new <= block_quantile(score[train], block[train])).mean())
    assert np.mean(plain) < 0.85
    assert 0.88 <= np.mean(blocked) <= 0.96


def test_block_quantile_of_single_samples_is_the_plain_one():
    values = np.random.default_rng(0).random(57)
    assert block_quantile(values, np.arange(57)) == conformal_quantile(values)
    assert block_quantile(values, np.zeros(57)) == math.inf  # one block says nothing of another
    assert block_quantile([], []) == math.inf


def test_class_conditional_sets_cover_every_class():
    rng = np.random.default_rng(2)
    log_prob, truth = simulate(6000, 4, rng)
    truth[truth == 3] = np.where(rng.random((truth == 3).sum()) < 0.98, 0, 3)  # a rare class
    scores = conformal_scores(log_prob)[np.arange(6000), truth]
    limits = class_quantiles(scores[:3000], truth[:3000], 4)
    sets = prediction_sets(log_prob[3000:], limits)
    right = sets[np.arange(3000), truth[3000:]]
    for label in range(3):
        assert right[truth[3000:] == label].mean() == pytest.approx(0.9, abs=0.04), label
    few = class_quantiles(scores[:8], np.zeros(8, dtype=int), 2)
    assert few.tolist() == [math.inf, math.inf]


def predictions(log_prob, truth, blocks=None):
    taxa = [Taxon("Broad", "F", f"G{i}", f"G{i} s") for i in range(log_prob.shape[1])]
    return from_log_prob(log_prob, taxa, truth, [f"s{i}" for i in range(len(truth))], block=blocks)


def test_sets_of_stored_predictions_equal_those_of_all_probabilities():
    log_prob, truth = simulate(300, 25, np.random.default_rng(3))
    item = predictions(log_prob, truth)
    whole = np.exp(log_prob) >= 0.12
    covered, size, censored = set_sizes(item, 0.12)
    np.testing.assert_array_equal(size, whole.sum(axis=1))
    np.testing.assert_array_equal(covered, whole[np.arange(300), truth])
    assert not censored.any()
    covered, size, censored = set_sizes(item, 1e-9)
    assert censored.all()
    assert (size == 10).all()
    covered, size, censored = set_sizes(item, -np.inf)
    assert (size == 25).all()
    assert covered.all()
    assert not censored.any()


def test_cross_conformal_covers_and_a_truth_outside_the_list_never_is():
    log_prob, truth = simulate(2000, 8, np.random.default_rng(4))
    blocks = np.arange(2000) // 5
    found = cross_conformal(predictions(log_prob, truth, blocks))
    assert found.coverage.value == pytest.approx(0.9, abs=0.02)
    assert found.coverage.low < 0.9 < found.coverage.high
    assert found.unit == "sample"
    assert cross_conformal(predictions(log_prob, truth, blocks), by_block=True).unit == "block"
    outside = Taxon("Needle", "X", "Y", "Y z")
    taxa = [Taxon("Broad", "F", f"G{i}", f"G{i} s") for i in range(8)]
    item = from_log_prob(
        log_prob, taxa, [outside if i % 5 == 0 else taxa[k] for i, k in enumerate(truth)], [str(i) for i in range(2000)]
    )
    found = cross_conformal(item)  # a fifth can never be covered: 90 % is out of reach, whole lists are the answer
    assert found.coverage.value == pytest.approx(0.8, abs=0.01)
    assert found.size.value == 8
