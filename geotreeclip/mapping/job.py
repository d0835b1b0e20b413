"""A map from stack to picture: checks, tiles, output."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.inputs.common import warn
from geotreeclip.mapping.legend import make_legend, read_colours, write_legend
from geotreeclip.mapping.output import assemble, count_labels, sieve_labels, write_cog
from geotreeclip.mapping.quicklook import write_quicklook
from geotreeclip.mapping.stack import Grid, Stack, open_stack
from geotreeclip.mapping.stands import read_stands, write_stands
from geotreeclip.mapping.tiles import (
    BLOCK,
    BLOCK_GPU,
    ENTROPY_SCALE,
    PROBABILITY_SCALE,
    Job,
    classify_tile,
    pixel_classifier,
    places,
    threads_for,
    tiles_of,
)
from geotreeclip.mapping.values import find_reading
from geotreeclip.prep.partitions import run_partitions

__all__ = ["MapOptions", "MapReport", "make_map"]

_CHECKED = 400  # pixels whose environment is judged before the work begins
_PIXEL = 10.0  # metres, of the patches that models are trained on


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How a map is made; see `geotreeclip map --help`.

    Attributes:
        bands: Names of the bands of the stack, or None where it tells them.
        months: Its months, likewise.
        crs: Reference system where the stack states none.
        scale: "auto", "dn" or "reflectance".
        offset: Digital numbers to take away.
        nodata: Values that mean missing.
        labels: Candidates.
        rank: Rank of the answers.
        prior: How common the candidates are.
        rasters: Folders or files of environmental rasters.
        worldclim: Version of the climate rasters.
        mask: Raster of where to map: neither 0 nor without data.
        minimum_unit: Patches of fewer pixels take the label of their neighbour.
        polygons: Stands whose composition is wanted.
        stride: Classify every n-th pixel of every n-th row.
        tile: Pixels along the side of a tile.
        colours: Legend whose colours are taken over.
        device: "cpu", "cuda" or None.
        workers: Processes.
        scheduler: Address of a Dask cluster.
        retries: Further attempts at a tile that fails.
        overwrite: Whether a map that is there may be replaced.
        progress: Whether to draw a progress bar.
    """

    bands: Sequence[str] | None = None
    months: Iterable[int] | None = None
    crs: str | None = None
    scale: str = "auto"
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    labels: str | None = None
    rank: str = "species"
    prior: str = "training"
    rasters: tuple[str, ...] = ()
    worldclim: str = "auto"
    mask: str = ""
    minimum_unit: int = 0
    polygons: str = ""
    stride: int = 1
    tile: int = 256
    colours: str = ""
    device: str | None = None
    workers: int = 1
    scheduler: str = ""
    retries: int = 2
    overwrite: bool = False
    progress: bool = True


@dataclass(frozen=True, slots=True)
class MapReport:
    """What was done.

    Attributes:
        pixels: Pixels of the map.
        classified: Those that have a label.
        resumed: Those done by an earlier run.
        seconds: Of this run's tiles, waiting for the last one.
        cpu_seconds: Of the processors in the tiles of this run.
        peak_mb: Largest memory of a process that classified, MB.
        files: What was written, the map first.
    """

    pixels: int
    classified: int
    resumed: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    files: list[Path]


