"""Calibration: a known miscalibration is found again, errors by hand, debiasing, the file that travels with a model."""

import json

import numpy as np
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.calibration import (
    block_groups,
    calibrated,
    classwise_error,
    cross_fitted,
    fit_temperature,
    reliability,
    restricted_lists,
)
from geotreeclip.models.calibration import Calibration, ConformalThreshold, read_calibration, write_calibration


def draw(size, labels, temperature=1.0, seed=0, prior=None, weight=0.0):
    """Scores that are too sure by a known temperature: truths are drawn from softmax(scores / T + b log p)."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(size, labels)).astype(np.float32)
    log_prob = calibrated(scores, temperature, weight, prior)
    truth = (np.cumsum(np.exp(log_prob), axis=1) < rng.random((size, 1))).sum(axis=1)
    return scores, np.minimum(truth, labels - 1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_temperature_is_recovered(temperature):
    scores, truth = draw(6000, 12, temperature)
    fit = fit_temperature(scores, truth)
    assert fit.low < temperature < fit.high
    assert fit.temperature == pytest.approx(temperature, rel=0.06)
    assert fit.log_loss <= fit.log_loss_before + 1e-12


def test_temperature_is_the_optimum_and_a_constant_per_row_does_not_matter():
    scores, truth = draw(500, 7, 1.7)

    def loss(t):
        return -calibrated(scores, t)[np.arange(500), truth].mean()

    fit = fit_temperature(scores + np.random.default_rng(1).normal(size=(500, 1)), truth)
    grid = np.linspace(0.5, 4, 2001)
    assert fit.temperature == pytest.approx(grid[np.argmin([loss(t) for t in grid])], abs=0.003)
    assert fit.log_loss == pytest.approx(loss(fit.temperature), abs=1e-6)


def test_weight_of_the_prior_is_recovered():
    prior = np.log(np.array([0.5, 0.25, 0.15, 0.05, 0.03, 0.02]))
    scores, truth = draw(8000, 6, 1.5, prior=prior, weight=0.7)
    fit = fit_temperature(scores, truth, log_prior=prior)
    assert fit.temperature == pytest.approx(1.5, rel=0.06)
    assert fit.prior_weight == pytest.approx(0.7, abs=0.06)


def test_interval_of_the_temperature_covers_and_grows_with_dependence():
    covered = sum(
        (fit := fit_temperature(*draw(300, 5, 1.4, seed))).low <= 1.4 <= fit.high for seed in range(200)
    )  # 95 % of 200 is 190, its standard error 3
    assert 180 <= covered <= 199
    scores, truth = draw(100, 5, 1.4)
    once, alone = fit_temperature(scores, truth), fit_temperature(np.tile(scores, (9, 1)), np.tile(truth, 9))
    together = fit_temperature(np.tile(scores, (9, 1)), np.tile(truth, 9), blocks=np.tile(np.arange(100), 9))
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=1e-3)
    assert alone.high - alone.low == pytest.approx((once.high - once.low) / 3, rel=1e-3)


def test_truths_that_are_no_candidates_are_left_out_and_hopeless_scores_refused():
    scores, truth = draw(400, 5, 2.0)
    fit = fit_temperature(np.concatenate([scores, scores]), np.concatenate([truth, np.full(400, 5)]))
    assert fit == fit_temperature(scores, truth)
    with pytest.raises(InputError, match="no sample"):
        fit_temperature(scores, np.full(400, -1))
    with pytest.raises(DataError, match="say nothing"):
        fit_temperature(scores, scores.argmin(axis=1))
    with pytest.raises(InputError, match="finite"):
        fit_temperature(np.full((2, 2), -np.inf), [0, 1])


def test_separable_scores_end_at_the_bound_without_overflow():
    scores = np.eye(4)[np.arange(40) % 4] * 5
    fit = fit_temperature(scores, np.arange(40) % 4)
    assert 0.01 <= fit.temperature < 0.2
    assert np.isfinite([fit.log_loss, fit.low, fit.high]).all()


def test_cross_fitting_never_uses_the_own_block():
    scores, truth = draw(600, 4, 2.0)
    blocks = np.arange(600) // 20
    crossed = cross_fitted(scores, truth, blocks, folds=3)
    group = block_groups(blocks, 600, 3)
    assert all(len(set(group[blocks == block])) == 1 for block in range(30))
    for number in range(3):
        fit = fit_temperature(scores[group != number], truth[group != number])
        np.testing.assert_allclose(crossed[group == number], calibrated(scores[group == number], fit.temperature))
    with pytest.raises(InputError, match="one block"):
        cross_fitted(scores, truth, np.zeros(600))


def test_reliability_by_hand():
    table = reliability([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], bins=2)
    assert [(row.n, row.confidence, row.accuracy) for row in table.bins] == [(2, 0.2, 0.5), (2, 0.8, 1.0)]
    assert table.error == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)


@pytest.mark.parametrize("cluster", [1, 10])
def test_debiasing_takes_the_chance_gaps_away(cluster):
    """A calibrated model has a calibration error of 0; the plug-in value says otherwise, more so with dependence."""
    rng = np.random.default_rng(0)
    plain, less, wrong = [], [], []
    for _ in range(60):
        units = 600 // cluster
        confidence = np.repeat(rng.uniform(0.2, 0.9, units), cluster)
        hits = np.repeat(rng.random(units), cluster) < confidence
        table = reliability(confidence, hits, np.repeat(np.arange(units), cluster))
        plain.append(table.error)
        less.append(table.debiased)
        hits = np.repeat(rng.random(units), cluster) < confidence - 0.15
        wrong.append(reliability(confidence, hits, np.repeat(np.arange(units), cluster)).debiased)
    assert np.mean(less) < 0.5 * np.mean(plain)
    assert np.mean(wrong) == pytest.approx(0.15, abs=0.03)


def test_classwise_error_is_zero_only_for_probabilities_that_come_true():
    log_prob = np.log(np.tile([0.75, 0.25], (8, 1)))
    assert classwise_error(log_prob, np.array([0, 0, 0, 1] * 2)) == pytest.approx(0)
    assert classwise_error(log_prob, np.zeros(8, dtype=int)) == pytest.approx(0.25)


def test_a_calibrated_softmax_stays_calibrated_on_shorter_lists():
    scores, truth = draw(4000, 10)
    lists = restricted_lists(calibrated(scores, 1.0), truth, [2, 5, 10], draws=4)
    for size, (confidence, right, rows) in lists.items():
        assert len(rows) == (4000 if size == 10 else len(rows))
        assert reliability(confidence, right, rows).debiased < 0.02, size
        assert confidence.min() >= 1 / size - 1e-9


def test_file_goes_round_and_knows_its_weights(tmp_path):
    limit = ConformalThreshold("species", 0.9, None, "block", "lac", 50, 4)
    item = Calibration(1.25, 0.1, "a" * 64, {"split": "blocks100"}, {"ece": 0.1}, (limit,))
    path = write_calibration(tmp_path, item)
    assert path.name == "calibration.json"
    assert read_calibration(tmp_path) == item == read_calibration(tmp_path, "a" * 64)
    assert item.threshold() == limit
    assert item.threshold("genus") is None
    assert read_calibration(tmp_path / "elsewhere") is None
    with pytest.raises(DataError, match=r"fitted to weights aaaaaaaaaaaa.*calibrate.py"):
        read_calibration(tmp_path, "b" * 64)
    content = json.loads(path.read_text())
    for change in ({"temperature": 0}, {"temperature": "warm"}, {"version": 9}, {"conformal": [{"rank": 1}]}):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=r"calibration\.json"):
            read_calibration(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match="JSON"):
        read_calibration(tmp_path)


def test_apply_is_the_formula_for_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    scores, prior = np.array([[1.0, 2.0, 4.0]]), np.log([0.5, 0.3, 0.2])
    item = Calibration(2.0, 0.5)
    wanted = scores / 2 + 0.5 * prior
    np.testing.assert_allclose(item.apply(scores, prior), wanted)
    np.testing.assert_allclose(item.apply(torch.from_numpy(scores), torch.from_numpy(prior)).numpy(), wanted)
    np.testing.assert_allclose(calibrated(scores, 2.0, 0.5, prior), wanted - np.log(np.exp(wanted).sum()))
