"""The published model: parity with the published code, files read without trust, answers without batch mates."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import published_stand_in as weights
import pytest
import torch

import geotreeclip
from geotreeclip import cli
from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.inference import Classifier, load
from geotreeclip.inputs.common import InputWarning
from geotreeclip.models import config as configs
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig, model_config
from geotreeclip.models.directory import load_model
from geotreeclip.models.published_checkpoint import _published, model_from_state, read_state
from geotreeclip.models.published_ranges import batch_ranges, default_ranges, scale_by_batch
from geotreeclip.observation_builder import build_observations
from geotreeclip.schema import BANDS, VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

SMALL = ModelConfig(
    name="published",
    architecture="published",
    embed_dim=32,
    observation=ObservationConfig(width=24, depth=2, heads=2),
    text=TextConfig(width=32, layers=2, heads=2, context_length=77),
)
TAXA = [
    Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
    Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica"),
    Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo"),
]
N = 5


pytestmark = pytest.mark.filterwarnings("ignore::geotreeclip.inputs.common.InputWarning")


# -- the full model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def parity() -> dict[str, np.ndarray]:
    with np.load(weights.PARITY) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The stand-in as the published training script writes it, from several GPUs."""
    path = tmp_path_factory.mktemp("published") / "GGT_6M.pth"
    state = {f"module.{name}": value for name, value in weights.stand_in().items()}
    moments = {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    torch.save({"epoch": 24, "model_state_dict": state, "optimizer_state_dict": optimizer, "train_loss": 1.5}, path)
    return path


@pytest.fixture(scope="session")
def full(checkpoint) -> Classifier:
    with pytest.warns(InputWarning, match="answers depend on the other places"):
        return load(checkpoint, "cpu", normalisation="batch")


def test_the_stand_in_follows_its_formula():
    key, shape = "aux_projection.0.weight", (512, 256)
    k = np.arange(512 * 256)
    expected = np.sin(0.7390851 * k + 1.6180339 * ((zlib.crc32(key.encode()) + 1) % 1000)) / 16
    np.testing.assert_allclose(weights.entry(key, list(shape)).numpy().ravel(), expected, atol=1e-7)


def test_parity_with_the_published_code(full, parity):
    embeddings = full.embed(parity["images"], parity["environment"], worldclim="1", normalize=False)
    np.testing.assert_allclose(embeddings, parity["combined_features"], atol=1e-4)
    taxa = [Taxon(*names) for names in parity["taxa"].tolist()]
    for labels in (taxa, parity["taxa"], [taxon.prompt() for taxon in taxa]):
        np.testing.assert_allclose(full.embed_labels(labels, normalize=False), parity["text_features"], atol=1e-4)


def test_parity_of_the_steps_between(full, parity):
    batch = build_observations(parity["images"], environment=parity["environment"], worldclim="1", implausible="warn")
    encoder = full._loaded.model.observation_encoder
    encoder.normalisation = "batch"
    images, environment = encoder.scaled(batch)
    np.testing.assert_allclose(images, parity["normalised_images"], atol=1e-6)
    np.testing.assert_allclose(environment, parity["normalised_environment"], atol=1e-6)
    with torch.inference_mode():
        features = encoder.temporal_features(images, torch.from_numpy(parity["image_mask"]))
    np.testing.assert_allclose(features, parity["temporal_features"], atol=1e-5)


def test_named_variables_in_degrees_give_the_same(full, parity):
    factors = np.array([variable.worldclim1_factor for variable in VARIABLES])
    values = dict(zip(VARIABLE_NAMES, (parity["environment"] / factors).T, strict=True))
    longitude, latitude = values.pop("longitude"), values.pop("latitude")
    found = full.embed(parity["images"], values, longitude, latitude, normalize=False)
    np.testing.assert_allclose(found, parity["combined_features"], atol=1e-4)


@pytest.mark.slow
def test_parity_of_a_converted_directory(checkpoint, parity, tmp_path):
    assert cli.main(["convert", str(checkpoint), str(tmp_path / "dir")]) == 0
    model = load(tmp_path / "dir", "cpu", normalisation="batch")
    found = model.embed(parity["images"], parity["environment"], normalize=False)
    np.testing.assert_allclose(found, parity["combined_features"], atol=1e-4)


# -- a small model of the same architecture ---------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch) -> None:
    """Stands in for the published sizes."""
    monkeypatch.setitem(configs._REGISTRY, "published", lambda: SMALL)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    from geotreeclip.data.statistics import Statistics

    model = create_model(SMALL, Statistics.empty())
    own = ("log_scale", "observation_encoder.band_range", "observation_encoder.variable_range")
    return {_published(name): value.clone() for name, value in model.state_dict().items() if name not in own}


@pytest.fixture
def file(state, small, tmp_path) -> Path:
    torch.save(state, tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.fixture
def places() -> dict:
    rng = np.random.default_rng(1)
    forest = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900])
    images = forest[:, None, None] * rng.uniform(0.3, 1.7, (N, 12, len(BANDS), 5, 5))
    images[1, 3:6] = np.nan
    return {
        "images": images,
        "longitude": rng.uniform(-20, 40, N),
        "latitude": rng.uniform(30, 60, N),
        "environment": {"bio01": rng.uniform(-5, 20, N), "elevation": rng.uniform(0, 2000, N)},
    }


