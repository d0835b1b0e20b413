"""One packed shard on its way to the disk."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.aside import sync_directory, write_atomically
from geotreeclip.data.manifest import Chunk, Column, Shard

__all__ = ["ShardFile", "sync_directory", "write_atomically"]


class ShardFile:
    """A shard being written under a temporary name, hashed on its way to the disk."""

    def __init__(self, out: Path, name: str) -> None:
        self.name = name
        self.path = out / name
        self.partial = out / f".partial-{name}"
        self.chunks: list[Chunk] = []
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._stream = self.partial.open("wb")

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Appends a chunk: one tar member per column, named after the chunk's number."""
        described = {}
        for name, array in columns.items():
            stored = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(stored))
            member = tarfile.TarInfo(f"{len(self.chunks):06d}.{name}.npy")
            member.size = header.tell() + stored.nbytes
            member.mode = 0o644
            self._put(member.tobuf(tarfile.USTAR_FORMAT))
            self._put(header.getbuffer())
            described[name] = Column(self._bytes, stored.dtype.str, stored.shape)
            self._put(stored.reshape(-1).view(np.uint8).data)
            self._put(bytes(-self._bytes % tarfile.BLOCKSIZE))
        self.chunks.append(Chunk(len(columns["taxon"]), described))

    def finish(self) -> Shard:
        """Ends the tar, syncs and renames it."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.partial.replace(self.path)
        sync_directory(self.path.parent)
        return Shard(
            self.name, sum(chunk.samples for chunk in self.chunks), self._bytes, self._hash.hexdigest(),
            tuple(self.chunks),
        )  # fmt: skip

    def discard(self) -> None:
        """Closes and removes the unfinished file."""
        self._stream.close()
        self.partial.unlink(missing_ok=True)

    def _put(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self._bytes += len(data)
