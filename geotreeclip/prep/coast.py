"""The nearest cell that has a value: for points on the coast, whose own cell is sea.

The distance is that from the point to the nearest edge of the cell, on the ellipsoid. N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.rasters import Floats, Grid, Raster, geodesic

__all__ = ["nearest_land"]

_FEW_CELLS = 169  # cells within reach that are looked at one offset at a time, for all points at once
_MARGIN = 1.1  # cells are looked for a tenth farther than by the size of a cell at the point: it changes with latitude
_FINALISTS = 32  # cells whose distance is measured on the ellipsoid; the others are farther by any measure


class _Best(NamedTuple):
    """The nearest cell so far of each point: value, metres (infinite: none), its nearest place; [N] each."""

    value: Floats
    metres: Floats
    longitude: Floats
    latitude: Floats

    def improve(self, rows: NDArray[np.int64], value: Floats, metres: Floats, lon: Floats, lat: Floats) -> None:
        """Takes what is nearer; rows are distinct."""
        nearer = metres < self.metres[rows]
        for kept, found in zip(self, (value, metres, lon, lat), strict=True):
            kept[rows[nearer]] = found[nearer]


def nearest_land(
    grids: Sequence[Grid], lon: Floats, lat: Floats, limit_km: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Nearest cell with a value, over all rasters of a variable.

    Args:
        grids: The rasters.
        lon: Degrees, [N].
        lat: Degrees, [N].
        limit_km: How far the nearest edge of the cell may be.

    Returns:
        Its value, NaN where none is near; its distance in km, 0 where none is; longitude and latitude of its nearest
        place, those of the point where none is; [N] each.
    """
    best = _Best(np.full(len(lon), np.nan), np.full(len(lon), np.inf), lon.copy(), lat.copy())
    limit = limit_km * 1000
    for grid in grids:
        column, row = grid.place(lon, lat)
        wide, high = (np.maximum(size, 1e-3) for size in grid.cell_metres(column, row))
        with np.errstate(invalid="ignore"):
            beyond_x = np.maximum(np.maximum(-column, column - grid.width), 0) * wide
            beyond_y = np.maximum(np.maximum(-row, row - grid.height), 0) * high
            near = np.flatnonzero(np.hypot(beyond_x, beyond_y) <= 2 * limit)
        if len(near) == 0:
            continue
        reach_x, reach_y = (np.ceil(_MARGIN * limit / size[near]).astype(np.int64) for size in (wide, high))
        few = (2 * reach_x + 1) * (2 * reach_y + 1) <= _FEW_CELLS
        with Raster(grid.location) as raster:
            for across, down in np.unique(np.stack([reach_x[few], reach_y[few]], axis=1), axis=0).tolist():
                rows = near[few & (reach_x == across) & (reach_y == down)]
                _look_around(raster, rows, (lon, lat, column, row), (across, down), limit, best)
            many = near[~few]
            # By rows and columns, so that blocks of the file are read in their order.
            for i in many[np.lexsort((column[many] // 256, row[many] // 256))]:
                found = _search(raster, lon[i], lat[i], column[i], row[i], (wide[i], high[i]), limit)
                if found is not None:
                    best.improve(np.array([i]), *(np.array([number]) for number in found))
    none = np.isinf(best.metres)
    return best.value, np.where(none, 0.0, best.metres / 1000), best.longitude, best.latitude


def _look_around(
    raster: Raster,
    rows: NDArray[np.int64],
    points: tuple[Floats, Floats, Floats, Floats],
    reach: tuple[int, int],
    limit: float,
    best: _Best,
) -> None:
    """Looks at every cell within reach of some points, one offset at a time."""
    grid = raster.grid
    lon, lat, column, row = (values[rows] for values in points)
    for down in range(-reach[1], reach[1] + 1):
        for across in range(-reach[0], reach[0] + 1):
            x, y = np.floor(column) + across, np.floor(row) + down
            there = (y >= 0) & (y < grid.height)
            there &= True if grid.circular else (x >= 0) & (x < grid.width)
            members = np.flatnonzero(there)
            cells = np.full(len(rows), np.nan)
            cells[members] = raster.cells(y[members].astype(np.int64), (x[members] % grid.width).astype(np.int64))
            known = np.flatnonzero(~np.isnan(cells))
            if len(known) == 0:
                continue
            edge_x = np.clip(column[known], x[known], x[known] + 1)
            edge_y = np.clip(row[known], y[known], y[known] + 1)
            far, up = grid.degrees(edge_x, edge_y)
            sound = np.flatnonzero(np.isfinite(far) & np.isfinite(up))
            known, far, up = known[sound], far[sound], up[sound]
            metres = np.asarray(geodesic().inv(lon[known], lat[known], far, up)[2])
            near = metres <= limit
            best.improve(rows[known[near]], cells[known[near]], metres[near], far[near], up[near])


def _search(
    raster: Raster, lon: float, lat: float, column: float, row: float, cell: tuple[float, float], limit: float
) -> tuple[float, float, float, float] | None:
    """The nearest cell with a value around a point, in windows that grow: value, metres, place of its nearest edge."""
    grid = raster.grid
    wide, high = cell
    reach = 2 * max(wide, high)
    while True:
        reach = min(reach, limit)
        across, down = _MARGIN * reach / wide, _MARGIN * reach / high
        top, bottom = max(0, int(np.floor(row - down))), min(grid.height, int(np.floor(row + down)) + 1)
        left, right = int(np.floor(column - across)), int(np.floor(column + across)) + 1
        if grid.circular and right - left >= grid.width:
            left = int(np.floor(column)) - grid.width // 2
            right = left + grid.width
        elif not grid.circular:
            left, right = max(0, left), min(grid.width, right)
        if top < bottom and left < right:
            data = _wrapped_window(raster, top, bottom, left, right)
            rows, columns = np.nonzero(~np.isnan(data))
            edge_y = np.clip(row, rows + top, rows + top + 1)
            edge_x = np.clip(column, columns + left, columns + left + 1)
            roughly = np.hypot((edge_x - column) * wide, (edge_y - row) * high)
            if len(rows) and (roughly.min() <= reach or reach >= limit):
                chosen = np.argsort(roughly, kind="stable")[:_FINALISTS]
                far, up = grid.degrees(edge_x[chosen], edge_y[chosen])
                sound = np.isfinite(far) & np.isfinite(up)
                chosen, far, up = chosen[sound], far[sound], up[sound]
                metres = np.asarray(geodesic().inv(np.full(len(far), lon), np.full(len(far), lat), far, up)[2])
                if len(metres) == 0 or metres.min() > limit:
                    return None
                first = int(np.argmin(metres))
                value = float(data[rows[chosen[first]], columns[chosen[first]]])
                return value, float(metres[first]), float(far[first]), float(up[first])
        if reach >= limit:
            return None
        reach *= 4


def _wrapped_window(raster: Raster, top: int, bottom: int, left: int, right: int) -> Floats:
    """A window whose columns may go on around the Earth."""
    width = raster.grid.width
    if left >= 0 and right <= width:
        return raster.window(top, bottom, left, right)
    start, count = left % width, right - left
    if start + count <= width:
        return raster.window(top, bottom, start, start + count)
    parts = [raster.window(top, bottom, start, width), raster.window(top, bottom, 0, start + count - width)]
    return np.concatenate(parts, axis=1)
