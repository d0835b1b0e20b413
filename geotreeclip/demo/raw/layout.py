"""Where the samples of the raw files lie: a few small areas, one cell of 30 arc-seconds for each sample.

The world scatters its samples over continents; here those of a continent move together into an area of a few
kilometres, and take their images, species and environment with them (the rasters show it where they stand now). Each
area has a UTM zone, a year of imagery, and one tile or two that overlap.

Letters: n samples of an area. Pixels are counted from the west edge of the zone and from `NORTH` southwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.schema import PATCH

__all__ = [
    "AREAS", "BLOCK", "CELLS_PER_DEGREE", "NORTH", "SLOT", "Area", "Frame", "Place", "Tile", "assign", "neighbour_of",
    "place", "tiles_of",
]  # fmt: skip

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CELLS_PER_DEGREE = 120
"""Cells of 30 arc-seconds, the finest resolution of WorldClim."""

NORTH = 12_000_000
"""Northing from which rows are counted, metres; beyond both poles in every zone, and a multiple of 60 m."""

SLOT = 12
"""Cells of 20 m along each side of the square that a sample has to itself."""

BLOCK = 4
"""Cells of 20 m along each side that bilinear values of a patch depend on, in the middle of the slot."""

_JITTER = 0.2  # of a cell of 30 arc-seconds: neighbours stay 300 m apart up to 60 degrees of latitude
_WITHIN = 3.0  # metres from the centre of the pixel, so that no rounding moves a point into the next
_FEW = 60  # samples below which three areas do
_MARGIN = 36  # pixels about the slots of an area


class Area(NamedTuple):
    """A place of the world's continents that imagery exists of, in one year.

    `tiles` overlap from west to east. Where `beside` is set, a tile of the next zone to the east holds all of it too.
    """

    name: str
    region: str
    country: str
    longitude: float
    latitude: float
    year: int
    tiles: int
    beside: bool = False

    @property
    def zone(self) -> int:
        """UTM zone."""
        return int((self.longitude + 180) // 6) + 1

    @property
    def epsg(self) -> int:
        """UTM zone and hemisphere as an EPSG code."""
        return (32600 if self.latitude >= 0 else 32700) + self.zone


AREAS: tuple[Area, ...] = (
    Area("Spessart", "E", "DE", 9.05, 50.15, 2021, 2),
    Area("Allegheny", "N", "US", -78.40, 40.35, 2022, 1, beside=True),
    Area("Serra Catarinense", "S", "BR", -50.90, -26.90, 2023, 2),
    Area("Vysocina", "E", "CZ", 15.10, 49.60, 2022, 1),
    Area("Gunma", "A", "JP", 139.00, 36.60, 2021, 1),
    Area("Cascades", "W", "US", -121.60, 44.40, 2023, 1),
    Area("KwaZulu-Natal", "F", "ZA", 30.90, -29.00, 2022, 1),
    Area("Gippsland", "O", "AU", 145.60, -37.80, 2021, 1),
)
"""Those with two tiles lie near the central meridian of their zone, where columns of cells run north. The first three
have both hemispheres, overlapping tiles in one zone and in two, and every processing baseline."""


class Frame(NamedTuple):
    """A rectangle of 10 m pixels; all four numbers are multiples of 6, as tiles start at multiples of 60 m."""

    top: int
    left: int
    height: int
    width: int

    @property
    def west(self) -> float:
        """Easting of the western edge, metres."""
        return 10.0 * self.left

    @property
    def north(self) -> float:
        """Northing of the northern edge, metres."""
        return NORTH - 10.0 * self.top


class Tile(NamedTuple):
    """The grid of a tile: its square of 100 km, its zone, western and northern edge in metres, pixels of 10 m."""

    square: str
    epsg: int
    west: float
    north: float
    height: int
    width: int


@dataclass(frozen=True)
class Place:
    """The samples of one area.

    Attributes:
        area: The area.
        rows: [n] which samples of the world.
        longitude: [n] degrees, seven decimals, as the records state them.
        latitude: [n] degrees.
        cell: [n, 2] row and column of the cell of 30 arc-seconds, counted from 90 N 180 W.
        pixel: [n, 2] row and column of the central pixel.
        corner: [n, 2] pixel of the north-western corner of the slot.
        frame: The rectangle that holds all slots.
        tiles: Columns of the tiles, first and behind the last, counted from the frame's west edge; no slot is cut.
    """

    area: Area
    rows: IntArray
    longitude: FloatArray
    latitude: FloatArray
    cell: IntArray
    pixel: IntArray
    corner: IntArray
    frame: Frame
    tiles: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shift(self) -> IntArray:
        """[n, 2] pixels from the edge of the block of cells to the patch: 1 or 2, southwards and eastwards."""
        return self.pixel - PATCH // 2 - self.corner - (SLOT - BLOCK)


def assign(region: NDArray[np.str_], longitude: FloatArray, latitude: FloatArray) -> list[tuple[Area, IntArray]]:
    """Areas that have samples, and which: an area of the continent if there is one, and the nearest of those.

    Args:
        region: [N] letter of the continent of each sample.
        longitude: [N] degrees, in the world.
        latitude: [N] degrees.
    """
    areas = AREAS[:3] if len(region) < _FEW else AREAS
    far = np.stack([
        np.hypot(longitude - area.longitude, latitude - area.latitude)
        + 1000.0 * ((latitude < 0) != (area.latitude < 0))
        + 1e6 * (region != area.region)
        for area in areas
    ])  # fmt: skip
    chosen = far.argmin(axis=0)
    found = [(area, np.flatnonzero(chosen == number)) for number, area in enumerate(areas)]
    return [(area, rows) for area, rows in found if len(rows)]


def place(area: Area, rows: IntArray, rng: np.random.Generator) -> Place:
    """Put samples on the cells of an area, at random within them."""
    from pyproj import Transformer

    count = len(rows)
    columns = int(np.ceil(np.sqrt(count / np.cos(np.radians(area.latitude)))))
    number = np.arange(count)
    first = np.array([
        int((90 - area.latitude) * CELLS_PER_DEGREE) - count // columns // 2,
        int((area.longitude + 180) * CELLS_PER_DEGREE) - columns // 2,
    ])  # fmt: skip
    cell = first + np.column_stack([number // columns, number % columns])
    inside = 0.5 + _JITTER * rng.uniform(-1, 1, (count, 2))
    latitude, longitude = (np.array([90, -180]) + np.array([-1, 1]) * (cell + inside) / CELLS_PER_DEGREE).T
    to_utm = Transformer.from_crs(4326, area.epsg, always_xy=True)
    x, y = to_utm.transform(longitude, latitude)
    pixel = np.floor(np.column_stack([NORTH - y, x]) / 10).astype(np.int64)
    offset = rng.uniform(-_WITHIN, _WITHIN, (count, 2))
    x, y = 10.0 * pixel[:, 1] + 5 + offset[:, 0], NORTH - 10.0 * pixel[:, 0] - 5 + offset[:, 1]
    longitude, latitude = to_utm.transform(x, y, direction="INVERSE")
    # A last decimal that is never zero: no coordinate may look rounded.
    longitude, latitude = (np.round(np.floor(a * 1e6) / 1e6 + 5e-7, 7) for a in (longitude, latitude))
    corner = 2 * ((pixel - PATCH // 2 - 1) // 2) - (SLOT - BLOCK)
    frame = _frame(corner)
    return Place(area, rows, longitude, latitude, cell, pixel, corner, frame, _tiles(area, frame, corner[:, 1]))


def _frame(corner: IntArray) -> Frame:
    low = (corner.min(axis=0) - _MARGIN) // 6 * 6
    high = -((-corner.max(axis=0) - 2 * SLOT - _MARGIN) // 6) * 6
    return Frame(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _tiles(area: Area, frame: Frame, west: IntArray) -> tuple[tuple[int, int], ...]:
    if area.tiles == 1:
        return ((0, frame.width),)
    edges = np.arange(0, frame.width + 1, 6)
    start = (west - frame.left)[:, None]
    free = edges[~((edges > start) & (edges < start + 2 * SLOT)).any(axis=0)]
    east, west_end = (int(free[np.abs(free - share * frame.width).argmin()]) for share in (0.35, 0.65))
    return (0, west_end), (east, frame.width)


def tiles_of(place: Place) -> list[Tile]:
    """The tiles of the area's own zone, as `Place.tiles` has their columns.

    The second one is named after the next square to the east, though it lies but some kilometres further on.
    """
    area, frame = place.area, place.frame
    return [
        Tile(_square(area, area.epsg, number), area.epsg, frame.west + 10 * low, frame.north, frame.height, high - low)
        for number, (low, high) in enumerate(place.tiles)
    ]


def neighbour_of(place: Place) -> Tile:
    """A tile of the next zone to the east that holds the whole frame, and a little more as its grid is turned."""
    from pyproj import Transformer

    area, frame = place.area, place.frame
    epsg = area.epsg + 1
    south, east = frame.north - 10 * frame.height, frame.west + 10 * frame.width
    bounds = Transformer.from_crs(area.epsg, epsg, always_xy=True).transform_bounds(
        frame.west, south, east, frame.north
    )
    low, high = np.floor(np.array(bounds) / 60) * 60, np.ceil(np.array(bounds) / 60) * 60
    height, width = (int((high[axis + 2] - low[axis]) / 10) for axis in (1, 0))
    return Tile(_square(area, epsg), epsg, float(low[0]), float(high[3]), height, width)


def _square(area: Area, epsg: int, eastwards: int = 0) -> str:
    """Name after the Military Grid Reference System: zone, band of latitude, square of 100 km."""
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(area.longitude, area.latitude)
    zone, rows = epsg % 100, "ABCDEFGHJKLMNPQRSTUV"
    column = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3][int(x // 100_000) - 1 + eastwards]
    row = rows[(int(y // 100_000) + (5 if zone % 2 == 0 else 0)) % len(rows)]
    return f"{zone:02d}{'CDEFGHJKLMNPQRSTUVWX'[int((area.latitude + 80) // 8)]}{column}{row}"
