"""Slope and aspect from a digital elevation model, in a grid of metres around each point.

A model in degrees has cells that shrink towards the poles, and one in a projection has its axes turned and stretched;
so the nine heights that the method needs are read at places laid out on the ellipsoid: the point, and eight around it,
by direction and distance. It holds at any latitude and across the antimeridian.

Method: Horn, B. K. P. (1981), Hill shading and the reflectance map, Proceedings of the IEEE 69(1), 14-47,
doi:10.1109/PROC.1981.11918: differences over three rows and columns, the middle one counted twice.

N points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.prep.mosaic import sample_rasters
from geotreeclip.prep.raster_files import name_of
from geotreeclip.prep.rasters import Floats, geodesic, read_grid

__all__ = ["COARSEST_METRES", "FLAT_DEGREES", "TERRAIN", "TerrainReport", "horn", "model_name", "slope_and_aspect"]

COARSEST_METRES = 500.0
"""Models with larger cells show hills as plains: no slope is computed from them unless forced."""

FLAT_DEGREES = 1.0
"""Slopes under this have no aspect: a metre of error over 60 m turns it by more than half a right angle."""

TERRAIN = ("auto", "compute", "force", "off")
"""Where slope and aspect come from; see :func:`geotreeclip.prep.environment.sample_environment`."""

_MODELS = (
    (r"copernicus_dsm_(?:cog_)?10", "Copernicus DEM GLO-30"),
    (r"copernicus_dsm_(?:cog_)?30", "Copernicus DEM GLO-90"),
    (r"nasadem", "NASADEM"),
    (r"srtmgl1|srtm_?gl1|srtm_?1", "SRTM GL1"),
    (r"srtm", "SRTM"),
    (r"astgtm", "ASTER GDEM"),
    (r"aw3d30|alpsmlc30", "ALOS World 3D 30 m"),
    (r"gmted", "GMTED2010"),
    (r"etopo", "ETOPO"),
    (r"gebco", "GEBCO"),
    (r"fabdem", "FABDEM"),
    (r"wc2\.1.*elev", "WorldClim 2.1 elevation (SRTM)"),
)


@dataclass(frozen=True)
class TerrainReport:
    """How slope and aspect were made.

    Attributes:
        model: The elevation model.
        cell_metres: Median size of its cells at the points, the larger of width and height; None outside it.
        method: In words.
        missing: Points without a slope, because a height around them is missing.
        flat: Points whose slope is too small for an aspect.
    """

    model: str
    cell_metres: float | None
    method: str
    missing: int
    flat: int


def horn(window: NDArray[Any], spacing: NDArray[Any] | float) -> tuple[Floats, Floats]:
    """Slope and aspect of the middle of 3 x 3 heights, by Horn (1981).

    With heights a b c / d e f / g h i, north up, the rise towards east is ((c + 2f + i) - (a + 2d + g)) / 8 spacings,
    that towards north ((a + 2b + c) - (g + 2h + i)) / 8 spacings.

    Args:
        window: Heights in metres, [N, 3, 3], rows from north to south, columns from west to east.
        spacing: Metres between rows and columns, [N] or one for all.

    Returns:
        Slope in degrees, [N], and the compass direction of the downslope in degrees (0 north, 90 east), [N], NaN where
        the slope is exactly 0. Both are NaN where a height around the middle is.
    """
    z = np.asarray(window, dtype=np.float64)
    west, east = z[:, 0, 0] + 2 * z[:, 1, 0] + z[:, 2, 0], z[:, 0, 2] + 2 * z[:, 1, 2] + z[:, 2, 2]
    north, south = z[:, 0, 0] + 2 * z[:, 0, 1] + z[:, 0, 2], z[:, 2, 0] + 2 * z[:, 2, 1] + z[:, 2, 2]
    eastward, northward = (east - west) / (8 * np.asarray(spacing)), (north - south) / (8 * np.asarray(spacing))
    rise = np.hypot(eastward, northward)
    aspect = np.rad2deg(np.arctan2(-eastward, -northward)) % 360
    return np.rad2deg(np.arctan(rise)), np.where(rise > 0, aspect, np.nan)


def slope_and_aspect(
    paths: Sequence[str | Path],
    longitude: NDArray[Any],
    latitude: NDArray[Any],
    *,
    model: str = "",
    force: bool = False,
) -> tuple[Floats, Floats, TerrainReport]:
    """Slope and aspect at points, from an elevation model in any projection or its tiles.

    Heights are read bilinearly at the point and at eight places around it, as far apart as the cells of the model are
    large there.

    Args:
        paths: The model, heights in metres.
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        model: Its name for the report, "" for what the file names say.
        force: Compute from cells larger than 500 m too.

    Returns:
        Slope in degrees [N], NaN where a height is missing; compass direction of the downslope in degrees [N], also NaN
        on slopes under 1 degree; and the report.

    Raises:
        ConfigError: The cells are larger than 500 m.
        DataError: A file cannot be read.
    """
    lon, lat = np.asarray(longitude, float), np.asarray(latitude, float)
    spacing = cell_sizes(paths, lon, lat)
    known = np.flatnonzero(np.isfinite(spacing))
    typical = float(np.median(spacing[known])) if len(known) else float("nan")
    name = model or model_name(paths)
    if typical > COARSEST_METRES and not force:
        raise ConfigError(
            f"{paths[0]}: cells of {typical:,.0f} m are too coarse for slope and aspect (at most "
            f"{COARSEST_METRES:g} m); give a finer elevation model, leave them missing (--terrain off), or force it "
            "(--terrain force)"
        )
    slope, aspect = np.full(len(lon), np.nan), np.full(len(lon), np.nan)
    if len(known):
        window = _heights(paths, lon[known], lat[known], spacing[known])
        slope[known], aspect[known] = horn(window, spacing[known])
    flat = slope < FLAT_DEGREES
    aspect[flat] = np.nan
    return slope, aspect, TerrainReport(
        model=name,
        cell_metres=round(typical, 1) if len(known) else None,
        method=f"Horn (1981) on 3 x 3 heights about {typical:.0f} m apart on the ellipsoid, read bilinearly; aspect is "
        f"the direction of the downslope, missing on slopes under {FLAT_DEGREES:g} degree",
        missing=int(np.isnan(slope).sum()),
        flat=int(flat.sum()),
    )  # fmt: skip


def cell_sizes(paths: Sequence[str | Path], lon: Floats, lat: Floats) -> Floats:
    """Size of the cells of a model at points, the larger of width and height: metres [N], NaN outside it."""
    sizes = np.full(len(lon), np.nan)
    for path in paths:
        left = np.flatnonzero(np.isnan(sizes))
        if len(left) == 0:
            break
        grid = read_grid(str(path))
        column, row = grid.place(lon[left], lat[left])
        inside = grid.inside(column, row)
        sizes[left[inside]] = np.fmax(*grid.cell_metres(column[inside], row[inside]))
    return sizes


def model_name(paths: Sequence[str | Path]) -> str:
    """The elevation model by its file names: a known one, or the name of the first file."""
    name = name_of(str(paths[0]))
    return next((model for pattern, model in _MODELS if re.search(pattern, name, re.IGNORECASE)), name)


def _heights(paths: Sequence[str | Path], lon: Floats, lat: Floats, spacing: Floats) -> Floats:
    """Heights [N, 3, 3] around points, north up."""
    count = len(lon)
    window = np.empty((count, 3, 3))
    places = []
    for row, north in enumerate((1, 0, -1)):
        for column, east in enumerate((-1, 0, 1)):
            if north == east == 0:
                places.append((row, column, lon, lat))
                continue
            direction = np.rad2deg(np.arctan2(east, north))
            away = spacing * np.hypot(east, north)
            far_lon, far_lat, _ = geodesic().fwd(lon, lat, np.full(count, direction), away)
            places.append((row, column, far_lon, far_lat))
    # One call: each block of the files is read once for all nine.
    heights = sample_rasters(
        paths,
        np.concatenate([place[2] for place in places]),
        np.concatenate([place[3] for place in places]),
        "bilinear",
    ).values.reshape(9, count)
    for (row, column, _, _), values in zip(places, heights, strict=True):
        window[:, row, column] = values
    return window
