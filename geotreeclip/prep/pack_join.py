"""What belongs together: occurrences, imagery, environment and sets, joined by sample id before anything is packed.

The ids are read once, in batches, and kept as hashes of 128 bits (16 bytes an occurrence, some 50 with what is kept
beside them); values go to memory-mapped arrays on disk. The result is a folder of arrays in the order of the samples to
pack, from which every part of the work reads its rows.

N occurrences, K samples to pack, M rows of another table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.prep.environment_table import environment_table
from geotreeclip.prep.imagery_store import ImageryStore
from geotreeclip.prep.occurrence_files import Table, bad_coordinates
from geotreeclip.schema import MONTHS, RANKS, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = ["IMAGERY_COLUMNS", "IdIndex", "Inputs", "Join", "join_inputs", "taxa_of_batch"]

NO_TAXON, NO_ID, REPEATED = "no taxon", "sample id empty or too long", "sample id came before"
NO_IMAGERY, NO_ENVIRONMENT = "no imagery", "no environment"

IMAGERY_COLUMNS = np.dtype(
    [("year_used", "<i4"), ("year_difference", "<i4"), ("epsg", "<i4"), ("x", "<f8"), ("y", "<f8"),
     ("scenes", "<i2", (MONTHS,))]
)  # fmt: skip
"""What is kept of each sample of an imagery store, beside the pixels; missing integers are -2**31."""

MISSING_INTEGER = np.iinfo(np.int32).min
_MAX_ID_BYTES = 200  # published shards take no longer one
_HASH_KEYS = ("geotreeclip-id-1", "geotreeclip-id-2")  # 16 characters, as pandas asks for


@dataclass(frozen=True)
class Inputs:
    """What is joined.

    Attributes:
        occurrences: Clean occurrences.
        imagery: Folder of an imagery store, or "".
        environment: Table of environment, or "".
        partition: Table of sets, or "".
        sets: Sets of it whose samples are packed.
        without_imagery: ``leave-out`` or ``keep`` samples that have none.
        without_environment: The same for the environment.
    """

    occurrences: str
    imagery: str = ""
    environment: str = ""
    partition: str = ""
    sets: tuple[str, ...] = ()
    without_imagery: str = "leave-out"
    without_environment: str = "keep"


class IdIndex:
    """Rows of a table by sample id.

    Args:
        keys: Hashes of the ids, uint64 [M, 2].
    """

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._order = np.lexsort((keys[:, 1], keys[:, 0])).astype(np.int64)
        self._first, self._second = keys[self._order, 0], keys[self._order, 1]

    def rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of each id, the first where it comes several times, -1 where it is not there; int64 [N]."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(self._order):
            return found
        place = np.searchsorted(self._first, keys[:, 0], side="left")
        left = np.arange(len(keys))
        while len(left):  # more than one round only where two ids share a hash of 64 bits
            at = place[left]
            same = (at < len(self._first)) & (self._first[np.minimum(at, len(self._first) - 1)] == keys[left, 0])
            left, at = left[same], at[same]
            hit = self._second[at] == keys[left, 1]
            found[left[hit]] = self._order[at[hit]]
            place[left] += 1
            left = left[~hit]
        return found

    def repeated(self) -> NDArray[np.bool_]:
        """Which rows bear an id that an earlier row bears, bool [M]."""
        again = np.zeros(len(self._order), dtype=np.bool_)
        same = (self._first[1:] == self._first[:-1]) & (self._second[1:] == self._second[:-1])
        again[self._order[1:][same]] = True
        return again


@dataclass(frozen=True)
class Join:
    """The folder of arrays that :func:`join_inputs` writes.

    Attributes:
        folder: Where it lies.
        read: Occurrences read.
        samples: K, samples to pack.
        left_out: Occurrences left out, by reason.
        warnings: What the user should know.
        worldclim: WorldClim version of the environment, "" unknown.
        resolution: Of its rasters, in words.
    """

    folder: Path
    read: int
    samples: int
    left_out: dict[str, int]
    warnings: list[str]
    worldclim: str
    resolution: str

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays, mapped: row, taxon, rarity, environment_row, imagery_row [K]; environment, imagery [M]."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def taxonomy(self) -> Taxonomy:
        """The taxa of the samples to pack, in order of appearance."""
        return Taxonomy.read(self.folder / "taxonomy.parquet")

    @classmethod
    def open(cls, folder: Path) -> Join:
        """A join that is complete."""
        document = json.loads((folder / "join.json").read_text(encoding="utf-8"))
        return cls(folder, **document)


def join_inputs(inputs: Inputs, table: Table, folder: Path) -> Join:
    """Joins the inputs by sample id.

    Args:
        inputs: What is joined.
        table: Its occurrences, open.
        folder: Empty, to write into.

    Raises:
        DataError: A table cannot be read, lacks a column, or nothing is left.
    """
    keys, taxon, taxa, reason, reasons = _read_occurrences(table)
    repeated = IdIndex(keys).repeated() & (reason == 0)
    reason[repeated] = _code(reasons, REPEATED)
    # Rarity is that of the species among all usable records, whichever of them are packed.
    rarity = _rarity(taxon, taxa, reason == 0)
    if inputs.partition:
        chosen = _rows_of_sets(inputs.partition, inputs.sets, keys)
        reason[(reason == 0) & ~chosen] = _code(reasons, f"not in {' or '.join(inputs.sets)}")
    environment_row, imagery_row = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
    warnings: list[str] = []
    worldclim = resolution = ""
    if inputs.imagery:
        imagery_row = _copy_imagery(ImageryStore(inputs.imagery), folder).rows(keys)
        if inputs.without_imagery == "leave-out":
            reason[(reason == 0) & (imagery_row < 0)] = _code(reasons, NO_IMAGERY)
    if inputs.environment:
        index, document = _copy_environment(inputs.environment, folder)
        environment_row = index.rows(keys)
        report = document.get("report", {})
        worldclim, resolution = str(report.get("worldclim", "")), str(report.get("resolution", ""))
        if not document.get("complete", True):
            warnings.append(f"{inputs.environment} lacks the rows of failed parts; run data_prep/environment.py again")
        if inputs.without_environment == "leave-out":
            reason[(reason == 0) & (environment_row < 0)] = _code(reasons, NO_ENVIRONMENT)
    rows = np.flatnonzero(reason == 0)
    counts = np.bincount(reason, minlength=len(reasons))
    left_out = {why: int(counts[code]) for code, why in enumerate(reasons) if code and counts[code]}
    if not len(rows):
        said = "; ".join(f"{count:,} {why}" for why, count in left_out.items())
        raise DataError(f"{inputs.occurrences}: none of {len(keys):,} occurrences is left to pack: {said}")
    codes, first = np.unique(taxon[rows], return_index=True)
    codes = codes[np.argsort(first, kind="stable")]
    place = np.full(len(taxa), -1, np.int32)
    place[codes] = np.arange(len(codes), dtype=np.int32)
    Taxonomy(taxa[code] for code in codes).write(folder / "taxonomy.parquet")
    arrays: dict[str, NDArray[Any]] = {
        "row": rows, "taxon": place[taxon[rows]], "rarity": rarity[rows],
        "environment_row": environment_row[rows], "imagery_row": imagery_row[rows],
    }  # fmt: skip
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    _write_left_out(table, reason, reasons, folder / "left_out.parquet")
    document = {
        "read": len(keys), "samples": len(rows), "left_out": left_out, "warnings": warnings,
        "worldclim": worldclim, "resolution": resolution,
    }  # fmt: skip
    (folder / "join.json").write_text(json.dumps(document), encoding="utf-8")
    return Join(folder, **document)


def hash_ids(ids: Any) -> NDArray[np.uint64]:
    """Hashes of a pyarrow column of ids, uint64 [N, 2]; nulls as empty texts."""
    import pyarrow.compute as pc
    from pandas.util import hash_array

    texts = np.asarray(pc.fill_null(ids.cast("string"), "").to_numpy(zero_copy_only=False), dtype=object)
    return np.stack([hash_array(texts, hash_key=key, categorize=False) for key in _HASH_KEYS], axis=1)


def taxa_of_batch(batch: Any, present: Sequence[str]) -> tuple[NDArray[np.int64], list[Taxon]]:
    """The taxon of each row of a batch as a number, int64 [N], and the distinct taxa."""
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(batch)
    texts = [
        pc.utf8_trim_whitespace(pc.fill_null(batch[rank].cast("string"), ""))
        if rank in present
        else pa.array([""] * count, "string")
        for rank in RANKS
    ]
    joined = pc.binary_join_element_wise(*texts, "\x1f").dictionary_encode()
    taxa = [Taxon(*text.split("\x1f")[: len(RANKS)]) for text in joined.dictionary.to_pylist()]
    return joined.indices.to_numpy(zero_copy_only=False).astype(np.int64), taxa


def _code(reasons: list[str], why: str) -> int:
    if why not in reasons:
        reasons.append(why)
    return reasons.index(why)


def _read_occurrences(
    table: Table,
) -> tuple[NDArray[np.uint64], NDArray[np.int32], list[Taxon], NDArray[np.uint8], list[str]]:
    """Hashes of the ids, taxon of each row, the taxa, and why a row cannot be used (0: it can)."""
    import pyarrow.compute as pc

    present = [rank for rank in RANKS if rank in table.columns]
    if not present:
        raise DataError(f"{table.path}: has no column of {', '.join(RANKS)} (found: {', '.join(table.columns)})")
    reasons = [""]
    known: dict[Taxon, int] = {}
    keys, taxon, reason = [], [], []
    for batch in table.batches(["sample_id", "longitude", "latitude", *present]):
        ids = pc.fill_null(batch["sample_id"].cast("string"), "")
        keys.append(hash_ids(ids))
        codes, taxa = taxa_of_batch(batch, present)
        places = np.array([known.setdefault(entry, len(known)) for entry in taxa], dtype=np.int32)
        taxon.append(places[codes])
        why = np.zeros(len(ids), np.uint8)
        size = pc.binary_length(ids).to_numpy(zero_copy_only=False)
        problems = {NO_ID: (size == 0) | (size > _MAX_ID_BYTES)}
        problems |= bad_coordinates(*(_numbers(batch, name, table.path) for name in ("longitude", "latitude")))
        problems[NO_TAXON] = np.array([entry == Taxon() for entry in taxa], dtype=bool)[codes]
        for text, rows in problems.items():
            if rows.any():
                why[rows & (why == 0)] = _code(reasons, text)
        reason.append(why)
    return np.concatenate(keys), np.concatenate(taxon), list(known), np.concatenate(reason), reasons


def _numbers(batch: Any, name: str, path: Path) -> NDArray[np.float64]:
    try:
        return np.asarray(batch[name].cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64)
    except (ValueError, NotImplementedError) as error:  # pyarrow's errors are both
        raise DataError(f"{path}: column {name} holds no numbers ({error})") from error


def _rarity(taxon: NDArray[np.int32], taxa: Sequence[Taxon], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Usable records of each row's species, int64 [N]; 0 where it states none."""
    species: dict[str, int] = {"": 0}
    of_taxon = np.array([species.setdefault(entry.species, len(species)) for entry in taxa], dtype=np.int64)
    counts = np.bincount(of_taxon[taxon[usable]], minlength=len(species))
    counts[0] = 0
    return np.asarray(counts[of_taxon[taxon]], dtype=np.int64)


