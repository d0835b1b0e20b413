"""`eval/zero_shot.py` from end to end on a tiny model with random weights."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.report import read_report
from geotreeclip.evaluation.scoring import evaluate
from geotreeclip.taxonomy import Taxonomy

SCRIPT = Path(__file__).parents[2] / "eval" / "zero_shot.py"
SIZE = 41


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny_model_dir):
    rng = np.random.default_rng(0)
    taxonomy = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    environment = rng.normal(size=(SIZE, 27)).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-10, 30, SIZE), rng.uniform(40, 60, SIZE)
    environment[rng.random(environment.shape) < 0.1] = np.nan
    images = rng.integers(200, 4000, (SIZE, 12, 10, 5, 5)).astype(np.uint16)
    out = tmp_path_factory.mktemp("script") / "set"
    with PackedWriter(out, taxonomy, shard_samples=16, chunk_samples=8) as writer:
        writer.add(images, environment, rng.integers(0, len(taxonomy), SIZE), [f"s{i}" for i in range(SIZE)])
    ceiling = [{"rank": "species", "metric": "top1", "inputs": "all", "prior": "training", "value": 0.8}]
    (out / "ceiling.json").write_text(json.dumps({"rows": ceiling}))
    return out


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_report_page_and_predictions(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_model_dir, run / "model")
    out = tmp_path / "report.json"
    arguments = ["--model", run, "--data", packed, "--out", out, "--resamples", 50, "--batch-size", 16]
    assert call(monkeypatch, *arguments) == 0
    meta, rows = read_report(out)
    assert meta["samples"] == meta["samples_scored"] == SIZE
    assert meta["data_fingerprint"] == PackedDataset(packed).fingerprint()
    assert len(meta["model_fingerprint"]) == 64
    assert {row["n"] for row in rows if row["group"] == "all" and row["metric"] == "top1"} == {SIZE}
    wanted = {
        (inputs, prior, rank, protocol)
        for inputs in ("all", "image", "environment", "no-location")
        for prior in ("uniform", "training")
        for rank in ("species", "genus", "family", "leaf_type")
        for protocol in ("published", "rolled-up")
    }
    found = [
        tuple(row[name] for name in ("inputs", "prior", "rank", "protocol"))
        for row in rows
        if row["metric"] == "top1" and row["system"] == "geotreeclip" and row["group"] == "all"
    ]
    assert sorted(found) == sorted(wanted)
    assert [row["value"] for row in rows if row["system"] == "bayes ceiling"] == [0.8]
    page = out.with_suffix(".md").read_text()
    assert "top-1 ceiling" in page
    printed = capsys.readouterr().out
    assert "majority" in printed
    assert str(out) in printed
    for part in read_predictions(tmp_path / "report.predictions.parquet"):
        assert sorted(part.sample_id) == sorted(f"s{i}" for i in range(SIZE))


def test_uniform_prior_is_that_of_the_classifier(packed, tiny_model_dir):
    from geotreeclip.candidates import label_priors
    from geotreeclip.evaluation.collect import truth_of
    from geotreeclip.evaluation.predictions import Context
    from geotreeclip.inference import Classifier
    from geotreeclip.models.directory import load_model

    loaded, dataset, rows = load_model(tiny_model_dir), PackedDataset(packed), np.arange(SIZE)
    truth = truth_of(dataset, rows, block_km=100)
    prior = label_priors(loaded.taxonomy, loaded.taxonomy, loaded.counts)
    asked = (Classifier(loaded, "cpu"), dataset, rows, loaded.taxonomy, truth)
    one, two = (evaluate(*asked, context=Context(), label_prior=p, resamples=10) for p in (None, prior))
    for first, second in zip(one.predictions, two.predictions, strict=True):
        np.testing.assert_allclose(first.top_log_prob, second.top_log_prob, atol=1e-5)
        np.testing.assert_array_equal(first.truth, second.truth)


def test_mistakes_are_told_in_one_line(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "report.json"
    for extra, message in [
        (["--split", "blocks"], "blocks.parquet: no such split"),
        (["--inputs", "radar"], "choose from all, image"),
        (["--labels", tmp_path / "absent.csv"], "absent.csv"),
    ]:
        assert call(monkeypatch, "--model", tiny_model_dir, "--data", packed, "--out", out, *extra) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error
    assert call(monkeypatch, "--model", tmp_path, "--data", packed, "--out", out) == 2
    assert not out.exists()
