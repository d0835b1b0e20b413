"""The composition of stands: mean probabilities over their pixels, weighted by the area of each inside the stand.

Shapes: K stands that a tile touches, G labels, N classified pixels of a block, F parts of a pixel along each side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError, first_line
from geotreeclip.mapping.stack import Grid
from geotreeclip.taxonomy import Taxon

__all__ = ["StandSums", "read_stands", "write_stands"]

_PARTS = 4  # of a pixel along each side: areas are whole sixteenths
_BEST = 3  # labels told beside the outlines


class StandSums:
    """Sums over the pixels of one tile.

    Args:
        path: File of polygons; where two overlap, the later one in the file has the ground.
        grid: Grid of the map.
        top: First row of the tile.
        left: First column.
        wanted: [H, W] pixels that are classified.
    """

    def __init__(self, path: str, grid: Grid, top: int, left: int, wanted: NDArray[np.bool_]) -> None:
        self._stand = _rasterized(path, grid, top, left, wanted.shape)  # [H, W, F * F]
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._weight: dict[int, float] = {}
        known, parts = np.unique(self._stand[self._stand >= 0], return_counts=True)
        self._area = dict(zip(known.tolist(), (parts / _PARTS**2).tolist(), strict=True))

    def add(self, rows: slice, columns: slice, here: NDArray[np.bool_], probability: NDArray[np.float32]) -> None:
        """Add a block: its place in the tile, which of its pixels are classified, and their probabilities [N, G]."""
        stand = self._stand[rows, columns][here]
        for number in np.unique(stand[stand >= 0]).tolist():
            weight = (stand == number).mean(axis=1)
            self._sums[number] = self._sums.get(number, 0.0) + weight @ probability.astype(np.float64)
            self._weight[number] = self._weight.get(number, 0.0) + float(weight.sum())

    def save(self, path: Path) -> None:
        """Write the sums: stand [K], area [K] and weight [K] in pixels, sums [K, G]."""
        numbers = sorted(self._area)
        some = next(iter(self._sums.values()), np.zeros(0))
        sums = np.array([self._sums.get(number, np.zeros(len(some))) for number in numbers]).reshape(len(numbers), -1)
        weight = np.array([self._weight.get(number, 0.0) for number in numbers])
        area = np.array([self._area[number] for number in numbers])
        np.savez(path, stand=np.array(numbers, np.int64), area=area, weight=weight, sums=sums)


def read_stands(path: str, crs: str) -> Any:
    """The polygons of a file in the projection of a map, as a GeoDataFrame.

    Raises:
        DataError: If it cannot be read, states no projection or holds no polygon.
        ConfigError: If geopandas is not installed.
    """
    try:
        import geopandas  # type: ignore[import-untyped]
        from pyogrio.errors import DataSourceError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError("--polygons needs geopandas: pip install 'geotreeclip[map]'") from error
    if not Path(path).exists():
        raise DataError(f"--polygons {path}: no such file")
    try:
        frame = geopandas.read_file(path)
    except (DataSourceError, OSError, ValueError) as error:
        raise DataError(f"--polygons {path}: cannot be read ({first_line(error)})") from error
    if frame.crs is None:
        raise DataError(f"--polygons {path}: states no projection; assign one")
    areas = frame.geom_type.isin(["Polygon", "MultiPolygon"])
    if not areas.any():
        raise DataError(f"--polygons {path}: holds no polygons")
    return frame[areas].reset_index(drop=True).to_crs(crs)


@functools.lru_cache(maxsize=1)
def _outlines(path: str, crs: str) -> tuple[list[Any], NDArray[np.float64]]:
    """Outlines and their bounds [n, 4]."""
    frame = read_stands(path, crs)
    return list(frame.geometry), frame.bounds.to_numpy(np.float64)


def _rasterized(path: str, grid: Grid, top: int, left: int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Stand of each part of each pixel, -1 for none: [H, W, F * F]."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    height, width = shape
    a, b, c, d, e, f = grid.transform
    first = a * left + b * top + c, d * left + e * top + f
    column, row = np.array([0, width, 0, width]), np.array([0, 0, height, height])
    x, y = a * column + b * row + first[0], d * column + e * row + first[1]
    (low_x, low_y), (high_x, high_y) = (x.min(), y.min()), (x.max(), y.max())
    outlines, bounds = _outlines(path, grid.crs)
    near = (bounds[:, 0] < high_x) & (bounds[:, 2] > low_x) & (bounds[:, 1] < high_y) & (bounds[:, 3] > low_y)
    fine = np.full((height * _PARTS, width * _PARTS), -1, dtype=np.int32)
    if near.any():
        part = [step / _PARTS for step in (a, b, d, e)]
        shapes = [(outlines[number], int(number)) for number in np.flatnonzero(near)]
        rasterize(shapes, out=fine, transform=Affine(part[0], part[1], first[0], part[2], part[3], first[1]))
    parts = fine.reshape(height, _PARTS, width, _PARTS).swapaxes(1, 2)
    return np.ascontiguousarray(parts).reshape(height, width, -1)


def write_stands(polygons: str, grid: Grid, folders: Sequence[Path], taxa: Sequence[Taxon], raster: Path) -> list[Path]:
    """Write NAME.stands.csv (a row for each stand and label) and NAME.stands.gpkg (outlines with the likeliest three).

    Args:
        polygons: File of polygons.
        grid: Grid of the map.
        folders: Those of the tiles.
        taxa: G labels.
        raster: The map.

    Returns:
        The files.
    """
    import pandas as pd

    frame = read_stands(polygons, grid.crs)
    sums, weight, area = np.zeros((len(frame), len(taxa))), np.zeros(len(frame)), np.zeros(len(frame))
    for folder in folders:
        with np.load(folder / "shares.npz") as part:
            area[part["stand"]] += part["area"]
            weight[part["stand"]] += part["weight"]
            if part["sums"].size:
                sums[part["stand"]] += part["sums"]
    # Sums of tiles in another order differ in the last digits, so these are not told.
    share = np.round(sums / np.maximum(weight, 1e-12)[:, None], 6)
    mapped = np.round(weight / np.maximum(area, 1e-12), 4)
    names = np.array([taxon.name(taxon.rank) for taxon in taxa], dtype=object)
    order = np.argsort(-share, axis=1, kind="stable")
    seen = np.flatnonzero(weight > 0)
    table = pd.DataFrame(
        {
            "stand": np.repeat(seen, len(taxa)),
            "label": names[order[seen]].ravel(),
            "share": np.take_along_axis(share, order, axis=1)[seen].ravel(),
            "pixels": np.repeat(np.round(weight[seen], 4), len(taxa)),
        }
    )
    table = table[table["share"] > 0]
    told = frame.copy()
    told["stand"] = np.arange(len(frame))
    told["mapped"] = mapped
    for place in range(min(_BEST, len(taxa))):
        told[f"label_{place + 1}"] = [names[order[n, place]] if weight[n] else None for n in range(len(frame))]
        told[f"share_{place + 1}"] = [share[n, order[n, place]] if weight[n] else None for n in range(len(frame))]
    text, outlines = (raster.with_name(f"{raster.stem}.stands{suffix}") for suffix in (".csv", ".gpkg"))
    write_atomically(text, lambda path: table.to_csv(path, index=False))
    write_atomically(outlines, lambda path: told.to_file(path, driver="GPKG", layer="stands"))
    return [text, outlines]
