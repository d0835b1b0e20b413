"""Rasters of environmental variables: finding them by name, and reading single cells at coordinates.

Files of any size and projection are read through windows around the points, never whole when they are large.
N points.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import VARIABLE_NAMES

SUFFIXES = (".tif", ".tiff", ".vrt", ".bil", ".asc", ".img")
"""Files that are looked at in a raster folder."""

WHOLE_CELLS = 16_000_000
"""Rasters up to this many cells are read at once where points fall all over them; larger ones by windows."""

WINDOW_CELLS = 4_000_000
"""Cells that one window may span."""

_SOIL_DEPTHS = {("0", "5"): "0_5cm", ("5", "15"): "5_15cm", ("15", "30"): "15_30cm"}
_BIOCLIM = re.compile(r"(?:^|[^a-z])bio(?:clim)?[ _.-]*0?(\d{1,2})(?![0-9a-z])", re.IGNORECASE)
_SOIL = re.compile(r"(?:wv0?033|soil[ _.-]*moisture|sm)[ _.-]+(\d+)[ _.-]+(\d+)[ _.-]*cm", re.IGNORECASE)
_WORDS = tuple(
    (variable, re.compile(rf"(?:^|[^a-z])(?:{words})(?![a-z])", re.IGNORECASE))
    for variable, words in (
        ("slope", "slope"),
        ("aspect", "aspect"),
        ("elevation", "elev|elevation|altitude|alt|dem|dtm|srtm|gmted|gebco|etopo"),
    )
)


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What was read of one raster.

    Attributes:
        path: The file.
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


def variable_of(path: Path) -> str | None:
    """The variable that a raster holds by its file name, or None.

    Known: ``wc2.1_10m_bio_7``, ``bio07``, ``CHELSA_bio7_1981-2010``; ``elevation``, ``wc2.1_10m_elev``, ``etopo20``,
    ``srtm_dem``, ``alt``; ``slope``; ``aspect``; ``wv0033_0-5cm_mean``, ``soil_moisture_5_15cm``.
    """
    name = path.stem
    if match := _BIOCLIM.search(name):
        number = int(match.group(1))
        return f"bio{number:02d}" if 1 <= number <= 19 else None
    if match := _SOIL.search(name):
        depth = _SOIL_DEPTHS.get((match.group(1), match.group(2)))
        return f"soil_moisture_{depth}" if depth else None
    return next((variable for variable, pattern in _WORDS if pattern.search(name)), None)


def find_rasters(
    directories: Iterable[str | Path], named: Mapping[str, str | Path] | None = None
) -> dict[str, list[Path]]:
    """Rasters of each variable, in schema order; several files of one variable are its tiles.

    Args:
        directories: Folders searched with all their sub-folders.
        named: Variable name to file, for files whose names say nothing; replaces what the folders hold of it.

    Raises:
        DataError: A folder or a named file does not exist, or nothing was found.
        ConfigError: A named variable is none that a raster can hold.
    """
    folders = [Path(directory) for directory in directories]
    found: dict[str, list[Path]] = {}
    for directory in folders:
        if not directory.is_dir():
            raise DataError(f"{directory}: no such folder of rasters")
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in SUFFIXES and (variable := variable_of(path)):
                found.setdefault(variable, []).append(path)
    for variable, name in (named or {}).items():
        if variable not in VARIABLE_NAMES[2:]:
            raise ConfigError(f"no raster variable {variable!r}; known: {', '.join(VARIABLE_NAMES[2:])}")
        if not Path(name).is_file():
            raise DataError(f"{name}: no such file, named as the raster of {variable}")
        found[variable] = [Path(name)]
    if not found:
        places = ", ".join(map(str, folders)) or "no folder"
        raise DataError(
            f"no raster found in {places}; files are known by names such as wc2.1_10m_bio_1.tif, elevation.tif, "
            "slope.tif, wv0033_0-5cm.tif, or given as --raster bio01=FILE"
        )
    return {variable: found[variable] for variable in VARIABLE_NAMES if variable in found}


def sample_rasters(
    paths: Sequence[str | Path], longitude: NDArray[Any], latitude: NDArray[Any], method: str = "nearest"
) -> tuple[NDArray[np.float64], list[RasterInfo]]:
    """Values of one variable at points, NaN where no raster has one, from one raster or from tiles side by side.

    Args:
        paths: The raster, or its tiles; where tiles overlap by an edge the first that has a value gives it.
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        method: See :func:`sample_raster`.

    Raises:
        DataError: A file cannot be read, or two files cover each other and so are no tiles.
    """
    values = np.full(len(longitude), np.nan)
    infos = []
    bounds: list[tuple[Path, Any, Any]] = []
    for path in map(Path, paths):
        with open_raster(path) as source:
            crs, box = source.crs, source.bounds
        for other, other_crs, other_box in bounds:
            if crs == other_crs and _overlap(box, other_box) > 0.1:
                raise DataError(f"{other} and {path} hold the same variable and area; keep one, or name it (--raster)")
        bounds.append((path, crs, box))
        left = np.flatnonzero(np.isnan(values))
        values[left], info = sample_raster(path, longitude[left], latitude[left], method)
        infos.append(info)
    return values, infos


def sample_raster(
    path: str | Path, longitude: NDArray[Any], latitude: NDArray[Any], method: str = "nearest"
) -> tuple[NDArray[np.float64], RasterInfo]:
    """Values of a raster at points, float64 [N], scale and offset applied, NaN outside it and where it has no data.

    Args:
        path: A raster of one band, in any projection (WGS 84 degrees if it states none and its edges allow it).
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        method: ``nearest`` is the cell that holds the point. ``bilinear`` weighs the four nearest cell centres, leaving
            out those without data; where the cell that holds the point has none, the result has none, so that a
            coast is not drawn out to sea.

    Raises:
        DataError: The file cannot be opened or read, has several bands, or states no projection.
        ConfigError: The method is unknown.
    """
    if method not in ("nearest", "bilinear"):
        raise ConfigError(f"sampling method {method!r} is unknown; give nearest or bilinear")
    rasterio = _rasterio()
    path = Path(path)
    with open_raster(path) as source:
        x, y, crs = _project(source, path, np.asarray(longitude, float), np.asarray(latitude, float))
        column, row, inside = _place(source, crs, x, y)
        value = np.full(len(x), np.nan)
        try:
            value[inside] = _cells(source, *_holding(source, column[inside], row[inside]))
            no_data = int(np.isnan(value[inside]).sum())
            if method == "bilinear":
                known = ~np.isnan(value)
                value[known] = _bilinear(source, column[known], row[known], _circular(source, crs))
        except (rasterio.errors.RasterioError, OSError) as error:
            raise DataError(f"{path}: cannot be read: {_first_line(error)}; is the file cut short?") from error
        scale, offset = float(source.scales[0]), float(source.offsets[0])
        info = RasterInfo(
            path=str(path),
            crs=crs,
            resolution=(abs(source.transform.a), abs(source.transform.e)),
            degrees=_is_geographic(source, crs),
            scaled=(scale, offset) != (1.0, 0.0),
            outside=int((~inside).sum()),
            no_data=no_data,
        )
    return value * scale + offset, info


def open_raster(path: Path) -> Any:
    """Open a raster of one band.

    Raises:
        DataError: The file cannot be opened or has several bands.
    """
    rasterio = _rasterio()
    try:
        source = rasterio.open(path)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DataError(f"{path}: cannot be opened as a raster: {_first_line(error)}") from error
    if source.count != 1:
        source.close()
        raise DataError(f"{path}: has {source.count} bands, one is expected; write the band of the variable alone")
    return source


def _project(
    source: Any, path: Path, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Coordinates of the points in the projection of the raster (infinite where there are none), and its name."""
    if source.crs is None:
        box = source.bounds
        if box.left < -181 or box.right > 361 or box.bottom < -91 or box.top > 91:
            raise DataError(f"{path}: states no projection and its edges {tuple(box)} are not degrees; assign one")
        return lon, lat, "EPSG:4326 (assumed)"
    name = source.crs.to_string()
    if source.crs.is_geographic:  # datums of climate rasters differ by far less than a cell
        return lon, lat, name
    from rasterio.warp import transform

    x, y = transform("EPSG:4326", source.crs, lon.tolist(), lat.tolist())
    return np.asarray(x, float), np.asarray(y, float), name


