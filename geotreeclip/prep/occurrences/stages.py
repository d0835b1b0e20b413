"""The parts of the work: reading a source, judging a chunk, finding repeated ids, settling a bucket.

    read      a source            -> chunks of rows in one form, and their distinct taxa
    judge     a chunk             -> its rows with the rules that they fail, sorted into buckets of species, and ids
    repeats   a bucket of ids     -> rows whose id came before
    settle    a bucket of species -> the rows kept and refused, in their final order

Buckets follow from the numbers of rows of each species alone, and the final order from species, place, source and row:
neither depends on chunks, workers or the order in which parts end. N rows of a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.occurrences.normalise import normalise
from geotreeclip.prep.occurrences.rules import (
    BITS,
    RULES,
    RowJudge,
    RuleOptions,
    first_reason,
    judge_rows,
    names_of,
    row_values,
)
from geotreeclip.prep.occurrences.sources import Source
from geotreeclip.prep.occurrences.tables import Batch, read_batches
from geotreeclip.prep.occurrences.taxa import TAXON_RULES

__all__ = [
    "CHUNK_ROWS",
    "IdBucket",
    "Judging",
    "Reading",
    "Settling",
    "find_repeats",
    "judge_chunk",
    "read_source",
    "settle",
]

CHUNK_ROWS = 200_000
"""Rows of a chunk, a little more where a batch crosses the line."""

_COMPRESSION = "zstd"
Groups = list[tuple[str, int]]
"""Row groups of Parquet files: path and number."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Payload: a source, its place among all, and the rows of a chunk."""

    source: Source
    chunk_rows: int = CHUNK_ROWS


def read_source(payload: Reading, folder: Path) -> dict[str, Any]:
    """Read a source into chunks: `rows-N.parquet` and `taxa-N.parquet`."""
    import pyarrow.parquet as pq

    rows: list[int] = []
    held: list[Batch] = []

    def write() -> None:
        table, taxa = normalise(held, payload.source.defaults)
        name = f"{len(rows):05d}.parquet"
        pq.write_table(table, folder / f"rows-{name}", compression=_COMPRESSION, compression_level=1)
        pq.write_table(taxa, folder / f"taxa-{name}", compression=_COMPRESSION)
        rows.append(table.num_rows)
        held.clear()

    for batch in read_batches(payload.source):
        held.append(batch)
        if sum(len(part.rows) + len(part.unreadable) for part in held) >= payload.chunk_rows:
            write()
    if held:
        write()
    return {"rows": rows}


@dataclass(frozen=True, slots=True)
class Judging:
    """Payload: a chunk of a source, the judged taxa, and the rules."""

    rows: str
    taxa: str
    file: int
    label: str
    judged: str
    id_buckets: int
    options: RuleOptions
    mask: str = ""


