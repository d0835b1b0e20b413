"""One tile of a map: read with its margin, classified block by block.

A tile is a whole number of blocks that begin at the corner of the map, and the pixels of a block go through the model
together. So the arithmetic of a pixel is the same whatever the tiles, to the last bit: matrix
products of another shape may round otherwise.

Shapes: H W pixels of a tile, N those of them that are classified, G labels, V variables (27).
"""

from __future__ import annotations

import functools
import os
import resource
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.inputs.common import InputWarning
from geotreeclip.mapping.stack import Grid, Stack
from geotreeclip.mapping.values import Reading
from geotreeclip.prep.partitions import Partition
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

__all__ = [
    "BLOCK", "BLOCK_GPU", "ENTROPY_SCALE", "NODATA", "PROBABILITY_SCALE", "Job", "Tile", "classify_tile",
    "pixel_classifier", "places", "threads_for", "tiles_of",
]  # fmt: skip

BLOCK, BLOCK_GPU = 16, 64
"""Pixels along each side of a block. On a processor a batch of 256 patches stays in its cache (a sixth faster than 1024
with the model `tiny`); a GPU wants more at once."""

NODATA = 65535
PROBABILITY_SCALE = 0.0001
ENTROPY_SCALE = 0.0002
"""Nats for each stored unit: 13 nats at most, the entropy of 490,000 labels alike."""

RESULT, SHARES = "map.npy", "shares.npz"


@dataclass(frozen=True)
class Job:
    """What all tiles share; small, picklable and hashable.

    Attributes:
        stack: The imagery.
        reading: What its values are worth.
        grid: The grid of the map.
        stride: Pixels of the stack from one pixel of the map to the next.
        model: Directory or file of the model.
        device: Where to compute.
        block: Pixels along each side of a block.
        threads: Threads of the processor for each process; 0 leaves them.
        labels: Candidates.
        rank: Rank of the answers.
        prior: How common the candidates are.
        rasters: Variable and its files.
        worldclim: Version of the climate rasters.
        terrain: Whether slope and aspect are computed: "force" or "off".
        mask: Raster of where to map, or "".
        polygons: File of stands, or "".
    """

    stack: Stack
    reading: Reading
    grid: Grid
    stride: int
    model: str
    device: str
    block: int
    threads: int
    labels: str | None
    rank: str
    prior: str
    rasters: tuple[tuple[str, tuple[str, ...]], ...]
    worldclim: str
    terrain: str
    mask: str
    polygons: str


@dataclass(frozen=True)
class Tile:
    """A window of the map, in its pixels."""

    job: Job
    top: int
    bottom: int
    left: int
    right: int


def tiles_of(job: Job, size: int) -> list[Partition]:
    """Tiles of a map, row by row.

    Args:
        job: What they share.
        size: Pixels along a side, a multiple of `Job.block`.
    """
    grid = job.grid
    return [
        Partition(
            f"r{top:06d}c{left:06d}",
            Tile(job, top, min(top + size, grid.height), left, min(left + size, grid.width)),
        )
        for top in range(0, grid.height, size)
        for left in range(0, grid.width, size)
    ]


