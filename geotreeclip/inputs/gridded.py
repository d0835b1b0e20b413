"""Cubes and stacks (xarray in memory, GeoTIFF, NetCDF, Zarr) -> the 5 x 5 patches around places.

Shapes: N places, T time steps, C bands, H W pixels of the patch (5), Y X those of the cube.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.inputs.bands import band_name
from geotreeclip.inputs.common import listed, warn
from geotreeclip.inputs.xarrays import BAND, TIME, X, Y, band_variables, find_axis, regular_transform, stated_crs
from geotreeclip.schema import MONTHS, PATCH

__all__ = ["Cube", "is_cube", "is_stack", "open_cube", "patches"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cube:
    """Values on a regular grid.

    Attributes:
        read: Rows and columns (top, bottom, left, right) -> float32 [T, C, bottom - top, right - left].
        bands: C names.
        months: T calendar months, or None where steps have days.
        days: datetime64 [T], or None where steps are months.
        shape: Y and X.
        transform: The six numbers of the affine map from column and row to coordinates; None without coordinates.
        crs: Reference system as pyproj reads it, "" where none is stated.
    """

    read: Callable[[int, int, int, int], npt.NDArray[np.float32]]
    bands: Sequence[str]
    months: Sequence[int] | None
    days: npt.NDArray[Any] | None
    shape: tuple[int, int]
    transform: tuple[float, ...] | None
    crs: str


def is_cube(images: Any) -> bool:
    """Whether images are an xarray DataArray or Dataset with y and x, told without importing xarray."""
    return hasattr(images, "dims") and hasattr(images, "isel") and hasattr(images, "coords")


def is_stack(images: Any) -> bool:
    """Whether images are the path of a stack."""
    return isinstance(images, str | Path)


def open_cube(images: Any, bands: Sequence[str] | None = None, months: Sequence[int] | None = None) -> Cube:
    """Find out what an xarray object or a stack on disk holds.

    Args:
        images: DataArray of time, band, y and x; Dataset of such an array, or of one array of time, y and x for each
            band; or the path of a stack as `geotreeclip map` takes it (a GeoTIFF whose band descriptions tell month
            and band, a folder of monthly GeoTIFFs, NetCDF, Zarr).
        bands: Names of the bands in order, where the object does not name them.
        months: Calendar months of the steps, where their coordinate does not tell.

    Raises:
        InputError: If dimensions, bands or times are not known.
        DataError: If a file cannot be read.
    """
    if is_cube(images):
        return _of_xarray(images, bands, None if months is None else list(months))
    from geotreeclip.mapping.stack import open_stack

    stack = open_stack(images, bands=bands, months=months)
    grid = stack.grid
    shape = (grid.height, grid.width)
    return Cube(stack.read, stack.bands, stack.months, None, shape, grid.transform, grid.crs)


def patches(
    cube: Cube, longitude: Floats | None, latitude: Floats | None
) -> tuple[npt.NDArray[np.float32], Floats | None, Floats | None]:
    """The patches around places; without places the centre of the cube is the one place.

    Args:
        cube: The cube.
        longitude: [N] degrees, or None.
        latitude: [N].

    Returns:
        float32 [N, T, C, 5, 5], NaN beyond the cube; longitude and latitude [N], None where the cube does not tell.

    Raises:
        InputError: If no place lies within the cube, or its reference system is unknown.
    """
    height, width = cube.shape
    if longitude is None or latitude is None:
        row, column = np.array([height // 2]), np.array([width // 2])
        where = _degrees(cube, column, row)
    else:
        column, row = _pixels(cube, longitude, latitude)
        where = (longitude, latitude)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        if not inside.any():
            raise InputError(
                f"images: none of the {len(row)} places lies within the {height} x {width} pixels; place 0 falls on "
                f"row {row[0]}, column {column[0]}: check coordinates and reference system"
            )
        if not inside.all():
            warn(f"images: {int((~inside).sum())} of {len(row)} places lie outside the pixels; theirs are missing")
    result = np.full((len(row), _steps(cube), len(cube.bands), PATCH, PATCH), np.nan, np.float32)
    reach = PATCH // 2
    for place, (line, pixel) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        top, left = line - reach, pixel - reach
        low, high = max(0, top), min(height, top + PATCH)
        west, east = max(0, left), min(width, left + PATCH)
        if 0 <= line < height and 0 <= pixel < width:
            result[place, :, :, low - top : high - top, west - left : east - left] = cube.read(low, high, west, east)
    return result, *where


def _steps(cube: Cube) -> int:
    return len(cube.months) if cube.months is not None else len(cube.days) if cube.days is not None else 0


def _pixels(cube: Cube, longitude: Floats, latitude: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Column and row of the pixel that holds each place; far outside where a coordinate is missing."""
    a, b, c, d, e, f = _transform(cube)
    x, y = _transformed(cube, longitude, latitude, to_cube=True)
    determinant = a * e - b * d
    column = np.floor((e * (x - c) - b * (y - f)) / determinant)
    row = np.floor((a * (y - f) - d * (x - c)) / determinant)
    known = np.isfinite(column) & np.isfinite(row)
    return np.where(known, column, -(10**9)).astype(np.int64), np.where(known, row, -(10**9)).astype(np.int64)


