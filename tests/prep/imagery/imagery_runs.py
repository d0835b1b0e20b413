"""Runs of the imagery job over a planted world, and what comes back."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from imagery_world import World, occurrences

pytest.importorskip("pyproj")

from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.report import ImageryReport
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS


def run(world: World, lon: Any, lat: Any, own: Any = 2020, **options: Any) -> tuple[ImageryReport, ImageryStore]:
    out = world.folder.parent / "out"
    table = occurrences(world.folder.parent / "occurrences.parquet", lon, lat, own)
    running = {key: options.pop(key) for key in ("points_per_part", "workers", "retries") if key in options}
    report = sample_imagery(
        table, out, ImageryOptions(str(world.catalog()), **options), **{"retries": 0, **running}, progress=False
    )
    return report, ImageryStore(out)


def by_id(store: ImageryStore) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    images = store.read(np.arange(len(store)))
    return dict(zip(store.sample_ids, images, strict=True)), store.table().set_index("sample_id")


def gradient(plus: int = 0) -> Any:
    """Every pixel of 10 m unlike its neighbours, other in each band; 20 m bands likewise."""

    def value(band: str, base: np.ndarray) -> np.ndarray:
        return base + 100 + plus + 200 * BANDS.index(band) + np.arange(base.size).reshape(base.shape) % 4001

    return value
