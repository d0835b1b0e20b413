"""The parts of the work: reading a source and judging a chunk here, repeats and settling in `settling`.

    read      a source            -> chunks of rows in one form, and their distinct taxa
    judge     a chunk             -> its rows with the rules that they fail, sorted into buckets of species, and ids
    repeats   a bucket of ids     -> rows whose id came before
    settle    a bucket of species -> the rows kept and refused, in their final order

Buckets follow from the numbers of rows of each species alone, and the final order from species, place, source and row:
neither depends on chunks, workers or the order in which parts end. N rows of a part.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.occurrences.groups import COMPRESSION, write_groups
from geotreeclip.prep.occurrences.normalise import normalise
from geotreeclip.prep.occurrences.rules import (
    BITS,
    RULES,
    RowJudge,
    RuleOptions,
    first_reason,
    judge_rows,
    row_values,
)
from geotreeclip.prep.occurrences.sources import Source
from geotreeclip.prep.occurrences.tables import Batch, read_batches
from geotreeclip.prep.occurrences.taxa import TAXON_RULES

__all__ = ["CHUNK_ROWS", "Judging", "Reading", "judge_chunk", "read_source"]

CHUNK_ROWS = 200_000
"""Rows of a chunk, a little more where a batch crosses the line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Payload: a source, its place among all, and the rows of a chunk."""

    source: Source
    chunk_rows: int = CHUNK_ROWS


def read_source(payload: Reading, folder: Path) -> dict[str, Any]:
    """Read a source into chunks: `rows-N.parquet` and `taxa-N.parquet`.

    A source is one stream and so one part; a second thread brings a chunk into form while the next is being read.
    """
    chunks: list[Future[int]] = []
    held: list[Batch] = []
    rows = 0
    with ThreadPoolExecutor(1) as writer:
        for batch in read_batches(payload.source):
            held.append(batch)
            rows += len(batch.rows) + len(batch.unreadable)
            if rows >= payload.chunk_rows:
                wait(chunks[-1:])
                chunks.append(writer.submit(_write_chunk, payload.source, held, folder, len(chunks)))
                held, rows = [], 0
        if held:
            chunks.append(writer.submit(_write_chunk, payload.source, held, folder, len(chunks)))
        return {"rows": [chunk.result() for chunk in chunks]}


def _write_chunk(source: Source, batches: list[Batch], folder: Path, number: int) -> int:
    import pyarrow.parquet as pq

    table, taxa = normalise(batches, source.defaults)
    pq.write_table(table, folder / f"rows-{number:05d}.parquet", compression=COMPRESSION)
    pq.write_table(taxa, folder / f"taxa-{number:05d}.parquet", compression=COMPRESSION)
    return int(table.num_rows)


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
            **{name: _texts(rows[name]) for name in ("source", "license", "dataset_key", "rights_holder")},
            "uncertainty_m": pa.array(judge.uncertainty),
            "failing": pa.array(judge.failing),
            "value": _values(judge, taxa, taxon, masked),
        }
    )
    groups = write_groups(folder / "rows.parquet", table, bucket)
    hashed = id_hash(sample_id)
    ids = pa.table(
        {"sample_id": sample_id, "failing": table["failing"], "file": table["file"], "row": table["row"],
         "bucket": pa.array(bucket)}
    )  # fmt: skip
    id_groups = write_groups(folder / "ids.parquet", ids, (hashed % np.uint64(payload.id_buckets)).astype(np.int32))
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
    from geotreeclip.prep.mosaic import sample_raster

    known = np.flatnonzero(judge.failing & (BITS["coordinates"] | BITS["range"] | BITS["readable"]) == 0)
    known = known[np.isfinite(judge.longitude[known]) & np.isfinite(judge.latitude[known])]
    if len(known):
        value[known], _ = sample_raster(payload.mask, judge.longitude[known], judge.latitude[known])
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
