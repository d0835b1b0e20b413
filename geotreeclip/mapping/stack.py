"""A year of monthly composites as files: one GeoTIFF with a band for each month and spectral band, or one a month.

Shapes: T months and C bands that the stack holds, H W pixels of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, first_line
from geotreeclip.inputs.bands import band_name
from geotreeclip.inputs.common import listed
from geotreeclip.mapping.names import band_in, is_unused, month_in
from geotreeclip.schema import BANDS, MONTHS

__all__ = ["CUBES", "FileStack", "Grid", "Layer", "Stack", "crs_from", "open_stack"]

CUBES = (".nc", ".nc4", ".netcdf", ".zarr")
_RASTERS = (".tif", ".tiff", ".vrt")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Where pixels lie.

    Attributes:
        width: Columns.
        height: Rows.
        transform: The six numbers a to f of the affine map from column and row to coordinates.
        crs: Well-known text of the coordinate reference system.
    """

    width: int
    height: int
    transform: tuple[float, ...]
    crs: str

    def strided(self, stride: int) -> Grid:
        """The grid of every `stride`-th pixel, the first at `stride // 2`; its cells are that much larger."""
        a, b, c, d, e, f = self.transform
        size = [max(0, -(-(length - stride // 2) // stride)) for length in (self.width, self.height)]
        return Grid(size[0], size[1], (a * stride, b * stride, c, d * stride, e * stride, f), self.crs)


class Stack(Protocol):
    """Monthly composites of a region; small and picklable, files are opened when they are read."""

    @property
    def location(self) -> str:
        """File or folder."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""

    @property
    def months(self) -> tuple[int, ...]:
        """T calendar months, 1 to 12, ascending."""

    @property
    def bands(self) -> tuple[str, ...]:
        """C bands in the order of the schema."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files that it reads."""

    def read(self, top: int, bottom: int, left: int, right: int) -> Floats:
        """Values as stored, scale and offset of the file applied, NaN for no data: [T, C, bottom - top, right - left].

        Raises:
            DataError: If a file cannot be read.
        """


@dataclass(frozen=True)
class Layer:
    """One band of one file: what it holds."""

    file: str
    index: int
    month: int
    band: str


@dataclass(frozen=True)
class FileStack:
    """A stack of GeoTIFF files on one grid; see `Stack`."""

    location: str
    grid: Grid
    layers: tuple[Layer, ...]

    @property
    def months(self) -> tuple[int, ...]:
        """Months that some layer holds."""
        return tuple(sorted({layer.month for layer in self.layers}))

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that some layer holds."""
        return tuple(band for band in BANDS if any(layer.band == band for layer in self.layers))

    @property
    def files(self) -> tuple[str, ...]:
        """Files in the order of their names."""
        return tuple(sorted({layer.file for layer in self.layers}))

    def read(self, top: int, bottom: int, left: int, right: int) -> Floats:
        """See `Stack.read`."""
        rasterio = _rasterio()
        shape = (len(self.months), len(self.bands), bottom - top, right - left)
        values = np.full(shape, np.nan, dtype=np.float32)
        for file in self.files:
            layers = [layer for layer in self.layers if layer.file == file]
            indexes = [layer.index for layer in layers]
            try:
                with rasterio.open(file) as source:
                    data = source.read(indexes, window=((top, bottom), (left, right)), masked=True)
                    scale, offset = (np.array(of)[np.array(indexes) - 1] for of in (source.scales, source.offsets))
            except (rasterio.errors.RasterioError, OSError) as error:
                raise DataError(f"{file}: cannot be read ({first_line(error)}); is it cut short?") from error
            for layer, part, factor, shift in zip(layers, data, scale, offset, strict=True):
                known = np.ma.getdata(part).astype(np.float32)
                if (factor, shift) != (1.0, 0.0):
                    known = (known * factor + shift).astype(np.float32)
                known[np.ma.getmaskarray(part)] = np.nan
                values[self.months.index(layer.month), self.bands.index(layer.band)] = known
        return values


def open_stack(
    location: str | Path,
    *,
    bands: Sequence[str] | None = None,
    months: Iterable[int] | None = None,
    crs: str | None = None,
) -> Stack:
    """Find out what a stack holds.

    Args:
        location: A GeoTIFF whose band descriptions tell month and band ("2020-06_B04"), or with `bands` and `months` in
            the order of its bands, bands varying fastest; a folder of GeoTIFFs whose names tell the month; or a NetCDF
            file or Zarr store with time, band, y and x.
        bands: Names of the spectral bands in the order of the file (or of each monthly file).
        months: Calendar months in the order of the file; for a folder, of its files by name.
        crs: Coordinate reference system where the files state none, such as "EPSG:32633".

    Raises:
        DataError: If it cannot be read, or months, bands or the reference system are not known.
        ConfigError: If `bands` or `months` do not fit, or a reader is not installed.
    """
    path = Path(location)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    wanted = None if bands is None else [_known_band(band) for band in bands]
    steps = None if months is None else _known_months(months)
    if path.suffix.lower() in CUBES:
        from geotreeclip.mapping.cube import open_cube

        return open_cube(path, bands=wanted, months=steps, crs=crs)
    if path.is_dir():
        return _open_folder(path, wanted, steps, crs)
    with _opened(path) as source:
        layers = _layers_of_stack(path, source, wanted, steps)
        return FileStack(str(path), _grid(path, source, crs), _checked(path, layers))


def _layers_of_stack(path: Path, source: Any, bands: list[str] | None, months: list[int] | None) -> list[Layer]:
    """Layers of a file that holds the whole year."""
    if bands is not None or months is not None:
        names = list(BANDS) if bands is None else bands
        steps = list(range(1, MONTHS + 1)) if months is None else months
        if source.count != len(names) * len(steps):
            raise ConfigError(
                f"{path}: has {source.count} bands, but {len(steps)} months of {len(names)} spectral bands are "
                f"{len(names) * len(steps)}; --months and --bands must name what it holds, bands varying fastest"
            )
        order = [(month, band) for month in steps for band in names]
        return [Layer(str(path), index, *pair) for index, pair in enumerate(order, 1)]
    layers = []
    for index, description in enumerate(source.descriptions, 1):
        band, rest = band_in(description or "")
        month = month_in(rest)
        if band is None or month is None:
            what = "no name" if not description else f"the name {description!r}"
            raise DataError(
                f"{path}: band {index} of {source.count} has {what}, which does not tell its month and spectral band; "
                "name them like 2020-06_B04, or give --months and --bands (bands varying fastest)"
            )
        layers.append(Layer(str(path), index, month, band))
    return layers


def _open_folder(folder: Path, bands: list[str] | None, months: list[int] | None, crs: str | None) -> FileStack:
    """One file a month, or one a month and band."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _RASTERS and path.is_file())
    if not files:
        raise DataError(f"{folder}: holds no GeoTIFF; one file a month is expected, named like s2_2020-06.tif")
    if months is not None and len(months) != len(files):
        raise ConfigError(f"{folder}: holds {len(files)} files, but --months names {len(months)}")
    layers: list[Layer] = []
    grid: Grid | None = None
    for number, file in enumerate(files):
        band, rest = band_in(file.stem)
        month = month_in(rest if band is not None else file.stem) if months is None else months[number]
        if month is None:
            raise DataError(
                f"{file}: its name does not tell the month; name files like s2_2020-06.tif, or give --months in the "
                "order of the names"
            )
        with _opened(file) as source:
            layers += _layers_of_month(file, source, month, band, bands)
            here = _grid(file, source, crs)
        if grid is not None and here != grid:
            raise DataError(
                f"{file}: lies on another grid ({_told(here)}) than {files[0].name} ({_told(grid)}); warp all files to "
                "one, as with gdalwarp -te -tr"
            )
        grid = here
    if grid is None:
        raise DataError(f"{folder}: holds no GeoTIFF")
    return FileStack(str(folder), grid, _checked(folder, layers))


def _layers_of_month(file: Path, source: Any, month: int, band: str | None, bands: list[str] | None) -> list[Layer]:
    if bands is not None:
        names: list[str | None] = list(bands)
    elif source.count == 1 and band is not None:
        names = [band]
    else:
        names = [band_in(text or "")[0] for text in source.descriptions]
    if len(names) != source.count:
        raise ConfigError(f"{file}: has {source.count} bands, but --bands names {len(names)}: {listed(names, 15)}")
    layers = []
    for index, name in enumerate(names, 1):
        if name is None:
            told = source.descriptions[index - 1]
            raise DataError(
                f"{file}: band {index} of {source.count} has {f'the name {told!r}' if told else 'no name'}, which "
                "tells no spectral band; name it like B04, or give --bands"
            )
        layers.append(Layer(str(file), index, month, name))
    return layers


def _checked(path: Path, layers: list[Layer]) -> tuple[Layer, ...]:
    """The layers that the model reads, none of them twice."""
    kept = [layer for layer in layers if not is_unused(layer.band)]
    if not kept:
        raise DataError(f"{path}: holds none of the bands that models read, which are {' '.join(BANDS)}")
    seen: dict[tuple[int, str], Layer] = {}
    for layer in kept:
        other = seen.setdefault((layer.month, layer.band), layer)
        if other is not layer:
            raise DataError(
                f"{path}: {layer.band} of month {layer.month} is there twice: {Path(other.file).name} band "
                f"{other.index} and {Path(layer.file).name} band {layer.index}; make one composite a month"
            )
    return tuple(kept)


def _known_band(name: str) -> str:
    band = band_name(name)
    if band is None:
        raise ConfigError(f"--bands: {name!r} is no Sentinel-2 band; known are {' '.join(BANDS)}, blue, green, nir ...")
    return band


def _known_months(months: Iterable[int]) -> list[int]:
    given = list(months)
    for month in given:
        if not 1 <= month <= MONTHS:
            raise ConfigError(f"--months: {month} is no month; give 1 (January) to 12")
    return given


def _grid(path: Path, source: Any, crs: str | None) -> Grid:
    if source.transform.is_identity or source.transform.determinant == 0:
        raise DataError(f"{path}: is not georeferenced; assign its place, as with gdal_edit -a_ullr")
    stated = source.crs.to_wkt() if source.crs is not None else ""
    return Grid(source.width, source.height, tuple(source.transform)[:6], crs_from(str(path), stated, crs))


def crs_from(where: str, stated: str, given: str | None) -> str:
    """Well-known text of the reference system that a file states, else of that given.

    Raises:
        DataError: If there is neither.
        ConfigError: If the one given is none.
    """
    if stated:
        return stated
    if not given:
        raise DataError(f"{where}: states no coordinate reference system; give it, such as --crs EPSG:32633")
    rasterio = _rasterio()
    try:
        return str(rasterio.crs.CRS.from_user_input(given).to_wkt())
    except rasterio.errors.CRSError as error:
        raise ConfigError(f"--crs {given}: is no coordinate reference system; give one such as EPSG:32633") from error


def _told(grid: Grid) -> str:
    a, _, c, _, e, f = grid.transform
    return f"{grid.width} x {grid.height} pixels of {a:g} x {-e:g} from {c:g}, {f:g}"


def _opened(path: Path) -> Any:
    rasterio = _rasterio()
    try:
        return rasterio.open(path)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DataError(f"{path}: cannot be opened as a raster ({first_line(error)})") from error


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise ConfigError("maps need rasterio: pip install 'geotreeclip[map]'") from error
    return rasterio
