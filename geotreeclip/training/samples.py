"""Which samples a run trains on, and which it validates on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.stream import StreamedSet
from geotreeclip.errors import ConfigError
from geotreeclip.training.config import RunConfig

__all__ = ["Samples", "choose_samples"]


class Samples(NamedTuple):
    """Rows of a packed set.

    Attributes:
        train: int64, ascending.
        validation: int64, ascending; disjoint from `train`.
        split: The split they come from, "" for all samples of the set.
    """

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    split: str


def choose_samples(dataset: PackedDataset | StreamedSet, config: RunConfig) -> Samples:
    """Training and validation rows of a run.

    A split that names validation samples decides. Where it names none, or there is no split, a share
    `config.validation` of the training samples is held out by seed. Test samples are never touched.

    Of a stream, only the rows that lie on this machine can be validation samples.

    Args:
        dataset: The packed set, or the stream.
        config: split, fold, validation, validation_samples and seed are read.

    Raises:
        ConfigError: If nothing is left to train on.
        DataError: If the split does not exist.
    """
    split = config.split
    if not split and (dataset.directory / "splits" / "default.parquet").is_file():
        split = "default"
    if split:
        train = dataset.split(split, config.fold, "train")
        validation = dataset.split(split, config.fold, "validation")
    else:
        train, validation = np.arange(len(dataset), dtype=np.int64), np.empty(0, dtype=np.int64)
    generator = np.random.default_rng([config.seed, 0x5A])
    near = len(train)
    if isinstance(dataset, StreamedSet):
        validation = validation[validation < dataset.probe_rows]
        near = int(np.searchsorted(train, dataset.probe_rows))
    if not len(validation) and config.validation > 0:
        held_out = generator.permutation(near)[: round(near * config.validation)]
        validation = train[held_out]
        train = np.delete(train, held_out)
    if len(validation) > config.validation_samples:
        validation = generator.choice(validation, config.validation_samples, replace=False)
    if not len(train):
        raise ConfigError(f"{dataset.directory}: no training samples (split {split!r}, fold {config.fold})")
    return Samples(np.sort(train), np.sort(validation), split)
