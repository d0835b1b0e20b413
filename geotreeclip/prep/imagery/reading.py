"""Pixels of a raster at the patches of many points, the raster opened once and read by windows.

N points, K pixels along each side of a patch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, first_line
from geotreeclip.prep.imagery.grid import Pixels
from geotreeclip.prep.imagery.problems import SceneLost, Unreachable
from geotreeclip.prep.imagery.scenes import Asset
from geotreeclip.prep.imagery.signing import Signer

__all__ = ["Clock", "Raster", "gdal_environment", "read_asset"]

Result = TypeVar("Result")

_DRIVERS = ("GTiff", "JP2OpenJPEG", "JP2KAK", "JP2MrSID")
"""Formats that a scene may have. A virtual raster could name any other file or run code: it is none of them."""

_GDAL: dict[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder, no side-car files
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "4",  # of answers such as 429 and 503
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # the header of a COG in one request
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "16000000",
    "GDAL_CACHEMAX": 256,  # megabytes
    "AWS_NO_SIGN_REQUEST": "YES",  # public buckets; set NO for those that ask for credentials
}
_WINDOW = (256, 2048)
"""Least and most cells along each side of the area that points share."""

_AT_ONCE = 4_000_000
"""Cells of an area of several blocks that is read in one go where most of them are wanted."""


class Clock:
    """Seconds spent opening and reading."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.opened = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count the time within."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def gdal_environment() -> Any:
    """Settings of GDAL for COGs over the network; those of the process's environment win.

    Raises:
        ConfigError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ConfigError("reading scenes needs rasterio: pip install 'geotreeclip[prep]'") from error
    return rasterio.Env(**{key: value for key, value in _GDAL.items() if key not in os.environ})


def read_asset(asset: Asset, sign: Signer, clock: Clock, use: Callable[[Raster], Result]) -> Result:
    """Open a raster of a scene, use it, and close it; within :func:`gdal_environment`.

    Only windows are fetched, but of a server that cannot give parts of a file, the whole file is fetched and dropped
    after use.

    Args:
        asset: The raster.
        sign: Signs its link.
        clock: Counts the time of opening and reading.
        use: Reads from it; called again where a connection broke off.

    Raises:
        SceneLost: The file is not there, damaged, of a format that no scene has, or lies nowhere on the Earth. So also
            for what fails while it is read.
        Unreachable: Its server does not answer.
    """
    _check(asset.href)
    web = asset.href.startswith(("http://", "https://"))
    server = urlsplit(asset.href).netloc if web else ""
    for attempt in range(3 if web else 1):
        link = sign(asset.href)
        try:
            whole = server in _WHOLE_ONLY
            with (
                _fetched(asset.href, link, clock) if whole else nullcontext(link) as path,
                _opened(asset, path, clock) as raster,
            ):
                return use(raster)
        except OSError as error:
            problem, parts = _reason(asset.href, link, error)
            if not parts and server not in _WHOLE_ONLY:
                _WHOLE_ONLY.add(server)
            elif attempt or isinstance(problem, Unreachable) or not problem.there:
                raise problem from error
    raise SceneLost(f"{asset.href}: cannot be read", there=True)


_WHOLE_ONLY: set[str] = set()  # servers, found out by this process

_MOST_BYTES = 2_000_000_000


@contextmanager
def _fetched(href: str, link: str, clock: Clock) -> Iterator[str]:
    """A file of a server that gives whole files alone, as long as it is needed."""
    with tempfile.NamedTemporaryFile(prefix="geotreeclip-", suffix=".tif") as sink:
        with clock(), urllib.request.urlopen(link, timeout=60) as answer:  # noqa: S310  # http, as checked
            if int(answer.headers.get("Content-Length") or 0) > _MOST_BYTES:
                raise SceneLost(f"{href}: its server gives whole files alone, and this one has over 2 GB")
            shutil.copyfileobj(answer, sink)
        sink.flush()
        yield sink.name


@contextmanager
def _opened(asset: Asset, path: str, clock: Clock) -> Iterator[Raster]:
    import warnings

    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import DatasetReader

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with clock():
                source = DatasetReader(path, driver=list(_DRIVERS))  # `rasterio.open` takes one driver or all
                clock.opened += 1
        with source:
            yield Raster(source, asset, clock)
    except RasterioError as error:
        raise OSError(str(error)) from error


class Raster:
    """An open raster of one band, on its own grid or, without one, on that of its item.

    Args:
        source: Dataset of rasterio.
        asset: What the item states of it.
        clock: Counts the time of reading.

    Raises:
        SceneLost: It has several bands, or neither it nor its item says where it lies.
    """

    def __init__(self, source: Any, asset: Asset, clock: Clock) -> None:
        from rasterio.transform import Affine

        self.source, self.clock = source, clock
        if source.count != 1:
            raise SceneLost(f"{asset.href}: has {source.count} bands, one is expected")
        if source.crs is not None and source.transform != Affine.identity():
            code = source.crs.to_epsg()
            self.crs = f"EPSG:{code}" if code else source.crs.to_wkt()
            transform = source.transform
        elif asset.epsg and asset.transform and asset.shape:
            # The item speaks of the full resolution; the raster may be a coarser copy of the same extent.
            self.crs = f"EPSG:{asset.epsg}"
            rows, columns = asset.shape
            wide, high = columns / source.width, rows / source.height
            a, b, c, d, e, f = asset.transform
            transform = Affine(a * wide, b * high, c, d * wide, e * high, f)
        else:
            raise SceneLost(
                f"{asset.href}: has no georeference, and its item states no proj:code (or proj:epsg), proj:transform "
                "and proj:shape"
            )
        if not transform.determinant:
            raise SceneLost(f"{asset.href}: has a transform without area {tuple(transform)[:6]}")
        self.inverse = ~transform

    def cells(self, pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional rows and columns of the centres of pixels, NaN where they have none, [N, K, K] each."""
        x, y = pixels.at(self.crs)
        inverse = self.inverse
        with np.errstate(invalid="ignore"):
            column = inverse.a * x + inverse.b * y + inverse.c
            row = inverse.d * x + inverse.e * y + inverse.f
        lost = ~(np.isfinite(column) & np.isfinite(row))
        return np.where(lost, np.nan, row), np.where(lost, np.nan, column)

    def nearest(
        self, row: NDArray[np.float64], column: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values of the cells that hold places, 0 beyond the raster, and which lie in it, [N, K, K]."""
        with np.errstate(invalid="ignore"):
            inside = (row >= 0) & (row < self.source.height) & (column >= 0) & (column < self.source.width)
        i = np.where(inside, row, 0).astype(np.int64)
        j = np.where(inside, column, 0).astype(np.int64)
        values = np.zeros(row.shape, np.float32)
        for members, data, top, left in self._areas(i, j, inside, 0):
            here = inside[members]
            at = np.where(here, i[members] - top, 0), np.where(here, j[members] - left, 0)
            values[members] = np.where(here, data[at], 0)
        return values, inside

    def smooth(self, row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float32]:
        """Bilinear means of the four nearest cell centres, [N, K, K]; cells of 0 (no data) take no part.

        Where the cell that holds a place has no data, the result has none (0).
        """
        with np.errstate(invalid="ignore"):
            inside = (row >= 0) & (row < self.source.height) & (column >= 0) & (column < self.source.width)
        r, c = np.where(inside, row, 0.0), np.where(inside, column, 0.0)
        top, left = np.floor(r - 0.5).astype(np.int64), np.floor(c - 0.5).astype(np.int64)
        down, right = r - 0.5 - top, c - 0.5 - left
        values = np.zeros(row.shape, np.float32)
        for members, data, first_row, first_column in self._areas(top, left, inside, 1):
            here = inside[members]
            total, weight = np.zeros(here.shape), np.zeros(here.shape)
            for lower, share_row in ((0, 1 - down[members]), (1, down[members])):
                for later, share_column in ((0, 1 - right[members]), (1, right[members])):
                    i, j = top[members] + lower, left[members] + later
                    known = here & (i >= 0) & (i < self.source.height) & (j >= 0) & (j < self.source.width)
                    cell = data[np.where(known, i - first_row, 0), np.where(known, j - first_column, 0)]
                    share = np.where(known & (cell != 0), share_row * share_column, 0.0)
                    total += share * cell
                    weight += share
            holding = data[
                np.where(here, r[members].astype(np.int64) - first_row, 0),
                np.where(here, c[members].astype(np.int64) - first_column, 0),
            ]
            with np.errstate(invalid="ignore", divide="ignore"):
                values[members] = np.where(here & (holding != 0) & (weight > 0), total / weight, 0)
        return values

    def _areas(
        self, i: NDArray[np.int64], j: NDArray[np.int64], inside: NDArray[np.bool_], beyond: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], int, int]]:
        """Points grouped by the storage block of their patch, with the cells around each group read at once.

        Yields:
            Points, cells, and row and column of the first cell. `beyond` more cells follow the last one on each side.
        """
        some = np.flatnonzero(inside.any(axis=(1, 2)))
        if not len(some):
            return
        big = np.iinfo(np.int64).max
        low_i, low_j = (np.where(inside, index, big).min(axis=(1, 2))[some] for index in (i, j))
        high_i, high_j = (np.where(inside, index, -1).max(axis=(1, 2))[some] + 1 + beyond for index in (i, j))
        high, wide = (min(max(side, _WINDOW[0]), _WINDOW[1]) for side in self.source.block_shapes[0])
        block_i, block_j = np.maximum(low_i, 0) // high, np.maximum(low_j, 0) // wide
        group = block_i * (self.source.width // wide + 1) + block_j
        box = (int(np.ptp(block_i)) + 1) * (int(np.ptp(block_j)) + 1)
        if box * high * wide <= _AT_ONCE and 2 * len(np.unique(group)) >= box:
            group = np.zeros_like(group)  # most blocks of a small area are wanted: one read
        order = np.argsort(group, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            top, left = max(0, int(low_i[members].min())), max(0, int(low_j[members].min()))
            bottom = min(self.source.height, int(high_i[members].max()))
            right = min(self.source.width, int(high_j[members].max()))
            with self.clock():
                data = self.source.read(1, window=((top, bottom), (left, right)))
            yield some[members], data, top, left


def _check(href: str) -> None:
    """Refuse links that are no files: virtual file systems and documents in place of a name."""
    if href.startswith(("/vsi", "<")) or "\n" in href or href.partition("://")[0].lower() in ("vrt", "zip", "tar"):
        raise SceneLost(f"{href[:100]!r}: is no link to a file")


def _reason(href: str, link: str, error: Exception) -> tuple[SceneLost | Unreachable, bool]:
    """Whether a file is lost, or its server out of reach for now; and whether the server gives parts of files."""
    text = first_line(error)
    text = text.replace(link, href)  # a signed link holds a token
    if "://" not in href or href.startswith("file://"):
        return SceneLost(f"{href}: {text}"), True
    if not href.startswith(("http://", "https://")):
        # Object stores without a public address: what GDAL says has to do.
        gone = any(word in text for word in ("404", "NoSuchKey", "does not exist"))
        return (SceneLost(f"{href}: {text}") if gone else Unreachable(f"{href}: cannot be read: {text}")), True
    request = urllib.request.Request(link, headers={"Range": "bytes=0-15"})  # noqa: S310  # http, as just checked
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            parts = answer.status == 206
    except urllib.error.HTTPError as answer:
        problem = f"{href}: the server answers {answer.code}"
        return (SceneLost(problem) if answer.code in (403, 404, 410) else Unreachable(problem)), True
    except OSError as broken:
        return Unreachable(f"{href}: its server cannot be reached: {broken}"), True
    return SceneLost(f"{href}: is there, but cannot be read: {text}; cut short?", there=True), parts
