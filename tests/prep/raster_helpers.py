"""Small rasters for tests."""

import os
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def write_raster(path: Path, values, transform, *, crs="EPSG:4326", nodata=None, scale=None, tiled=False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=crs, transform=transform, nodata=nodata, **options,
    ) as sink:  # fmt: skip
        sink.write(values, 1)
        if scale is not None:
            sink.scales, sink.offsets = [scale[0]], [scale[1]]
    return path


def world(path: Path, values=None, **options) -> Path:
    """A global raster of 10 degree cells; by default each cell holds 36 * row + column."""
    cells = np.arange(18 * 36, dtype=np.float32).reshape(18, 36) if values is None else values
    return write_raster(path, cells, from_origin(-180, 90, 10, 10), **options)
