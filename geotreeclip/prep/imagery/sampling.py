"""A year of composites of points from STAC scenes: each scene opened once for all its points.

Resampling: SCL and the bands of 10 m take the cell that holds the centre of a pixel of the patch, the bands of 20 m are
bilinear. Where the grids coincide (the scene is of the zone of the point) the bands of 10 m are thus as they are. Of
a scene of a neighbouring zone, or of another projection, they are still values that were measured, at most 7 m away,
within the geolocation error of Sentinel-2; a mean would mix the tree with its surroundings.

N points of one UTM zone, R tiles (scenes) of one acquisition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.imagery.catalogs import covers
from geotreeclip.prep.imagery.composite import Composites, Look
from geotreeclip.prep.imagery.grid import Pixels, Points
from geotreeclip.prep.imagery.masking import MARGIN, Sight, sight
from geotreeclip.prep.imagery.offsets import Audit, Tally, group_of
from geotreeclip.prep.imagery.problems import SceneLost
from geotreeclip.prep.imagery.reading import Clock, Raster, gdal_environment, read_asset
from geotreeclip.prep.imagery.scenes import CLASSES, FINE, Scene
from geotreeclip.prep.imagery.signing import Signer
from geotreeclip.schema import BANDS, PATCH

__all__ = ["SceneSampler", "SceneUse", "StacSampler", "TileView", "merge_tiles"]


@dataclass(slots=True)
class SceneUse:
    """What a scene gave.

    Attributes:
        id: Of its item.
        time: When it was sensed.
        tile: Of the military grid.
        baseline: As 05.09.
        offset: Added to its digital numbers.
        rule: Where the offset comes from.
        points: Points with clear pixels of it.
        pixels: Clear pixels taken.
        clipped: Values raised to 1.
        problem: Why it was left out, or empty.
    """

    id: str
    time: str
    tile: str
    baseline: str
    offset: float
    rule: str
    points: int = 0
    pixels: int = 0
    clipped: int = 0
    problem: str = ""


class TileView(NamedTuple):
    """What one tile of an acquisition shows of some of the points.

    Attributes:
        rows: Which points, int64 [M].
        sight: Masks of their patches, [M, 5, 5] each.
        beyond: Pixels of the patch and its margin that lie beyond the raster, int64 [M].
    """

    rows: NDArray[np.int64]
    sight: Sight
    beyond: NDArray[np.int64]


def merge_tiles(views: Sequence[TileView]) -> list[NDArray[np.bool_]]:
    """Which tile each pixel is taken from, so that an acquisition seen in several tiles counts once.

    A pixel is taken from the first tile that saw it at all, clear or not: the same light cannot be clouded in one tile
    and clear in the next. First comes the tile that holds most of the patch and its margin (at the edge of a tile,
    clouds beyond it are not known), then the order given.

    Returns:
        For each view the pixels that are taken from it, bool [M, 5, 5].
    """
    taken = [np.zeros_like(view.sight.seen) for view in views]
    if len(views) == 1:
        return [views[0].sight.seen]
    count = 1 + max((int(view.rows.max()) for view in views if len(view.rows)), default=-1)
    never = np.iinfo(np.int64).max
    beyond = np.full((len(views), count), never)
    place = np.zeros((len(views), count), np.int64)
    for number, view in enumerate(views):
        beyond[number, view.rows] = view.beyond
        place[number, view.rows] = np.arange(len(view.rows))
    order = np.argsort(beyond, axis=0, kind="stable")
    done = np.zeros((count, PATCH, PATCH), bool)
    for rank in order:
        for number, view in enumerate(views):
            points = np.flatnonzero((rank == number) & (beyond[number] != never))
            at = place[number, points]
            fresh = view.sight.seen[at] & ~done[points]
            taken[number][at] = fresh
            done[points] |= fresh
    return taken


class SceneSampler(ABC):
    """What all sources share: tiles to looks, looks to months, and the account of every scene.

    A source says how the scene classification and the bands of a scene are had.

    Args:
        bands: Bands that are read; the others stay missing.
    """

    def __init__(self, bands: Sequence[str] = BANDS) -> None:
        self._bands = tuple(bands)
        self.clock = Clock()
        self.uses: dict[str, SceneUse] = {}
        self._tallies: dict[str, tuple[Scene, Tally]] = {}

    @abstractmethod
    def _classes_of(self, scene: Scene, points: Points) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Classes of the pixels of patch and margin, and which the scene holds, [N, K, K] each."""

    @abstractmethod
    def _bands_of(self, scene: Scene, points: Points) -> NDArray[np.float32]:
        """Digital numbers of the bands, 0 for no data, [N, C, 5, 5]."""

    def _months(self, scenes: Sequence[Scene], points: Points) -> Composites:
        """Composites of scenes of one year, the newest baselines of their acquisitions."""
        result = Composites.empty(len(points))
        for month, group in groupby(sorted(scenes, key=_order), key=lambda scene: scene.month):
            takes = [list(tiles) for _, tiles in groupby(group, key=lambda scene: scene.datatake)]
            result.add_month(month, self.looks(takes, points))
        return result

    def audit(self) -> Audit:
        """Dark pixels by rule of the offset, after each scene was checked alone.

        Raises:
            OffsetContradiction: The values of a scene, or of a group, say otherwise than its metadata.
        """
        Audit({name: tally for name, (_, tally) in sorted(self._tallies.items())}).check(scenes_alone=True)
        groups = Audit()
        for scene, tally in sorted(self._tallies.values(), key=lambda pair: pair[0].id):
            groups.merge(Audit({group_of(scene.rule, scene.baseline, scene.offset)[0]: tally}).document())
        return groups

    def scene_table(self) -> list[dict[str, Any]]:
        """What each scene gave, by id."""
        return [asdict(self.uses[name]) for name in sorted(self.uses)]

    def looks(self, takes: Sequence[list[Scene]], points: Points) -> Iterator[Look]:
        """What each acquisition shows of the points.

        Args:
            takes: The tiles of each acquisition, newest baselines only.
            points: Points of one zone.
        """
        for tiles in takes:
            # Tiles of the zone of the points need no resampling: they come first.
            ordered = sorted(
                tiles,
                key=lambda scene: (scene.epsg % 100 != points.epsg % 100, (-scene.baseline[0], -scene.baseline[1])),
            )
            views: list[tuple[Scene, TileView]] = []
            for scene in ordered:
                self.uses.setdefault(scene.id, _use(scene))
                try:
                    if (view := self._view(scene, points)) is not None:
                        views.append((scene, view))
                except SceneLost as lost:
                    self.uses[scene.id].problem = str(lost)
            while views:
                try:
                    yield self._look(views, points)
                    break
                except _LostWith as lost:  # its pixels may be had from another tile
                    self.uses[lost.scene.id].problem = str(lost)
                    views = [pair for pair in views if pair[0] is not lost.scene]

    def _view(self, scene: Scene, points: Points) -> TileView | None:
        rows = np.flatnonzero(covers(scene, points.longitude, points.latitude))
        if not len(rows):
            return None
        classes, inside = self._classes_of(scene, points.take(rows))
        near = inside.any(axis=(1, 2))
        return TileView(rows[near], sight(classes[near].astype(np.uint8)), (~inside[near]).sum(axis=(1, 2)))

    def _look(self, views: list[tuple[Scene, TileView]], points: Points) -> Look:
        rows = np.unique(np.concatenate([view.rows for _, view in views]))
        values = np.full((len(rows), len(BANDS), PATCH, PATCH), np.nan, np.float32)
        clear, snow = np.zeros((2, len(rows), PATCH, PATCH), bool)
        clipped = np.zeros(len(rows), np.int64)
        read = []
        for (scene, view), taken in zip(views, merge_tiles([view for _, view in views]), strict=True):
            at = np.searchsorted(rows, view.rows)
            snow[at] |= view.sight.snow & taken
            chosen = view.sight.clear & taken
            clear[at] |= chosen
            some = chosen.any(axis=(1, 2))
            if some.any():
                try:
                    raw = self._bands_of(scene, points.take(view.rows[some]))
                except SceneLost as lost:
                    raise _LostWith(scene, str(lost)) from lost
                read.append((scene, at[some], raw, chosen[some]))
        for scene, at, raw, chosen in read:  # only once nothing can be lost any more
            known = chosen[:, None] & (raw != 0)
            shifted = raw + np.float32(scene.offset)
            low = known & (shifted < 1)
            values[at] = np.where(known, np.maximum(shifted, 1), values[at])
            clipped[at] += low.sum(axis=(1, 2, 3))
            use = self.uses[scene.id]
            use.points += len(at)
            use.pixels += int(chosen.sum())
            use.clipped += int(low.sum())
            late = group_of(scene.rule, scene.baseline, scene.offset)[1]
            _, tally = self._tallies.setdefault(
                scene.id, (scene, Tally(scene.offset, late, names=[scene.id], rule=scene.rule))
            )
            for number, band in enumerate(BANDS):
                tally.add(band, shifted[:, number][known[:, number]])
        return Look(rows, values, clear, snow, clipped)


