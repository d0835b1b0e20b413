"""Tables of occurrences as the later steps read them: CSV or Parquet in, the same columns out, whatever the size.

N rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, RANKS
from geotreeclip.taxonomy import Taxon, taxa_of_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "bad_coordinates", "identity", "open_occurrences", "read_occurrences"]

_CHUNK_ROWS = 100_000
_TEXTS = {"country": ("country_code", "country", "location"), "source": ("source",), "rarity": ("rarity", "Category")}
_PLACED, _POSSIBLE, _NAMED = "coordinates missing or no number", "coordinates out of range", "no taxon"


class Table:
    """A Parquet file, read by rows; one row group is held at a time.

    Args:
        path: The file.

    Raises:
        DataError: It is absent or no Parquet.

    Attributes:
        rows: N.
        columns: Names of its columns.
        metadata: What its writer noted in the schema, bytes by bytes.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{path}: no such file")
        try:
            self._file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as Parquet ({error}); make it again") from error
        self.rows: int = self._file.metadata.num_rows
        self.columns: list[str] = list(self._file.schema_arrow.names)
        self.metadata: Mapping[bytes, bytes] = self._file.schema_arrow.metadata or {}
        counts = [self._file.metadata.row_group(g).num_rows for g in range(self._file.metadata.num_row_groups)]
        self._first = np.cumsum([0, *counts], dtype=np.int64)
        self._kept: tuple[int, tuple[str, ...], Any] | None = None

    def expect(self, *columns: str) -> None:
        """Raises a DataError for the first of the columns that is absent."""
        for column in columns:
            if column not in self.columns:
                raise DataError(f"{self.path}: lacks the column {column!r} (found: {', '.join(self.columns)})")

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Any:
        """Rows start to stop of some columns, a pyarrow.Table."""
        import pyarrow as pa

        parts = []
        first = int(np.searchsorted(self._first, start, side="right")) - 1
        last = int(np.searchsorted(self._first, max(start, stop - 1), side="right")) - 1
        for group in range(first, last + 1):
            offset = int(self._first[group])
            low, high = max(start, offset), min(stop, int(self._first[group + 1]))
            parts.append(self._group(group, tuple(columns)).slice(low - offset, max(0, high - low)))
        return pa.concat_tables(parts)

    def batches(self, columns: Sequence[str], rows: int = _CHUNK_ROWS) -> Iterator[Any]:
        """The whole file in order, pyarrow.RecordBatch by pyarrow.RecordBatch."""
        import pyarrow as pa

        try:
            yield from self._file.iter_batches(batch_size=rows, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); is it cut short? Make it again") from error

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        import pyarrow as pa

        if self._kept is None or self._kept[:2] != (group, columns):
            try:
                self._kept = (group, columns, self._file.read_row_group(group, columns=list(columns)))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{self.path}: cannot be read ({error}); is it cut short? Make it again") from error
        return self._kept[2]


