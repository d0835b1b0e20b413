"""The environment of many occurrences as one Parquet table: streamed, in parts that resume.

    FILE.parquet           sample_id, the 27 variables, coast_km; how they were read, as JSON in the schema's metadata
    FILE.parquet.parts/    the parts of a run that is not complete

N rows of a part, V the 27 variables.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError
from geotreeclip.prep.environment import (
    EnvironmentReport,
    Options,
    Rasters,
    sample_environment,
    warnings_of_values,
)
from geotreeclip.prep.occurrence_files import Table, bad_coordinates, identity, open_occurrences
from geotreeclip.prep.partitions import Done, Partition, PartitionRun, run_partitions
from geotreeclip.prep.raster_files import is_remote
from geotreeclip.schema import VARIABLE_NAMES

__all__ = ["METADATA", "PART_ROWS", "environment_table", "write_table"]

METADATA = b"geotreeclip"
"""Key of the schema's metadata under which the report is kept."""

PART_ROWS = 50_000
"""Rows of a part: enough that a block of a raster serves many points, few enough for memory (some 100 MB)."""

_PROBE_ROWS = 2_000  # places over the whole table by which units are judged before any part is read
_FORMAT = "geotreeclip-environment"
_PLACE = ("sample_id", "longitude", "latitude")


