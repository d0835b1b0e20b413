"""What stands at the samples, and the looks that satellites get of it: clear, partly hidden, clouded, snowy, or none.

Letters: n samples of an area, S datatakes, 12 months. `near` are the four bands of 10 m at the 5 x 5 pixels of the
patch, `coarse` the six bands of 20 m at the 4 x 4 cells about it, `scl` the classes of the 12 x 12 cells of the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.raw.layout import BLOCK, SLOT, Area, Place
from geotreeclip.demo.world import Records, World, draw_images, draw_visible
from geotreeclip.schema import MONTHS, PATCH

__all__ = ["COARSE", "NEAR", "Datatake", "Looks", "Planted", "Version", "draw_looks", "plant", "schedule"]

IntArray = NDArray[np.int64]

NEAR, COARSE = slice(0, 4), slice(4, 10)
"""Bands of 10 m and of 20 m in the order of the schema."""

_BASELINES = (  # first day of each processing baseline, and its name
    (date(2015, 1, 1), "02.14"), (date(2021, 3, 30), "03.00"), (date(2021, 6, 30), "03.01"),
    (date(2022, 1, 25), "04.00"), (date(2022, 12, 6), "05.09"),
)  # fmt: skip
_OFFSET_SINCE = "04.00"  # from here on Sentinel-2 products store reflectance x 10,000 + 1,000
_LOOKS = (0.60, 0.25, 0.15)  # share of months with one, two, three datatakes
_REPROCESSED = 0.1
_ONE_TILE = 0.15  # share of datatakes that only one of two tiles is there of
_EDGE = 0.15  # share of datatakes whose swath ends within the area
_CLASSES = (4, 4, 4, 5, 7, 2)  # vegetation, bare, unclassified, dark: all of them clear
_DARK = 0.1  # share of the patches seen once, with the offset still in, that get a pixel below zero reflectance


@dataclass(frozen=True)
class Version:
    """A datatake as processed once.

    Attributes:
        baseline: Processing baseline.
        offset: What the stored numbers have to give up to be reflectance x 10,000.
        applied: Whether the provider says that it has taken the offset out.
        spoilt: Whether the values are wrong: an older processing that must not be used.
    """

    baseline: str
    offset: int
    applied: bool
    spoilt: bool = False


@dataclass(frozen=True)
class Datatake:
    """One pass of a satellite.

    Attributes:
        time: When, UTC.
        orbit: Relative orbit.
        platform: `a` or `b`.
        versions: Its processings, oldest first; the last one counts.
        tiles: Which of the tiles it exists of.
        edge: Share of the frame's width beyond which there is no data; 1 for none.
    """

    time: datetime
    orbit: int
    platform: str
    versions: tuple[Version, ...]
    tiles: tuple[int, ...]
    edge: float

    @property
    def month(self) -> int:
        """0 for January."""
        return self.time.month - 1


@dataclass(frozen=True)
class Planted:
    """What stands at the samples of an area.

    Attributes:
        near: [n, 12, 4, 5, 5] digital numbers.
        coarse: [n, 12, 6, 4, 4] digital numbers, multiples of 16.
        visible: [n, 12, 5, 5] pixels that the world shows.
    """

    near: IntArray
    coarse: IntArray
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Looks:
    """What each datatake sees.

    Attributes:
        covered: [S, n] whether any of its tiles holds the sample.
        scl: uint8 [S, n, 12, 12] classes of the slot.
        near: [S, n, 4, 5, 5] digital numbers of the look, clouds and all left aside.
        coarse: [S, n, 6, 4, 4].
    """

    covered: NDArray[np.bool_]
    scl: NDArray[np.uint8]
    near: IntArray
    coarse: IntArray


def plant(world: World, records: Records, shift: IntArray, rng: np.random.Generator) -> Planted:
    """Draw what stands at samples; a cell of 20 m is the mean of its pixels, rounded to a multiple of 16.

    Args:
        world: The world.
        records: Hidden state of the n samples.
        shift: [n, 2] see `Place.shift`.
        rng: Random numbers.
    """
    count = len(records.site)
    visible = draw_visible(world, count, rng).reshape(count, MONTHS, PATCH, PATCH)
    cloudless = replace(world, config=replace(world.config, cloud=0.0))
    values = draw_images(cloudless, records, rng).astype(np.int64)
    down, right = (_CELL_OF_PIXELS[shift[:, axis]] for axis in (0, 1))  # [n, 4, 5]
    cells = np.einsum("nri,ntcij,nsj->ntcrs", down, values[:, :, COARSE], right, optimize=True)
    coarse = np.maximum(16 * np.rint(cells / 16), 16).astype(np.int64)
    return Planted(values[:, :, NEAR], coarse, visible)


def _cell_of_pixels() -> NDArray[np.float64]:
    """[3, 4, 5]: weights of the pixels of a patch in the means of the cells, for a shift of (0), 1 and 2 pixels.

    A cell beyond the patch takes the nearest pixel.
    """
    weights = np.zeros((3, BLOCK, PATCH))
    for shift in (1, 2):
        for cell in range(BLOCK):
            inside = np.flatnonzero((shift + np.arange(PATCH)) // 2 == cell)
            pixels = inside if len(inside) else np.array([0 if cell == 0 else PATCH - 1])
            weights[shift, cell, pixels] = 1 / len(pixels)
    return weights


_CELL_OF_PIXELS = _cell_of_pixels()


def schedule(area: Area, rng: np.random.Generator) -> list[Datatake]:
    """The datatakes of an area in its year, in order of time; one month has none."""
    found: list[Datatake] = []
    empty = int(rng.integers(MONTHS))
    hour = timedelta(hours=(10.5 - area.longitude / 15) % 24)  # descending node at about 10:30 mean solar time
    for month in range(MONTHS):
        if month == empty:
            continue
        first = date(area.year, month + 1, 1)
        length = ((first + timedelta(days=31)).replace(day=1) - first).days
        days = np.sort(rng.choice(length, size=int(rng.choice([1, 2, 3], p=_LOOKS)), replace=False))
        if rng.random() < 0.3:  # the first and the last day belong to the month too
            days[0], days[-1] = 0, (length - 1 if len(days) > 1 else 0)
        for day in days:
            midnight = datetime(area.year, month + 1, int(day) + 1, tzinfo=UTC)
            tiles = tuple(range(area.tiles))
            if len(tiles) > 1 and rng.random() < _ONE_TILE:
                tiles = (int(rng.integers(area.tiles)),)
            found.append(Datatake(
                time=midnight + hour + timedelta(seconds=int(rng.integers(0, 600))),
                orbit=int(rng.integers(1, 144)), platform="ab"[int(rng.integers(2))],
                versions=_versions(midnight.date(), not found or rng.random() < _REPROCESSED, rng), tiles=tiles,
                edge=float(rng.uniform(0.3, 0.8)) if rng.random() < _EDGE else 1.0,
            ))  # fmt: skip
    return found


def _versions(day: date, reprocessed: bool, rng: np.random.Generator) -> tuple[Version, ...]:
    """The processings of a day's datatake. Providers differ in whether they take the offset out."""
    first = [name for since, name in _BASELINES if since <= day][-1]
    names = [first, "05.00" if first < _OFFSET_SINCE else "05.10"] if reprocessed else [first]
    found = []
    for name in names:
        has_offset = name >= _OFFSET_SINCE
        applied = bool(has_offset and rng.random() < 0.4)
        found.append(Version(name, 1000 if has_offset and not applied else 0, applied, spoilt=name != names[-1]))
    return tuple(found)


