"""Embeddings of labels: encoded once, kept on disk, mended when damaged."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch

from geotreeclip.inference import Classifier
from geotreeclip.label_cache import LabelCache, label_key, read_embeddings, write_embeddings
from geotreeclip.models.directory import load_model
from geotreeclip.taxonomy import Taxonomy


def count_encoding(monkeypatch, model: Classifier) -> list[int]:
    """Lengths of the lists that the text tower is asked to encode."""
    asked: list[int] = []
    encode = model._labels.encode

    def encode_and_count(labels: Taxonomy, **options):
        asked.append(len(labels))
        return encode(labels, **options)

    monkeypatch.setattr(model._labels, "encode", encode_and_count)
    return asked


def test_a_label_list_is_encoded_once_and_found_on_disk(tiny_model_dir, tmp_path, places, monkeypatch):
    cache = LabelCache(tmp_path)
    first = Classifier(load_model(tiny_model_dir), "cpu", cache)
    asked = count_encoding(monkeypatch, first)
    labels = ["Quercus robur", "Betula"]
    expected = first.embed_labels(labels)
    first.classify(**places, labels=labels)
    assert asked == [2]
    assert len(list(tmp_path.iterdir())) == 1

    second = Classifier(load_model(tiny_model_dir), "cpu", cache)
    asked = count_encoding(monkeypatch, second)
    np.testing.assert_array_equal(second.embed_labels(labels), expected)
    assert asked == []
    second.embed_labels(labels[::-1])  # another order is another list
    assert asked == [2]


def test_other_weights_prompts_or_lengths_have_other_keys():
    prompts = ["Fagaceae / Quercus", "Pinaceae"]
    keys = {
        label_key("a", prompts, 32),
        label_key("b", prompts, 32),
        label_key("a", prompts[::-1], 32),
        label_key("a", ["Fagaceae / Quercus Pinaceae"], 32),
        label_key("a", prompts, 31),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("damage", ["truncated", "other shape", "not finite"])
def test_a_damaged_cache_is_reported_and_mended(tiny_model_dir, tmp_path, damage):
    cache = LabelCache(tmp_path)
    labels = ["Quercus robur", "Betula"]
    expected = Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        wrong = torch.full((2, 32), torch.nan) if damage == "not finite" else torch.zeros(2, 3)
        write_embeddings(path, wrong, path.stem)
    with pytest.warns(UserWarning, match=path.name):
        again = Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    np.testing.assert_array_equal(again, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_does_not_stop_work(tiny_model_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = Classifier(load_model(tiny_model_dir), "cpu", LabelCache(tmp_path / "file" / "labels"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert model.embed_labels(["Betula"]).shape == (1, 32)


def test_embeddings_of_the_model_directory_are_used_only_if_they_match(tiny_model_dir, tmp_path, monkeypatch):
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    loaded = load_model(directory)
    key = label_key(loaded.fingerprint, loaded.taxonomy.prompts(), loaded.model.text_encoder.context_length)
    planted = torch.nn.functional.normalize(torch.ones(8, 32), dim=1)
    path = directory / "label_embeddings.safetensors"
    write_embeddings(path, planted, key)
    assert read_embeddings(path, "another", (8, 32)) is None
    model = Classifier(loaded, "cpu", LabelCache(tmp_path / "empty"))
    np.testing.assert_array_equal(model.embed_labels(), planted)
    write_embeddings(path, planted, "of other weights")
    model = Classifier(load_model(directory), "cpu", LabelCache(tmp_path / "empty"))
    assert np.abs(model.embed_labels() - planted.numpy()).max() > 0.01
