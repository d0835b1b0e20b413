"""Monthly composites of occurrences, part by part: what `data_prep/sentinel2.py` does.

    OUT/imagery.json            bands, parts in row order, source and options
    OUT/parts/KEY/              images.npy uint16 [N, 12, 10, 5, 5], samples.parquet, scenes.parquet
    OUT/refused.parquet         samples without a place on a grid, or a year, with the reason
    OUT/scenes.parquet          what each scene gave, its offset and the rule it comes from
    OUT/report.json
    OUT/points.arrow, scenes.jsonl, plan.json    the plan of the work; kept, so that a stopped run goes on

A part is some of the points of one square of 100 km of one UTM zone, sorted by year, so that few scenes serve it and
each is opened once for all its points. The result does not depend on how the points are cut into parts.
N points.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery import catalogs
from geotreeclip.prep.imagery.composite import Composites
from geotreeclip.prep.imagery.grid import Points, locate
from geotreeclip.prep.imagery.offsets import Audit, OffsetRules
from geotreeclip.prep.imagery.planning import POINTS, plan_points, points_of
from geotreeclip.prep.imagery.problems import SceneLost
from geotreeclip.prep.imagery.report import finish
from geotreeclip.prep.imagery.sampling import StacSampler
from geotreeclip.prep.imagery.scenes import Scene
from geotreeclip.prep.imagery.signing import signer
from geotreeclip.prep.partitions import Partition, run_partitions
from geotreeclip.schema import BANDS, MISSING_DN

if TYPE_CHECKING:
    from geotreeclip.prep.imagery.report import ImageryReport

__all__ = ["EARTH_ENGINE", "FIRST_YEAR", "ImageryOptions", "Sampler", "sample_imagery", "sample_years"]

EARTH_ENGINE = "earthengine"
"""The catalog that is no STAC catalog."""

FIRST_YEAR = 2015
"""Sentinel-2 was launched on 23 June of it."""

_LAST_YEAR = 2100


class Sampler(Protocol):
    """A source of composites."""

    def composites(self, points: Points, year: int) -> Composites:
        """A year of some points of one zone."""

    def audit(self) -> Audit:
        """Dark pixels of all that was read; raises where they contradict the offsets."""

    def scene_table(self) -> list[dict[str, Any]]:
        """What each scene gave."""


@dataclass(frozen=True, slots=True)
class ImageryOptions:
    """What the result depends on.

    Attributes:
        catalog: Path or URL of a static STAC catalog or a STAC API, or `earthengine`.
        collection: Collection of the API; for a static catalog all, where empty.
        provider: Where offsets come from, see :data:`geotreeclip.prep.imagery.offsets.PROVIDERS`.
        offsets: Offsets given by hand, `NUMBER` or `SCENE=NUMBER`.
        sign: Name of a signer, `module:function`, or `auto`.
        bands: Bands that are read, the others stay missing.
        allow_missing_bands: Whether scenes that lack some are used.
        max_cloud: Scenes cloudier than this, in percent, are left out.
        year: `own` (the year of the observation), `nearest` (to it with a clear look), or a number.
        reach: Years that `nearest` goes in either direction.
        audit: Whether dark pixels that contradict the offset stop the work.
        precision: Strata of coordinate precision that are taken, where the table has a column `precision`.
    """

    catalog: str
    collection: str = ""
    provider: str = "auto"
    offsets: tuple[str, ...] = ()
    sign: str = "auto"
    bands: tuple[str, ...] = BANDS
    allow_missing_bands: bool = False
    max_cloud: float = 100.0
    year: str = "own"
    reach: int = 5
    audit: bool = True
    precision: tuple[str, ...] = ("imagery", "unknown")

    def checked(self) -> ImageryOptions:
        """The options, with bands in schema order.

        Raises:
            ConfigError: One cannot be.
        """
        unknown = [band for band in self.bands if band not in BANDS]
        if unknown or not self.bands:
            raise ConfigError(f"--bands {' '.join(self.bands)}: known are {' '.join(BANDS)}")
        if self.year not in ("own", "nearest") and not (self.year.isdigit() and int(self.year) >= FIRST_YEAR):
            raise ConfigError(f"--year {self.year!r}: give own, nearest, or a year from {FIRST_YEAR} on")
        if self.reach < 0 or not 0 <= self.max_cloud <= 100:
            raise ConfigError(f"--reach {self.reach}, --max-cloud {self.max_cloud}: at least 0; 0 to 100 percent")
        OffsetRules.parse(self.provider, self.offsets)
        return replace(self, bands=tuple(band for band in BANDS if band in self.bands))


@dataclass(frozen=True, slots=True)
class _Task:
    """A part: rows of the points, and how to sample them. `source` is `index`, `api` or `earthengine`."""

    points: str
    start: int
    rows: int
    source: str
    index: tuple[str, str]
    span: tuple[int, int]
    options: ImageryOptions


def sample_imagery(
    occurrences: Path,
    out: Path,
    options: ImageryOptions,
    *,
    points_per_part: int = 512,
    workers: int = 1,
    scheduler: str = "",
    retries: int = 2,
    progress: bool = True,
) -> ImageryReport:
    """Write composites of all occurrences that have a place and a year.

    Args:
        occurrences: Table of `sample_id`, `longitude`, `latitude`, `year` (Parquet or CSV).
        out: Folder to write.
        options: What is read and how.
        points_per_part: Most points of a part; bounds its memory.
        workers: See :func:`geotreeclip.prep.partitions.run_partitions`, also for the two that follow.
        scheduler: Address of a Dask cluster.
        retries: Further attempts at a part that fails.
        progress: Whether to draw a bar.

    Returns:
        The report; `failed` names parts that are not there.

    Raises:
        ConfigError: An option that cannot be, or offsets that the values contradict.
        DataError: Input that cannot be read, or a folder that cannot be written.
    """
    options = options.checked()
    if points_per_part < 1:
        raise ConfigError(f"--points-per-part {points_per_part}: give at least one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from error
    need_year = not options.year.isdigit()
    plan = plan_points(occurrences, out, points_per_part, need_year=need_year, precision=options.precision)
    source, index, span, catalog, options = _prepare(out, options)
    tasks = [
        Partition(part.key, _Task(str(out / POINTS), part.start, part.rows, source, index, span, options))
        for part in plan.parts
    ]
    print(
        f"{plan.points:,} points in {len(plan.parts)} parts to {out}, year: {options.year}, bands: "
        f"{' '.join(options.bands)}\n{catalog['text']}"
    )
    run = run_partitions(
        tasks, work, out,
        plan={"options": asdict(options), "points": plan.digest, "index": catalog["digest"], "source": source},
        workers=workers, scheduler=scheduler, retries=retries, label="imagery", progress=progress,
    )  # fmt: skip
    run.raise_if_empty()
    return finish(out, run, plan, catalog, asdict(options), check=options.audit)


def work(task: _Task, folder: Path) -> dict[str, Any]:
    """Sample one part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    begin = time.perf_counter()
    table = points_of(task.points, task.start, task.rows)
    epsg = int(table["epsg"][0].as_py())
    points = locate(table["longitude"].to_numpy(), table["latitude"].to_numpy(), epsg)
    own = table["year"].to_numpy().astype(np.int64)
    left: dict[str, int] = {}
    sampler = _sampler(task, left)
    composites, used = sample_years(sampler, points, own, task.options.year, task.options.reach, task.span)
    audit = sampler.audit() if task.options.audit else Audit()
    audit.check(scenes_alone=False)
    np.save(folder / "images.npy", composites.images, allow_pickle=False)
    unused, unknown = used < 0, (used < 0) | (own < 0)
    samples = {
        "sample_id": table["sample_id"],
        "epsg": pa.array(np.full(len(points), epsg), pa.int32()),
        "x": points.x,
        "y": points.y,
        "year_used": pa.array(used, pa.int32(), mask=unused),
        "year_difference": pa.array(used - own, pa.int32(), mask=unknown),
        "scenes": pa.array(list(composites.scenes), pa.list_(pa.int16())),
        "snow": pa.array(list(composites.snow), pa.list_(pa.float32())),
        "clipped": pa.array(composites.clipped, pa.int32()),
    }
    pq.write_table(pa.table(samples), folder / "samples.parquet")
    scenes = sampler.scene_table()
    (folder / "scenes.jsonl").write_text("".join(json.dumps(scene) + "\n" for scene in scenes), encoding="utf-8")
    seconds = time.perf_counter() - begin
    clock = getattr(sampler, "clock", None)
    return {
        "rows": len(points),
        "found": int(composites.found().sum()),
        "months": (composites.scenes > 0).sum(axis=0).tolist(),
        "clipped": int(composites.clipped.sum()),
        "missing": float((composites.images == MISSING_DN).mean()),
        "differences": _counts(used[~unknown] - own[~unknown]),
        "audit": audit.document(),
        "left": left,
        "seconds": round(seconds, 3),
        "reading": round(clock.seconds, 3) if clock else None,
        "opened": clock.opened if clock else None,
    }


