"""A region of the planted forest as a stack: stands of known species, a meadow, a lake without data.

    geotreeclip demo --region --out DIR

writes DIR/stack.tif (a band for each month and spectral band), DIR/rasters/*.tif (the environment), DIR/forest.tif (1
where stands are), DIR/truth.tif (row of the species in DIR/species.csv) and DIR/stands.geojson.

What shows in a sample of the world shows here, laid out in space: the effects that the pixels of a ring share there
(stand, soil, age; light and haze of a month) have the same variance here, a quarter of it between stands and the rest
in a field that changes over some tens of metres; pixels differ by noise of their own, and clouds hide patches of
months.
In the samples of training the centre and its surrounding vary apart; here they vary almost together, so a patch tells a
little less.

Shapes: T months (12), C bands (10), H W pixels, K stands.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.demo.config import world_config
from geotreeclip.demo.raw.rasters import raster_name
from geotreeclip.demo.spectra import backgrounds
from geotreeclip.demo.world import World, build_world, shared_effects
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, REFLECTANCE_SCALE, VARIABLES

__all__ = ["Region", "describe", "make_region", "plant_region", "write_region"]

_PIXEL = 10.0
_COARSE = 100.0  # metres between the cells of the environment rasters
_NO_STAND = -1
_SPECIES = 8
_BETWEEN = 0.25  # share of the variance of effects that is between stands
_LENGTH = 1.5  # pixels, standard deviation of the kernel that makes the rest smooth
_YEAR = 2020


class Region(NamedTuple):
    """A region.

    Attributes:
        images: uint16 [T, C, H, W] digital numbers, 65535 where hidden.
        stand: int64 [H, W] stand of each pixel, -1 in the meadow and the lake.
        species: int64 [K] row in the taxonomy.
        environment: float32 [27] of the place.
        longitude: Of the centre, degrees.
        latitude: Of the centre, degrees.
    """

    images: NDArray[np.uint16]
    stand: NDArray[np.int64]
    species: NDArray[np.int64]
    environment: NDArray[np.float32]
    longitude: float
    latitude: float


def plant_region(world: World, height: int, width: int, stands: int = 28, seed: int = 0) -> Region:
    """Lay stands out at a site of the world where about eight species are common (by the exponential of their entropy).

    Args:
        world: The world.
        height: Rows.
        width: Columns.
        stands: Seeds of the Voronoi cells that are stands.
        seed: Of the layout and of what is drawn.

    Raises:
        ConfigError: If there is no room.
    """
    if min(height, width) < 10 or stands < 1:
        raise ConfigError(f"region of {height} x {width} pixels with {stands} stands: give at least 10 x 10 and one")
    rng = np.random.default_rng([world.config.seed, 40, seed])
    share = np.exp(world.log_range) * world.prior[:, None]  # [S, M], p(species, site)
    given_site = share / share.sum(axis=0)
    diverse = -(given_site * np.log(np.where(given_site > 0, given_site, 1.0))).sum(axis=0)
    apart = np.abs(np.exp(diverse) - _SPECIES)
    apart[share.sum(axis=0) < np.quantile(share.sum(axis=0), 0.5)] = np.inf  # not where nothing was ever recorded
    site = int(apart.argmin())
    species = rng.choice(len(world.prior), size=stands, p=given_site[:, site])
    stand, lake = _layout(height, width, stands, rng)
    phase = int(rng.choice(world.phase.shape[1], p=world.phase[world.sites.zone[site]]))
    log = _log_values(world, species, stand, phase, rng)
    values = np.clip(np.rint(np.exp(log)), 1, 20_000)
    values[:, :, lake] = MISSING_DN
    values = np.where(_clouds(world, height, width, rng)[:, None], MISSING_DN, values).astype(np.uint16)
    environment = world.sites.environment[site].astype(np.float32)
    place = (float(world.sites.longitude[site]), float(world.sites.latitude[site]))
    return Region(values, stand, species, environment, *place)


def _layout(
    height: int, width: int, stands: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Stand of each pixel, and the lake: Voronoi cells, a meadow across them and an oval."""
    row, column = np.mgrid[:height, :width]
    seeds = rng.random((stands, 2)) * (height, width)
    cell = ((row[..., None] - seeds[:, 0]) ** 2 + (column[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
    bend = height * (0.55 + 0.25 * np.sin(2 * np.pi * column / width + rng.uniform(0, 6)))
    meadow = np.abs(row - bend) < 0.03 * height + 1.5
    centre = rng.uniform(0.2, 0.8, 2) * (height, width)
    radius = 0.09 * min(height, width)
    lake = ((row - centre[0]) / radius) ** 2 + ((column - centre[1]) / (1.6 * radius)) ** 2 < 1
    return np.where(meadow | lake, _NO_STAND, cell).astype(np.int64), lake


def _log_values(
    world: World, species: NDArray[np.int64], stand: NDArray[np.int64], phase: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Log digital numbers without clouds, [T, C, H, W]; the effects that a ring shares belong to a stand."""
    model = world.image
    pure = model.mean[species, phase, 0, :, 0]  # [K, T, C], the stand fills centre and surrounding
    of_stands = shared_effects(model, len(species) + 1, rng)[:, :, 0]
    grass = np.log(backgrounds()[0, phase] * REFLECTANCE_SCALE)
    means = np.concatenate([pure, grass[None]]) + np.sqrt(_BETWEEN) * of_stands  # the last is the meadow
    # Effects are linear in independent normal numbers, so smoothing them keeps how bands and months go together.
    scattered = shared_effects(model, stand.size, rng)[:, :, 0].reshape(*stand.shape, MONTHS, -1)
    log = np.moveaxis(means[stand] + np.sqrt(1 - _BETWEEN) * _smooth(scattered), (0, 1), (2, 3))
    return np.asarray(log + model.pixel_noise * rng.standard_normal(log.shape), dtype=np.float64)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """White noise over the first two axes made smooth over `_LENGTH` pixels, its variance kept; edges are joined."""
    waves = np.meshgrid(*(np.fft.fftfreq(length) for length in values.shape[:2]), indexing="ij")
    gain = np.exp(-2 * (np.pi * _LENGTH * np.hypot(*waves)) ** 2)  # of a Gaussian kernel
    gain /= np.sqrt((gain**2).mean())
    spectrum = np.fft.fft2(values, axes=(0, 1)) * gain[:, :, None, None]
    return np.asarray(np.fft.ifft2(spectrum, axes=(0, 1)).real, dtype=np.float64)


def _clouds(world: World, height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """What clouds hide of each month, [T, H, W]: some months wholly, of others round patches."""
    hidden = np.zeros((MONTHS, height, width), dtype=bool)
    row, column = np.mgrid[:height, :width]
    for month in range(MONTHS):
        if rng.random() < world.config.cloud / 2:
            hidden[month] = True
            continue
        for _ in range(rng.poisson(3 * world.config.cloud)):
            centre, radius = rng.random(2) * (height, width), rng.uniform(0.05, 0.25) * max(height, width)
            hidden[month] |= (row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2
    return hidden


def write_region(region: Region, world: World, out: Path) -> None:
    """Write a region; see the module.

    Raises:
        DataError: If a file cannot be written.
    """
    import rasterio

    try:
        (out / "rasters").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from error
    height, width = region.stand.shape
    crs, transform = _place(region)
    grid: dict[str, Any] = {"crs": crs, "transform": transform, "height": height, "width": width, "driver": "GTiff"}

    def stack(path: Path) -> None:
        with rasterio.open(
            path, "w", count=MONTHS * len(BANDS), dtype="uint16", nodata=MISSING_DN, compress="deflate", predictor=2,
            tiled=True, blockxsize=64, blockysize=64, interleave="band", **grid,
        ) as target:  # fmt: skip
            target.write(region.images.reshape(-1, height, width))
            target.descriptions = [f"{_YEAR}-{month:02d}_{band}" for month in range(1, MONTHS + 1) for band in BANDS]

    def layer(values: NDArray[Any], nodata: float | None) -> Any:
        def write(path: Path) -> None:
            with rasterio.open(path, "w", count=1, dtype=values.dtype, nodata=nodata, compress="deflate", **grid) as to:
                to.write(values, 1)

        return write

    truth = np.where(region.stand == _NO_STAND, MISSING_DN, region.species[region.stand]).astype(np.uint16)
    write_atomically(out / "stack.tif", stack)
    write_atomically(out / "truth.tif", layer(truth, MISSING_DN))
    write_atomically(out / "forest.tif", layer((region.stand != _NO_STAND).astype(np.uint8), None))
    write_atomically(out / "species.csv", lambda path: _write_species(path, world))
    write_atomically(out / "stands.geojson", lambda path: _write_stands(path, region, world, transform, crs))
    _write_environment(out / "rasters", region, grid)


def _place(region: Region) -> tuple[str, Any]:
    """UTM zone of the centre, and the transform: whole tens of metres."""
    from pyproj import Transformer
    from rasterio.transform import from_origin

    zone = int((region.longitude + 180) // 6) % 60 + 1
    crs = f"EPSG:{(32600 if region.latitude >= 0 else 32700) + zone}"
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(region.longitude, region.latitude)
    height, width = region.stand.shape
    west, north = (round(v / _PIXEL) * _PIXEL for v in (x - width * _PIXEL / 2, y + height * _PIXEL / 2))
    return crs, from_origin(west, north, _PIXEL, _PIXEL)


def _write_environment(folder: Path, region: Region, grid: dict[str, Any]) -> None:
    """Rasters of 100 m with a little relief about the values of the place."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(41)
    step = int(_COARSE / _PIXEL)
    rows, columns = (math.ceil(side / step) for side in region.stand.shape)
    coarse = {**grid, "height": rows, "width": columns}
    coarse["transform"] = from_origin(grid["transform"].c, grid["transform"].f, _COARSE, _COARSE)
    for column, variable in enumerate(VARIABLES):
        if variable.group == "location":
            continue
        value = float(region.environment[column])
        spread = 0.01 * abs(value) if variable.name != "aspect" else 30.0
        field = np.clip(value + spread * rng.standard_normal((rows, columns)), variable.low, variable.high)

        def write(path: Path, field: NDArray[np.float64] = field) -> None:
            with rasterio.open(path, "w", count=1, dtype="float32", nodata=-9999.0, **coarse) as target:
                target.write(field.astype(np.float32), 1)

        write_atomically(folder / raster_name(variable.name), write)


def _write_species(path: Path, world: World) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["index", "species", "genus", "family", "leaf_type"])
        rows.writerows([index, t.species, t.genus, t.family, t.leaf_type] for index, t in enumerate(world.taxonomy))


def _write_stands(path: Path, region: Region, world: World, transform: Any, crs: str) -> None:
    """Outlines of the stands in the grid's projection, named as GDAL's GeoJSON reader knows it."""
    from rasterio.features import shapes

    mask = region.stand != _NO_STAND
    features = [
        {
            "type": "Feature",
            "properties": {
                "stand": int(stand),
                "species": world.taxonomy[int(region.species[int(stand)])].species,
            },
            "geometry": outline,
        }
        for outline, stand in shapes(region.stand.astype(np.int32), mask=mask, transform=transform)
    ]
    named = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path.write_text(
        json.dumps({"type": "FeatureCollection", "crs": named, "features": features}), encoding="utf-8"
    )  # fmt: skip


def make_region(
    out: str | Path,
    height: int = 80,
    width: int = 100,
    *,
    preset: str = "image-led",
    seed: int = 0,
    samples: int | None = None,
    stands: int = 28,
) -> Region:
    """Make a region of a world; the world is that of `geotreeclip demo` with the same preset, seed and samples.

    Args:
        out: Folder to write into.
        height: Rows of 10 m.
        width: Columns of 10 m.
        preset: A key of `geotreeclip.demo.config.PRESETS`.
        seed: Of the world.
        samples: Training samples of the world, which decide how common its species are.
        stands: Number of stands.
    """
    world = build_world(world_config(preset, seed=seed), samples)
    region = plant_region(world, height, width, stands)
    write_region(region, world, Path(out))
    return region


def describe(region: Region, out: str | Path) -> str:
    """What a region that was made holds, and how to map it."""
    height, width = region.stand.shape
    count = len(np.unique(region.species[region.stand[region.stand != _NO_STAND]]))
    return (
        f"{height} x {width} pixels at {region.latitude:.2f} N, {region.longitude:.2f} E with {count} species: "
        f"{out}/stack.tif, truth.tif, forest.tif, stands.geojson, rasters/\n"
        f"Map it: geotreeclip map {out}/stack.tif --rasters {out}/rasters --mask {out}/forest.tif --model MODEL "
        "--out map.tif"
    )
