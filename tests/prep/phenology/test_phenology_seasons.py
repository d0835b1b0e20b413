"""Seasons fill the year, weights sum to one, dates are chosen by the stated rules, and every source is recorded."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.prep.phenology import (
    MONTH_MIDDLES,
    Cycle,
    Cycles,
    DateRule,
    PhenologyConfig,
    Reason,
    Source,
    calendar_dates,
    cycles_from_mcd12q2,
    fill_missing,
    from_mcd12q2,
    phase,
    pick_dates,
    season_middles,
    season_of,
    season_weights,
    windows,
)
from geotreeclip.prep.phenology.circular import wrap
from geotreeclip.schema import MONTH_DAYS


def cycle(greenup: float, *after: float, source: Source = Source.OBSERVED) -> Cycle:
    """A cycle from its greenup and the days after it of maturity, peak, senescence and dormancy."""
    dates = [(greenup + days) % 365 for days in (0, *after)]
    return Cycle(*dates, amplitude=0.4, n_cycles=1, quality=1.0, source=source)


NORTH = cycle(100, 50, 100, 120, 200)  # maturity 150, senescence 220, dormancy 300: New Year lies in winter
SOUTH = cycle(280, 50, 100, 120, 200)
starts = st.floats(0, 364.99)
lengths = st.lists(st.floats(0.01, 100), min_size=4, max_size=4)


def cycles_of(start: float, parts: list[float]) -> Cycle:
    share = np.cumsum(parts[:3]) / sum(parts) * 365
    return cycle(start, share[0], (share[0] + share[1]) / 2, share[1], share[2])


@settings(max_examples=60, deadline=None)
@given(starts, lengths)
def test_windows_fill_the_year_and_none_is_shorter_than_ten_days(start: float, parts: list[float]) -> None:
    place = cycles_of(start, parts)
    begin, length = windows(place)
    assert length.sum() == pytest.approx(365)
    assert length.min() >= 10 - 1e-9
    np.testing.assert_allclose(np.abs(wrap(begin + length - np.roll(begin, -1, axis=1))), 0, atol=1e-6)
    weights = season_weights(place)
    assert weights.shape == (1, 12, 4)
    np.testing.assert_allclose(weights.sum(2), 1)
    months = MONTH_DAYS[:, 1] - MONTH_DAYS[:, 0] + 1
    np.testing.assert_allclose(months @ weights[0], length[0])  # exact shares, not samples
    days = np.arange(0.05, 365, 0.1)
    season = season_of(days, place)[0]
    counts = np.bincount(season, minlength=4) / 10
    np.testing.assert_allclose(counts, length[0], atol=0.21)
    share = np.stack([np.bincount(season[(days >= a - 1) & (days < b)], minlength=4) for a, b in MONTH_DAYS])
    np.testing.assert_allclose(share / share.sum(1, keepdims=True), weights[0], atol=0.02)


def test_seasons_are_half_open_and_winter_crosses_new_year() -> None:
    days = [99.9, 100, 149.9, 150, 219.9, 220, 299.9, 300, 364.9, 0]
    assert season_of(days, NORTH).tolist() == [[3, 0, 0, 1, 1, 2, 2, 3, 3, 3]]
    both = season_of(days, [NORTH, SOUTH])
    assert both.shape == (2, 10)
    assert np.array_equal(season_of((np.array(days) + 180) % 365, SOUTH), both[:1])
    assert season_middles(NORTH)[0].tolist() == [125.0, 185.0, 260.0, (300 + 82.5) % 365]
    assert season_of([np.nan], NORTH).tolist() == [[-1]]


def test_a_short_season_takes_days_from_its_longer_neighbour() -> None:
    start, length = windows(cycle(100, 4, 50, 120, 200))
    assert length[0].tolist() == [10, 116, 80, 159]  # winter is the longer neighbour of spring: 165 - 6
    assert start[0].tolist() == [94, 104, 220, 300]


def test_phase_starts_at_greenup_in_both_hemispheres() -> None:
    angles = phase(MONTH_MIDDLES, [NORTH, SOUTH])
    assert angles.shape == (2, 12)
    assert phase([100.0], NORTH)[0, 0] == 0
    assert phase([(100 + 365 / 4) % 365], NORTH)[0, 0] == pytest.approx(math.pi / 2)
    assert phase([280.0], SOUTH)[0, 0] == 0
    assert phase([99.0], NORTH)[0, 0] == pytest.approx(2 * math.pi * 364 / 365)
    assert np.isnan(phase([1.0], Cycles.empty(1))).all()


def test_without_a_cycle_there_is_no_season() -> None:
    nothing = Cycles.empty(2)
    assert (season_of([1.0, 200.0], nothing) == -1).all()
    assert np.isnan(season_weights(nothing)).all()
    with pytest.raises(InputError, match="days have shape"):
        season_of(np.zeros((3, 2)), nothing)
    with pytest.raises(InputError, match="steps have shape"):
        season_weights(nothing, [1, 2])


SCENES = {  # spring 100-150: middle 125
    "days": [125.0, 110.0, 126.0, 185.0, 260.0, 17.0, 124.0],
    "years": [2018, 2020, 2021, 2020, 2020, 2020, 2022],
    "cloud": [19.0, 1.0, 20.0, 5.0, 5.0, 50.0, 19.0],
}


def test_both_rules_of_the_paper_are_limits_of_one_score() -> None:
    def spring(weight: float) -> int | None:
        return pick_dates(NORTH, **SCENES, rule=DateRule(weight=weight)).picks[0].index

    assert spring(0) == 1  # the least cloud
    assert spring(math.inf) == 0  # the nearest to the middle
    assert spring(1e6) == 0
    assert spring(0.5) == 1  # 1/20 + .5 x 15/25 = .35 against .95
    found = pick_dates(NORTH, **SCENES)
    assert found.accepted
    assert [pick.index for pick in found.picks] == [1, 3, 4, None]
    assert found.picks[3].reason == "none of 1 scenes in winter is clear enough"
    assert (found.picks[1].day, found.picks[1].year, found.picks[1].cloud) == (185.0, 2020, 5.0)


def test_ties_go_to_the_middle_then_to_the_latest_year() -> None:
    def spring(days: list[float], years: list[int], cloud: list[float], weight: float) -> int | None:
        return pick_dates(NORTH, days, years, cloud, DateRule(weight=weight, min_seasons=1)).picks[0].index

    assert spring([130, 125, 120], [2023, 2018, 2022], [5, 5, 5], 0) == 1
    assert spring([130, 120, 120], [2021, 2023, 2022], [5, 5, 5], 0.5) == 1
    assert spring([130, 120], [2023, 2020], [9, 1], math.inf) == 1  # cloud between equally near ones


def test_one_year_for_all_seasons() -> None:
    days, years, cloud = [125, 185, 260, 125, 185], [2018, 2018, 2018, 2020, 2020], [9, 9, 9, 0, 0]
    one = pick_dates(NORTH, days, years, cloud, DateRule(same_year=True))
    assert [pick.index for pick in one.picks] == [0, 1, 2, None]
    assert [pick.index for pick in pick_dates(NORTH, days, years, cloud).picks] == [3, 4, 2, None]
    tie = pick_dates(NORTH, [125, 185, 125, 185], [2018, 2018, 2020, 2020], [9, 9, 9, 9], DateRule(same_year=True))
    assert {pick.year for pick in tie.picks if pick.index is not None} == {2020}
    assert tie.picks[2].reason == "no scene in autumn"


def test_a_place_with_one_season_or_no_cycle_is_rejected_with_the_reason() -> None:
    one = pick_dates(NORTH, [125.0, 126.0], [2020, 2021], [1.0, np.nan])
    assert not one.accepted
    assert "1 of 4 seasons" in one.reason
    assert one.picks[0].index == 0
    none = pick_dates(Cycles.empty(1)[0], [125.0], [2020], [1.0])
    assert "no cycle" in none.reason
    assert not pick_dates(NORTH, [], [], []).accepted
    assert not pick_dates(NORTH, [], [], [], DateRule(same_year=True)).accepted
    with pytest.raises(InputError, match="of each"):
        pick_dates(NORTH, [1.0], [2020, 2021], [1.0])
    with pytest.raises(ConfigError, match="weight is -1"):
        DateRule(weight=-1)


def since_1970(year: int, day: int) -> int:
    return int((np.datetime64(f"{year}-01-01") - np.datetime64("1970-01-01")).astype(int)) + day


def test_modis_layers_become_a_cycle_by_circular_medians() -> None:
    # A southern cycle whose maturity falls round New Year: 360, 363, 2, 5, 358, 364, 1, 3.
    maturity = [360, 363, 2, 5, 358, 364, 1, 3]
    days = np.full((8, 2, 4), 32767)
    for year, day in enumerate(maturity):
        first = 2009 + year if day < 100 else 2008 + year
        days[year, 0] = [since_1970(2008 + year, 300), since_1970(first, day), since_1970(2009 + year, 60),
                         since_1970(2009 + year, 150)]  # fmt: skip
    found = from_mcd12q2(days, np.ones(8), np.full((8, 2), 0.3))
    assert abs(wrap(np.array(found.maturity) - 0.5)) <= 1  # leap years shift single days by one
    assert found.source == Source.PRODUCT
    assert found.greenup == pytest.approx(300.5, abs=1)
    assert (found.senescence, found.dormancy) == (pytest.approx(60.5, abs=1), pytest.approx(150.5, abs=1))
    assert found.n_cycles == 1
    assert found.quality == 1
    assert found.amplitude == pytest.approx(0.3)
    assert 1 < found.spread < 4
    days[1:] = 32767
    assert from_mcd12q2(days, np.ones(8)).quality == 1 / 8


def test_modis_fill_and_disorder_are_said() -> None:
    days = np.full((3, 2, 2, 4), 32767)
    days[1, :, 0] = [[since_1970(year, day) for day in (100, 150, 220, 300)] for year in (2010, 2011)]
    days[1, :, 1] = [[since_1970(year, day) for day in (310, 320, 340, 355)] for year in (2010, 2011)]
    days[2, :, 0] = [[since_1970(year, day) for day in (100, 220, 150, 300)] for year in (2010, 2011)]
    cycles = cycles_from_mcd12q2(days, [[0, 0], [2, 2], [1, 255]])
    assert cycles.source.tolist() == [Source.NONE, Source.PRODUCT, Source.INVALID]
    assert cycles.reason.tolist() == [Reason.NO_PRODUCT, Reason.NONE, Reason.ORDER]
    np.testing.assert_allclose(cycles.dates[1], [100.5, 150.5, 185.5, 220.5, 300.5])
    np.testing.assert_allclose(cycles.second[1, [0, 4]], [310.5, 355.5])
    assert not cycles.known[[0, 2]].any()
    with pytest.raises(InputError, match=r"\[N, Y, 2, 4\]"):
        cycles_from_mcd12q2(days[0], [[0, 0]])


def test_the_source_of_every_cycle_is_recorded() -> None:
    own = [cycle(360, 40, 80, 120, 200), cycle(5, 40, 80, 120, 200)]
    cycles = Cycles.joined([Cycles.of(own), Cycles.empty(5, Reason.GAP)])
    lon = np.array([179.9, -179.9, 180.0, 60.0, 60.0, 60.0, 179.9])
    lat = np.array([50.0, 50.0, 50.0, 50.0, -50.0, -5.0, 53.0])
    filled = fill_missing(cycles, lon, lat)
    assert [Source(code).name for code in filled.source] == [
        "OBSERVED", "OBSERVED", "NEIGHBOR", "CALENDAR", "CALENDAR", "ASEASONAL", "CALENDAR",
    ]  # fmt: skip
    assert filled.known.all()
    assert abs(wrap(filled.dates[2, 0])) < 1e-6  # half-way between 360 and 5 is New Year, across the antimeridian
    assert filled.distance_km[2] == pytest.approx(7.15, abs=0.1)
    assert np.isnan(filled.distance_km[[0, 1, 3, 4, 5, 6]]).all()
    assert filled.dates[3].tolist() == [59, 151, 197, 243, 334]
    assert filled.dates[4].tolist() == [59 + 182.5, 151 + 182.5, 14.5, 60.5, 151.5]
    assert (filled.reason[2:] == Reason.GAP).all()
    assert not cycles.known[2:].any()  # the table given stays as it was
    assert fill_missing(cycles, lon, lat, PhenologyConfig(max_neighbor_km=400)).source[6] == Source.NEIGHBOR
    assert fill_missing(cycles, lon, lat, PhenologyConfig(max_neighbor_km=0)).source[2] == Source.CALENDAR
    assert np.array_equal(calendar_dates([50.0, -50.0])[:, 0], [59, 241.5])
    with pytest.raises(DataError, match="no usable coordinates"):
        fill_missing(cycles, lon * np.nan, lat)


def test_neighbours_weigh_by_distance_and_those_that_disagree_are_not_averaged() -> None:
    lon = np.array([0.0, 0.5, 0.1])
    cycles = Cycles.joined([Cycles.of([cycle(100, 50, 90, 120, 200), cycle(120, 50, 90, 120, 200)]), Cycles.empty(1)])
    filled = fill_missing(cycles, lon, np.zeros(3) + 40)
    assert filled.dates[2, 0] == pytest.approx(104, abs=0.1)  # weights 4 to 1
    opposite = Cycles.joined([Cycles.of([cycle(100, 50, 90, 120, 200), cycle(282, 50, 90, 120, 200)]), Cycles.empty(1)])
    assert fill_missing(opposite, np.array([0.0, 0.2, 0.1]), np.zeros(3) + 40).source[2] == Source.CALENDAR