def _degrees(
    cube: Cube, column: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
) -> tuple[Floats, Floats] | tuple[None, None]:
    if cube.transform is None or not cube.crs:
        return None, None
    a, b, c, d, e, f = cube.transform
    x, y = a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f
    return _transformed(cube, x, y, to_cube=False)


def _transform(cube: Cube) -> tuple[float, ...]:
    if cube.transform is None:
        raise InputError(
            "images: y and x have no coordinates, so places cannot be found on them; add the pixel centres"
        )
    if not cube.crs:
        raise InputError("images: no reference system is stated; assign one, as with .rio.write_crs(32633)")
    return cube.transform


def _transformed(cube: Cube, x: Floats, y: Floats, *, to_cube: bool) -> tuple[Floats, Floats]:
    try:
        from pyproj import Transformer
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise ConfigError("places on a grid need pyproj: pip install 'geotreeclip[prep]'") from error
    ends = ("OGC:CRS84", cube.crs) if to_cube else (cube.crs, "OGC:CRS84")
    try:
        transformer = Transformer.from_crs(*ends, always_xy=True)
    except CRSError as error:
        raise InputError(f"images: {cube.crs[:60]!r} is no reference system that is known") from error
    found = transformer.transform(np.asarray(x, np.float64), np.asarray(y, np.float64))
    east, north = (np.asarray(part, np.float64) for part in found)  # infinite where the projection has no such place
    return np.where(np.isfinite(east), east, np.nan), np.where(np.isfinite(north), north, np.nan)


# -- xarray -----------------------------------------------------------------------------------------------------------


def _of_xarray(data: Any, bands: Sequence[str] | None, months: list[int] | None) -> Cube:
    array, names = _array_of(data)
    time, y, x = (find_axis(array, known, "images", InputError) for known in (TIME, Y, X))
    if names is None:
        band = find_axis(array, BAND, "images", InputError)
        stated = [str(name) for name in np.asarray(array[band].values)] if band in array.coords else None
        names = list(bands) if bands is not None else stated
        if names is None or any(band_name(name) is None for name in names):
            raise InputError(f"images: the bands {listed(names or ['unnamed'])} are not known; name them with bands=")
        if len(names) != array.sizes[band]:
            raise InputError(f"images have {array.sizes[band]} bands but bands names {len(names)}")
    else:
        band = "__band__"
    order = (time, band, y, x)

    def read(top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.float32]:
        here = {y: slice(top, bottom), x: slice(left, right)}
        if band == "__band__":
            parts = [data[name].isel(here).transpose(time, y, x).values for name in names or ()]
            return np.stack(parts, axis=1).astype(np.float32)
        return np.asarray(array.isel(here).transpose(*order).values, dtype=np.float32)

    when, days = _times(array, time, months)
    shape = (int(array.sizes[y]), int(array.sizes[x]))
    transform = regular_transform(array, y, x, "images", InputError)
    degrees = (y.lower() in ("lat", "latitude")) and (x.lower() in ("lon", "longitude"))
    crs = stated_crs(data, array) or ("OGC:CRS84" if degrees and transform is not None else "")
    return Cube(read, names, when, days, shape, transform, crs)


def _array_of(data: Any) -> tuple[Any, list[str] | None]:
    """The array of four dimensions, or one of three and the names of all of its kind, which are bands."""
    if not hasattr(data, "data_vars"):
        if data.ndim != 4:
            raise InputError(f"images: a DataArray of time, band, y and x is expected, got {tuple(data.dims)}")
        return data, None
    variable, names = band_variables(data, "images", InputError)
    return (data[variable], None) if variable else (data[names[0]], names)


def _times(array: Any, time: str, months: list[int] | None) -> tuple[list[int] | None, npt.NDArray[Any] | None]:
    """Months where steps are composites of one month each, else their days."""
    count = int(array.sizes[time])
    if months is not None:
        if len(months) != count:
            raise InputError(f"images have {count} time steps but months names {len(months)}")
        return months, None
    if time not in array.coords:
        if count == MONTHS:
            return list(range(1, MONTHS + 1)), None
        raise InputError(f"images: {time} has no coordinate and {count} steps; name them with months=")
    values = np.asarray(array[time].values)
    if values.dtype.kind in "iu" and values.min() >= 1 and values.max() <= MONTHS:
        return [int(value) for value in values], None
    if values.dtype.kind != "M":
        raise InputError(f"images: {time} holds {values[0]!r} ..., neither dates nor months; name them with months=")
    stamps = values.astype("datetime64[D]")
    first = stamps.astype("datetime64[M]")
    calendar = [int(month) + 1 for month in first.astype(np.int64) % 12]
    day = (stamps - first).astype(np.int64)
    last = ((first + 1).astype("datetime64[D]") - stamps).astype(np.int64)
    # Monthly composites bear the same day each, or the last of the month; dated scenes do not
    regular = count > 1 and ((day == day[0]).all() or (last == 1).all())
    if regular and len(set(calendar)) == count:
        return calendar, None
    return None, values
