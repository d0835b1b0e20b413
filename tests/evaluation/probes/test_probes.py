"""Probes: closed forms, known answers, leaks that must show, and questions that are refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score, r2_score

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.evaluation.probes.fitting import choose, knn_path, path_of, ridge_path
from geotreeclip.evaluation.probes.provenance import check_targets, group_of
from geotreeclip.evaluation.probes.run import Options, Problem, report_rows, run_probes
from geotreeclip.evaluation.probes.scores import SCORES, best_thresholds, jackknife, macro_f1_of_labels
from geotreeclip.evaluation.probes.sources import join, make_problem, read_embedding


def smooth(longitude, latitude, scale=4.5, seed=0):
    """A field that is smooth at a length scale in degrees (random Fourier features of a Gaussian kernel)."""
    rng = np.random.default_rng(seed)
    frequency, phase = rng.normal(size=(2, 400)) / scale, rng.uniform(0, 2 * np.pi, 400)
    return np.sqrt(2 / 400) * np.cos(np.stack([longitude, latitude], axis=1) @ frequency + phase).sum(axis=1)


def problem_of(features, target, longitude, latitude, task="regression"):
    target = target[:, None] if target.ndim == 1 else target
    ids = np.arange(len(features)).astype(str)
    names = [f"t{k}" for k in range(target.shape[1])]
    return Problem(task, features, target, names, longitude, latitude, ids)


def test_a_location_fingerprint_scores_at_random_and_not_in_blocks():
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(0, 60, 900), rng.uniform(-30, 30, 900)
    target = smooth(longitude, latitude)
    # random waves of the place: tells where, and nothing else
    frequency, phase = np.random.default_rng(7).normal(size=(2, 200)) / 4.0, rng.uniform(0, 6.3, 200)
    fingerprint = np.cos(np.stack([longitude, latitude], axis=1) @ frequency + phase)
    honest = np.stack([target + rng.normal(size=900) * 0.7, rng.normal(size=900)], axis=1)
    options = Options(probes=("ridge",), block_km=2200)
    score = {}
    for name, features in (("fingerprint", fingerprint), ("honest", honest)):
        for outcome in run_probes(problem_of(features, target, longitude, latitude), options):
            score[name, outcome.split] = r2_score(target, outcome.predicted[:, 0])
    assert score["fingerprint", "random"] > 0.9
    assert score["fingerprint", "blocks"] < 0.25
    assert abs(score["honest", "random"] - score["honest", "blocks"]) < 0.05
    assert score["honest", "blocks"] > 0.5


def test_ridge_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 8)) * rng.uniform(0.1, 9, 8), rng.normal(size=(50, 3))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    for setting, predict in ridge_path(x, y).items():
        penalty = float(setting.split()[1])
        theirs = Ridge(alpha=penalty * 50).fit(standard, y)
        assert np.allclose(predict(x), theirs.predict(standard), atol=2e-3), setting  # the name is rounded


def test_neighbours_are_weighted_by_their_cosine():
    rng = np.random.default_rng(2)
    x, y, new = rng.normal(size=(40, 5)), rng.normal(size=(40, 2)), rng.normal(size=(7, 5))
    cosine = new @ x.T / np.linalg.norm(new, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    near = np.argsort(-cosine, axis=1)[:, :5]
    weight = np.exp(np.take_along_axis(cosine, near, axis=1) / 0.07)
    expected = (weight[..., None] * y[near]).sum(axis=1) / weight.sum(axis=1)[:, None]
    path = knn_path(x, y)
    assert list(path) == [f"{k} neighbours" for k in (1, 5, 10, 20, 30)]  # no more than there are
    assert np.allclose(path["5 neighbours"](new), expected, atol=1e-4)
    assert np.allclose(path["1 neighbours"](x), y)
    with pytest.raises(InputError, match="length 0"):
        path["1 neighbours"](np.zeros((1, 5)))


@pytest.mark.parametrize("probe", ["linear", "knn"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_permuted_targets_cannot_be_told(probe, task):
    rng = np.random.default_rng(3)
    size = 150
    longitude, latitude = rng.uniform(0, 50, size), rng.uniform(0, 50, size)
    code = rng.integers(0, 3, size)
    target = {"multiclass": np.eye(3)[code], "multilabel": (rng.random((size, 4)) < 0.4) * 1.0,
              "regression": rng.normal(size=(size, 1))}[task]  # fmt: skip
    features = rng.normal(size=(size, 6))
    problem = problem_of(features, target, longitude, latitude, task)
    for outcome in run_probes(problem, Options(probes=(probe,), folds=2)):
        assert not np.isnan(outcome.predicted).any()
        value = SCORES[task]["macro_top1" if task == "multiclass" else next(iter(SCORES[task]))](
            target, outcome.predicted
        )
        expected = {"multiclass": 1 / 3, "multilabel": 0.4, "regression": 0.0}[task]
        assert -0.5 < value - expected < 0.17  # neighbours of noise do worse than the mean


def test_nothing_of_the_test_fold_reaches_the_probe():
    rng = np.random.default_rng(4)
    size = 90
    longitude, latitude = rng.uniform(0, 50, size), rng.uniform(0, 50, size)
    features, code = rng.normal(size=(size, 3)), rng.integers(0, 3, size)
    features[:, 0] += code
    options = Options(probes=("linear", "knn"), folds=2)
    first = run_probes(problem_of(features, np.eye(3)[code], longitude, latitude, "multiclass"), options)
    for outcome in first:
        held = outcome.fold == 0
        other = code.copy()
        other[held] = rng.permutation(other[held])
        again = run_probes(
            problem_of(features, np.eye(3)[other], longitude, latitude, "multiclass"),
            Options((outcome.probe,), folds=2),
        )
        same = next(item for item in again if item.split == outcome.split)
        assert np.array_equal(same.predicted[held], outcome.predicted[held])
        assert same.settings[0] == outcome.settings[0]


def test_random_folds_keep_a_place_together_and_a_buffer_keeps_its_distance():
    rng = np.random.default_rng(5)
    place = rng.integers(0, 60, 200)
    longitude, latitude = rng.uniform(0, 40, 60)[place], rng.uniform(0, 40, 60)[place]
    problem = problem_of(rng.normal(size=(200, 3)), rng.normal(size=200), longitude, latitude)
    outcomes = run_probes(problem, Options(probes=("ridge",), folds=4, buffer_km=200))
    random, blocks = outcomes
    assert all(len(np.unique(random.fold[place == p])) == 1 for p in np.unique(place))
    assert random.dropped == [0] * 4
    assert min(blocks.dropped) > 0


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(6)
    truth = (rng.random((80, 4)) < 0.3) * 1.0
    truth[:, 3] = 0  # never occurs: left out
    score = np.round(rng.random((80, 4)) + truth * 0.4, 1)  # with ties
    scores = SCORES["multilabel"]
    assert scores["macro_ap"](truth, score) == pytest.approx(average_precision_score(truth[:, :3], score[:, :3]))
    assert scores["micro_ap"](truth, score) == pytest.approx(average_precision_score(truth.ravel(), score.ravel()))
    answer = (score[:, :3] > 0.5).astype(int)
    assert macro_f1_of_labels(truth, score - 0.5) == pytest.approx(f1_score(truth[:, :3], answer, average="macro"))
    y, z = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    assert SCORES["regression"]["r2"](y, z) == pytest.approx(r2_score(y, z))


def test_thresholds_have_the_highest_f1():
    rng = np.random.default_rng(7)
    truth = (rng.random((60, 3)) < 0.3) * 1.0
    score = np.round(rng.random((60, 3)) + truth * 0.3, 2)
    found = best_thresholds(truth, score)
    for k in range(3):
        ours = f1_score(truth[:, k], score[:, k] > found[k])
        assert ours == pytest.approx(max(f1_score(truth[:, k], score[:, k] >= value) for value in score[:, k]))


def test_jackknife_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(8)
    block = np.repeat(np.arange(20), 10)
    effect = rng.normal(size=20)
    truth = np.repeat(effect, 10)[:, None]
    interval = jackknife(lambda y, p: float(y.mean()), truth, truth, block)
    error = effect.std(ddof=1) / np.sqrt(20)
    assert (interval.high - interval.low) / 2 == pytest.approx(2.093 * error, rel=0.01)
    assert jackknife(lambda y, p: 0.0, truth, truth, block % 3).low is None


@pytest.mark.parametrize("name", ["bio01", "wc2.1_10m_bio_12", "temperature_mean", "rainfall_max", "koppen_zone"])
def test_climate_is_not_asked_of_an_embedding_that_saw_climate(name):
    assert group_of(name) == "climate"
    with pytest.raises(ConfigError, match="saw climate"):
        check_targets([name], ("image", "climate"))
    with pytest.raises(ConfigError, match="nobody said"):
        check_targets([name], None)
    assert check_targets([name], ("image", "terrain")) == []
    marks = check_targets([name], ("climate",), force=True)
    assert len(marks) == 1
    assert "says nothing" in marks[0]


def test_other_targets_are_free_and_strange_inputs_are_not():
    assert check_targets(["species", "vi_mean"], None) == []
    assert group_of("elevation") == "terrain"
    with pytest.raises(ConfigError, match="radar"):
        check_targets(["species"], ("radar",))


def records():
    place = np.repeat(np.arange(30), 2)
    label = np.where(np.arange(60) % 2, "b", np.where(place % 3 == 0, "a", "c"))
    return pd.DataFrame({"species": label, "lon": place * 1.0, "lat": place % 7 * 1.0})


def test_presence_records_become_one_sample_a_place():
    table = records()
    problem = make_problem(np.arange(60.0)[:, None], table, ["species"], "multilabel", "t", min_samples=5)
    assert problem.names == ["a", "b", "c"]
    assert len(problem) == 30
    assert problem.target[:, 1].all()
    assert np.array_equal(problem.target[:, 0], np.arange(30) % 3 == 0)
    assert problem.left_out["records joined into one sample a place"] == 30


def test_rare_classes_and_missing_rows_are_left_out_and_counted():
    table = records()
    table.loc[0, "lon"] = np.nan
    table.loc[5, "species"] = None
    problem = make_problem(np.arange(60.0)[:, None], table, ["species"], None, "t", min_samples=15)
    assert problem.task == "multiclass"
    assert problem.names == ["b", "c"]
    assert problem.left_out["rows without target or place"] == 2
    assert problem.left_out["rows of such classes"] == 9
    with pytest.raises(DataError, match="nothing to probe"):
        make_problem(np.arange(60.0)[:, None], table, ["species"], None, "t", min_samples=50)
    with pytest.raises(DataError, match="genus"):
        make_problem(np.arange(60.0)[:, None], table, ["genus"], None, "t")


def test_embeddings_join_by_id_or_row(tmp_path):
    frame = pd.DataFrame({"sample_id": list("abc"), "e0": [1.0, 2, 3], "e1": [4.0, 5, 6]})
    frame.to_parquet(tmp_path / "e.parquet")
    embedding = read_embedding(tmp_path / "e.parquet")
    values, table = join(embedding, pd.DataFrame({"sample_id": list("cxa"), "y": [1, 2, 3]}), "t")
    assert values[:, 0].tolist() == [3, 1]
    assert table["y"].tolist() == [1, 3]
    with pytest.raises(DataError, match="must agree"):
        join(embedding, pd.DataFrame({"y": [1, 2]}), "t")
    np.savez(tmp_path / "e.npz", embedding=np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_embedding(tmp_path / "e.npz")


def test_rows_have_folds_means_and_the_gap():
    rng = np.random.default_rng(9)
    longitude, latitude = rng.uniform(0, 80, 200), rng.uniform(-40, 40, 200)
    problem = problem_of(rng.normal(size=(200, 3)), rng.normal(size=200), longitude, latitude)
    options = Options(probes=("ridge", "knn"), folds=4)
    outcomes = run_probes(problem, options)
    rows = report_rows(problem, outcomes, options, set="s", system="e")
    pooled = [row for row in rows if row["metric"] == "r2" and row["fold"] is None]
    assert len(pooled) == 4
    assert all(row["low"] < row["value"] < row["high"] for row in pooled)
    folds = [row for row in rows if row["metric"] == "r2" and row["fold"] is not None]
    assert sum(row["n"] for row in folds) == 4 * 200
    gap = next(row for row in rows if row["metric"] == "r2_gap" and row["method"] == "knn")
    values = {row["split"]: row["value"] for row in pooled if row["method"] == "knn"}
    assert gap["value"] == pytest.approx(values["random"] - values["blocks500"])


def test_choices_are_the_same_for_the_same_seed_and_need_two_blocks():
    rng = np.random.default_rng(10)
    x, y, unit = rng.normal(size=(60, 4)), rng.normal(size=(60, 1)), np.arange(60) // 3
    first, again = (choose("ridge", "regression", x, y, unit, seed=3) for _ in range(2))
    assert first.setting == again.setting
    assert np.array_equal(first.held_out, again.held_out)
    with pytest.raises(DataError, match="one block"):
        choose("ridge", "regression", x, y, unit * 0)
    with pytest.raises(ConfigError, match="knn"):
        path_of("forest", "regression")
