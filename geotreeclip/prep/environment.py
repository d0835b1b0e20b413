"""The 27 variables of a set of places, read off rasters in the units of the schema.

N samples, V the 27 variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.prep.environment_units import (
    expect_whole,
    out_of_range,
    plausible,
    states_version,
    worldclim_version,
)
from geotreeclip.prep.mosaic import RasterInfo, sample_rasters
from geotreeclip.prep.raster_files import name_of
from geotreeclip.prep.rasters import Floats
from geotreeclip.prep.terrain import COARSEST_METRES, TERRAIN, TerrainReport, cell_sizes, slope_and_aspect
from geotreeclip.schema import VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES

__all__ = ["Environment", "EnvironmentReport", "Options", "VariableReport", "sample_environment"]

Rasters = Mapping[str, Sequence[str | Path]]


@dataclass(frozen=True, slots=True)
class Options:
    """How rasters are read.

    Attributes:
        method: ``nearest`` or ``bilinear``. Aspect is an angle and always that of the nearest cell.
        worldclim: Version of the bioclimatic rasters, ``1``, ``2.1``, or ``auto`` for what the file names say, and 2.1
            where they say nothing.
        coast_km: A point without a value takes the nearest cell that has one, if an edge of it lies within this
            distance; 0 leaves it missing. Not for slope and aspect: those are of the point itself.
        terrain: Slope and aspect without a raster of their own are computed from the elevation model: ``auto`` where
            its cells are at most 500 m, ``compute`` refuses a coarser one, ``force`` takes it, ``off`` leaves them out.
        elevation_model: Name of the elevation model for the report; "" for what the file names say.
    """

    method: str = "nearest"
    worldclim: str = "auto"
    coast_km: float = 0.0
    terrain: str = "auto"
    elevation_model: str = ""


@dataclass(slots=True)
class VariableReport:
    """What became of one variable.

    Attributes:
        rasters: The files it was read from.
        method: How cells were read.
        missing_rate: Share of samples without a value.
        out_of_range: Samples whose value was implausible and is missing now.
        range: Smallest, median and largest value kept, or None where there is none.
        coast: Samples that took the nearest cell with a value instead of their own.
    """

    rasters: list[RasterInfo]
    method: str
    missing_rate: float = 0.0
    out_of_range: int = 0
    range: tuple[float, float, float] | None = None
    coast: int = 0

    def describe(self, name: str, kept: NDArray[Any]) -> None:
        """Takes missing rate and range from the values kept, [N]."""
        known = kept[~np.isnan(kept)]
        self.missing_rate = 1 - len(known) / max(1, len(kept))
        if len(known):
            self.range = (float(known.min()), float(np.median(known)), float(known.max()))


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
    coast_km: float = 0.0
    terrain: TerrainReport | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as an object of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """A report from its object of JSON."""
        values = dict(document)
        values["variables"] = {
            name: VariableReport(**{**entry, "rasters": [_info(info) for info in entry["rasters"]]})
            for name, entry in values["variables"].items()
        }
        if values["terrain"] is not None:
            values["terrain"] = TerrainReport(**values["terrain"])
        return cls(**values)

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.samples:,} samples; WorldClim {self.worldclim}; {self.resolution}"]
        if self.terrain is not None:
            lines.append(
                f"slope and aspect from {self.terrain.model}, cells of {self.terrain.cell_metres} m: "
                f"{self.terrain.method}"
            )
        lines += [f"refused {count}: {reason}" for reason, count in self.refused.items()]
        lines.append(
            f"{'variable':<24}{'missing':>9}{'refused':>9}{'coast':>8}{'min':>11}{'median':>11}{'max':>11}  raster"
        )
        for name, report in self.variables.items():
            values = "".join(f"{value:>11.1f}" for value in report.range) if report.range else f"{'-':>33}"
            files = [name_of(info.path) for info in report.rasters]
            shown = ", ".join(files) if len(files) < 4 else f"{files[0]} and {len(files) - 1} more"
            lines.append(
                f"{name:<24}{report.missing_rate:>8.2%} {report.out_of_range:>8}{report.coast:>8}{values}  {shown}"
            )
        if self.not_sampled:
            lines.append(f"no raster, missing throughout: {', '.join(self.not_sampled)}")
        if self.coast_km:
            lines.append(f"coast: points without a value took the nearest cell with one within {self.coast_km:g} km")
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


class Environment(NamedTuple):
    """Values of places.

    Attributes:
        values: float64 [N, 27] in schema order, NaN where missing.
        coast_km: Largest distance over the variables to a cell taken instead of the point's own, 0 where none was, [N].
        report: What was read.
    """

    values: Floats
    coast_km: Floats
    report: EnvironmentReport


def sample_environment(
    longitude: NDArray[Any],
    latitude: NDArray[Any],
    rasters: Rasters,
    options: Options | None = None,
    *,
    strict: bool = True,
) -> Environment:
    """Read the variables of a set of places off rasters.

    Values come in the units of the schema: scale and offset of a file applied, WorldClim 1 converted. Implausible
    values become missing and are counted; where they are many and a wrong unit explains them, the raster is refused.

    Args:
        longitude: Degrees, WGS 84, [N].
        latitude: Degrees, [N].
        rasters: Files of each variable, as :func:`geotreeclip.prep.raster_files.find_rasters` returns them.
        options: How to read them.
        strict: Whether units are judged by the values; False for a part of a set that was judged as a whole.

    Raises:
        DataError: A raster cannot be read, or its values are of another unit or variable.
        ConfigError: Version and file names contradict each other, an option is unknown, or the elevation model is too
            coarse for the slope that was asked for.
    """
    options = options or Options()
    if options.terrain not in TERRAIN:
        raise ConfigError(f"terrain {options.terrain!r} is unknown; give one of {', '.join(TERRAIN)}")
    climate = [str(path) for name, paths in rasters.items() if name.startswith("bio") for path in paths]
    version = worldclim_version(climate, options.worldclim)
    lon, lat = np.asarray(longitude, float), np.asarray(latitude, float)
    values = np.full((len(lon), len(VARIABLES)), np.nan)
    values[:, VARIABLE_INDEX["longitude"]], values[:, VARIABLE_INDEX["latitude"]] = lon, lat
    coast = np.zeros(len(lon))
    reports: dict[str, VariableReport] = {}
    for name, paths in rasters.items():
        column = VARIABLE_INDEX[name]
        how = "nearest" if name == "aspect" else options.method
        own_place = name in ("slope", "aspect")
        found = sample_rasters(paths, lon, lat, how, 0.0 if own_place else options.coast_km)
        reports[name] = VariableReport(found.infos, how, coast=int((found.coast_km > 0).sum()))
        coast = np.maximum(coast, found.coast_km)
        read = found.values
        factor = VARIABLES[column].worldclim1_factor
        if version == "1" and factor != 1 and not any(info.scaled for info in found.infos):
            if strict and how == "nearest":
                expect_whole(name, read, found.infos[0].path)
            read = read / factor
        values[:, column] = read
    warnings = _warnings_of_version(climate, options.worldclim, version)
    terrain = _add_terrain(values, rasters, options, reports, warnings)
    for name, report in reports.items():
        column, where = VARIABLE_INDEX[name], report.rasters[0].path
        kept, report.out_of_range = (
            plausible(name, values[:, column], where) if strict else out_of_range(name, values[:, column])
        )
        values[:, column] = kept
        report.describe(name, kept)
    result = EnvironmentReport(
        samples=len(lon),
        worldclim=version,
        resolution=_resolution(reports),
        variables={name: reports[name] for name in VARIABLE_NAMES if name in reports},
        not_sampled=[name for name in VARIABLE_NAMES[2:] if name not in reports],
        warnings=warnings,
        coast_km=options.coast_km,
        terrain=terrain,
    )
    result.warnings += warnings_of_values(result)
    return Environment(values, coast, result)


def warnings_of_values(report: EnvironmentReport) -> list[str]:
    """What the counts of a report give reason to say."""
    found = []
    for name, entry in report.variables.items():
        variable = VARIABLES[VARIABLE_INDEX[name]]
        if entry.range is None and report.samples:
            found.append(f"{name} has no value at any sample: {entry.rasters[0].path} lies elsewhere")
        if entry.out_of_range:
            found.append(
                f"{entry.out_of_range} values of {name} were outside {variable.low:g} to {variable.high:g} "
                f"{variable.unit} and are missing"
            )
    return found


def _add_terrain(
    values: Floats, rasters: Rasters, options: Options, reports: dict[str, VariableReport], warnings: list[str]
) -> TerrainReport | None:
    """Computes slope and aspect where they are wanted and no raster gave them."""
    wanted = [name for name in ("slope", "aspect") if name not in rasters]
    if options.terrain == "off" or not wanted:
        return None
    paths = rasters.get("elevation", ())
    if not paths:
        if options.terrain != "auto":
            raise ConfigError(f"--terrain {options.terrain} needs an elevation model; give one, such as --rasters dem/")
        return None
    lon, lat = values[:, VARIABLE_INDEX["longitude"]], values[:, VARIABLE_INDEX["latitude"]]
    if options.terrain == "auto":
        sizes = cell_sizes(paths, lon, lat)
        typical = float(np.nanmedian(sizes)) if np.isfinite(sizes).any() else np.nan
        if not typical <= COARSEST_METRES:
            if np.isfinite(typical):
                warnings.append(
                    f"slope and aspect are missing: the cells of {paths[0]} ({typical:,.0f} m) are too coarse for them "
                    f"(at most {COARSEST_METRES:g} m); give a finer elevation model, or --terrain force"
                )
            return None
    slope, aspect, report = slope_and_aspect(
        paths, lon, lat, model=options.elevation_model, force=options.terrain == "force"
    )
    for name, read in (("slope", slope), ("aspect", aspect)):
        if name in wanted:
            values[:, VARIABLE_INDEX[name]] = read
            reports[name] = VariableReport(reports["elevation"].rasters, "computed")
    return report


def _warnings_of_version(climate: Sequence[str], stated: str, version: str) -> list[str]:
    if climate and stated == "auto" and not states_version(climate):
        return [f"the raster names state no WorldClim version; {version} units assumed and checked by range"]
    return []


def _resolution(reports: Mapping[str, VariableReport]) -> str:
    """Cell sizes in words, by schema group: "climate 10 arc-minutes, terrain 20 arc-minutes"."""
    words: dict[str, list[str]] = {}
    for name, report in reports.items():
        group = VARIABLES[VARIABLE_INDEX[name]].group
        for info in report.rasters:
            size = info.resolution[0]
            text = _arc(size) if info.degrees else f"{size:g} units of {info.crs}"
            if text not in words.setdefault(group, []):
                words[group].append(text)
    return ", ".join(f"{group} {' and '.join(sizes)}" for group, sizes in words.items())


def _arc(degrees: float) -> str:
    return f"{degrees * 60:.3g} arc-minutes" if degrees * 60 >= 1 else f"{degrees * 3600:.3g} arc-seconds"


def _info(entry: Mapping[str, Any]) -> RasterInfo:
    values = dict(entry)
    values["resolution"] = tuple(values["resolution"])
    return RasterInfo(**values)
