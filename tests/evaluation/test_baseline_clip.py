"""True-colour composites pixel by pixel, and an open_clip model with random weights from end to end."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.baselines import Fold
from geotreeclip.evaluation.baselines.clip import PROMPTS, clip_log_prob, describe, load_clip, true_colour
from geotreeclip.evaluation.baselines.command import main
from geotreeclip.evaluation.baselines.systems import clip_predictions
from geotreeclip.evaluation.collect import truth_of
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.splits import write_split
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = Taxonomy(
    [Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", f"Pinus {name}") for name in ("mugo", "nigra", "pinea")]
)


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP that open_clip knows by name."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = tmp_path_factory.mktemp("clip") / "tiny-clip-of-tests.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    rng = np.random.default_rng(0)
    images = rng.integers(100, 3000, (9, 12, 10, 5, 5)).astype(np.uint16)
    images[0] = MISSING_DN
    images[1, 1:, 2] = MISSING_DN  # red is seen in January alone
    environment = rng.normal(size=(9, len(VARIABLES))).astype(np.float32)
    out = tmp_path_factory.mktemp("composites") / "set"
    with PackedWriter(out, TAXA, shard_samples=8, chunk_samples=4) as writer:
        writer.add(images, environment, np.arange(9) % 3, [f"s{number}" for number in range(9)])
    return PackedDataset(out)


def test_composites_are_red_green_blue_of_reflectance_over_white() -> None:
    images = np.full((1, 2, len(BANDS), 1, 2), 9999, dtype=np.uint16)
    images[0, 0, BANDS.index("B4")] = [[300, 1500]]
    images[0, 0, BANDS.index("B3")] = [[600, MISSING_DN]]
    images[0, 0, BANDS.index("B2")] = [[3000, 6000]]
    images[0, 1, BANDS.index("B2")] = MISSING_DN
    shown, seen = true_colour(images)
    assert shown.shape == (1, 2, 3, 1, 2)
    np.testing.assert_allclose(shown[0, 0, :, 0], [[0.1, 0.5], [0.2, 0.2], [1, 1]], rtol=1e-6)
    assert seen.tolist() == [[True, False]]


def test_prompts_name_the_taxon_and_its_kin() -> None:
    prompts = describe(TAXA[0])
    assert len(prompts) == len(PROMPTS)
    assert all("Pinus mugo" in prompt for prompt in prompts)
    assert "a tree, evergreen needleleaf, family Pinaceae" in prompts[-1]
    assert "Fagus" in describe(Taxon(genus="Fagus"))[0]


def test_months_are_averaged_and_unseen_places_say_nothing(name: str, dataset: PackedDataset) -> None:
    torch.manual_seed(0)
    clip = load_clip(name, "cpu")
    rows = np.arange(9)
    found = np.exp(clip_log_prob(clip, dataset, rows, TAXA))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[0], 1 / 3, rtol=1e-6)
    shown, _ = true_colour(dataset.read(rows).images)
    texts = clip.encode_taxa(list(TAXA))

    def share(composites: np.ndarray) -> np.ndarray:
        scale = clip.model.logit_scale.exp()
        return torch.softmax(scale * clip.encode_images(composites) @ texts.t(), dim=1).detach().numpy()

    np.testing.assert_allclose(found[1], share(shown[1, :1])[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], share(shown[2]).mean(axis=0), rtol=1e-4)
    alone = np.exp(clip_log_prob(clip, dataset, rows[2:3], TAXA))
    np.testing.assert_allclose(alone[0], found[2], rtol=1e-4)


def test_predictions_carry_both_priors(name: str, dataset: PackedDataset) -> None:
    fold = Fold(np.zeros((9, 27)), np.array([0, 0, 0, 0, 1, 2, 0, 1, 2]), np.arange(9), np.arange(6), np.arange(6, 9))
    truth = truth_of(dataset, fold.test, block_km=100)
    uniform, training = clip_predictions(load_clip(name, "cpu"), fold, dataset, truth, Context(set="x"))
    assert (uniform.listed.context.inputs, uniform.listed.context.prior) == ("true colour", "uniform")
    assert "random weights" in uniform.listed.context.system
    # Taxon 0 has four of six training samples
    change = training.listed.top_log_prob - uniform.listed.top_log_prob
    assert np.ptp(change) > 0.1


def test_weights_come_from_a_local_checkpoint_and_the_unknown_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), path)
    loaded = load_clip(f"{name}@{path}", "cpu")
    torch.testing.assert_close(loaded.model.visual.conv1.weight, model.visual.conv1.weight)
    assert loaded.name == f"{name} (weights.pt)"
    with pytest.raises(ConfigError, match="no model 'ViT-X'"):
        load_clip("ViT-X@openai")
    with pytest.raises(ConfigError, match="is no file"):
        load_clip(f"{name}@{tmp_path}/absent.pt")


def test_the_command_scores_it_on_the_rows_of_a_split(name: str, dataset: PackedDataset, tmp_path: Path) -> None:
    ids = [f"s{number}" for number in range(9)]
    roles = ["train"] * 6 + ["test"] * 3
    frame = pd.DataFrame({"sample_id": ids, "fold": 0, "role": roles, "block": 0})
    write_split(dataset.directory, "small", frame)
    arguments = ["--data", str(dataset.directory), "--split", "small", "--out", str(tmp_path), "--systems", "none"]
    assert main([*arguments, "--clip", name, "--device", "cpu", "--no-random", "--resamples", "20"]) == 0
    items = read_predictions(tmp_path / "predictions.parquet")
    assert {item.context.system for item in items} == {f"{name} (random weights)"}
    assert {item.context.prior for item in items} == {"uniform", "training"}
    assert all(sorted(item.sample_id) == ["s6", "s7", "s8"] for item in items)
