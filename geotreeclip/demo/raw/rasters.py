"""Environment rasters that hold the planted values at the cells of the samples.

WorldClim and terrain: global grids of 30 arc-seconds, float32. Soil: the grid of SoilGrids, 250 m in the interrupted
Goode homolosine projection, whole numbers. Of these big grids only the blocks about the samples are stored (sparse
GeoTIFF), so that files are small while readers meet rasters that no memory holds.

N samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.raw.layout import CELLS_PER_DEGREE, Place
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

__all__ = ["FLAT", "raster_name", "storable", "write_rasters"]

FLAT = 1.0
"""Degrees of slope below which a raster of aspects has no value: flat ground faces nowhere."""

_HOMOLOSINE = "+proj=igh +lat_0=0 +lon_0=0 +datum=WGS84 +units=m +no_defs"
_BLOCK = 512


class _Grid(NamedTuple):
    """A raster grid: projection, western and northern edge, cell size, columns and rows, type, value for no data."""

    crs: str
    west: float
    north: float
    cell: float
    width: int
    height: int
    dtype: str
    missing: float


_DEGREES = _Grid(
    "EPSG:4326", -180.0, 90.0, 1 / CELLS_PER_DEGREE, 360 * CELLS_PER_DEGREE, 180 * CELLS_PER_DEGREE, "float32",
    float(np.float32(-3.4e38)),
)  # fmt: skip
_SOIL = _Grid(_HOMOLOSINE, -19_949_750.0, 8_361_000.0, 250.0, 159_246, 58_034, "int16", -32768)


def raster_name(variable: str) -> str:
    """File name of a variable, as its provider names it."""
    if variable.startswith("bio"):
        return f"wc2.1_30s_bio_{int(variable[3:])}.tif"
    if variable.startswith("soil_moisture_"):
        first, last = variable.removeprefix("soil_moisture_").split("_")
        return f"wv0033_{first}-{last}_mean.tif"
    return f"{variable}.tif"


def storable(environment: NDArray[np.float32]) -> NDArray[np.float32]:
    """Planted values as rasters can hold them, [N, 27].

    Implausible values lie at the end of their range, soil water is whole, and flat or unknown slopes have no aspect.
    """
    values = environment.copy()
    for column, variable in enumerate(VARIABLES):
        values[:, column] = np.clip(values[:, column], variable.low, variable.high)
        if variable.group == "soil":
            values[:, column] = np.rint(values[:, column])
    with np.errstate(invalid="ignore"):
        values[~(values[:, VARIABLE_INDEX["slope"]] >= FLAT), VARIABLE_INDEX["aspect"]] = np.nan
    return values


def write_rasters(folder: Path, places: list[Place], environment: NDArray[np.float32]) -> None:
    """Write one raster for each variable but the coordinates.

    Args:
        folder: Where; made if absent.
        places: The samples of each area.
        environment: [N, 27], NaN where missing.
    """
    folder.mkdir(exist_ok=True)
    degrees = [place.cell for place in places]
    soil = [_soil_cells(place) for place in places]
    for column, variable in enumerate(VARIABLES):
        if variable.group != "location":
            grid, cells = (_SOIL, soil) if variable.group == "soil" else (_DEGREES, degrees)
            values = [environment[place.rows, column] for place in places]
            _write(folder / raster_name(variable.name), grid, cells, values)


def _soil_cells(place: Place) -> NDArray[np.int64]:
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, _HOMOLOSINE, always_xy=True).transform(place.longitude, place.latitude)
    cells = np.column_stack([_SOIL.north - y, x - _SOIL.west]) // _SOIL.cell
    if len(np.unique(cells, axis=0)) < len(cells):
        raise RuntimeError(f"two samples of {place.area.name} share a cell of soil; this is a defect of the layout")
    return np.asarray(cells, dtype=np.int64)


def _write(path: Path, grid: _Grid, cells: list[NDArray[np.int64]], values: list[NDArray[Any]]) -> None:
    """Write a sparse raster. Cells of an area that no sample has hold the median of the area's values."""
    import rasterio
    from rasterio.transform import from_origin

    with rasterio.open(
        path, "w", driver="GTiff", compress="DEFLATE", tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, sparse_ok=True,
        dtype=grid.dtype, count=1, height=grid.height, width=grid.width, nodata=grid.missing, crs=grid.crs,
        transform=from_origin(grid.west, grid.north, grid.cell, grid.cell),
    ) as target:  # fmt: skip
        for cell, value in zip(cells, values, strict=True):
            low, high = cell.min(axis=0) - 1, cell.max(axis=0) + 2
            known = value[~np.isnan(value)]
            ground = np.median(known) if len(known) else grid.missing
            block = np.full(tuple(high - low), ground, dtype=grid.dtype)
            block[tuple((cell - low).T)] = np.where(np.isnan(value), grid.missing, value)
            target.write(block, 1, window=((int(low[0]), int(high[0])), (int(low[1]), int(high[1]))))
