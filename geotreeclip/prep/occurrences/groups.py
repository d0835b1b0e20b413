"""Tables sorted into buckets: one Parquet file with a row group for each bucket it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COMPRESSION", "Groups", "read_groups", "write_groups"]

COMPRESSION = "lz4"  # of what is read again within the hour

Groups = list[tuple[str, int]]
"""Row groups of Parquet files: path and number."""


def write_groups(path: Path, table: Any, bucket: NDArray[np.int32]) -> list[int]:
    """Write a table with one row group for a bucket; returns the buckets in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.argsort(bucket, kind="stable")
    table, bucket = table.take(pa.array(order)).combine_chunks(), bucket[order]
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    ends = [*starts[1:].tolist(), len(bucket)]
    with pq.ParquetWriter(path, table.schema, compression=COMPRESSION) as writer:
        for start, end in zip(starts.tolist(), ends, strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=max(1, end - start))
    return [int(number) for number in bucket[starts]]


def read_groups(groups: Iterable[tuple[str, int]], columns: Sequence[str] | None = None) -> Any:
    """Row groups of several files as one table, or None where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path, number in groups:
        with pq.ParquetFile(path) as file:
            tables.append(file.read_row_group(number, columns=columns))
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries() if tables else None
