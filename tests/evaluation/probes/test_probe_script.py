"""`eval/probe.py` as a person runs it: a file, a model and a table, refusals."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geotreeclip.evaluation.report import read_report

SCRIPT = Path(__file__).parents[3] / "eval" / "probe.py"


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


@pytest.fixture
def embedding(tmp_path):
    rng = np.random.default_rng(0)
    size = 120
    code = rng.integers(0, 3, size)
    values = rng.normal(size=(size, 6))
    values[:, 0] += 2 * code
    np.savez(
        tmp_path / "e.npz", embedding=values, longitude=rng.uniform(0, 60, size), latitude=rng.uniform(-30, 30, size),
        biome=np.array(["x", "y", "z"])[code], bio12=values[:, 0] * 100.5,
    )  # fmt: skip
    return tmp_path / "e.npz"


def test_a_file_is_probed_at_random_and_in_blocks(embedding, tmp_path, monkeypatch, capsys):
    out = tmp_path / "r.json"
    assert call(monkeypatch, "--embedding", embedding, "--target", "biome", "--out", out, "--folds", 3) == 0
    meta, rows = read_report(out)
    assert meta["task"] == "multiclass"
    found = {
        (row["split"], row["method"]): row["value"]
        for row in rows
        if row["metric"] == "macro_f1" and row["fold"] is None
    }
    assert set(found) == {(split, probe) for split in ("random", "blocks500") for probe in ("linear", "ridge", "knn")}
    assert min(found.values()) > 0.45
    page = out.with_suffix(".md").read_text()
    assert "| linear | macro f1 |" in page
    assert "120 samples, 6 features, 3 classes" in capsys.readouterr().out


def test_climate_is_refused_unless_forced_and_then_marked(embedding, tmp_path, monkeypatch, capsys):
    out = tmp_path / "r.json"
    arguments = ["--embedding", embedding, "--target", "bio12", "--out", out, "--probes", "ridge"]
    assert call(monkeypatch, *arguments) == 2
    assert "--saw" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--saw", "image,climate") == 2
    assert "--force" in capsys.readouterr().err
    assert not out.exists()
    assert call(monkeypatch, *arguments, "--saw", "image,climate", "--force") == 0
    assert "saw the target" in out.with_suffix(".md").read_text()
    assert call(monkeypatch, *arguments, "--saw", "image") == 0
    assert "saw the target" not in out.with_suffix(".md").read_text()


def test_a_model_embeds_the_places_of_a_table(tiny_model_dir, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    place = np.repeat(np.arange(80), 2)
    frame = pd.DataFrame({
        "lon": rng.uniform(5, 15, 80)[place], "lat": rng.uniform(47, 54, 80)[place], "elevation": 100.0,
        "bio01": rng.uniform(5, 10, 80)[place], "tree": rng.choice(["a", "b", "c"], 160),
    })  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    base = ["--model", tiny_model_dir, "--table", tmp_path / "t.csv", "--probes", "knn", "--block-km", 100]
    out = tmp_path / "r.json"
    assert call(monkeypatch, *base, "--target", "tree", "--task", "multilabel", "--folds", 3, "--out", out) == 0
    meta, rows = read_report(out)
    assert meta["embedding_saw"] == "terrain, climate, location"
    assert {"macro_ap", "micro_ap", "macro_f1"} <= {row["metric"] for row in rows}
    capsys.readouterr()
    assert call(monkeypatch, *base, "--target", "bio01", "--out", out) == 2
    assert "saw climate" in capsys.readouterr().err


def test_both_or_neither_source_is_refused(tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "--target", "x", "--out", tmp_path / "r.json") == 2
    assert "give one of --embedding FILE" in capsys.readouterr().err
