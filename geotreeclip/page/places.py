"""The places that the page shows: samples of a packed set, the nearest to a point, and what was observed there.

Shapes: n places shown, T steps, C bands, H W pixels, V variables (27).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import DataError, InputError
from geotreeclip.observations import ObservationBatch, from_packed
from geotreeclip.prep.phenology import curve
from geotreeclip.prep.phenology.cycles import DATES, Reason
from geotreeclip.prep.phenology.fit import MOST_STEPS, fill_winter, fit_cycle
from geotreeclip.prep.phenology.index import MONTH_MIDDLES, composite, evi2_of_patches, step_middles
from geotreeclip.schema import BANDS, GROUPS, MISSING_DN, MONTHS, REFLECTANCE_SCALE, VARIABLE_INDEX, VARIABLES
from geotreeclip.sphere import chord_to_km, unit_vectors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DIALS", "MONTH_NAMES", "Places", "number"]

MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Dial(NamedTuple):
    """How the page shows a variable: `factor` turns the stored unit into `unit`."""

    title: str
    unit: str
    digits: int
    factor: float = 1.0


DIALS: dict[str, Dial] = {
    "elevation": Dial("Elevation", "m", 0),
    "slope": Dial("Slope", "°", 1),
    "soil_moisture_0_5cm": Dial("Soil water, 0 to 5 cm", "vol. %", 1, 0.1),
    "bio01": Dial("Annual mean temperature", "°C", 1),
    "bio05": Dial("Warmest month, maximum", "°C", 1),
    "bio06": Dial("Coldest month, minimum", "°C", 1),
    "bio12": Dial("Annual precipitation", "mm", 0),
    "bio15": Dial("Precipitation seasonality", "%", 0),
}
"""Variables that the page shows."""

_CELL = 0.5  # degrees; the map shows which cells hold places
_SAMPLED = 4096  # places that the ranges of variables are taken from, at most
_LOW, _HIGH = 0.01, 0.99
_CURVE = np.arange(0.0, 365.0, 5.0)
_WHY = {
    Reason.TOO_FEW: "too few clear months",
    Reason.GAP: "too long a gap between clear months",
    Reason.NO_CYCLE: "no clear rise and fall in the year",
    Reason.ORDER: "its dates are not in the order of a cycle",
}


class Places:
    """Samples of a packed set that have coordinates; the test samples, where a split says which these are.

    Args:
        directory: A packed set.
        split: Split whose test samples (fold 0) are shown, so that a model is asked about what it has not learnt; all
            samples where the set has no such split.

    Raises:
        DataError: If it is no packed set, or none of its samples has coordinates.
    """

    def __init__(self, directory: str | Path, split: str = "default") -> None:
        self.data = PackedDataset(directory)
        self.directory = Path(directory)
        held_out = (self.directory / "splits" / f"{split}.parquet").is_file()
        rows = self.data.split(split, 0, "test") if held_out else np.arange(len(self.data))
        self.role = "test" if held_out and len(rows) else "all"
        rows = rows if len(rows) else np.arange(len(self.data))
        table = self.data.samples()
        longitude, latitude = (_numbers(table, name)[rows] for name in ("longitude", "latitude"))
        located = np.isfinite(longitude) & np.isfinite(latitude)
        if not located.any():
            raise DataError(f"{directory}: no sample has coordinates, so there is no map to show; pack a set with them")
        self.rows = rows[located]
        self.longitude, self.latitude = longitude[located], latitude[located]
        self._unit = unit_vectors(self.longitude, self.latitude)
        some = self.rows[:: max(1, math.ceil(len(self.rows) / _SAMPLED))]
        values = self.data.read(some).environment.astype(np.float64)
        self._spread = {name: _ends(values[:, VARIABLE_INDEX[name]]) for name in DIALS}

    def __len__(self) -> int:
        return len(self.rows)

    # -- the map and the place ------------------------------------------------------------------------------------

    def cells(self) -> list[list[float]]:
        """Centre and number of places of each cell of the map that holds any: [longitude, latitude, places]."""
        grid = np.stack([np.floor(self.longitude / _CELL), np.floor(self.latitude / _CELL)], axis=1)
        found, counts = np.unique(grid, axis=0, return_counts=True)
        centres = (found + 0.5) * _CELL
        return [[float(x), float(y), int(count)] for (x, y), count in zip(centres, counts, strict=True)]

    def nearest(self, longitude: float, latitude: float) -> tuple[int, float]:
        """Row of the nearest place in the set, and its great-circle distance in kilometres.

        Raises:
            InputError: If the point is not on Earth.
        """
        for name, value, limit in (("longitude", longitude, 180), ("latitude", latitude, 90)):
            if not -limit <= value <= limit:  # also false for NaN
                raise InputError(f"{name} is {value:g}; give degrees from {-limit} to {limit}")
        point = unit_vectors(np.array([longitude]), np.array([latitude]))[0]
        position = int(np.argmax(self._unit @ point))
        # The chord keeps its precision where the cosine does not: close by.
        chord = float(np.linalg.norm(self._unit[position] - point))
        return int(self.rows[position]), float(chord_to_km(chord))

    def check(self, row: int) -> int:
        """The row again.

        Raises:
            InputError: If it is none of the places shown.
        """
        position = int(np.searchsorted(self.rows, row))
        if position == len(self.rows) or self.rows[position] != row:
            raise InputError(f"place {row} is none of the {len(self.rows)} places shown")
        return row

    def describe(self, row: int) -> dict[str, Any]:
        """What was observed at a place, as JSON has it: series, fitted cycle, environment."""
        batch = self.data.read([self.check(row)])
        environment = batch.environment[0].astype(np.float64)
        position = int(np.searchsorted(self.rows, row))
        longitude, latitude = float(self.longitude[position]), float(self.latitude[position])
        images = None
        if self.data.has_images:
            middles = MONTH_MIDDLES if batch.days is None else step_middles(batch.days[0])
            images = _series(batch.images[0], middles, latitude)
        return {
            "row": row,
            "sample_id": self.data.sample_ids([row])[0],
            "longitude": number(longitude, 5),
            "latitude": number(latitude, 5),
            "images": images,
            "environment": [self._dial(name, environment) for name in DIALS],
            "known": {group: bool(np.isfinite(environment[list(columns)]).any()) for group, columns in GROUPS.items()},
        }

    def truth(self, row: int) -> dict[str, str]:
        """What the record says grows at a place."""
        taxon = self.data.taxonomy[int(self.data.taxa[self.check(row)])]
        return {**taxon._asdict(), "label": taxon.name(taxon.rank), "role": self.role}

    def observe(self, row: int, inputs: Iterable[str], hidden: Sequence[int] = ()) -> ObservationBatch:
        """A place with some of its inputs hidden, by the masks that models know from training.

        Args:
            row: The place.
            inputs: What is left visible, of "image", "terrain", "soil", "climate" and "location".
            hidden: Steps of the series that are hidden, counted from 0.

        Raises:
            InputError: If there is no such step.
        """
        wrong = [step for step in hidden if not 0 <= step < self.data.steps]
        if wrong:
            raise InputError(f"step {wrong[0]} cannot be hidden; the series has {self.data.steps} steps, from 0")
        batch = from_packed(self.data.read([self.check(row)]))
        shown = set(inputs)
        image_valid, environment_valid = batch.image_valid.clone(), batch.environment_valid.clone()
        image_valid[:, list(hidden)] = False
        if "image" not in shown:
            image_valid[:] = False
        for group, columns in GROUPS.items():
            if group not in shown:
                environment_valid[:, list(columns)] = False
        return batch._replace(
            images=torch.where(image_valid, batch.images, 0.0),
            image_valid=image_valid,
            environment=torch.where(environment_valid, batch.environment, 0.0),
            environment_valid=environment_valid,
        )

    def example(self, count: int = 12) -> str:
        """A CSV of some places spread over the set, as the page takes it."""
        rows = self.rows[np.linspace(0, len(self.rows) - 1, min(count, len(self.rows))).astype(np.int64)]
        values = self.data.read(rows).environment
        lines = [",".join(["id", *(variable.name for variable in VARIABLES)])]
        for name, row in zip(self.data.sample_ids(rows), values, strict=True):
            quoted = name.replace('"', '""')
            lines.append(",".join([f'"{quoted}"', *("" if math.isnan(value) else f"{value:.6g}" for value in row)]))
        return "\n".join(lines) + "\n"

    def _dial(self, name: str, environment: npt.NDArray[np.float64]) -> dict[str, Any]:
        dial, index = DIALS[name], VARIABLE_INDEX[name]
        ends = dict(zip(("value", "low", "high"), (environment[index], *self._spread[name]), strict=True))
        shown = {key: number(value * dial.factor, dial.digits) for key, value in ends.items()}
        return {"name": name, "title": dial.title, "group": VARIABLES[index].group, "unit": dial.unit, **shown}


def number(value: float, digits: int = 4) -> float | None:
    """A number as JSON can hold it; None for NaN and infinities."""
    return round(float(value), digits) if math.isfinite(value) else None


def _series(images: npt.NDArray[np.uint16], middles: npt.NDArray[np.float64], latitude: float) -> dict[str, Any]:
    """Medians over the valid pixels of every step, and the cycle fitted to EVI2, of one place [T, C, H, W]."""
    steps = len(images)
    values = np.where(images == MISSING_DN, np.nan, images.astype(np.float64)) / REFLECTANCE_SCALE
    flat = values.reshape(steps, len(BANDS), -1)
    red, nir = (flat[:, BANDS.index(name)] for name in ("B4", "B8"))
    with np.errstate(invalid="ignore", divide="ignore"):
        ndvi = np.where(nir + red > 0, (nir - red) / (nir + red), np.nan)
    evi2 = evi2_of_patches(*(images[None, :, BANDS.index(name)] for name in ("B4", "B8")))[0][0]
    names = MONTH_NAMES if steps == MONTHS and np.array_equal(middles, MONTH_MIDDLES) else None
    return {
        "steps": [names[step] if names else f"day {middles[step]:.0f}" for step in range(steps)],
        "days": [number(day, 1) for day in middles],
        "valid": [number(share, 3) for share in np.isfinite(flat).mean(axis=(1, 2))],
        "index": {"NDVI": [_median(row) for row in ndvi], "EVI2": [number(value) for value in evi2]},
        "bands": {band: [_median(row) for row in flat[:, place]] for place, band in enumerate(BANDS)},
        "cycle": _cycle(evi2, middles, latitude),
    }


def _cycle(evi2: npt.NDArray[np.float64], middles: npt.NDArray[np.float64], latitude: float) -> dict[str, Any]:
    """Dates and curve of the vegetation cycle, or why there is none."""
    if len(evi2) > MOST_STEPS or len(np.unique(middles)) < len(middles):  # as `fit_cycle` does it
        evi2, middles = composite(evi2, middles)
    cycle = fit_cycle(evi2, middles, latitude)
    dates = {name: number(getattr(cycle, name), 1) for name in DATES}
    if None in dates.values():
        return {"found": False, "why": _WHY.get(cycle.reason, "no cycle was fitted")}
    filled, _ = fill_winter(evi2[None], middles[None], np.array([latitude]))
    order = np.argsort(middles)
    seen = order[np.isfinite(filled[0, order])]
    return {
        "found": True,
        "dates": dates,
        "amplitude": number(cycle.amplitude, 3),
        "cycles": cycle.n_cycles,
        "curve": [
            [float(day), number(value)]
            for day, value in zip(
                _CURVE, curve.evaluate(middles[None, seen], filled[:, seen], _CURVE)[0], strict=True
            )
        ],
    }  # fmt: skip


def _median(values: npt.NDArray[np.float64]) -> float | None:
    seen = values[np.isfinite(values)]
    return number(float(np.median(seen))) if len(seen) else None


def _ends(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """1st and 99th percentile of what is known: where a value lies among the places shown."""
    seen = values[np.isfinite(values)]
    if not len(seen):
        return math.nan, math.nan
    low, high = np.quantile(seen, (_LOW, _HIGH))
    return float(low), float(high)


def _numbers(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    if name not in table:
        return np.full(len(table), np.nan)
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)
