"""Layers of MODIS MCD12Q2 in local GeoTIFFs, read at places. N places, Y years.

One layer of one year (of one tile) a file, as AppEEARS and Earth Engine export them. The file's name says which: the
layer, the number of the cycle, and the year, in this order, such as

    MCD12Q2.061_Greenup_0_doy2019001_aid0001.tif     cycles 0 and 1
    Greenup_1_2019.tif, Greenup_2_2019_h18v04.tif    cycles 1 and 2
    NumCycles_2019.tif

Several files of a layer and year are tiles; a place takes its value from the one that holds it. Layers and their
numbers are those of the product's version 6.1: dates in days since 1970-01-01, valid from 11138 to 32766, 32767 where
there is none; EVI_Amplitude of EVI2 x 10,000, valid from 0 to 10,000; QA_Overall 0 best, 1 good, 2 fair, 3 poor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology.mcd12q2 import VALID_DAYS

__all__ = ["DATE_LAYERS", "WORST_QUALITY", "Layers", "Product", "find_layers", "read_product"]

DATE_LAYERS = ("Greenup", "Maturity", "Senescence", "Dormancy")
_OTHERS = ("NumCycles", "EVI_Amplitude", "QA_Overall")
_FILL = 32_767
_AMPLITUDE_SCALE, _AMPLITUDE_MOST = 1e-4, 10_000

WORST_QUALITY = 2
"""Cycles of QA_Overall up to this are taken: fair ones are, poor ones (3) are not."""

_NAME = re.compile(
    rf"(?<![A-Za-z])(?P<layer>{'|'.join((*DATE_LAYERS, *_OTHERS))})(?:_(?P<cycle>[012]))?(?!\d)(?P<rest>.*)",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)\d\d")


@dataclass(frozen=True)
class Layers:
    """Files by (layer, cycle, year); cycle 0 and 1, or -1 for NumCycles."""

    files: dict[tuple[str, int, int], list[Path]]
    years: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Product:
    """What the product holds at places.

    Attributes:
        days: int64 [N, Y, 2, 4], days since 1970-01-01 of `DATE_LAYERS`, 32767 where missing.
        num_cycles: int64 [N, Y], -1 where missing.
        amplitude: float64 [N, Y, 2], EVI2, NaN where missing; None without its layers.
        poor: int16 [N], cycles left out for their quality.
        years: Y years.
    """

    days: NDArray[np.int64]
    num_cycles: NDArray[np.int64]
    amplitude: NDArray[np.float64] | None
    poor: NDArray[np.int16]
    years: tuple[int, ...] = field(default=())


def find_layers(folder: Path) -> Layers:
    """GeoTIFFs of the product in a folder and those beneath, by their names.

    Raises:
        DataError: None is there, or a year lacks one of the layers that are needed.
        ConfigError: Numbers of cycles are 0, 1 and 2 at once.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of MCD12Q2 layers")
    found: dict[tuple[str, int, int], list[Path]] = {}
    proper = {name.lower(): name for name in (*DATE_LAYERS, *_OTHERS)}
    for path in sorted([*folder.rglob("*.tif"), *folder.rglob("*.tiff")]):
        match = _NAME.search(path.stem)
        if match is None:
            continue
        year = _YEAR.search(match["rest"])
        if year is None:
            raise DataError(f"{path}: its name holds no year after the layer; name it such as Greenup_1_2019.tif")
        layer = proper[match["layer"].lower()]
        cycle = -1 if layer == "NumCycles" else int(match["cycle"] or 1)
        found.setdefault((layer, cycle, int(year[0])), []).append(path)
    if not found:
        raise DataError(f"{folder}: holds no GeoTIFF named after a layer such as Greenup_1_2019.tif")
    numbers = {cycle for _, cycle, _ in found if cycle >= 0}
    if numbers >= {0, 2}:
        raise ConfigError(f"{folder}: cycles are numbered 0, 1 and 2; put exports that count from 0 and from 1 apart")
    first = 0 if 0 in numbers else 1
    files = {(layer, max(cycle - first, -1), year): paths for (layer, cycle, year), paths in found.items()}
    years = tuple(sorted({year for _, _, year in files}))
    needed = [(layer, 0) for layer in DATE_LAYERS] + [("NumCycles", -1)]
    for each in years:
        lacking = [layer for layer, cycle in needed if (layer, cycle, each) not in files]
        if lacking:
            raise DataError(
                f"{folder}: lacks {', '.join(lacking)} of {each}; needed are {', '.join(DATE_LAYERS)} of the first "
                "cycle, and NumCycles"
            )
    return Layers(files, years)


