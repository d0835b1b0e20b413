"""Equal-area cells of about 100 km: how coarsely a model remembers where its training places were.

The Earth is cut into 200 bands of 0.9 degrees of latitude (100.1 km on a sphere of 6,371 km), each band into the whole
number of cells that makes them as wide as they are high: 400 at the equator, 1 or a few at the poles. N places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CELL_DEGREES", "cell_centres", "cells_of"]

CELL_DEGREES = 0.9

_BANDS = round(180 / CELL_DEGREES)
_MIDDLE = -90 + CELL_DEGREES * (np.arange(_BANDS) + 0.5)
_COLUMNS = np.maximum(1, np.round(360 / CELL_DEGREES * np.cos(np.radians(_MIDDLE)))).astype(np.int64)
_FIRST = np.concatenate([[0], np.cumsum(_COLUMNS)])


def cells_of(longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Number of the cell of each place, int32 [N]; -1 where a coordinate is missing.

    Args:
        longitude: [N] degrees east, WGS 84.
        latitude: [N] degrees north.
    """
    east, north = np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
    known = np.isfinite(east) & np.isfinite(north)
    band = np.clip(np.where(known, (north + 90) / CELL_DEGREES, 0), 0, _BANDS - 1).astype(np.int64)
    share = np.where(known, (east + 180) / 360 % 1.0, 0)
    column = np.minimum((share * _COLUMNS[band]).astype(np.int64), _COLUMNS[band] - 1)
    return np.where(known, _FIRST[band] + column, -1).astype(np.int32)


def cell_centres(cells: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitude and latitude of the centres of cells, float64 [N] each."""
    number = np.asarray(cells, np.int64)
    band = np.searchsorted(_FIRST, number, side="right") - 1
    longitude = -180 + 360 * (number - _FIRST[band] + 0.5) / _COLUMNS[band]
    return longitude, np.asarray(_MIDDLE[band], np.float64)
