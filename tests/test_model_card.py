"""The card says what the files say, and nothing that they do not."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from geotreeclip.cli import main
from geotreeclip.models.calibration import Calibration, write_calibration
from geotreeclip.models.directory import load_model


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def report(model, tmp_path):
    row = {"rank": "species", "group": "all", "inputs": "all", "prior": "uniform", "candidates": "8 taxa", "n": 50}
    rows = [
        {**row, "system": "geotreeclip", "metric": "top1", "value": 0.4325, "low": 0.378, "high": 0.482},
        {**row, "system": "majority", "metric": "top1", "value": 0.1, "low": None, "high": None},
        {**row, "system": "geotreeclip", "metric": "log_loss", "value": 2.3456, "low": 2.1, "high": 2.5},
        {**row, "system": "geotreeclip", "rank": "genus", "metric": "top1", "value": 0.9876},
    ]
    meta = {"model_fingerprint": load_model(model).fingerprint, "scored": "the test samples", "samples": 50}
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"meta": meta, "rows": rows}))
    return path


def test_a_card_of_the_run_and_its_report(model, report, capsys):
    fingerprint = load_model(model).fingerprint
    write_calibration(model, Calibration(1.25, 0.0, fingerprint, {"samples": 321}))
    arguments = ["card", str(model), "--report", str(report), "--weights-licence", "cc-by-4.0"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0"
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("species top-1, uniform prior", 0.4325)
    for part in (
        fingerprint, "1,182 samples of 8 taxa", "Weights: cc-by-4.0", "B8 is the fourth", "Training data: not stated",
        "| geotreeclip | all | uniform | 43.2 [37.8, 48.2] % | 2.346 [2.100, 2.500] |",
        "| majority | all | uniform | 10.0 % |  |", "temperature 1.250, fitted on 321 validation samples",
    ):  # fmt: skip
        assert part in text, part
    assert "98.76" not in text
    assert not (model / "README.md").exists()
    assert main([*arguments, "--write"]) == 0
    assert (model / "README.md").read_text() + "\n" == text
    capsys.readouterr()
    assert main(["card", str(model)]) == 0
    assert capsys.readouterr().out == text


def test_licences_of_the_records_as_the_run_counted_them(model, capsys):
    account = json.loads((model / "training.json").read_text())
    account |= {"licences": {"CC0_1_0": 1200, "CC_BY_NC_4_0": 3}, "datasets": 17}
    (model / "training.json").write_text(json.dumps(account))
    assert main(["card", str(model), "--new"]) == 0
    text = capsys.readouterr().out
    assert "- Training data: records by licence: CC0_1_0 1,200, CC_BY_NC_4_0 3; 17 data sets" in text


def test_what_is_not_known_is_not_said(model, capsys):
    assert main(["card", str(model), "--new"]) == 0
    text = capsys.readouterr().out
    assert "license: other" in text
    assert "None measured." in text
    assert "Probabilities are not calibrated." in text


def test_reports_of_other_models_are_refused(model, report, capsys):
    document = json.loads(report.read_text())
    document["meta"]["model_fingerprint"] = "0" * 64
    report.write_text(json.dumps(document))
    for text, message in (
        (None, "is of weights 000000000000"),
        ("{", "cannot be read as a report"),
        ("[]", "is no report"),
    ):
        if text is not None:
            report.write_text(text)
        assert main(["card", str(model), "--report", str(report)]) == 2
        assert message in capsys.readouterr().err