def judge_chunk(payload: Judging, folder: Path) -> dict[str, Any]:
    """Judge the rows of a chunk: `rows.parquet` by bucket of species, `ids.parquet` by bucket of ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows, taxa = pq.read_table(payload.rows), _judged(payload.judged)
    judge = judge_rows(rows, payload.options)
    local = pq.read_table(payload.taxa, columns=["taxon"])["taxon"].to_pylist()
    taxon = np.array([taxa.place[text] for text in local], np.int32)[rows["taxon"].to_numpy()]
    judge.failing |= taxa.failing[taxon]
    masked = _mask(judge, payload)
    number = rows["row"].to_numpy()
    given = pc.fill_null(rows["id"], "")
    sample_id = pc.if_else(pc.equal(given, ""), pa.array([f"{payload.label}-{row}" for row in number.tolist()]), given)
    place = place_hash(judge.longitude, judge.latitude, payload.options.duplicate_decimals, payload.file, number)
    bucket = taxa.bucket[taxon] + ((place >> np.uint64(32)) * taxa.split[taxon] >> np.uint64(32)).astype(np.int32)
    table = pa.table(
        {
            "file": pa.array(np.full(len(number), payload.file, np.int32)),
            "row": pa.array(number),
            "sample_id": sample_id,
            "taxon": pa.array(taxon),
            "order": pa.array(taxa.order[taxon]),
            "place": pa.array(place),
            "longitude": pa.array(judge.longitude),
            "latitude": pa.array(judge.latitude),
            **{name: rows[name] for name in ("year", "month", "day")},
            "country": _texts(rows["country"]),
            "source": _texts(rows["source"]),
            "uncertainty_m": pa.array(judge.uncertainty),
            "failing": pa.array(judge.failing),
            "value": _values(judge, taxa, taxon, masked),
        }
    )
    groups = _write_groups(folder / "rows.parquet", table, bucket)
    hashed = id_hash(sample_id)
    ids = pa.table(
        {"sample_id": sample_id, "failing": table["failing"], "file": table["file"], "row": table["row"],
         "bucket": pa.array(bucket)}
    )  # fmt: skip
    id_groups = _write_groups(folder / "ids.parquet", ids, (hashed % np.uint64(payload.id_buckets)).astype(np.int32))
    alone = {rule.name: int((judge.failing & BITS[rule.name] > 0).sum()) for rule in RULES}
    return {
        "rows": table.num_rows,
        "buckets": groups,
        "id_buckets": id_groups,
        "alone": alone,
        "not_testable": judge.not_testable,
    }


@dataclass(slots=True)
class _Judged:
    """The judged taxa as arrays [T]."""

    place: dict[str, int]
    failing: NDArray[np.uint32]
    order: NDArray[np.int32]
    bucket: NDArray[np.int32]
    split: NDArray[np.uint64]
    texts: dict[str, list[str]]


@lru_cache(maxsize=1)
def _judged(path: str) -> _Judged:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    numbers = {name: table[name].to_numpy() for name in ("failing", "order", "bucket", "split")}
    return _Judged(
        {text: place for place, text in enumerate(table["taxon"].to_pylist())},
        numbers["failing"].astype(np.uint32), numbers["order"].astype(np.int32), numbers["bucket"].astype(np.int32),
        numbers["split"].astype(np.uint64), {rule: table[f"saw_{rule}"].to_pylist() for rule in TAXON_RULES},
    )  # fmt: skip


def _mask(judge: RowJudge, payload: Judging) -> NDArray[np.float64]:
    """Values of the mask raster [N], where there is one."""
    value = np.full(len(judge.failing), np.nan)
    if not payload.mask or not judge.options.active("mask"):
        return value
    from geotreeclip.prep.rasters import sample_rasters

    known = np.flatnonzero(judge.failing & (BITS["coordinates"] | BITS["range"] | BITS["readable"]) == 0)
    known = known[np.isfinite(judge.longitude[known]) & np.isfinite(judge.latitude[known])]
    if len(known):
        value[known], _ = sample_rasters([Path(payload.mask)], judge.longitude[known], judge.latitude[known], "nearest")
    refused = np.zeros(len(value), bool)
    refused[known] = ~(value[known] >= judge.options.mask_min)
    judge.refuse("mask", refused)
    return value


def _values(judge: RowJudge, taxa: _Judged, taxon: NDArray[np.int32], mask: NDArray[np.float64]) -> Any:
    """What the first failing rule of each row saw, null where none fails."""
    import pyarrow as pa

    reason = first_reason(judge.failing)
    values = np.full(len(reason), None, object)
    for place in np.unique(reason[reason >= 0]).tolist():
        rows = np.flatnonzero(reason == place)
        name = RULES[place].name
        if name in TAXON_RULES:
            seen = np.array(taxa.texts[name], object)
            values[rows] = seen[taxon[rows]]
        elif name == "mask":
            values[rows] = [f"{value:g}" if value == value else "no data" for value in mask[rows].tolist()]
        else:
            values[rows] = row_values(judge, place, rows)
    return pa.array(values.tolist(), pa.string()).dictionary_encode()


def _texts(column: Any) -> Any:
    """A dictionary column with missing texts empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return pa.array([""] * len(column), pa.string()).dictionary_encode()
    return pc.fill_null(column.cast(pa.string()), "").dictionary_encode() if column.null_count else column