def one(places: dict, row: int) -> dict:
    rows = slice(row, row + 1)
    environment = {name: values[rows] for name, values in places["environment"].items()}
    return {name: values[rows] for name, values in places.items() if name != "environment"} | {
        "environment": environment
    }


def test_the_registered_sizes_are_those_of_the_listing():
    import json

    with torch.device("meta"):
        from geotreeclip.data.statistics import Statistics

        ours = create_model("published", Statistics.empty()).state_dict()
    own = {name for name in ours if not name.startswith(("observation_encoder.", "text_encoder.")) or "_range" in name}
    found = {_published(name): list(value.shape) for name, value in ours.items() if name not in own}
    listed = {name: shape for name, (shape, _) in json.loads(weights.LISTING.read_text()).items()}
    assert len(listed) == 432
    del listed["temporal_extractor.clip_vit.model.vision_model.embeddings.position_ids"]
    assert found == listed


def test_by_default_answers_do_not_depend_on_batch_mates(file, places):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(file, "cpu")
    together = model.embed(**places)
    for row in range(N):
        np.testing.assert_allclose(model.embed(**one(places, row))[0], together[row], atol=1e-5)
    assert (together >= 0).all()
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_with_batch_normalisation_they_do(file, places):
    with pytest.warns(InputWarning, match="mean nothing"):
        model = load(file, "cpu", normalisation="batch")
    together = model.embed(**places)
    assert model.normalisation == "batch"
    assert np.abs(model.embed(**one(places, 0))[0] - together[0]).max() > 1e-4
    halves = model.embed(**places, batch_size=3)
    first = model.embed(**{name: v[:3] for name, v in places.items() if name != "environment"} | {
        "environment": {name: v[:3] for name, v in places["environment"].items()}
    })  # fmt: skip
    np.testing.assert_array_equal(halves[:3], first)
    labels = [Taxon("", "", "Quercus", f"Quercus number{i}") for i in range(40)]
    before = model.classify(**places, labels=labels, top_k=None).to_pandas()
    from geotreeclip.inference import scoring

    with pytest.MonkeyPatch.context() as patch:  # scores come in smaller pieces; batches must not
        patch.setattr(scoring, "_LOGITS", 80)
        after = model.classify(**places, labels=labels, top_k=None).to_pandas()
    pd.testing.assert_frame_equal(before, after)


def test_only_the_published_architecture_has_batch_normalisation(tiny_model_dir):
    with pytest.raises(InputError, match="is for the published model"):
        load(tiny_model_dir, "cpu", normalisation="batch")
    with pytest.raises(InputError, match="must be one of statistics, batch"):
        load(tiny_model_dir, "cpu", normalisation="layer")


