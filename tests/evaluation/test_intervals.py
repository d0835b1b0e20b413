"""Intervals: exact identities, coverage on simulated clustered data, pairing, speed."""

import time

import numpy as np
import pytest

from geotreeclip.errors import InputError
from geotreeclip.evaluation.intervals import BlockBootstrap, expanded_quantiles, paired_bootstrap


def clustered(rng, blocks=40, spread=0.8):
    """Hits in blocks of unequal size that share a block effect; true mean 0.5."""
    size = rng.integers(5, 15, blocks)
    chance = 1 / (1 + np.exp(-rng.normal(0, spread, blocks)))
    block = np.repeat(np.arange(blocks), size)
    return (rng.random(len(block)) < chance[block]).astype(float), block


def test_coverage_of_the_block_bootstrap_and_the_failure_of_the_plain_one():
    rng = np.random.default_rng(0)
    covered = {"blocks": 0, "samples": 0}
    trials = 200
    for trial in range(trials):
        values, block = clustered(rng, spread=1.5)
        for unit, given in (("blocks", block), ("samples", None)):
            interval = BlockBootstrap(given, len(values), resamples=200, seed=trial).mean(values)
            covered[unit] += interval.low <= 0.5 <= interval.high
    assert 0.91 <= covered["blocks"] / trials <= 0.98
    assert covered["samples"] / trials < 0.85  # neighbours are not independent


def test_mean_matches_brute_force():
    rng = np.random.default_rng(1)
    values, block = clustered(rng, blocks=8)
    boot = BlockBootstrap(block, resamples=50)
    means = []
    for weights in boot.weights():
        rows = np.concatenate([np.flatnonzero(block == b) for b in range(8) for _ in range(int(weights[b]))])
        means.append(values[rows].mean())
    low, high = np.quantile(means, expanded_quantiles(8))
    interval = boot.mean(values)
    np.testing.assert_allclose(interval, (values.mean(), low, high), rtol=1e-5)


def test_macro_by_hand_on_balanced_classes_is_the_micro_mean():
    # Ten blocks, each with one sample of both classes: both means are over the same numbers in every resample
    rng = np.random.default_rng(2)
    values, classes, block = rng.random(20), np.arange(20) % 2, np.arange(20) // 2
    micro, macro = (
        f(*a) for f, a in ((BlockBootstrap(block).mean, (values,)), (BlockBootstrap(block).macro, (values, classes)))
    )
    assert macro.value == pytest.approx(micro.value)
    wider = np.sqrt(10 / 9)  # each class mean was fitted to ten blocks
    np.testing.assert_allclose(
        np.array(macro[1:]) - macro.value, wider * (np.array(micro[1:]) - micro.value), rtol=1e-4, atol=1e-6
    )


def test_macro_holds_its_value_where_rare_classes_come_and_go():
    # One common class always right, fifty rare ones always wrong: 1/51 whatever is resampled
    classes = np.r_[np.zeros(200, dtype=int), np.arange(1, 51)]
    interval = BlockBootstrap(np.arange(250) % 50).macro(classes == 0, classes)
    np.testing.assert_allclose(interval, [1 / 51] * 3)


def test_macro_coverage_with_a_long_tail_of_classes():
    rng = np.random.default_rng(3)
    sizes = np.r_[np.full(20, 6), np.full(8, 30), np.full(2, 300)]
    chance = rng.uniform(0.2, 0.8, len(sizes))
    classes = np.repeat(np.arange(len(sizes)), sizes)
    covered = 0
    for trial in range(200):
        block = rng.integers(0, 60, len(classes))
        lift = rng.normal(0, 0.8, 60)[block]
        odds = np.log(chance / (1 - chance))[classes] + lift
        values = (rng.random(len(classes)) < 1 / (1 + np.exp(-odds))).astype(float)
        # The mean over block effects of the logistic, by quadrature
        z, w = np.polynomial.hermite_e.hermegauss(31)
        true = ((1 / (1 + np.exp(-np.log(chance / (1 - chance))[:, None] - 0.8 * z))) * w / w.sum()).sum(1).mean()
        interval = BlockBootstrap(block, resamples=300, seed=trial).macro(values, classes)
        covered += interval.low <= true <= interval.high
    assert 0.90 <= covered / 200 <= 0.985


