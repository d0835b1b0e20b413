"""Phenology: the vegetation cycle of a place, its seasons, and dates chosen by them.

cycles = fit_cycles(evi2, MONTH_MIDDLES, latitude)      # [N, 12] -> N cycles, or the reason why not
cycles = fill_missing(cycles, longitude, latitude)      # own -> neighbours -> calendar, the source recorded
season_of(days, cycles), season_weights(cycles), phase(days, cycles), pick_dates(cycles[0], days, years, cloud)
"""

from geotreeclip.prep.phenology.circular import YEAR, circular_mean, circular_median, day_of_year
from geotreeclip.prep.phenology.cycles import DATES, Cycle, Cycles, PhenologyConfig, Reason, Source
from geotreeclip.prep.phenology.dates import DateRule, Pick, SeasonDates, pick_dates
from geotreeclip.prep.phenology.fallback import calendar_dates, fill_missing
from geotreeclip.prep.phenology.fit import fit_cycle, fit_cycles
from geotreeclip.prep.phenology.index import (
    MONTH_MIDDLES,
    composite,
    evi2,
    evi2_of_patches,
    screen_spikes,
    step_middles,
)  # fmt: skip
from geotreeclip.prep.phenology.mcd12q2 import cycles_from_mcd12q2, from_mcd12q2
from geotreeclip.prep.phenology.seasons import SEASONS, phase, season_middles, season_of, season_weights, windows

__all__ = [
    "DATES", "MONTH_MIDDLES", "SEASONS", "YEAR", "Cycle", "Cycles", "DateRule", "PhenologyConfig", "Pick", "Reason",
    "SeasonDates", "Source", "calendar_dates", "circular_mean", "circular_median", "composite", "cycles_from_mcd12q2",
    "day_of_year", "evi2", "evi2_of_patches", "fill_missing", "fit_cycle", "fit_cycles", "from_mcd12q2", "phase",
    "pick_dates", "screen_spikes", "season_middles", "season_of", "season_weights", "step_middles", "windows",
]  # fmt: skip
