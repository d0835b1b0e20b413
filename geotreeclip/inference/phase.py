"""Days since greenup for models that count so (`model.observation.season: phase`). N places, T steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from geotreeclip.errors import InputError
from geotreeclip.models.config import ObservationConfig
from geotreeclip.observations import ObservationBatch

__all__ = ["count_from_greenup"]

_YEAR = 365.0
_HOW = (
    "give greenup=, the day of the year on which each place greens up (0 is the first moment of 1 January; "
    "data_prep/phenology.py fits it), or greenup=0 if your days count from it already"
)


def count_from_greenup(
    batch: ObservationBatch, config: ObservationConfig, greenup: Any, name_sample: Callable[[int], str]
) -> ObservationBatch:
    """Days of the calendar as days since the greenup of each place, where the model counts so.

    A step of day d becomes day (d - 1 - greenup) mod 365 + 1 and keeps its length, as in
    `geotreeclip.prep.phase.shift_days_to_phase`.

    Args:
        batch: N places, days of the calendar.
        config: What the model reads, and what days mean to it.
        greenup: Day of the year of greenup, 0 to 365, a number or [N]; NaN for places without imagery; or None.
        name_sample: Names the place of a row in messages.

    Returns:
        The batch; as it is if the model reads no imagery or none is there.

    Raises:
        InputError: The model counts from greenup and none is given, or it does not and one is; or a greenup is no day.
    """
    if config.season != "phase":
        if greenup is not None:
            raise InputError("greenup is given, but this model takes days of the calendar; leave greenup out")
        return batch
    if "image" not in config.inputs or not batch.images.shape[1]:
        return batch
    seen = batch.image_valid.flatten(1).any(dim=1).cpu().numpy()
    if not seen.any():
        return batch
    if greenup is None:
        raise InputError(
            "this model counts the days of imagery from the greenup of each place (it was trained with "
            f"model.observation.season: phase), and these are days of the calendar; {_HOW}"
        )
    try:
        start = np.broadcast_to(np.asarray(greenup, dtype=np.float64), (batch.size,))
    except (TypeError, ValueError) as error:
        raise InputError(f"greenup must be a number, or one for each of {batch.size} places: {error}") from error
    wrong = seen & ~((start >= 0) & (start <= _YEAR + 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{name_sample(row)}: greenup is {start[row]:g}, no day of the year; {_HOW}")
    shift = torch.as_tensor(np.where(seen, start, 0.0), dtype=torch.float32, device=batch.first_day.device)[:, None]
    first = (batch.first_day - 1 - shift) % _YEAR + 1
    return batch._replace(first_day=first, last_day=first + batch.last_day - batch.first_day)
