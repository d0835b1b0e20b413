"""The packing job: shard by shard, resumable, every sample accounted for.

What is finished is kept in `OUT/.pack/` until the manifest is there: for each source its packed shards, counts and
tables. A run that was killed leaves at most one source half done, and that one is packed again; so the result is the
same as that of an uninterrupted run, byte by byte.

Shape letters: N samples of a chunk, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.joins import Exclusion, SampleTable
from geotreeclip.data.manifest import MANIFEST, Manifest, shard_from_json
from geotreeclip.data.packing import PackReport
from geotreeclip.data.published import PublishedSample, Refusal, read_open_source
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.data.sources import expand_sources, open_source, source_name
from geotreeclip.data.statistics import Statistics
from geotreeclip.data.worldclim import decide, votes
from geotreeclip.data.writer import PackedWriter, WriterState
from geotreeclip.errors import DataError
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES, worldclim1_to_2
from geotreeclip.taxonomy import Taxon

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Job", "Options"]

_CHUNK = 512
_LEAST = 1000  # a share of fewer samples says nothing
_STATE = ".pack"
_LONGITUDE, _LATITUDE = VARIABLE_INDEX["longitude"], VARIABLE_INDEX["latitude"]
_PUBLISHED_RESOLUTION = {"1": "30 arc-seconds", "2.1": ""}
_REFUSED_COLUMNS = ("shard", "key", "kind", "reason")


@dataclass(frozen=True)
class Options:
    """What decides the result; a run is resumed only with the same."""

    sources: tuple[str, ...]
    samples: tuple[str, ...]
    exclude: tuple[str, ...]
    place_decimals: int
    worldclim: str
    resolution: str
    shard_samples: int
    limit: int | None


class Job:
    """One packing job.

    Args:
        options: what to pack and how.
        out: the packed directory.
        progress: whether to print counts and a progress bar.
        lenient_share: more refused samples than this share of those read is an error.
    """

    def __init__(self, options: Options, out: Path, progress: bool, lenient_share: float) -> None:
        if options.limit is not None and options.limit < 1:
            raise DataError(f"limit {options.limit} must be at least 1")
        if not 0 <= options.place_decimals <= 8:
            raise DataError(f"{options.place_decimals} decimals of a place: give 0 to 8")
        if not 0 <= lenient_share <= 1:
            raise DataError(f"lenient share {lenient_share} is a share of the samples: give 0 to 1")
        self.options, self.out, self.progress, self.lenient_share = options, out, progress, lenient_share
        self.state = out / _STATE
        self.report = PackReport()
        self.units: str | None = None if options.worldclim == "auto" else options.worldclim
        self.total = 0
        self.seen: set[str] = set()
        self.refused: list[tuple[str, str, str, str]] = []
        self.writer: PackedWriter

    def run(self) -> PackReport:
        """Packs what is not packed yet, and finishes the set."""
        sources = expand_sources(self.options.sources)
        self.total = len(sources)
        plan = self._plan(sources)
        if (self.out / MANIFEST).exists():
            return self._finished(plan)
        self._start(plan)
        done = self._restore(sources)
        self.samples = SampleTable(self.options.samples) if self.options.samples else None
        self.exclusion = Exclusion(self.options.exclude, self.options.place_decimals)
        self._say(
            f"{len(sources)} shards, {done} packed already; {len(self.exclusion.ids):,} ids and "
            f"{len(self.exclusion.places):,} places to exclude (same to {self.options.place_decimals} decimals of a "
            f"degree); {self.samples.rows if self.samples else 0:,} rows to join"
        )
        with self.writer:
            for number in range(done, len(sources)):
                if self._full():
                    break
                self._pack(number, sources[number])
            return self._finish(plan)

    # -- one source ------------------------------------------------------------------------------------------------

    def _pack(self, number: int, source: str) -> None:
        """Packs one source and records it as finished."""
        first_shard, first_taxon = len(self.writer.shards), len(self.writer.state().taxa)
        first_table, first_refused = len(self.writer.state().tables), len(self.refused)
        with open_source(source) as opened:
            waiting: list[PublishedSample] = []
            for item in self._watch(read_open_source(opened, source_name(source)), number, source):
                if isinstance(item, Refusal):
                    self._refuse(item)
                    continue
                self.report.read += 1
                if self._admit(item):
                    waiting.append(item)
                if len(waiting) == _CHUNK or (waiting and self._full(len(waiting))):
                    self._flush(waiting)
                    waiting = []
                    if self._full():
                        break
            if waiting:
                self._flush(waiting)
            version = opened.version
        self.writer.finish_shard()
        self.report.sources += 1
        state = self.writer.state()
        record = {
            "source": source,
            "version": version,
            "units": self.units,
            "report": asdict(self.report),
            "shards": [asdict(shard) for shard in state.shards[first_shard:]],
            "taxa": [list(taxon) for taxon in state.taxa[first_taxon:]],
            "statistics": self.writer.statistics.to_json(),
        }
        _write_table(self._path(number, "samples.parquet"), _joined(state.tables[first_table:]))
        _write_table(self._path(number, "refused.parquet"), _refused_table(self.refused[first_refused:]))
        # The record comes last: a source that has one is finished.
        text = json.dumps(record)
        write_atomically(self._path(number, "json"), lambda path: path.write_text(text, encoding="utf-8"))

    def _admit(self, sample: PublishedSample) -> bool:
        """Whether a sample is not excluded."""
        shard, key = sample.shard, sample.key
        if name := self.exclusion.by_id(sample.sample_id):
            self.report.excluded_ids += 1
            self.refused.append((shard, key, "excluded", f"sample id {sample.sample_id} is in {name}"))
            return False
        place = float(sample.environment[_LONGITUDE]), float(sample.environment[_LATITUDE])
        if name := self.exclusion.by_place(*place):
            self.report.excluded_places += 1
            self.refused.append((shard, key, "excluded", f"place {place[0]}, {place[1]} is in {name}"))
            return False
        return True

    def _flush(self, samples: list[PublishedSample]) -> None:
        """Rounds, checks, converts and writes up to one chunk."""
        import pandas as pd

        images = np.stack([sample.images for sample in samples])
        np.rint(images, out=images)  # half to even
        with np.errstate(invalid="ignore"):
            outside = np.logical_or(images < 0, images >= MISSING_DN)
        wrong = np.any(outside.reshape(len(samples), -1), axis=1)
        keep = []
        for row, sample in enumerate(samples):
            if wrong[row]:
                place = tuple(np.argwhere(outside[row])[0])
                value = float(sample.images[place])
                reason = f"images.pth has {value!r} at month {place[0] + 1}, band {BANDS[place[1]]}; digital numbers "
                self._refuse(Refusal(sample.shard, sample.key, f"{reason}are 0 to {MISSING_DN - 1}"), counted=True)
            elif sample.sample_id in self.seen:
                self.report.duplicates += 1
                reason = f"sample id {sample.sample_id} came before; the first one is kept"
                self.refused.append((sample.shard, sample.key, "duplicate", reason))
            else:
                self.seen.add(sample.sample_id)
                keep.append(row)
        if not keep:
            return
        chosen = [samples[row] for row in keep]
        missing = np.isnan(images)
        np.copyto(images, MISSING_DN, where=missing)
        raw = np.stack([sample.environment for sample in chosen])
        environment = self._convert(raw, chosen[0].shard)
        ids = [sample.sample_id for sample in chosen]
        # Coordinates in full precision: float32 holds a longitude to a metre or so.
        table = pd.DataFrame({"longitude": raw[:, _LONGITUDE], "latitude": raw[:, _LATITUDE]})
        if self.samples is not None:
            extra, known = self.samples.rows_of(ids)
            self.report.joined += known
            table = pd.concat([table, extra], axis=1)
        self.writer.add(
            images.astype(np.uint16)[keep], environment, [sample.taxon for sample in chosen], ids, samples=table
        )
        self._count_implausible(environment)

    def _convert(self, raw: NDArray[np.float64], shard: str) -> NDArray[np.float32]:
        """Environment in the units of WorldClim 2.1, [N, 27]."""
        if self.options.worldclim == "auto":
            if self.units is None:
                self.units = decide(raw, shard)
                if self.units is not None:
                    self._say(f"temperatures look like WorldClim {self.units}; --worldclim overrides this")
                    self._describe()
            else:
                first, second, _ = votes(raw)
                against = second if self.units == "1" else first
                if against >= 8 and against > (first + second) / 2:
                    raise DataError(
                        f"{shard}: {against} of {len(raw)} samples contradict the units of WorldClim {self.units} that "
                        "the samples before have; pack the two kinds into sets of their own, or state --worldclim"
                    )
        return worldclim1_to_2(raw) if self.units == "1" else raw.astype(np.float32)

    def _count_implausible(self, environment: NDArray[np.float32]) -> None:
        low = np.array([variable.low for variable in VARIABLES], dtype=np.float32)
        high = np.array([variable.high for variable in VARIABLES], dtype=np.float32)
        with np.errstate(invalid="ignore"):
            counts = ((environment < low) | (environment > high)).sum(axis=0)
        for column in np.flatnonzero(counts):
            name = VARIABLE_NAMES[column]
            self.report.implausible[name] = self.report.implausible.get(name, 0) + int(counts[column])

    def _refuse(self, refusal: Refusal, counted: bool = False) -> None:
        if refusal.is_sample:
            self.report.refused += 1
            self.report.read += 0 if counted else 1
        else:
            self.report.notices += 1
        kind = "refused" if refusal.is_sample else "notice"
        self.refused.append((refusal.shard, refusal.key, kind, refusal.reason))
        report = self.report
        if refusal.is_sample and report.refused > self.lenient_share * max(report.read, _LEAST):
            first = next(row for row in self.refused if row[2] == "refused")
            raise DataError(
                f"{report.refused:,} of {report.read:,} samples read are refused, more than the share of "
                f"{self.lenient_share:g} that is tolerated; the first: {first[0]}, {first[1]}: {first[3]}; the last: "
                f"{refusal}; mend or leave out the shards, or go on with a larger --lenient-share"
            )

    def _full(self, waiting: int = 0) -> bool:
        return self.options.limit is not None and self.writer.samples + waiting >= self.options.limit

    # -- start, resume, end ----------------------------------------------------------------------------------------

    def _plan(self, sources: list[str]) -> str:
        """The options and the tables as text: what must be the same for a run to be resumed."""
        tables = {path: _identity(path) for path in (*self.options.samples, *self.options.exclude)}
        return json.dumps({"options": asdict(self.options), "sources": sources, "tables": tables}, indent=1)

    def _start(self, plan: str) -> None:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written: {error.strerror}") from error
        path = self.state / "plan.json"
        if path.exists():
            if path.read_text(encoding="utf-8") != plan:
                raise DataError(
                    f"{self.out}: was begun with other sources, options or tables (see {path}); give the same command "
                    "to go on, or delete the directory to start again"
                )
        else:
            write_atomically(path, lambda target: target.write_text(plan, encoding="utf-8"))

    def _restore(self, sources: list[str]) -> int:
        """Takes up what earlier runs finished; returns the number of finished sources."""
        import pandas as pd

        layout = Manifest(shards=()).columns
        shards, taxa, tables = [], [], []
        statistics = Statistics.empty()
        done = 0
        while done < len(sources) and self._path(done, "json").exists():
            record = _read_record(self._path(done, "json"))
            if record["source"] != sources[done]:
                raise DataError(f"{self.out}: source {done} was {record['source']}, now {sources[done]}; start again")
            with open_source(sources[done]) as opened:
                if opened.version != record["version"]:
                    raise DataError(
                        f"{sources[done]}: has changed since it was packed; delete {self.out} to start again"
                    )
            shards += [shard_from_json(value, layout, self._path(done, "json")) for value in record["shards"]]
            taxa += [Taxon(*taxon) for taxon in record["taxa"]]
            tables.append(pd.read_parquet(self._path(done, "samples.parquet")))
            self.seen.update(tables[-1]["sample_id"].tolist())
            rows = pd.read_parquet(self._path(done, "refused.parquet"))
            self.refused += [tuple(row) for row in rows.itertuples(index=False)]
            statistics = Statistics.from_json(record["statistics"])
            self.report = PackReport(**record["report"])
            self.units = record["units"]
            done += 1
        resume = WriterState(shards, statistics, taxa, tables) if done else None
        self.writer = PackedWriter(
            self.out, shard_samples=self.options.shard_samples, chunk_samples=_CHUNK,
            source=", ".join(sorted({source_name(source) for source in self.options.sources})), resume=resume,
        )  # fmt: skip
        if self.units is not None:
            self._describe()
        return done

    def _describe(self) -> None:
        version = self.units or "2.1"
        self.writer.describe(version, self.options.resolution or _PUBLISHED_RESOLUTION[version])

    def _finish(self, plan: str) -> PackReport:
        report = self.report
        report.packed, report.taxa = self.writer.samples, len(self.writer.state().taxa)
        if not report.packed:
            raise DataError(
                f"{self.out}: no sample could be packed of {report.read} read; first: "
                f"{'; '.join(f'{row[3]} ({row[0]})' for row in self.refused[:1]) or 'the sources are empty'}"
            )
        report.worldclim, report.converted = self.units or "2.1", self.units == "1"
        report.bytes = sum(shard.bytes for shard in self.writer.shards)
        counts = self.writer.statistics.variable.count
        report.never_present = [name for name, count in zip(VARIABLE_NAMES, counts, strict=True) if not count]
        _write_table(self.out / "refused.parquet", _refused_table(self.refused))
        text = json.dumps({"plan": hashlib.sha256(plan.encode()).hexdigest(), **json.loads(report.to_json())}, indent=1)
        write_atomically(self.out / "pack_report.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
        # Fresh and resumed runs both read the tables back, so that both write the same.
        self.writer.reload([self._path(number, "samples.parquet") for number in range(report.sources)])
        self.writer.close()
        shutil.rmtree(self.state)
        return report

    def _finished(self, plan: str) -> PackReport:
        """The report of a set that is complete, if this very command made it."""
        path = self.out / "pack_report.json"
        document = _read_record(path) if path.exists() else {}
        if document.pop("plan", None) != hashlib.sha256(plan.encode()).hexdigest():
            raise DataError(f"{self.out}: holds a finished packed set made in another way; give another directory")
        # A run killed just after the manifest leaves its notes behind.
        shutil.rmtree(self.state, ignore_errors=True)
        self._say(f"{self.out} is packed already")
        return PackReport(**document)

    # -- talk ------------------------------------------------------------------------------------------------------

    def _watch(
        self, items: Iterator[PublishedSample | Refusal], number: int, source: str
    ) -> Iterator[PublishedSample | Refusal]:
        """Passes items on beside a progress bar that counts samples."""
        if not self.progress:
            yield from items
            return
        from tqdm import tqdm

        with tqdm(
            items,
            desc=f"{number + 1}/{self.total} {source_name(source)}",
            unit=" samples",
            unit_scale=True,
            disable=None,
        ) as bar:
            yield from bar

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    def _path(self, number: int, suffix: str) -> Path:
        return self.state / f"source-{number:05d}.{suffix}"


def _identity(path: str) -> str:
    """SHA-256 of a table."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read_record(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete the directory to start again") from error
    return document


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"sample_id": pd.array([], dtype="string")})


def _refused_table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(_REFUSED_COLUMNS), dtype="string")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda target: table.to_parquet(target, index=False))
