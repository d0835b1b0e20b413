"""Occurrences, imagery and environment to packed shards, or to shards in the published format.

    OUT/.pack/join/       the inputs joined by sample id
    OUT/.pack/parts/      one shard each; whole or absent
    OUT/                  the set, when every part is there

A stopped run goes on with the parts that are missing; the result is the same, byte by byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geotreeclip.data.licences import DATASETS, NOT_STATED, RIGHTS, count_rights, sum_counts, write_datasets
from geotreeclip.data.manifest import MANIFEST, Manifest, sha256_file
from geotreeclip.data.shardfile import sync_directory, write_atomically
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.occurrence_files import identity, open_occurrences
from geotreeclip.prep.pack_join import Inputs, Join, join_inputs
from geotreeclip.prep.pack_part import SHARD, Part, pack_part
from geotreeclip.prep.partitions import Done, Failure, Partition, run_partitions
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, VARIABLE_NAMES

__all__ = ["FORMATS", "PUBLISHED_INDEX", "PackOptions", "PackSummary", "pack_samples"]

FORMATS = ("packed", "published")
PUBLISHED_INDEX = "published.json"
"""Beside shards in the published format: what they hold. It comes last, so a folder that has one is complete."""

_STATE, _REPORT = ".pack", "pack_report.json"
_CHOICES = ("leave-out", "keep")


@dataclass(frozen=True)
class PackOptions:
    """How a set is written.

    Attributes:
        format: ``packed`` or ``published``.
        shard_samples: Samples of a shard; a published one of the default has some 260 MB.
        worldclim1: Whether temperatures of published shards are in tenths of a degree, as in the published set
            (WorldClim 1); else in degrees, as everywhere else here.
        source: Where the samples come from, in words.
    """

    format: str = "packed"
    shard_samples: int = 8192
    worldclim1: bool = False
    source: str = ""


@dataclass
class PackSummary:
    """What packing did; every occurrence read is packed or left out for one reason.

    Attributes:
        format: Of the shards.
        read: Occurrences read.
        packed: Samples written.
        left_out: Occurrences left out, by reason.
        taxa: Distinct taxa.
        shards: Shards written.
        bytes: Their size.
        warnings: What the user should know.
    """

    format: str
    read: int = 0
    packed: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    taxa: int = 0
    shards: int = 0
    bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The counts, a line each."""
        rate = self.bytes / max(1, self.packed)
        lines = [f"read      {self.read:>12,} occurrences"]
        lines.append(
            f"packed    {self.packed:>12,} samples of {self.taxa:,} taxa, {self.shards:,} shards, {rate:,.0f} bytes a "
            "sample"
        )
        lines += [f"left out  {count:>12,} {reason}" for reason, count in self.left_out.items()]
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])


def pack_samples(
    inputs: Inputs,
    out: str | Path,
    options: PackOptions | None = None,
    *,
    workers: int = 1,
    scheduler: str = "",
    retries: int = 2,
    progress: bool = True,
) -> tuple[PackSummary, list[Failure]]:
    """Joins the inputs and packs them.

    Args:
        inputs: What to pack.
        out: Directory of the set.
        options: How to write it.
        workers: See :func:`geotreeclip.prep.partitions.run_partitions`.
        scheduler: As `workers`.
        retries: As `workers`.
        progress: Whether to draw a progress bar.

    Returns:
        The counts, also in ``pack_report.json`` (``left_out.parquet`` lists what was left out, except for samples of
        other sets), and the parts that failed; where there are any, the set is not finished and the same call goes on.

    Raises:
        DataError: An input cannot be read, nothing is left to pack, every part failed, or `out` holds another set.
        ConfigError: An impossible option.
    """
    options = options or PackOptions()
    _check(inputs, options)
    target = Path(out)
    plan = _plan(inputs, options)
    if (target / MANIFEST).exists() or (target / PUBLISHED_INDEX).exists():
        return _finished(target, plan), []
    state = target / _STATE
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}") from error
    table = open_occurrences(inputs.occurrences, state / "input")
    join = _join(inputs, table, state, plan)
    environment = f", {join.resolution}" if join.resolution else ""
    source = options.source or f"{Path(inputs.occurrences).name}{environment}"
    parts = [
        Partition(
            f"samples-{start:010d}",
            Part(
                inputs, str(table.path), str(join.folder), start, min(start + options.shard_samples, join.samples),
                options.format == "published", options.worldclim1, join.resolution, source,
            ),
        )
        for start in range(0, join.samples, options.shard_samples)
    ]  # fmt: skip
    run = run_partitions(
        parts, pack_part, state, plan=plan, workers=workers, scheduler=scheduler, retries=retries, label="packing",
        progress=progress,
    )  # fmt: skip
    run.raise_if_empty()
    summary = _summary(join, run.done, options)
    if run.failed:
        return summary, run.failed
    if not summary.packed:
        said = "; ".join(f"{count:,} {why}" for why, count in summary.left_out.items())
        raise DataError(f"{target}: none of {summary.read:,} occurrences is left to pack: {said}")
    _assemble(target, join, run.done, summary, plan, options)
    shutil.rmtree(state)
    return summary, []


