"""The writer of packed shards: samples in, shards with manifest, taxonomy, statistics and table of samples out.

Files are written under a temporary name, synced and renamed, and the manifest comes last: a directory that has one is
complete. The same samples in the same calls give the same bytes.

Shape letters: N samples, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.data.licences import NOT_STATED, count_rights
from geotreeclip.data.manifest import MANIFEST, Manifest, Shard, check_size, sha256_file
from geotreeclip.data.shardfile import ShardFile, write_atomically
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import DataError
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SAMPLE_COLUMNS", "PackedWriter", "WriterState", "to_digital_numbers"]

SAMPLE_COLUMNS = ("sample_id", "taxon", "longitude", "latitude", "year", "country", "source", "rarity")
"""Columns that every samples.parquet has, in this order; more may follow."""

TaxaLike: TypeAlias = "Sequence[Taxon] | Sequence[int] | NDArray[np.integer[Any]]"

_OWN_FILES = re.compile(r"(shard-\d{6}\.tar|\.partial-.*)")
_MAX_ID_BYTES = 256


def to_digital_numbers(images: ArrayLike) -> NDArray[np.uint16]:
    """Rounds digital numbers for storage: half to even, NaN to 65535.

    Args:
        images: floating-point digital numbers of any shape, NaN where missing.

    Returns:
        uint16 of the same shape; at most 0.5 digital numbers away.

    Raises:
        DataError: a value is infinite or, rounded, outside 0 to 65534; states it.
    """
    values = np.asarray(images, dtype=np.float64)
    rounded = np.rint(values)
    missing = np.isnan(rounded)
    with np.errstate(invalid="ignore"):
        wrong = ~missing & ~((rounded >= 0) & (rounded < MISSING_DN))
    if wrong.any():
        raise DataError(
            f"digital number {float(values[wrong][0])!r} is outside 0 to {MISSING_DN - 1} ({int(wrong.sum())} such "
            "values); remove the radiometric offset or mark the pixel as missing"
        )
    return np.where(missing, MISSING_DN, rounded).astype(np.uint16)


class _Rows(NamedTuple):
    """Samples waiting to be written."""

    images: NDArray[np.uint16] | None
    environment: NDArray[np.float32]
    taxon: NDArray[np.int32]
    sample_id: NDArray[np.bytes_]
    days: NDArray[np.float32] | None

    def cut(self, low: int, high: int | None = None) -> _Rows:
        """Some of the rows, as views."""
        part = slice(low, high)
        return _Rows(
            None if self.images is None else self.images[part], self.environment[part], self.taxon[part],
            self.sample_id[part], None if self.days is None else self.days[part],
        )  # fmt: skip


class WriterState(NamedTuple):
    """What a writer has finished, for another one to go on from.

    Attributes:
        shards: the finished shards.
        statistics: statistics of their samples.
        taxa: the taxa so far, in order.
        tables: rows of samples.parquet so far.
    """

    shards: list[Shard]
    statistics: Statistics
    taxa: list[Taxon]
    tables: list[pd.DataFrame]


class PackedWriter:
    """Writes a packed directory; use it as a context manager.

    Args:
        out: the directory, made if absent; left-overs of an interrupted writer in it are replaced.
        taxonomy: the table of taxa; None collects the taxa in the order in which they come.
        has_images: False for sets of environment and location only.
        bands: names of the bands.
        steps: T. Other than 12 calendar months needs `days`.
        size: H and W.
        has_days: whether every sample brings the first and last day of its steps.
        shard_samples: samples per shard, rounded up to whole chunks.
        chunk_samples: samples per member.
        source: where the samples come from, in words.
        worldclim: WorldClim version that the values come from; their units are always those of version 2.1.
        resolution: resolution of the environmental rasters, in words.
        overwrite: whether a finished set in `out` may be replaced.
        resume: what an earlier writer finished in `out`; its shards are kept.

    Raises:
        DataError: `out` holds a finished set, or cannot be written.
    """

    def __init__(
        self, out: Path | str, taxonomy: Taxonomy | None = None, *, has_images: bool = True,
        bands: Sequence[str] = BANDS, steps: int = MONTHS, size: tuple[int, int] = (PATCH, PATCH),
        has_days: bool = False, shard_samples: int = 8192, chunk_samples: int = 512, source: str = "",
        worldclim: str = "2.1", resolution: str = "", overwrite: bool = False,
        resume: WriterState | None = None,
    ) -> None:  # fmt: skip
        if chunk_samples < 1 or shard_samples < 1:
            raise DataError(f"shards of {shard_samples} and chunks of {chunk_samples} samples: both must be positive")
        if has_images and steps != MONTHS and not has_days:
            raise DataError(f"{steps} time steps are not the {MONTHS} calendar months: give has_days=True and the days")
        self.out = Path(out)
        self.taxonomy = taxonomy
        self._taxon_rows = {taxon: row for row, taxon in enumerate(taxonomy)} if taxonomy is not None else {}
        self._chunk_samples = chunk_samples
        self._shard_chunks = -(-shard_samples // chunk_samples)
        self._layout = Manifest(
            shards=(), has_images=has_images, steps=steps if has_images else 0, bands=tuple(bands),
            height=size[0] if has_images else 0, width=size[1] if has_images else 0,
            has_days=has_days and has_images, worldclim=worldclim, resolution=resolution, source=source,
        )  # fmt: skip
        self.statistics = Statistics.empty(bands, worldclim=worldclim, resolution=resolution)
        self.shards: list[Shard] = []
        self._tables: list[pd.DataFrame] = []
        if resume is not None:
            self.shards, self._tables = list(resume.shards), list(resume.tables)
            self.statistics = resume.statistics
            self._taxon_rows = {taxon: row for row, taxon in enumerate(resume.taxa)}
        self._waiting: list[_Rows] = []
        self._waiting_samples = 0
        self._tar: ShardFile | None = None
        self._closed = False
        self._prepare(overwrite)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.discard()

    @property
    def samples(self) -> int:
        """Samples added so far."""
        return sum(len(table) for table in self._tables)

    def add(
        self, images: NDArray[np.uint16] | None, environment: ArrayLike, taxa: TaxaLike,
        sample_id: Sequence[str], samples: pd.DataFrame | None = None, days: ArrayLike | None = None,
    ) -> None:  # fmt: skip
        """Adds samples.

        Args:
            images: uint16 [N, T, C, H, W] digital numbers, 65535 where missing; None without imagery.
            environment: [N, 27] in the units of the schema, NaN where missing.
            taxa: N taxa, or their rows in the taxonomy.
            sample_id: N ids, unique in the set.
            samples: further columns of samples.parquet, N rows (year, country, source, rarity, or any other);
                longitude and latitude default to the environment's.
            days: [N, T, 2] first and last day of each step, for a writer made with has_days.

        Raises:
            DataError: a shape, type or value is wrong; names the sample and the column.
        """
        ids = [str(name) for name in sample_id]
        layout = self._layout
        count = len(ids)
        if count == 0:
            return
        table = np.ascontiguousarray(environment, dtype=np.float32)
        self._expect("environment", table, (count, len(VARIABLE_NAMES)))
        if np.isinf(table).any():
            row, column = (int(place[0]) for place in np.nonzero(np.isinf(table)))
            raise DataError(f"sample {ids[row]!r}: {VARIABLE_NAMES[column]} is infinite; give NaN where it is missing")
        if layout.has_images:
            if not isinstance(images, np.ndarray) or images.dtype != np.uint16:
                found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
                raise DataError(f"images are {found}, expected uint16 digital numbers; see to_digital_numbers")
            self._expect("images", images, (count, *layout.image_shape))
        elif images is not None and images.size:
            raise DataError("images given to a writer made with has_images=False; make it with has_images=True")
        dates = None
        if layout.has_days:
            dates = np.ascontiguousarray(days, dtype=np.float32)
            self._expect("days", dates, (count, layout.steps, 2))
        elif days is not None:
            raise DataError("days given to a writer made with has_days=False; make it with has_days=True")
        rows = self._rows(taxa, ids)
        encoded = [_encode_id(name) for name in ids]
        self._tables.append(_sample_table(ids, rows, table, samples))
        self.statistics = self.statistics.updated(images if layout.has_images else None, table)
        self._waiting.append(
            _Rows(np.ascontiguousarray(images) if layout.has_images and images is not None else None, table, rows,
                  np.array(encoded, dtype=np.bytes_), dates)
        )  # fmt: skip
        self._waiting_samples += count
        while self._waiting_samples >= self._chunk_samples:
            self._write_chunk(self._chunk_samples)

    def finish_shard(self) -> None:
        """Writes what waits and closes the current shard, so that the next sample starts a new one."""
        if self._waiting_samples:
            self._write_chunk(self._waiting_samples)
        if self._tar is not None:
            self.shards.append(self._tar.finish())
            self._tar = None

    def describe(self, worldclim: str, resolution: str) -> None:
        """States where the climate values come from, once that is known."""
        self._layout = replace(self._layout, worldclim=worldclim, resolution=resolution)
        self.statistics = replace(self.statistics, worldclim=worldclim, resolution=resolution)

    def reload(self, paths: Sequence[Path]) -> None:
        """Takes the rows of samples.parquet from files that hold the very same rows."""
        import pandas as pd

        tables = [pd.read_parquet(path) for path in paths]
        self._tables = [table for table in tables if len(table)]

    def state(self) -> WriterState:
        """What is finished; call `finish_shard` first."""
        return WriterState(list(self.shards), self.statistics, list(self._taxon_rows), list(self._tables))

    def close(self) -> None:
        """Writes the rest, the tables and, last, the manifest.

        Raises:
            DataError: a sample id comes twice, or a file cannot be written.
        """
        import pandas as pd

        if self._closed:
            return
        self.finish_shard()
        taxonomy = self.taxonomy if self.taxonomy is not None else Taxonomy(list(self._taxon_rows))
        if self._tables:
            table = pd.concat(self._tables, ignore_index=True)
        else:
            table = pd.DataFrame({name: [] for name in SAMPLE_COLUMNS})
        repeated = table["sample_id"].duplicated()
        if repeated.any():
            raise DataError(
                f"{self.out}: sample id {table['sample_id'][repeated].iloc[0]!r} comes twice ({int(repeated.sum())} "
                "repeats); ids must be unique"
            )
        write_atomically(self.out / "taxonomy.parquet", taxonomy.write)
        write_atomically(self.out / "statistics.json", self.statistics.write)
        write_atomically(self.out / "samples.parquet", lambda path: table.to_parquet(path, index=False))
        files = {
            name: {"bytes": (self.out / name).stat().st_size, "sha256": sha256_file(self.out / name)}
            for name in ("taxonomy.parquet", "statistics.json", "samples.parquet")
        }
        licences, datasets = count_rights(table)
        manifest = replace(
            self._layout, shards=tuple(self.shards), files=files, licences=licences,
            datasets=len(datasets.keys() - {NOT_STATED}),
        )  # fmt: skip
        write_atomically(self.out / MANIFEST, lambda path: path.write_text(manifest.to_json(), encoding="utf-8"))
        self._closed = True

    def _prepare(self, overwrite: bool) -> None:
        kept = {shard.name for shard in self.shards}
        for shard in self.shards:
            check_size(self.out / shard.name, shard.bytes)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if (self.out / MANIFEST).exists():
                if not overwrite:
                    raise DataError(f"{self.out}: holds a finished packed set; give another directory or overwrite it")
                # The manifest goes first: without it no reader takes the rest for a set.
                (self.out / MANIFEST).unlink()
            for entry in self.out.iterdir():
                if _OWN_FILES.fullmatch(entry.name) and entry.name not in kept:
                    entry.unlink()
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written: {error.strerror}") from error

    def _expect(self, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise DataError(f"{name} has shape {array.shape}, expected {shape} for {shape[0]} sample ids")

    def _rows(self, taxa: TaxaLike, ids: Sequence[str]) -> NDArray[np.int32]:
        if isinstance(taxa, np.ndarray) or not isinstance(next(iter(taxa), None), tuple):
            rows = np.asarray(taxa)
            if rows.shape != (len(ids),) or rows.dtype.kind not in "iu":
                raise DataError(f"taxa are {rows.dtype} {rows.shape}, expected {len(ids)} taxa or rows of the taxonomy")
            size = len(self._taxon_rows)
            wrong = (rows < 0) | (rows >= size)
            if wrong.any():
                first = int(np.argmax(wrong))
                raise DataError(f"sample {ids[first]!r}: taxon row {rows[first]}, the taxonomy has {size} rows")
            return rows.astype(np.int32)
        result = np.empty(len(ids), dtype=np.int32)
        listed = list(cast("Sequence[Taxon]", taxa))
        if len(listed) != len(ids):
            raise DataError(f"{len(listed)} taxa given for {len(ids)} sample ids")
        for number, stated in enumerate(listed):
            taxon = Taxon(*(part.strip() for part in stated))  # as tables of taxa are read
            row = self._taxon_rows.get(taxon)
            if row is None:
                if self.taxonomy is not None:
                    raise DataError(f"sample {ids[number]!r}: its taxon {tuple(taxon)} is not in the taxonomy given")
                row = self._taxon_rows[taxon] = len(self._taxon_rows)
            result[number] = row
        return result

    def _write_chunk(self, count: int) -> None:
        """Writes the next `count` waiting samples as one chunk."""
        taken: list[_Rows] = []
        missing = count
        while missing:
            rows = self._waiting.pop(0)
            size = len(rows.taxon)
            if size > missing:
                self._waiting.insert(0, rows.cut(missing))
                rows, size = rows.cut(0, missing), missing
            taken.append(rows)
            missing -= size
        self._waiting_samples -= count
        columns: dict[str, NDArray[Any]] = {}
        for name in self._layout.columns:
            parts = [getattr(rows, name) for rows in taken]
            columns[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if self._tar is None:
            self._tar = ShardFile(self.out, f"shard-{len(self.shards):06d}.tar")
        self._tar.write(columns)
        if len(self._tar.chunks) == self._shard_chunks:
            self.shards.append(self._tar.finish())
            self._tar = None


def _encode_id(name: str) -> bytes:
    encoded = name.encode("utf-8")
    if not 0 < len(encoded) <= _MAX_ID_BYTES or b"\0" in encoded:
        raise DataError(f"sample id {name!r:.60} must have 1 to {_MAX_ID_BYTES} bytes of UTF-8 and no NUL")
    return encoded


def _sample_table(
    ids: Sequence[str], taxon: NDArray[np.int32], environment: NDArray[np.float32], extra: pd.DataFrame | None
) -> pd.DataFrame:
    """Rows of samples.parquet, always with the same leading columns and types, so that tables can be joined."""
    import pandas as pd

    if extra is not None and len(extra) != len(ids):
        raise DataError(f"the table of samples has {len(extra)} rows for {len(ids)} sample ids")
    given = {} if extra is None else {str(name): extra[name].reset_index(drop=True) for name in extra.columns}
    table = pd.DataFrame({"sample_id": pd.array(list(ids), dtype="string"), "taxon": taxon})
    for name in ("longitude", "latitude"):
        values = given.pop(name) if name in given else pd.Series(environment[:, VARIABLE_NAMES.index(name)])
        table[name] = pd.to_numeric(values).astype("float64")
    year = given.pop("year", None)
    table["year"] = pd.array([pd.NA] * len(ids), dtype="Int32") if year is None else year.astype("Int32")
    for name in ("country", "source", "rarity"):
        text = given.pop(name, None)
        table[name] = pd.array([pd.NA] * len(ids), dtype="string") if text is None else text.astype("string")
    for name, values in given.items():
        if name not in table.columns:
            table[name] = values
    return table
