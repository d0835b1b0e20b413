"""The patch of a place: one UTM zone, pixels of 10 m on multiples of 10 m, the central one holding the point.

N points, K pixels along each side of a square around the central pixel (5 for the patch, more with a margin).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.schema import PATCH

__all__ = ["PIXEL", "Pixels", "Points", "locate", "pixel_centres", "project", "utm_epsg"]

PIXEL = 10.0
"""Metres along each side of a pixel."""

_NORTH, _SOUTH = 84.0, -80.0
"""Degrees of latitude beyond which UTM is not defined (and no Sentinel-2 tile lies)."""


@dataclass(frozen=True, slots=True)
class Points:
    """Places on the grid of one UTM zone.

    Attributes:
        epsg: The zone, 32601 to 32660 (north) or 32701 to 32760 (south).
        x: Easting of the centre of the central pixel, metres, float64 [N].
        y: Northing of it, float64 [N].
        longitude: Degrees, WGS 84, from -180 (included) to 180, of the point itself, [N].
        latitude: Degrees, [N].
    """

    epsg: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[Any]) -> Points:
        """Some of the places."""
        return Points(self.epsg, self.x[rows], self.y[rows], self.longitude[rows], self.latitude[rows])


def utm_epsg(longitude: NDArray[Any], latitude: NDArray[Any]) -> NDArray[np.int32]:
    """The UTM zone of places as an EPSG code, 0 where there is none, [N].

    Zones are those of the Military Grid Reference System, which the Sentinel-2 tiles follow: south-western Norway
    (56 to 64 N, 3 to 12 E) belongs to zone 32, and Svalbard (72 to 84 N) to the zones 31, 33, 35 and 37 only, which
    are wider there. Beyond 84 N and 80 S there is no UTM, hence 0; so also for coordinates that are no place on the
    Earth. 180 E is 180 W, zone 1; the equator belongs to the north.
    """
    lon, lat = np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
    possible = (lon >= -180) & (lon <= 180) & (lat >= _SOUTH) & (lat <= _NORTH)
    east = np.where(lon >= 180, lon - 360, lon)
    zone = (np.floor((np.where(possible, east, 0.0) + 180) / 6) + 1).astype(np.int32)
    zone = np.where(possible & (lat >= 56) & (lat < 64) & (east >= 3) & (east < 12), 32, zone)
    svalbard = possible & (lat >= 72)
    for low, high, wide in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
        zone = np.where(svalbard & (east >= low) & (east < high), wide, zone)
    return np.where(possible, np.where(lat < 0, 32700, 32600) + zone, 0).astype(np.int32)


def locate(longitude: NDArray[Any], latitude: NDArray[Any], epsg: int) -> Points:
    """Places on the grid of a zone. An edge between pixels belongs to the pixel east or south of it, as in rasters."""
    lon, lat = np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
    lon = np.where(lon >= 180, lon - 360, lon)
    x, y = _transformer(4326, epsg).transform(lon, lat)
    return Points(epsg, (np.floor(x / PIXEL) + 0.5) * PIXEL, (np.ceil(y / PIXEL) - 0.5) * PIXEL, lon, lat)


class Pixels:
    """Centres of the pixels of the patches, in any projection; each projection is computed once.

    Args:
        points: The places.
        margin: Pixels added on every side.
    """

    def __init__(self, points: Points, margin: int = 0) -> None:
        self.epsg = points.epsg
        self._x, self._y = pixel_centres(points, margin)
        self._known: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def at(self, crs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates in a projection, [N, K, K] each."""
        if crs not in self._known:
            self._known[crs] = project(self._x, self._y, self.epsg, crs)
        return self._known[crs]


def pixel_centres(points: Points, margin: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eastings and northings of the pixels of the patches, rows from north to south, [N, K, K] each.

    Args:
        points: The places.
        margin: Pixels added on every side: K is 5 + 2 x margin.
    """
    reach = (PATCH // 2 + margin) * PIXEL
    steps = np.arange(-reach, reach + 1, PIXEL)
    shape = (len(points), len(steps), len(steps))
    x = np.broadcast_to(points.x[:, None, None] + steps[None, None, :], shape)
    y = np.broadcast_to(points.y[:, None, None] - steps[None, :, None], shape)
    return x, y


def project(
    x: NDArray[np.float64], y: NDArray[np.float64], source: int, target: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of a UTM zone in another projection; infinite where they have none there.

    The two halves of one zone differ by a false northing of 10,000 km, so that their grids coincide and nothing is
    computed but a sum.

    Args:
        x: Eastings, any shape.
        y: Northings.
        source: EPSG code of the zone.
        target: Projection of the raster, as ``EPSG:32633`` or well-known text.
    """
    if target == f"EPSG:{source}":
        return x, y
    if target in (f"EPSG:{source + 100}", f"EPSG:{source - 100}") and 32600 < source < 32800:
        return x, y + (1e7 if target == f"EPSG:{source + 100}" else -1e7)
    east, north = _transformer(source, target).transform(x, y)
    return np.asarray(east, np.float64), np.asarray(north, np.float64)


@lru_cache(maxsize=256)
def _transformer(source: int | str, target: int | str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)
