"""Scenes of the four seasons of locations, chosen by date and cloud, and read; cloudy patches are tried anew.

n locations of a part, S 4 seasons, M candidate scenes, C 10 bands, H W 5 x 5 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.imagery.catalogs import covers
from geotreeclip.prep.imagery.grid import Points, locate
from geotreeclip.prep.imagery.reading import gdal_environment
from geotreeclip.prep.imagery.sampling import StacSampler
from geotreeclip.prep.imagery.scenes import Scene
from geotreeclip.prep.imagery.sources import ImageryOptions, Source
from geotreeclip.prep.phenology import SEASONS, Cycles, DateRule, day_of_year, pick_dates, season_middles
from geotreeclip.schema import BANDS, MISSING_DN, PATCH

__all__ = ["Picked", "WorldTask", "pick_and_read", "work"]

_ATTEMPTS = 3
"""Scenes that are tried for a season: the cloud cover of a scene says little of one patch."""

_CLEAR = 0.5
"""Share of the pixels of a patch that must be clear."""


@dataclass(frozen=True, slots=True)
class WorldTask:
    """A part: some locations of one zone, and how to sample them."""

    longitude: tuple[float, ...]
    latitude: tuple[float, ...]
    dates: tuple[tuple[float, ...], ...]
    epsg: int
    source: Source
    years: tuple[int, int]
    rule: DateRule
    options: ImageryOptions


@dataclass(slots=True)
class Picked:
    """What was found.

    Attributes:
        images: uint16 [n, S, C, H, W], 65535 where missing.
        days: float32 [n, S, 2], day of the scene; the middle of the season where there is none.
        date: object [n, S], as 2020-05-31, "" where there is none.
        scene: object [n, S], its id.
        cloud: float32 [n, S], its cloud cover, per cent.
        reason: object [n], why a location is to be left out, "" where it is not.
    """

    images: NDArray[np.uint16]
    days: NDArray[np.float32]
    date: NDArray[np.object_]
    scene: NDArray[np.object_]
    cloud: NDArray[np.float32]
    reason: NDArray[np.object_]

    @classmethod
    def empty(cls, cycles: Cycles) -> Picked:
        """Nothing, at places of these cycles."""
        shape = (len(cycles), len(SEASONS))
        middle = np.floor(np.nan_to_num(season_middles(cycles))) + 1
        return cls(
            np.full((*shape, len(BANDS), PATCH, PATCH), MISSING_DN, np.uint16),
            np.repeat(middle[..., None], 2, axis=2).astype(np.float32),
            np.full(shape, "", object), np.full(shape, "", object), np.full(shape, np.nan, np.float32),
            np.full(shape[0], "", object),
        )  # fmt: skip

    def settle(self, least: int) -> None:
        """Say why locations with too few seasons are left out."""
        found = (self.date != "").sum(axis=1)
        few = (found < least) & (self.reason == "")
        self.reason[few] = [
            f"{count} of 4 seasons have a clear scene, at least {least} are needed" for count in found[few]
        ]


def work(task: WorldTask, folder: Path) -> dict[str, Any]:
    """Sample one part into `folder`/picked.npz."""
    points = locate(np.array(task.longitude), np.array(task.latitude), task.epsg)
    cycles = Cycles.empty(len(points))
    cycles.dates[:] = np.array(task.dates)
    left: dict[str, int] = {}
    sampler = task.source.stac_sampler(task.options, left)
    picked = pick_and_read(sampler, points, cycles, task.years, task.rule)
    if task.options.audit:
        sampler.audit().check(scenes_alone=False)
    np.savez(
        folder / "picked.npz", images=picked.images, days=picked.days, cloud=picked.cloud,
        **{name: getattr(picked, name).astype(np.str_) for name in ("date", "scene", "reason")},
    )  # fmt: skip
    return {"rows": len(points), "seasons": int((picked.date != "").sum()), "left": left}


def pick_and_read(
    sampler: StacSampler, points: Points, cycles: Cycles, years: tuple[int, int], rule: DateRule
) -> Picked:
    """Choose and read scenes of locations of one zone.

    Args:
        sampler: Source of scenes.
        points: The locations.
        cycles: Theirs.
        years: First and last year of imagery.
        rule: How dates are chosen.
    """
    scenes: list[Scene] = []
    for year in range(years[0], years[1] + 1):
        scenes += sampler.find(points.longitude, points.latitude, year)
    day = day_of_year(np.array([scene.time[:10] for scene in scenes], dtype="datetime64[D]"))
    year_of = np.array([scene.year for scene in scenes], dtype=np.int64)
    # Cloud cover by location: a scene that turned out cloudy there counts as such there alone.
    cloud = np.repeat(
        np.array([[scene.cloud] for scene in scenes], dtype=float).reshape(len(scenes), 1), len(points), 1
    )
    for number, scene in enumerate(scenes):
        cloud[number, ~covers(scene, points.longitude, points.latitude)] = np.nan
    picked = Picked.empty(cycles)
    with gdal_environment():
        for _ in range(_ATTEMPTS):
            wanted: dict[int, list[tuple[int, int]]] = {}
            for row in range(len(points)):
                for pick in pick_dates(cycles[row], day, year_of, cloud[:, row], rule).picks:
                    if pick.index is not None and not picked.date[row, pick.season]:
                        wanted.setdefault(pick.index, []).append((row, pick.season))
            for number, places in sorted(wanted.items()):
                _read(sampler, scenes[number], float(day[number]), points, places, picked, cloud[number])
    picked.settle(rule.min_seasons)
    return picked


def _read(
    sampler: StacSampler,
    scene: Scene,
    day: float,
    points: Points,
    places: list[tuple[int, int]],
    picked: Picked,
    cloud: NDArray[np.float64],
) -> None:
    """Read a scene at some locations; where it is not clear, its cloud there becomes 100 %."""
    stated = cloud.copy()
    rows, seasons = (np.array(part, dtype=np.int64) for part in zip(*places, strict=True))
    cloud[rows] = 100.0
    for look in sampler.looks([[scene]], points.take(rows)):
        clear = look.clear.mean(axis=(1, 2)) >= _CLEAR
        at, season = rows[look.rows[clear]], seasons[look.rows[clear]]
        values = look.values[clear]
        known = np.isfinite(values)
        picked.images[at, season] = np.where(known, np.rint(np.nan_to_num(values)), MISSING_DN).astype(np.uint16)
        picked.days[at, season] = np.floor(day) + 1
        picked.date[at, season], picked.scene[at, season] = scene.time[:10], scene.id
        picked.cloud[at, season] = stated[at]
        cloud[at] = stated[at]
