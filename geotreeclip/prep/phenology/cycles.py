"""The vegetation cycle of places: four dates, how strong and how certain it is, and where it comes from.

Greenup is the first crossing of 15 % of the rise, maturity the first of 90 %, senescence the last crossing of 90 % of
the fall, dormancy the last of 15 %, as MODIS MCD12Q2 defines them. N places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.prep.phenology.circular import YEAR

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATES", "Cycle", "Cycles", "PhenologyConfig", "Reason", "Source", "ordered"]

DATES = ("greenup", "maturity", "peak", "senescence", "dormancy")
"""Dates of a cycle in their order."""


class Source(IntEnum):
    """Where a cycle comes from."""

    NONE = 0
    OBSERVED = 1
    PRODUCT = 2
    NEIGHBOR = 3
    CALENDAR = 4
    ASEASONAL = 5
    """Calendar bounds within 10 degrees of the equator: season losses should leave the place out."""
    INVALID = 6


class Reason(IntEnum):
    """Why a place has no cycle of its own."""

    NONE = 0
    TOO_FEW = 1
    """Fewer valid observations than `min_valid`."""
    GAP = 2
    """A gap longer than `max_gap_days`."""
    NO_CYCLE = 3
    """No peak of enough prominence: evergreen, bare, or water."""
    ORDER = 4
    """The dates are not in the order of a cycle."""
    NO_DIRECTION = 5
    """Years or neighbours disagree about a date."""
    NO_PRODUCT = 6
    """The product has no cycle here."""


@dataclass(frozen=True)
class PhenologyConfig:
    """Options of the fit.

    Attributes:
        thresholds: Shares of the amplitude at greenup and dormancy, and at maturity and senescence.
        min_amplitude: Least prominence of a peak, EVI2.
        rel_amplitude: Least prominence as a share of the year's range.
        min_valid: Least number of observations.
        max_gap_days: Longest time of the year without one.
        smoother: ``pchip`` through the observations, or ``binomial``: gaps filled linearly, then weights 1/4, 1/2, 1/4;
            better where noise is strong (0.04), worse where it is not.
        max_neighbor_km: How far a cycle may be taken from.
        neighbors: How many neighbours are averaged.
        winter_fill: Fill missing polar winters with the 5th percentile of the valid values.
        screen: Leave out single bright spikes (clouds that were missed); off by default, since it can remove a harvest.
    """

    thresholds: tuple[float, float] = (0.15, 0.90)
    min_amplitude: float = 0.10
    rel_amplitude: float = 0.35
    min_valid: int = 6
    max_gap_days: float = 125.0
    smoother: str = "pchip"
    max_neighbor_km: float = 250.0
    neighbors: int = 5
    winter_fill: bool = True
    screen: bool = False

    def __post_init__(self) -> None:
        low, high = self.thresholds
        if not 0 < low < high < 1:
            raise ConfigError(f"thresholds are {self.thresholds}; give two shares, 0 < low < high < 1")
        if self.smoother not in ("pchip", "binomial"):
            raise ConfigError(f"smoother {self.smoother!r} is unknown; give pchip or binomial")
        if self.min_valid < 3:
            raise ConfigError(f"min_valid is {self.min_valid}; a cycle needs at least 3 observations")
        for name in ("min_amplitude", "rel_amplitude", "max_gap_days", "max_neighbor_km"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or a positive number")
        if self.neighbors < 1:
            raise ConfigError(f"neighbors is {self.neighbors}; give 1 or more")


@dataclass(frozen=True, slots=True)
class Cycle:
    """The cycle of one place; see :class:`Cycles` for the fields."""

    greenup: float
    maturity: float
    peak: float
    senescence: float
    dormancy: float
    amplitude: float
    n_cycles: int
    quality: float
    source: Source
    reason: Reason = Reason.NONE
    spread: float = float("nan")
    filled: int = 0
    distance_km: float = float("nan")


@dataclass(frozen=True, slots=True)
class Cycles:
    """The cycles of N places.

    Attributes:
        dates: float64 [N, 5], day of `DATES`, in [0, 365); NaN where there is no cycle.
        amplitude: float64 [N], EVI2 at the peak above the lower of the valleys beside it; NaN where unknown.
        n_cycles: int16 [N], peaks of enough prominence in a year.
        quality: float64 [N], 0 to 1: share of the year near an observation x amplitude / (amplitude + 0.1).
        source: int8 [N], :class:`Source`.
        reason: int8 [N], :class:`Reason`, why there is no cycle of its own.
        spread: float64 [N], largest median absolute deviation of a date over years, days; NaN where one year was seen.
        filled: int16 [N], steps filled as polar winter.
        distance_km: float64 [N], to the nearest neighbour that a cycle was taken from; NaN where it is the place's own.
        second: float64 [N, 5], dates of the second strongest cycle, NaN where there is none.
    """

    dates: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    n_cycles: NDArray[np.int16]
    quality: NDArray[np.float64]
    source: NDArray[np.int8]
    reason: NDArray[np.int8]
    spread: NDArray[np.float64]
    filled: NDArray[np.int16]
    distance_km: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def empty(cls, number: int, reason: Reason = Reason.NONE) -> Cycles:
        """Places without a cycle."""
        nan = np.full(number, np.nan)
        return cls(
            dates=np.full((number, len(DATES)), np.nan),
            amplitude=nan.copy(),
            n_cycles=np.zeros(number, np.int16),
            quality=np.zeros(number),
            source=np.full(number, Source.NONE, np.int8),
            reason=np.full(number, reason, np.int8),
            spread=nan.copy(),
            filled=np.zeros(number, np.int16),
            distance_km=nan.copy(),
            second=np.full((number, len(DATES)), np.nan),
        )

    @classmethod
    def of(cls, cycles: Cycle | Cycles | Sequence[Cycle]) -> Cycles:
        """One cycle, or several, as a table."""
        if isinstance(cycles, Cycles):
            return cycles
        several = [cycles] if isinstance(cycles, Cycle) else list(cycles)
        table = cls.empty(len(several))
        for row, cycle in enumerate(several):
            table.dates[row] = [getattr(cycle, name) for name in DATES]
            for name in _SCALARS:
                getattr(table, name)[row] = getattr(cycle, name)
        return table

    @classmethod
    def joined(cls, parts: Sequence[Cycles]) -> Cycles:
        """Tables one after the other."""
        return cls(**{each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)})

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Cycle:
        scalars: dict[str, Any] = {name: getattr(self, name)[row].item() for name in _SCALARS}
        scalars |= {"source": Source(scalars["source"]), "reason": Reason(scalars["reason"])}
        return Cycle(**dict(zip(DATES, self.dates[row].tolist(), strict=True)), **scalars)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Places with dates, [N]."""
        return np.asarray(~np.isnan(self.dates).any(axis=1), dtype=np.bool_)

    def copy(self) -> Cycles:
        """A table of its own arrays."""
        return replace(self, **{each.name: getattr(self, each.name).copy() for each in fields(self)})

    def frame(self) -> pd.DataFrame:
        """The table for Parquet: dates as float32 days, source and reason in words."""
        import pandas as pd

        columns: dict[str, Any] = {name: self.dates[:, i].astype(np.float32) for i, name in enumerate(DATES)}
        for name in ("amplitude", "quality", "spread", "distance_km"):
            columns[name] = getattr(self, name).astype(np.float32)
        columns |= {"n_cycles": self.n_cycles, "filled": self.filled}
        for name, kind in (("source", Source), ("reason", Reason)):
            words = {each.value: "" if each.name == "NONE" else each.name.lower() for each in kind}
            columns[name] = [words[int(value)] for value in getattr(self, name)]
        for i, name in enumerate(DATES):
            columns[f"second_{name}"] = self.second[:, i].astype(np.float32)
        return pd.DataFrame(columns)


_SCALARS = ("amplitude", "n_cycles", "quality", "source", "reason", "spread", "filled", "distance_km")


def ordered(dates: ArrayLike) -> NDArray[np.bool_]:
    """Whether dates [N, 5] are in order: greenup < maturity <= peak <= senescence < dormancy < next greenup; [N]."""
    days = np.asarray(dates, dtype=np.float64)
    if days.ndim != 2 or days.shape[1] != len(DATES):
        raise InputError(f"dates of cycles have shape {days.shape}; give [N, 5]: {', '.join(DATES)}")
    after = (days - days[:, :1]) % YEAR
    maturity, peak, senescence, dormancy = after[:, 1:].T
    return np.asarray((maturity > 0) & (maturity <= peak) & (peak <= senescence) & (senescence < dormancy))
