"""Environmental values in the forms people have -> [N, 27] in the model's order and units, missing ones masked.

Shapes: N samples, V = 27 variables (`schema.VARIABLES`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import SampleNamer, listed, sample_number, to_masked_array, warn
from geotreeclip.schema import VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES, worldclim1_to_2

__all__ = ["IMPLAUSIBLE", "Environment", "read_environment", "variable_name"]

IMPLAUSIBLE = ("refuse", "warn")
"""What can be done with a value outside the plausible range of its variable."""

_LONGITUDE, _LATITUDE = VARIABLE_INDEX["longitude"], VARIABLE_INDEX["latitude"]
_TEMPERATURES = tuple(index for index, variable in enumerate(VARIABLES) if variable.worldclim1_factor != 1)
_NODATA = (-9999.0, -32768.0, 65535.0, 32767.0)

# A resolution or product name may precede the number of a bioclimatic variable, as in WorldClim's file names
# "wc2.1_10m_bio_1" and "bio1_16".
_BIO = re.compile(r"^(?:wc2?(?:[._]\d)?_|worldclim_?)?(?:\d+(?:\.\d+)?[ms]_|30s_)?bio_?(\d{1,2})$")
_SOIL = re.compile(r"^(?:wv0033|soil_moisture|swc)_(0_5|5_15|15_30)(?:cm)?(?:_mean|_q0\.5)?$")
_WORDS = {
    "longitude": ("lon", "long", "lng", "longitude_deg", "decimallongitude", "decimal_longitude"),
    "latitude": ("lat", "latitude_deg", "decimallatitude", "decimal_latitude"),
    "elevation": ("elev", "elevation_m", "altitude", "alt", "dem", "topo_elevation"),
    "slope": ("slope_deg", "slope_degrees", "topo_slope"),
    "aspect": ("aspect_deg", "aspect_degrees", "topo_aspect"),
}
_ALIASES = {word: name for name, words in _WORDS.items() for word in words} | {name: name for name in VARIABLE_NAMES}


class Environment(NamedTuple):
    """Environmental values ready for the model.

    Attributes:
        values: float32 [N, V] in `schema.VARIABLES` units, 0 where missing.
        valid: bool [N, V].
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]


def variable_name(name: str) -> str | None:
    """The schema's name of a variable ("bio_1", "BIO1", "wc2.1_10m_bio_1" are "bio01"), or None if it is not one."""
    key = re.sub(r"[\s-]+", "_", str(name).strip().lower())
    if key in _ALIASES:
        return _ALIASES[key]
    key = re.sub(r"^wc2?(?:[._]\d)?_(?:\d+(?:\.\d+)?[ms]_)?(?=elev$)", "", key)
    if bio := _BIO.match(key):
        return f"bio{int(bio[1]):02d}" if 1 <= int(bio[1]) <= 19 else None
    if soil := _SOIL.match(key):
        return f"soil_moisture_{soil[1]}cm"
    return _ALIASES.get(key)


def read_environment(
    environment: Any = None,
    *,
    longitude: Any = None,
    latitude: Any = None,
    worldclim: str = "2.1",
    samples: int | None = None,
    implausible: str = "refuse",
    name: SampleNamer = sample_number,
) -> Environment | None:
    """Read environment and coordinates; see `geotreeclip.build_observations` for the arguments.

    Args:
        environment: Mapping or table of named variables, or array [N, 27] or [27] in published order.
        longitude: Degrees east, a number or [N].
        latitude: Degrees north, a number or [N].
        worldclim: Version whose units the bioclimatic values have, "2.1" or "1".
        samples: N if known from elsewhere (the images); single values are then repeated.
        implausible: "refuse" values outside the plausible range of their variable, or "warn" and take them.
        name: Names a sample in messages.

    Returns:
        The values, or None if nothing was given.

    Raises:
        InputError: If names, shapes or values cannot be right.
    """
    if str(worldclim) not in {"1", "1.4", "2", "2.0", "2.1"}:
        raise InputError(f'worldclim must be "2.1" or "1", got {worldclim!r}')
    if implausible not in IMPLAUSIBLE:
        raise InputError(f"implausible must be one of {', '.join(IMPLAUSIBLE)}, got {implausible!r}")
    if (longitude is None) != (latitude is None):
        raise InputError(f"{'latitude' if latitude is None else 'longitude'} is missing: give longitude and latitude")
    columns: dict[int, npt.NDArray[np.float64]] = {}
    if environment is not None:
        columns = _named_columns(environment) if _is_named(environment) else _published_columns(environment)
    for index, given in ((_LONGITUDE, longitude), (_LATITUDE, latitude)):
        if given is not None:
            _add_coordinate(columns, index, _column(given, VARIABLE_NAMES[index]), name)
    if not columns:
        return None
    count = _common_length(columns, samples)
    values = np.full((count, len(VARIABLES)), np.nan, dtype=np.float64)
    for index, column in columns.items():
        values[:, index] = column
    values[np.isinf(values)] = np.nan
    if str(worldclim).startswith("1"):
        _suspect_version_2(values)
        values = worldclim1_to_2(values).astype(np.float64)
    _check_ranges(values, name, version_1=str(worldclim).startswith("1"), refuse=implausible == "refuse")
    if not str(worldclim).startswith("1"):
        _suspect_version_1(values)
    valid = np.isfinite(values)
    return Environment(np.where(valid, values, 0).astype(np.float32), valid)


