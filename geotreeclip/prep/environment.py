"""Occurrences and rasters to packed shards without imagery (`data_prep/environment.py`).

N samples, V the 27 variables of the schema.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.rasters import RasterInfo, find_rasters, sample_rasters
from geotreeclip.schema import VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES, worldclim1_to_2
from geotreeclip.taxonomy import Taxon, taxa_of_frame

if TYPE_CHECKING:
    import pandas as pd

REFUSED_SHARE = 0.01
"""A variable with more values than this out of its range is refused where a wrong unit would explain them."""

WRONG_SHARE = 0.5
"""A variable with more values than this out of its range is refused in any case."""

_VERSION_2 = re.compile(r"(?:^|[^a-z])wc2[._][01]|worldclim[ _.-]?2", re.IGNORECASE)
_VERSION_1 = re.compile(r"(?:^|[^a-z])wc[ _.-]?1(?:[._]?4)?(?![0-9])|worldclim[ _.-]?1(?![0-9])", re.IGNORECASE)
_ABSOLUTE = tuple(f"bio{number:02d}" for number in (1, 5, 6, 8, 9, 10, 11))  # temperatures, not differences of them


@dataclass(slots=True)
class VariableReport:
    """What became of one variable.

    Attributes:
        rasters: The files it was read from.
        method: How cells were read.
        missing_rate: Share of samples without a value.
        out_of_range: Samples whose value was implausible and is missing now.
        range: Smallest, median and largest value kept, or None where there is none.
    """

    rasters: list[RasterInfo]
    method: str
    missing_rate: float = 0.0
    out_of_range: int = 0
    range: tuple[float, float, float] | None = None


@dataclass(slots=True)
class EnvironmentReport:
    """What went in, what came out, and what is missing."""

    samples: int
    worldclim: str
    resolution: str
    variables: dict[str, VariableReport]
    not_sampled: list[str]
    refused: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.samples} samples; WorldClim {self.worldclim}; {self.resolution}"]
        lines += [f"refused {count}: {reason}" for reason, count in self.refused.items()]
        lines.append(f"{'variable':<24}{'missing':>9}{'refused':>9}{'min':>11}{'median':>11}{'max':>11}  raster")
        for name, report in self.variables.items():
            values = "".join(f"{value:>11.1f}" for value in report.range) if report.range else f"{'-':>33}"
            files = ", ".join(Path(info.path).name for info in report.rasters)
            lines.append(f"{name:<24}{report.missing_rate:>8.2%} {report.out_of_range:>8}{values}  {files}")
        if self.not_sampled:
            lines.append(f"no raster, missing throughout: {', '.join(self.not_sampled)}")
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def sample_environment(
    longitude: NDArray[Any],
    latitude: NDArray[Any],
    rasters: Mapping[str, Sequence[Path]],
    *,
    method: str = "nearest",
    worldclim: str = "auto",
) -> tuple[NDArray[np.float32], EnvironmentReport]:
    """Read the variables of a set of places off rasters.

    Values come in the units of the schema: scale and offset of a file applied, WorldClim 1 converted. Aspect is an
    angle and is always taken from the nearest cell. Implausible values become missing and are counted; where they are
    many and a wrong unit explains them, the raster is refused.

    Args:
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        rasters: Files of each variable, as :func:`geotreeclip.prep.rasters.find_rasters` returns them.
        method: ``nearest`` or ``bilinear``.
        worldclim: Version of the bioclimatic rasters, ``1``, ``2.1``, or ``auto`` for what the file names say, and
            2.1 where they say nothing.

    Returns:
        Values [N, 27] in schema order, NaN where missing, and the report.

    Raises:
        DataError: A raster cannot be read, or its values are of another unit or variable.
        ConfigError: Version and file names contradict each other, or an option is unknown.
    """
    climate = [path for name, paths in rasters.items() if name.startswith("bio") for path in paths]
    version = worldclim_version(climate, worldclim)
    values = np.full((len(longitude), len(VARIABLES)), np.nan)
    values[:, VARIABLE_INDEX["longitude"]], values[:, VARIABLE_INDEX["latitude"]] = longitude, latitude
    reports: dict[str, VariableReport] = {}
    for name, paths in rasters.items():
        how = "nearest" if name == "aspect" else method
        column = VARIABLE_INDEX[name]
        values[:, column], infos = sample_rasters(paths, longitude, latitude, how)
        reports[name] = VariableReport(infos, how)
        if version == "1" and VARIABLES[column].worldclim1_factor != 1 and not any(info.scaled for info in infos):
            if how == "nearest":
                _expect_whole(name, values[:, column], infos)
            values[:, column] = worldclim1_to_2(values)[:, column]
    warnings = _warnings_of_version(climate, worldclim, version)
    for name, report in reports.items():
        column = VARIABLE_INDEX[name]
        kept, report.out_of_range = plausible(name, values[:, column], report.rasters[0].path)
        values[:, column] = kept
        known = kept[~np.isnan(kept)]
        report.missing_rate = 1 - len(known) / max(1, len(kept))
        if len(known):
            report.range = (float(known.min()), float(np.median(known)), float(known.max()))
        else:
            warnings.append(f"{name} has no value at any sample: {report.rasters[0].path} lies elsewhere")
        if report.out_of_range:
            variable = VARIABLES[column]
            warnings.append(
                f"{report.out_of_range} values of {name} were outside {variable.low:g} to {variable.high:g} "
                f"{variable.unit} and are missing"
            )
    return values.astype(np.float32), EnvironmentReport(
        samples=len(longitude),
        worldclim=version,
        resolution=_resolution(reports),
        variables=reports,
        not_sampled=[name for name in VARIABLE_NAMES[2:] if name not in reports],
        warnings=warnings,
    )


def worldclim_version(paths: Sequence[Path], stated: str = "auto") -> str:
    """The WorldClim version of bioclimatic rasters, ``1`` or ``2.1``, by what is stated and what the names say.

    Raises:
        ConfigError: The version is unknown, the names contradict it, or they contradict each other.
    """
    if stated not in ("auto", "1", "2.1"):
        raise ConfigError(f"WorldClim version {stated!r} is unknown; give 1, 2.1 or auto")
    named: dict[str, Path] = {}
    for path in paths:
        words = f"{path.parent.name}/{path.name}"
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


def plausible(name: str, values: NDArray[np.float64], where: str) -> tuple[NDArray[np.float64], int]:
    """Values of a variable with the implausible ones missing, and how many those were.

    Raises:
        DataError: So many are implausible that they are of another unit or no such variable; names the suspicion.
    """
    variable = VARIABLES[VARIABLE_INDEX[name]]
    known = values[~np.isnan(values)]
    wrong = (known < variable.low) | (known > variable.high)
    share = float(wrong.mean()) if len(known) else 0.0
    if share > REFUSED_SHARE:
        fitting = [words for words, turned in _other_units(name, known) if _fit(turned, variable.low, variable.high)]
        suspicion = "they look like " + ", or like ".join(fitting) if fitting else None
        if suspicion is None and share > WRONG_SHARE:
            suspicion = "they are of another unit, or of another variable"
        if suspicion is not None:
            raise DataError(
                f"{where}: {share:.0%} of the values of {name} are outside {variable.low:g} to {variable.high:g} "
                f"{variable.unit} (seen {known.min():g} to {known.max():g}): {suspicion}"
            )
    kept = np.where((values < variable.low) | (values > variable.high), np.nan, values)
    return kept, int(wrong.sum())


def read_occurrences(path: str | Path) -> tuple[pd.DataFrame, list[Taxon], dict[str, int]]:
    """Read a table of occurrences.

    Args:
        path: CSV with ``longitude``, ``latitude``, at least one rank column (published names or those of the schema)
            and, if there, ``sample_id`` (row numbers without), ``year``, ``country_code`` or ``location``,
            ``source``, ``Category`` or ``rarity``.

    Returns:
        The usable rows with the columns ``sample_id, longitude, latitude, year, country, source, rarity``, the taxon of
        each, and how many rows were left out by reason.

    Raises:
        DataError: The file is absent, no table, empty, lacks a column, or repeats a sample id.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of occurrences")
    try:
        # As text and without guesses at missing values: NA is the country code of Namibia.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: is empty; a table with longitude, latitude and taxa is needed") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    for column in ("longitude", "latitude"):
        if column not in frame.columns:
            raise DataError(f"{path}: lacks the column {column!r} (found: {', '.join(map(str, frame.columns))})")
    if frame.empty:
        raise DataError(f"{path}: has a header and no rows")
    taxa = taxa_of_frame(frame, str(path))
    table = pd.DataFrame(
        {
            "sample_id": frame.get("sample_id", pd.Series(frame.index.astype(str), index=frame.index)),
            "longitude": pd.to_numeric(frame["longitude"], errors="coerce"),
            "latitude": pd.to_numeric(frame["latitude"], errors="coerce"),
        }
    )
    if "year" in frame.columns:
        table["year"] = pd.to_numeric(frame["year"], errors="coerce").round().astype("Int32")
    for column, names in {
        "country": ("country_code", "country", "location"),
        "source": ("source",),
        "rarity": ("rarity", "Category"),
    }.items():
        name = next((name for name in names if name in frame.columns), None)
        if name is not None:
            table[column] = frame[name].where(frame[name] != "").astype("string")
    repeated = table["sample_id"].duplicated()
    if repeated.any():
        raise DataError(
            f"{path}: sample id {table['sample_id'][repeated].iloc[0]!r} comes twice ({int(repeated.sum())} repeats)"
        )
    lon, lat = table["longitude"], table["latitude"]
    placed = lon.notna() & lat.notna()
    possible = lon.between(-180, 180) & lat.between(-90, 90)
    named = pd.Series([taxon != Taxon() for taxon in taxa], index=table.index)
    reasons = {
        "coordinates missing or no number": int((~placed).sum()),
        "coordinates out of range": int((placed & ~possible).sum()),
        "no taxon": int((placed & possible & ~named).sum()),
    }
    keep = placed & possible & named
    if not keep.any():
        raise DataError(f"{path}: no usable row: " + ", ".join(f"{n} {why}" for why, n in reasons.items() if n))
    taxa = [taxon for taxon, kept in zip(taxa, keep, strict=True) if kept]
    return table[keep].reset_index(drop=True), taxa, {why: n for why, n in reasons.items() if n}


