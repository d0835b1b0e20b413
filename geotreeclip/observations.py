"""Whatever a user has, as one masked batch: `ObservationBatch`.

Shapes: B batch, T time steps, C bands, H W pixels, V variables (27).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geotreeclip.schema import BANDS, MISSING_DN, MONTH_DAYS, MONTHS, PATCH

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedBatch

__all__ = ["ObservationBatch", "from_packed"]


class ObservationBatch(NamedTuple):
    """Observations of B places; missing values are 0 under a false mask and never NaN.

    Attributes:
        images: [B, T, C, H, W] float32, digital numbers of surface reflectance (offset removed). T may be 0.
        image_valid: bool, same shape.
        first_day: [B, T] float32, first day of each step: day of a 365-day year counted from 1; values beyond 365
            belong to the following year (the model reads days as a cycle).
        last_day: [B, T] float32, last day of each step, inclusive, not before `first_day`.
        environment: [B, V] float32 in the units of `geotreeclip.schema.VARIABLES`.
        environment_valid: [B, V] bool.
    """

    images: Tensor
    image_valid: Tensor
    first_day: Tensor
    last_day: Tensor
    environment: Tensor
    environment_valid: Tensor

    @property
    def size(self) -> int:
        """Number of places B."""
        return self.environment.shape[0]  # not int(...): torch.export has a symbol here

    def to(self, device: torch.device | str) -> ObservationBatch:
        """The batch on another device."""
        return ObservationBatch(*(part.to(device, non_blocking=True) for part in self))

    def select(self, rows: slice | Tensor) -> ObservationBatch:
        """Some of the places, in the given order."""
        return ObservationBatch(*(part[rows] for part in self))


def from_packed(batch: PackedBatch, device: torch.device | str = "cpu") -> ObservationBatch:
    """Turn a batch of packed shards into a masked batch on a device.

    The uint16 values travel as they are stored; conversion happens on the device.

    Args:
        batch: Arrays as `PackedDataset.read` gives them.
        device: Where the tensors go.

    Returns:
        The masked batch; steps without `days` are the 12 calendar months.

    Raises:
        ValueError: If the set has another number of steps than 12 and no `days` column.
    """
    stored = torch.from_numpy(batch.images).to(device, non_blocking=True)
    if stored.shape[1] == 0:  # a set without imagery; a model that reads images wants patches, if none of them
        stored = stored.new_empty(len(stored), 0, len(BANDS), PATCH, PATCH)
    # uint16 has few kernels; int32 holds every value.
    wide = stored.to(torch.int32)
    image_valid = wide != MISSING_DN
    images = torch.where(image_valid, wide, 0).to(torch.float32)
    size, steps = stored.shape[:2]
    if batch.days is not None:
        days = torch.from_numpy(batch.days).to(device, non_blocking=True)
    elif steps in (0, MONTHS):
        days = torch.from_numpy(MONTH_DAYS[:steps]).to(device).expand(size, steps, 2)
    else:
        raise ValueError(f"{steps} steps without days: only 12 calendar months need none")
    values = torch.from_numpy(np.ascontiguousarray(batch.environment)).to(device, non_blocking=True)
    environment_valid = torch.isfinite(values)
    return ObservationBatch(
        images,
        image_valid,
        days[..., 0],
        days[..., 1],
        torch.where(environment_valid, values, 0.0),
        environment_valid,
    )
