"""A model with random weights, and six places to ask it about."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from forest_places import N

from geotreeclip.inference import Classifier
from geotreeclip.inputs.common import InputWarning
from geotreeclip.label_cache import LabelCache
from geotreeclip.models.directory import load_model
from geotreeclip.schema import BANDS


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory) -> Classifier:
    return Classifier(load_model(tiny_model_dir), "cpu", LabelCache(tmp_path_factory.mktemp("labels")))


@pytest.fixture
def places() -> dict:
    rng = np.random.default_rng(1)
    forest = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900])
    images = forest[:, None, None] * rng.uniform(0.3, 1.7, (N, 12, len(BANDS), 5, 5))
    images[1, 3:6] = np.nan
    images[2, :, :, 0] = np.nan
    return {
        "images": images,
        "longitude": rng.uniform(-20, 40, N),
        "latitude": rng.uniform(30, 60, N),
        "environment": {"bio01": rng.uniform(-5, 20, N), "elevation": rng.uniform(0, 2000, N), "aspect": [90.5] * N},
    }


@pytest.fixture(autouse=True)
def _no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        yield
