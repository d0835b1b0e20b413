"""Files and members of archives as streams that end in a clear error where they are damaged."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from geotreeclip.errors import DataError, first_line

__all__ = ["ZIPS", "kind_of", "open_binary", "open_parquet"]

ZIPS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
)
"""What Python raises at damaged or encrypted archives."""

PARQUET_BYTES = 1 << 30
"""Largest Parquet member of a zip archive that is read: it has to be held in memory."""


def kind_of(path: Path, member: str = "", empty: str = "error") -> str:
    """What the first bytes of a file say: "zip", "gzip", "parquet" or "text".

    Args:
        path: The file.
        member: A member of it, if it is an archive.
        empty: What to answer at an empty file; "error" raises.

    Raises:
        DataError: The file is absent, unreadable, or empty.
    """
    where = f"{path}!{member}" if member else str(path)
    try:
        if member:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                start = stream.read(6)
        else:
            with path.open("rb") as stream:
                start = stream.read(6)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file") from error
    except ZIPS as error:
        raise DataError(f"{where}: cannot be read: {error}; is the download complete?") from error
    if not start:
        if empty != "error":
            return empty
        raise DataError(f"{where}: is empty (0 bytes); is the download complete?")
    for kind, magic in (("zip", b"PK\x03\x04"), ("zip", b"PK\x05\x06"), ("gzip", b"\x1f\x8b"), ("parquet", b"PAR1")):
        if start.startswith(magic):
            return kind
    for name, magic in (("bzip2", b"BZh"), ("xz", b"\xfd7zXZ"), ("Zstandard", b"\x28\xb5\x2f\xfd"), ("7z", b"7z\xbc")):
        if start.startswith(magic):
            raise DataError(
                f"{where}: is packed with {name}, which is not read; unpack it, or pack it with zip or gzip"
            )
    if not member and path.suffix.lower() in (".zip", ".gz", ".parquet"):
        raise DataError(f"{where}: is no {path.suffix[1:]} file in spite of its name; is the download complete?")
    return "text"


@contextmanager
def open_binary(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """A file, or a member of a zip archive, as unpacked bytes.

    Raises:
        DataError: It is absent, damaged, cut short or encrypted, now or while it is read.
    """
    where = f"{path}!{member}" if member else str(path)
    try:
        if member:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream
        elif kind_of(path) == "gzip":
            with gzip.open(path) as packed:
                yield packed  # type: ignore[misc]
        else:
            with path.open("rb") as stream:
                yield stream
    except ZIPS as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{where}: cannot be read to its end: {reason}; is the download complete?") from error


@contextmanager
def open_parquet(path: Path, member: str = "") -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: It is damaged, or a member of an archive too large to be held.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"{path}!{member}" if member else str(path)
    source: Any = path
    if member:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(member).file_size
        if size > PARQUET_BYTES:
            raise DataError(f"{where}: has {size:,} bytes; unpack the archive and give the folder")
        with open_binary(path, member) as stream:
            source = io.BytesIO(stream.read(size))
    try:
        with pq.ParquetFile(source) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error)
        raise DataError(f"{where}: cannot be read as Parquet: {reason}") from error
