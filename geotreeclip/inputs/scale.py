"""Digital numbers or reflectance: find out, convert, and say so when the values look like something else.

A network given values on the wrong scale answers without complaint, so this is checked before anything is computed.
The checks rest on the physics of land surfaces: reflectance lies between 0 and about 1.5, so digital numbers of
10,000 per unit reach hundreds even over dark forest.

Shapes: N samples, T time steps, C bands given, H W pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import SampleNamer, sample_number, warn
from geotreeclip.schema import BANDS, MISSING_DN, REFLECTANCE_SCALE

__all__ = ["SCALES", "Scale", "to_digital_numbers"]

Scale = Literal["auto", "dn", "reflectance"]
SCALES: tuple[str, ...] = ("auto", "dn", "reflectance")

_REFLECTANCE_TOP = 3.0  # 99th percentile; snow, cloud and glint stay below 2
_BYTE_TOP = 255.0  # an 8-bit picture ends here; percent and DN/255 (0 to 39) end below
_LOWEST_DN = 1.0  # 0 is no-data in Level-2A products, so the smallest value is 1
_VISIBLE = frozenset(BANDS.index(band) for band in ("B2", "B3", "B4"))
_SAMPLED = 200_000  # values looked at to tell the scale of a large array


def to_digital_numbers(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    slots: list[int],
    *,
    scale: str = "auto",
    offset: Any = 0,
    name: SampleNamer = sample_number,
) -> npt.NDArray[np.float32]:
    """Convert to digital numbers (reflectance x 10,000) with the product's offset removed.

    Reflectance below zero, which noise and the offset of processing baseline 04.00 allow, becomes 1, the smallest
    digital number that is not no-data.

    Args:
        values: [N, T, C, H, W].
        valid: Same shape; only these values are looked at.
        slots: Slot in `schema.BANDS` of each of the C bands.
        scale: "dn", "reflectance" (0 to 1), or "auto" to tell from the values.
        offset: Digital numbers to take away, a number or an array [T] or [N, T]; 1000 for products of processing
            baseline 04.00 and later (25 January 2022 on) whose offset was not yet applied. It is meant in digital
            numbers for reflectance too, where it shows as 0.1.
        name: Names a sample in messages.

    Returns:
        float32, same shape; 0 where not valid.

    Raises:
        InputError: If the values cannot be what `scale` and `offset` say.
    """
    if scale not in SCALES:
        raise InputError(
            f'scale must be one of "auto", "dn" (digital numbers) or "reflectance" (0 to 1), got {scale!r}'
        )
    if not valid.any():
        return np.zeros_like(values)
    looked_at = _some(values, valid)
    kind = _decide(looked_at, scale)
    _check_each_sample(values, valid, kind, name)
    numbers = values * np.float32(REFLECTANCE_SCALE) if kind == "reflectance" else values
    shift = _read_offset(offset, values.shape[:2])
    _check_negative(numbers, valid, looked_at)
    _check_offset(numbers, valid, slots, shift)
    return np.where(valid, np.maximum(numbers - shift, np.float32(_LOWEST_DN)), np.float32(0))


def _some(values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Valid values, evenly thinned to a number that percentiles are quick for."""
    stride = max(1, values.size // _SAMPLED)
    flat = values.reshape(-1)[::stride]
    some: npt.NDArray[np.float32] = flat[valid.reshape(-1)[::stride]]
    return some if some.size else values[valid][:_SAMPLED]


def _decide(values: npt.NDArray[np.float32], scale: str) -> str:
    """The scale to use, after a refusal or a warning if the values speak against it."""
    top = float(np.percentile(values, 99))
    seen = f"the 99th percentile of their values is {top:.4g}"
    if scale == "reflectance":
        if top > _REFLECTANCE_TOP:
            raise InputError(
                f'images were given as scale="reflectance" (0 to 1), but {seen}: they look like digital numbers; '
                'use scale="dn"'
            )
        return "reflectance"
    if scale == "dn":
        if top <= _REFLECTANCE_TOP:
            raise InputError(
                f'images were given as scale="dn", but {seen}: they look like reflectance; use scale="reflectance"'
            )
        if top <= _BYTE_TOP:
            warn(f"images: {seen}, low for digital numbers of 10,000 per unit of reflectance; {_suspect(values)}")
        return "dn"
    if top <= _REFLECTANCE_TOP:
        return "reflectance"
    if top <= _BYTE_TOP:
        raise InputError(
            f"images are neither reflectance (0 to 1) nor digital numbers (up to 10,000 and more): {seen}. "
            f'{_suspect(values)}. If they truly are digital numbers of a dark place, say scale="dn"'
        )
    return "dn"


def _suspect(values: npt.NDArray[np.float32]) -> str:
    if bool((values == np.round(values)).all()):
        return "Whole numbers up to 255 look like an 8-bit picture, from which reflectance cannot be recovered"
    return "They look like percent (multiply by 100) or digital numbers divided by 255 (multiply by 255)"


def _check_each_sample(
    values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], kind: str, name: SampleNamer
) -> None:
    """Refuse single samples on another scale than the rest: what one gets must not depend on its batch mates."""
    highest = values.max(axis=(1, 2, 3, 4), where=valid, initial=-np.inf)
    some = np.isfinite(highest)
    if kind == "dn":
        above = np.flatnonzero(highest >= MISSING_DN)
        if above.size:
            raise InputError(
                f"images: {name(int(above[0]))} holds {highest[above[0]]:.6g}; digital numbers are 16 bit and end at "
                f"{MISSING_DN - 1}. If this marks no-data, pass it as nodata="
            )
        odd = np.flatnonzero(some & (highest <= _REFLECTANCE_TOP))
        if odd.size:
            raise InputError(
                f"images: the largest value of {name(int(odd[0]))} is {highest[odd[0]]:.4g}, reflectance or a filled "
                "gap, while the values of the others are digital numbers; bring all to one scale, and gaps to NaN"
            )
        return
    odd = np.flatnonzero(highest * REFLECTANCE_SCALE > MISSING_DN)
    if odd.size:
        raise InputError(
            f"images: {name(int(odd[0]))} holds {highest[odd[0]]:.6g} while most values are reflectance (0 to 1); "
            "bring all to one scale, and pass a no-data value as nodata="
        )