def make_map(
    stack: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    options: MapOptions | None = None,
    say: Callable[[str], None] | None = None,
) -> MapReport:
    """Classify every pixel of a stack and write a map.

    A stopped run goes on when it is started again with the same arguments: tiles lie in OUT.parts until all are done.

    Args:
        stack: As `geotreeclip.mapping.stack.open_stack` takes it.
        out: The map, NAME.tif; beside it NAME.png, NAME.legend.csv, NAME.qml, NAME.tif.aux.xml and with stands
            NAME.stands.csv and NAME.stands.gpkg.
        model: As `geotreeclip.load` takes it.
        options: How.
        say: Called with a line of text now and then.

    Raises:
        GeotreeclipError: If an input or an option is not right, or tiles failed.
    """
    from geotreeclip.model_sources import find_model

    options, say, target = options or MapOptions(), say or (lambda line: None), Path(out)
    _check_options(target, options)
    source = open_stack(_absolute(str(stack)), bands=options.bands, months=options.months, crs=options.crs)
    grid = source.grid.strided(options.stride)
    if not grid.width or not grid.height:
        raise ConfigError(f"--stride {options.stride} leaves no pixel of {source.grid.width} x {source.grid.height}")
    _note_pixel_size(source)
    state = _prepare_output(target, grid)
    directory = find_model(model)
    device = _device(options.device)
    block = BLOCK_GPU if device.startswith("cuda") else BLOCK
    if options.tile % block:
        raise ConfigError(f"--tile must be a multiple of {block} on {device}, got {options.tile}")
    reading = find_reading(source, scale=options.scale, offset=options.offset, nodata=options.nodata)
    job = Job(
        stack=source,
        reading=reading,
        grid=grid,
        stride=options.stride,
        model=_absolute(str(directory)),
        device=device,
        block=block,
        threads=0 if options.scheduler else threads_for(options.workers),
        labels=None if options.labels is None else _absolute(options.labels),
        rank=options.rank,
        prior=_absolute(options.prior),
        rasters=(),
        worldclim="2.1",
        terrain="off",
        mask=_absolute(options.mask),
        polygons=_absolute(options.polygons),
    )
    job = _with_environment(job, options)
    if job.mask:
        from geotreeclip.prep.rasters import read_grid

        read_grid(job.mask)
    if job.polygons:
        read_stands(job.polygons, grid.crs)
    colours = read_colours(Path(options.colours)) if options.colours else None
    pixels = pixel_classifier(job)
    pixels.check_inputs(rasters=bool(job.rasters))
    parts = tiles_of(job, options.tile)
    say(_plan_in_words(source, job, len(pixels.taxa), len(parts), directory))

    started = time.monotonic()
    run = run_partitions(
        parts, classify_tile, state, plan=_plan(job, directory, options.tile), workers=options.workers,
        scheduler=options.scheduler, retries=options.retries, label="map", progress=options.progress,
    )  # fmt: skip
    seconds = time.monotonic() - started
    run.raise_if_empty()
    if run.failed:
        first = run.failed[0]
        raise DataError(
            f"{len(run.failed)} of {len(parts)} tiles failed, first {first.key}: {first.reason}{first.detail}; the "
            f"others are kept in {state}, so that the same command goes on"
        )
    classified = sum(int(done.report["classified"]) for done in run.done)
    if not classified:
        shutil.rmtree(state)
        raise DataError(
            f"{source.location}: no pixel has data" + (f" where {job.mask} is not 0" if job.mask else "") + "; "
            "nothing to map"
        )
    whole = state / "whole.tif"
    folders = [done.folder for done in run.done]
    payloads = [part.payload for part in parts]
    assemble(list(zip(payloads, folders, strict=True)), grid, whole, _tags(job, pixels, directory))
    if options.minimum_unit > 1:
        changed = sieve_labels(whole, options.minimum_unit)
        say(f"{changed:,} pixels of patches under {options.minimum_unit} pixels took the label of a neighbour")
    write_cog(whole, target)
    counts = count_labels(target, len(pixels.taxa))
    legend = make_legend(pixels.taxa, counts, _hectares(grid), colours)
    files = [target, *write_legend(legend, target)]
    picture = target.with_suffix(".png")
    write_quicklook(target, legend, picture, f"{Path(source.location).name}: likeliest {_rank_word(options.rank)}")
    files.append(picture)
    if job.polygons:
        files += write_stands(job.polygons, grid, folders, pixels.taxa, target)
    shutil.rmtree(state)
    fresh = [done.report for done in run.done if not done.resumed]
    return MapReport(
        pixels=grid.width * grid.height,
        classified=classified,
        resumed=sum(int(done.report["classified"]) for done in run.done if done.resumed),
        seconds=seconds,
        cpu_seconds=sum(float(report["cpu_seconds"]) for report in fresh),
        peak_mb=max((float(report["peak_mb"]) for report in fresh), default=0.0),
        files=files,
    )


def _check_options(out: Path, options: MapOptions) -> None:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError(f"--out {out}: a map is a GeoTIFF; give a name that ends in .tif")
    if out.exists() and not options.overwrite:
        raise ConfigError(f"--out {out}: is there already; give another name, or --overwrite")
    for name, value, least in (
        ("--stride", options.stride, 1), ("--minimum-unit", options.minimum_unit, 0), ("--workers", options.workers, 1),
        ("--tile", options.tile, 1),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")


def _prepare_output(out: Path, grid: Grid) -> Path:
    """The folder of tiles, once it is sure that there is room and leave to write."""
    state = out.absolute().with_name(out.name + ".parts")
    try:
        state.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(state).free
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror}") from error
    if not os.access(state, os.W_OK):
        raise DataError(f"--out {out}: cannot be written: no leave to write in {out.parent}")
    needed = 3 * 6 * grid.width * grid.height  # tiles, the plain file and the map, 6 bytes a pixel each
    if free < needed:
        raise DataError(
            f"--out {out}: needs up to {needed / 1e6:,.2f} MB while it is made, and {free / 1e6:,.2f} MB are free"
        )
    return state


