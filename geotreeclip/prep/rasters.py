"""One raster, read at points: its place on the Earth, and its cells.

Files of any size and projection, local or remote, are read through windows around the points, never whole when they
are large. N points; columns and rows are fractional, cell (0, 0) reaching from 0 to 1 in both.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, first_line
from geotreeclip.prep.raster_files import is_remote

__all__ = ["WHOLE_CELLS", "WINDOW_CELLS", "Grid", "Raster", "geodesic", "read_grid"]

WHOLE_CELLS = 16_000_000
"""Local rasters up to this many cells are read at once; larger ones by windows."""

WINDOW_CELLS = 4_000_000
"""Cells that one window may span."""

_SLACK = 1e-6
"""Transforms round: a millionth of a cell beyond an outer edge is on it."""

_ROUND_TRIP = 1e-4
"""Degrees by which a point may move on its way into a projection and back; more, and it has no place there."""

_ROUND_TRIP_METRES = 10.0
"""The same for the way out of a projection and back."""

_REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no search for side-car files over the network
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}

Floats = NDArray[np.float64]


@functools.cache
def geodesic() -> Any:
    """The WGS 84 ellipsoid, for distances and directions on it (pyproj.Geod)."""
    try:
        from pyproj import Geod
    except ImportError as error:
        raise ConfigError("distances on the Earth need pyproj: pip install 'geotreeclip[prep]'") from error
    return Geod(ellps="WGS84")


@dataclass(frozen=True)
class Grid:
    """The place of a raster on the Earth.

    Attributes:
        location: File or address.
        crs: Coordinate reference system, or None where the file states none and its edges are degrees.
        transform: From column and row to coordinates.
        width: Columns.
        height: Rows.
        geographic: Whether coordinates are degrees.
        scale: Factor of the stored values.
        offset: Added to the scaled values.
    """

    location: str
    crs: Any
    transform: Any
    width: int
    height: int
    geographic: bool
    scale: float
    offset: float

    @property
    def crs_name(self) -> str:
        """The name of the projection, "EPSG:4326 (assumed)" where the file states none."""
        if self.crs is None:
            return "EPSG:4326 (assumed)"
        name = str(self.crs.to_string())
        # A projection without a code is a page of text; the first words name it.
        return name if len(name) < 80 else name.split('"')[1]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top in the projection."""
        x, y = self.coordinates(np.array([0.0, self.width] * 2), np.repeat([0.0, self.height], 2))
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    @property
    def circular(self) -> bool:
        """Whether the columns go once around the Earth."""
        return self.geographic and abs(self.width * abs(self.transform.a) - 360) < _SLACK * self.width

    def place(self, longitude: Floats, latitude: Floats) -> tuple[Floats, Floats]:
        """Fractional column and row of points, NaN where they have no place in the projection; beyond the edges too.

        Longitudes a full turn away are brought into the raster, or as near to it as may be.
        """
        x, y = longitude, latitude
        if not self.geographic:
            x, y = _warp(self.crs, longitude, latitude)
        inverse = ~self.transform
        with np.errstate(invalid="ignore"):
            column = inverse.a * x + inverse.b * y + inverse.c
            row = inverse.d * x + inverse.e * y + inverse.f
            if self.geographic:
                turn = 360 / abs(self.transform.a)
                beyond = (column < -_SLACK) | (column > self.width)
                nearest = (column - self.width / 2 + turn / 2) % turn + self.width / 2 - turn / 2
                column = np.where(beyond, nearest, column)
                column = np.where((column == self.width) & (column >= turn), 0.0, column)  # 180 degrees is -180
        nowhere = ~(np.isfinite(column) & np.isfinite(row))
        return np.where(nowhere, np.nan, column), np.where(nowhere, np.nan, row)

    def inside(self, column: Floats, row: Floats) -> NDArray[np.bool_]:
        """Which of the places the raster holds, its outer edges included."""
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (column >= -_SLACK) & (column <= self.width + _SLACK) & (row >= -_SLACK) & (row <= self.height + _SLACK)
            )

    def holding(self, column: Floats, row: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the cells that hold places inside the raster."""
        return (
            np.clip(np.floor(row), 0, self.height - 1).astype(np.int64),
            np.clip(np.floor(column), 0, self.width - 1).astype(np.int64),
        )

    def coordinates(self, column: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Coordinates of places in the projection of the raster."""
        t = self.transform
        return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f

    def degrees(self, column: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Longitude (-180 to 180) and latitude of places, infinite where the projection has none."""
        x, y = self.coordinates(column, row)
        if not self.geographic:
            return _warp(self.crs, x, y, inverse=True)
        return (x + 180) % 360 - 180, np.clip(y, -90, 90)

    def cell_metres(self, column: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Width and height of a cell on the ground, at places inside the raster: metres on the ellipsoid, [N] each."""
        # Half a cell to both sides, moved inwards at the edges, where some projections and the poles end.
        column = np.clip(column, 0.5, max(0.5, self.width - 0.5))
        row = np.clip(row, 0.5, max(0.5, self.height - 0.5))
        sizes = []
        for right, down in ((0.5, 0.0), (0.0, 0.5)):
            first, second = self.degrees(column - right, row - down), self.degrees(column + right, row + down)
            known = np.isfinite(first[0]) & np.isfinite(second[0])
            size = np.full(len(column), np.nan)
            size[known] = geodesic().inv(first[0][known], first[1][known], second[0][known], second[1][known])[2]
            sizes.append(size)
        return sizes[0], sizes[1]


class Raster:
    """A raster of one band, open for reading; use it as a context manager.

    Args:
        location: A file or an address. Where it states no projection, WGS 84 degrees if its edges allow it.

    Raises:
        DataError: It cannot be opened, has several bands, or states no projection.

    Attributes:
        location: The file or address.
        grid: Its place on the Earth.
    """

    def __init__(self, location: str) -> None:
        rasterio = _rasterio()
        self.location = location
        self._stack = ExitStack()
        self._whole: Any = None
        if is_remote(location):
            self._stack.enter_context(rasterio.Env(**_REMOTE_OPTIONS))
        try:
            self._source = self._stack.enter_context(rasterio.open(location))
            self.grid = _grid(self._source, location)
        except (rasterio.errors.RasterioError, OSError) as error:
            self._stack.close()
            raise DataError(f"{location}: cannot be opened as a raster: {first_line(error)}") from error
        except DataError:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def cells(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        """Values of single cells, scale and offset applied, NaN for no data, [N].

        The storage blocks that hold them are read once each.
        """
        values = np.full(len(rows), np.nan)
        if len(rows) == 0:
            return values
        grid = self.grid
        high, wide = self._source.block_shapes[0]
        if self._small():
            return self._real(self._all()[rows, columns])
        if high * wide * 4 < WINDOW_CELLS and not is_remote(self.location):  # strips and small tiles: several at once
            high *= max(1, WINDOW_CELLS // (4 * high * wide))
        group = (rows // high) * (grid.width // wide + 1) + columns // wide
        order = np.argsort(group, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            top, left = int(rows[members].min()), int(columns[members].min())
            bottom, right = int(rows[members].max()) + 1, int(columns[members].max()) + 1
            data = self.window(top, bottom, left, right)
            values[members] = data[rows[members] - top, columns[members] - left]
        return values

    def window(self, top: int, bottom: int, left: int, right: int) -> Floats:
        """Values of a window inside the raster, [bottom - top, right - left], scale and offset applied, NaN no data.

        Raises:
            DataError: It cannot be read.
        """
        rasterio = _rasterio()
        if self._small():
            return self._real(self._all()[top:bottom, left:right])
        try:
            return self._real(self._source.read(1, window=((top, bottom), (left, right)), masked=True))
        except (rasterio.errors.RasterioError, OSError) as error:
            raise self._cut_short(error) from error

    def _real(self, data: Any) -> Floats:
        """Stored values as numbers with a unit."""
        known = np.where(np.ma.getmaskarray(data), np.nan, np.ma.getdata(data).astype(np.float64))
        return known * self.grid.scale + self.grid.offset

    def _all(self) -> Any:
        """A small raster, read once."""
        if self._whole is None:
            rasterio = _rasterio()
            try:
                self._whole = self._source.read(1, masked=True)
            except (rasterio.errors.RasterioError, OSError) as error:
                raise self._cut_short(error) from error
        return self._whole

    def _cut_short(self, error: Exception) -> DataError:
        return DataError(f"{self.location}: cannot be read: {first_line(error)}; is the file cut short?")

    def _small(self) -> bool:
        return self.grid.width * self.grid.height <= WHOLE_CELLS and not is_remote(self.location)


def read_grid(location: str) -> Grid:
    """The place of a raster; kept as long as the file does not change.

    Raises:
        DataError: See :class:`Raster`.
    """
    stamp: tuple[int, int] = (0, 0)
    if not is_remote(location):
        try:
            state = Path(location).stat()
        except OSError as error:
            raise DataError(f"{location}: cannot be opened as a raster: {error.strerror}") from error
        stamp = (state.st_size, state.st_mtime_ns)
    return _kept_grid(location, stamp)


@functools.lru_cache(maxsize=65_536)
def _kept_grid(location: str, stamp: tuple[int, int]) -> Grid:
    with Raster(location) as raster:
        return raster.grid


def _grid(source: Any, location: str) -> Grid:
    if source.count != 1:
        raise DataError(f"{location}: has {source.count} bands, one is expected; write the band of the variable alone")
    if source.crs is None:
        box = source.bounds
        if box.left < -181 or box.right > 361 or box.bottom < -91 or box.top > 91:
            raise DataError(f"{location}: states no projection and its edges {tuple(box)} are not degrees; assign one")
    if source.transform.determinant == 0:
        raise DataError(f"{location}: its geotransform {tuple(source.transform)[:6]} has no extent; georeference it")
    # Datums of climate rasters differ from WGS 84 by far less than a cell.
    return Grid(
        location, source.crs, source.transform, source.width, source.height,
        geographic=source.crs is None or bool(source.crs.is_geographic),
        scale=float(source.scales[0]), offset=float(source.offsets[0]),
    )  # fmt: skip


def _warp(crs: Any, x: Floats, y: Floats, *, inverse: bool = False) -> tuple[Floats, Floats]:
    """From degrees into a projection, or the inverse; infinite where there is no place or the way back leads elsewhere.

    The second happens beyond the edges of interrupted and of zonal projections.
    """
    there, back = ("INVERSE", "FORWARD") if inverse else ("FORWARD", "INVERSE")
    transformer = _transformer(crs.to_wkt())
    # As copies: pyproj works in place where it can.
    far, high = transformer.transform(np.array(x, float), np.array(y, float), direction=there)
    back_x, back_y = transformer.transform(far.copy(), high.copy(), direction=back)
    with np.errstate(invalid="ignore"):
        if inverse:
            stayed = np.maximum(np.abs(back_x - x), np.abs(back_y - y)) <= _ROUND_TRIP_METRES
        else:
            turned = np.abs((back_x - x + 180) % 360 - 180) * np.cos(np.deg2rad(y))
            stayed = np.maximum(turned, np.abs(back_y - y)) <= _ROUND_TRIP
    lost = ~(stayed & np.isfinite(far) & np.isfinite(high))
    far[lost], high[lost] = np.inf, np.inf
    return far, high


@functools.lru_cache(maxsize=64)
def _transformer(crs: str) -> Any:
    """From WGS 84 degrees, longitude first, into a projection."""
    try:
        from pyproj import Transformer
    except ImportError as error:
        raise ConfigError("rasters in a projection need pyproj: pip install 'geotreeclip[prep]'") from error
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


def _rasterio() -> Any:
    """The rasterio module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise ConfigError("reading rasters needs rasterio: pip install 'geotreeclip[prep]'") from error
    return rasterio