def sample_years(
    sampler: Sampler, points: Points, own: NDArray[Any], policy: str, reach: int, span: tuple[int, int]
) -> tuple[Composites, NDArray[np.int64]]:
    """Composites of each point in its year.

    Args:
        sampler: The source.
        points: Points of one zone.
        own: Years of the observations, [N].
        policy: `own`, `nearest`, or a year. `nearest` is the year nearest to the own one in which the place has a
            value at all; of two as near it is the earlier one, for the tree was there then.
        reach: Years that `nearest` goes.
        span: First and last year that the source may have.

    Returns:
        The composites, and the year of each, -1 where `nearest` found none, int64 [N].
    """
    result = Composites.empty(len(points))
    if policy != "nearest":
        wanted = np.asarray(own, np.int64) if policy == "own" else np.full(len(points), int(policy), np.int64)
        for year in np.unique(wanted):
            rows = np.flatnonzero(wanted == year)
            result.put(rows, sampler.composites(points.take(rows), int(year)))
        return result, wanted
    used = np.full(len(points), -1, np.int64)
    for step in (0, *(sign * distance for distance in range(1, reach + 1) for sign in (-1, 1))):
        wanted = np.asarray(own, np.int64) + step
        for year in np.unique(wanted[used < 0]):
            if span[0] <= year <= span[1]:
                rows = np.flatnonzero((used < 0) & (wanted == year))
                found = sampler.composites(points.take(rows), int(year))
                result.put(rows, found)
                used[rows[found.found()]] = year
    return result, used


