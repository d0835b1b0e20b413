"""A small world of 24 places, 12 of them for tests, a model with random weights and ranges, and a server of both."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page_values import COUNT, HOSTILE, SEASON, TESTED

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.evaluation.splits import write_split
from geotreeclip.inference import Classifier, load
from geotreeclip.page.api import Api
from geotreeclip.page.places import Places
from geotreeclip.page.server import PageServer
from geotreeclip.ranges import write_training_ranges
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxonomy


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_model_dir) -> Path:
    """Places on a line along 50 degrees north, one each degree; from number 12 on they are test samples.

    Place 12 misses January and all terrain, place 13 all images; 14 bears a name that is markup.
    """
    rng = np.random.default_rng(5)
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    environment = low + (high - low) * rng.uniform(0.4, 0.6, (COUNT, len(VARIABLES)))
    environment[:, 0], environment[:, 1] = np.arange(COUNT), 50.0
    environment[12, [VARIABLE_INDEX[name] for name in ("elevation", "slope", "aspect")]] = np.nan
    images = np.full((COUNT, 12, len(BANDS), 5, 5), 1000.0)
    images[:, :, BANDS.index("B4")] = 400
    images[:, :, BANDS.index("B8")] = 10_000 * SEASON[:, None, None]
    images += rng.integers(0, 30, images.shape)
    images[12, 0] = images[13] = MISSING_DN
    out = tmp_path_factory.mktemp("page") / "world"
    taxonomy = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    ids = [HOSTILE if number == 14 else f"p{number}" for number in range(COUNT)]
    with PackedWriter(out, taxonomy, source="twenty-four places") as writer:
        writer.add(images.astype(np.uint16), environment, np.arange(COUNT) % len(taxonomy), ids)
    roles = ["train"] * TESTED + ["test"] * (COUNT - TESTED)
    write_split(out, "default", pd.DataFrame({"sample_id": ids, "fold": 0, "role": roles, "block": "0"}))
    return out


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, world, tiny_model_dir) -> Classifier:
    directory = tmp_path_factory.mktemp("page-model") / "model"
    shutil.copytree(tiny_model_dir, directory)
    write_training_ranges(directory, PackedDataset(world), np.arange(TESTED))
    return load(directory, "cpu")


@pytest.fixture(scope="session")
def api(classifier, world) -> Api:
    return Api(classifier, Places(world), "tiny")


@pytest.fixture(scope="session")
def server(api) -> Iterator[PageServer]:
    with PageServer(api, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()
