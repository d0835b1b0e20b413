"""Models saved, found again, sent: whole, the right one, and nothing beside it."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import geotreeclip
from geotreeclip import hub
from geotreeclip.errors import DataError, InputError
from geotreeclip.inference import Classifier
from geotreeclip.model_sources import find_model


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    directory = tmp_path / "source"
    shutil.copytree(tiny_model_dir, directory)
    (directory / "README.md").write_text("# card\n")
    (directory / "secrets.txt").write_text("not part of a model")
    return geotreeclip.load(directory, "cpu")


def test_a_saved_model_answers_alike(model, tmp_path):
    saved = model.save_pretrained(tmp_path / "deep" / "copy")
    assert not (saved / "secrets.txt").exists()
    again = Classifier.from_pretrained(saved, fingerprint=model.fingerprint[:16], device="cpu")
    place = {"longitude": [10.0], "latitude": [50.0]}
    np.testing.assert_array_equal(again.classify(**place).probability, model.classify(**place).probability)
    with pytest.raises(InputError, match="exists already"):
        model.save_pretrained(saved)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["copy"]


def test_a_training_run_stands_for_its_model(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "model"


def test_other_weights_are_refused(model, tmp_path):
    saved = model.save_pretrained(tmp_path / "copy")
    with pytest.raises(DataError, match="these are other weights"):
        Classifier.from_pretrained(saved, fingerprint="0" * 64)
    with pytest.raises(InputError, match="12 digits or more"):
        Classifier.from_pretrained(saved, fingerprint="abc")
    with pytest.raises(InputError, match="is a path"):
        Classifier.from_pretrained(saved, revision="v1")


def test_names_of_the_hub_are_pinned(model, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "find_model", lambda name: asked.append(name) or model._loaded.directory)
    hub.find_pretrained("owner/name")
    hub.find_pretrained("hf-hub:owner/name@main", revision="abc123")
    assert asked == ["hf-hub:owner/name", "hf-hub:owner/name@abc123"]


def test_push_sends_the_files_of_the_model(model, monkeypatch):
    import huggingface_hub

    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repository, **options):
            calls["repository"] = (repository, options["private"])

        def upload_folder(self, **options):
            calls["upload"] = options
            return SimpleNamespace(oid="c0ffee")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push_to_hub("owner/name", private=True) == "c0ffee"
    assert calls["repository"] == ("owner/name", True)
    assert calls["upload"]["folder_path"] == model._loaded.directory
    assert "*.txt" not in calls["upload"]["allow_patterns"]
    assert model.fingerprint[:12] in calls["upload"]["commit_message"]
    with pytest.raises(InputError, match="give owner/name"):
        model.push_to_hub("name")
    (model._loaded.directory / "README.md").unlink()
    with pytest.raises(InputError, match=r"no README\.md"):
        model.push_to_hub("owner/name")


def test_what_the_hub_refuses_is_one_line(model, monkeypatch):
    import huggingface_hub

    def refuse(self, *_, **__):
        raise OSError("Invalid token\nmore lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"hf-hub:owner/name cannot be written: Invalid token$"):
        model.push_to_hub("owner/name")