def pack_environment(
    occurrences: str | Path,
    directories: Sequence[str | Path],
    out: str | Path,
    *,
    named: Mapping[str, str | Path] | None = None,
    method: str = "nearest",
    worldclim: str = "auto",
    overwrite: bool = False,
) -> EnvironmentReport:
    """Sample rasters at occurrences and write packed shards without imagery, and ``environment_report.json`` beside.

    See :func:`read_occurrences`, :func:`geotreeclip.prep.rasters.find_rasters` and :func:`sample_environment` for the
    arguments and errors. Nothing is written before everything was read.
    """
    from geotreeclip.data.packed import PackedWriter

    table, taxa, refused = read_occurrences(occurrences)
    rasters = find_rasters(directories, named)
    longitude, latitude = table["longitude"].to_numpy(float), table["latitude"].to_numpy(float)
    environment, report = sample_environment(longitude, latitude, rasters, method=method, worldclim=worldclim)
    report.refused = refused
    with PackedWriter(
        Path(out),
        None,
        has_images=False,
        source=f"{Path(occurrences).name}, rasters read {method}",
        worldclim=report.worldclim,
        resolution=report.resolution,
        overwrite=overwrite,
    ) as writer:
        writer.add(None, environment, taxa, table["sample_id"].tolist(), table.drop(columns="sample_id"))
    (Path(out) / "environment_report.json").write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `data_prep/environment.py`."""
    parser = argparse.ArgumentParser(
        prog="data_prep/environment.py", description="Sample rasters at occurrences into packed shards without imagery."
    )
    parser.add_argument("--occurrences", type=Path, required=True, metavar="CSV", help="occurrences with taxa")
    parser.add_argument(
        "--rasters", type=Path, action="extend", nargs="+", default=[], metavar="DIR", help="folders of rasters"
    )
    parser.add_argument(
        "--raster", action="append", default=[], metavar="VARIABLE=FILE", help="a raster whose name says nothing"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="packed directory to write")
    parser.add_argument("--method", choices=("nearest", "bilinear"), default="nearest", help="(default %(default)s)")
    parser.add_argument(
        "--worldclim", choices=("auto", "1", "2.1"), default="auto", help="version (default: by the file names)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a finished set in the directory")
    args = parser.parse_args(argv)
    named = {}
    for item in args.raster:
        name, equals, path = item.partition("=")
        if not equals:
            raise ConfigError(f"--raster {item!r}: give VARIABLE=FILE, such as bio01=annual_mean.tif")
        named[name] = path
    report = pack_environment(
        args.occurrences,
        args.rasters,
        args.out,
        named=named,
        method=args.method,
        worldclim=args.worldclim,
        overwrite=args.overwrite,
    )
    print(report.text())
    return 0


def _expect_whole(name: str, values: NDArray[np.float64], infos: Sequence[RasterInfo]) -> None:
    """Refuse values that are no whole tenths, which version 1 has throughout."""
    known = values[~np.isnan(values)]
    if len(known) and (np.abs(known - np.round(known)) > 1e-3).mean() > REFUSED_SHARE:
        raise DataError(
            f"{infos[0].path}: WorldClim 1 stores {name} as whole tenths, but this holds values such as "
            f"{known[np.argmax(np.abs(known - np.round(known)))]:g}; it looks like version 2.1 (--worldclim 2.1)"
        )


def _warnings_of_version(climate: Sequence[Path], stated: str, version: str) -> list[str]:
    silent = not any(_VERSION_2.search(str(path)) or _VERSION_1.search(str(path)) for path in climate)
    if climate and stated == "auto" and silent:
        return [f"the raster names state no WorldClim version; {version} units assumed and checked by range"]
    return []


def _other_units(name: str, values: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """Suspicions of another unit, each with the values turned from it."""
    found = []
    if VARIABLES[VARIABLE_INDEX[name]].worldclim1_factor != 1:
        found.append(("tenths as WorldClim 1 stores them (give --worldclim 1)", values / 10))
    if name in _ABSOLUTE:
        found.append(("kelvin (convert them to degrees Celsius)", values - 273.15))
        found.append(("tenths of a kelvin (convert them to degrees Celsius)", values / 10 - 273.15))
    return found


def _fit(values: NDArray[np.float64], low: float, high: float) -> bool:
    return bool(((values < low) | (values > high)).mean() <= REFUSED_SHARE)


def _resolution(reports: Mapping[str, VariableReport]) -> str:
    """Cell sizes in words, by schema group: "climate 10 arc-minutes, terrain 20 arc-minutes"."""
    words: dict[str, list[str]] = {}
    for name, report in reports.items():
        group = VARIABLES[VARIABLE_INDEX[name]].group
        for info in report.rasters:
            size = info.resolution[0]
            text = f"{size * 60:.3g} arc-minutes" if info.degrees else f"{size:g} units of {info.crs}"
            if text not in words.setdefault(group, []):
                words[group].append(text)
    return ", ".join(f"{group} {' and '.join(sizes)}" for group, sizes in words.items())
