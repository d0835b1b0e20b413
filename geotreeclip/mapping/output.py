"""Tiles -> one Cloud-Optimized GeoTIFF.

The bands are uint16 with 65535 for no data, so that one file holds all three: the label (a position in the legend),
its probability (x 10,000) and the entropy of all labels in nats (x 5,000). Scales are stored as GDAL stores them.

Shapes: H W pixels of a tile, G labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError, first_line
from geotreeclip.mapping.stack import Grid
from geotreeclip.mapping.tiles import ENTROPY_SCALE, NODATA, PROBABILITY_SCALE, RESULT, Tile

__all__ = ["BAND_NAMES", "assemble", "count_labels", "sieve_labels", "write_cog"]

BAND_NAMES = ("label", "probability", "entropy")
_SIDE = 256  # of the file's blocks


def assemble(tiles: Sequence[tuple[Tile, Path]], grid: Grid, path: Path, tags: Mapping[str, Any]) -> None:
    """Put tiles together in a plain GeoTIFF, one at a time in memory.

    Args:
        tiles: Tiles and the folders of their results.
        grid: Grid of the map.
        path: Where to write.
        tags: What the file says of itself.
    """
    import rasterio
    from rasterio.transform import Affine

    with rasterio.open(
        path, "w", driver="GTiff", width=grid.width, height=grid.height, count=3, dtype="uint16", nodata=NODATA,
        crs=rasterio.crs.CRS.from_wkt(grid.crs), transform=Affine(*grid.transform), tiled=True, blockxsize=_SIDE,
        blockysize=_SIDE, BIGTIFF="IF_SAFER",
    ) as target:  # fmt: skip
        target.descriptions = BAND_NAMES
        target.scales = (1.0, PROBABILITY_SCALE, ENTROPY_SCALE)
        target.units = ("", "", "nat")
        target.update_tags(**{
            name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()
        })  # fmt: skip
        target.update_tags(2, MEANING=f"probability of the label; stored x {1 / PROBABILITY_SCALE:.0f}")
        target.update_tags(3, MEANING=f"entropy of all labels in nats; stored x {1 / ENTROPY_SCALE:.0f}")
        for tile, folder in tiles:
            window = ((tile.top, tile.bottom), (tile.left, tile.right))
            target.write(np.load(folder / RESULT), window=window)


def sieve_labels(path: Path, smallest: int) -> int:
    """Give patches of fewer pixels than `smallest` the label of their largest neighbour; the label band alone.

    Patches hang together by edges, not by corners. Pixels without data stay so and are nobody's neighbour. The whole
    band is held in memory (2 bytes a pixel, and the patches).

    Returns:
        Pixels that changed.
    """
    import rasterio
    from rasterio.features import sieve

    with rasterio.open(path, "r+") as target:
        labels = target.read(1)
        known = labels != NODATA
        sieved = np.where(known, sieve(labels, smallest, mask=known, connectivity=4), NODATA).astype(np.uint16)
        target.write(sieved, 1)
        target.update_tags(1, MINIMUM_UNIT=f"{smallest} pixels; probability and entropy are of the labels before")
    return int((sieved != labels).sum())


def count_labels(path: Path, labels: int) -> NDArray[np.int64]:
    """Pixels of each label, [G]."""
    import rasterio

    counts = np.zeros(NODATA + 1, dtype=np.int64)
    with rasterio.open(path) as source:
        for _, window in source.block_windows(1):
            counts += np.bincount(source.read(1, window=window).ravel(), minlength=NODATA + 1)
    return counts[:labels]


def write_cog(source: Path, out: Path) -> None:
    """Turn a plain GeoTIFF into a Cloud-Optimized one; overviews take the nearest pixel, as labels have no mean.

    Raises:
        DataError: If it cannot be written.
    """
    import rasterio
    import rasterio.errors
    import rasterio.shutil

    def write(path: Path) -> None:
        try:
            rasterio.shutil.copy(
                source, path, driver="COG", COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=_SIDE, BIGTIFF="IF_SAFER",
                OVERVIEW_RESAMPLING="NEAREST",
            )  # fmt: skip
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{out}: cannot be written: {first_line(error)}") from error

    write_atomically(out, write)
