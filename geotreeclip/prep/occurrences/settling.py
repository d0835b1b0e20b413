"""Repeated records and duplicates, bucket by bucket, and the final order. N rows of a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.occurrences.groups import COMPRESSION, Groups, read_groups, write_groups
from geotreeclip.prep.occurrences.outputs import counts_of, kept_table, refused_table
from geotreeclip.prep.occurrences.rules import BITS, RuleOptions, first_reason

__all__ = ["IdBucket", "Settling", "find_repeats", "settle"]


@dataclass(frozen=True, slots=True)
class IdBucket:
    """Payload: the row groups of a bucket of ids."""

    groups: Groups


def find_repeats(payload: IdBucket, folder: Path) -> dict[str, Any]:
    """Find rows whose id another row has that passes the other rules or, among such, came before."""
    import pyarrow as pa

    table = read_groups(payload.groups)
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
    return {"buckets": write_groups(folder / "repeats.parquet", repeats, table["bucket"].to_numpy()[again])}


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

    table = read_groups(payload.groups)
    failing = table["failing"].to_numpy().copy()
    value: dict[int, str] = {}
    repeated = _repeated(table, payload, value)
    if payload.options.active("repeated"):
        failing[repeated] |= BITS["repeated"]
    alone = _duplicates(table, failing, payload.options, value)
    order = np.lexsort(tuple(table[name].to_numpy() for name in ("row", "file", "place", "order")))
    kept, refused = order[failing[order] == 0], order[failing[order] > 0]
    frame = pq.read_table(payload.judged, columns=["leaf_type", "family", "genus", "species", "taxon_key", "given"])
    pq.write_table(kept_table(table, kept, frame, payload.options), folder / "kept.parquet", compression=COMPRESSION)
    reason = first_reason(failing)
    pq.write_table(
        refused_table(table, refused, frame, reason, failing, value, payload.labels), folder / "refused.parquet",
        compression=COMPRESSION,
    )  # fmt: skip
    pq.write_table(counts_of(table, failing, reason), folder / "counts.parquet", compression=COMPRESSION)
    return {"kept": len(kept), "refused": len(refused), "repeated": len(repeated), "duplicate": alone}


def _repeated(table: Any, payload: Settling, value: dict[int, str]) -> NDArray[np.int64]:
    """Rows of the table that are repeats; says of what."""
    repeats = read_groups(payload.repeats)
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
    return np.asarray(places)


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
    value.update(zip(again.tolist(), table["sample_id"].take(first[~begins]).to_pylist(), strict=True))
    return alone
