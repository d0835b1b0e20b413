"""Locations on land, evenly spaced: centres of the cells of a grid of equal areas. N locations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.splits import block_columns

__all__ = ["Locations", "land_grid", "whole_grid"]

LATITUDES = (-60.0, 84.0)
"""Antarctica has no trees, and Sentinel-2 tiles end at 84 N."""

_MOST = 20_000_000
_FINEST = (1800, 3600)  # rows and columns of a land mask that are looked at: 0.1 degrees


class Locations(NamedTuple):
    """Places to sample.

    Attributes:
        sample_id: object [N], `w` with row and column of the cell.
        longitude: float64 [N].
        latitude: float64 [N].
    """

    sample_id: NDArray[np.object_]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Locations:
        """Some of them."""
        return Locations(self.sample_id[rows], self.longitude[rows], self.latitude[rows])


def whole_grid(spacing_km: float, box: tuple[float, float, float, float] | None = None) -> Locations:
    """Centres of all cells, land and sea.

    Rows are equally high; a row has as many cells as make them as wide as high at its middle.

    Args:
        spacing_km: Distance of neighbours.
        box: West, south, east, north, degrees, perhaps across the antimeridian; None is everywhere.

    Raises:
        ConfigError: The spacing cannot be, or gives more locations than anybody could sample.
    """
    if not 0.01 <= spacing_km <= 5000:
        raise ConfigError(f"--spacing {spacing_km}: kilometres from 0.01 to 5,000")
    west, south, east, north = box or (-180.0, LATITUDES[0], 180.0, LATITUDES[1])
    columns = block_columns(spacing_km)
    middle = -90 + (np.arange(len(columns)) + 0.5) * 180 / len(columns)
    rows = np.flatnonzero((middle >= max(south, LATITUDES[0])) & (middle <= min(north, LATITUDES[1])))
    # First and last column of the box in each row; east of the antimeridian they go on beyond the last.
    wide = (east - west) % 360 or (360.0 if east != west else 0.0)
    first = np.ceil((west + 180) / 360 * columns[rows] - 0.5).astype(np.int64)
    last = np.floor((west + wide + 180) / 360 * columns[rows] - 0.5).astype(np.int64)
    count = np.clip(last - first + 1, 0, columns[rows])
    if count.sum() > _MOST:
        raise ConfigError(f"--spacing {spacing_km:g}: gives {count.sum():,} cells; more than {_MOST:,} are too many")
    row = np.repeat(rows, count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    column = (np.repeat(first, count) + within) % columns[row]
    names = np.array([f"w{r:05d}-{c:05d}" for r, c in zip(row, column, strict=True)], dtype=object)
    return Locations(names, -180 + (column + 0.5) * 360 / columns[row], middle[row])


def land_grid(spacing_km: float, land: Path | None, box: tuple[float, float, float, float] | None = None) -> Locations:
    """Locations on land.

    Args:
        spacing_km: Distance of neighbours.
        land: Raster in degrees that has data on land alone, such as any of WorldClim; None takes sea as well.
        box: West, south, east, north, degrees; None is everywhere.

    Raises:
        ConfigError: No location is left.
        DataError: The raster cannot be read.
    """
    places = whole_grid(spacing_km, box)
    if land is not None:
        places = places.take(on_land(land, places.longitude, places.latitude))
    if not len(places.sample_id):
        raise ConfigError(f"no location is left of a grid of {spacing_km:g} km; widen --box, or check the land raster")
    return places


def on_land(path: Path, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a raster in degrees has data, [N]; to a tenth of a degree where it is finer."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise ConfigError("a land raster needs rasterio: pip install 'geotreeclip[prep]'") from error
    try:
        with rasterio.open(path) as source:
            if source.crs is None or not source.crs.is_geographic:
                raise DataError(f"{path}: is not in degrees; give a raster in longitude and latitude (EPSG:4326)")
            shape = min(source.height, _FINEST[0]), min(source.width, _FINEST[1])
            valid = source.read(1, masked=True, out_shape=shape)
            bounds = source.bounds
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as a raster: {error}") from error
    known = ~np.ma.getmaskarray(valid) & np.isfinite(valid.filled(0).astype(np.float64))
    row = np.floor((bounds.top - latitude) / (bounds.top - bounds.bottom) * shape[0]).astype(np.int64)
    column = np.floor((longitude - bounds.left) / (bounds.right - bounds.left) * shape[1]).astype(np.int64)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return np.asarray(inside & known[np.where(inside, row, 0), np.where(inside, column, 0)], dtype=np.bool_)
