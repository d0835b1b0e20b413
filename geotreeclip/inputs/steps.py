"""Time steps: calendar months, or any periods given by their first and last day.

Shapes: N samples, T time steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import SampleNamer, sample_number, to_masked_array
from geotreeclip.schema import MONTH_DAYS, MONTHS

__all__ = ["month_slots", "read_days", "valid_months"]

_YEAR = 365.0


def month_slots(months: Iterable[int] | None, steps: int) -> npt.NDArray[np.int64]:
    """Calendar slot (0 to 11) of each of `steps` monthly time steps.

    Args:
        months: Calendar months 1 to 12 in the order of the steps, or None for January to December.
        steps: Number of time steps in the images.

    Returns:
        int64 [T].

    Raises:
        InputError: If months repeat, lie outside 1 to 12, or do not match the number of steps.
    """
    if months is None:
        if steps != MONTHS:
            raise InputError(
                f"images have {steps} time steps; without months= or days= they must be the {MONTHS} calendar months "
                "from January. Name the steps, as in months=[6, 7, 8] or days=[[152, 243]]"
            )
        return np.arange(MONTHS)
    given = list(months)
    for month in given:
        if not isinstance(month, int | np.integer) or not 1 <= month <= MONTHS:
            raise InputError(f"months must be whole numbers from 1 (January) to 12, got {month!r}")
    if len(given) != steps:
        raise InputError(f"images have {steps} time steps but months names {len(given)}: {given}")
    if len(set(given)) != len(given):
        raise InputError(f"months repeat: {given}; give several scenes of one month as days= instead")
    return np.array(given, dtype=np.int64) - 1


def read_days(days: Any, samples: int, steps: int, name: SampleNamer = sample_number) -> npt.NDArray[np.float32]:
    """First and last day of year of each step.

    A period may cross the turn of the year: its last day then lies before its first, and 365 is added to it here, so
    that the middle of the period is the mean of the two. Days of 366 (leap years) are accepted.

    Args:
        days: [T] single days, [T, 2] periods or [N, T, 2] periods of each sample; days of year counted from 1, or
            numpy datetime64. NaN (NaT) marks a step that does not exist for a sample.
        samples: N.
        steps: T.
        name: Names a sample in messages.

    Returns:
        float32 [N, T, 2]; NaN where the step does not exist.

    Raises:
        InputError: If the shape does not fit or a day lies outside 1 to 366.
    """
    array = np.asarray(days.detach().cpu().numpy() if hasattr(days, "detach") else days)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        in_days = array.astype("datetime64[D]")
        array = (in_days - array.astype("datetime64[Y]")).astype(np.float64) + 1
        array[missing] = np.nan
    else:
        array, _ = to_masked_array(array, "days")
    if array.shape == (steps,):
        array = np.stack([array, array], axis=-1)
    if array.shape not in {(steps, 2), (samples, steps, 2)}:
        raise InputError(
            f"days must have shape ({steps},), ({steps}, 2) or ({samples}, {steps}, 2) to go with images of "
            f"{samples} samples and {steps} time steps, got {array.shape}"
        )
    result = np.array(np.broadcast_to(array, (samples, steps, 2)), dtype=np.float32)
    result[np.isnan(result).any(axis=-1)] = np.nan
    bad = (result < 1) | (result > _YEAR + 1)
    if bad.any():
        sample, step, end = (int(index) for index in np.argwhere(bad)[0])
        raise InputError(
            f"days: {name(sample)}, step {step}: {result[sample, step, end]:g} is no day of year (1 to 366)"
        )
    crosses = result[..., 1] < result[..., 0]
    result[..., 1] += np.where(crosses, np.float32(_YEAR), np.float32(0))
    return result


def valid_months(
    first_day: npt.NDArray[np.float32], last_day: npt.NDArray[np.float32], step_valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Count the calendar months that were seen.

    A month counts when a valid step covers at least half of it, or has its middle in it: a dated scene counts once,
    a three-month median three times, a month once.

    Args:
        first_day: float32 [N, T], days of year from 1; `last_day` may exceed 365 where a period crosses the year.
        last_day: float32 [N, T].
        step_valid: bool [N, T], True where the step has a good pixel.

    Returns:
        int64 [N].
    """
    start, end = first_day[..., None] - 1, last_day[..., None]  # half-open, in days since the new year
    month_start, month_end = MONTH_DAYS[:, 0] - 1, MONTH_DAYS[:, 1]
    seen = np.zeros((*first_day.shape, MONTHS), dtype=bool)
    for year in (-_YEAR, 0.0, _YEAR):
        low, high = month_start + year, month_end + year
        overlap = np.minimum(end, high) - np.maximum(start, low)
        middle = (start + end) / 2
        seen |= (overlap >= (high - low) / 2) | ((middle >= low) & (middle < high))
    counts: npt.NDArray[np.int64] = (seen & step_valid[..., None]).any(axis=1).sum(axis=-1)
    return counts