def test_whatever_is_missing_the_answer_is_finite(file, places):
    for normalisation in ("statistics", "batch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            model = load(file, "cpu", normalisation=normalisation)
        places["images"][2, 4, 3, 1:, 2] = np.nan  # part of a month
        places["images"][3] = np.nan
        whole = model.embed(**places, normalize=False)
        assert np.isfinite(whole).all()
        environment_only = model.embed(longitude=places["longitude"], latitude=places["latitude"], normalize=False)
        assert np.isfinite(environment_only).all()
        assert np.isfinite(model.embed(places["images"][:2], normalize=False)).all()
        dated = model.embed(places["images"][:2, :5], days=np.arange(5) * 60 + 10, normalize=False)
        months = model.embed(places["images"][:2, :5], months=[1, 3, 5, 7, 9], normalize=False)
        np.testing.assert_allclose(dated, months, atol=1e-6)  # months have no position in this model


def test_a_missing_month_is_zero_after_scaling_and_in_the_minimum():
    images = np.full((1, 12, 10, 5, 5), 1000.0)
    images[0, 1], images[0, 2] = 3000, np.nan
    scaled, _ = scale_by_batch(build_observations(images))
    assert scaled[0, :3, 0, 0, 0].tolist() == pytest.approx([2 / 3 - 1, 1, 0], abs=1e-6)


def test_variables_are_scaled_among_those_that_have_them():
    environment = {"elevation": [100.0, np.nan, 300.0], "slope": [7.0, 7.0, 7.0], "bio01": [-10.0, 20.0, 5.0]}
    _, scaled = scale_by_batch(build_observations(environment=environment))
    columns = [VARIABLE_INDEX[name] for name in ("elevation", "slope", "bio01", "bio19")]
    np.testing.assert_allclose(scaled[:, columns], [[-1, -1, -1, 0], [0, -1, 1, 0], [1, -1, 0, 0]], atol=1e-5)


def test_implausible_values_are_refused_unless_told_otherwise(file, places):
    places["environment"]["slope"] = np.full(N, 103.0)
    with pytest.raises(InputError, match="slope is 103, outside"):
        load(file, "cpu").embed(**places)
    with pytest.warns(InputWarning):
        model = load(file, "cpu", normalisation="batch")
    with pytest.warns(InputWarning, match=r"slope is 103, outside .* \(5 such values are taken as they are\)"):
        model.embed(**places)
    with pytest.raises(InputError, match="implausible must be one of"):
        build_observations(longitude=1, latitude=1, implausible="shrug")


# -- files ------------------------------------------------------------------------------------------------------------


def test_wrappings_prefixes_and_position_ids_do_not_matter(state, small, tmp_path):
    text_ids = "text_encoder.text_encoder.text_model.embeddings.position_ids"
    month_ids = "temporal_extractor.clip_vit.model.vision_model.embeddings.position_ids"
    ids = {text_ids: torch.arange(77)[None], month_ids: torch.arange(2)[None]}
    variants = {
        "plain": state,
        "ids": {**state, **ids},
        "module": {f"module.{name}": value for name, value in state.items()},
        "checkpoint": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    }
    for name, content in variants.items():
        torch.save(content, tmp_path / f"{name}.pth")
        found = read_state(tmp_path / f"{name}.pth")
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_state(tmp_path / "old.pth").keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fusion.0.weight"), r"1 missing \(fusion.0.weight\)"),
        (lambda s: s.update({"fusion.7.weight": torch.ones(2)}), r"1 unexpected \(fusion.7.weight\)"),
        (lambda s: s.update({"fusion.0.bias": torch.ones(2)}), r"fusion.0.bias \[2\] instead of \[32\]"),
        (lambda s: s["fusion.0.bias"].fill_(float("nan")), r"fusion.0.bias .* no finite numbers"),
    ],
)
def test_what_does_not_fit_is_named(state, small, tmp_path, change, message):
    broken = {name: value.clone() for name, value in state.items()}
    change(broken)
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "broken.pth", "cpu")


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def test_nothing_in_a_file_is_run(state, tmp_path):
    bomb = _Bomb()
    bomb.target = str(tmp_path / "exploded")
    torch.save({"model_state_dict": state, "optimizer_state_dict": bomb}, tmp_path / "bomb.pth")
    with pytest.raises(DataError, match="nothing in the file is run"):
        read_state(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_checkpoint(tmp_path, state):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model_state_dict": {"fusion.0.bias": 3}}, tmp_path / "number.pth")
    torch.save({"a.x": torch.ones(1), "module.a.x": torch.ones(1)}, tmp_path / "twice.pth")
    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-5000])
    for name in ("text", "empty", "list", "number", "twice", "cut"):
        with pytest.raises(DataError, match=f"{name}.pth"):
            read_state(tmp_path / f"{name}.pth")


def test_refused_configurations():
    with pytest.raises(ConfigError, match="reads all inputs"):
        _build(observation=ObservationConfig(width=24, depth=1, heads=2, inputs=("image",)))
    with pytest.raises(ConfigError, match="as wide as the embedding"):
        _build(text=TextConfig(width=64, layers=1, heads=2))
    with pytest.raises(ConfigError, match="architecture"):
        _build(architecture="perceiver")


def _build(**changes):
    import dataclasses

    from geotreeclip.data.statistics import Statistics

    return create_model(dataclasses.replace(SMALL, **changes), Statistics.empty())


# -- without a list of taxa, and converted ----------------------------------------------------------------------------


def test_a_model_without_taxa_asks_for_labels(file, places):
    model = load(file, "cpu")
    with pytest.raises(InputError, match="carries no list of taxa"):
        model.classify(**places)
    answers = model.classify(**places, labels=TAXA, top_k=None).to_pandas()
    np.testing.assert_allclose(answers.groupby("sample")["probability"].sum(), 1, atol=1e-5)
    for prior in ("training", "uniform"):  # the same, as nothing is known of the labels
        again = model.classify(**places, labels=TAXA, top_k=None, prior=prior).to_pandas()
        pd.testing.assert_frame_equal(again, answers, atol=1e-6)


