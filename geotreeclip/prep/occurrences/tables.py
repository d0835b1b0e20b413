"""A source as batches of rows: text or Parquet, in bounded memory, no row lost.

N rows of a batch. Columns come as strings: fields of few distinct values as dictionary arrays, others plain.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.prep.occurrences.fields import PLAIN_FIELDS
from geotreeclip.prep.occurrences.sources import Source
from geotreeclip.prep.occurrences.streams import open_binary, open_parquet

__all__ = ["Batch", "read_batches"]

BLOCK_BYTES = 16 << 20
"""Text read at once; also the longest row that is understood."""

BATCH_ROWS = 65_536

SUBSTITUTE = "\x1a"
"""Stands for a byte that is no text: the character that ASCII has for this."""

_MARKED = "geotreeclip-substitute"
codecs.register_error(_MARKED, lambda error: (SUBSTITUTE * (error.end - error.start), error.end))  # type: ignore[attr-defined]
_SHOWN = 120


@dataclass(slots=True)
class Batch:
    """Rows of a source.

    Attributes:
        columns: Bytes or strings of each field, [N] each; several columns of one field in order of preference.
        rows: Number of each row in its source, from 1 (of text: lines, the header included), [N].
        unreadable: Number and text of rows that could not be split into their fields.
    """

    columns: dict[str, list[Any]]
    rows: NDArray[np.int64]
    unreadable: list[tuple[int, str]] = field(default_factory=list)


def read_batches(source: Source) -> Iterator[Batch]:
    """The rows of a source in order; those that cannot be split come with the batch in which they stand, or a later.

    Raises:
        DataError: The source is damaged, cut short, or its quotes do not pair.
    """
    return _parquet_batches(source) if source.kind == "parquet" else _text_batches(source)


class _Counted:
    """A stream that counts line ends and quotes as it is read, and marks bytes that are not UTF-8.

    The parser shows rows that it cannot split as text, so that every byte has to be text by then.
    """

    closed = False

    def __init__(self, stream: Any, quote: bytes, marks: bool) -> None:
        self.stream, self.quote, self.quotes, self.lines, self.ended = stream, quote, 0, 0, True
        self._decoder = codecs.getincrementaldecoder("utf-8")(_MARKED) if marks else None
        self._pending = False

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size - 3 if size > 3 else size)  # 3 bytes may wait from the read before
        if self._decoder is not None and (self._pending or not data.isascii()):
            ended = not data
            data = self._decoder.decode(data, final=ended).encode()
            self._pending = bool(self._decoder.getstate()[0])
            if not data and not ended:
                return self.read(size)
        if self.quote and data:
            self.quotes += data.count(self.quote)
            self.lines += data.count(b"\n")
            self.ended = data.endswith(b"\n")
        return data

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _text_batches(source: Source) -> Iterator[Batch]:
    import pyarrow as pa
    from pyarrow import csv

    invalid: list[tuple[int, str]] = []
    swallowing: list[str] = []

    def keep_aside(row: Any) -> str:
        if source.quote and "\n" in row.text:  # what is raised here would be lost: stop, and say why below
            swallowing.append(
                f"row {row.number} begins with {_shown(row.text)!r} and its quotes swallow the next lines"
            )
            return "error"
        text = f"{row.actual_columns} fields, {row.expected_columns} expected: {_shown(row.text)}"
        invalid.append((int(row.number), text))
        return "skip"

    last = source.header_lines
    names = [f"{number}" for number in range(source.width)]
    wanted = {names[place]: name for name, places in source.columns.items() for place in places}
    codes = pa.dictionary(pa.int32(), pa.binary())
    with open_binary(Path(source.path), source.member) as stream:
        counted = _Counted(stream, source.quote.encode(), codecs.lookup(source.encoding).name == "utf-8")
        try:
            reader = csv.open_csv(
                pa.PythonFile(counted, mode="r"),
                csv.ReadOptions(
                    use_threads=False, block_size=BLOCK_BYTES, skip_rows=source.header_lines, column_names=names,
                    encoding=source.encoding,
                ),
                csv.ParseOptions(
                    delimiter=source.separator, quote_char=source.quote or False, double_quote=bool(source.quote),
                    newlines_in_values=bool(source.quote), ignore_empty_lines=False, invalid_row_handler=keep_aside,
                ),
                csv.ConvertOptions(
                    include_columns=list(wanted), check_utf8=False, strings_can_be_null=False, null_values=[],
                    column_types={key: pa.binary() if name in PLAIN_FIELDS else codes for key, name in wanted.items()},
                ),
            )  # fmt: skip
            for batch in _numbered(reader, source, invalid):
                last = max([last, *batch.rows[-1:].tolist(), *(number for number, _ in batch.unreadable)])
                yield batch
        except pa.ArrowInvalid as error:
            raise _explained(source, str(error), swallowing) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{source.where}: is not {source.encoding}: {error} (--encoding)") from error
    swallowed = counted.lines + (not counted.ended) - last
    if counted.quotes % 2 and swallowed > 0:
        raise DataError(
            f"{source.where}: holds {counted.quotes} quotes {source.quote}, an odd number, and {swallowed} line ends "
            "within quotes: one is not closed and swallows rows; mend it, or give --quote none if it is an ordinary "
            "character there"
        )


def _shown(text: str) -> str:
    """The beginning of a row, fit to be shown."""
    return text[:_SHOWN].replace("\0", "").replace(SUBSTITUTE, "\ufffd")


def _numbered(reader: Any, source: Source, invalid: list[tuple[int, str]]) -> Iterator[Batch]:
    """Batches with the numbers of their rows: those that the skipped ones leave."""
    following = source.header_lines + 1
    for batch in reader:
        late = np.array([number for number, _ in invalid if number >= following], dtype=np.int64)
        span = np.arange(following, following + batch.num_rows + len(late))
        rows = span[~np.isin(span, late)][: batch.num_rows]
        # The reader is ahead by a block: rows beyond this batch wait for their own.
        last = int(rows[-1]) if len(rows) else following - 1
        ready = [entry for entry in invalid if entry[0] <= last]
        invalid[:] = [entry for entry in invalid if entry[0] > last]
        following = last + 1
        columns = {name: [batch.column(str(place)) for place in places] for name, places in source.columns.items()}
        yield Batch(columns, rows, ready)
    if invalid:
        yield Batch({name: [] for name in source.columns}, np.empty(0, np.int64), list(invalid))


def _explained(source: Source, message: str, swallowing: Sequence[str]) -> DataError:
    if swallowing:
        ordinary = f"give --quote none if {source.quote} is an ordinary character there"
        return DataError(f"{source.where}: {swallowing[0]}; close the quote, or {ordinary}")
    if "straddling" in message:
        why = (
            f"a row is longer than {BLOCK_BYTES >> 20} MB: a quote is opened and never closed, or the separator "
            f"{source.separator!r} is wrong"
        )
    elif "Empty CSV" in message:
        why = "holds no rows after its header"
    else:
        why = message.splitlines()[0]
    return DataError(f"{source.where}: cannot be read as a table: {why}")


def _parquet_batches(source: Source) -> Iterator[Batch]:
    with open_parquet(Path(source.path), source.member) as file:
        names = file.schema_arrow.names
        wanted = sorted({names[place] for places in source.columns.values() for place in places})
        following = 1
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            columns = {
                name: [_as_text(batch.column(names[place]), name) for place in places]
                for name, places in source.columns.items()
            }
            yield Batch(columns, np.arange(following, following + batch.num_rows))
            following += batch.num_rows


def _as_text(column: Any, name: str) -> Any:
    """A column of any type as strings, missing values empty; lists joined by semicolons."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.values
        if pa.types.is_struct(values.type):  # GBIF's snapshots wrap the elements of lists
            values = values.field(0)
        column = type(column).from_arrays(column.offsets, values.cast(pa.string()), mask=column.is_null())
        column = pc.binary_join(column, ";")
    try:
        text = pc.fill_null(column.cast(pa.string()), "")
    except pa.ArrowException as error:
        raise DataError(f"column {name!r} is of type {column.type}, which is no text or number") from error
    return text if name in PLAIN_FIELDS else cast("Any", text.dictionary_encode())
