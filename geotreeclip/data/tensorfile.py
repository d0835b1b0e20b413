"""Decodes the `.pth` members of published shards without running anything.

`torch.load(weights_only=True)` decodes a file of a new layout. Where the next file differs from a decoded one only in
the numbers of its single tensor (and in what torch derives from them: checksums and a serialization id), the numbers
are taken straight from their place: the same result, ten times as fast, and the checksum is verified, which torch does
not do.

Shape letters: T time steps, C bands, H W pixels.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_TENSOR_BYTES", "TensorDecoder", "TensorError"]

MAX_TENSOR_BYTES = 256 * 1024
"""A published tensor file has about 25 kB; anything beyond this is refused unread."""

_MAX_LAYOUTS = 16
_LOCAL, _DESCRIPTOR, _CENTRAL = b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02"

# What the restricted unpickler and the tensor constructors of torch raise on files that are not what they claim.
_DECODE_ERRORS = (
    pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError,
    OverflowError, MemoryError, AssertionError, ImportError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class TensorError(Exception):
    """The bytes are no tensor of the kind asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file seen before: its fixed bytes, and where the numbers and their checksum stand."""

    fixed: tuple[tuple[int, bytes], ...]
    payload: int
    payload_bytes: int
    checksum: int
    dtype: np.dtype[Any]

    def read(self, data: bytes) -> NDArray[Any] | None:
        """The numbers, or None where a fixed byte differs."""
        for start, expected in self.fixed:
            if data[start : start + len(expected)] != expected:
                return None
        numbers = memoryview(data)[self.payload : self.payload + self.payload_bytes]
        stated = int.from_bytes(data[self.checksum : self.checksum + 4], "little")
        _verify(numbers, stated)
        return np.frombuffer(numbers, dtype=self.dtype)


class TensorDecoder:
    """Decodes one tensor per file.

    Args:
        shape: the shape that every tensor must have.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._layouts: dict[int, list[_Layout]] = {}
        self._known = 0

    def decode(self, data: bytes) -> NDArray[Any]:
        """The tensor of a file, float32 or float64 of the shape given; read-only.

        Raises:
            TensorError: it holds anything else, is damaged, or is too large.
        """
        if len(data) > MAX_TENSOR_BYTES:
            raise TensorError(f"has {len(data)} bytes, the limit is {MAX_TENSOR_BYTES}")
        for layout in self._layouts.get(len(data), ()):
            values = layout.read(data)
            if values is not None:
                return values.reshape(self.shape)
        entries = _entries(data)
        values = self._load(data)
        if self._known < _MAX_LAYOUTS:
            layout_or_none = _layout(data, entries, values)
            if layout_or_none is not None:
                self._layouts.setdefault(len(data), []).append(layout_or_none)
                self._known += 1
        return values

    def _load(self, data: bytes) -> NDArray[Any]:
        import torch

        try:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except _DECODE_ERRORS as error:
            # The first sentence says what was blocked; the rest of torch's message advises to load it unsafely.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
            detail = next((line for line in lines if "GLOBAL" in line or "nsupported" in line), lines[0])
            raise TensorError(f"is refused by torch's safe loading ({type(error).__name__}: {detail:.160})") from error
        if type(loaded) is not torch.Tensor or loaded.layout != torch.strided or loaded.device.type != "cpu":
            raise TensorError(f"holds {type(loaded).__name__}, expected one dense tensor")
        if loaded.dtype not in (torch.float64, torch.float32):
            raise TensorError(f"has dtype {str(loaded.dtype).removeprefix('torch.')}, expected float64")
        if tuple(loaded.shape) != self.shape:
            raise TensorError(f"has shape {list(loaded.shape)}, expected {list(self.shape)}")
        values: NDArray[Any] = loaded.detach().resolve_conj().resolve_neg().contiguous().numpy()
        values.flags.writeable = False
        return values


def _entries(data: bytes) -> list[zipfile.ZipInfo]:
    """The entries of a torch zip file, all stored as they are (so nothing can inflate), with sound checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise TensorError(f"is no torch zip file ({error})") from error
    if len(entries) > 64:
        raise TensorError(f"has {len(entries)} entries, expected one tensor")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise TensorError(f"has a compressed entry {entry.filename!r:.60}; torch stores them as they are")
        start = _data_offset(data, entry)
        if start + entry.file_size > len(data):
            raise TensorError(f"has an entry {entry.filename!r:.60} that reaches beyond its end")
        _verify(memoryview(data)[start : start + entry.file_size], entry.CRC)
    return entries


def _verify(contents: memoryview, stated: int) -> None:
    # torch writes 0 where computing checksums was switched off.
    if stated and zlib.crc32(contents) != stated:
        raise TensorError("is damaged: its contents do not match their checksum")


def _data_offset(data: bytes, entry: zipfile.ZipInfo) -> int:
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != _LOCAL:
        raise TensorError(f"has no local header for {entry.filename!r:.60}")
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + int(name) + int(extra)


def _layout(data: bytes, entries: list[zipfile.ZipInfo], values: NDArray[Any]) -> _Layout | None:
    """What may vary between files like this one, provided that the numbers really lie where the zip says."""
    numbers = [entry for entry in entries if entry.filename.endswith("/data/0")]
    if len(numbers) != 1 or any("/data/" in entry.filename for entry in entries if entry is not numbers[0]):
        return None
    payload, size = _data_offset(data, numbers[0]), numbers[0].file_size
    if data[payload : payload + size] != values.tobytes() or not values.flags.c_contiguous:
        return None
    varying = []
    checksum = -1
    central = data.find(_CENTRAL)
    for entry in entries:
        # The central directory lists the entries in the order of the file.
        name = entry.orig_filename.encode("utf-8")
        if data[central : central + 4] != _CENTRAL or data[central + 46 : central + 46 + len(name)] != name:
            return None
        if entry is numbers[0]:
            checksum = central + 16
        if entry is numbers[0] or entry.filename.endswith("/.data/serialization_id"):
            start = _data_offset(data, entry)
            varying += [(entry.header_offset + 14, 4), (start, entry.file_size), (central + 16, 4)]
            end = start + entry.file_size
            if data[end : end + 4] == _DESCRIPTOR:
                varying.append((end + 4, 4))
        lengths = struct.unpack("<HHH", data[central + 28 : central + 34])
        central += 46 + sum(lengths)
    fixed, start = [], 0
    for place, length in [*sorted(varying), (len(data), 0)]:
        if place < start:
            return None
        fixed.append((start, data[start:place]))
        start = place + length
    return _Layout(tuple(fixed), payload, size, checksum, values.dtype)