def _absolute(name: str) -> str:
    """The whole path of a file or folder, which other processes find too; anything else as it is."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _device(given: str | None) -> str:
    """The device of all tiles, told before they go to other processes."""
    if given:
        return given
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _note_pixel_size(stack: Stack) -> None:
    grid = stack.grid
    centre = np.array([grid.height // 2] * 3), np.array([grid.width // 2] * 3)
    longitude, latitude = places(grid, centre[0] + np.array([0, 0, 1]), centre[1] + np.array([0, 1, 0]))
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        raise DataError(f"{stack.location}: its middle has no longitude and latitude; is its reference system right?")
    from pyproj import Geod

    sizes = Geod(ellps="WGS84").inv(longitude[[0, 0]], latitude[[0, 0]], longitude[1:], latitude[1:])[2]
    if not all(0.7 * _PIXEL <= size <= 1.4 * _PIXEL for size in sizes):
        warn(
            f"{stack.location}: pixels are {sizes[0]:.3g} x {sizes[1]:.3g} m; models read patches of 5 x 5 pixels of "
            f"{_PIXEL:g} m, so warp it to these, as with gdalwarp -tr 10 10"
        )


def _with_environment(job: Job, options: MapOptions) -> Job:
    """The job with its rasters; units and terrain are judged here for all tiles alike."""
    if not options.rasters:
        return job
    from geotreeclip.prep.environment import Options, sample_environment
    from geotreeclip.prep.raster_files import find_rasters

    rasters = find_rasters([_absolute(place) for place in options.rasters])
    grid = job.stack.grid
    along = max(2, round(_CHECKED**0.5))
    rows, columns = (
        np.linspace(0, length - 1, min(length, along)).round().astype(np.int64) for length in (grid.height, grid.width)
    )
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    longitude, latitude = places(grid, row, column)
    inside = np.isfinite(longitude) & np.isfinite(latitude)
    found = sample_environment(longitude[inside], latitude[inside], rasters, Options(worldclim=options.worldclim))
    for line in found.report.warnings:
        warn(line)
    return replace(
        job,
        rasters=tuple((name, tuple(str(path) for path in paths)) for name, paths in rasters.items()),
        worldclim=found.report.worldclim,
        terrain="off" if found.report.terrain is None else "force",
    )


def _plan(job: Job, model: Path, tile: int) -> dict[str, Any]:
    """What the tiles depend on."""
    rasters = [file for _, files in job.rasters for file in files]
    others = [name for name in (job.mask, job.polygons, job.labels or "", job.prior) if name]
    weights = [str(model)] if model.is_file() else [str(path) for path in sorted(model.glob("*")) if path.is_file()]
    return {
        "stack": _stamps(job.stack.files), "months": list(job.stack.months), "bands": list(job.stack.bands),
        "crs": job.grid.crs, "reading": [job.reading.scale, job.reading.offset, list(job.reading.nodata)],
        "stride": job.stride, "tile": tile, "block": job.block, "model": _stamps(weights), "labels": job.labels,
        "rank": job.rank, "prior": job.prior, "rasters": _stamps(rasters), "worldclim": job.worldclim,
        "terrain": job.terrain, "mask": job.mask, "polygons": job.polygons,
        "tables": _stamps([name for name in others if Path(name).is_file()]),
    }  # fmt: skip


def _stamps(files: Iterable[str]) -> list[list[Any]]:
    """Names, sizes and times of files; addresses as they are."""
    stamps = []
    for file in files:
        path = Path(file)
        state = path.stat() if path.exists() else None
        stamps.append([file, state.st_size, state.st_mtime_ns] if state else [file])
    return stamps


def _tags(job: Job, pixels: Any, model: Path) -> dict[str, Any]:
    from geotreeclip import __version__

    return {
        "SOFTWARE": f"geotreeclip {__version__}",
        "MODEL": f"{model.name}, weights {pixels.classifier.fingerprint}",
        "STACK": Path(job.stack.location).name,
        "RANK": job.rank, "LABELS": str(len(pixels.taxa)), "PRIOR": job.prior, "STRIDE": str(job.stride),
        "BANDS": (
            f"1 label: position in the legend; 2 probability x {1 / PROBABILITY_SCALE:.0f}; "
            f"3 entropy in nats x {1 / ENTROPY_SCALE:.0f}; 65535 no data"
        ),
    }  # fmt: skip


def _plan_in_words(stack: Stack, job: Job, labels: int, tiles: int, model: Path) -> str:
    grid, inputs = job.grid, "imagery and location"
    if job.rasters:
        inputs += f" and {len(job.rasters)} variables from rasters"
    worth = "digital numbers" if job.reading.scale == "dn" else "reflectance"
    return (
        f"{stack.location}: {grid.width} x {grid.height} pixels, {len(stack.months)} months of {len(stack.bands)} "
        f"bands ({worth}); {inputs}; {labels} labels of {model}; {tiles} tile{'s' if tiles != 1 else ''}"
    )


def _rank_word(rank: str) -> str:
    return rank.replace("_", " ")


def _hectares(grid: Grid) -> float:
    from pyproj import CRS

    a, b, _, d, e, _ = grid.transform
    system = CRS.from_wkt(grid.crs)
    if not system.is_projected:
        return float("nan")
    metres = system.axis_info[0].unit_conversion_factor
    return float(abs(a * e - b * d) * metres**2 / 10_000)
