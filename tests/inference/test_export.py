"""The exported program answers as the model does, and can be used with torch alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from geotreeclip.cli import main
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, InputError
from geotreeclip.inference import Classifier, exporting, load
from geotreeclip.inference.exporting import DESCRIPTION, PROGRAM, example_inputs
from geotreeclip.models.calibration import Calibration
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig
from geotreeclip.models.directory import save_model
from geotreeclip.models.features import FEATURES, feature_widths
from geotreeclip.models.head import HEAD_FILE, AdaptedHead, LinearHead
from geotreeclip.schema import BANDS, MONTH_DAYS, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon, Taxonomy


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load(tiny_model_dir, "cpu")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return model.export(tmp_path_factory.mktemp("export") / "out")


@pytest.fixture(scope="module")
def program(exported):
    return torch.export.load(exported.directory / PROGRAM).module()


@pytest.mark.parametrize(("places", "steps"), [(1, 12), (7, 12), (1, 1), (2, 3), (5, 30)])
def test_any_number_of_places_and_steps_is_answered_alike(model, program, places, steps):
    inputs = example_inputs(places, steps, seed=places + steps)
    embedding, log_probability = program(*inputs)
    np.testing.assert_allclose(embedding.numpy(), model.embed_batch(inputs.batch()), atol=1e-5)
    np.testing.assert_allclose(log_probability.numpy(), model.log_probabilities(inputs.batch()), atol=1e-5)


def test_nothing_but_one_variable(model, program):
    images, days, environment = example_inputs(2, 12)
    environment = torch.full_like(environment, torch.nan)
    environment[:, VARIABLE_NAMES.index("elevation")] = 400.0
    _, log_probability = program(torch.full_like(images, torch.nan), days, environment)
    answer = model.classify(environment={"elevation": [400.0, 400.0]}, top_k=None)
    found = np.take_along_axis(log_probability.exp().numpy(), answer.index, axis=1)
    np.testing.assert_allclose(found, answer.probability, atol=1e-5)


def test_the_description_is_enough(model, exported):
    text = (exported.directory / DESCRIPTION).read_text()
    inside = {DESCRIPTION: ""}
    torch.export.load(exported.directory / PROGRAM, extra_files=inside)
    assert inside[DESCRIPTION] == text
    about = json.loads(text)
    images, days, environment = about["inputs"]
    assert images["bands"] == list(BANDS)
    assert images["shape"] == ["places", "steps", 10, 5, 5]
    assert days["calendar_months"][1] == [32, 59]
    assert [item["name"] for item in environment["variables"]] == list(VARIABLE_NAMES)
    assert [label["species"] for label in about["labels"]] == [taxon.species for taxon in model.taxonomy]
    assert about["model"]["weights_sha256"] == model.fingerprint
    assert about["largest_difference"] == exported.difference < 1e-5
    assert sum(np.exp(about["log_prior_of_training"])) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow  # every export compiles for a while
def test_own_labels_prior_and_calibration(tiny_model_dir, tmp_path):
    model = load(tiny_model_dir, "cpu")
    model._calibration = Calibration(1.7, 0.3, model.fingerprint)
    labels = ["Quercus robur", "Pinus", "Quercus rubra"]
    weights = {"Quercus robur": 2, "Pinus": 1, "Quercus rubra": 0}
    inputs = example_inputs(4, 12)
    for number, (prior, calibrated) in enumerate((("uniform", True), ("training", False), (weights, True))):
        done = model.export(tmp_path / str(number), labels, prior, calibrated=calibrated)
        _, found = torch.export.load(done.directory / PROGRAM).module()(*inputs)
        wanted = model.log_probabilities(inputs.batch(), labels, prior, calibrated=calibrated)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert json.loads((done.directory / DESCRIPTION).read_text())["outputs"][1]["prior"] == "given as a table"


@pytest.mark.slow  # every export compiles for a while
def test_a_model_with_its_own_head(tiny_model_dir, tmp_path):
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    plain = load(directory, "cpu")
    slots = torch.from_numpy(MONTH_DAYS.copy())
    width = sum(feature_widths(FEATURES, plain._loaded.model, len(slots)).values())
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(scale=0.05, size=(len(plain.taxonomy), width)), rng.normal(size=len(plain.taxonomy))
    head = LinearHead(weight, bias, rng.normal(size=width))
    AdaptedHead(head, FEATURES, slots).write(directory / HEAD_FILE)
    model = load(directory, "cpu")
    labels = ["Picea abies", "Quercus robur"]
    done = model.export(tmp_path / "out", labels)
    inputs = example_inputs(6, 9, seed=3)
    _, found = torch.export.load(done.directory / PROGRAM).module()(*inputs)
    np.testing.assert_allclose(found.numpy(), model.log_probabilities(inputs.batch(), labels), atol=1e-5)
    with pytest.raises(InputError, match="was adapted to"):
        model.export(tmp_path / "other", ["Quercus rubra"])


def test_the_published_architecture(tmp_path):
    config = ModelConfig(
        name="published",
        architecture="published",
        embed_dim=32,
        observation=ObservationConfig(width=24, depth=2, heads=2),
        text=TextConfig(width=32, layers=2, heads=2, context_length=77),
    )
    torch.manual_seed(0)
    weights = create_model(config, Statistics.empty())
    taxa = Taxonomy([Taxon(species="Quercus robur"), Taxon(species="Pinus mugo")])
    save_model(tmp_path / "model", weights, taxa, [3, 5], Statistics.empty(), {"prior": "uniform"})
    model = load(tmp_path / "model", "cpu")
    done = model.export(tmp_path / "out", prior="training")
    assert json.loads((done.directory / DESCRIPTION).read_text())["inputs"][0]["shape"][1] == 12
    program = torch.export.load(done.directory / PROGRAM).module()
    for places in (1, 7):
        inputs = example_inputs(places, 12, seed=places)
        embedding, found = program(*inputs)
        np.testing.assert_allclose(embedding.numpy(), model.embed_batch(inputs.batch()), atol=1e-5)
        np.testing.assert_allclose(found.numpy(), model.log_probabilities(inputs.batch()), atol=1e-5)


def test_the_command_and_plain_torch(tiny_model_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(tiny_model_dir), "--out", str(out), "--labels", "genus=Quercus"]) == 0
    assert "3 labels" in capsys.readouterr().out
    script = (
        "import sys, torch\n"
        f"run = torch.export.load({str(out / PROGRAM)!r}).module()\n"
        "nothing = torch.full((2, 1, 10, 5, 5), torch.nan)\n"
        "embedding, score = run(nothing, torch.ones(2, 1, 2), torch.zeros(2, 27))\n"
        "assert score.exp().sum(1).allclose(torch.ones(2)), score\n"
        "assert not any(name.startswith(('geotreeclip', 'timm', 'open_clip')) for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert main(["export", str(tiny_model_dir), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_exported_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="the program differs from the model"):
        model.export(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Classifier, "normalisation", "batch")
    with pytest.raises(InputError, match="wants a model on the CPU"):
        model.export(tmp_path / "out")