def _prepare(
    out: Path, options: ImageryOptions
) -> tuple[str, tuple[str, str], tuple[int, int], dict[str, Any], ImageryOptions]:
    """Find out what the catalog is, and index it where it is static."""
    span = (FIRST_YEAR, _LAST_YEAR)
    if options.catalog == EARTH_ENGINE:
        return EARTH_ENGINE, ("", ""), span, {"text": "source: Earth Engine", "digest": "", "left": {}}, options
    rules = OffsetRules.parse(options.provider, options.offsets)
    host = catalogs.host_of(options.catalog)
    if options.sign == "auto":
        known = "planetary-computer" if host.endswith("planetarycomputer.microsoft.com") else "none"
        options = replace(options, sign=known)
    signer(options.sign)  # fails now rather than in every part
    kept = out / "scenes.jsonl"
    try:
        landing = catalogs.read_json(catalogs.absolute(options.catalog))
    except SceneLost as reason:
        raise DataError(f"{reason}; --catalog is to be a STAC catalog or API") from None
    if catalogs.is_api(landing):
        options = replace(options, collection=options.collection or "sentinel-2-l2a")
        text = f"source: STAC API {options.catalog}, collection {options.collection}"
        return "api", ("", ""), span, {"text": text, "digest": "", "left": {}}, options
    found = catalogs.walk(options.catalog, rules, options.bands, options.collection)
    scenes, left = catalogs.usable(
        found, options.bands,
        allow_missing=options.allow_missing_bands, max_cloud=options.max_cloud, whole_catalog=True,
    )  # fmt: skip
    if not scenes:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left.items()) or "it has no items"
        raise DataError(f"{options.catalog}: no scene that can be read among {found.items} items: {reasons}")
    digest = catalogs.write_index(kept, scenes)
    years = [scene.year for scene in scenes]
    return (
        "index",
        (str(kept), digest),
        (min(years), max(years)),
        _catalog(options, found, scenes, left, digest),
        options,
    )


def _catalog(
    options: ImageryOptions, found: catalogs.Findings, scenes: list[Scene], left: dict[str, int], digest: str
) -> dict[str, Any]:
    tiles = {scene.tile for scene in scenes}
    days = sorted(scene.time[:10] for scene in scenes)
    lines = [
        f"source: static catalog {options.catalog}: {len(scenes)} scenes of {len(tiles)} tiles, {days[0]} to {days[-1]}"
    ]
    if found.dead:
        lines.append(f"warning: {len(found.dead)} links lead nowhere and are skipped, first {found.dead[0]}")
    lines += [f"left out: {count} {reason}" for reason, count in left.items()]
    lacking = sorted({band for scene in scenes for band in options.bands if band not in scene.assets}, key=BANDS.index)
    absent = [band for band in BANDS if band not in options.bands]
    if absent or lacking:
        lines.append(
            "warning: "
            + "; ".join(
                [f"{' '.join(absent)} are not asked for and stay missing"] * bool(absent)
                + [f"{' '.join(lacking)} are missing in some scenes or all"] * bool(lacking)
            )
        )
    return {"text": "\n".join(lines), "digest": digest, "left": left, "dead": found.dead, "scenes": len(scenes)}


def _sampler(task: _Task, left: dict[str, int]) -> Sampler:
    options = task.options
    if task.source == EARTH_ENGINE:
        from geotreeclip.prep.imagery.earthengine import EarthEngineSampler

        return EarthEngineSampler.connected(options.bands, options.max_cloud)
    if task.source == "index":
        return StacSampler(catalogs.load_index(*task.index).search, signer(options.sign), options.bands)
    rules = OffsetRules.parse(options.provider, options.offsets)

    def ask(longitude: NDArray[Any], latitude: NDArray[Any], year: int) -> list[Scene]:
        found = catalogs.ask_api(options.catalog, options.collection, rules, options.bands, longitude, latitude, year)
        scenes, out = catalogs.usable(
            found, options.bands,
            allow_missing=options.allow_missing_bands, max_cloud=options.max_cloud, whole_catalog=False,
        )  # fmt: skip
        for reason, count in out.items():
            left[reason] = left.get(reason, 0) + count
        return scenes

    return StacSampler(ask, signer(options.sign), options.bands)


def _counts(values: NDArray[Any]) -> dict[str, int]:
    return {str(int(value)): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
