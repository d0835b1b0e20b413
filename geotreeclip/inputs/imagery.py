"""Satellite time series in the shapes and units people have -> one masked array in the model's layout.

Shapes: N samples, T time steps, C = 10 bands in the order of `schema.BANDS`, H = W = 5 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.inputs.bands import band_slots
from geotreeclip.inputs.common import SampleNamer, sample_number, to_masked_array, warn
from geotreeclip.inputs.scale import to_digital_numbers
from geotreeclip.inputs.steps import month_slots, read_days
from geotreeclip.schema import BANDS, MISSING_DN, MONTH_DAYS, MONTHS, PATCH

__all__ = ["Imagery", "read_imagery"]


class Imagery(NamedTuple):
    """Images ready for the model.

    Attributes:
        images: float32 [N, T, C, H, W], digital numbers with the offset removed, 0 where missing.
        valid: bool, same shape.
        days: float32 [N, T, 2], first and last day of each step.
    """

    images: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    days: npt.NDArray[np.float32]


def read_imagery(
    images: Any,
    *,
    bands: Sequence[str] | None = None,
    months: Iterable[int] | None = None,
    days: Any = None,
    scale: str = "auto",
    offset: Any = 0,
    nodata: float | Iterable[float] | None = None,
    name: SampleNamer = sample_number,
) -> Imagery:
    """Read images; see `geotreeclip.build_observations` for the arguments.

    Args:
        images: [N, T, c, h, w], [T, c, h, w], [N, T, c] or [T, c].
        bands: Names of the c bands.
        months: Calendar months of the T steps; the result then has all 12, those not given masked.
        days: First and last day of each step, instead of months.
        scale: "auto", "dn" or "reflectance".
        offset: Digital numbers to take away.
        nodata: Further values that mean missing, beside NaN and 65535.
        name: Names a sample in messages.

    Returns:
        The images in the model's layout.

    Raises:
        InputError: If shapes, names, dates or values cannot be right.
    """
    array, mask = to_masked_array(images, "images")
    array, mask = _five_axes(array), None if mask is None else _five_axes(mask)
    columns, slots = band_slots(bands, array.shape[2])
    window, target = _window(array.shape[-2:])
    array = array[:, :, columns, window[0], window[1]]
    valid: npt.NDArray[np.bool_] = np.isfinite(array)
    for value in (MISSING_DN, *_values(nodata)):
        valid &= array != value
    if mask is not None:
        valid &= ~mask[:, :, columns, window[0], window[1]]
    values = np.where(valid, array, 0).astype(np.float32)
    if len(columns) > 1:  # a pixel that is 0 in all bands is fill: Level-2A products keep 0 for no-data
        valid &= (values != 0).any(axis=2, keepdims=True)
    if bands is None:
        _suspect_order(values, valid)
    samples, steps = array.shape[:2]
    if months is not None and days is not None:
        raise InputError("give months= or days=, not both")
    period = month_slots(months, steps) if days is None else None
    when = None if days is None else read_days(days, samples, steps, name)
    if when is not None:
        exists: npt.NDArray[np.bool_] = np.asarray(np.isfinite(when).all(axis=-1))
        valid &= exists[:, :, None, None, None]
        when = np.where(np.isfinite(when), when, np.float32(1))
    numbers = to_digital_numbers(values, valid, slots, scale=scale, offset=offset, name=name)

    length = MONTHS if period is not None else steps
    result = np.zeros((samples, length, len(BANDS), PATCH, PATCH), dtype=np.float32)
    result_valid = np.zeros(result.shape, dtype=bool)
    where = (slice(None), (period if period is not None else np.arange(steps))[:, None], np.array(slots)[None, :])
    result[(*where, *target)] = numbers
    result_valid[(*where, *target)] = valid
    if when is None:
        when = np.array(np.broadcast_to(MONTH_DAYS, (samples, MONTHS, 2)))
    return Imagery(result, result_valid, when)


def _five_axes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, T, c, h, w] of any accepted shape."""
    if array.ndim in (2, 4):
        array = array[None]
    if array.ndim == 3:
        array = array[..., None, None]
    if array.ndim != 5 or 0 in array.shape[1:]:
        raise InputError(
            "images must have shape [samples, steps, bands, rows, columns], [steps, bands, rows, columns] for one "
            f"place, or [samples, steps, bands] or [steps, bands] for single pixels, none of them empty; got "
            f"{list(array.shape)}"
        )
    return array


def _window(shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Part of the given pixels to take, and where it lies in the 5 x 5 patch: centre on centre."""
    if max(shape) > PATCH:
        warn(f"images have {shape[0]} x {shape[1]} pixels; the model reads the central {PATCH} x {PATCH}")
    take, put = [], []
    for size in shape:
        kept = min(size, PATCH)
        start, place = (size - kept) // 2, (PATCH - kept) // 2
        take.append(slice(start, start + kept))
        put.append(slice(place, place + kept))
    return (take[0], take[1]), (put[0], put[1])


def _values(nodata: float | Iterable[float] | None) -> list[float]:
    if nodata is None:
        return []
    return [float(nodata)] if isinstance(nodata, int | float | np.number) else [float(value) for value in nodata]


def _suspect_order(values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> None:
    """Warn when unnamed bands look sorted by wavelength: B5 would then stand where B8 is expected.

    Over vegetation B8 is as bright as B7 or brighter, and B5 far darker; the fourth band is compared with the sixth,
    B6 in the model's order and B7 in the sorted one.
    """
    both = valid[:, :, 3] & valid[:, :, 5] & valid[:, :, 0]
    fourth, sixth, blue = (values[:, :, band][both] for band in (3, 5, 0))
    green = sixth > 3 * blue  # vegetated pixels; soil, snow and water tell nothing
    if green.sum() >= 12 and float(np.median(fourth[green] / sixth[green])) < 0.7:
        warn(
            "images: the fourth band is far darker than the sixth over vegetation, as if the bands were sorted by "
            f"wavelength; unnamed bands are read as {' '.join(BANDS)} (B8 fourth). Pass bands= to be sure"
        )
