"""One scene for each season of a place, from its candidates. M candidate scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.prep.phenology.circular import wrap
from geotreeclip.prep.phenology.cycles import Cycle
from geotreeclip.prep.phenology.seasons import SEASONS, season_of, windows

__all__ = ["DateRule", "Pick", "SeasonDates", "pick_dates"]


@dataclass(frozen=True)
class DateRule:
    """How scenes are chosen: the least ``cloud / max_cloud + weight |day - middle| / (window / 2)`` wins.

    SSL4Eco (arXiv 2504.18256) states two rules: the least cloud (its appendix A-1: weight 0), and closest to the middle
    of the season (A-3: weight infinite, cloud deciding between equals).

    Attributes:
        weight: Of the distance from the middle of the season.
        max_cloud: Scenes with as much cloud, per cent, or more are no candidates.
        same_year: Take all scenes from one calendar year: that with the most seasons, then the least total score, then
            the latest.
        min_seasons: A place with fewer is rejected.
    """

    weight: float = 0.5
    max_cloud: float = 20.0
    same_year: bool = False
    min_seasons: int = 2

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"weight is {self.weight}; give 0 or more, inf for the middle alone")
        if not 0 < self.max_cloud <= 100:
            raise ConfigError(f"max_cloud is {self.max_cloud}; give a percentage above 0")
        if not 1 <= self.min_seasons <= len(SEASONS):
            raise ConfigError(f"min_seasons is {self.min_seasons}; give 1 to {len(SEASONS)}")


@dataclass(frozen=True, slots=True)
class Pick:
    """The scene of a season, or why there is none.

    Attributes:
        season: 0 spring to 3 winter.
        index: Of the candidate, or None.
        day: Its day of the year.
        year: Its year.
        cloud: Its cloud cover, per cent.
        reason: Why there is none, "" where there is one.
    """

    season: int
    index: int | None
    day: float = math.nan
    year: int | None = None
    cloud: float = math.nan
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SeasonDates:
    """The four picks of a place; `reason` says why the place is rejected, "" where it is not."""

    picks: tuple[Pick, Pick, Pick, Pick]
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether enough seasons have a scene."""
        return not self.reason


def pick_dates(
    cycle: Cycle, days: ArrayLike, years: ArrayLike, cloud: ArrayLike, rule: DateRule | None = None
) -> SeasonDates:
    """Choose a scene for each season.

    Of equal scores the one nearer the middle of the season wins, then the latest year, then the first given.

    Args:
        cycle: Of the place.
        days: [M], day of the year of each candidate.
        years: [M], its year.
        cloud: [M], its cloud cover in per cent; NaN is unknown and no candidate.
        rule: How to choose.

    Raises:
        InputError: The candidates are not three columns of one length.
    """
    rule = rule or DateRule()
    day, clouds = np.asarray(days, dtype=np.float64), np.asarray(cloud, dtype=np.float64)
    year = np.asarray(years, dtype=np.int64)
    if not day.shape == year.shape == clouds.shape or day.ndim != 1:
        raise InputError(
            f"candidates have days {day.shape}, years {year.shape}, cloud {clouds.shape}; give [M] of each"
        )
    if math.isnan(cycle.greenup):
        empty = tuple(Pick(season, None, reason="no cycle") for season in range(4))
        return SeasonDates((empty[0], empty[1], empty[2], empty[3]), "the place has no cycle, so no seasons")
    start, length = (each[0] for each in windows(cycle))
    season = season_of(day, cycle)[0]
    near = np.abs(wrap(day - (start + length / 2)[season])) / (length[season] / 2)
    dirt = clouds / rule.max_cloud
    clear = clouds < rule.max_cloud  # False for NaN
    score = near if math.isinf(rule.weight) else dirt + rule.weight * near
    order = np.lexsort((np.arange(len(day)), -year, near, dirt if math.isinf(rule.weight) else score, score))

    def choose(allowed: NDArray[np.bool_]) -> list[Pick]:
        picks = []
        for number, name in enumerate(SEASONS):
            fit = order[(clear & allowed & (season == number))[order]]
            if len(fit):
                best = int(fit[0])
                picks.append(Pick(number, best, float(day[best]), int(year[best]), float(clouds[best])))
                continue
            inside = int((season == number).sum())
            why = f"no scene in {name}" if not inside else f"none of {inside} scenes in {name} is clear enough"
            if inside and (clear & (season == number)).any():
                why = f"no clear scene in {name} of that year"
            picks.append(Pick(number, None, reason=why))
        return picks

    chosen = choose(np.ones(len(day), dtype=bool))
    if rule.same_year and len(day):
        options = [choose(year == one) for one in np.unique(year)[::-1]]  # the latest first: it wins ties
        chosen = min(
            options, key=lambda picks: (-_found(picks), sum(score[p.index] for p in picks if p.index is not None))
        )
    found = _found(chosen)
    few = f"{found} of 4 seasons have a scene, at least {rule.min_seasons} are needed"
    return SeasonDates((chosen[0], chosen[1], chosen[2], chosen[3]), few if found < rule.min_seasons else "")


def _found(picks: list[Pick]) -> int:
    return sum(pick.index is not None for pick in picks)
