"""The ceiling of few-shot scores: of the labels and the queries that take part."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.known import known_posterior, known_world
from geotreeclip.demo.make import make_world
from geotreeclip.errors import DataError
from geotreeclip.evaluation.few_shot.ceiling import ceiling_rows, macro_ceiling, top1_ceiling
from geotreeclip.evaluation.predictions import Context


def gaussian(shares, size=40_000, seed=0):
    """Classes as unit Gaussians a unit apart: posterior under the uniform prior, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(shares), size, p=shares)
    value = truth + rng.normal(size=size)
    density = np.exp(-0.5 * (value[:, None] - np.arange(len(shares))) ** 2)
    return density / density.sum(axis=1, keepdims=True), truth


def test_ceilings_are_the_share_of_hits_of_the_best_rules():
    shares = np.array([0.7, 0.2, 0.1])
    uniform, truth = gaussian(shares)
    value, variance = macro_ceiling(uniform, truth)
    hit = uniform.argmax(axis=1) == truth
    recall = np.mean([hit[truth == label].mean() for label in range(3)])
    assert value == pytest.approx(recall, abs=0.01)
    # Closed form: the ends are right below, above half a unit, the middle within: (2 Phi(1/2) + 2 Phi(1/2) - 1) / 3
    assert value == pytest.approx((4 * 0.6914625 - 1) / 3, abs=4 * np.sqrt(variance))
    value, variance = top1_ceiling(uniform, truth)
    hit = (uniform * shares).argmax(axis=1) == truth
    assert value == pytest.approx(hit.mean(), abs=0.01)
    assert value > (uniform.argmax(axis=1) == truth).mean() + 0.02
    assert top1_ceiling(uniform, truth, np.array([0, 1, 1]))[0] > value


def test_the_error_shrinks_as_stated():
    values = [macro_ceiling(*gaussian(np.array([0.5, 0.3, 0.2]), 400, seed)) for seed in range(200)]
    found, variance = np.array(values).T
    assert np.sqrt(variance.mean()) == pytest.approx(found.std(), rel=0.2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("known") / "world"
    knobs = {"sites": 300, "wrong_labels": 0.1}
    make_world(out, seed=3, samples=400, validation=10, test=600, quota=0, ceiling_samples=20, knobs=knobs)
    return PackedDataset(out)


def test_the_posterior_of_the_samples_is_calibrated(dataset):
    world = known_world(dataset)
    rows = dataset.split("default", 0, "test")
    posterior = known_posterior(world, dataset, rows) * world.recorded_prior
    posterior /= posterior.sum(axis=1, keepdims=True)
    best = posterior.max(axis=1)
    hits = posterior.argmax(axis=1) == dataset.taxa[rows]
    assert hits.mean() > 0.3
    assert abs(best.mean() - hits.mean()) < 3.5 * np.sqrt((best * (1 - best)).sum()) / len(best)


def test_fewer_labels_have_a_higher_ceiling(dataset):
    rows = dataset.split("default", 0, "test")
    count = np.bincount(dataset.taxa[rows], minlength=60)

    def rows_of(labels):
        labels = np.sort(labels)
        taking = np.flatnonzero(np.isin(dataset.taxa[rows], labels))
        place = np.full(60, -1)
        place[labels] = np.arange(len(labels))
        episode = SimpleNamespace(seed=0, query=taking)
        work = SimpleNamespace(
            dataset=dataset, indices=rows, episodes=SimpleNamespace(episodes=[episode, episode], labels=labels),
            labels=dataset.taxonomy.take(labels.tolist()), codes=place[dataset.taxa[rows]],
            context=Context(set="w", candidates="some"),
        )  # fmt: skip
        return {(row["metric"], row["rank"]): row["value"] for row in ceiling_rows(work)}

    order = np.argsort(-count)
    few, many = rows_of(order[:6]), rows_of(order[:40])
    assert few["macro_top1", "species"] > many["macro_top1", "species"] + 0.05
    assert many["top1", "species"] < many["top1", "genus"] < many["top1", "leaf_type"]


def test_other_sets_have_none_and_broken_ones_say_so(dataset, tmp_path):
    somewhere = SimpleNamespace(directory=tmp_path)
    assert known_world(somewhere) is None
    (tmp_path / "ceiling.json").write_text(json.dumps([{"metric": "top1", "value": 0.8}]))
    assert known_world(somewhere) is None
    (tmp_path / "ceiling.json").write_text(json.dumps({"meta": {"config": {"seeds": 3}}, "rows": []}))
    broken = SimpleNamespace(directory=tmp_path, split=dataset.split)
    with pytest.raises(DataError, match="make the set anew"):
        known_world(broken)
