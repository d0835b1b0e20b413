"""Occurrences and rasters to packed shards without imagery, for sets that fit in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.prep.environment import EnvironmentReport, Options, sample_environment
from geotreeclip.prep.occurrence_files import read_occurrences
from geotreeclip.prep.raster_files import find_rasters

__all__ = ["pack_environment"]


def pack_environment(
    occurrences: str | Path,
    places: Sequence[str | Path],
    out: str | Path,
    *,
    named: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
    options: Options | None = None,
    overwrite: bool = False,
) -> EnvironmentReport:
    """Sample rasters at occurrences and write packed shards without imagery, and ``environment_report.json`` beside.

    See :func:`geotreeclip.prep.occurrence_files.read_occurrences`, :func:`geotreeclip.prep.raster_files.find_rasters`
    and :func:`geotreeclip.prep.environment.sample_environment` for the arguments and errors. Nothing is written before
    everything was read.
    """
    from geotreeclip.data.packed import PackedWriter

    options = options or Options()
    table, taxa, refused = read_occurrences(occurrences)
    rasters = find_rasters(places, named)
    values, coast, report = sample_environment(
        table["longitude"].to_numpy(float), table["latitude"].to_numpy(float), rasters, options
    )
    report.refused = refused
    if options.coast_km:
        table["coast_km"] = coast.astype("float32")
    with PackedWriter(
        Path(out),
        None,
        has_images=False,
        source=f"{Path(occurrences).name}, rasters read {options.method}",
        worldclim=report.worldclim,
        resolution=report.resolution,
        overwrite=overwrite,
    ) as writer:
        writer.add(None, values, taxa, table["sample_id"].tolist(), table.drop(columns="sample_id"))
    text = json.dumps(report.to_json(), indent=1)
    write_atomically(Path(out) / "environment_report.json", lambda path: path.write_text(text, encoding="utf-8"))
    return report
