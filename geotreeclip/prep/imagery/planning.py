"""Which samples have a place and a year, and how they are cut into parts.

N points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError
from geotreeclip.prep.imagery.grid import locate, utm_epsg

__all__ = ["POINTS", "Part", "Plan", "plan_points", "points_of"]

POINTS = "points.arrow"
"""File of the points in the order of the result: `sample_id`, `longitude`, `latitude`, `year`, `epsg`."""

_REASONS = (
    "",
    "no UTM zone north of 84 N or south of 80 S",
    "coordinates missing or out of range",
    "no year of observation (give --year YEAR)",
    "coordinates too uncertain for a patch of 50 m (see --precision)",
)

_SQUARE = 100_000.0
"""Metres: squares of the military grid, on which the tiles of Sentinel-2 are laid."""


@dataclass(frozen=True, slots=True)
class Part:
    """Points of a part: its key, the first row, and how many."""

    key: str
    start: int
    rows: int


@dataclass(slots=True)
class Plan:
    """The parts of the work.

    Attributes:
        parts: In the order of the points.
        digest: Of the points in their order; does not depend on the parts.
        points: How many are sampled.
        refused: How many are not, by reason.
    """

    parts: list[Part] = field(default_factory=list)
    digest: str = ""
    points: int = 0
    refused: dict[str, int] = field(default_factory=dict)


def plan_points(
    occurrences: Path, out: Path, points_per_part: int, *, need_year: bool, precision: Sequence[str]
) -> Plan:
    """Write :data:`POINTS`, from which each part maps its rows, and `refused.parquet`.

    Args:
        occurrences: Table of `sample_id`, `longitude`, `latitude`, `year`, and perhaps `precision`.
        out: Folder to write into.
        points_per_part: Most points of a part.
        need_year: Whether a sample without a year is refused.
        precision: Strata of coordinate precision that are taken.

    Raises:
        DataError: The table cannot be read, lacks a column, repeats an id, or has no sample with a place.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = _read(occurrences)
    ids = table["sample_id"].combine_chunks()
    lon, lat = (np.asarray(table[name].to_numpy(), np.float64) for name in ("longitude", "latitude"))
    year = table["year"].fill_null(-1).to_numpy().astype(np.int32)
    epsg = utm_epsg(lon, lat)
    reason = np.where(epsg == 0, 1, 0).astype(np.int8)  # index into _REASONS
    with np.errstate(invalid="ignore"):
        reason[~((np.abs(lon) <= 180) & (np.abs(lat) <= 90))] = 2
    if need_year:
        reason[(reason == 0) & (year < 0)] = 3
    if "precision" in table.column_names:
        fits = pc.is_in(table["precision"].fill_null("unknown"), value_set=pa.array(list(precision), pa.string()))
        reason[(reason == 0) & ~fits.to_numpy()] = 4
    kept = np.flatnonzero(reason == 0)
    counts = {_REASONS[code]: int((reason == code).sum()) for code in range(1, len(_REASONS))}
    plan = Plan(points=len(kept), refused={why: count for why, count in counts.items() if count})
    lost = np.flatnonzero(reason)
    refused = pa.table(
        {
            "sample_id": ids.take(pa.array(lost)),
            "longitude": lon[lost],
            "latitude": lat[lost],
            "year": pa.array(year[lost], pa.int32(), mask=year[lost] < 0),
            "reason": pa.array([_REASONS[code] for code in reason[lost]], pa.string()),
        }
    )
    write_atomically(out / "refused.parquet", lambda path: pq.write_table(refused, path))
    if not len(kept):
        raise DataError(f"{occurrences}: no sample can be placed: {plan.refused or 'it has no rows'}")
    x, y = np.zeros(len(lon)), np.zeros(len(lon))
    for zone in np.unique(epsg[kept]):
        rows = kept[epsg[kept] == zone]
        places = locate(lon[rows], lat[rows], int(zone))
        x[rows], y[rows] = places.x, places.y
    across, up = np.floor(x / _SQUARE).astype(np.int64), np.floor(y / _SQUARE).astype(np.int64)
    # By zone, square, year, place, id: a total order, so that nothing depends on the order of the table.
    keys = {"epsg": epsg, "across": across, "up": up, "year": year, "south": -y, "x": x}
    sorting = pa.table({**{name: values[kept] for name, values in keys.items()}, "sample_id": ids.take(pa.array(kept))})
    by = [(name, "ascending") for name in sorting.column_names]
    order = kept[pc.sort_indices(sorting, sort_keys=by).to_numpy()]
    points = pa.table(
        {
            "sample_id": ids.take(pa.array(order)),
            "longitude": lon[order],
            "latitude": lat[order],
            "year": pa.array(year[order], pa.int32()),
            "epsg": pa.array(epsg[order], pa.int32()),
        }
    )
    starts = _starts(np.stack([epsg[order], across[order], up[order]], axis=1), points_per_part)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        row = order[start]
        key = f"{epsg[row]}-{across[row]:02d}-{up[row]:03d}-{start:08d}"
        plan.parts.append(Part(key, start, end - start))

    def write(path: Path) -> None:
        with pa.ipc.new_file(path, points.schema) as writer:
            writer.write_table(points)

    write_atomically(out / POINTS, write)
    plan.digest = _digest(points)
    return plan


def points_of(path: str | Path, start: int, rows: int) -> Any:
    """Some rows of :data:`POINTS`, an Arrow table; nothing else is read."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().slice(start, rows).combine_chunks()


def _read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    wanted = {"sample_id": pa.string(), "longitude": pa.float64(), "latitude": pa.float64(), "year": pa.int32()}
    try:
        if path.suffix.lower() == ".csv":
            types = pyarrow.csv.ConvertOptions(column_types=wanted)
            table = pyarrow.csv.read_csv(path, convert_options=types)
        else:
            names = pq.read_schema(path).names
            table = pq.read_table(path, columns=[name for name in (*wanted, "precision") if name in names])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as a table of occurrences: {error}") from error
    lacking = [name for name in ("sample_id", "longitude", "latitude") if name not in table.column_names]
    if lacking:
        raise DataError(f"{path}: has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}")
    if "year" not in table.column_names:
        table = table.append_column("year", pa.nulls(len(table), pa.int32()))
    try:
        for name, kind in wanted.items():
            column = table[name].cast(kind).combine_chunks()
            table = table.set_column(table.column_names.index(name), name, column)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: a value of {name} is no {kind}: {error}") from error
    if table["sample_id"].null_count:
        raise DataError(f"{path}: {table['sample_id'].null_count} samples have no sample_id")
    if pc.count_distinct(table["sample_id"]).as_py() < len(table):
        counts = pc.value_counts(table["sample_id"].combine_chunks())
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise DataError(f"{path}: sample id {twice!r} comes more than once")
    return table


def _starts(squares: NDArray[np.int64], most: int) -> list[int]:
    """Where parts begin: at each new square, and after so many points of one."""
    fresh = np.flatnonzero(np.r_[True, (np.diff(squares, axis=0) != 0).any(axis=1)])
    ends = np.r_[fresh[1:], len(squares)]
    return [start for first, last in zip(fresh, ends, strict=True) for start in range(int(first), int(last), most)]


def _digest(points: Any) -> str:
    digest = hashlib.sha256()
    for name in ("longitude", "latitude", "year", "epsg"):
        digest.update(np.ascontiguousarray(points[name].to_numpy()).tobytes())
    for batch in points.select(["sample_id"]).to_batches(max_chunksize=65536):
        digest.update(("\n".join(batch.column(0).to_pylist()) + "\n").encode())
    return digest.hexdigest()
