"""Bands, months, the 27 environmental variables and the taxonomic ranks: the only place where they are spelled.

The order of bands and variables is that of the published GlobalGeoTree shards. Note that B8 is the fourth band.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "BANDS",
    "GROUPS",
    "MISSING_DN",
    "MONTHS",
    "MONTH_DAYS",
    "PATCH",
    "PUBLISHED_RANK_FIELDS",
    "RANKS",
    "REFLECTANCE_SCALE",
    "VARIABLES",
    "VARIABLE_INDEX",
    "VARIABLE_NAMES",
    "Rank",
    "Variable",
    "worldclim1_to_2",
]

BANDS: tuple[str, ...] = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
"""Sentinel-2 bands in stored order (four at 10 m, then six at 20 m)."""

MONTHS = 12
PATCH = 5
"""Pixels of 10 m along each side of a patch; the central one holds the point."""

MISSING_DN = 65535
"""Marks a missing digital number in uint16 storage; surface reflectance never reaches it."""

REFLECTANCE_SCALE = 10_000
"""Digital numbers per unit of surface reflectance (Sentinel-2 Level-2A quantification value)."""

_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


if TYPE_CHECKING:  # made when first asked for: help needs names of this module, and no numpy
    MONTH_DAYS: npt.NDArray[np.float32]
    """[12, 2]: first and last day of each calendar month, days of a 365-day year counted from 1, both inclusive."""


def __getattr__(name: str) -> npt.NDArray[np.float32]:
    """The array `MONTH_DAYS`."""
    if name != "MONTH_DAYS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np

    last = np.cumsum(_MONTH_LENGTHS)
    days = np.stack([last - np.array(_MONTH_LENGTHS) + 1, last], axis=1).astype(np.float32)
    globals()[name] = days
    return days


class Rank(StrEnum):
    """Taxonomic ranks as GlobalGeoTree has them; `leaf_type` is its `level0`, not a Linnaean rank."""

    LEAF_TYPE = "leaf_type"
    FAMILY = "family"
    GENUS = "genus"
    SPECIES = "species"


RANKS: tuple[str, ...] = tuple(rank.value for rank in Rank)
"""Coarse to fine."""

PUBLISHED_RANK_FIELDS: dict[str, str] = {
    "level0": "leaf_type",
    "level1_family": "family",
    "level2_genus": "genus",
    "level3_species": "species",
}
"""Names of the ranks in published shards and tables, and ours."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environmental variable.

    Attributes:
        name: Field name in shards and tables.
        group: The model reads one token per group.
        unit: Unit in packed shards (WorldClim 2.1 convention).
        low: Smallest plausible value on land, in `unit`; values below are an error of unit or of data.
        high: Largest plausible value on land.
        source: Where the published data set took it from.
        worldclim1_factor: Factor from `unit` to the unit of WorldClim version 1 (10 where it stores tenths).
    """

    name: str
    group: str
    unit: str
    low: float
    high: float
    source: str
    worldclim1_factor: float = 1.0


_SRTM = "SRTM GL1 (USGS/SRTMGL1_003), 30 m; none north of 60 N or south of 56 S"
_SOIL = "SoilGrids 2.0 wv0033: volumetric water content at 33 kPa (field capacity), 250 m; not a moisture measurement"
_WORLDCLIM = "WorldClim (Hijmans et al. 2005; Fick and Hijmans 2017)"

# Plausible ranges are those of the WorldClim 2.1 rasters over land (10 arc-minutes), widened by about a tenth of
# their width, because finer resolutions reach further. bio04 is 100 x the standard deviation of monthly means.
_BIOCLIM: tuple[tuple[str, float, float, float], ...] = (
    ("degC", -65, 40, 10),  # bio01 annual mean temperature
    ("degC", -5, 30, 10),  # bio02 mean diurnal range
    ("%", 0, 110, 1),  # bio03 isothermality
    ("0.01 degC", 0, 2700, 10),  # bio04 temperature seasonality
    ("degC", -40, 56, 10),  # bio05 maximum of the warmest month
    ("degC", -82, 33, 10),  # bio06 minimum of the coldest month
    ("degC", 0, 85, 10),  # bio07 annual range
    ("degC", -75, 45, 10),  # bio08 mean of the wettest quarter
    ("degC", -75, 45, 10),  # bio09 mean of the driest quarter
    ("degC", -50, 45, 10),  # bio10 mean of the warmest quarter
    ("degC", -75, 36, 10),  # bio11 mean of the coldest quarter
    ("mm", 0, 14000, 1),  # bio12 annual precipitation
    ("mm", 0, 3500, 1),  # bio13 wettest month
    ("mm", 0, 700, 1),  # bio14 driest month
    ("%", 0, 265, 1),  # bio15 precipitation seasonality
    ("mm", 0, 8000, 1),  # bio16 wettest quarter
    ("mm", 0, 2400, 1),  # bio17 driest quarter
    ("mm", 0, 8000, 1),  # bio18 warmest quarter
    ("mm", 0, 6000, 1),  # bio19 coldest quarter
)

VARIABLES: tuple[Variable, ...] = (
    Variable("longitude", "location", "degree", -180, 180, "occurrence record, WGS 84"),
    Variable("latitude", "location", "degree", -90, 90, "occurrence record, WGS 84"),
    Variable("elevation", "terrain", "m", -500, 9000, _SRTM),
    Variable("slope", "terrain", "degree", 0, 90, _SRTM),
    Variable("aspect", "terrain", "degree clockwise from north", 0, 360, _SRTM),
    Variable("soil_moisture_0_5cm", "soil", "0.001 cm3/cm3", 0, 1000, _SOIL),
    Variable("soil_moisture_5_15cm", "soil", "0.001 cm3/cm3", 0, 1000, _SOIL),
    Variable("soil_moisture_15_30cm", "soil", "0.001 cm3/cm3", 0, 1000, _SOIL),
    *(
        Variable(f"bio{number:02d}", "climate", unit, low, high, _WORLDCLIM, factor)
        for number, (unit, low, high, factor) in enumerate(_BIOCLIM, start=1)
    ),
)
"""The 27 variables in published order."""

VARIABLE_NAMES: tuple[str, ...] = tuple(variable.name for variable in VARIABLES)
VARIABLE_INDEX: dict[str, int] = {name: index for index, name in enumerate(VARIABLE_NAMES)}

GROUPS: dict[str, tuple[int, ...]] = {
    group: tuple(index for index, variable in enumerate(VARIABLES) if variable.group == group)
    for group in ("location", "terrain", "soil", "climate")
}
"""Group name -> columns of the environment array."""


def worldclim1_to_2(environment: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Convert environment values from WorldClim version 1 units to those of version 2.1.

    Version 1 stores temperatures in tenths of a degree (bio01, 02 and 04 to 11); the other variables agree. Only
    units are converted: the two versions also describe different periods (1960-1990 and 1970-2000).

    Args:
        environment: [..., 27] in published order.

    Returns:
        A converted copy, [..., 27] float32.

    Raises:
        ValueError: If the last axis does not hold 27 variables.
    """
    import numpy as np

    values = np.asarray(environment, dtype=np.float32)
    if values.shape[-1:] != (len(VARIABLES),):
        raise ValueError(f"environment must end in {len(VARIABLES)} variables, got shape {values.shape}")
    factors = np.array([variable.worldclim1_factor for variable in VARIABLES], dtype=np.float32)
    return np.asarray(values / factors, dtype=np.float32)
