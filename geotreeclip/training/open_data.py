"""The data of a run: packed shards in memory maps, or a stream of packed or published shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from geotreeclip.data.loader import Loader
from geotreeclip.data.manifest import MANIFEST
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.remote import fetch_set, is_remote
from geotreeclip.data.stream import StreamedSet, StreamLoader, Tolerance, open_packed_stream
from geotreeclip.data.stream_published import open_published_stream
from geotreeclip.training.config import RunConfig
from geotreeclip.training.samples import Samples

__all__ = ["make_loader", "open_data"]


def open_data(config: RunConfig, tell: Callable[[str], None]) -> PackedDataset | StreamedSet:
    """Open the data that a run names, fetching and verifying what it has to.

    Args:
        config: data, cache, verify, stream, split and lenient are read.
        tell: Receives what is done, in words.

    Raises:
        DataError: If the data cannot be read or is not what its manifest states.
    """
    cache = Path(config.cache) if config.cache else None
    splits = {"default", config.split} - {""}
    if not config.stream:
        dataset = PackedDataset(fetch_set(config.data, cache, splits=splits, verify=config.verify, tell=tell))
        if config.verify:
            dataset.verify()
        return dataset
    packed = (
        not config.data.endswith(".tar") and "*" not in config.data
        if is_remote(config.data)
        else (Path(config.data) / MANIFEST).is_file()
    )
    if packed:
        return open_packed_stream(config.data, splits, cache)
    return open_published_stream(config.data, Path(config.out) / "index", tolerance(config), tell)


def tolerance(config: RunConfig) -> Tolerance:
    """What happens to samples that cannot be read."""
    return Tolerance(config.lenient, config.lenient_share)


def make_loader(
    dataset: PackedDataset | StreamedSet,
    samples: Samples,
    config: RunConfig,
    rank: int,
    world: int,
    *,
    pin: bool = False,
) -> Loader | StreamLoader:
    """Batches of the training samples for one process of a run."""
    if isinstance(dataset, StreamedSet):
        return StreamLoader(
            dataset, samples.train, config.batch_size, config.seed, rank, world, config.prefetch, tolerance(config),
            config.stream_buffer, pin,
        )  # fmt: skip
    return Loader(dataset, samples.train, config.batch_size, config.seed, rank, world, config.prefetch, pin)
