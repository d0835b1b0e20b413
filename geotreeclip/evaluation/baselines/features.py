"""Tables of features for trees: monthly band means, environment, place.

Shape letters: N samples, B of a batch, T time steps, C bands, H W pixels, F features.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.evaluation.baselines.fold import Fold
from geotreeclip.evaluation.inputs import INPUT_SETS
from geotreeclip.schema import GROUPS, MISSING_DN, MONTH_DAYS, MONTHS, VARIABLE_INDEX

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["features", "filled", "monthly_means", "monthly_series", "read_environment"]

_BATCH = 2048
_ASPECT = VARIABLE_INDEX["aspect"]


def monthly_means(images: NDArray[np.uint16], days: NDArray[np.floating[Any]] | None = None) -> NDArray[np.float32]:
    """Mean digital number of each calendar month and band, over the valid pixels of all steps whose middle lies in it.

    Args:
        images: uint16 [B, T, C, H, W], 65535 where missing.
        days: [B, T, 2], first and last day of each step; None where the steps are the calendar months.

    Returns:
        float32 [B, 12, C], NaN where nothing was seen.

    Raises:
        DataError: Steps that are no calendar months, without days.
    """
    valid = images != MISSING_DN
    total = np.where(valid, images, 0).sum(axis=(3, 4), dtype=np.float64)
    count = valid.sum(axis=(3, 4), dtype=np.float64)
    if days is None and images.shape[1] != MONTHS:
        raise DataError(
            f"{images.shape[1]} time steps without days; months are known of {MONTHS} steps or of dated ones"
        )
    if days is not None and not _are_months(days):
        middle = np.asarray(days, dtype=np.float64).mean(axis=2)
        # Days of a step may run past the end of a year; the month is that of the year's circle
        month = np.clip(np.searchsorted(MONTH_DAYS[:, 1], (middle - 1) % 365 + 1), 0, MONTHS - 1)
        one_hot = (month[:, :, None] == np.arange(MONTHS)).astype(np.float64)
        total, count = (np.einsum("btm,btc->bmc", one_hot, part) for part in (total, count))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return np.asarray(mean, dtype=np.float32)


def _are_months(days: NDArray[np.floating[Any]]) -> bool:
    return days.shape[1] == MONTHS and bool(np.all(days == MONTH_DAYS))


def monthly_series(dataset: PackedDataset, *, progress: bool = False) -> NDArray[np.float32]:
    """`monthly_means` of a whole packed set, float32 [N, 12, C], streamed."""
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential

    parts = []
    with tqdm(total=len(dataset), unit=" samples", desc="monthly means", disable=not progress, file=sys.stderr) as bar:
        for batch in sequential(dataset, np.arange(len(dataset)), _BATCH):
            parts.append(monthly_means(batch.images, batch.days))
            bar.update(len(batch.taxon))
    return np.concatenate(parts)


def read_environment(dataset: PackedDataset) -> NDArray[np.float32]:
    """The variables of a whole packed set, float32 [N, 27], streamed."""
    step = 16 * _BATCH
    starts = range(0, len(dataset), step)
    return np.concatenate([dataset.read(np.arange(at, min(at + step, len(dataset)))).environment for at in starts])


def features(fold: Fold, inputs: str) -> NDArray[np.float32]:
    """Features of all samples, NaN where missing, [N, F].

    Month by band means first, where the set has imagery, then the environmental variables of the inputs in schema
    order; aspect as sine and cosine. Columns that no training sample knows are left out.

    Args:
        fold: The fold.
        inputs: One of `geotreeclip.evaluation.inputs.INPUT_SETS`.

    Raises:
        DataError: Images alone are wanted of a set without, or training knows nothing at all.
    """
    given = INPUT_SETS[inputs]
    parts: list[NDArray[Any]] = []
    if given == {"image"} and fold.series is None:
        raise DataError(f"inputs {inputs} need imagery; the set has none")
    if "image" in given and fold.series is not None:
        parts.append(fold.series.reshape(len(fold.series), -1))
    for group, columns in GROUPS.items():
        if group in given:
            parts.append(fold.environment[:, [column for column in columns if column != _ASPECT]])
            if _ASPECT in columns:
                angle = np.radians(fold.environment[:, [_ASPECT]])
                parts += [np.sin(angle), np.cos(angle)]
    table = np.concatenate(parts, axis=1, dtype=np.float32)
    known = np.isfinite(table[fold.train]).any(axis=0)
    if not known.any():
        raise DataError(f"no training sample knows anything of inputs {inputs}; nothing to fit trees on")
    return table[:, known]


def filled(table: NDArray[np.float32], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """The table with the median of the training part where a value is missing."""
    return np.where(np.isfinite(table), table, np.nanmedian(table[train], axis=0)).astype(np.float32)
