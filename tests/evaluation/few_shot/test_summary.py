"""Means over draws: values against scikit-learn, influences against finite differences, coverage by simulation."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from geotreeclip.errors import InputError
from geotreeclip.evaluation.few_shot.summary import METRICS, mean_of_draws, paired_difference
from geotreeclip.evaluation.predictions import Context, from_log_prob
from geotreeclip.taxonomy import Taxon

TAXA = [Taxon("", "F", "G" if k < 2 else "H", f"s{k}") for k in range(4)]


def drawn(seed, size=200, right=0.7, ids=None, block=None):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size)  # the last label never occurs, but can be answered
    answer = np.where(rng.random(size) < right, truth, rng.integers(0, 4, size))
    score = rng.normal(size=(size, 4)) * 0.1
    score[np.arange(size), answer] += 5
    log_prob = score - np.log(np.exp(score).sum(axis=1, keepdims=True))
    block = rng.integers(0, 30, size) if block is None else block
    return from_log_prob(
        log_prob, TAXA, truth, ids or [f"x{i}" for i in range(size)], context=Context(seed=seed), block=block
    )


def test_values_are_those_of_scikit_learn():
    item = drawn(0)
    answer = item.top[:, 0]
    assert METRICS["macro_f1"](item)[0] == pytest.approx(
        f1_score(item.truth, answer, average="macro", labels=[0, 1, 2])
    )
    assert METRICS["macro_top1"](item)[0] == pytest.approx(balanced_accuracy_score(item.truth, answer))
    assert METRICS["top1"](item)[0] == pytest.approx((item.truth == answer).mean())
    assert mean_of_draws([item], "top1", "genus").value == pytest.approx(item.read_off("genus", 1).mean())


@pytest.mark.parametrize("metric", METRICS)
def test_influence_is_the_change_when_a_sample_weighs_more(metric):
    item = drawn(1, 120)
    value, influence = METRICS[metric](item)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    for row in (0, 17, 80):
        # The sample a second time, each of the others 200 times: a weight that is larger by a 200th
        many = np.concatenate([np.tile(np.arange(120), 200), [row]])
        again = item.take(np.arange(120))
        object.__setattr__(again, "truth", item.truth[many])
        for name in ("top", "top_log_prob", "log_prob", "better", "tied"):
            object.__setattr__(again, name, getattr(item, name)[many])
        object.__setattr__(again, "sample_id", np.arange(len(many)).astype(str))
        assert (METRICS[metric](again)[0] - value) * 200 == pytest.approx(influence[row], rel=0.05, abs=1e-5)


def test_intervals_cover_the_truth():
    inside = 0
    for trial in range(60):
        rng = np.random.default_rng([9, trial])
        block = np.repeat(np.arange(40), 10)
        shared = np.repeat(rng.normal(size=40) * 0.15, 10)  # neighbours succeed together
        items = [
            drawn(1000 * trial + seed, 400, np.clip(0.7 + shared + rng.normal() * 0.03, 0, 1), block=block)
            for seed in range(5)
        ]
        interval = mean_of_draws(items, "top1")
        truth = 0.7 + 0.3 * 0.25
        inside += interval.low <= truth <= interval.high
    assert inside >= 54  # 95 % of 60 is 57; too wide is allowed


def test_differences_are_paired():
    first = [drawn(seed) for seed in range(5)]
    same = paired_difference(first, first, "macro_f1")
    assert same == (0.0, 0.0, 0.0)
    worse = [drawn(seed, right=0.5) for seed in range(5)]
    gap = paired_difference(first, worse, "top1")
    assert gap.low > 0
    with pytest.raises(InputError, match="different samples"):
        paired_difference(first, [drawn(seed, 100) for seed in range(5)], "top1")


def test_a_single_draw_has_no_interval():
    assert mean_of_draws([drawn(0)], "top1").low is None
