"""Rasters of environmental variables: which files and addresses hold which variable, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import VARIABLE_NAMES

__all__ = ["SUFFIXES", "find_rasters", "is_remote", "name_of", "variable_of"]

SUFFIXES = (".tif", ".tiff", ".vrt", ".bil", ".asc", ".img")
"""Files that are looked at in a raster folder."""

_REMOTE = ("http://", "https://", "s3://", "gs://", "/vsi")
_SOIL_DEPTHS = {("0", "5"): "0_5cm", ("5", "15"): "5_15cm", ("15", "30"): "15_30cm"}
_BIOCLIM = re.compile(r"(?:^|[^a-z])bio(?:clim)?[ _.-]*0?(\d{1,2})(?![0-9a-z])", re.IGNORECASE)
_SOIL = re.compile(r"(?:wv0?033|soil[ _.-]*moisture|sm)[ _.-]+(\d+)[ _.-]+(\d+)[ _.-]*cm", re.IGNORECASE)
_WORDS = tuple(
    (variable, re.compile(rf"(?:^|[^a-z])(?:{words})(?![a-z])", re.IGNORECASE))
    for variable, words in (
        ("slope", "slope"),
        ("aspect", "aspect"),
        ("elevation", "elev|elevation|altitude|alt|dem|dtm|dsm|srtm|gmted|gebco|etopo|nasadem|astgtm|aw3d30"),
    )
)


def is_remote(location: str) -> bool:
    """Whether a raster is read over a network (or through one of GDAL's virtual file systems)."""
    return location.startswith(_REMOTE)


def name_of(location: str) -> str:
    """The last part of a path or of an address, without a query."""
    path = urlsplit(location).path if "://" in location else location
    return path.rstrip("/").rpartition("/")[2]


def variable_of(location: str | Path) -> str | None:
    """The variable that a raster holds by its file name, or None.

    Known: ``wc2.1_10m_bio_7``, ``bio07``, ``CHELSA_bio7_1981-2010``; ``elevation``, ``wc2.1_10m_elev``, ``etopo20``,
    ``srtm_dem``, ``Copernicus_DSM_COG_10_N47``, ``alt``; ``slope``; ``aspect``; ``wv0033_0-5cm_mean``,
    ``soil_moisture_5_15cm``.
    """
    name = Path(name_of(str(location))).stem
    if match := _BIOCLIM.search(name):
        number = int(match.group(1))
        return f"bio{number:02d}" if 1 <= number <= 19 else None
    if match := _SOIL.search(name):
        depth = _SOIL_DEPTHS.get((match.group(1), match.group(2)))
        return f"soil_moisture_{depth}" if depth else None
    return next((variable for variable, pattern in _WORDS if pattern.search(name)), None)


def find_rasters(
    places: Iterable[str | Path], named: Mapping[str, str | Path | Sequence[str | Path]] | None = None
) -> dict[str, list[str]]:
    """Rasters of each variable, in schema order; several of one variable are its tiles.

    Args:
        places: Folders searched with all their sub-folders, and files or addresses whose names tell the variable.
        named: Variable name to a file or an address, or to several, for rasters whose names say nothing; replaces what
            the places hold of it.

    Raises:
        DataError: A folder or a named file does not exist, or nothing was found.
        ConfigError: A named variable is none that a raster can hold, or a name says nothing.
    """
    listed = [str(place) for place in places]
    found: dict[str, list[str]] = {}
    for place in listed:
        if Path(place).is_dir():
            for path in sorted(Path(place).rglob("*")):
                if path.suffix.lower() in SUFFIXES and (variable := variable_of(path)):
                    found.setdefault(variable, []).append(str(path))
        elif is_remote(place) or Path(place).is_file():
            variable = variable_of(place)
            if variable is None:
                raise ConfigError(
                    f"{place}: its name tells no variable; rename it, as elevation.tif, or say --raster VARIABLE=FILE"
                )
            found.setdefault(variable, []).append(place)
        else:
            raise DataError(f"{place}: no such folder of rasters")
    for variable, given in (named or {}).items():
        if variable not in VARIABLE_NAMES[2:]:
            raise ConfigError(f"no raster variable {variable!r}; known: {', '.join(VARIABLE_NAMES[2:])}")
        locations = [str(given)] if isinstance(given, str | Path) else [str(location) for location in given]
        for location in locations:
            if not is_remote(location) and not Path(location).is_file():
                raise DataError(f"{location}: no such file, named as the raster of {variable}")
        found[variable] = locations
    if not found:
        raise DataError(
            f"no raster found in {', '.join(listed) or 'no folder'}; files are known by names such as "
            "wc2.1_10m_bio_1.tif, elevation.tif, slope.tif, wv0033_0-5cm_mean.vrt, or given as --raster bio01=FILE"
        )
    return {variable: found[variable] for variable in VARIABLE_NAMES if variable in found}
