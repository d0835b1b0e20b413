"""Parquet tables that carry a JSON account of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.data.aside import write_atomically
from geotreeclip.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_described", "write_described"]

_KEY = b"geotreeclip"


def write_described(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write a table whose metadata hold `about`.

    Args:
        path: Where to.
        columns: Arrow arrays, or what makes one, by name.
        about: JSON-able.

    Raises:
        DataError: If it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table(dict(columns)).replace_schema_metadata({_KEY: json.dumps(about).encode()})
    write_atomically(path, lambda partial: parquet.write_table(table, partial))
    return path


def read_described(path: Path, mend: str) -> tuple[pa.Table, dict[str, Any]]:
    """Read such a table and what it says of itself, nothing where it says nothing.

    Args:
        path: The file.
        mend: What to do about a damaged one, for the message.

    Raises:
        DataError: If it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {mend}") from error
    if not isinstance(about, dict):
        raise DataError(f"{path}: cannot be read (its metadata are no object); {mend}")
    return table, about