def _check(inputs: Inputs, options: PackOptions) -> None:
    if options.format not in FORMATS:
        raise ConfigError(f"format {options.format!r} is unknown; give {' or '.join(FORMATS)}")
    if options.shard_samples < 1:
        raise ConfigError(f"shards of {options.shard_samples} samples: give at least 1")
    for name, choice in (("imagery", inputs.without_imagery), ("environment", inputs.without_environment)):
        if choice not in _CHOICES:
            raise ConfigError(f"samples without {name}: {choice!r} is unknown; give {' or '.join(_CHOICES)}")
    if bool(inputs.partition) != bool(inputs.sets):
        raise ConfigError("a partition and the sets to pack of it go together: --partition FILE --set NAME")
    if not inputs.imagery and not inputs.environment:
        raise ConfigError("nothing to pack but coordinates: give --imagery DIR, --environment FILE.parquet, or both")
    if options.worldclim1 and options.format != "published":
        raise ConfigError("tenths of a degree are for --format published; packed shards hold degrees")


def _plan(inputs: Inputs, options: PackOptions) -> dict[str, Any]:
    """Inputs and options as JSON: what must be the same for a run to go on."""
    files = {"occurrences": inputs.occurrences, "environment": inputs.environment, "partition": inputs.partition}
    if inputs.imagery:
        files["imagery"] = str(Path(inputs.imagery) / "imagery.json")
    plan = {
        "inputs": asdict(inputs),
        "options": asdict(options),
        "files": {name: identity(path) for name, path in files.items() if path},
    }
    copy: dict[str, Any] = json.loads(json.dumps(plan))
    return copy