def test_convert_with_a_table_of_samples(file, places, tmp_path, capsys):
    table = pd.DataFrame(
        [*TAXA, TAXA[0], TAXA[0]], columns=["level0", "level1_family", "level2_genus", "level3_species"]
    )
    table.assign(sample_id=range(5)).to_csv(tmp_path / "samples.csv", index=False)
    out = tmp_path / "model"
    assert cli.main(["convert", str(file), str(out), "--taxonomy", str(tmp_path / "samples.csv")]) == 0
    assert "3 taxa, 5 samples counted" in capsys.readouterr().out
    loaded = load_model(out)
    assert list(loaded.taxonomy) == TAXA
    assert loaded.counts.tolist() == [3, 1, 1]
    assert "GeoTreeCLIP as published" in (out / "README.md").read_text()
    model, plain = load(out, "cpu"), load(file, "cpu")
    np.testing.assert_allclose(model.embed(**places), plain.embed(**places), atol=1e-6)
    # The loss leaves the prior out of the scores: "uniform" is the scores as they are, "training" adds the counts.
    batch = build_observations(**places)
    raw = plain.log_probabilities(batch, TAXA)
    np.testing.assert_allclose(model.log_probabilities(batch, prior="uniform"), raw, atol=1e-5)
    shifted = raw + np.log([4 / 8, 2 / 8, 2 / 8])
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(model.log_probabilities(batch, prior="training"), shifted, atol=1e-5)
    table = model.log_probabilities(batch, prior={"Quercus robur": 0.5, "Fagus sylvatica": 0.25, "Pinus mugo": 0.25})
    np.testing.assert_allclose(table, shifted, atol=1e-5)


def test_convert_with_a_packed_set(file, places, tmp_path):
    from geotreeclip.data.packed import PackedDataset, PackedWriter

    rng = np.random.default_rng(0)
    images = rng.integers(300, 5000, (40, 12, 10, 5, 5)).astype(np.uint16)
    images[:, 0] = 65535
    environment = rng.uniform(1, 20, (40, 27)).astype(np.float32)
    environment[:, VARIABLE_INDEX["slope"]] = np.nan
    with PackedWriter(tmp_path / "set", Taxonomy(TAXA), shard_samples=16, chunk_samples=8) as writer:
        writer.add(images, environment, rng.integers(0, 3, 40), [f"s{i}" for i in range(40)])
    out = tmp_path / "model"
    assert cli.main(["convert", str(file), str(out), "--data", str(tmp_path / "set")]) == 0
    loaded = load_model(out)
    assert list(loaded.taxonomy) == TAXA
    assert not loaded.counts.any()
    ranges = loaded.model.observation_encoder.variable_range.numpy()
    elevation, slope = VARIABLE_INDEX["elevation"], VARIABLE_INDEX["slope"]
    column = environment[:, elevation]
    np.testing.assert_allclose(ranges[elevation], [column.min(), column.max()], rtol=1e-5)  # one batch holds all 40
    np.testing.assert_array_equal(ranges[slope], default_ranges().variables[slope].astype(np.float32))
    bands = loaded.model.observation_encoder.band_range.numpy()
    np.testing.assert_array_equal(bands[:, 0], 0)  # the missing month
    np.testing.assert_array_equal(bands[:, 1], images[:, 1:].max(axis=(0, 1, 3, 4)))
    narrower = batch_ranges(PackedDataset(tmp_path / "set"), batch_size=4, draws=50).variables[elevation]
    assert column.min() < narrower[0] < narrower[1] < column.max()


def test_convert_refuses_to_overwrite_and_names_what_is_wrong(file, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for arguments, message in [
        ([file, tmp_path / "full"], "exists already"),
        ([tmp_path / "absent.pth", tmp_path / "out"], "no such file"),
        ([file, tmp_path / "out", "--taxonomy", tmp_path / "absent.csv"], "absent.csv"),
    ]:
        assert cli.main(["convert", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "notes.txt").exists()
    assert not (tmp_path / "out").exists()


def test_classify_in_one_call_takes_the_file(file, places):
    answers = geotreeclip.classify(**places, labels=TAXA, model=file, device="cpu")
    assert len(answers.to_pandas()) == N * len(TAXA)
    assert model_config("published") is SMALL
    assert model_from_state(read_state(file), file).config is SMALL