def classify_tile(tile: Tile, folder: Path) -> dict[str, Any]:
    """Do a tile: writes `map.npy`, uint16 [3, H, W] of label, probability and entropy; with stands `shares.npz`.

    Returns:
        Pixels, those classified, seconds, processor seconds and the peak memory of the process in MB.

    Raises:
        DataError: If something cannot be read.
    """
    from geotreeclip.mapping.stands import StandSums

    job, started = tile.job, (time.monotonic(), time.process_time())
    with warnings.catch_warnings():  # what looks odd was said once, of the whole stack
        warnings.simplefilter("ignore", InputWarning)
        pixels = pixel_classifier(job)
        values, valid = _read(tile)
        wanted, longitude, latitude = _wanted(tile, valid)
        environment = _environment(job, longitude, latitude)
        result = np.full((3, *wanted.shape), NODATA, dtype=np.uint16)
        stands = StandSums(job.polygons, job.grid, tile.top, tile.left, wanted) if job.polygons else None
        order = np.full(wanted.shape, -1, dtype=np.int64)
        order[wanted] = np.arange(len(environment))
        for rows, columns in _blocks(wanted.shape[0], wanted.shape[1], job.block):
            here = wanted[rows, columns]
            if not here.any():
                continue
            window = (..., _reach(rows, job.stride), _reach(columns, job.stride))
            probability = pixels.probabilities(
                values[window], valid[window], environment[order[rows, columns][here]], here, job.stride
            )
            result[:, rows, columns][:, here] = _stored(probability)
            if stands is not None:
                stands.add(rows, columns, here, probability)
    np.save(folder / RESULT, result)
    if stands is not None:
        stands.save(folder / SHARES)
    return {
        "pixels": int(wanted.size),
        "classified": int(wanted.sum()),
        "seconds": round(time.monotonic() - started[0], 3),
        "cpu_seconds": round(time.process_time() - started[1], 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def places(grid: Grid, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Any, Any]:
    """Longitude and latitude of the centres of pixels, degrees (WGS 84); infinite where the projection has none."""
    a, b, c, d, e, f = grid.transform
    x = a * (columns + 0.5) + b * (rows + 0.5) + c
    y = d * (columns + 0.5) + e * (rows + 0.5) + f
    longitude, latitude = _transformer(grid.crs).transform(x, y)
    return (np.asarray(longitude) + 180) % 360 - 180, np.asarray(latitude)


@functools.lru_cache(maxsize=8)
def _transformer(crs: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


@functools.lru_cache(maxsize=1)
def pixel_classifier(job: Job) -> Any:
    """The model of a job, kept for the next tile."""
    from geotreeclip.inference import load
    from geotreeclip.mapping.pixels import PixelClassifier

    if job.threads:
        import torch

        torch.set_num_threads(job.threads)
    classifier = load(job.model, job.device)
    return PixelClassifier(classifier, job.stack.months, job.stack.bands, job.labels, job.rank, job.prior)


def _read(tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Digital numbers of all pixels that the patches touch, missing beyond the edge of the stack."""
    from geotreeclip.mapping.pixels import MARGIN

    job = tile.job
    height, width = job.stack.grid.height, job.stack.grid.width
    first, last, pads = [], [], [(0, 0), (0, 0)]
    for start, stop, length in ((tile.top, tile.bottom, height), (tile.left, tile.right, width)):
        low = start * job.stride + job.stride // 2 - MARGIN
        high = (stop - 1) * job.stride + job.stride // 2 + MARGIN + 1
        first.append(max(0, low))
        last.append(min(length, high))
        pads.append((max(0, -low), max(0, high - length)))
    stored = job.stack.read(first[0], last[0], first[1], last[1])
    where = f"{job.stack.location}: rows {first[0]} to {last[0] - 1}, columns {first[1]} to {last[1] - 1}"
    values, valid = job.reading.digital_numbers(stored, where)
    return np.pad(values, pads), np.pad(valid, pads)


def _wanted(tile: Tile, valid: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Any, Any]:
    """Pixels to classify, [H, W]: those with a value of their own, on the Earth and inside the mask; their places."""
    from geotreeclip.mapping.pixels import MARGIN

    job, step = tile.job, tile.job.stride
    height, width = tile.bottom - tile.top, tile.right - tile.left
    seen = valid[
        :, :, MARGIN : MARGIN + (height - 1) * step + 1 : step, MARGIN : MARGIN + (width - 1) * step + 1 : step
    ]
    wanted: NDArray[np.bool_] = np.asarray(seen.any(axis=(0, 1)))
    rows, columns = np.nonzero(wanted)
    # The centre of the pixel that is read, not of the larger cell that it stands for.
    longitude, latitude = places(
        job.stack.grid, (rows + tile.top) * step + step // 2, (columns + tile.left) * step + step // 2
    )
    kept = np.isfinite(longitude) & np.isfinite(latitude)
    if job.mask:
        kept[kept] = _inside(job.mask, longitude[kept], latitude[kept])
    wanted[rows[~kept], columns[~kept]] = False
    return wanted, longitude[kept], latitude[kept]


def _inside(mask: str, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a mask is neither 0 nor without data."""
    from geotreeclip.prep.rasters import Raster

    with Raster(mask) as raster:
        column, row = raster.grid.place(longitude, latitude)
        inside = raster.grid.inside(column, row)
        rows, columns = raster.grid.holding(column[inside], row[inside])
        value = raster.cells(rows, columns)
        inside[inside] = np.isfinite(value) & (value != 0)
    return inside


def _environment(job: Job, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float32]:
    """Variables of pixels, [N, V], NaN where missing."""
    if not job.rasters or not len(longitude):
        values = np.full((len(longitude), len(VARIABLES)), np.nan)
        values[:, VARIABLE_INDEX["longitude"]], values[:, VARIABLE_INDEX["latitude"]] = longitude, latitude
        return values.astype(np.float32)
    from geotreeclip.prep.environment import Options, sample_environment

    options = Options(worldclim=job.worldclim, terrain=job.terrain)
    return sample_environment(longitude, latitude, dict(job.rasters), options, strict=False).values.astype(np.float32)


def _blocks(height: int, width: int, size: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _reach(pixels: slice, stride: int) -> slice:
    """Pixels of the stack, from the margin's first, that the patches of some pixels of a tile touch."""
    from geotreeclip.mapping.pixels import MARGIN

    return slice(pixels.start * stride, (pixels.stop - 1) * stride + 2 * MARGIN + 1)


def _stored(probability: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Label, probability and entropy as they are stored, [3, N]."""
    best = probability.argmax(axis=1)
    logarithm = np.log(probability, where=probability > 0, out=np.zeros_like(probability))
    entropy = np.maximum(0, -(probability * logarithm).sum(axis=1))
    highest = np.minimum(1, probability[np.arange(len(best)), best])
    return np.stack(
        [best, np.rint(highest / PROBABILITY_SCALE), np.rint(entropy / ENTROPY_SCALE)]
    ).astype(np.uint16)  # fmt: skip


def threads_for(workers: int) -> int:
    """Threads for each of several processes of this machine; 0, as they are, for one."""
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
