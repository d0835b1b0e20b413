"""`eval/calibrate.py` and `eval/audit.py` from end to end, with random weights and a planted overconfidence."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.evaluation.calibrate import fit, score
from geotreeclip.evaluation.collect import Truth
from geotreeclip.evaluation.splits import spatial_folds, write_split
from geotreeclip.inference import load
from geotreeclip.models.calibration import read_calibration
from geotreeclip.taxonomy import Taxonomy

EVAL = Path(__file__).parents[2] / "eval"
SIZE = 240


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny_model_dir):
    rng = np.random.default_rng(0)
    taxonomy = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    environment = rng.normal(size=(SIZE, 27)).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-10, 30, SIZE), rng.uniform(40, 60, SIZE)
    images = rng.integers(200, 4000, (SIZE, 12, 10, 5, 5)).astype(np.uint16)
    folder = tmp_path_factory.mktemp("calibrate")
    taxa = np.zeros(SIZE, dtype=np.int64)
    for name in ("unlabelled", "set"):  # random weights know nothing, so the truths are drawn from what they say
        out = folder / name
        with PackedWriter(out, taxonomy) as writer:
            writer.add(images, environment, taxa, [f"s{i}" for i in range(SIZE)])
        said = score(load(tiny_model_dir), PackedDataset(out), np.arange(SIZE), taxonomy)
        taxa = (said + rng.gumbel(size=said.shape)).argmax(axis=1)
    frame = spatial_folds(
        environment[:, 0], environment[:, 1], 500, folds=3, validation=0.5, sample_id=[f"s{i}" for i in range(SIZE)]
    )
    write_split(out, "blocks500", frame)
    write_split(out, "tiny", frame[frame["role"] != "validation"])
    return out


def call(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EVAL / script), run_name="__main__")
    return stop.value.code


def test_calibration_is_written_into_the_model(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    model = tmp_path / "run" / "model"
    shutil.copytree(tiny_model_dir, model)
    arguments = ["--model", tmp_path / "run", "--data", packed, "--split", "blocks500", "--fold", 1]
    assert call(monkeypatch, "calibrate.py", *arguments, "--dry-run") == 0
    assert not (model / "calibration.json").exists()
    assert call(monkeypatch, "calibrate.py", *arguments) == 0
    text = capsys.readouterr().out
    assert "nothing was written" in text
    assert "prediction sets at 90%" in text
    assert "not spatially blocked" not in text
    found = read_calibration(model)
    dataset = PackedDataset(packed)
    rows = dataset.split("blocks500", 1, "validation")
    assert found.fitted_on["samples"] == found.fitted_on["of"] == len(rows)
    assert found.fitted_on["data_fingerprint"] == dataset.fingerprint()
    assert {(item.rank, item.unit) for item in found.conformal} == {
        (rank, unit) for rank in ("species", "genus", "family", "leaf_type") for unit in ("sample", "block")
    }
    assert len(found.model_fingerprint) == 64


def test_what_cannot_be_calibrated_is_refused(packed, tiny_model_dir, monkeypatch, capsys):
    arguments = ["--model", tiny_model_dir, "--data", packed]
    assert call(monkeypatch, "calibrate.py", *arguments) == 2
    assert "name the split" in capsys.readouterr().err
    assert call(monkeypatch, "calibrate.py", *arguments, "--split", "tiny") == 2
    assert "has 0 validation samples" in capsys.readouterr().err
    assert call(monkeypatch, "calibrate.py", *arguments, "--split", "blocks500", "--level", 90) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_a_model_is_not_calibrated_on_what_it_learnt_from(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    account = json.loads((model / "training.json").read_text())
    account.update(data_fingerprint=PackedDataset(packed).fingerprint(), split="blocks500", fold=0)
    (model / "training.json").write_text(json.dumps(account))
    assert call(monkeypatch, "calibrate.py", "--model", model, "--data", packed, "--fold", 1) == 2
    assert "trained on" in capsys.readouterr().err
    assert call(monkeypatch, "calibrate.py", "--model", model, "--data", packed) == 0  # its own validation blocks


def test_fit_mends_a_known_overconfidence(tiny_model_dir):
    rng = np.random.default_rng(0)
    labels = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    scores = rng.normal(size=(4000, len(labels)))
    chosen = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    shown = 3 * scores
    shown -= np.log(np.exp(shown).sum(axis=1, keepdims=True))
    ids = np.array([f"s{i}" for i in range(4000)])
    truth = Truth(ids, [labels[int(k)] for k in chosen], block=np.arange(4000) // 20)
    result, lines = fit(shown, labels, truth)
    assert result.temperature == pytest.approx(3, rel=0.07)
    before, after = (result.scores[when] for when in ("before", "after"))
    assert after["log_loss"][0] < before["log_loss"][0] - 0.2
    assert after["ece_debiased"][0] < 0.03 < 0.2 < before["ece_debiased"][0]
    assert any("temperature 3.0" in line or "temperature 2.9" in line for line in lines)


def test_audit_prints_splits_and_sets(packed, monkeypatch, capsys):
    assert call(monkeypatch, "audit.py", "--data", packed, "--split", "blocks500") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"blocks500, fold {k}" for k in range(3)]
    assert call(monkeypatch, "audit.py", "--data", packed, "--train", packed) == 0
    assert "| set against set | 240 | 240 | 240 | 240 | 100.0% |" in capsys.readouterr().out
