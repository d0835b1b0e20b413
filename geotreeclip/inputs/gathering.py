"""Inputs as people have them, turned into arrays: cubes, stacks, points of GeoPandas, STAC items, catalogs and rasters.

What is plain arrays passes through untouched. N places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.inputs.gridded import is_cube, is_stack, open_cube, patches
from geotreeclip.observation_builder import BuilderOptions
from geotreeclip.schema import MISSING_DN

__all__ = ["Gathered", "PlaceOptions", "gather"]

_SOURCE = "stac:"


class PlaceOptions(BuilderOptions, total=False):
    """What `geotreeclip.build_observations` takes beside the data, and where data can be fetched from.

    source: "stac:URL" of a STAC API or a static catalog of Sentinel-2 Level-2A, for the imagery of the places.
    year: Calendar year of the imagery, a number or [N].
    nearest_year: True takes, for a place that was never seen clear in that year, the nearest year in which it was, up
        to five years away, as `data_prep/sentinel2.py --year nearest` does.
    rasters: Folder or files of environmental rasters (WorldClim, SoilGrids, elevation), told by their names.
    greenup: For models that count days from greenup: its day of the year, a number or [N]; 0 where days count so.
    """

    source: str
    year: Any
    nearest_year: bool
    rasters: Any
    greenup: Any


class Gathered(NamedTuple):
    """Inputs as `build_observations` takes them."""

    images: Any
    environment: Any
    longitude: Any
    latitude: Any
    options: BuilderOptions


def gather(images: Any, environment: Any, longitude: Any, latitude: Any, options: Mapping[str, Any]) -> Gathered:
    """Turn what was given into arrays, and fetch what is to be fetched.

    Args:
        images: Arrays; an xarray DataArray or Dataset, or the path of a stack (see `geotreeclip.inputs.gridded`); or
            STAC items (pystac, or their JSON) that the places are to be read from.
        environment: As `build_observations` takes it, or a GeoDataFrame of points.
        longitude: Degrees.
        latitude: Degrees.
        options: See `PlaceOptions`.

    Raises:
        InputError: If arguments do not go together.
        ConfigError: If a library is not installed.
        DataError: If a file, a catalog or a raster cannot be read.
    """
    kept: dict[str, Any] = dict(options)
    source, year, rasters = (kept.pop(name, None) for name in ("source", "year", "rasters"))
    nearest = bool(kept.pop("nearest_year", False))
    if _is_geo(environment):
        environment, longitude, latitude = _points(environment, longitude, latitude)
    items = _stac_items(images)
    if items is not None or source is not None:
        if images is not None and source is not None:
            raise InputError("give images= or source=, not both")
        place = _places(longitude, latitude, "imagery")
        images = _composites(place, year, source, items, nearest=nearest)
        kept |= {"scale": "dn", "nodata": MISSING_DN}
    elif year is not None or nearest:
        raise InputError('year= says which imagery to fetch: name its source too, as in source="stac:URL"')
    elif is_cube(images) or is_stack(images):
        given = None if longitude is None or latitude is None else _places(longitude, latitude, "images")
        cube = open_cube(images, kept.pop("bands", None), kept.pop("months", None))
        images, *where = patches(cube, *(given if given is not None else (None, None)))
        longitude, latitude = where if where[0] is not None else (longitude, latitude)
        kept["bands"] = list(cube.bands)
        if cube.months is not None:
            kept["months"] = list(cube.months)
        elif kept.get("days") is None:
            kept["days"] = cube.days
    if rasters is not None:
        environment = _environment(_places(longitude, latitude, "rasters"), rasters, environment)
        longitude = latitude = None  # they are among the variables
        kept["worldclim"] = "2.1"
    return Gathered(images, environment, longitude, latitude, kept)  # type: ignore[arg-type]


def _places(longitude: Any, latitude: Any, what: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if longitude is None or latitude is None:
        raise InputError(f"{what} can be found for places only: give longitude and latitude")
    try:
        east, north = (np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (longitude, latitude))
        east, north = np.broadcast_arrays(east, north)
    except (TypeError, ValueError) as error:
        raise InputError(f"longitude and latitude must be numbers, as many of one as of the other: {error}") from error
    if east.ndim != 1:
        raise InputError(f"longitude and latitude must be numbers or lists of them, got shape {list(east.shape)}")
    bad = np.flatnonzero(~((np.abs(east) <= 180) & (np.abs(north) <= 90)))
    if bad.size:
        row = int(bad[0])
        raise InputError(
            f"{what}: place {row} is at longitude {east[row]:g}, latitude {north[row]:g}; give degrees (WGS 84), "
            "-180 to 180 and -90 to 90"
        )
    return east, north


# -- points of GeoPandas ----------------------------------------------------------------------------------------------


def _is_geo(table: Any) -> bool:
    return hasattr(table, "geometry") and hasattr(table, "crs") and hasattr(table, "to_crs")


def _points(frame: Any, longitude: Any, latitude: Any) -> tuple[Any, Any, Any]:
    """The other columns, and the coordinates of a GeoDataFrame or GeoSeries of points."""
    if longitude is not None or latitude is not None:
        raise InputError("environment is a GeoDataFrame, whose points are the places: leave longitude and latitude out")
    if frame.crs is None:
        raise InputError("the GeoDataFrame states no reference system; assign one, as with .set_crs(4326)")
    if not len(frame):
        raise InputError("the GeoDataFrame has no rows")
    geometry = frame.geometry.to_crs(4326)
    wrong = np.flatnonzero(np.asarray((geometry.geom_type != "Point") | geometry.is_empty))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"row {row} of the GeoDataFrame is {geometry.geom_type.iloc[row] or 'empty'}, not a point; take "
            ".representative_point() of areas"
        )
    from geotreeclip.inputs.environment import variable_name

    columns = [] if not hasattr(frame, "columns") else [
        column for column in frame.columns
        if variable_name(str(column)) is not None and variable_name(str(column)) not in ("longitude", "latitude")
    ]  # fmt: skip
    values = {str(column): frame[column].to_numpy() for column in columns}
    return values or None, geometry.x.to_numpy(), geometry.y.to_numpy()


# -- imagery ----------------------------------------------------------------------------------------------------------


def _stac_items(images: Any) -> list[dict[str, Any]] | None:
    """STAC items as JSON, or None where images are something else."""
    if hasattr(images, "to_dict") and hasattr(images, "assets"):
        images = [images]
    if (
        hasattr(images, "items")
        and hasattr(images, "to_dict")
        and not hasattr(images, "columns")
        and not is_cube(images)
    ):
        images = list(images)  # an ItemCollection
    if not isinstance(images, Sequence) or isinstance(images, str) or not len(images):
        return None
    if all(hasattr(item, "to_dict") and hasattr(item, "assets") for item in images):
        return [_absolute(item) for item in images]
    if all(isinstance(item, Mapping) and "assets" in item for item in images):
        return [dict(item) for item in images]
    return None


def _absolute(item: Any) -> dict[str, Any]:
    document: dict[str, Any] = item.to_dict(include_self_link=False, transform_hrefs=False)
    for name, asset in item.assets.items():
        document["assets"][name]["href"] = asset.get_absolute_href() or asset.href
    return document


def _composites(
    place: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    year: Any,
    source: Any,
    items: Iterable[dict[str, Any]] | None,
    *,
    nearest: bool,
) -> npt.NDArray[np.uint16]:
    """Monthly composites of places, uint16 [N, 12, 10, 5, 5]."""
    if items is None and not (isinstance(source, str) and source.startswith(_SOURCE) and source != _SOURCE):
        raise InputError(f'source must be "stac:" and the URL or path of a catalog, got {source!r}')
    try:
        import pystac  # noqa: F401
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ConfigError("fetching imagery needs rasterio and pystac: pip install 'geotreeclip[prep]'") from error
    from geotreeclip.prep.imagery.fetching import REACH, fetch, open_catalog, open_items

    catalog = open_catalog(str(source).removeprefix(_SOURCE)) if items is None else open_items(items)
    if year is None:
        if items is None or len(catalog.years) != 1:
            told = f"; the items are of {', '.join(map(str, catalog.years))}" if items is not None else ""
            raise InputError(f"year= is missing: say which year's imagery to read{told}")
        year = catalog.years[0]
    try:
        years = np.asarray(year, dtype=np.float64)
        whole = np.broadcast_to(years, place[0].shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"year must be a number, or one for each place: {error}") from error
    if not (np.isfinite(whole) & (whole == np.round(whole)) & (whole >= 2015)).all():
        raise InputError(f"year must be whole numbers from 2015, the first year of Sentinel-2, got {year!r}")
    return fetch(catalog, *place, whole.astype(np.int64), reach=REACH if nearest else 0)


def _environment(place: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], rasters: Any, given: Any) -> Any:
    """The 27 variables of places off rasters, float64 [N, 27]."""
    if given is not None:
        raise InputError("give environment= or rasters=, not both")
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ConfigError("rasters= needs rasterio: pip install 'geotreeclip[prep]'") from error
    from geotreeclip.prep.environment import sample_environment
    from geotreeclip.prep.raster_files import find_rasters

    places = [rasters] if isinstance(rasters, str | Path) else list(rasters)
    # A single place says nothing of the units of a whole raster
    return sample_environment(*place, find_rasters(places), strict=len(place[0]) >= 100).values
