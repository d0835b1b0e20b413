"""Models by path, name and environment variable; what is said where there is none."""

from __future__ import annotations

import pandas as pd
import pytest

import geotreeclip
from geotreeclip.cache import keep_demo_model
from geotreeclip.errors import DataError, InputError
from geotreeclip.inference import load, one_call
from geotreeclip.model_sources import DEFAULT_MODEL
from geotreeclip.models.directory import load_model


def test_one_call_form_loads_once(tiny_model_dir, places, monkeypatch):
    loads: list[object] = []
    monkeypatch.setattr(one_call, "load_model", lambda path: loads.append(path) or load_model(path))
    monkeypatch.setattr(one_call, "_kept", type(one_call._kept)())
    first = geotreeclip.classify(**places, model=tiny_model_dir, device="cpu").to_pandas()
    monkeypatch.setenv("GEOTREECLIP_MODEL", str(tiny_model_dir))
    second = geotreeclip.classify(**places, device="cpu").to_pandas()
    pd.testing.assert_frame_equal(first, second)
    assert len(loads) == 1


def test_load_by_path_demo_and_hub(tiny_model_dir, monkeypatch, tmp_path):
    assert load(tiny_model_dir, "cpu").taxonomy[0].species == "Quercus robur"
    monkeypatch.setenv("GEOTREECLIP_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="make demo"):
        load("demo")
    for _ in range(2):  # the second replaces the first
        assert keep_demo_model(tiny_model_dir) == tmp_path / "demo-model"
    assert [path.name for path in tmp_path.iterdir()] == ["demo-model"]
    assert len(load("demo", "cpu").taxonomy) == 8

    asked: list[tuple] = []

    def download(repository, revision=None, allow_patterns=None):
        asked.append((repository, revision, allow_patterns))
        return str(tiny_model_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert len(load("hf-hub:someone/trees@v1", "cpu").taxonomy) == 8
    load(None, "cpu")
    assert [entry[:2] for entry in asked] == [("someone/trees", "v1"), (DEFAULT_MODEL.removeprefix("hf-hub:"), None)]
    assert not any("py" in pattern or pattern == "*" for pattern in asked[0][2])


def test_no_model_is_one_line_that_names_the_ways_out(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("GEOTREECLIP_MODEL", DEFAULT_MODEL, "no network", 'model="demo"'):
        assert part in message
    monkeypatch.setenv("GEOTREECLIP_MODEL", "/nowhere/at/all")
    with pytest.raises(InputError, match=r"\$GEOTREECLIP_MODEL names '/nowhere/at/all': no model"):
        load()


def test_a_file_or_an_unknown_device_is_refused(tiny_model_dir):
    with pytest.raises(DataError, match=r"is a file; give the model directory"):
        load(tiny_model_dir / "model.safetensors")
    with pytest.raises(InputError, match="device 'gpu'"):
        load(tiny_model_dir, "gpu")
