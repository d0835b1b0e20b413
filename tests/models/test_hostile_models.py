"""Model directories with bytes and values that nobody meant: a model, or one of our errors, and nothing else."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from geotreeclip.errors import ConfigError, DataError, GeotreeclipError
from geotreeclip.models.calibration import Calibration, ConformalThreshold, read_calibration, write_calibration
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig, config_from_dict
from geotreeclip.models.directory import load_model
from geotreeclip.models.place_centres import CENTRES_FILE, PlaceCentres
from geotreeclip.ranges import read_ranges

quick = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
patches = st.lists(st.tuples(st.integers(0, 2**31), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4)


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    return path


def spoiled(document, data, value):
    """The document with a value put somewhere."""
    place = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = value
            return document
        place = place[key]


@pytest.mark.parametrize("name", ["config.json", "training.json", "statistics.json"])
def test_any_value_anywhere(model, name):
    whole = (model / name).read_text()

    @quick
    @given(data=st.data(), value=values)
    def load(data, value):
        (model / name).write_text(json.dumps(spoiled(json.loads(whole), data, value)))
        try:
            loaded = load_model(model)
        except GeotreeclipError:
            return
        assert all(bool(value.isfinite().all()) for value in loaded.model.state_dict().values())
        assert all(bool(value.isfinite().all()) for value in loaded.model.observation_encoder.buffers())

    load()


def test_any_value_anywhere_in_a_calibration(tmp_path):
    threshold = ConformalThreshold("species", 0.9, -2.0, "block", "lac", 100, 9)
    write_calibration(tmp_path, Calibration(1.2, 0.1, "a" * 64, {"samples": 5}, {"before": 1.0}, (threshold,)))
    whole = (tmp_path / "calibration.json").read_text()

    @quick
    @given(data=st.data(), value=values)
    def read(data, value):
        (tmp_path / "calibration.json").write_text(json.dumps(spoiled(json.loads(whole), data, value)))
        try:
            found = read_calibration(tmp_path, "a" * 64)
        except DataError:
            return
        assert 0 < found.temperature < float("inf")
        found.apply(torch.zeros(1, 2), torch.zeros(2))

    read()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "taxonomy.parquet", "label_embeddings.safetensors", CENTRES_FILE]
)
def test_changed_bytes(model, name):
    PlaceCentres(torch.zeros(3, 32), torch.tensor([0.5, 0.25, 0.25])).write(model)
    whole = (model / name).read_bytes()

    @quick
    @given(changes=patches, cut=st.none() | st.integers(0, 2**31))
    @example(changes=[(0, (2**62).to_bytes(8, "little"))], cut=None)
    def load(changes, cut):
        data = bytearray(whole)
        for place, new in changes:
            place %= min(len(data), 2000)  # the headers lie there; parquet has its own at the end
            place = len(data) - 1 - place if name.endswith("parquet") else place
            data[place : place + len(new)] = new[: len(data) - place]
        (model / name).write_bytes(bytes(data[: len(data) if cut is None else cut % (len(data) + 1)]))
        try:
            loaded = load_model(model)
        except GeotreeclipError:
            return
        assert len(loaded.counts) == len(loaded.taxonomy)
        assert all(bool(value.isfinite().all()) for value in loaded.model.state_dict().values())

    load()


def test_no_memory_is_taken_for_weights_that_are_not_there(model):
    config = json.loads((model / "config.json").read_text())
    config["observation"] |= {"width": 16384, "depth": 256}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"describes a model of more than 824,6.* model.safetensors has"):
        load_model(model)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_of_another_kind_are_refused(model, dtype):
    state = {name: value.to(dtype) for name, value in load_file(model / "model.safetensors").items()}
    save_file(state, model / "model.safetensors")
    with pytest.raises(DataError, match=f"has dtype {dtype}"):
        load_model(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_are_taken(model, dtype):
    state = {name: value.to(dtype) for name, value in load_file(model / "model.safetensors").items()}
    save_file(state, model / "model.safetensors")
    assert {value.dtype for value in load_model(model).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("cls", "given_values", "message"),
    [
        (ObservationConfig, {"width": "256"}, "width is '256', expected int"),
        (ObservationConfig, {"width": 10**9}, "give 1 to 16384"),
        (ObservationConfig, {"depth": -1}, "depth is -1"),
        (ObservationConfig, {"depth": True}, "depth is True, expected int"),
        (ObservationConfig, {"dropout": float("nan")}, "dropout is nan"),
        (ObservationConfig, {"heads": 0}, "heads is 0"),
        (ObservationConfig, {"inputs": [3]}, "expected names"),
        (ObservationConfig, {"inputs": ["image", "image"]}, "each once"),
        (ObservationConfig, {"inputs": "image"}, "inputs is 'image'"),
        (TextConfig, {"heads": 0}, "heads is 0"),
        (TextConfig, {"tower": None}, "tower is None, expected str"),
        (ModelConfig, {"observation": 3}, "expected settings by name"),
        (ModelConfig, {"initial_temperature": 0}, "initial_temperature is 0"),
    ],
)
def test_values_of_a_configuration_are_checked(cls, given_values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(cls, given_values, "config.json")


def test_ranges_with_changed_bytes(trained_ranges):
    directory, whole = trained_ranges

    @quick
    @given(changes=patches, cut=st.none() | st.integers(0, 2**31))
    def read(changes, cut):
        data = bytearray(whole)
        for place, new in changes:
            place %= len(data)
            data[place : place + len(new)] = new[: len(data) - place]
        (directory / "ranges.parquet").write_bytes(bytes(data[: len(data) if cut is None else cut % (len(data) + 1)]))
        try:
            read_ranges(directory)
        except GeotreeclipError:
            return

    read()


@pytest.fixture
def trained_ranges(tmp_path):
    import numpy as np

    from geotreeclip.ranges import Ranges
    from geotreeclip.taxonomy import Taxon

    taxa = [Taxon("a", "F", "G", f"G s{number}") for number in range(3)]
    cells = [np.arange(5 * number, 5 * number + 4, dtype=np.int32) for number in range(3)]
    low = np.zeros((3, 19), np.float32)
    Ranges(taxa, cells, low, low + 1).write(tmp_path)
    return tmp_path, (tmp_path / "ranges.parquet").read_bytes()