def write_table(
    occurrences: str | Path,
    rasters: Rasters,
    table: str | Path,
    options: Options | None = None,
    *,
    part_rows: int = PART_ROWS,
    workers: int = 1,
    scheduler: str = "",
    retries: int = 2,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[EnvironmentReport, PartitionRun]:
    """Read the variables of all occurrences of a file into a Parquet table in their order.

    Args:
        occurrences: Parquet with ``sample_id, longitude, latitude``, or CSV.
        rasters: Files of each variable, see :func:`geotreeclip.prep.raster_files.find_rasters`.
        table: The Parquet to write. The same call after an interruption goes on; a table of the same inputs and options
            that is complete is left as it is.
        options: How rasters are read.
        part_rows: Rows of a part.
        workers: See :func:`geotreeclip.prep.partitions.run_partitions`.
        scheduler: As `workers`.
        retries: As `workers`.
        overwrite: Whether a table made in another way may be replaced.
        progress: Whether to draw a progress bar.

    Returns:
        The report, and what became of the parts. Where some failed their rows are not in the table, its metadata says
        that it is not complete, and the next call does only them.

    Raises:
        DataError: An input cannot be read, the values are of another unit, every part failed, or the table was made in
            another way.
    """
    options = options or Options()
    path = Path(table)
    plan = _plan(occurrences, rasters, options, part_rows)
    state = path.with_name(f"{path.name}.parts")
    if path.exists():
        earlier = _metadata(path)
        if earlier.get("plan") == plan and earlier.get("complete"):
            return EnvironmentReport.from_json(earlier["report"]), PartitionRun()
        if earlier.get("plan") != plan and not overwrite:
            raise DataError(f"{path}: exists and was made in another way; give another name, or --overwrite")
    places = open_occurrences(occurrences, state / "input")
    probe, refused = _probe(places, rasters, options)
    settled = Options(
        options.method, probe.worldclim, options.coast_km,
        terrain="off" if probe.terrain is None else "force", elevation_model=options.elevation_model,
    )  # fmt: skip
    payload = {
        "occurrences": str(places.path),
        "rasters": {name: [str(location) for location in paths] for name, paths in rasters.items()},
        "options": settled,
    }
    parts = [
        Partition(f"rows-{start:010d}", {**payload, "rows": (start, min(start + part_rows, places.rows))})
        for start in range(0, places.rows, part_rows)
    ]
    run = run_partitions(
        parts, _read_part, state, plan=plan, workers=workers, scheduler=scheduler, retries=retries,
        label="environment", progress=progress,
    )  # fmt: skip
    run.raise_if_empty()
    report = _merged(run.done, probe)
    report.refused = refused
    write_atomically(path, lambda target: _write(target, run, report, plan))
    if not run.failed:
        shutil.rmtree(state, ignore_errors=True)
    return report, run


def environment_table(path: str | Path) -> tuple[Table, dict[str, Any]]:
    """A table that :func:`write_table` made, open for reading, and what its metadata say.

    Raises:
        DataError: It is another table.
    """
    table = Table(path)
    table.expect("sample_id", *VARIABLE_NAMES)
    return table, _metadata(Path(path), table)


def _metadata(path: Path, table: Table | None = None) -> dict[str, Any]:
    """The document that a table carries; empty where it carries none."""
    try:
        document = json.loads((table or Table(path)).metadata.get(METADATA, b"{}"))
    except ValueError as error:
        raise DataError(f"{path}: its metadata are no JSON ({error}); make the table again") from error
    return document if isinstance(document, dict) else {}


def _plan(occurrences: str | Path, rasters: Rasters, options: Options, part_rows: int) -> dict[str, Any]:
    """Inputs and options, as JSON: what must be the same for a run to go on."""
    plan = {
        "occurrences": identity(occurrences),
        "rasters": {
            name: [str(path) if is_remote(str(path)) else identity(path) for path in paths]
            for name, paths in rasters.items()
        },
        "options": {name: getattr(options, name) for name in options.__slots__},
        "part_rows": part_rows,
    }
    copy: dict[str, Any] = json.loads(json.dumps(plan))
    return copy


def _probe(places: Table, rasters: Rasters, options: Options) -> tuple[EnvironmentReport, dict[str, int]]:
    """Judges units, versions and the elevation model by places spread over the table; counts unusable rows."""
    step = max(1, places.rows // _PROBE_ROWS)
    chosen, counts, row = [], dict.fromkeys(bad_coordinates(np.empty(0), np.empty(0)), 0), 0
    for batch in places.batches(_PLACE[1:]):
        lon, lat = _coordinates(batch, places.path)
        wrong = bad_coordinates(lon, lat)
        for reason, rows in wrong.items():
            counts[reason] += int(rows.sum())
        usable = ~np.logical_or.reduce(list(wrong.values()))
        usable &= (np.arange(row, row + len(lon)) % step) == 0
        chosen.append(np.stack([lon[usable], lat[usable]]))
        row += len(lon)
    lon, lat = np.concatenate(chosen, axis=1)
    refused = {reason: count for reason, count in counts.items() if count}
    if sum(refused.values()) == places.rows:
        raise DataError(f"{places.path}: no usable row: " + ", ".join(f"{n} {why}" for why, n in refused.items()))
    return sample_environment(lon, lat, rasters, options).report, refused


def _coordinates(batch: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of a batch, NaN where null."""
    columns = []
    for name in _PLACE[1:]:
        try:
            columns.append(batch[name].cast("float64").to_numpy(zero_copy_only=False))
        except (ValueError, NotImplementedError) as error:  # pyarrow's errors are both
            raise DataError(f"{path}: column {name} holds no numbers ({error})") from error
    return columns[0], columns[1]


def _read_part(payload: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Reads the variables of some rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = Table(payload["occurrences"])
    start, stop = payload["rows"]
    rows = places.read(start, stop, _PLACE).combine_chunks()
    lon, lat = _coordinates(rows, places.path)
    usable = ~np.logical_or.reduce(list(bad_coordinates(lon, lat).values()))
    found = sample_environment(lon[usable], lat[usable], payload["rasters"], payload["options"], strict=False)
    columns = {"sample_id": rows["sample_id"].cast(pa.string()).filter(pa.array(usable))}
    for index, name in enumerate(VARIABLE_NAMES):
        kind = "float64" if name in _PLACE else "float32"
        columns[name] = pa.array(found.values[:, index].astype(kind))
    columns["coast_km"] = pa.array(found.coast_km.astype("float32"))
    pq.write_table(pa.table(columns), folder / "environment.parquet")
    return {"rows": int(usable.sum()), "report": found.report.to_json()}


def _merged(parts: list[Done], probe: EnvironmentReport) -> EnvironmentReport:
    """One report of all parts: counts added up, ranges and rates left to the table."""
    reports = [EnvironmentReport.from_json(part.report["report"]) for part in parts]
    total = EnvironmentReport.from_json(json.loads(json.dumps(probe.to_json())))
    total.samples = sum(report.samples for report in reports)
    total.warnings = [text for text in probe.warnings if text not in warnings_of_values(probe)]
    for name, entry in total.variables.items():
        entries = [report.variables[name] for report in reports]
        entry.out_of_range = sum(part.out_of_range for part in entries)
        entry.coast = sum(part.coast for part in entries)
        entry.rasters = [
            type(info)(**{
                **{field: getattr(info, field) for field in info.__slots__},
                "outside": sum(part.rasters[k].outside for part in entries),
                "no_data": sum(part.rasters[k].no_data for part in entries),
            })
            for k, info in enumerate(entry.rasters)
        ]  # fmt: skip
    if total.terrain is not None:
        found = [report.terrain for report in reports if report.terrain is not None]
        total.terrain = type(total.terrain)(
            total.terrain.model, total.terrain.cell_metres, total.terrain.method,
            missing=sum(part.missing for part in found), flat=sum(part.flat for part in found),
        )  # fmt: skip
    return total


def _write(target: Path, run: PartitionRun, report: EnvironmentReport, plan: dict[str, Any]) -> None:
    """Joins the parts, taking ranges and missing rates of the whole on the way, column by column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [part.folder / "environment.parquet" for part in run.done if part.report["rows"]]
    for name, entry in report.variables.items():
        values = [pq.read_table(path, columns=[name])[name].to_numpy() for path in files]
        entry.describe(name, np.concatenate(values) if values else np.empty(0))
    report.warnings += warnings_of_values(report)
    document = {
        "format": _FORMAT,
        "version": 1,
        "complete": not run.failed,
        "rows": report.samples,
        "plan": plan,
        "report": report.to_json(),
    }
    schema = pq.read_schema(files[0]) if files else pa.schema([])
    schema = schema.with_metadata({METADATA: json.dumps(document).encode()})
    with pq.ParquetWriter(target, schema) as writer:
        for path in files:
            writer.write_table(pq.read_table(path).cast(schema))
