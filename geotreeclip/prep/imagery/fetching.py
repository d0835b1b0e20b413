"""Composites of a few places at once, without a job: for those who classify places that they have no imagery of.

The same scenes, masks, offsets and medians as the job (`geotreeclip.prep.imagery.job`). N places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import warn
from geotreeclip.prep.imagery import catalogs
from geotreeclip.prep.imagery.composite import Composites
from geotreeclip.prep.imagery.grid import locate, utm_epsg
from geotreeclip.prep.imagery.job import sample_years
from geotreeclip.prep.imagery.offsets import OffsetRules
from geotreeclip.prep.imagery.problems import SceneLost
from geotreeclip.prep.imagery.sampling import StacSampler
from geotreeclip.prep.imagery.scenes import Scene
from geotreeclip.prep.imagery.signing import signer, signer_of
from geotreeclip.prep.imagery.sources import FIRST_YEAR
from geotreeclip.schema import BANDS

__all__ = ["REACH", "Catalog", "fetch", "open_catalog", "open_items"]

REACH = 5
"""Years that the nearest one may be away, as in `data_prep/sentinel2.py`."""

_COLLECTION = "sentinel-2-l2a"


@dataclass(frozen=True)
class Catalog:
    """Where scenes are found.

    Attributes:
        name: For messages.
        find: Longitude, latitude and year -> scenes that may cover one of the places.
        sign: Name of the signer of its links.
        years: Years that its scenes are of; empty for an API, which does not tell.
    """

    name: str
    find: Callable[[NDArray[Any], NDArray[Any], int], list[Scene]]
    sign: str = "none"
    years: tuple[int, ...] = ()


@lru_cache(maxsize=4)
def open_catalog(location: str) -> Catalog:
    """A STAC API, or a static catalog, which is read whole the first time.

    Raises:
        DataError: It cannot be read, or holds no scene that can be.
    """
    rules = OffsetRules.parse("auto", ())
    sign = signer_of(catalogs.host_of(location))
    try:
        landing = catalogs.read_json(catalogs.absolute(location))
    except SceneLost as reason:
        raise DataError(f"{reason}; source is to be stac: and a STAC catalog or API") from None
    if catalogs.is_api(landing):

        def ask(longitude: NDArray[Any], latitude: NDArray[Any], year: int) -> list[Scene]:
            found = catalogs.ask_api(location, _COLLECTION, rules, BANDS, longitude, latitude, year)
            return catalogs.usable(found, BANDS, allow_missing=True, max_cloud=100)[0]

        return Catalog(location, ask, sign)
    return _indexed(location, catalogs.walk(location, rules, BANDS), sign)


def open_items(items: Iterable[Mapping[str, Any]]) -> Catalog:
    """Scenes of STAC items whose links are absolute.

    Raises:
        DataError: None of them can be read; the message says why.
    """
    found, rules = catalogs.Findings(), OffsetRules.parse("auto", ())
    for item in items:
        found.add(item, rules, BANDS)
    return _indexed(f"{found.items} items", found, "none")


def _indexed(name: str, found: catalogs.Findings, sign: str) -> Catalog:
    scenes, _ = catalogs.usable(found, BANDS, allow_missing=True, max_cloud=100, catalog=name)
    index = catalogs.SceneIndex.of(scenes)
    return Catalog(name, index.search, sign, tuple(sorted({scene.year for scene in scenes})))


def fetch(
    catalog: Catalog,
    longitude: NDArray[np.float64],
    latitude: NDArray[np.float64],
    year: NDArray[np.int64],
    *,
    reach: int = 0,
) -> NDArray[np.uint16]:
    """Monthly composites of places, each of its year.

    Args:
        catalog: The scenes.
        longitude: Degrees, [N].
        latitude: Degrees, [N].
        year: [N].
        reach: Years before and after it that may stand in where a place was never seen clear in it.

    Returns:
        uint16 [N, 12, 10, 5, 5], 65535 where missing.

    Raises:
        InputError: If no place has a clear pixel in its year, or within reach of it.
        DataError: If a server does not answer.
        ConfigError: If the values contradict the offsets that the metadata state.
    """
    result = Composites.empty(len(longitude))
    zone = utm_epsg(longitude, latitude)
    sign = signer(catalog.sign)
    span = (catalog.years[0], catalog.years[-1]) if catalog.years else (FIRST_YEAR, datetime.now(UTC).year)
    used = year.copy()
    for epsg in np.unique(zone[zone > 0]).tolist():
        rows = np.flatnonzero(zone == epsg)
        sampler = StacSampler(catalog.find, sign)
        points = locate(longitude[rows], latitude[rows], epsg)
        policy = "nearest" if reach else "own"
        composites, used[rows] = sample_years(sampler, points, year[rows], policy, reach, span)
        result.put(rows, composites)
        sampler.audit()
    found = result.found()
    _tell_years(catalog.name, year, used, found)
    if found.any() and not found.all():
        row = int(found.argmin())
        warn(
            f"{catalog.name}: no clear pixel of {int((~found).sum())} of {len(found)} places, the first of them place "
            f"{row} in {year[row]}; they have no imagery"
        )
    if not found.any():
        has = f"; it has {catalog.years[0]} to {catalog.years[-1]}" if catalog.years else ""
        asked = ", ".join(map(str, np.unique(year))) + (f" or {reach} years around" if reach else "")
        raise InputError(f"{catalog.name}: no clear pixel of the {len(longitude)} places in {asked}{has}")
    return result.images


def _tell_years(name: str, year: NDArray[np.int64], used: NDArray[np.int64], found: NDArray[np.bool_]) -> None:
    """Warn of places that are shown by another year than the one asked for."""
    other = np.flatnonzero(found & (used != year))
    if len(other):
        row = int(other[0])
        warn(
            f"{name}: {len(other)} of {len(year)} places were not seen clear in the year asked for; the nearest year "
            f"stands in, for place {row} {used[row]} instead of {year[row]}"
        )
