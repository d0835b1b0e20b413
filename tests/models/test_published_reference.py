"""The published model beside a plain re-implementation: other weights, wrappings and inputs than the fixture's."""

from __future__ import annotations

import numpy as np
import published_stand_in as weights
import pytest
import torch
from published_reference import Reference, enlarge

from geotreeclip.data.statistics import Statistics
from geotreeclip.inference import Classifier, load
from geotreeclip.models import config as configs
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig
from geotreeclip.models.published_checkpoint import _published
from geotreeclip.taxonomy import Taxon

pytestmark = pytest.mark.filterwarnings("ignore::geotreeclip.inputs.common.InputWarning")

SMALL = ModelConfig(
    name="published",
    architecture="published",
    embed_dim=32,
    observation=ObservationConfig(width=24, depth=2, heads=2),
    text=TextConfig(width=32, layers=2, heads=2, context_length=77),
)
TAXA = [Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo"), Taxon("", "", "Acer", "Acer rubrum")]


def random_state(seed: int) -> dict[str, torch.Tensor]:
    """Random entries of the small sizes under published names; norms near 1, so that nothing dies out."""
    with torch.device("meta"):
        ours = create_model(SMALL, Statistics.empty()).state_dict()
    own = ("log_scale", "observation_encoder.band_range", "observation_encoder.variable_range")
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in ours.items():
        if name not in own:
            noise = torch.randn(value.shape, generator=generator)
            one = value.ndim == 1 and name.endswith("weight")
            state[_published(name)] = 1 + 0.2 * noise if one else 0.2 * noise
    return state


def places(seed: int, size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Images with missing months, one place without any, and an environment with missing and constant columns."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(50, 6000, (size, 12, 10, 1, 1)) * rng.uniform(0.7, 1.3, (size, 12, 10, 5, 5))
    images[rng.random((size, 12)) < 0.3] = np.nan
    images[1] = np.nan
    images[0, 0] = 1234.0  # never all missing
    environment = np.concatenate(
        [
            rng.uniform(-80, 80, (size, 2)), rng.uniform(0, 2000, (size, 1)), rng.uniform(0, 40, (size, 1)),
            rng.uniform(0, 360, (size, 1)), rng.uniform(150, 450, (size, 3)), rng.uniform(1, 20, (size, 19)),
        ],
        axis=1,
    )  # fmt: skip
    environment[rng.random(environment.shape) < 0.1] = np.nan
    environment[:, 9] = 7.0  # the same everywhere
    environment[:, 12] = np.nan  # nowhere
    environment[:, 15] = np.nan
    environment[3, 15] = 4.0  # at one place alone
    return images, environment


def in_tenths(environment: np.ndarray) -> np.ndarray:
    """Temperatures in tenths of a degree (bio04 in thousandths), the units of the published training."""
    from geotreeclip.schema import VARIABLES

    return environment * np.array([variable.worldclim1_factor for variable in VARIABLES])


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setitem(configs._REGISTRY, "published", lambda: SMALL)


def _with_ids(state):
    ids = {"text_encoder.text_encoder.text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {**state, "temporal_extractor.clip_vit.model.vision_model.embeddings.position_ids": torch.arange(2), **ids}


def _checkpoint(state):
    moments = {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    return {
        "epoch": 7, "model_state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": 1e-5, "eps": 1e-8, "params": [0]}]},
        "scheduler_state_dict": {"T_0": 10, "last_epoch": 7}, "loss": 1.5,
    }  # fmt: skip


WRAPPINGS = {
    "plain": lambda state: state,
    "position ids": _with_ids,
    "several GPUs": lambda state: {f"module.{name}": value for name, value in _with_ids(state).items()},
    "checkpoint": _checkpoint,
    "float16": lambda state: {name: value.half() for name, value in state.items()},
    "bfloat16 in a checkpoint": lambda state: _checkpoint({name: value.bfloat16() for name, value in state.items()}),
}


@pytest.mark.parametrize(("seed", "wrapping"), list(enumerate(WRAPPINGS)))
def test_any_weights_in_any_wrapping_give_what_the_reference_gives(small, tmp_path, seed, wrapping):
    state = random_state(seed)
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "file.pth")
    rounded = {"float16": torch.float16, "bfloat16 in a checkpoint": torch.bfloat16}.get(wrapping, torch.float32)
    reference = Reference({name: value.to(rounded) for name, value in state.items()}, 2, 2)
    model = load(tmp_path / "file.pth", "cpu", normalisation="batch")
    images, environment = places(seed)
    expected = reference.embed(images, in_tenths(environment))
    assert expected.std(axis=0).max() > 0.05
    found = model.embed(images, in_tenths(environment), worldclim="1", normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = reference.embed_tokens(model._loaded.model.tokenize([taxon.prompt() for taxon in TAXA]))
    np.testing.assert_allclose(model.embed_labels(TAXA, normalize=False), labels, atol=1e-4)


@pytest.mark.parametrize("kind", ["constant images", "one place", "one month", "constant environment"])
def test_batches_of_little_contrast(small, tmp_path, kind):
    state = random_state(11)
    torch.save(state, tmp_path / "file.pth")
    images, environment = places(3, size=4)
    if kind == "constant images":
        images[:] = 800.0  # nothing is missing, so that lowest and highest agree
    elif kind == "one place":
        images, environment = images[:1], environment[:1]
    elif kind == "one month":
        images[:] = np.nan
        images[2, 6] = 500.0
    else:
        environment[:] = 1.0
    model = load(tmp_path / "file.pth", "cpu", normalisation="batch")
    found = model.embed(images, in_tenths(environment), worldclim="1", normalize=False)
    np.testing.assert_allclose(found, Reference(state, 2, 2).embed(images, in_tenths(environment)), atol=1e-4)


def test_the_reference_enlarges_as_torch_does():
    picture = np.random.default_rng(0).normal(size=(3, 5, 5))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(picture)[None], size=(16, 16), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(picture), expected[0], atol=1e-12)


@pytest.mark.slow
def test_the_reference_and_the_model_at_full_size(tmp_path):
    """The reference holds on the fixture of the published code; the model agrees with it on other weights."""
    with np.load(weights.PARITY) as file:
        parity = {name: file[name] for name in file.files}
    images, environment = parity["images"].astype(np.float64), parity["environment"].astype(np.float64)
    reference = Reference(weights.stand_in())
    np.testing.assert_allclose(reference.embed(images, environment), parity["combined_features"], atol=1e-4)
    state = weights.stand_in(seed=77)
    torch.save(_checkpoint(state), tmp_path / "other.pth")
    model: Classifier = load(tmp_path / "other.pth", "cpu", normalisation="batch")
    reference = Reference(state)
    images, environment = places(5)
    found = model.embed(images, in_tenths(environment), worldclim="1", normalize=False)
    np.testing.assert_allclose(found, reference.embed(images, in_tenths(environment)), atol=1e-4)
    labels = reference.embed_tokens(model._loaded.model.tokenize([taxon.prompt() for taxon in TAXA]))
    np.testing.assert_allclose(model.embed_labels(TAXA, normalize=False), labels, atol=1e-4)
