"""Cycles for places without one of their own: from neighbours, then from the calendar; the source says which."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.evaluation.splits import check_coordinates
from geotreeclip.prep.phenology.circular import YEAR, circular_mean
from geotreeclip.prep.phenology.cycles import Cycles, PhenologyConfig, Reason, Source, ordered
from geotreeclip.sphere import chord_to_km, km_to_chord, search_tree, unit_vectors

__all__ = ["calendar_dates", "fill_missing"]

TROPICS = 10.0
"""Within so many degrees of the equator, calendar seasons mean nothing."""

_CALENDAR = (59.0, 151.0, 197.0, 243.0, 334.0)
"""1 March, 1 June, 17 July (middle of summer), 1 September and 1 December: northern bounds of the seasons, days."""

LEAST_KM = 1.0
"""Neighbours closer than this weigh as if they were this far, so that one does not outweigh all."""


def calendar_dates(latitude: ArrayLike) -> NDArray[np.float64]:
    """Dates by the calendar, [N, 5]: bounds 1 March, June, September, December; half a year on in the south."""
    shift = np.where(np.asarray(latitude, dtype=np.float64) < 0, YEAR / 2, 0.0)
    return np.asarray((np.array(_CALENDAR) + shift[:, None]) % YEAR)


def fill_missing(
    cycles: Cycles, longitude: ArrayLike, latitude: ArrayLike, config: PhenologyConfig | None = None
) -> Cycles:
    """Give every place a cycle: its own, else from neighbours, else by the calendar.

    Neighbours are the nearest `neighbors` places with a cycle of their own within `max_neighbor_km` (great circle).
    Each date is their circular mean with weights 1 / max(distance, 1 km); the order from greenup on must hold.
    Otherwise the calendar gives the seasons; within 10 degrees of the equator they are marked ``ASEASONAL``. `reason`
    keeps why the place has no cycle of its own.

    Args:
        cycles: Of N places.
        longitude: Degrees, [N].
        latitude: Degrees, [N].
        config: Options.

    Returns:
        A new table in which every place has dates.
    """
    config = config or PhenologyConfig()
    lon, lat = check_coordinates(longitude, latitude)
    result = cycles.copy()
    own = cycles.known & np.isin(cycles.source, (Source.OBSERVED, Source.PRODUCT))
    lack = np.flatnonzero(~own)
    if own.any() and len(lack):
        dates, distance, strength = _from_neighbors(cycles, own, lack, lon, lat, config)
        good = ordered(dates)
        at = lack[good]
        result.dates[at], result.distance_km[at] = dates[good], distance[good]
        result.amplitude[at], result.quality[at] = strength[good].T
        result.source[at] = Source.NEIGHBOR
        lack = lack[~good]
    result.dates[lack] = calendar_dates(lat[lack])
    result.source[lack] = np.where(np.abs(lat[lack]) < TROPICS, Source.ASEASONAL, Source.CALENDAR)
    result.reason[lack] = np.where(result.reason[lack] == Reason.NONE, Reason.NO_PRODUCT, result.reason[lack])
    result.second[~own] = np.nan
    return result


def _from_neighbors(
    cycles: Cycles,
    own: NDArray[np.bool_],
    lack: NDArray[np.int64],
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    config: PhenologyConfig,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Dates [n, 5] (NaN where none), distance of the nearest [n], and mean amplitude and quality [n, 2]."""
    sources = np.flatnonzero(own)
    most = min(config.neighbors, len(sources))
    tree = search_tree(unit_vectors(lon[sources], lat[sources]))
    reach = km_to_chord(config.max_neighbor_km)
    chord, found = tree.query(unit_vectors(lon[lack], lat[lack]), k=np.arange(1, most + 1))
    weight = np.where(chord <= reach, 1 / np.maximum(chord_to_km(chord), LEAST_KM), 0.0)
    nearest = np.where(weight[:, 0] > 0, chord_to_km(chord[:, 0]), np.nan)
    near = sources[found]
    days = np.where((weight > 0)[:, None, :], np.moveaxis(cycles.dates[near], 1, 2), np.nan)
    dates, _ = circular_mean(days, np.broadcast_to(weight[:, None, :], days.shape))
    total = np.maximum(weight.sum(1), np.finfo(float).tiny)
    shares = [np.where(weight > 0, weight * each[near], 0.0) for each in (cycles.amplitude, cycles.quality)]
    strength = np.stack([share.sum(1) / total for share in shares], axis=1)
    return dates, nearest, strength