def read_product(
    layers: Layers, longitude: NDArray[np.float64], latitude: NDArray[np.float64], worst: int = WORST_QUALITY
) -> Product:
    """The layers at places: the value of the cell that holds each.

    Args:
        layers: Of `find_layers`.
        longitude: [N], degrees.
        latitude: [N], degrees.
        worst: Largest QA_Overall of a cycle that is taken; without that layer all are.

    Raises:
        DataError: A file cannot be read, or no place lies in any of them.
        ConfigError: `worst` is none of the product's.
    """
    if not 0 <= worst <= 3:
        raise ConfigError(f"worst quality is {worst}; give 0 (best) to 3 (poor)")
    size, years = len(longitude), layers.years
    days = np.full((size, len(years), 2, 4), _FILL, np.int64)
    number = np.full((size, len(years)), -1, np.int64)
    amplitude = np.full((size, len(years), 2), np.nan)
    poor = np.zeros(size, np.int16)

    def at(layer: str, cycle: int, year: int) -> NDArray[np.float64]:
        return _values(layers.files.get((layer, cycle, year), []), longitude, latitude)

    for place, year in enumerate(years):
        counted = at("NumCycles", -1, year)
        known = np.isfinite(counted) & (counted != _FILL)
        number[known, place] = counted[known].astype(np.int64)
        for cycle in (0, 1):
            quality = at("QA_Overall", cycle, year)
            bad = np.isfinite(quality) & (quality > worst) & (quality != _FILL)
            for column, layer in enumerate(DATE_LAYERS):
                value = at(layer, cycle, year)
                good = np.isfinite(value) & (value >= VALID_DAYS[0]) & (value <= VALID_DAYS[1])
                poor += ((column == 0) & good & bad).astype(np.int16)
                days[good & ~bad, place, cycle, column] = value[good & ~bad].astype(np.int64)
            amplitude[:, place, cycle] = _amplitude(at("EVI_Amplitude", cycle, year))
    if (number < 0).all():
        raise DataError(f"none of {size} places has a value of NumCycles in any year; do the layers cover them?")
    has_amplitude = any(layer == "EVI_Amplitude" for layer, _, _ in layers.files)
    return Product(days, number, amplitude if has_amplitude else None, poor, years)


def _amplitude(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """EVI2 from stored numbers, or from those that a file's own scale has made EVI2 already."""
    stored = np.where((value >= 0) & (value <= _AMPLITUDE_MOST), value, np.nan)
    scaled = bool(np.isfinite(stored).any()) and float(np.nanmax(stored)) <= 1.5  # no amplitude of EVI2 is larger
    return stored if scaled else stored * _AMPLITUDE_SCALE


def _values(paths: list[Path], longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of tiles at places, [N], NaN where no tile has one."""
    from geotreeclip.prep.rasters import Raster

    values = np.full(len(longitude), np.nan)
    for path in paths:
        rest = np.flatnonzero(np.isnan(values))
        if not len(rest):
            break
        with Raster(str(path)) as raster:
            column, row = raster.grid.place(longitude[rest], latitude[rest])
            inside = raster.grid.inside(column, row)
            values[rest[inside]] = raster.cells(*raster.grid.holding(column[inside], row[inside]))
    return values
