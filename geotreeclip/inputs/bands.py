"""Names of Sentinel-2 bands as people write them, and the order the model reads.

Sources of the names: the Sentinel-2 Level-2A products ("B02"), Earth Engine ("B2"), the STAC `eo` extension's common
names ("rededge", "nir08", "swir16") and plain words.
"""

from __future__ import annotations

from collections.abc import Sequence

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import listed
from geotreeclip.schema import BANDS

__all__ = ["UNUSED_BANDS", "band_name", "band_slots"]

UNUSED_BANDS = ("B1", "B9", "B10")
"""Atmospheric bands at 60 m, which stacks of all bands hold; accepted and left out."""

_WORDS: dict[str, tuple[str, ...]] = {
    "B1": ("coastal", "coastalaerosol"),
    "B2": ("blue",),
    "B3": ("green",),
    "B4": ("red",),
    "B5": ("rededge1", "re1", "rededge071"),
    "B6": ("rededge2", "re2", "rededge075"),
    "B7": ("rededge3", "re3", "rededge078"),
    "B8": ("nir", "nir1"),
    "B8A": ("nir08", "nir2", "nirnarrow", "narrownir", "rededge4", "re4"),
    "B9": ("nir09", "watervapour", "watervapor"),
    "B10": ("cirrus",),
    "B11": ("swir1", "swir16"),
    "B12": ("swir2", "swir22"),
}
_ALIASES = {word: band for band, words in _WORDS.items() for word in words}
_ALIASES |= {band.lower(): band for band in _WORDS}
_ALIASES |= {f"b0{digit}": f"B{digit}" for digit in range(1, 10)} | {"b08a": "B8A"}


def band_name(name: str) -> str | None:
    """The schema's name of a band ("B02", "b2" and "blue" are "B2"), or None if it is not one."""
    return _ALIASES.get(str(name).strip().lower().replace("_", "").replace("-", "").replace(" ", ""))


def band_slots(bands: Sequence[str] | None, count: int) -> tuple[list[int], list[int]]:
    """Match the bands of an array with those of the model.

    Args:
        bands: Names in the order of the array's band axis, any aliases; None for the schema's order.
        count: Length of the array's band axis.

    Returns:
        Columns of the array to take, and the slot in `schema.BANDS` of each.

    Raises:
        InputError: If a name is unknown or repeated, or the number of names is not `count`.
    """
    order = " ".join(BANDS)
    if bands is None:
        if count != len(BANDS):
            raise InputError(
                f"images have {count} bands; without bands= they must be these {len(BANDS)}: {order}. "
                'Name what you have, as in bands=["B2", "B3", "B4", "B8"]'
            )
        return list(range(count)), list(range(count))
    if isinstance(bands, str):
        raise InputError(f'bands must be a list of names, as in bands=["B2", "B3"], got the text {bands!r}')
    names = [str(band) for band in bands]
    if len(names) != count:
        raise InputError(f"images have {count} bands but bands names {len(names)}: {listed(names, 15)}")
    known = [band_name(name) for name in names]
    unknown = [name for name, band in zip(names, known, strict=True) if band is None]
    if unknown:
        raise InputError(
            f"unknown band {listed(unknown)}; known are {order} (also as B02, b2 or blue, green, red, "
            f"rededge1 to rededge3, nir, nir08, swir16, swir22) and, accepted but not used, {' '.join(UNUSED_BANDS)}"
        )
    for band in BANDS:
        same = [name for name, found in zip(names, known, strict=True) if found == band]
        if len(same) > 1:
            raise InputError(f"band {band} is named {len(same)} times: {listed(same)}")
    columns = [column for column, band in enumerate(known) if band in BANDS]
    if not columns:
        raise InputError(f"none of the bands {listed(names)} is used by the model; it reads {order}")
    return columns, [BANDS.index(str(known[column])) for column in columns]