def _is_geographic(source: Any, crs: str) -> bool:
    return crs.endswith("(assumed)") or bool(source.crs.is_geographic)


def _place(
    source: Any, crs: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Fractional column and row of points, and which of them the raster holds, its last edges included.

    Longitudes a full turn away are brought into the raster.
    """
    inverse = ~source.transform
    with np.errstate(invalid="ignore"):  # points that have no place in the projection are infinite
        column, row = (inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f)
        if _is_geographic(source, crs):
            turn = 360 / abs(source.transform.a)
            column = np.where(column < -1e-6, column + turn, column)
            column = np.where(column > source.width, column - turn, column)
            column = np.where((column == source.width) & (column >= turn), 0.0, column)  # 180 degrees is -180
        # Transforms round: a millionth of a cell beyond an outer edge is on it.
        inside = (column >= -1e-6) & (column <= source.width + 1e-6) & (row >= -1e-6) & (row <= source.height + 1e-6)
    inside &= np.isfinite(column) & np.isfinite(row)
    return column, row, inside


def _holding(
    source: Any, column: NDArray[np.float64], row: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the cells that hold points inside the raster."""
    return (
        np.clip(np.floor(row), 0, source.height - 1).astype(np.int64),
        np.clip(np.floor(column), 0, source.width - 1).astype(np.int64),
    )


def _circular(source: Any, crs: str) -> bool:
    """Whether the columns of a raster go once around the Earth."""
    return _is_geographic(source, crs) and abs(source.width * abs(source.transform.a) - 360) < 1e-6


def _bilinear(
    source: Any, column: NDArray[np.float64], row: NDArray[np.float64], circular: bool
) -> NDArray[np.float64]:
    """Means of the four nearest cells, weighted by the distance of their centres."""
    left, top = np.floor(column - 0.5), np.floor(row - 0.5)
    right_share, bottom_share = column - 0.5 - left, row - 0.5 - top
    total, weight = np.zeros(len(column)), np.zeros(len(column))
    for down in (0, 1):
        for right in (0, 1):
            rows = np.clip(top + down, 0, source.height - 1).astype(np.int64)
            columns = (left + right).astype(np.int64)
            columns = columns % source.width if circular else np.clip(columns, 0, source.width - 1)
            values = _cells(source, rows, columns)
            share = (right_share if right else 1 - right_share) * (bottom_share if down else 1 - bottom_share)
            share = np.where(np.isnan(values), 0.0, share)
            total += np.where(np.isnan(values), 0.0, values) * share
            weight += share
    return total / weight


def _cells(source: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Raw values of single cells, NaN for no data, reading the storage blocks that hold them once each, [N]."""
    values = np.full(len(rows), np.nan)
    if len(rows) == 0:
        return values
    high, wide = source.block_shapes[0]
    if source.width * source.height <= WHOLE_CELLS:
        high, wide = source.height, source.width
    elif high * wide * 4 < WINDOW_CELLS:  # strips and small tiles: several at once
        high *= max(1, WINDOW_CELLS // (4 * high * wide))
    group = (rows // high) * (source.width // wide + 1) + columns // wide
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        top, left = int(rows[members].min()), int(columns[members].min())
        bottom, right = int(rows[members].max()) + 1, int(columns[members].max()) + 1
        data = source.read(1, window=((top, bottom), (left, right)), masked=True)
        cells = data[rows[members] - top, columns[members] - left]
        values[members] = np.where(np.ma.getmaskarray(cells), np.nan, np.ma.getdata(cells).astype(np.float64))
    return values


def _overlap(first: Any, second: Any) -> float:
    """Share of the smaller of two boxes that the other covers."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.top, second.top) - max(first.bottom, second.bottom)
    areas = [(box.right - box.left) * (box.top - box.bottom) for box in (first, second)]
    return float(max(0.0, width) * max(0.0, height) / min(areas))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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