def place_hash(
    x: NDArray[np.float64], y: NDArray[np.float64], decimals: int, file: int, row: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A number that is equal for equal places; of the row where there is no place [N]."""
    known = np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e6) & (np.abs(y) < 1e6)
    scale = 10.0**decimals
    first = np.where(known, np.round(np.where(known, x, 0) * scale).astype(np.int64), row)
    second = np.where(known, np.round(np.where(known, y, 0) * scale).astype(np.int64), file + (1 << 50))
    return mix(mix(first.astype(np.uint64)) ^ second.astype(np.uint64))


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection that spreads all bits."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def id_hash(ids: Any) -> NDArray[np.uint64]:
    """A number that is equal for equal ids [N]."""
    import pandas as pd

    return np.asarray(pd.util.hash_array(np.asarray(ids.to_pylist(), dtype=object), categorize=False))


def _write_groups(path: Path, table: Any, bucket: NDArray[np.int32]) -> list[int]:
    """Write a table with one row group for a bucket; returns the buckets in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.argsort(bucket, kind="stable")
    table, bucket = table.take(pa.array(order)).combine_chunks(), bucket[order]
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    ends = [*starts[1:].tolist(), len(bucket)]
    with pq.ParquetWriter(path, table.schema, compression=_COMPRESSION, compression_level=1) as writer:
        for start, end in zip(starts.tolist(), ends, strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=max(1, end - start))
    return [int(number) for number in bucket[starts]]


def _read_groups(groups: Iterable[tuple[str, int]], columns: Sequence[str] | None = None) -> Any:
    """Row groups of several files as one table, or None where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path, number in groups:
        with pq.ParquetFile(path) as file:
            tables.append(file.read_row_group(number, columns=columns))
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries() if tables else None


@dataclass(frozen=True, slots=True)
class IdBucket:
    """Payload: the row groups of a bucket of ids."""

    groups: Groups


def find_repeats(payload: IdBucket, folder: Path) -> dict[str, Any]:
    """Find rows whose id another row has that passes the other rules or, among such, came before."""
    import pyarrow as pa

    table = _read_groups(payload.groups)
    ids = table["sample_id"].to_pandas()
    if not ids.duplicated().any():
        return {"buckets": []}
    file, row, failing = (table[name].to_numpy() for name in ("file", "row", "failing"))
    code = ids.factorize()[0]
    order = np.lexsort((row, file, failing > 0, code))
    again = np.flatnonzero(np.diff(code[order], prepend=-1) == 0)
    first = np.flatnonzero(np.diff(code[order], prepend=-1) != 0)
    kept = order[first[np.searchsorted(first, again, side="right") - 1]]
    again = order[again]
    repeats = pa.table(
        {"file": pa.array(file[again]), "row": pa.array(row[again]), "of_file": pa.array(file[kept]),
         "of_row": pa.array(row[kept])}
    )  # fmt: skip
    return {"buckets": _write_groups(folder / "repeats.parquet", repeats, table["bucket"].to_numpy()[again])}


@dataclass(frozen=True, slots=True)
class Settling:
    """Payload: the row groups of a bucket of species, the repeats among them, and what the outputs need."""

    groups: Groups
    repeats: Groups
    judged: str
    labels: tuple[str, ...]
    options: RuleOptions


def settle(payload: Settling, folder: Path) -> dict[str, Any]:
    """Refuse repeats and duplicates of a bucket and write what is kept and refused in the final order."""
    import pyarrow.parquet as pq

    from geotreeclip.prep.occurrences.outputs import counts_of, kept_table, refused_table

    table = _read_groups(payload.groups)
    failing = table["failing"].to_numpy().copy()
    value: dict[int, str] = {}
    repeated = _repeated(table, payload, value)
    if payload.options.active("repeated"):
        failing[repeated] |= BITS["repeated"]
    alone = _duplicates(table, failing, payload.options, value)
    order = np.lexsort(tuple(table[name].to_numpy() for name in ("row", "file", "place", "order")))
    kept, refused = order[failing[order] == 0], order[failing[order] > 0]
    frame = pq.read_table(payload.judged, columns=["leaf_type", "family", "genus", "species", "taxon_key", "given"])
    pq.write_table(kept_table(table, kept, frame, payload.options), folder / "kept.parquet", compression=_COMPRESSION)
    reason = first_reason(failing)
    pq.write_table(
        refused_table(table, refused, frame, reason, failing, value, payload.labels), folder / "refused.parquet",
        compression=_COMPRESSION,
    )  # fmt: skip
    pq.write_table(counts_of(table, failing, reason), folder / "counts.parquet", compression=_COMPRESSION)
    return {"kept": len(kept), "refused": len(refused), "repeated": len(repeated), "duplicate": alone}


def _repeated(table: Any, payload: Settling, value: dict[int, str]) -> NDArray[np.int64]:
    """Rows of the table that are repeats; says of what."""
    repeats = _read_groups(payload.repeats)
    if repeats is None:
        return np.empty(0, np.int64)
    key = table["file"].to_numpy().astype(np.int64) << 40 | table["row"].to_numpy()
    again = repeats["file"].to_numpy().astype(np.int64) << 40 | repeats["row"].to_numpy()
    order = np.argsort(key)
    places = order[np.searchsorted(key[order], again)]
    for place, file, row in zip(
        places.tolist(), repeats["of_file"].to_pylist(), repeats["of_row"].to_pylist(), strict=True
    ):
        value[place] = f"row {row} of {payload.labels[file]}"
    return places


def _duplicates(table: Any, failing: NDArray[np.uint32], options: RuleOptions, value: dict[int, str]) -> int:
    """Refuse all but one record of a species at a place: the most precise, of those the latest, of those the first.

    Returns:
        How many this rule alone would refuse.
    """
    scale = 10.0**options.duplicate_decimals
    x, y = table["longitude"].to_numpy(), table["latitude"].to_numpy()
    placed = np.isfinite(x) & np.isfinite(y) & (np.abs(x) <= 180) & (np.abs(y) <= 90)
    placed &= failing & BITS["name"] == 0
    columns = {name: table[name].to_numpy() for name in ("order", "row", "file")}
    year = table["year"].fill_null(0).to_numpy()
    uncertainty = np.nan_to_num(table["uncertainty_m"].to_numpy(), nan=np.inf)

    def groups(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows sorted by species and place, the best first, and where a group begins."""
        east, north = np.round(x[rows] * scale), np.round(y[rows] * scale)
        species = columns["order"][rows]
        order = np.lexsort(
            (columns["row"][rows], columns["file"][rows], -year[rows], uncertainty[rows], north, east, species)
        )
        changed = np.ones(len(rows), bool)
        changed[1:] = np.any(np.diff(np.stack([species, east, north])[:, order], axis=1) != 0, axis=0)
        return rows[order], changed

    everything, begins = groups(np.flatnonzero(placed))
    if not options.active("duplicate"):
        return 0
    alone = int(len(everything) - begins.sum())
    rows, begins = groups(np.flatnonzero(placed & (failing == 0)))
    first = rows[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))] if len(rows) else rows
    again = rows[~begins]
    failing[again] |= BITS["duplicate"]
    for place, sample in zip(again.tolist(), table["sample_id"].take(first[~begins]).to_pylist(), strict=True):
        value[place] = sample
    return alone


def other_reasons(failing: NDArray[np.uint32], reason: NDArray[np.int8]) -> list[str]:
    """Names of the rules that fail besides the first [N]."""
    named: dict[int, str] = {}
    others = failing & ~(np.uint32(1) << reason.astype(np.uint32))
    return [named.setdefault(bits, names_of(bits)) for bits in others.tolist()]
