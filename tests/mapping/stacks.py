"""Small stacks of forest-like values for the tests of maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from geotreeclip.schema import BANDS, MONTHS

CRS = "EPSG:32633"
WEST, NORTH = 500_000.0, 5_400_000.0
FOREST = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900], dtype=np.float32)
NAMES = [f"2020-{month:02d}_{band}" for month in range(1, MONTHS + 1) for band in BANDS]


def forest(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint16 [12, 10, H, W]; some pixels hidden in some months, a corner without any data."""
    rng = np.random.default_rng(seed)
    cells = rng.uniform(0.4, 1.6, (MONTHS, len(BANDS), height // 8 + 1, width // 8 + 1))
    level = cells.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    values = FOREST[:, None, None] * level * rng.uniform(0.8, 1.2, (MONTHS, len(BANDS), height, width))
    values = np.rint(values).astype(np.uint16)
    hidden = rng.random((MONTHS, 1, height, width)) < 0.2
    values[np.broadcast_to(hidden, values.shape)] = 65535
    values[:, :, -6:, -7:] = 65535
    return values


def write_raster(path: Path, values: np.ndarray, names: list[str] | None = None, **other) -> Path:
    """Write [count, H, W] as a GeoTIFF of 10 m."""
    count, height, width = values.shape
    profile = {
        "crs": CRS, "transform": from_origin(WEST, NORTH, 10, 10), "nodata": 65535, "tiled": True, "blockxsize": 16,
        "blockysize": 16, **other,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
    ) as target:
        target.write(values)
        if names is not None:
            target.descriptions = names
    return path


def write_stack(path: Path, values: np.ndarray, **other) -> Path:
    """Write [12, 10, H, W] with bands named by month and band."""
    return write_raster(path, values.reshape(-1, *values.shape[2:]), NAMES, **other)
