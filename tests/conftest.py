"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, VARIABLES

TAXA = (
    ("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
    ("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus petraea"),
    ("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex"),
    ("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica"),
    ("Deciduous Broadleaf", "Betulaceae", "Betula", "Betula pendula"),
    ("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus sylvestris"),
    ("Evergreen Needleleaf", "Pinaceae", "Picea", "Picea abies"),
    ("Deciduous Needleleaf", "Pinaceae", "Larix", "Larix decidua"),
)
COUNTS = (120, 60, 9, 300, 40, 150, 500, 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of whoever runs it."""
    monkeypatch.setenv("GEOTREECLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("GEOTREECLIP_MODEL", raising=False)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights (seeded), eight taxa, and statistics of random forest-like values."""
    import torch

    from geotreeclip.data.statistics import Statistics
    from geotreeclip.models.clip import create_model
    from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig
    from geotreeclip.models.directory import save_model
    from geotreeclip.taxonomy import Taxon, Taxonomy

    rng = np.random.default_rng(0)
    images = rng.integers(200, 4000, (16, MONTHS, len(BANDS), PATCH, PATCH)).astype(np.uint16)
    images[0, 0] = MISSING_DN
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    environment = (low + (high - low) * rng.uniform(0.3, 0.7, (16, len(VARIABLES)))).astype(np.float32)
    statistics = Statistics.empty().updated(images, environment)
    config = ModelConfig(
        name="test",
        embed_dim=32,
        observation=ObservationConfig(width=32, depth=2, heads=2),
        text=TextConfig(width=32, layers=1, heads=2),
    )
    torch.manual_seed(0)
    model = create_model(config, statistics)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return save_model(directory, model, Taxonomy(Taxon(*taxon) for taxon in TAXA), COUNTS, statistics, {"seed": 0})


@pytest.fixture(scope="session")
def raw_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted forest as raw files: 36 samples in three areas; see `geotreeclip.demo.raw`."""
    pytest.importorskip("rasterio")
    from geotreeclip.demo.raw.make import make_raw_world

    out = tmp_path_factory.mktemp("raw") / "world"
    make_raw_world(out, 36, seed=0)
    return out
