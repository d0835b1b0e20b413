"""Leak audit: what a test set shares with the samples that a model learnt from.

Shape letters: N test samples, M training samples.

Whoever knows the training places can answer a test sample by its nearest neighbour. How often that is right, beside
the most frequent taxon, says how much of a score location alone could explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import DataError
from geotreeclip.evaluation.splits import check_coordinates, nearest, places, spatial_blocks

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

NEAR_KM = (0.05, 1.0, 10.0, 100.0)
BLOCK_KM = 100.0


class Audit(NamedTuple):
    """What could leak from training to test.

    Attributes:
        test: N.
        train: M.
        same_id: test samples whose id is also a training sample's.
        same_place: test samples within about a metre of a training sample.
        near: kilometres -> share of the test samples with a training sample within them.
        same_block: share of the test samples whose 100 km block also holds a training sample.
        median_km: median distance to the nearest training sample.
        neighbour_top1: how often the nearest training sample has the right taxon.
        majority_top1: how often the most frequent training taxon is right.
    """

    test: int
    train: int
    same_id: int
    same_place: int
    near: dict[float, float]
    same_block: float
    median_km: float
    neighbour_top1: float
    majority_top1: float


class Samples(NamedTuple):
    """Where samples lie and what they are; arrays of one length."""

    sample_id: NDArray[np.str_]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    taxon: NDArray[Any]


def samples_of(dataset: PackedDataset, rows: ArrayLike | None = None) -> Samples:
    """Samples of a packed set, with the taxon as text so that two sets can be compared.

    Raises:
        DataError: a sample has no coordinates.
    """
    table = dataset.samples()
    index = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
    table = table.iloc[index]
    lon, lat = (table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("longitude", "latitude"))
    names = np.array([taxon.species or taxon.prompt() for taxon in dataset.taxonomy])
    lon, lat = check_coordinates(lon, lat)
    return Samples(np.asarray(table["sample_id"].astype(str).tolist(), dtype=str), lon, lat, names[dataset.taxa[index]])


def audit(test: Samples, train: Samples, block_km: float = BLOCK_KM) -> Audit:
    """Compare test with training samples.

    Raises:
        DataError: one of them is empty.
    """
    size = len(test.sample_id)
    if not size or not len(train.sample_id):
        raise DataError(f"leak audit: {size} test and {len(train.sample_id)} training samples; both are needed")
    distance, row = nearest(test.longitude, test.latitude, train.longitude, train.latitude)
    lon, lat = (np.concatenate([getattr(part, name) for part in (test, train)]) for name in ("longitude", "latitude"))
    place, block = places(lon, lat), spatial_blocks(lon, lat, block_km)
    names, count = np.unique(train.taxon, return_counts=True)
    return Audit(
        test=size,
        train=len(train.sample_id),
        same_id=int(np.isin(test.sample_id, train.sample_id).sum()),
        same_place=int(np.isin(place[:size], place[size:]).sum()),
        near={km: float((distance <= km).mean()) for km in NEAR_KM},
        same_block=float(np.isin(block[:size], block[size:]).mean()),
        median_km=float(np.median(distance)),
        neighbour_top1=float((train.taxon[row] == test.taxon).mean()),
        majority_top1=float((test.taxon == names[count.argmax()]).mean()),
    )


def audit_split(dataset: PackedDataset, split: str, folds: Sequence[int] | None = None) -> dict[int, Audit]:
    """Fold -> audit of its test samples against the samples that train or validate."""
    found = {}
    for fold in folds if folds is not None else fold_numbers(dataset, split):
        test = dataset.split(split, fold, "test")
        used = np.concatenate([dataset.split(split, fold, role) for role in ("train", "validation")])
        found[fold] = audit(samples_of(dataset, test), samples_of(dataset, used))
    return found


def fold_numbers(dataset: PackedDataset, split: str) -> list[int]:
    """The folds of a split that have test samples."""
    import pandas as pd

    path = dataset.directory / "splits" / f"{split}.parquet"
    if not path.is_file():
        dataset.split(split)
    frame = pd.read_parquet(path, columns=["fold", "role"])
    return sorted(int(fold) for fold in frame.loc[frame["role"] == "test", "fold"].unique())
