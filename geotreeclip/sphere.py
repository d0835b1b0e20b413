"""The Earth as a sphere: places as unit vectors, whose chords order as great-circle distances do, poles included.

N places, in degrees of WGS 84.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import ConfigError

__all__ = ["EARTH_RADIUS_KM", "chord_to_km", "km_to_chord", "search_tree", "unit_vectors"]

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth, R1 = (2 a + b) / 3 of the ellipsoid GRS 80 (Moritz 2000, "Geodetic Reference System 1980",
Journal of Geodesy 74, 128-133), kilometres."""


def unit_vectors(longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Places as points of the unit sphere, float64 [N, 3]; NaN where a coordinate is."""
    east, north = np.radians(np.asarray(longitude, np.float64)), np.radians(np.asarray(latitude, np.float64))
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


def chord_to_km(chord: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Great-circle kilometres of straight-line distances between unit vectors."""
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.asarray(chord, np.float64) / 2, 0.0, 1.0)))


def km_to_chord(km: float) -> float:
    """Straight-line distance between unit vectors that are so many kilometres apart; 2, the diameter, at most."""
    return float(2 * np.sin(min(km / EARTH_RADIUS_KM, np.pi) / 2))


def search_tree(points: npt.NDArray[np.float64]) -> Any:
    """Search tree over unit vectors [N, 3].

    Raises:
        ConfigError: If scipy is not installed.
    """
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ConfigError("distances need scipy: pip install 'geotreeclip[eval]'") from error
    return cKDTree(points)
