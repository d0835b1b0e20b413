"""Occurrences of many files to one clean table: the stages in order, resumed where an earlier run stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.data.licences import DATASETS, write_datasets
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.occurrences.outputs import concatenate
from geotreeclip.prep.occurrences.report import Report, build_report
from geotreeclip.prep.occurrences.rules import RuleOptions
from geotreeclip.prep.occurrences.settling import IdBucket, Settling, find_repeats, settle
from geotreeclip.prep.occurrences.sources import ReadingOptions, Source, find_sources
from geotreeclip.prep.occurrences.stages import CHUNK_ROWS, Judging, Reading, judge_chunk, read_source
from geotreeclip.prep.occurrences.taxa import TaxonTables, judge_taxa, summarise
from geotreeclip.prep.partitions import Done, Partition, PartitionRun, run_partitions

__all__ = ["Job", "clean_occurrences"]

FORMAT = 1
BUCKET_ROWS = 250_000
"""Rows that a bucket of species or of ids is meant to hold: what one process holds at once."""

_STATE = ".occurrences"
_OUTPUTS = ("report.json", "report.md", "occurrences.parquet", "refused.parquet", "taxa.parquet", "datasets.csv")


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, and where it runs.

    Attributes:
        inputs: Files and folders of occurrences.
        out: Folder of the outputs.
        rules: Thresholds and switches.
        tables: Files about taxa.
        reading: What is stated about text files.
        mask: Raster of places, or None.
        overwrite: Whether the result of other options may be replaced.
        workers: Processes on this machine.
        scheduler: Address of a Dask scheduler instead.
        retries: Further attempts at a part that fails.
        chunk_rows: Rows that are judged at once.
        bucket_rows: Rows that a bucket is meant to hold.
        progress: Whether to draw progress bars.
    """

    inputs: tuple[Path, ...]
    out: Path
    rules: RuleOptions = field(default_factory=RuleOptions)
    tables: TaxonTables = field(default_factory=TaxonTables)
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    mask: Path | None = None
    overwrite: bool = False
    workers: int = 1
    scheduler: str = ""
    retries: int = 1
    chunk_rows: int = CHUNK_ROWS
    bucket_rows: int = BUCKET_ROWS
    progress: bool = True


def clean_occurrences(job: Job, say: Callable[[str], object] = print) -> Report:
    """Read, judge and settle occurrences; write `occurrences.parquet`, `refused.parquet`, `taxa.parquet` and reports.

    The same job given again goes on where a stopped one ended, or finds that all is done. The outputs are the same
    whatever the workers and however often the work was stopped.

    Raises:
        DataError: An input is absent, damaged or of no known kind; the outputs of other options are there; the folder
            cannot be written. Nothing is left half-written.
        ConfigError: An impossible option.
    """
    if not job.inputs:
        raise ConfigError("no files of occurrences are given")
    sources = find_sources(job.inputs, job.reading)
    plan = _plan(job, sources)
    if (finished := _finished(job, plan)) is not None:
        say(f"{job.out}: is complete already, made with the same options of the same files")
        return finished
    for source in sources:
        say(f"{source.label}: {source.where}" + "".join(f"; {note}" for note in source.notes))
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{job.out}: cannot be written: {error.strerror}") from error
    state = job.out / _STATE
    current = state / hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    for other in state.glob("[0-9a-f]*"):  # of other options, stopped: what was read is kept, what was judged is not
        if other.is_dir() and other != current:
            shutil.rmtree(other)
    run = _Run(job, sources, plan, state, current)
    read = run.read(say)
    judged = run.judge_taxa(read, say)
    chunks = run.judge(read, judged)
    settled = run.settle(chunks, judged)
    report = run.finish(read, chunks, settled, judged)
    shutil.rmtree(state, ignore_errors=True)
    return report


def _identity(path: Path) -> dict[str, Any]:
    """What tells a file from another of its name."""
    try:
        held = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return {"path": str(path.resolve()), "bytes": held.st_size, "modified": held.st_mtime_ns}