def _rows_of_sets(path: str, sets: Sequence[str], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which ids are in one of the sets."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = Table(path)
    table.expect("sample_id", "set")
    chosen: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    seen: set[str] = set()
    for batch in table.batches(["sample_id", "set"]):
        names = batch["set"].cast("string")
        seen |= set(pc.unique(names).to_pylist())
        wanted = pc.is_in(names, value_set=pa.array(list(sets)))
        chosen.append(hash_ids(batch["sample_id"].filter(wanted)))
    absent = [name for name in sets if name not in seen]
    if absent:
        raise DataError(f"{path}: has no set {absent[0]!r}; it has {', '.join(sorted(str(name) for name in seen))}")
    return IdIndex(np.concatenate(chosen)).rows(keys) >= 0


def _copy_imagery(store: ImageryStore, folder: Path) -> IdIndex:
    """Writes what is known of the samples of a store, part by part; returns the rows of its ids."""
    import pyarrow as pa

    kept = np.lib.format.open_memmap(folder / "imagery.npy", "w+", IMAGERY_COLUMNS, (len(store),))
    keys: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    row = 0
    for part in store.document["parts"]:
        table = Table(store.directory / "parts" / str(part["key"]) / "samples.parquet")
        table.expect("sample_id")
        names = [name for name in ("sample_id", *(IMAGERY_COLUMNS.names or ())) if name in table.columns]
        values = table.read(0, table.rows, names).combine_chunks()
        if table.rows != int(part["rows"]):
            raise DataError(f"{table.path}: has {table.rows} rows, imagery.json states {part['rows']}; make it again")
        keys.append(hash_ids(values["sample_id"]))
        rows = slice(row, row + table.rows)
        for name in ("year_used", "year_difference", "epsg"):
            kept[name][rows] = (
                values[name].cast("int32").fill_null(MISSING_INTEGER).to_numpy() if name in names else MISSING_INTEGER
            )
        for name in ("x", "y"):
            kept[name][rows] = values[name].cast("float64").to_numpy() if name in names else np.nan
        kept["scenes"][rows] = -1
        if "scenes" in names:
            flat = (
                values["scenes"].combine_chunks() if isinstance(values["scenes"], pa.ChunkedArray) else values["scenes"]
            )
            counts = flat.flatten().to_numpy(zero_copy_only=False)
            if len(counts) != table.rows * MONTHS:
                raise DataError(f"{table.path}: column scenes holds {len(counts)} counts, expected {MONTHS} a row")
            kept["scenes"][rows] = counts.reshape(-1, MONTHS)
        row += table.rows
    kept.flush()
    return IdIndex(np.concatenate(keys))


def _copy_environment(path: str, folder: Path) -> tuple[IdIndex, dict[str, Any]]:
    """Writes the 27 variables and the coast distance as an array, float32 [M, 28]; returns the rows of its ids."""
    table, document = environment_table(path)
    names = [*VARIABLE_NAMES, *(["coast_km"] if "coast_km" in table.columns else [])]
    kept = np.lib.format.open_memmap(
        folder / "environment.npy", "w+", np.float32, (table.rows, len(VARIABLE_NAMES) + 1)
    )
    keys: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    row = 0
    for batch in table.batches(["sample_id", *names]):
        keys.append(hash_ids(batch["sample_id"]))
        values = kept[row : row + len(batch)]
        values[:, -1] = 0
        for column, name in enumerate(names):
            values[:, column] = _numbers(batch, name, table.path)
        row += len(batch)
    kept.flush()
    return IdIndex(np.concatenate(keys)), document


def _write_left_out(table: Table, reason: NDArray[np.uint8], reasons: Sequence[str], path: Path) -> None:
    """The occurrences left out, with their reason; those of other sets are only counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = np.array([bool(why) and not why.startswith("not in ") for why in reasons])
    schema = pa.schema([("sample_id", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
    names = pa.array(reasons)
    row = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in table.batches(["sample_id"]):
            why = reason[row : row + len(batch)]
            chosen = np.flatnonzero(listed[why])
            if len(chosen):
                columns = [
                    batch["sample_id"].cast("string").take(pa.array(chosen)), pa.array(chosen + row),
                    names.take(pa.array(why[chosen].astype(np.int64))),
                ]  # fmt: skip
                writer.write_table(pa.table(columns, schema=schema))
            row += len(batch)
