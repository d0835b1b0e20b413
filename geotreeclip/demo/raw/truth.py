"""What an ideal pipeline makes of the looks: masks, resampling and medians in a few plain lines of their own.

Letters: n samples of an area, S datatakes, 12 months, 10 bands, patches of 5 x 5 pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.raw.layout import BLOCK, NORTH, SLOT, Place
from geotreeclip.demo.raw.planting import COARSE, NEAR, Datatake, Looks
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH

__all__ = ["Composite", "clear_cells", "composite", "hidden_by_cloud", "on_pixels", "resampled"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_FIRST = (SLOT - BLOCK) // 2  # of the block's cells in the slot
_REACH = 2  # cells of 20 m: 40 m


@dataclass(frozen=True)
class Composite:
    """What must come back.

    Attributes:
        images: uint16 [n, 12, 10, 5, 5], 65535 where nothing is seen.
        scenes: [n, 12] datatakes with a clear pixel.
        snow: [n, 12] share of the clear pixels of all looks that were snow, NaN without a clear pixel.
        clipped: [n] clear values below 1, which count as 1.
        x: [n] easting of the centre of the central pixel, metres.
        y: [n] northing.
    """

    images: NDArray[np.uint16]
    scenes: IntArray
    snow: NDArray[np.float32]
    clipped: IntArray
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def hidden_by_cloud(scl: NDArray[np.uint8]) -> BoolArray:
    """Cells of the block within 40 m of cloud or its shadow, centre to centre; [..., 12, 12] to [..., 4, 4]."""
    cloud = np.isin(scl, (3, 8, 9))
    hidden = np.zeros((*scl.shape[:-2], BLOCK, BLOCK), dtype=bool)
    steps = range(-_REACH, _REACH + 1)
    for down, right in ((r, c) for r in steps for c in steps if r * r + c * c <= _REACH**2):
        rows, columns = (slice(_FIRST + step, _FIRST + step + BLOCK) for step in (down, right))
        hidden |= cloud[..., rows, columns]
    return hidden


def clear_cells(scl: NDArray[np.uint8]) -> tuple[BoolArray, BoolArray]:
    """Cells of the block that are clear, and those that are clear but for snow; [..., 12, 12] to [..., 4, 4] each."""
    block = scl[..., _FIRST : _FIRST + BLOCK, _FIRST : _FIRST + BLOCK]
    seen = ~np.isin(block, (0, 1, 10)) & ~hidden_by_cloud(scl) & ~np.isin(block, (3, 8, 9))
    return seen & (block != 11), seen & (block == 11)


def on_pixels(cells: NDArray[Any], shift: IntArray) -> NDArray[Any]:
    """Nearest cells at the pixels of the patches; [..., n, 4, 4] to [..., n, 5, 5]."""
    rows, columns = ((shift[:, axis, None] + np.arange(PATCH)) // 2 for axis in (0, 1))
    return cells[..., np.arange(len(shift))[:, None, None], rows[:, :, None], columns[:, None, :]]


def resampled(cells: IntArray, shift: IntArray) -> NDArray[np.float64]:
    """Bilinear values of cells of 20 m at the pixels of the patches; [S, n, C, 4, 4] to [S, n, C, 5, 5].

    The centre of pixel q of a block lies at q / 2 - 1 / 4 cells from the centre of its first cell.
    """
    position = np.arange(2 * BLOCK) / 2 - 0.25
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(BLOCK)))  # [8, 4], whole quarters
    fine = np.einsum("qr,sncrk,pk->sncqp", weights, cells, weights, optimize=True)
    rows, columns = (shift[:, axis, None] + np.arange(PATCH) for axis in (0, 1))
    number = np.arange(len(shift))[:, None, None]
    taken = fine.transpose(2, 0, 1, 3, 4)[:, :, number, rows[:, :, None], columns[:, None, :]]
    return np.asarray(taken.transpose(1, 2, 0, 3, 4), dtype=np.float64)


def composite(place: Place, datatakes: list[Datatake], looks: Looks) -> Composite:
    """The monthly medians of the clear looks."""
    clear, snow = (on_pixels(cells, place.shift) for cells in clear_cells(looks.scl))
    clear, snow = clear & looks.covered[..., None, None], snow & looks.covered[..., None, None]
    values = np.empty((*clear.shape[:2], len(BANDS), PATCH, PATCH))
    values[:, :, NEAR] = looks.near
    values[:, :, COARSE] = resampled(looks.coarse, place.shift)
    values[~np.broadcast_to(clear[:, :, None], values.shape)] = np.nan
    clipped = (values < 1).sum(axis=(0, 2, 3, 4))
    values = np.maximum(values, 1)  # NaN stays
    month = np.array([datatake.month for datatake in datatakes])
    count = len(place)
    images = np.full((count, MONTHS, len(BANDS), PATCH, PATCH), np.nan)
    scenes, share = np.zeros((count, MONTHS), np.int64), np.full((count, MONTHS), np.nan, np.float32)
    for m in np.unique(month):
        these = month == m
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            images[:, m] = np.nanmedian(values[these], axis=0)
        scenes[:, m] = clear[these].any(axis=(2, 3)).sum(axis=0)
        pixels = [mask[these].sum(axis=(0, 2, 3)) for mask in (snow, clear)]
        with np.errstate(invalid="ignore"):
            share[:, m] = pixels[0] / (pixels[0] + pixels[1])
    if not np.array_equal(np.rint(images), images, equal_nan=True):
        raise RuntimeError("the planted looks have medians that are not whole; this is a defect of the generator")
    stored = np.where(np.isnan(images), MISSING_DN, images).astype(np.uint16)
    centre = np.array([NORTH, 0.0]) + np.array([-1.0, 1.0]) * (10.0 * place.pixel + 5)
    return Composite(stored, scenes, share, clipped, centre[:, 1], centre[:, 0])