def test_rows_restrict_to_a_group():
    rng = np.random.default_rng(4)
    values, block = clustered(rng)
    rows = rng.random(len(values)) < 0.3
    boot = BlockBootstrap(block)
    assert boot.mean(values, rows).value == pytest.approx(values[rows].mean())
    assert boot.macro(values, block, rows).value == pytest.approx(
        np.mean([values[rows & (block == b)].mean() for b in np.unique(block[rows])])
    )
    assert np.isnan(boot.mean(values, np.zeros(len(values), dtype=bool)).value)


def test_pairing_narrows_a_difference_of_correlated_systems():
    rng = np.random.default_rng(5)
    one, block = clustered(rng, blocks=60, spread=2)
    two = np.where(rng.random(len(one)) < 0.1, 1 - one, one)
    paired = paired_bootstrap(one, two, block)
    apart = BlockBootstrap(block).mean(one)
    assert paired.value == pytest.approx(one.mean() - two.mean())
    assert paired.low <= paired.value <= paired.high
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)
    assert paired_bootstrap(one, one, block) == (0, 0, 0)


def test_paired_difference_covers_its_truth():
    rng = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        values, block = clustered(rng)
        worse = values * (rng.random(len(values)) < 0.8)  # a fifth of the hits lost: true difference 0.1
        interval = paired_bootstrap(values, worse, block, resamples=300, seed=trial)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.90 <= covered / 200 <= 0.985


def test_repeats_are_averaged_within_samples():
    rng = np.random.default_rng(7)
    one, two, block = rng.random((100, 3)), rng.random((100, 2)), np.arange(100) // 10
    assert paired_bootstrap(one, two, block) == paired_bootstrap(one.mean(1), two.mean(1), block)
    with pytest.raises(InputError, match="same samples"):
        paired_bootstrap(one, two[:50], block)


def test_few_blocks_widen_and_too_few_give_none():
    assert expanded_quantiles(5)[0] < expanded_quantiles(20)[0] < expanded_quantiles(10_000)[0]
    # Hesterberg's formula with the exact t quantile: 4 degrees of freedom 2.7764, tail of the normal beyond it
    assert expanded_quantiles(5)[0] == pytest.approx(0.00095, abs=5e-5)
    assert expanded_quantiles(10_000)[0] == pytest.approx(0.025, abs=1e-4)
    assert BlockBootstrap(np.arange(40) % 4).mean(np.ones(40)) == (1, None, None)


def test_names_what_is_resampled():
    assert "12 spatial blocks" in BlockBootstrap(np.arange(24) % 12).describe()
    assert "single samples (no blocks known)" in BlockBootstrap(None, 30).describe()


def test_seeded_text_blocks_and_many_blocks():
    values, block = clustered(np.random.default_rng(8))
    names = np.array([f"block {b:03d}" for b in block])
    assert BlockBootstrap(block, seed=3).mean(values) == BlockBootstrap(names, seed=3).mean(values)
    assert BlockBootstrap(block, seed=3).mean(values) != BlockBootstrap(block, seed=4).mean(values)
    many = np.random.default_rng(9).random(25_000)
    interval = BlockBootstrap(None, 25_000, resamples=200).mean(many)
    error = many.std() / np.sqrt(25_000)
    assert (interval.high - interval.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.2)


def test_quick_enough():
    rng = np.random.default_rng(10)
    values, block = rng.random(10_000), rng.integers(0, 2000, 10_000)
    start = time.process_time()
    BlockBootstrap(block).mean(values)
    assert time.process_time() - start < 1.0