def _join(inputs: Inputs, table: Any, state: Path, plan: dict[str, Any]) -> Join:
    """The join of an earlier run of the same plan, or a new one; it appears when it is complete."""
    folder, partial, mark = state / "join", state / ".partial-join", "plan.json"
    if folder.exists():
        if json.loads((folder / mark).read_text(encoding="utf-8")) == plan:
            return Join.open(folder)
        raise DataError(
            f"{state.parent}: was begun with other inputs or options (see {folder / mark}); give the same command to "
            "go on, or delete the directory to start again"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        join_inputs(inputs, table, partial)
        (partial / mark).write_text(json.dumps(plan), encoding="utf-8")
        for path in partial.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(f"{partial}: cannot be written: {error.strerror or error}") from error
    partial.rename(folder)
    sync_directory(state)
    return Join.open(folder)


def _summary(join: Join, parts: Sequence[Done], options: PackOptions) -> PackSummary:
    left_out = dict(join.left_out)
    for part in parts:
        for why, count in part.report["left_out"].items():
            left_out[why] = left_out.get(why, 0) + count
    packed = [part for part in parts if part.report["samples"]]
    return PackSummary(
        format=options.format,
        read=join.read,
        packed=sum(part.report["samples"] for part in packed),
        left_out=left_out,
        taxa=len(join.taxonomy()),
        shards=len(packed),
        bytes=sum((part.folder / SHARD).stat().st_size for part in packed),
        warnings=join.warnings,
    )


def _assemble(
    out: Path, join: Join, parts: Sequence[Done], summary: PackSummary, plan: dict[str, Any], options: PackOptions
) -> None:
    """Puts the shards into the directory and writes the tables of the whole; the manifest comes last."""
    packed = [part.folder for part in parts if part.report["samples"]]
    published = options.format == "published"
    prefix = "part" if published else "shard"
    names = [f"{prefix}-{number:06d}.tar" for number in range(len(packed))]
    for folder, name in zip(packed, names, strict=True):
        _link(folder / SHARD, out / name)
    sync_directory(out)
    write_atomically(out / "samples.parquet", lambda path: _write_tables([f / "samples.parquet" for f in packed], path))
    lost = [join.folder / "left_out.parquet", *(part.folder / "left_out.parquet" for part in parts)]
    write_atomically(
        out / "left_out.parquet", lambda path: _write_tables([file for file in lost if file.exists()], path)
    )
    write_atomically(out / "taxonomy.parquet", join.taxonomy().write)
    report = json.dumps({"plan": plan, **asdict(summary)}, indent=1) + "\n"
    write_atomically(out / _REPORT, lambda path: path.write_text(report, encoding="utf-8"))
    if published:
        document = {
            "format": "geotreeclip-published-shards",
            "version": 1,
            "samples": summary.packed,
            "fields": [*PUBLISHED_RANK_FIELDS, *VARIABLE_NAMES],
            "temperatures": "tenths of a degree (WorldClim 1)" if options.worldclim1 else "degrees (WorldClim 2.1)",
            "worldclim": join.worldclim,
            "resolution": join.resolution,
            "shards": [
                {"name": name, "bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
                for name in names
            ],
        }
        text = json.dumps(document, indent=1) + "\n"
        write_atomically(out / PUBLISHED_INDEX, lambda path: path.write_text(text, encoding="utf-8"))
        return
    licences, datasets = _rights(packed)
    if datasets:
        write_datasets(out / DATASETS, datasets)
    rights = {"licences": licences, "datasets": len(datasets.keys() - {NOT_STATED})}
    manifest = {**_merged_manifest(packed, names), **rights}
    statistics = Statistics.read(packed[0] / "statistics.json")
    for folder in packed[1:]:
        statistics = statistics + Statistics.read(folder / "statistics.json")
    write_atomically(out / "statistics.json", statistics.write)
    files = {
        name: {"bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
        for name in ("taxonomy.parquet", "statistics.json", "samples.parquet")
    }
    text = Manifest(**{**manifest, "files": files}).to_json()
    write_atomically(out / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def _merged_manifest(packed: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Fields of the manifest of all parts."""
    shards = []
    for folder, name in zip(packed, names, strict=True):
        part = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"), folder)
        (shard,) = part.shards
        shards.append(type(shard)(name, shard.samples, shard.bytes, shard.sha256, shard.chunks))
    return {**{key: getattr(part, key) for key in part.__dataclass_fields__}, "shards": tuple(shards)}


def _rights(packed: Sequence[Path]) -> tuple[dict[str, int], dict[str, int]]:
    """Samples of each licence and of each data set, from the tables of all parts."""
    import pyarrow.parquet as pq

    found = []
    for folder in packed:
        path = folder / "samples.parquet"
        present = [name for name in RIGHTS[:2] if name in pq.read_schema(path).names]
        found.append(count_rights(pq.read_table(path, columns=present).to_pandas()))
    return sum_counts(licences for licences, _ in found), sum_counts(datasets for _, datasets in found)


def _write_tables(paths: Sequence[Path], target: Path) -> None:
    """Tables one below the other, a file at a time; columns that are empty in some take their type from the others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in paths])
    with pq.ParquetWriter(target, schema) as writer:
        for path in paths:
            table = pq.read_table(path)
            if table.num_rows:
                writer.write_table(table.cast(schema))


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no links."""
    partial = target.with_name(f".partial-{target.name}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
    partial.replace(target)


def _finished(out: Path, plan: dict[str, Any]) -> PackSummary:
    """The counts of a set that is complete, if this very command made it."""
    path = out / _REPORT
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if document.pop("plan", None) != plan:
        raise DataError(f"{out}: holds a finished set made in another way; give another directory, or delete it")
    shutil.rmtree(out / _STATE, ignore_errors=True)  # left by a run killed just after the manifest
    return PackSummary(**document)