def open_occurrences(path: str | Path, folder: Path) -> Table:
    """Occurrences as a Parquet table; a CSV is rewritten into the folder, streaming.

    Args:
        path: Parquet with ``sample_id, longitude, latitude`` and the ranks, or CSV as :func:`read_occurrences` takes it
            (here the taxa may be absent).
        folder: Where the Parquet of a CSV may lie.

    Raises:
        DataError: The file is absent, no table, empty, or lacks a column.
    """
    path = Path(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        table = Table(path)
    else:
        staged = folder / "occurrences.parquet"
        if not staged.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(staged, lambda target: _stage(path, target))
        table = Table(staged)
    table.expect("sample_id", "longitude", "latitude")
    if not table.rows:
        raise DataError(f"{path}: has no rows")
    return table


def identity(path: str | Path) -> dict[str, Any]:
    """Name, size and time of a file: what tells a resumed run that its input is still the same.

    Raises:
        DataError: It does not exist.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return {"path": str(path), "bytes": state.st_size, "time": state.st_mtime_ns}


def bad_coordinates(longitude: NDArray[Any], latitude: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Which coordinates cannot be used, by reason; a row has one reason at most."""
    with np.errstate(invalid="ignore"):
        missing = ~(np.isfinite(longitude) & np.isfinite(latitude))
        impossible = ~missing & ~((np.abs(longitude) <= 180) & (np.abs(latitude) <= 90))
    return {_PLACED: missing, _POSSIBLE: impossible}


def read_occurrences(path: str | Path) -> tuple[pd.DataFrame, list[Taxon], dict[str, int]]:
    """Read a table of occurrences at once.

    Args:
        path: CSV or Parquet with ``longitude``, ``latitude``, at least one rank column (published names or those of the
            schema) and, if there, ``sample_id`` (row numbers without), ``year``, ``country_code`` or ``location``,
            ``source``, ``Category`` or ``rarity``.

    Returns:
        The usable rows with the columns ``sample_id, longitude, latitude, year, country, source, rarity``, the taxon of
        each, and how many rows were left out by reason.

    Raises:
        DataError: The file is absent, no table, empty, lacks a column, or repeats a sample id.
    """
    import pandas as pd

    path = Path(path)
    frame = next(_csv_chunks(path, None)) if path.suffix.lower() not in (".parquet", ".pq") else _parquet(path)
    taxa = taxa_of_frame(frame, str(path))
    table = _normal(frame)
    repeated = table["sample_id"].duplicated()
    if repeated.any():
        raise DataError(
            f"{path}: sample id {table['sample_id'][repeated].iloc[0]!r} comes twice ({int(repeated.sum())} repeats)"
        )
    wrong = bad_coordinates(table["longitude"].to_numpy(float), table["latitude"].to_numpy(float))
    placed = ~np.logical_or.reduce(list(wrong.values()))
    wrong[_NAMED] = placed & np.array([taxon == Taxon() for taxon in taxa])
    keep = ~np.logical_or.reduce(list(wrong.values()))
    reasons = {why: int(rows.sum()) for why, rows in wrong.items() if rows.any()}
    if not keep.any():
        raise DataError(f"{path}: no usable row: " + ", ".join(f"{n} {why}" for why, n in reasons.items()))
    taxa = [taxon for taxon, kept in zip(taxa, keep, strict=True) if kept]
    wanted = ["sample_id", "longitude", "latitude", "year", "country", "source", "rarity"]
    table = table[[name for name in wanted if name in table.columns]]
    return table[pd.Series(keep, table.index)].reset_index(drop=True), taxa, reasons


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    table = Table(path)
    table.expect("longitude", "latitude")
    if not table.rows:
        raise DataError(f"{path}: has no rows")
    frames: list[pd.DataFrame] = [batch.to_pandas() for batch in table.batches(table.columns)]
    return pd.concat(frames, ignore_index=True)


def _stage(path: Path, target: Path) -> None:
    """Rewrites a CSV as Parquet with the columns that the later steps read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, real = pa.string(), pa.float64()
    fields = [("sample_id", text), ("longitude", real), ("latitude", real), *((rank, text) for rank in RANKS)]
    schema = pa.schema([*fields, ("year", pa.int32()), *((name, text) for name in _TEXTS)])
    with pq.ParquetWriter(target, schema) as writer:
        for chunk in _csv_chunks(path, _CHUNK_ROWS):
            table = _normal(chunk)
            for rank in RANKS:
                table[rank] = ""
            if any(name in chunk.columns for name in (*RANKS, *PUBLISHED_RANK_FIELDS)):
                for rank, names in zip(RANKS, zip(*taxa_of_frame(chunk, str(path)), strict=True), strict=True):
                    table[rank] = list(names)
            for name in schema.names:
                if name not in table.columns:
                    table[name] = None
            writer.write_table(pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False))


def _csv_chunks(path: Path, rows: int | None) -> Iterator[pd.DataFrame]:
    """A CSV as text, whole or in chunks; its header is checked, and it is not empty."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file of occurrences")
    empty = True
    try:
        # As text and without guesses at missing values: NA is the country code of Namibia.
        read: Any = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", chunksize=rows)
        for frame in [read] if rows is None else read:
            for column in ("longitude", "latitude"):
                if column not in frame.columns:
                    found = ", ".join(map(str, frame.columns))
                    raise DataError(f"{path}: lacks the column {column!r} (found: {found})")
            if len(frame):
                empty = False
                yield frame
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: is empty; a table with longitude, latitude and taxa is needed") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if empty:
        raise DataError(f"{path}: has a header and no rows")


def _normal(frame: pd.DataFrame) -> pd.DataFrame:
    """Id, coordinates, year and texts of a table under their own names."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "sample_id": frame.get("sample_id", pd.Series(frame.index.astype(str), index=frame.index)).astype(str),
            "longitude": pd.to_numeric(frame["longitude"], errors="coerce").astype(float),
            "latitude": pd.to_numeric(frame["latitude"], errors="coerce").astype(float),
        }
    )
    if "year" in frame.columns:
        table["year"] = pd.to_numeric(frame["year"], errors="coerce").round().astype("Int32")
    for column, names in _TEXTS.items():
        name = next((name for name in names if name in frame.columns), None)
        if name is not None:
            table[column] = frame[name].where(frame[name].fillna("") != "").astype("string")
    return table
