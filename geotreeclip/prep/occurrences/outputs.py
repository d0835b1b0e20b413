"""The tables that are written: occurrences kept, rows refused, and counts by species."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.prep.occurrences.rules import RULES, RuleOptions, names_of

__all__ = ["OCCURRENCE_COLUMNS", "REFUSED_COLUMNS", "concatenate", "counts_of", "kept_table", "refused_table"]

ROW_GROUP = 131_072

OCCURRENCE_COLUMNS: tuple[str, ...] = (
    "sample_id", "leaf_type", "family", "genus", "species", "taxon_key", "longitude", "latitude", "year", "month",
    "day", "country", "source", "uncertainty_m", "precision", "license", "dataset_key", "rights_holder",
)  # fmt: skip
"""Columns of `occurrences.parquet`."""

REFUSED_COLUMNS: tuple[str, ...] = (
    "sample_id", "file", "row", "reason", "value", "also", "given", "species", "taxon_key", "longitude", "latitude",
    "year", "country", "source", "uncertainty_m",
)  # fmt: skip
"""Columns of `refused.parquet`."""


def kept_table(table: Any, rows: NDArray[np.int64], taxa: Any, options: RuleOptions) -> Any:
    """The rows that are kept, with their taxa and the precision of their places."""
    import pyarrow as pa

    part = table.take(pa.array(rows))
    columns = _shared(part, taxa, ("leaf_type", "family", "genus", "species", "taxon_key"))
    uncertainty = part["uncertainty_m"].to_numpy()
    stratum = np.select(
        [np.isnan(uncertainty), uncertainty <= options.imagery_uncertainty, uncertainty <= options.max_uncertainty],
        [0, 1, 2], 3,
    )  # fmt: skip
    columns["precision"] = pa.array(
        np.array(["unknown", "imagery", "environment", "coarse"], object)[stratum], pa.string()
    )
    return pa.table({name: columns[name] for name in OCCURRENCE_COLUMNS})


def refused_table(
    table: Any,
    rows: NDArray[np.int64],
    taxa: Any,
    reason: NDArray[np.int8],
    failing: NDArray[np.uint32],
    value: dict[int, str],
    labels: Sequence[str],
) -> Any:
    """The rows that are refused: where they stand, why, and what the rule saw."""
    import pyarrow as pa

    part = table.take(pa.array(rows))
    columns = _shared(part, taxa, ("given", "species", "taxon_key"))
    columns["file"] = pa.array(np.array(labels, object)[part["file"].to_numpy()], pa.string())
    columns["row"] = part["row"]
    columns["reason"] = pa.array(np.array([rule.name for rule in RULES], object)[reason[rows]], pa.string())
    seen = part["value"].cast(pa.string()).to_pylist()
    late = {place for place, rule in enumerate(RULES) if rule.name in ("repeated", "duplicate")}
    columns["value"] = pa.array(
        [
            value.get(row, "") if why in late else text or ""
            for row, why, text in zip(rows.tolist(), reason[rows].tolist(), seen, strict=True)
        ],
        pa.string(),
    )
    columns["also"] = pa.array(_other_reasons(failing[rows], reason[rows]), pa.string())
    return pa.table({name: columns[name] for name in REFUSED_COLUMNS})


_TEXTS = ("country", "source", "license", "dataset_key", "rights_holder")


def _shared(part: Any, taxa: Any, of_taxon: Sequence[str]) -> dict[str, Any]:
    import pyarrow as pa

    columns = {
        name: part[name] for name in ("sample_id", "longitude", "latitude", "year", "month", "day", "uncertainty_m")
    }
    columns |= {name: part[name].cast(pa.string()) for name in _TEXTS}
    return columns | {name: taxa[name].combine_chunks().take(part["taxon"].combine_chunks()) for name in of_taxon}


def counts_of(table: Any, failing: NDArray[np.uint32], reason: NDArray[np.int8]) -> Any:
    """Rows by taxon and reason (-1 for kept)."""
    import pyarrow as pa

    code = table["taxon"].to_numpy().astype(np.int64) * 64 + (reason.astype(np.int64) + 1)
    found, rows = np.unique(code, return_counts=True)
    return pa.table(
        {"taxon": pa.array((found // 64).astype(np.int32)), "reason": pa.array((found % 64 - 1).astype(np.int8)),
         "rows": pa.array(rows)}
    )  # fmt: skip


def concatenate(parts: Sequence[Path], out: Path) -> int:
    """Write parts one after the other with row groups of one size; returns the rows."""
    import pyarrow.parquet as pq

    total = 0

    def write(path: Path) -> None:
        nonlocal total
        schema = pq.read_schema(parts[0])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _even(parts, schema):
                writer.write_table(table, row_group_size=ROW_GROUP)
                total += table.num_rows

    write_atomically(out, write)
    return total


def _even(parts: Sequence[Path], schema: Any) -> Iterator[Any]:
    """The rows of all parts in tables of one size, the last one shorter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[Any] = []
    rows = 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(ROW_GROUP):
                held.append(pa.Table.from_batches([batch]))
                rows += batch.num_rows
                while rows >= ROW_GROUP:
                    table = pa.concat_tables(held)
                    yield table.slice(0, ROW_GROUP).combine_chunks()
                    held, rows = [table.slice(ROW_GROUP)], rows - ROW_GROUP
    yield (pa.concat_tables(held) if held else schema.empty_table()).combine_chunks()


def _other_reasons(failing: NDArray[np.uint32], reason: NDArray[np.int8]) -> list[str]:
    """Names of the rules that fail besides the first [N]."""
    others = failing & ~(np.uint32(1) << reason.astype(np.uint32))
    return [names_of(bits) for bits in others.tolist()]