def _read_offset(offset: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    shift = np.asarray(offset, dtype=np.float32)
    samples, steps = shape
    if shift.shape not in {(), (steps,), (samples, steps)}:
        raise InputError(f"offset must be a number or have shape ({steps},) or ({samples}, {steps}), got {shift.shape}")
    if not bool(((shift >= 0) & (shift <= REFLECTANCE_SCALE)).all()):
        raise InputError(
            "offset is in digital numbers to take away: 0, or 1000 for processing baseline 04.00 and later"
        )
    return np.broadcast_to(shift, shape)[:, :, None, None, None].astype(np.float32)


def _check_negative(
    numbers: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], looked_at: npt.NDArray[np.float32]
) -> None:
    lowest = float(numbers.min(where=valid, initial=0.0))
    if lowest < -1000:  # reflectance below -0.1 does not occur
        raise InputError(
            f"images hold values down to {lowest:.6g} digital numbers: if this marks no-data, pass it as nodata="
        )
    share = float((looked_at < 0).mean())
    if share > 0.01:
        warn(f"images: {share:.1%} of the values are negative; was an offset taken away twice?")


def _check_offset(
    numbers: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], slots: list[int], shift: npt.NDArray[np.float32]
) -> None:
    """Look for the +1000 of processing baseline 04.00 in the visible bands, which vegetation keeps dark."""
    visible = [column for column, slot in enumerate(slots) if slot in _VISIBLE]
    if not valid[:, :, visible].any():
        return
    if not shift.any():
        low = float(np.percentile(_some(numbers[:, :, visible], valid[:, :, visible]), 1))
        if 900 <= low <= 1500:
            warn(
                f"images: 99 % of the visible values lie above {low:.0f} digital numbers, as if the +1000 offset of "
                "processing baseline 04.00 (2022 on) were still in them; if so, pass offset=1000"
            )
        return
    taken = np.broadcast_to(shift, numbers.shape)[:, :, visible]
    share = float(((numbers[:, :, visible] < taken - 100) & valid[:, :, visible]).sum() / valid[:, :, visible].sum())
    if share > 0.25:
        raise InputError(
            f"offset={float(shift.max()):g} is to be taken away, but {share:.0%} of the visible values lie below it: "
            "the offset is not in them; use offset=0"
        )
