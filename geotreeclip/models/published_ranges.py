"""How the published model scales its inputs to -1 to 1: by the minima and maxima of the batch at hand.

That makes a prediction depend on its batch mates, so the same scaling is also offered with fixed ranges: those that a
batch of training would have had on average (`batch_ranges`), or, where no data set is at hand, `default_ranges`.

Formulas of the batch scaling (MUYang99/GlobalGeoTree, models.py): with lowest value a and highest value b,
2 (x - a) / (b - a + 1e-6) - 1. For each band a and b are taken over samples, months and pixels with missing months as
0, so that a is 0 in practice; for each variable over the samples that have it, with b = a + 1 where all agree.

Shapes: B batch, N samples, T months, C bands, H W pixels, V variables (27).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.schema import MISSING_DN, VARIABLES

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.observations import ObservationBatch

__all__ = ["TRAINING_BATCH", "BatchRanges", "batch_ranges", "default_ranges", "scale_by_batch"]

TRAINING_BATCH = 192
"""Samples of a batch in the published training (one GPU), hence of the batches whose ranges are averaged."""

_EPSILON = 1e-6
_DRAWS = 400  # batches averaged over; their spread shrinks by the root of this
_READ = 2048

_BAND_MAXIMA = (10400, 10100, 10400, 10500, 10400, 10000, 9700, 9400, 7400, 7000)
"""Mean highest digital number of 192 samples: drawn from 500 places of the world with monthly composites in which
clouds and snow remain (WorldCereal, CC BY 4.0), in the order of `schema.BANDS`. The lowest is 0, a missing month."""

_VARIABLE_RANGES = (
    (-150, 175), (-42, 63),  # longitude, latitude
    (0, 2800), (0, 40), (0, 360),  # elevation, slope, aspect
    (120, 480), (120, 480), (120, 480),  # water at 33 kPa
    (-1.6, 28.3), (4.6, 17.5), (20.9, 89.7), (30.6, 1400), (15.6, 37.7), (-26.1, 21.9), (10, 50), (-4.5, 28.9),
    (-16.3, 28.4), (10.1, 30.1), (-18.5, 27.5),  # bio01 to bio11, degrees as in WorldClim 2.1
    (304, 3515), (40, 774), (0.3, 196), (7.7, 123), (105, 1970), (4.2, 670), (11.3, 1870), (8.1, 1114),
)  # fmt: skip
"""Mean lowest and highest value of 192 samples drawn from the 9,930 places of the published 90-species set, in the
units of `schema.VARIABLES`: coordinates, climate of WorldClim 2.1 at 10 arc-minutes, elevation of ETOPO from sea level.
Slope, aspect and soil water are assumed: no rasters of theirs lie behind these constants."""


class BatchRanges(NamedTuple):
    """Lowest and highest values that become -1 and 1.

    Attributes:
        bands: float64 [C, 2], digital numbers.
        variables: float64 [V, 2] in the units of `schema.VARIABLES`.
    """

    bands: npt.NDArray[np.float64]
    variables: npt.NDArray[np.float64]


def default_ranges() -> BatchRanges:
    """Ranges for when no data set is at hand (see `_BAND_MAXIMA` and `_VARIABLE_RANGES` for their origin)."""
    bands = np.array([(0.0, high) for high in _BAND_MAXIMA])
    return BatchRanges(bands, np.array(_VARIABLE_RANGES, dtype=np.float64))


def batch_ranges(
    dataset: PackedDataset, *, batch_size: int = TRAINING_BATCH, draws: int = _DRAWS, seed: int = 0
) -> BatchRanges:
    """Ranges that batches of a packed set have on average.

    The whole set reaches further than any batch does, and the published model saw batches: so the lowest and highest
    values of `draws` random batches are averaged.

    Args:
        dataset: The packed set, at best samples of the published training set.
        batch_size: Samples of a batch; the whole set where it is smaller.
        draws: Batches.
        seed: Of the draw.

    Returns:
        The ranges; where the set has no values of a band or variable, those of `default_ranges`.
    """
    rng = np.random.default_rng(seed)
    size = min(batch_size, len(dataset))
    batches = np.stack([rng.choice(len(dataset), size, replace=False) for _ in range(draws)])
    rows, place = np.unique(batches, return_inverse=True)  # each sample is read once, whatever the draws
    extremes = [_extremes(dataset, rows[start : start + _READ]) for start in range(0, len(rows), _READ)]
    bands, variables = (np.concatenate(parts)[place.reshape(batches.shape)] for parts in zip(*extremes, strict=True))
    default = default_ranges()
    return BatchRanges(_average(bands, default.bands), _average(variables, default.variables))


def _extremes(
    dataset: PackedDataset, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Lowest and highest value of each sample: [n, C, 2] of the bands, [n, V, 2] of the variables, NaN for none."""
    batch = dataset.read(rows)
    images = batch.images.astype(np.float32)
    missing = batch.images == MISSING_DN
    images[missing] = 0.0  # a missing month enters as 0
    axes = (1, 3, 4)
    bands = np.full((len(rows), images.shape[2], 2), np.nan, dtype=np.float32)
    if images.shape[1]:
        bands = np.stack([images.min(axis=axes), images.max(axis=axes)], axis=-1)
        bands[missing.all(axis=axes)] = np.nan
    return bands, np.stack([batch.environment] * 2, axis=-1)


def _average(values: npt.NDArray[np.float32], default: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over draws of the lowest and highest values: [draws, size, K, 2] to [K, 2]."""
    lowest = np.where(np.isnan(values[..., 0]), np.inf, values[..., 0]).min(axis=1)
    highest = np.where(np.isnan(values[..., 1]), -np.inf, values[..., 1]).max(axis=1)
    result = default.copy()
    for column in range(len(default)):
        given = np.isfinite(lowest[:, column])
        if given.any():
            low, high = float(lowest[given, column].mean()), float(highest[given, column].mean())
            result[column] = (low, high) if high - low > _EPSILON else (low, low + 1)
    return result


def scale_by_batch(batch: ObservationBatch) -> tuple[Tensor, Tensor]:
    """Scale images and environment by the minima and maxima of this very batch, as the published scripts do.

    A pixel that is missing in a month with data is treated as a missing month is: 0 in the minimum, 0 in the result.
    (In the published scripts it turns the whole batch into NaN.) Temperatures are brought to tenths of a degree first,
    the units of training.

    Returns:
        Images [B, T, C, H, W] and environment [B, V], -1 to 1, 0 where missing.
    """
    images, valid = torch.where(batch.image_valid, batch.images, 0.0), batch.image_valid
    if images.numel():
        low, high = (extreme(images, dim=(0, 1, 3, 4), keepdim=True) for extreme in (torch.amin, torch.amax))
        images = torch.where(valid, 2 * ((images - low) / (high - low + _EPSILON)) - 1, 0.0)
    factors = [variable.worldclim1_factor for variable in VARIABLES]
    values = batch.environment * torch.tensor(factors, dtype=torch.float32, device=batch.environment.device)
    known = batch.environment_valid
    low = torch.where(known, values, torch.inf).amin(dim=0)
    high = torch.where(known, values, -torch.inf).amax(dim=0)
    none = ~known.any(dim=0)
    low, high = torch.where(none, 0.0, low), torch.where(none, 1.0, high)
    high = torch.where((high - low).abs() < _EPSILON, low + 1, high)
    return images, torch.where(known, 2 * ((values - low) / (high - low + _EPSILON)) - 1, 0.0)