class StacSampler(SceneSampler):
    """Reads scenes from their files, each opened once for all the points.

    Args:
        find: Scenes of a year that may cover one of the points given by longitude and latitude, newest baselines only.
        sign: Signs links.
        bands: Bands that are read; the others stay missing.
    """

    def __init__(
        self,
        find: Callable[[NDArray[Any], NDArray[Any], int], list[Scene]],
        sign: Signer,
        bands: Sequence[str] = BANDS,
    ) -> None:
        super().__init__(bands)
        self.find, self._sign = find, sign

    def composites(self, points: Points, year: int) -> Composites:
        """The twelve months of a year.

        Raises:
            Unreachable: A server does not answer; nothing is given rather than months without its scenes.
        """
        scenes = self.find(points.longitude, points.latitude, year)
        with gdal_environment():
            return self._months(scenes, points)

    def _classes_of(self, scene: Scene, points: Points) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        pixels = Pixels(points, MARGIN)
        return read_asset(
            scene.assets[CLASSES], self._sign, self.clock, lambda raster: raster.nearest(*raster.cells(pixels))
        )

    def _bands_of(self, scene: Scene, points: Points) -> NDArray[np.float32]:
        pixels = Pixels(points)

        def nearest(raster: Raster) -> NDArray[np.float32]:
            return raster.nearest(*raster.cells(pixels))[0]

        def smooth(raster: Raster) -> NDArray[np.float32]:
            return raster.smooth(*raster.cells(pixels))

        raw = np.zeros((len(points), len(BANDS), PATCH, PATCH), np.float32)
        for band in self._bands:
            if band in scene.assets:
                how = nearest if band in FINE else smooth
                raw[:, BANDS.index(band)] = read_asset(scene.assets[band], self._sign, self.clock, how)
        return raw


class _LostWith(Exception):
    """A scene whose bands cannot be read."""

    def __init__(self, scene: Scene, reason: str) -> None:
        super().__init__(reason)
        self.scene = scene


def _order(scene: Scene) -> tuple[Any, ...]:
    """By month and acquisition; copies of one tile and baseline keep their order, newest first."""
    return (scene.month, scene.datatake, scene.tile)


def _use(scene: Scene) -> SceneUse:
    first, second = scene.baseline
    return SceneUse(scene.id, scene.time, scene.tile, f"{first:02d}.{second:02d}", scene.offset, scene.rule)
