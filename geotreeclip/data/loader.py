"""The loader: one order of the samples for every machine, resumed at any batch.

The order of an epoch is a pure function of (seed, epoch): ranks of a Philox stream with that key, so it depends on
neither the number of processes nor the release of numpy's shuffle. The stream of samples is the epochs laid end to end;
a position in it is a global sample offset, and a batch may span two epochs.

Shape letters: B batch (global), W world size, N samples of the loader.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.data.packed import PackedBatch, PackedDataset
from geotreeclip.errors import ConfigError

__all__ = ["Loader", "ahead", "epoch_order", "pinned", "sequential"]


def epoch_order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of ``size`` samples in an epoch, int64 [size]: a pure function of its three arguments."""
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(size)
    # Sorting raw 64-bit draws: numpy promises the raw stream for good, but not its shuffle. Ties (once in 10^6 runs of
    # six million) keep their order.
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


class Readable(Protocol):
    """Anything that gives rows of a packed set."""

    def read(self, indices: ArrayLike, /) -> PackedBatch:
        """The rows asked for."""


class Loader:
    """Endless shuffled batches of a packed set.

    Args:
        dataset: the packed set.
        indices: int64 [N], the rows to draw from (a split); each comes exactly once an epoch.
        batch_size: B, the size of the global batch over all ranks.
        seed: key of the order.
        rank: this process.
        world_size: W, the number of processes; B must be a multiple of it.
        prefetch: batches read ahead by a background thread; 0 reads in the caller.
        pin: put batches into page-locked memory, from where they travel to a GPU while it computes.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self, dataset: PackedDataset, indices: ArrayLike, batch_size: int, seed: int = 0, rank: int = 0,
        world_size: int = 1, prefetch: int = 2, pin: bool = False,
    ) -> None:  # fmt: skip
        self.dataset = dataset
        self.indices = np.ascontiguousarray(indices, dtype=np.int64)
        if self.indices.ndim != 1 or self.indices.size == 0:
            raise ConfigError(
                f"the loader needs at least one sample, its indices have shape {self.indices.shape}; check the split"
            )
        if batch_size < 1 or world_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"batch size {batch_size} is the global batch and must be a positive multiple of the {world_size} "
                "processes; change one of them"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is outside 0 to {world_size - 1}")
        if not 0 <= seed < 2**64:
            raise ConfigError(f"seed {seed} must lie between 0 and 2^64 - 1")
        if prefetch < 0:
            raise ConfigError(f"prefetch {prefetch} must be 0 or more")
        self.batch_size, self.seed, self.rank = batch_size, seed, rank
        self.world_size, self.prefetch, self.pin = world_size, prefetch, pin
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.indices)

    def epochs(self, offset: int) -> NDArray[np.int64]:
        """The epoch of each row of this rank's share of the batch at a global sample offset, int64 [B/W]."""
        return self._positions(offset) // len(self.indices)

    def rows(self, offset: int) -> NDArray[np.int64]:
        """The rows of the packed set in this rank's share of the batch at a global sample offset, int64 [B/W]."""
        return self._rows_at(self._positions(offset))

    def global_rows(self, offset: int) -> NDArray[np.int64]:
        """The rows of the whole batch at a global sample offset, int64 [B], the same on every rank."""
        return self._rows_at(np.arange(offset, offset + self.batch_size, dtype=np.int64))

    def _rows_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        result = np.empty(len(positions), dtype=np.int64)
        epochs, places = positions // len(self.indices), positions % len(self.indices)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self.indices[self._epoch(int(epoch))[places[chosen]]]
        return result

    def batches(self, start: int = 0) -> Iterator[PackedBatch]:
        """Endless batches of B/W rows, from a global sample offset on.

        Args:
            start: samples of the stream already consumed by all ranks together; a multiple of B.

        Raises:
            ConfigError: ``start`` is negative or no multiple of B.
        """
        if start < 0 or start % self.batch_size:
            raise ConfigError(
                f"the loader starts at sample {start}, which is no multiple of the global batch of {self.batch_size}; "
                "resume with the batch size of the run"
            )
        produced = self._read(start)
        return ahead(produced, self.prefetch) if self.prefetch else produced

    def _read(self, offset: int) -> Iterator[PackedBatch]:
        while True:
            batch = self.dataset.read(self.rows(offset))
            yield pinned(batch) if self.pin else batch
            offset += self.batch_size

    def _positions(self, offset: int) -> NDArray[np.int64]:
        share = self.batch_size // self.world_size
        return np.arange(offset + self.rank * share, offset + (self.rank + 1) * share, dtype=np.int64)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        # Assigned as one tuple, so that a second iterator in another thread never sees a half-updated pair.
        cached = self._order
        if cached is None or cached[0] != epoch:
            cached = (epoch, epoch_order(len(self.indices), self.seed, epoch))
            self._order = cached
        return cached[1]


def sequential(dataset: Readable, indices: ArrayLike, batch_size: int, prefetch: int = 1) -> Iterator[PackedBatch]:
    """Every given row once, in the given order, for evaluation; the last batch may be short.

    Raises:
        ConfigError: the batch size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size} must be 1 or more")
    rows = np.ascontiguousarray(indices, dtype=np.int64)
    produced = (dataset.read(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    return ahead(produced, prefetch) if prefetch else produced


def pinned(batch: PackedBatch) -> PackedBatch:
    """A copy of the large arrays in page-locked memory."""
    import torch

    images, environment = (torch.from_numpy(part).pin_memory().numpy() for part in (batch.images, batch.environment))
    return batch._replace(images=images, environment=environment)


class _Failure:
    """An exception on its way from the reading thread to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(source: Iterator[PackedBatch], depth: int) -> Iterator[PackedBatch]:
    """Runs an iterator in a thread, ``depth`` items ahead; its exceptions come out here, closing stops the thread."""
    ready: queue.Queue[PackedBatch | _Failure | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(item: PackedBatch | _Failure | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in source:
                offer(item)
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            offer(_Failure(error))
        else:
            offer(None)

    thread = threading.Thread(target=work, name="geotreeclip-loader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is None:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
