"""How often each sample is drawn: occurrences crowd where people look, and pretraining wants the Earth.

The order stays a function of (seed, epoch) alone. An epoch of N draws takes sample i floor or ceil of N p_i times
(systematic sampling), in shuffled order. Weights belong to sample ids, never to positions in a folder.

Shapes: N samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.data.loader import Loader, epoch_order
from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import DataError
from geotreeclip.evaluation.splits import spatial_blocks

__all__ = ["CELL_KM", "WeightedLoader", "density_weights", "read_weights", "systematic_draw"]

CELL_KM = 23.0
"""Spacing of the locations of SSL4Eco (arXiv 2504.18256)."""

_SALT = 0x57E1


def density_weights(longitude: ArrayLike, latitude: ArrayLike, exponent: float) -> NDArray[np.float64]:
    """n^-exponent for the n samples that share a cell of 23 km, [N]; samples of unknown place count as lone ones."""
    lon, lat = np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
    weight = np.ones(len(lon))
    known = np.isfinite(lon) & np.isfinite(lat)
    if exponent and known.any():
        _, cell, count = np.unique(
            spatial_blocks(lon[known], lat[known], CELL_KM), return_inverse=True, return_counts=True
        )
        weight[known] = count[cell] ** -float(exponent)
    return weight


def read_weights(path: Path, ids: ArrayLike) -> NDArray[np.float64]:
    """Weights of samples by id, [N].

    Args:
        path: Parquet with the columns sample_id and weight.
        ids: [N].

    Raises:
        DataError: The table cannot be read, lacks a sample, or holds a weight that is none.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a table of weights: {error}") from error
    if not {"sample_id", "weight"} <= set(table):
        raise DataError(f"{path}: needs the columns sample_id and weight, has {', '.join(map(str, table.columns))}")
    names, wanted = pd.Index(table["sample_id"].astype(str)), pd.Index(np.asarray(ids).astype(str))
    if names.has_duplicates:
        raise DataError(f"{path}: sample {names[names.duplicated()][0]!r} comes twice; ids must be unique")
    at = names.get_indexer(wanted)
    if (at < 0).any():
        raise DataError(f"{path}: has no weight for {int((at < 0).sum())} samples, first {wanted[at < 0][0]!r}")
    weight = table["weight"].to_numpy(dtype=np.float64)[at]
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any() or not weight.sum() > 0:
        first = int(np.argmax(wrong))
        raise DataError(f"{path}: weight of {wanted[first]!r} is {weight[first]}; give numbers of 0 or more, not all 0")
    return weight


def systematic_draw(weight: NDArray[np.float64], start: float) -> NDArray[np.int64]:
    """N draws of N samples: each its share of N, rounded up or down; ascending, int64 [N].

    Args:
        weight: [N], at least 0, not all 0.
        start: 0 to 1, which decides who is rounded up.
    """
    edges = np.cumsum(weight) / weight.sum() * len(weight)
    edges[-1] = len(weight)
    at = np.searchsorted(edges, np.arange(len(weight)) + start, side="right")
    return np.minimum(at, len(weight) - 1).astype(np.int64)


class WeightedLoader(Loader):
    """A loader that draws some samples more often than others; the arguments are those of `Loader`, and `weight`."""

    def __init__(
        self,
        dataset: PackedDataset,
        indices: ArrayLike,
        batch_size: int,
        weight: NDArray[np.float64],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
    ) -> None:
        super().__init__(dataset, indices, batch_size, seed, rank, world_size, prefetch)
        self._weight = weight
        self._drawn: tuple[int, NDArray[np.int64]] | None = None

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        cached = self._drawn
        if cached is None or cached[0] != epoch:
            # Raw draws of Philox keep their value in every release of numpy.
            raw = np.random.Philox(key=np.array([self.seed ^ _SALT, epoch], dtype=np.uint64)).random_raw()
            drawn = systematic_draw(self._weight, int(raw) / 2**64)
            cached = (epoch, drawn[epoch_order(len(self.indices), self.seed, epoch)])
            self._drawn = cached
        return cached[1]