def _is_named(environment: Any) -> bool:
    return isinstance(environment, Mapping) or hasattr(environment, "columns") or hasattr(environment, "to_dict")


def _named_columns(environment: Any) -> dict[int, npt.NDArray[np.float64]]:
    """Columns of a mapping, a pandas Series (one place) or a DataFrame, recognised without importing pandas."""
    table = hasattr(environment, "columns")
    names: Iterable[Any] = environment.columns if table else environment.keys()
    columns: dict[int, npt.NDArray[np.float64]] = {}
    first: dict[int, str] = {}
    unknown: list[str] = []
    for given in names:
        known = variable_name(given)
        if known is None:
            unknown.append(str(given))
            continue
        index = VARIABLE_INDEX[known]
        if index in columns:
            raise InputError(f"environment names {known} twice: {first[index]!r} and {given!r}")
        first[index] = str(given)
        columns[index] = _column(environment[given], str(given))
    if unknown and not columns:
        raise InputError(
            f"environment holds no known variable (found: {listed(unknown)}); known are "
            f"{', '.join(VARIABLE_NAMES[:8])}, bio01 to bio19"
        )
    if unknown:
        _report_unknown(unknown, strict=not (table or hasattr(environment, "to_dict")))
    return columns


def _report_unknown(unknown: list[str], *, strict: bool) -> None:
    """A table may hold anything beside; in a mapping written for this call, an unknown name is a slip."""
    close = [difflib.get_close_matches(name.lower(), VARIABLE_NAMES, n=1, cutoff=0.8) for name in unknown]
    hints = [f"{name} (did you mean {match[0]}?)" for name, match in zip(unknown, close, strict=True) if match]
    if strict:
        raise InputError(
            f"environment: unknown variable {listed(hints or unknown)}; known are {', '.join(VARIABLE_NAMES[:8])}, "
            "bio01 to bio19"
        )
    warn(f"environment: columns not used: {listed(hints + [name for name in unknown if name not in hints])}")


def _published_columns(environment: Any) -> dict[int, npt.NDArray[np.float64]]:
    array, mask = to_masked_array(environment, "environment")
    values = np.where(mask, np.nan, array) if mask is not None else array.astype(np.float64)
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or values.shape[1] != len(VARIABLES):
        raise InputError(
            f"environment as an array must have shape [samples, {len(VARIABLES)}] in published order "
            f"(longitude, latitude, elevation, ... bio19), got {list(np.shape(environment))}; name what you have as "
            'a mapping instead, as in environment={"elevation": 320, "bio01": 9.4}'
        )
    return {index: values[:, index].astype(np.float64) for index in range(len(VARIABLES))}


def _column(values: Any, what: str) -> npt.NDArray[np.float64]:
    """One variable as [N] or [1]; None and pandas' missing values become NaN."""
    if hasattr(values, "to_numpy"):
        try:
            values = values.to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise InputError(f"environment: column {what!r} must hold numbers: {error}") from error
    elif values is None:
        values = np.nan
    array, mask = to_masked_array(values, what)
    array = np.where(mask, np.nan, array) if mask is not None else array.astype(np.float64)
    if array.ndim > 1:
        raise InputError(f"{what} must be a number or have one value for each sample, got shape {list(array.shape)}")
    return np.atleast_1d(array).astype(np.float64)


