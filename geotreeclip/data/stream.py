"""Training straight from shards that fit in no cache: read forward, shuffled in a buffer, decoded by our own readers.

WebDataset carries the samples from the shards through its shuffle buffer. The order is approximate: the shards of an
epoch are permuted by (seed, epoch) and dealt out to the processes, then a buffer mixes the samples of a few shards. It
is fixed for a number of processes, and is taken up again at the start of an epoch only. Prefer the memory-mapped
`Loader` wherever the data fits on a disk.

Shape letters: B batch (global), N samples, T time steps, C bands, H W pixels, V variables, W processes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.loader import ahead, epoch_order, pinned
from geotreeclip.data.manifest import Column, Shard
from geotreeclip.data.packed import PackedBatch, PackedDataset
from geotreeclip.data.remote import fetch_set, is_remote
from geotreeclip.data.sources import open_source
from geotreeclip.data.statistics import Statistics
from geotreeclip.data.tarstream import Damage, read_members
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.taxonomy import Taxonomy

__all__ = ["Lost", "StreamLoader", "StreamedSet", "Tolerance", "open_packed_stream"]

_BUFFER = 8192
"""Samples in the shuffle buffer: some 50 MB."""
_MAX_HEADER = 10_000


class Lost(NamedTuple):
    """Samples of a shard that could not be read.

    Attributes:
        shard: Its name.
        key: The sample or member at which that was found.
        reason: What is wrong.
        samples: How many samples are lost; 0 for something between samples.
    """

    shard: str
    key: str
    reason: str
    samples: int

    def __str__(self) -> str:
        return f"{self.shard}, {self.key or 'at its start'}: {self.reason}"


@dataclass
class Tolerance:
    """What happens to samples that cannot be read.

    Attributes:
        lenient: Skip and count them; else the first one stops.
        share: Where skipping ends: more lost samples than this share of those met is an error.
        met: Samples met so far, lost ones included.
        lost: Samples lost so far.
        first: The first loss.
    """

    lenient: bool = False
    share: float = 0.01
    met: int = 0
    lost: int = 0
    first: Lost | None = field(default=None)

    _LEAST = 1000  # a share of a handful says nothing

    def take(self, loss: Lost) -> None:
        """Count a loss.

        Raises:
            DataError: If nothing may be lost, or too much is.
        """
        if not self.lenient:
            raise DataError(f"{loss}; mend or leave out the shard, or skip such samples with --lenient")
        self.met += loss.samples
        self.lost += loss.samples
        self.first = self.first or loss
        if self.lost > self.share * max(self.met, self._LEAST):
            raise DataError(
                f"{self.lost} of {self.met} samples cannot be read, more than the share of {self.share:g} that is "
                f"tolerated; the first: {self.first}"
            )

    def summary(self) -> str:
        """What was skipped, in words; "" if nothing was."""
        return f"skipped {self.lost} of {self.met} samples; the first: {self.first}" if self.first else ""


@dataclass(frozen=True)
class StreamedSet:
    """A set whose shards are read forward. Its first rows lie on this machine too, for fitting and validation.

    Attributes:
        probe: The packed set that holds the first rows.
        probe_rows: How many.
        counts: Samples of each shard, in row order.
        expand: Reads a shard: batches of consecutive rows with `index` counted from its first, and losses.
        taxonomy: The taxa.
        taxa: [N] taxon of every sample.
        ids: [N] sample ids.
        statistics: Of all samples.
        identity: Tells one version of the set from another.
    """

    probe: PackedDataset
    probe_rows: int
    counts: Sequence[int]
    expand: Callable[[int], Iterable[PackedBatch | Lost]]
    taxonomy: Taxonomy
    taxa: NDArray[np.int64]
    ids: NDArray[Any]
    statistics: Statistics
    identity: str

    def __len__(self) -> int:
        return len(self.taxa)

    @property
    def directory(self) -> Path:
        """Where tables and splits lie."""
        return self.probe.directory

    @property
    def has_images(self) -> bool:
        """Whether the set has imagery."""
        return self.probe.has_images

    def fingerprint(self) -> str:
        """The identity of the set."""
        return self.identity

    def split(self, name: str, fold: int = 0, role: str = "train") -> NDArray[np.int64]:
        """As `PackedDataset.split`."""
        return self.probe.split(name, fold, role)

    def sample_ids(self, indices: Any) -> list[str]:
        """Sample ids of some rows."""
        return [str(self.ids[row]) for row in np.asarray(indices, dtype=np.int64)]

    def read(self, indices: Any) -> PackedBatch:
        """Rows that lie on this machine.

        Raises:
            DataError: If one of them does not.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and rows.max() >= self.probe_rows:
            raise DataError(
                f"{self.directory}: row {rows.max()} is streamed; only the first {self.probe_rows} can be read at will"
            )
        return self.probe.read(rows)