def draw_looks(place: Place, planted: Planted, datatakes: list[Datatake], rng: np.random.Generator) -> Looks:
    """Draw what each datatake sees of the samples, so that the median of each month is the planted value."""
    count = len(place)
    size = (len(datatakes), count)
    covered, inside = _coverage(place, datatakes)
    looks = Looks(
        covered,
        np.repeat(rng.choice(_CLASSES, size=size).astype(np.uint8), SLOT * SLOT).reshape(*size, SLOT, SLOT),
        np.empty((*size, *planted.near.shape[2:]), np.int64),
        np.empty((*size, *planted.coarse.shape[2:]), np.int64),
    )
    for month in range(MONTHS):
        these = np.array([s for s, datatake in enumerate(datatakes) if datatake.month == month], dtype=np.int64)
        if len(these):
            _draw_month(place, planted, month, these, inside[these], datatakes, looks, rng)
    looks.scl[~inside] = 0
    return looks


def _coverage(place: Place, datatakes: list[Datatake]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[S, n] whether a tile of the datatake holds the slot, and whether the swath does so too."""
    west = place.corner[:, 1] - place.frame.left
    held = np.stack([(west >= low) & (west + 2 * SLOT <= high) for low, high in place.tiles])
    covered = np.stack([held[list(datatake.tiles)].any(axis=0) for datatake in datatakes])
    edge = np.array([datatake.edge for datatake in datatakes])[:, None] * place.frame.width
    return covered, covered & (west + SLOT < edge)


def _draw_month(
    place: Place, planted: Planted, month: int, these: IntArray, inside: NDArray[np.bool_],
    datatakes: list[Datatake], looks: Looks, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Looks of the datatakes of one month; `inside` [D, n] says which samples they can see."""
    visible = planted.visible[:, month]
    shown = visible.any(axis=(1, 2))
    partly = shown & ~visible.all(axis=(1, 2))
    possible = inside.sum(axis=0)
    clear = np.where(rng.random(len(place)) < 0.5, possible, rng.integers(1, np.maximum(possible, 1) + 1))
    clear = np.where(shown, np.minimum(clear, possible), 0)
    rank = (rng.random(inside.shape) + 10.0 * ~inside).argsort(axis=0).argsort(axis=0)  # [D, n]
    steps = [_steps(values[:, month], unit, rng) for values, unit in ((planted.near, 2), (planted.coarse, 32))]
    below, above = rank == 0, rank == clear - 1  # of two and three looks, the lowest and the highest
    winter = abs(place.area.latitude) > 35 and (month in (11, 0, 1) if place.area.latitude > 0 else month in (6, 7))
    for look, s in enumerate(these):
        low, high = ((which[look] & (clear > 1))[:, None, None, None] for which in (below, above))
        for values, (down, up), target in zip(
            (planted.near, planted.coarse), steps, (looks.near, looks.coarse), strict=True
        ):
            up = np.where(clear[:, None, None, None] == 2, down, up)
            target[s] = values[:, month] - np.where(low, down, 0) + np.where(high, up, 0)
        seen = rank[look] < clear
        for i in np.flatnonzero(inside[look] & ~seen):
            looks.scl[s, i] = _hidden(looks.scl[s, i], winter, rng)
        for i in np.flatnonzero(seen & partly & (rng.random(len(place)) < 0.8)):
            looks.scl[s, i] = _partly_hidden(looks.scl[s, i], visible[i], place.shift[i], rng)
        if datatakes[s].versions[-1].offset:
            for i in np.flatnonzero(seen & ~partly & (clear == 1) & (rng.random(len(place)) < _DARK)):
                row, column = rng.integers(PATCH, size=2)
                looks.near[s, i, 0, row, column] = -rng.integers(0, 15)


def _steps(values: IntArray, unit: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """How far the lowest and the highest look lie from the planted value: 4 to 25 % of it, in whole units."""
    return tuple(unit * np.floor(values * rng.uniform(0.04, 0.25, values.shape) / unit).astype(np.int64) for _ in "ab")  # type: ignore[return-value]


def _hidden(scl: NDArray[np.uint8], winter: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A slot whose patch is hidden wholly: by cloud, by its shadow, or by snow."""
    chance = rng.random()
    if winter and chance < 0.4:
        return np.full_like(scl, 11)
    result = scl.copy()
    if chance < 0.8:
        result[2:10, 2:10], result[3:9, 3:9] = 8, 9
    else:
        result[2:10, 2:10] = 3
    return result


def _partly_hidden(
    scl: NDArray[np.uint8], visible: NDArray[np.bool_], shift: IntArray, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A slot whose patch is hidden in part: in single cells, as far as the world hides them, or behind a front."""
    result = scl.copy()
    if rng.random() < 0.5:
        row, column = ((shift[axis] + np.arange(PATCH)) // 2 for axis in (0, 1))
        shown, total = np.zeros((BLOCK, BLOCK)), np.zeros((BLOCK, BLOCK))
        np.add.at(shown, np.ix_(row, column), visible)
        np.add.at(total, np.ix_(row, column), 1)
        middle = slice((SLOT - BLOCK) // 2, (SLOT + BLOCK) // 2)
        result[middle, middle][(total > 0) & (2 * shown < total)] = rng.choice([1, 10])
        return result
    # A front that ends two cells (40 m) before the last of the 1 to 3 cells that its widening hides of the block.
    reach = (SLOT - BLOCK) // 2 + int(rng.integers(1, 4)) - 2
    result[:reach] = rng.choice([3, 8, 9])
    turned: NDArray[np.uint8] = np.rot90(result, int(rng.integers(4))).copy()
    return turned
