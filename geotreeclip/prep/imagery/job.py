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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery.composite import Composites
from geotreeclip.prep.imagery.grid import Points, locate
from geotreeclip.prep.imagery.offsets import Audit
from geotreeclip.prep.imagery.planning import POINTS, plan_points, points_of
from geotreeclip.prep.imagery.report import finish
from geotreeclip.prep.imagery.sources import ImageryOptions, Sampler, Source, open_source
from geotreeclip.prep.partitions import Partition, run_partitions
from geotreeclip.schema import MISSING_DN

if TYPE_CHECKING:
    from geotreeclip.prep.imagery.report import ImageryReport

__all__ = ["ImageryOptions", "sample_imagery", "sample_years"]


@dataclass(frozen=True, slots=True)
class _Task:
    """A part: rows of the points, and how to sample them."""

    points: str
    start: int
    rows: int
    source: Source
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
    source, catalog, options = open_source(out, options)
    tasks = [
        Partition(part.key, _Task(str(out / POINTS), part.start, part.rows, source, options)) for part in plan.parts
    ]
    print(
        f"{plan.points:,} points in {len(plan.parts)} parts to {out}, year: {options.year}, bands: "
        f"{' '.join(options.bands)}\n{catalog['text']}"
    )
    run = run_partitions(
        tasks, work, out,
        plan={"options": asdict(options), "points": plan.digest, "index": catalog["digest"], "source": source.kind},
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
    sampler = task.source.sampler(task.options, left)
    composites, used = sample_years(sampler, points, own, task.options.year, task.options.reach, task.source.span)
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


def _counts(values: NDArray[Any]) -> dict[str, int]:
    return {str(int(value)): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
