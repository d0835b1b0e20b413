"""`eval/baselines.py` from end to end: files that the metrics read, random beside blocked, resuming, refusals."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.evaluation.baselines import command, trees
from geotreeclip.evaluation.metrics import score
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.report import read_report
from geotreeclip.evaluation.splits import spatial_folds, write_split
from geotreeclip.taxonomy import Taxonomy

SCRIPT = Path(__file__).parents[2] / "eval" / "baselines.py"
SIZE = 90


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny_model_dir):
    """Countries are halves of the world; the first taxon lives in one of them alone."""
    rng = np.random.default_rng(0)
    taxonomy = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    environment = rng.normal(size=(SIZE, 27)).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-100, 100, SIZE), rng.uniform(-50, 60, SIZE)
    taxa = np.where(environment[:, 0] > 0, 0, rng.integers(1, 3, SIZE))
    images = rng.integers(200, 4000, (SIZE, 12, 10, 5, 5)).astype(np.uint16)
    out = tmp_path_factory.mktemp("baselines") / "set"
    ids = [f"s{number}" for number in range(SIZE)]
    table = pd.DataFrame({"country": np.where(environment[:, 0] > 0, "AA", "BB")})
    with PackedWriter(out, taxonomy, shard_samples=64, chunk_samples=32) as writer:
        writer.add(images, environment, taxa, ids, samples=table)
    write_split(out, "blocks500", spatial_folds(environment[:, 0], environment[:, 1], 500, folds=2, sample_id=ids))
    return out


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setitem(trees.EXTRA_TREES, "n_estimators", 10)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_predictions_read_back_random_beside_blocked_and_a_second_run_fits_nothing(
    packed, tmp_path, monkeypatch, capsys
):
    systems = "majority,country-majority,boosting-environment,boosting"
    arguments = [
        "--data", packed, "--split", "blocks500", "--out", tmp_path, "--systems", systems, "--rounds", 10,
        "--resamples", 50, "--seeds", 0, 1,
    ]  # fmt: skip
    assert call(monkeypatch, *arguments) == 0
    first = capsys.readouterr().out
    items = read_predictions(tmp_path / "predictions.parquet")
    _, rows = read_report(tmp_path / "report.json")
    assert {item.context.split for item in items} == {"blocks500", "random-beside-blocks500"}
    species = [item for item in items if item.rank == "species" and item.context.prior == "training"]
    assert all(len(item) == SIZE for item in species)  # every sample is tested in one of the folds
    seeds = {(item.context.system, item.context.seed) for item in species}
    assert {seed for system, seed in seeds if system == "gradient boosting"} == {0, 1}
    assert {seed for system, seed in seeds if system == "country majority"} == {None}
    top1 = {
        (row["system"], row["inputs"], row["split"], row["seed"]): row["value"]
        for row in rows
        if (row["metric"], row["rank"], row["protocol"], row["prior"]) == ("top1", "species", "published", "training")
        and row["group"] == "all"
    }
    for item in species:
        context = item.context
        found = next(row for row in score(item) if row["metric"] == "top1")
        assert top1[context.system, context.inputs, context.split, context.seed] == pytest.approx(found["value"])
    assert top1["country majority", "country", "blocks500", None] > top1["majority", "none", "blocks500", None]
    differences = [row for row in rows if row["metric"] == "top1_difference" and row["split"] == "blocks500"]
    assert {row["system"] for row in differences} == {"gradient boosting (all) - gradient boosting (environment)"}
    monkeypatch.setattr(command, "predictions_of", None)  # whoever fits now fails
    assert call(monkeypatch, *arguments) == 0
    assert "fold 0: majority top-1" in first
    assert "fold 0: majority top-1" not in capsys.readouterr().out
    assert call(monkeypatch, *arguments[:-3], "--rounds", 11) == 2
    assert "another budget" in capsys.readouterr().err


def test_a_random_split_deals_the_same_samples_in_the_same_numbers(packed):
    named = [command.roles_of(PackedDataset(packed), "blocks500", fold) for fold in range(2)]
    dealt = command.random_beside(named)
    for blocked, random in zip(named, dealt, strict=True):
        for role in ("train", "validation", "test"):
            assert len(getattr(random, role)) == len(getattr(blocked, role))
        assert not set(random.train) & set(random.test)
        assert set(random.validation) <= set(random.train)
        assert set(random.test) != set(blocked.test)
    assert sorted(np.concatenate([roles.test for roles in dealt])) == list(range(SIZE))


def test_images_of_a_model_are_permuted(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_model_dir, run / "model")
    out = tmp_path / "out"
    arguments = ["--data", packed, "--split", "blocks500", "--fold", 0, "--out", out, "--systems", "none"]
    more = ["--permute-images", run, "--block-km", 8000, "--repeats", 2, "--resamples", 50, "--no-random"]
    assert call(monkeypatch, *arguments, *more) == 0
    assert "test samples could be exchanged" in capsys.readouterr().out
    items = [item for item in read_predictions(out / "predictions.parquet") if item.rank == "species"]
    assert [item.context.inputs for item in items] == ["all", "environment", "images permuted", "images permuted"]
    _, rows = read_report(out / "report.json")
    assert [row["seed"] for row in rows if row["metric"] == "top1_difference"] == [None] * 16
    assert call(monkeypatch, *arguments[:4], "--out", out, "--systems", "none", *more) == 2
    assert "belongs to one fold" in capsys.readouterr().err


def test_what_cannot_be_fitted_is_said(packed, tmp_path, monkeypatch, capsys):
    arguments = ["--data", packed, "--split", "blocks500", "--fold", 0, "--out", tmp_path, "--no-random"]
    assert call(monkeypatch, *arguments, "--systems", "majority,boosting", "--trees", 12) == 0
    assert "boosting on blocks500: gradient boosting grows a tree" in capsys.readouterr().out
    assert call(monkeypatch, *arguments, "--systems", "xgboost") == 2
    assert "xgboost is unknown; there are majority" in capsys.readouterr().err
