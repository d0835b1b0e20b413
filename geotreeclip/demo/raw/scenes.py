"""Scenes painted from the looks, and written as COGs.

Letters: n samples of an area, H W pixels of 10 m of its frame, h w cells of 20 m.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.raw.layout import BLOCK, SLOT, Frame, Place, Tile
from geotreeclip.demo.raw.planting import Datatake, Looks, Planted, Version
from geotreeclip.demo.raw.truth import hidden_by_cloud, on_pixels
from geotreeclip.schema import PATCH

__all__ = ["ASSETS", "Scene", "cut", "onto", "paint", "write_scene"]

IntArray = NDArray[np.int64]

ASSETS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
"""Files of a scene: the bands in the order of the schema, then the scene classification."""

_COVER = {0: 0, 3: 120, 8: 6500, 9: 8800, 11: 7500}  # digital numbers of what hides the ground, by class
_DEFECT = {1: 15_000, 10: 700}  # digital numbers of 10 m pixels under classes that leave bands of 20 m as they are
_HAZE = 500  # added to 10 m pixels that only the widening of clouds hides
_WATER, _FOREST = 6, 4
_LAKE_ROWS = 12  # pixels along the northern edge
_LAKE = (260, 210, 110, 60, 60, 50, 45, 45, 30, 20)
_SPOILT = 1.37  # factor by which an older processing is wrong
_FIRST = (SLOT - BLOCK) // 2
_BLOCKSIZE = 256


class Scene(NamedTuple):
    """A datatake as processed once, over the whole frame of an area or a tile of it.

    Attributes:
        near: uint16 [4, H, W] stored numbers of the bands of 10 m, 0 where there is no data.
        coarse: uint16 [6, h, w] of the bands of 20 m.
        scl: uint8 [h, w].
    """

    near: NDArray[np.uint16]
    coarse: NDArray[np.uint16]
    scl: NDArray[np.uint8]


def paint(place: Place, planted: Planted, looks: Looks, number: int, datatake: Datatake, version: Version) -> Scene:
    """Paint a datatake: forest, a lake along the northern edge, the end of the swath, and the slots of the samples.

    Args:
        place: The samples.
        planted: What stands there; its medians make the forest.
        looks: What the datatakes see.
        number: Which of them this is.
        datatake: The datatake.
        version: The processing of it; a spoilt one has wrong values, and sees no cloud.
    """
    frame = place.frame
    ground = [np.median(a[:, datatake.month], axis=(0, 2, 3)).astype(int) for a in (planted.near, planted.coarse)]
    near, coarse = (
        np.repeat(level, frame.height * frame.width // step**2).reshape(-1, frame.height // step, frame.width // step)
        for level, step in zip(ground, (1, 2), strict=True)
    )
    scl = np.full(coarse.shape[1:], _FOREST, dtype=np.uint8)
    near[:, :_LAKE_ROWS] = np.array(_LAKE[:4])[:, None, None]
    coarse[:, : _LAKE_ROWS // 2] = np.array(_LAKE[4:])[:, None, None]
    scl[: _LAKE_ROWS // 2] = _WATER
    if datatake.edge < 1:
        scl[:, int(datatake.edge * frame.width / 2) :] = 0
    slots = _slots(place, looks, number, ground)
    for i in np.flatnonzero(looks.covered[number]):
        row, column = place.corner[i] - (frame.top, frame.left)
        near[:, row : row + 2 * SLOT, column : column + 2 * SLOT] = slots[0][i]
        row, column = row // 2, column // 2
        coarse[:, row : row + SLOT, column : column + SLOT] = slots[1][i]
        scl[row : row + SLOT, column : column + SLOT] = looks.scl[number, i]
    unseen = scl == 0
    if version.spoilt:
        near, coarse = (_SPOILT * near).astype(int), (_SPOILT * coarse).astype(int)
        scl[~unseen] = _FOREST
    least = 0 if version.offset else 1  # a stored 0 would be no data
    return Scene(
        np.where(np.kron(unseen, np.ones((2, 2), bool)), 0, np.maximum(near + version.offset, least)).astype(np.uint16),
        np.where(unseen, 0, np.maximum(coarse + version.offset, least)).astype(np.uint16),
        scl,
    )


def _slots(place: Place, looks: Looks, number: int, ground: list[NDArray[np.int64]]) -> tuple[IntArray, IntArray]:
    """Slots of all samples in one look, digital numbers without offset: [n, 4, 24, 24] and [n, 6, 12, 12]."""
    scl = looks.scl[number]
    cover = np.full(256, -1)
    cover[list(_COVER)] = list(_COVER.values())
    fill = cover[scl][:, None]
    near, coarse = (np.where(fill < 0, level[:, None, None], fill) for level in ground)
    near = near.repeat(2, axis=2).repeat(2, axis=3)
    inner = slice(_FIRST, _FIRST + BLOCK)
    block = scl[:, inner, inner]
    open_cell = cover[block] < 0
    coarse[:, :, inner, inner] = np.where(open_cell[:, None], looks.coarse[number], coarse[:, :, inner, inner])
    classes = on_pixels(block, place.shift)
    patch = looks.near[number] + _HAZE * on_pixels(hidden_by_cloud(scl), place.shift)[:, None]
    for name, value in (*_COVER.items(), *_DEFECT.items()):
        patch = np.where((classes == name)[:, None], value, patch)
    rows, columns = (2 * _FIRST + place.shift[:, axis, None] + np.arange(PATCH) for axis in (0, 1))
    sample, band = np.arange(len(place))[:, None, None, None], np.arange(4)[None, :, None, None]
    near[sample, band, rows[:, None, :, None], columns[:, None, None, :]] = patch
    return near, coarse


def cut(scene: Scene, columns: tuple[int, int]) -> Scene:
    """The columns of a scene that a tile holds."""
    low, high = columns
    half = slice(low // 2, high // 2)
    return Scene(scene.near[..., low:high], scene.coarse[..., half], scene.scl[..., half])


def onto(scene: Scene, frame: Frame, epsg: int, tile: Tile) -> Scene:
    """A scene on the grid of a tile of another zone: nearest cells, no data beyond the frame."""
    from rasterio.transform import from_origin
    from rasterio.warp import reproject

    def warped(layer: NDArray[Any], step: int) -> NDArray[Any]:
        target = np.zeros((*layer.shape[:-2], tile.height // step, tile.width // step), layer.dtype)
        reproject(
            layer, target, src_crs=f"EPSG:{epsg}", dst_crs=f"EPSG:{tile.epsg}", resampling=0,
            src_transform=from_origin(frame.west, frame.north, 10 * step, 10 * step),
            dst_transform=from_origin(tile.west, tile.north, 10 * step, 10 * step),
        )  # fmt: skip
        return target

    return Scene(warped(scene.near, 1), warped(scene.coarse, 2), warped(scene.scl, 2))


def write_scene(scene: Scene, tile: Tile, folder: Path) -> None:
    """Write the scene of a tile as one COG for each asset into a new folder."""
    import rasterio
    from rasterio.transform import from_origin

    folder.mkdir()
    with rasterio.Env():
        for asset, layer in zip(ASSETS, [*scene.near, *scene.coarse, scene.scl], strict=True):
            step = 10 * tile.height // layer.shape[0]
            with rasterio.open(
                folder / f"{asset}.tif", "w", driver="COG", compress="DEFLATE", blocksize=_BLOCKSIZE, overviews="NONE",
                dtype=layer.dtype, count=1, height=layer.shape[0], width=layer.shape[1], nodata=0,
                crs=f"EPSG:{tile.epsg}", transform=from_origin(tile.west, tile.north, step, step),
            ) as target:  # fmt: skip
                target.write(layer, 1)