def _add_coordinate(
    columns: dict[int, npt.NDArray[np.float64]], index: int, given: npt.NDArray[np.float64], name: SampleNamer
) -> None:
    """Join coordinates given apart with those of the environment, which must not contradict them."""
    if index not in columns:
        columns[index] = given
        return
    held = columns[index]
    if len(held) > 1 and len(given) > 1 and len(held) != len(given):
        raise InputError(f"{VARIABLE_NAMES[index]} has {len(given)} values, that of environment {len(held)}")
    held, given = np.broadcast_arrays(held, given)
    apart = np.flatnonzero(np.abs(held - given) > 1e-4)  # about 10 m; rounding of coordinates stays below
    if apart.size:
        row = int(apart[0])
        raise InputError(
            f"{VARIABLE_NAMES[index]} of {name(row)} is {given[row]:g}, but environment says {held[row]:g}; give one"
        )
    columns[index] = np.where(np.isnan(given), held, given)


def _common_length(columns: dict[int, npt.NDArray[np.float64]], samples: int | None) -> int:
    lengths = {VARIABLE_NAMES[index]: len(column) for index, column in columns.items() if len(column) != 1}
    count = samples if samples is not None else next(iter(lengths.values()), 1)
    for variable, length in lengths.items():
        if length != count:
            other = "the images hold" if samples is not None else f"{next(iter(lengths))} has"
            raise InputError(f"{variable} has {length} values where {other} {count}")
    return count


def _check_ranges(values: npt.NDArray[np.float64], name: SampleNamer, *, version_1: bool, refuse: bool) -> None:
    low = np.array([variable.low for variable in VARIABLES])
    high = np.array([variable.high for variable in VARIABLES])
    bad = (values < low) | (values > high)
    if not bad.any():
        return
    row, index = (int(part) for part in np.argwhere(bad)[0])
    variable, value = VARIABLES[index], values[row, index]
    shown = value * variable.worldclim1_factor if version_1 else value
    message = (
        f"{name(row)}: {variable.name} is {shown:g}, outside its plausible range of {variable.low:g} to "
        f"{variable.high:g} {variable.unit}"
    )
    if version_1 and variable.worldclim1_factor != 1:
        message += f' once divided by {variable.worldclim1_factor:g}, as worldclim="1" asks'
    message += _hint(values[row], index, shown, version_1=version_1)
    if refuse:
        raise InputError(message)
    warn(f"{message} ({int(bad.sum())} such values are taken as they are)")


def _hint(row: npt.NDArray[np.float64], index: int, value: float, *, version_1: bool) -> str:
    """What the value may be instead."""
    variable = VARIABLES[index]
    longitude, latitude = row[_LONGITUDE], row[_LATITUDE]
    if value in _NODATA or abs(value) > 1e20:
        return "; it looks like a no-data value: give NaN instead"
    if index == _LATITUDE and abs(longitude) <= 90 and abs(latitude) <= 180:
        return f"; longitude is {longitude:g}: are the two swapped?"
    if index == _LONGITUDE and 180 < value <= 360:
        return "; longitudes run from -180 to 180: subtract 360"
    if index in (_LONGITUDE, _LATITUDE) and abs(value) > 360:
        return "; it looks like metres of a projection: give degrees (WGS 84)"
    if variable.unit == "degC" and 223 <= value <= 330 and value != round(value):
        return "; it looks like kelvin: subtract 273.15"
    factor = variable.worldclim1_factor
    if not version_1 and factor != 1 and variable.low <= value / factor <= variable.high:
        return '; it looks like WorldClim version 1 (temperatures x10): pass worldclim="1"'
    return ""


def _suspect_version_1(values: npt.NDArray[np.float64]) -> None:
    """In-range values may still be tenths where it is cold: version 1 holds whole numbers only."""
    temperatures = values[:, _TEMPERATURES]
    given = temperatures[np.isfinite(temperatures)]
    if given.size >= 20 and bool((given == np.round(given)).all()) and np.abs(given).max() > 0:
        warn(
            "environment: all temperatures are whole numbers, as WorldClim version 1 stores them (x10); "
            'if they are, pass worldclim="1"'
        )


def _suspect_version_2(values: npt.NDArray[np.float64]) -> None:
    """Version 1 holds whole tenths; decimals are a sign of version 2.1."""
    temperatures = values[:, _TEMPERATURES]
    given = temperatures[np.isfinite(temperatures)]
    share = float((np.abs(given - np.round(given)) > 1e-3).mean()) if given.size else 0.0
    if share > 0.5:
        warn(
            'environment: worldclim="1" was said, but temperatures have decimals, which version 1 does not; they '
            'look like version 2.1 and would be divided by 10. If so, pass worldclim="2.1"'
        )