class StreamLoader:
    """Endless, approximately shuffled batches.

    Args:
        data: The set.
        indices: int64 [N], rows to draw from; each comes once an epoch, on one of the processes.
        batch_size: B, over all processes.
        seed: Key of the order.
        rank: This process.
        world_size: W; there must be as many shards at least.
        prefetch: Batches read ahead.
        tolerance: What happens to samples that cannot be read.
        buffer: Samples of the shuffle buffer.
        pin: Put batches into page-locked memory.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self, data: StreamedSet, indices: NDArray[np.int64], batch_size: int, seed: int = 0, rank: int = 0,
        world_size: int = 1, prefetch: int = 2, tolerance: Tolerance | None = None, buffer: int = _BUFFER,
        pin: bool = False,
    ) -> None:  # fmt: skip
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(f"batch size {batch_size} must be a positive multiple of the {world_size} processes")
        if len(data.counts) < world_size:
            raise ConfigError(
                f"{len(data.counts)} shards cannot be streamed by {world_size} processes: each needs shards of its "
                "own; use fewer processes, or smaller shards (`--shard-samples` of packing)"
            )
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.rank, self.world_size, self.prefetch = rank, world_size, prefetch
        self.tolerance = tolerance or Tolerance()
        self.buffer, self.pin = buffer, pin
        self._chosen = np.zeros(len(data), dtype=bool)
        self._chosen[indices] = True
        self._first = np.concatenate([[0], np.cumsum(data.counts)]).astype(np.int64)
        self._size = int(self._chosen.sum())

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._size

    def batches(self, start: int = 0) -> Iterator[PackedBatch]:
        """Endless batches of B/W rows.

        Args:
            start: Samples of the stream already consumed; reading begins with the epoch that this falls into.
        """
        produced = self._batches(start // max(1, self._size))
        return ahead(produced, self.prefetch) if self.prefetch else produced

    def shards(self, epoch: int) -> list[int]:
        """The shards of this process in an epoch, in order: a pure function of seed, epoch and the processes."""
        order = epoch_order(len(self.data.counts), self.seed, epoch)
        return [int(shard) for shard in order[self.rank :: self.world_size]]

    def _batches(self, epoch: int) -> Iterator[PackedBatch]:
        import webdataset as wds

        share = self.batch_size // self.world_size
        waiting: list[tuple[Any, ...]] = []

        def samples(source: Iterable[int]) -> Iterator[tuple[Any, ...]]:
            for shard in source:
                yield from self._samples(shard)

        for current in itertools.count(epoch):
            # A pipeline for each epoch: its buffer is empty at the end, so that every sample comes exactly once in it.
            shards = partial(iter, self.shards(current))
            generator = random.Random(f"{self.seed}-{current}-{self.rank}")  # noqa: S311 - an order, no secret
            mixed = wds.shuffle(self.buffer, initial=self.buffer, rng=generator)
            found = False
            for sample in wds.DataPipeline(shards, samples, mixed):
                found = True
                waiting.append(sample)
                if len(waiting) == share:
                    batch = _joined(waiting)
                    yield pinned(batch) if self.pin else batch
                    waiting = []
            if not found:
                raise DataError(
                    f"{self.data.directory}: the shards of process {self.rank} hold no training samples in epoch "
                    f"{current}; use fewer processes or smaller shards"
                )

    def _samples(self, shard: int) -> Iterator[tuple[Any, ...]]:
        """The chosen samples of a shard, each in memory of its own."""
        first = int(self._first[shard])
        for batch in self.data.expand(shard):
            if isinstance(batch, Lost):
                self.tolerance.take(batch)
                continue
            self.tolerance.met += len(batch.index)
            rows = batch.index + first
            for place in np.flatnonzero(self._chosen[rows]):
                days = None if batch.days is None else batch.days[place].copy()
                images, environment = batch.images[place].copy(), batch.environment[place].copy()
                yield images, environment, batch.taxon[place], rows[place], days


def _joined(samples: Sequence[tuple[Any, ...]]) -> PackedBatch:
    images, environment, taxon, index, days = zip(*samples, strict=True)
    return PackedBatch(
        np.stack(images), np.stack(environment), np.array(taxon, dtype=np.int64), np.array(index, dtype=np.int64),
        None if days[0] is None else np.stack(days),
    )  # fmt: skip


# -- packed shards -----------------------------------------------------------------------------------------------------


def open_packed_stream(
    source: str | Path, splits: Iterable[str] = ("default",), cache: Path | None = None
) -> StreamedSet:
    """A packed set whose shards stay where they are; its tables and first shard are brought here.

    Args:
        source: A path or an address, as for `geotreeclip.data.remote.fetch_set`.
        splits: Splits to bring along.
        cache: Where to.

    Raises:
        DataError: If it is no packed set.
    """
    local = fetch_set(source, cache, splits=splits, shards=1)
    probe = PackedDataset(local, shards=1 if is_remote(source) else None)
    address = str(source).rstrip("/")
    address = address.removeprefix("file://")
    manifest = probe.manifest
    table = probe.samples()

    def expand(number: int) -> Iterator[PackedBatch | Lost]:
        shard = manifest.shards[number]
        return _read_packed(f"{address}/{shard.name}", shard, len(probe.taxonomy))

    return StreamedSet(
        probe, manifest.shards[0].samples, [shard.samples for shard in manifest.shards], expand, probe.taxonomy,
        table["taxon"].to_numpy(dtype=np.int64), table["sample_id"].astype(str).to_numpy(), probe.statistics,
        probe.fingerprint(),
    )  # fmt: skip


def _read_packed(address: str, shard: Shard, taxa: int) -> Iterator[PackedBatch | Lost]:
    """Chunk by chunk, each checked against the manifest; the hash of the whole at its end."""
    expected = {
        f"{number:06d}.{name}.npy": column
        for number, chunk in enumerate(shard.chunks)
        for name, column in chunk.columns.items()
    }
    sizes = {name: column.row_bytes * column.shape[0] + _MAX_HEADER for name, column in expected.items()}
    first = np.concatenate([[0], np.cumsum([chunk.samples for chunk in shard.chunks])])
    done = 0
    columns: dict[str, NDArray[Any]] = {}
    with open_source(address) as opened:
        hashed = _Hashed(opened.stream)
        for item in read_members(cast("BinaryIO", hashed), lambda name: sizes.get(name, 0), opened.size):
            left = shard.samples - int(first[done])
            if isinstance(item, Damage):
                yield Lost(shard.name, item.name, item.reason, left)
                return
            column = expected.get(item.name)
            number, _, rest = item.name.partition(".")
            fault = item.fault
            if not fault and (column is None or number != f"{done:06d}"):
                fault = f"is not the member that comes here (one of chunk {done:06d})"
            if fault or column is None or item.data is None:
                yield Lost(shard.name, item.name, f"member {fault}", left)
                return
            try:
                columns[rest.removesuffix(".npy")] = _array(item.data, column)
            except ValueError as error:
                yield Lost(shard.name, item.name, str(error), left)
                return
            chunk = shard.chunks[done]
            if len(columns) == len(chunk.columns):
                taxon = columns["taxon"].astype(np.int64)
                wrong = np.flatnonzero((taxon < 0) | (taxon >= taxa) | np.isinf(columns["environment"]).any(1))
                if len(wrong):
                    yield Lost(
                        shard.name, f"{done:06d}, row {wrong[0]}", "taxon or variable out of range", chunk.samples
                    )
                else:
                    images = columns.get("images", np.empty((chunk.samples, 0, 0, 0, 0), np.uint16))
                    index = np.arange(first[done], first[done + 1], dtype=np.int64)
                    yield PackedBatch(images, columns["environment"], taxon, index, columns.get("days"))
                done, columns = done + 1, {}
        if done < len(shard.chunks):
            yield Lost(shard.name, f"{done:06d}", "the shard ends here", shard.samples - int(first[done]))
        elif hashed.digest() != shard.sha256:
            # Its samples are used by now; this counts as one, so that it stops a strict run.
            yield Lost(shard.name, "", "its contents have changed since packing (SHA-256)", 1)


def _array(data: bytes, column: Column) -> NDArray[Any]:
    """A member as the array that the manifest states."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("is .npy of another version than 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_HEADER)
    if fortran or dtype.hasobject or (dtype.str, shape) != (column.dtype, column.shape):
        raise ValueError(f"holds {dtype.str} of shape {shape}, the manifest states {column.dtype} {column.shape}")
    body = memoryview(data)[stream.tell() :]
    if len(body) != dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"has {len(body)} bytes of values, expected {dtype.itemsize * int(np.prod(shape))}")
    return np.frombuffer(body, dtype=dtype).reshape(shape)


class _Hashed:
    """A stream that hashes what passes through."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()