def _plan(job: Job, sources: Sequence[Source]) -> dict[str, Any]:
    """All that the result depends on, as JSON."""
    if job.chunk_rows < 1 or job.bucket_rows < 1:
        raise ConfigError("chunks and buckets must hold at least one row")
    others = [*job.tables.paths, *([job.mask] if job.mask else [])]
    return {
        "format": FORMAT,
        "inputs": [_identity(Path(source.path)) | {"member": source.member} for source in sources],
        "tables": [_identity(path) for path in others],
        "kinds": {
            name: len(value) if isinstance(value, tuple) else bool(value) for name, value in _tables(job).items()
        },
        "reading": asdict(job.reading),
        "rules": job.rules.plan(),
        "rows": [job.chunk_rows, job.bucket_rows],
    }


def _tables(job: Job) -> dict[str, Any]:
    return {name: getattr(job.tables, name) for name in ("backbone", "trees", "growth", "leaf_types")} | {
        "mask": job.mask
    }


def _finished(job: Job, plan: Mapping[str, Any]) -> Report | None:
    """The report of a complete run of the same job, None where there is none.

    Raises:
        DataError: The folder holds the result of another job and may not be overwritten.
    """
    path = job.out / "report.json"
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        same = document["plan"] == json.loads(json.dumps(plan))
        report = Report.of_document(document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no report of occurrences ({error}); give another --out") from error
    if same and all((job.out / name).exists() for name in _OUTPUTS):
        return report
    if not same and not job.overwrite:
        raise DataError(f"{job.out}: holds the result of other files or options; give another --out, or --overwrite")
    path.unlink()
    return None


@dataclass(slots=True)
class _Run:
    """The stages of one job."""

    job: Job
    sources: list[Source]
    plan: dict[str, Any]
    state: Path
    current: Path

    def _stage(
        self, name: str, state: Path, parts: list[Partition], work: Any, plan: Mapping[str, Any]
    ) -> PartitionRun:
        run = run_partitions(
            parts, work, state, plan=plan, workers=self.job.workers, scheduler=self.job.scheduler,
            retries=self.job.retries, label=name, progress=self.job.progress,
        )  # fmt: skip
        if run.failed:
            reasons = "\n".join(f"{part.reason}{part.detail}" for part in run.failed)
            raise DataError(
                f"{len(run.failed)} of {len(parts)} parts of the stage {name!r} failed, and a result without them "
                f"would be another:\n{reasons}\nWhat is done is kept: mend or leave out the files and give the "
                "command again"
            )
        return run

    def read(self, say: Callable[[str], object]) -> list[Done]:
        """Chunks of every source, in the order of the sources."""
        import pyarrow as pa

        parts = []
        for source in self.sources:
            document = [asdict(source), _identity(Path(source.path)), self.job.chunk_rows, FORMAT]
            key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
            parts.append(Partition(key, Reading(source, self.job.chunk_rows)))
        done = self._stage("read", self.state / "read", parts, read_source, {"format": FORMAT}).done
        pa.default_memory_pool().release_unused()  # a single source is read in this process, and others follow
        if not sum(sum(part.report["rows"]) for part in done):
            raise DataError("the files hold no rows, only headers")
        say(f"read {sum(sum(part.report['rows']) for part in done):,} rows of {len(done)} tables")
        return done

    def judge_taxa(self, read: Sequence[Done], say: Callable[[str], object]) -> Path:
        """Judge the distinct taxa of all chunks; lays out the buckets of species."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.current / "taxa.parquet"
        if path.exists():
            return path
        counts = pd.Series(dtype="int64")
        for part in read:
            for number in range(len(part.report["rows"])):
                more = pq.read_table(part.folder / f"taxa-{number:05d}.parquet").to_pandas()
                counts = counts.add(more.groupby("taxon")["rows"].sum(), fill_value=0)
        counts = counts.astype("int64").sort_index()
        say(f"judging {len(counts):,} distinct taxa")
        frame = judge_taxa(counts.index.tolist(), counts.tolist(), self.job.tables, self.job.rules)
        frame.insert(0, "taxon", counts.index.to_numpy())
        _lay_out(frame, self.job.bucket_rows)
        self.current.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda target: pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), target))
        return path

    def judge(self, read: Sequence[Done], judged: Path) -> list[Done]:
        """Judge every chunk."""
        rows = sum(sum(part.report["rows"]) for part in read)
        parts = [
            Partition(
                f"{file:04d}-{number:05d}",
                Judging(
                    str(part.folder / f"rows-{number:05d}.parquet"), str(part.folder / f"taxa-{number:05d}.parquet"),
                    file, self.sources[file].label, str(judged), 1 + rows // (4 * self.job.bucket_rows), self.job.rules,
                    str(self.job.mask or ""),
                ),
            )
            for file, part in enumerate(read)
            for number in range(len(part.report["rows"]))
        ]  # fmt: skip
        return self._stage("judge", self.current / "judge", parts, judge_chunk, self.plan).done

    def settle(self, chunks: Sequence[Done], judged: Path) -> list[Done]:
        """Find repeated ids, then settle every bucket of species in their order."""
        ids = _groups_by_bucket(chunks, "id_buckets", "ids.parquet")
        parts = [Partition(f"{bucket:05d}", IdBucket(groups)) for bucket, groups in sorted(ids.items())]
        found = self._stage("repeats", self.current / "repeats", parts, find_repeats, self.plan).done
        repeats = _groups_by_bucket(found, "buckets", "repeats.parquet")
        labels = tuple(source.label for source in self.sources)
        parts = [
            Partition(f"{bucket:05d}", Settling(groups, repeats.get(bucket, []), str(judged), labels, self.job.rules))
            for bucket, groups in sorted(_groups_by_bucket(chunks, "buckets", "rows.parquet").items())
        ]
        return self._stage("settle", self.current / "settle", parts, settle, self.plan).done

    def finish(self, read: Sequence[Done], chunks: Sequence[Done], settled: Sequence[Done], judged: Path) -> Report:
        """Write the outputs, the report last."""
        import pandas as pd
        import pyarrow.parquet as pq

        out = self.job.out
        kept = concatenate([part.folder / "kept.parquet" for part in settled], out / "occurrences.parquet")
        refused = concatenate([part.folder / "refused.parquet" for part in settled], out / "refused.parquet")
        counts = pd.concat([pq.read_table(part.folder / "counts.parquet").to_pandas() for part in settled])
        taxa = pq.read_table(judged).to_pandas()
        taxa["kept"] = counts[counts["reason"] < 0].groupby("taxon")["rows"].sum().reindex(taxa.index, fill_value=0)
        species = summarise(taxa)
        write_atomically(out / "taxa.parquet", lambda path: species.to_parquet(path, index=False))
        report = build_report(self.job, self.sources, read, chunks, settled, counts, species, kept, refused, self.plan)
        write_datasets(out / DATASETS, report.datasets)
        write_atomically(out / "report.md", lambda path: path.write_text(report.markdown(), encoding="utf-8"))
        document = json.dumps(report.document(), indent=1)
        write_atomically(out / "report.json", lambda path: path.write_text(document, encoding="utf-8"))
        return report


def _groups_by_bucket(parts: Sequence[Done], field_name: str, file: str) -> dict[int, list[tuple[str, int]]]:
    found: dict[int, list[tuple[str, int]]] = {}
    for part in parts:
        for number, bucket in enumerate(part.report[field_name]):
            found.setdefault(bucket, []).append((str(part.folder / file), number))
    return found


def _lay_out(frame: Any, bucket_rows: int) -> None:
    """Give every taxon its place in the final order and its bucket: consecutive species, large ones in several.

    Adds the columns `order` (of the resolved species), `bucket` (the first of the species) and `split` (how many).
    """
    names = list(zip(frame["family"], frame["genus"], frame["species"], strict=True))
    order = {name: place for place, name in enumerate(sorted(set(names)))}
    frame["order"] = np.array([order[name] for name in names], np.int32)
    rows = frame.groupby("order")["rows"].sum().to_numpy()
    first, split = np.zeros(len(rows), np.int32), np.ones(len(rows), np.int64)
    bucket, held = 0, 0
    for place, count in enumerate(rows.tolist()):
        if held and held + count > bucket_rows:
            bucket, held = bucket + 1, 0
        first[place] = bucket
        split[place] = -(-count // bucket_rows)
        held += count
        if split[place] > 1:
            bucket, held = bucket + int(split[place]), 0
    frame["bucket"], frame["split"] = first[frame["order"]], split[frame["order"]]
