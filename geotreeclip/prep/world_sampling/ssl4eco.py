"""The published folders of SSL4Eco, read into the same form.

    DIR/000123/20190714T....tif    one image of 256 x 256 pixels of 10 m a file, 13 bands of uint16:
                                   B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12 NDVI
    locations CSV                  index, lon, lat (and the identifiers of the images)

The season of an image is not stored there; it follows from its date and the cycle of the place.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology import Cycles, day_of_year, season_middles, season_of
from geotreeclip.prep.phenology.circular import wrap
from geotreeclip.prep.world_sampling.grid import Locations
from geotreeclip.prep.world_sampling.picking import Picked
from geotreeclip.schema import BANDS, MISSING_DN, PATCH

__all__ = ["FILE_BANDS", "read_folders", "read_locations"]

FILE_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12", "NDVI")
"""In the order of the files."""

_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")


def read_locations(path: Path) -> Locations:
    """Places of an index file with the columns index, lon and lat.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    lacking = [name for name in ("index", "lon", "lat") if name not in table]
    if lacking:
        raise DataError(f"{path}: lacks the columns {', '.join(lacking)}; it has {', '.join(map(str, table.columns))}")
    names = np.array([f"{int(value):06d}" for value in table["index"]], dtype=object)
    return Locations(names, table["lon"].to_numpy(dtype=float), table["lat"].to_numpy(dtype=float))


def read_folders(directory: Path, places: Locations, cycles: Cycles, least: int = 2) -> Picked:
    """Central patches of the images of locations, each in its season; of two in one season the nearer to its middle.

    Args:
        directory: Folder of folders named after the locations.
        places: n locations.
        cycles: Theirs.
        least: Seasons that a location needs.

    Raises:
        DataError: A file is no such image.
    """
    picked = Picked.empty(cycles)
    middles = season_middles(cycles)
    for row, name in enumerate(places.sample_id):
        nearest = np.full(4, np.inf)
        for path in sorted((directory / str(name)).glob("*.tif")):
            match = _DATE.match(path.name)
            if match is None:
                raise DataError(f"{path}: its name does not begin with a date such as 20190714")
            date = "-".join(match.groups())
            try:
                day = float(day_of_year(np.array([date], dtype="datetime64[D]"))[0])
            except ValueError as error:
                raise DataError(f"{path}: its name begins with {match[0]}, which is no date") from error
            season = int(season_of([day], cycles[row])[0, 0])
            away = abs(float(wrap(day - middles[row, season])))
            if season < 0 or away >= nearest[season]:
                continue
            nearest[season] = away
            picked.images[row, season] = _centre(path)
            picked.days[row, season] = np.floor(day) + 1
            picked.date[row, season], picked.scene[row, season] = date, path.stem
    picked.settle(least)
    return picked


def _centre(path: Path) -> np.ndarray:
    """The pixel right and below of the middle with its neighbours, uint16 [C, H, W] in the order of the schema."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise ConfigError("reading images needs rasterio: pip install 'geotreeclip[prep]'") from error
    try:
        with rasterio.open(path, driver="GTiff") as source:
            if source.count != len(FILE_BANDS) or min(source.shape) < PATCH:
                raise DataError(
                    f"{path}: has {source.count} bands of {source.height} x {source.width} pixels, expected "
                    f"{len(FILE_BANDS)} bands"
                )
            top, left = source.height // 2 - PATCH // 2, source.width // 2 - PATCH // 2
            window = ((top, top + PATCH), (left, left + PATCH))
            values = source.read([1 + FILE_BANDS.index(band) for band in BANDS], window=window)
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as GeoTIFF: {error}") from error
    return np.where(values == 0, MISSING_DN, values).astype(np.uint16)  # 0 is no data
