"""A stack in a NetCDF file or a Zarr store, through xarray: dimensions time (or month), band, y and x.

Shapes: as in `stack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, first_line
from geotreeclip.inputs.bands import band_name
from geotreeclip.inputs.common import listed
from geotreeclip.inputs.xarrays import BAND, TIME, X, Y, band_variables, find_axis, regular_transform, stated_crs
from geotreeclip.mapping.names import is_unused, month_in
from geotreeclip.mapping.stack import Grid, crs_from
from geotreeclip.schema import BANDS, MONTHS

__all__ = ["CubeStack", "open_cube"]


@dataclass(frozen=True)
class CubeStack:
    """A stack read through xarray; see `geotreeclip.mapping.stack.Stack`.

    Attributes:
        location: File or store.
        grid: Where the pixels lie.
        steps: Position along time and calendar month, of the steps to read, ascending by month.
        columns: Position along the band axis (or name of the variable) and band, in the order of the schema.
        variable: Name of the one variable, "" where each band is a variable.
        axes: Names of the dimensions time, band, y and x; that of band is "" where each band is a variable.
    """

    location: str
    grid: Grid
    steps: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int | str, str], ...]
    variable: str
    axes: tuple[str, str, str, str]

    @property
    def months(self) -> tuple[int, ...]:
        """Calendar months."""
        return tuple(month for _, month in self.steps)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands in the order of the schema."""
        return tuple(band for _, band in self.columns)

    @property
    def files(self) -> tuple[str, ...]:
        """The file or the store."""
        return (self.location,)

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.float32]:
        """See `geotreeclip.mapping.stack.Stack.read`."""
        time, band, y, x = self.axes
        here = {time: [step for step, _ in self.steps], y: slice(top, bottom), x: slice(left, right)}
        with _opened(Path(self.location)) as data:
            if band:
                here[band] = [int(column) for column, _ in self.columns]
                part = data[self.variable].isel(here).transpose(time, band, y, x).values
            else:
                parts = [data[str(column)].isel(here).transpose(time, y, x).values for column, _ in self.columns]
                part = np.stack(parts, axis=1)
        return np.asarray(part, dtype=np.float32)


def open_cube(path: Path, *, bands: list[str] | None, months: list[int] | None, crs: str | None) -> CubeStack:
    """Find out what a NetCDF file or a Zarr store holds; see `geotreeclip.mapping.stack.open_stack`.

    Raises:
        DataError: If dimensions, months, bands or the reference system are not known.
        ConfigError: If xarray or its reader is not installed, or options do not fit.
    """
    with _opened(path) as data:
        variable, names = band_variables(data, str(path), DataError)
        array = data[variable or names[0]]
        time, y, x = (find_axis(array, known, str(path), DataError) for known in (TIME, Y, X))
        band = find_axis(array, BAND, str(path), DataError) if variable else ""
        given = bands or (names if band == "" else [str(name) for name in np.asarray(array[band].values)])
        count = array.sizes[band] if band else len(names)
        if len(given) != count:
            raise ConfigError(f"{path}: has {count} bands, but --bands names {len(given)}: {listed(given, 15)}")
        found = [band_name(name) for name in given]
        unknown = [name for name, known in zip(given, found, strict=True) if known is None]
        if unknown:
            raise DataError(f"{path}: {listed(unknown)} of its bands is none that is known; give --bands")
        where: list[int | str] = list(range(count)) if band else list(names)
        pairs = [(place, str(known)) for place, known in zip(where, found, strict=True) if not is_unused(str(known))]
        columns = tuple(sorted(pairs, key=lambda pair: BANDS.index(pair[1])))
        if not columns or len({name for _, name in columns}) < len(columns):
            raise DataError(f"{path}: its bands {listed(given, 15)} repeat, or are none that models read")
        grid = _grid(path, data, array, y, x, crs)
        return CubeStack(
            str(path), grid, _steps(path, array, time, months), columns, variable, (time, band, y, x)
        )  # fmt: skip


def _steps(path: Path, array: Any, time: str, months: list[int] | None) -> tuple[tuple[int, int], ...]:
    """Positions along time and their months, ascending by month."""
    count = array.sizes[time]
    if months is None:
        if time not in array.coords:
            raise DataError(f"{path}: {time} has no coordinate that tells the months; give --months")
        values = np.asarray(array[time].values)
        if values.dtype.kind == "M":
            months = [int(month) + 1 for month in values.astype("datetime64[M]").astype(np.int64) % 12]
        elif values.dtype.kind in "iuf":
            months = [int(value) for value in values]
        else:
            months = [month_in(str(value)) or 0 for value in values]
    if len(months) != count:
        raise ConfigError(f"{path}: has {count} steps of {time}, but --months names {len(months)}")
    if not all(1 <= month <= MONTHS for month in months) or len(set(months)) < count:
        raise DataError(f"{path}: the months of {time} are {listed(months, 15)}; one composite of each is expected")
    return tuple(sorted(((step, month) for step, month in enumerate(months)), key=lambda pair: pair[1]))


def _grid(path: Path, data: Any, array: Any, y: str, x: str, crs: str | None) -> Grid:
    transform = regular_transform(array, y, x, str(path), DataError)
    if transform is None:
        raise DataError(f"{path}: {y} or {x} has no coordinates, so it has no place; add the centres of its pixels")
    stated = stated_crs(data, array)
    known = crs_from(str(path), "", stated or crs)  # as well-known text, whatever it is stated as
    return Grid(array.sizes[x], array.sizes[y], transform, known)


def _opened(path: Path) -> Any:
    try:
        import xarray
    except ImportError as error:
        raise ConfigError(
            f"{path}: NetCDF and Zarr need xarray: pip install 'geotreeclip[map]' (Zarr: zarr too)"
        ) from error
    try:
        return xarray.open_zarr(path) if path.suffix.lower() == ".zarr" else xarray.open_dataset(path)
    except (ImportError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"{path}: xarray has no reader for it: pip install 'geotreeclip[map]' (Zarr: zarr)"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise DataError(f"{path}: cannot be opened by xarray ({reason})") from error
