"""The rasters of one variable, side by side, sampled at points: nearest cell, bilinear, and the nearest land.

N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.coast import nearest_land
from geotreeclip.prep.rasters import Floats, Grid, Raster, read_grid

__all__ = ["RasterInfo", "Sampled", "sample_raster", "sample_rasters"]


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What was read of one raster.

    Attributes:
        path: The file or address.
        crs: Its coordinate reference system, "EPSG:4326 (assumed)" where the file states none.
        resolution: Cell size in units of the projection, x and y.
        degrees: Whether those units are degrees.
        scaled: Whether the file states a scale or an offset, so that its values are already in their unit.
        outside: Points beyond its edges.
        no_data: Points inside it that hold no data.
    """

    path: str
    crs: str
    resolution: tuple[float, float]
    degrees: bool
    scaled: bool
    outside: int
    no_data: int


class Sampled(NamedTuple):
    """Values at points.

    Attributes:
        values: [N], NaN where there is none.
        coast_km: Distance to the cell taken instead of that of the point, 0 where none was needed, [N].
        longitude: Where the value was taken: that of the point or the nearest place of the cell taken, [N].
        latitude: As longitude.
        infos: What was read of each raster.
    """

    values: Floats
    coast_km: Floats
    longitude: Floats
    latitude: Floats
    infos: list[RasterInfo]


def sample_raster(
    path: str | Path, longitude: NDArray[Any], latitude: NDArray[Any], method: str = "nearest"
) -> tuple[Floats, RasterInfo]:
    """As :func:`sample_rasters` with a single raster; returns the values and what was read."""
    found = sample_rasters([path], longitude, latitude, method)
    return found.values, found.infos[0]


def sample_rasters(
    paths: Sequence[str | Path],
    longitude: NDArray[Any],
    latitude: NDArray[Any],
    method: str = "nearest",
    coast_km: float = 0.0,
) -> Sampled:
    """Values of one variable at points, from one raster in any projection, or from tiles side by side.

    Args:
        paths: The raster, or its tiles; where tiles overlap by an edge the first that has a value gives it.
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        method: ``nearest`` is the cell that holds the point. ``bilinear`` weighs the four nearest cell centres, those
            of a neighbouring tile included, leaving out those without data; where the cell that holds the point has
            none, the result has none, so that a coast is not drawn out to sea.
        coast_km: A point without a value takes the nearest cell that has one, if an edge of it lies within this
            distance; 0 leaves it missing.

    Raises:
        DataError: A file cannot be read, or two files cover each other and so are no tiles.
        ConfigError: The method is unknown, or the distance negative.
    """
    if method not in ("nearest", "bilinear"):
        raise ConfigError(f"sampling method {method!r} is unknown; give nearest or bilinear")
    if not 0 <= coast_km <= 1000:
        raise ConfigError(f"coast distance {coast_km!r} km: give 0 to 1000")
    lon, lat = np.asarray(longitude, float).copy(), np.asarray(latitude, float).copy()
    grids = [read_grid(str(path)) for path in paths]
    _check_tiles(grids)
    values = np.full(len(lon), np.nan)
    infos = []
    for grid in grids:
        left = np.flatnonzero(np.isnan(values))
        values[left], info = _sample(grid, grids, lon[left], lat[left], method)
        infos.append(info)
    distance = np.zeros(len(lon))
    if coast_km:
        missing = np.flatnonzero(np.isnan(values))
        values[missing], distance[missing], lon[missing], lat[missing] = nearest_land(
            grids, lon[missing], lat[missing], coast_km
        )
    return Sampled(values, distance, lon, lat, infos)


def _sample(grid: Grid, grids: Sequence[Grid], lon: Floats, lat: Floats, method: str) -> tuple[Floats, RasterInfo]:
    """Values of one raster; centres beyond its edges come from the others."""
    column, row = grid.place(lon, lat)
    inside = np.flatnonzero(grid.inside(column, row))
    value = np.full(len(lon), np.nan)
    if len(inside):
        with Raster(grid.location) as raster:
            value[inside] = raster.cells(*grid.holding(column[inside], row[inside]))
            if method == "bilinear":
                known = np.flatnonzero(~np.isnan(value))
                value[known] = _bilinear(raster, grids, column[known], row[known])
    return value, RasterInfo(
        path=grid.location,
        crs=grid.crs_name,
        resolution=(abs(grid.transform.a), abs(grid.transform.e)),
        degrees=grid.geographic,
        scaled=(grid.scale, grid.offset) != (1.0, 0.0),
        outside=len(lon) - len(inside),
        no_data=int(np.isnan(value[inside]).sum()),
    )


def _bilinear(raster: Raster, grids: Sequence[Grid], column: Floats, row: Floats) -> Floats:
    """Means of the four nearest cells, weighted by the distance of their centres."""
    left, top = np.floor(column - 0.5), np.floor(row - 0.5)
    right_share, bottom_share = column - 0.5 - left, row - 0.5 - top
    total, weight = np.zeros(len(column)), np.zeros(len(column))
    for down in (0, 1):
        for right in (0, 1):
            values = _corner(raster, grids, left + right, top + down)
            share = (right_share if right else 1 - right_share) * (bottom_share if down else 1 - bottom_share)
            share = np.where(np.isnan(values), 0.0, share)
            total += np.where(np.isnan(values), 0.0, values) * share
            weight += share
    # At the very centre of a cell the others weigh nothing, whether they have data or not.
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


def _corner(raster: Raster, grids: Sequence[Grid], column: Floats, row: Floats) -> Floats:
    """Values of cells that may lie one beyond the edges: from around the Earth, another tile, or else the edge."""
    grid = raster.grid
    if grid.circular:
        column = column % grid.width
    inner_column, inner_row = np.clip(column, 0, grid.width - 1), np.clip(row, 0, grid.height - 1)
    values = raster.cells(inner_row.astype(np.int64), inner_column.astype(np.int64))
    beyond = np.flatnonzero((inner_column != column) | (inner_row != row))
    if len(beyond) == 0 or len(grids) == 1:
        return values
    lon, lat = grid.degrees(column[beyond] + 0.5, row[beyond] + 0.5)
    for other in grids:
        if other is grid or len(beyond) == 0:
            continue
        there, down = other.place(lon, lat)
        inside = other.inside(there, down)
        if inside.any():
            with Raster(other.location) as neighbour:
                values[beyond[inside]] = neighbour.cells(*other.holding(there[inside], down[inside]))
            beyond, lon, lat = beyond[~inside], lon[~inside], lat[~inside]
    return values


def _check_tiles(grids: Sequence[Grid]) -> None:
    """Refuse rasters that cover each other: they are no tiles."""
    if len(grids) < 2:
        return
    boxes = np.array([grid.bounds for grid in grids])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i, grid in enumerate(grids[:-1]):
        others = boxes[i + 1 :]
        width = np.minimum(boxes[i, 2], others[:, 2]) - np.maximum(boxes[i, 0], others[:, 0])
        height = np.minimum(boxes[i, 3], others[:, 3]) - np.maximum(boxes[i, 1], others[:, 1])
        share = np.maximum(width, 0) * np.maximum(height, 0) / np.minimum(area[i], area[i + 1 :])
        for j in np.flatnonzero(share > 0.1):
            other = grids[i + 1 + int(j)]
            if other.crs == grid.crs:
                raise DataError(
                    f"{grid.location} and {other.location} hold the same variable and area; keep one, or name it "
                    "(--raster)"
                )
