"""Are these the values that they are taken for? Units of rasters by their names and their values.

N points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

__all__ = [
    "REFUSED_SHARE",
    "WRONG_SHARE",
    "expect_whole",
    "out_of_range",
    "plausible",
    "states_version",
    "suspicious_scale",
    "worldclim_version",
]

REFUSED_SHARE = 0.01
"""A variable with more values than this out of its range is refused where a wrong unit would explain them."""

WRONG_SHARE = 0.5
"""A variable with more values than this out of its range is refused in any case."""

_ENOUGH = 20  # values that a suspicion by their largest needs

_VERSION_2 = re.compile(r"(?:^|[^a-z])wc2[._][01]|worldclim[ _.-]?2", re.IGNORECASE)
_VERSION_1 = re.compile(r"(?:^|[^a-z])wc[ _.-]?1(?:[._]?4)?(?![0-9])|worldclim[ _.-]?1(?![0-9])", re.IGNORECASE)
_ABSOLUTE = tuple(f"bio{number:02d}" for number in (1, 5, 6, 8, 9, 10, 11))  # temperatures, not differences of them


def worldclim_version(paths: Sequence[str | Path], stated: str = "auto") -> str:
    """The WorldClim version of bioclimatic rasters, ``1`` or ``2.1``, by what is stated and what the names say.

    Raises:
        ConfigError: The version is unknown, the names contradict it, or they contradict each other.
    """
    if stated not in ("auto", "1", "2.1"):
        raise ConfigError(f"WorldClim version {stated!r} is unknown; give 1, 2.1 or auto")
    named: dict[str, str] = {}
    for path in map(str, paths):
        words = "/".join(path.split("/")[-2:])
        for version, pattern in (("2.1", _VERSION_2), ("1", _VERSION_1)):
            if pattern.search(words):
                named.setdefault(version, path)
                break
    if len(named) == 2:
        raise ConfigError(f"rasters of two WorldClim versions, {named['1']} and {named['2.1']}; their units differ")
    if stated != "auto" and named and stated not in named:
        version, path = next(iter(named.items()))
        raise ConfigError(f"WorldClim {stated} is stated, but {path} is named as version {version}; leave one out")
    return next(iter(named), "2.1") if stated == "auto" else stated


def states_version(paths: Sequence[str | Path]) -> bool:
    """Whether a name among bioclimatic rasters states a WorldClim version."""
    return any(_VERSION_2.search(str(path)) or _VERSION_1.search(str(path)) for path in paths)


def plausible(name: str, values: NDArray[np.float64], where: str) -> tuple[NDArray[np.float64], int]:
    """Values of a variable with the implausible ones missing, and how many those were.

    Raises:
        DataError: So many are implausible that they are of another unit or no such variable; names the suspicion.
    """
    variable = VARIABLES[VARIABLE_INDEX[name]]
    known = values[~np.isnan(values)]
    kept, wrong = out_of_range(name, values)
    share = wrong / len(known) if len(known) else 0.0
    fitting = [words for words, turned in _other_units(name, known) if _fit(turned, variable.low, variable.high)]
    if share > REFUSED_SHARE and (fitting or share > WRONG_SHARE):
        looks = "they look like " + ", or like ".join(fitting)
        if not fitting and name == "elevation" and np.median(known) < variable.low:
            fitting, looks = ["sea"], "they look like the sea floor; are the points on land?"
        raise DataError(
            f"{where}: {share:.0%} of the values of {name} are outside {variable.low:g} to {variable.high:g} "
            f"{variable.unit} (seen {known.min():g} to {known.max():g}): "
            f"{looks if fitting else 'they are of another unit, or of another variable'}"
        )
    if unit := suspicious_scale(name, known):
        raise DataError(
            f"{where}: the {len(known)} values of {name} reach from {known.min():g} to {known.max():g}, expected "
            f"{variable.unit}: they look like {unit}"
        )
    return kept, wrong


def out_of_range(name: str, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Values of a variable with those outside its plausible range missing, and how many those were."""
    variable = VARIABLES[VARIABLE_INDEX[name]]
    with np.errstate(invalid="ignore"):
        wrong = (values < variable.low) | (values > variable.high)
    return np.where(wrong, np.nan, values), int(wrong.sum())


def suspicious_scale(name: str, known: NDArray[np.float64]) -> str:
    """Another unit that values within the range look like because none of them is large, or ""."""
    if len(known) < _ENOUGH or not known.any():
        return ""
    if name.startswith("soil_moisture") and known.max() <= 1:
        return "cm3/cm3 (multiply them by 1000)"
    if name == "aspect" and known.max() <= 2 * np.pi + 1e-6:
        return "radians (convert them to degrees)"
    if name == "slope" and known.max() <= 1 and (known % 1 != 0).any() and np.median(known) > 0.2:
        return "radians or a ratio (convert them to degrees)"
    return ""


def expect_whole(name: str, values: NDArray[np.float64], where: str) -> None:
    """Refuse values that are no whole tenths, which WorldClim 1 has throughout.

    Raises:
        DataError: More than one in a hundred is not.
    """
    known = values[~np.isnan(values)]
    if len(known) and (np.abs(known - np.round(known)) > 1e-3).mean() > REFUSED_SHARE:
        raise DataError(
            f"{where}: WorldClim 1 stores {name} as whole tenths, but this holds values such as "
            f"{known[np.argmax(np.abs(known - np.round(known)))]:g}; it looks like version 2.1 (--worldclim 2.1)"
        )


def _other_units(name: str, values: NDArray[np.float64]) -> list[tuple[str, NDArray[Any]]]:
    """Suspicions of another unit, each with the values turned from it."""
    found: list[tuple[str, NDArray[Any]]] = []
    if VARIABLES[VARIABLE_INDEX[name]].worldclim1_factor != 1:
        found.append(("tenths as WorldClim 1 stores them (give --worldclim 1)", values / 10))
    if name in _ABSOLUTE:
        found.append(("kelvin (convert them to degrees Celsius)", values - 273.15))
        found.append(("tenths of a kelvin (convert them to degrees Celsius)", values / 10 - 273.15))
    return found


def _fit(values: NDArray[Any], low: float, high: float) -> bool:
    return len(values) > 0 and bool(((values < low) | (values > high)).mean() <= REFUSED_SHARE)
