"""Cycles from series with known dates: the published errors, and every edge of the year."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.prep.phenology import (
    MONTH_MIDDLES,
    Cycles,
    PhenologyConfig,
    Reason,
    Source,
    composite,
    day_of_year,
    evi2,
    evi2_of_patches,
    fit_cycle,
    fit_cycles,
    screen_spikes,
    season_weights,
    step_middles,
)
from geotreeclip.prep.phenology.circular import wrap
from geotreeclip.prep.phenology.curve import evaluate
from geotreeclip.prep.phenology.fit import noon_sun
from geotreeclip.prep.phenology.synthetic import double_logistic, monthly_medians

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
MONTHLY = REAL / "sentinel2" / "monthly_500_points.parquet"
FIR = REAL / "sentinel2" / "Abies_alba_1_1005_WEFL_NLF.h5"
BINOMIAL = PhenologyConfig(smoother="binomial")
CURVES = double_logistic(300, 1)


def bumps(days: np.ndarray, centres: list[float], width: float = 30.0, height: float = 0.4) -> np.ndarray:
    return 0.1 + sum(height * np.exp(-((wrap(days - centre) / width) ** 2)) for centre in centres)


def errors(cycles: Cycles, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error in days of greenup, maturity, senescence, dormancy."""
    return np.nanmean(np.abs(wrap(cycles.dates - truth)), axis=0)[[0, 1, 3, 4]]


# Published for this fit (greenup, maturity, senescence, dormancy): 2.3/2.4/1.8/1.6, 7.3/7.3/7.2/8.1, 10/9/9/9,
# 14/11/13/13 and 28/18/16/25 days. The curves are drawn anew here, so the bound leaves room.
@pytest.mark.parametrize(
    ("noise", "clear", "missing", "most"),
    [(0.0, 1.0, 0, 3), (0.02, 0.5, 0, 10), (0.02, 0.5, 2, 12), (0.02, 0.5, 4, 15), (0.04, 0.35, 2, 28)],
)
def test_errors_in_days_are_the_published_ones(noise: float, clear: float, missing: int, most: float) -> None:
    cycles = fit_cycles(monthly_medians(CURVES.daily, 2, noise=noise, clear=clear, missing=missing), MONTH_MIDDLES)
    assert cycles.known.mean() > 0.93
    assert errors(cycles, CURVES.dates).max() < most
    assert (cycles.n_cycles[cycles.known] == 1).mean() > 0.98


@pytest.mark.parametrize(("missing", "noise", "least"), [(1, 0.02, 0.88), (3, 0.02, 0.86), (2, 0.04, 0.75)])
def test_months_fall_into_the_right_season(missing: int, noise: float, least: float) -> None:
    clear = 0.5 if noise < 0.04 else 0.35
    fitted = fit_cycles(monthly_medians(CURVES.daily, 3, noise=noise, clear=clear, missing=missing), MONTH_MIDDLES)
    truth = Cycles.empty(300)
    truth.dates[:] = CURVES.dates
    same = season_weights(fitted).argmax(2) == season_weights(truth).argmax(2)
    assert same[fitted.known].mean() > least


def test_the_curve_is_the_periodic_pchip_and_crossings_lie_on_it() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, (20, 12))
    days = np.tile(MONTH_MIDDLES, (20, 1))
    at = np.arange(0, 365, 0.7)
    ours = evaluate(days, values, at)
    thrice = np.concatenate([MONTH_MIDDLES - 365, MONTH_MIDDLES, MONTH_MIDDLES + 365])
    for row, value in zip(ours, values, strict=True):
        np.testing.assert_allclose(row, PchipInterpolator(thrice, np.tile(value, 3))(at), atol=1e-12)
    cycles = fit_cycles(bumps(MONTH_MIDDLES, [200.0])[None], MONTH_MIDDLES)
    found = evaluate(days[:1], bumps(MONTH_MIDDLES, [200.0])[None], cycles.dates[0])[0]
    low, high = bumps(MONTH_MIDDLES, [200.0]).min(), bumps(MONTH_MIDDLES, [200.0]).max()
    np.testing.assert_allclose((found - low) / (high - low), [0.15, 0.9, 1.0, 0.9, 0.15], atol=1e-6)
    assert cycles.amplitude[0] == pytest.approx(high - low)


@settings(max_examples=12, deadline=None)
@given(st.floats(0, 365), st.integers(0, 10**6))
def test_dates_move_with_the_series_and_with_the_hemisphere(shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = bumps(MONTH_MIDDLES, [rng.uniform(0, 365)]) + rng.normal(0, 0.02, 12)
    values[rng.integers(0, 12, 2)] = np.nan
    before, after = fit_cycle(values, MONTH_MIDDLES), fit_cycle(values, (MONTH_MIDDLES + shift) % 365)
    assert before.source == after.source
    for name in ("greenup", "maturity", "peak", "senescence", "dormancy"):
        if before.source == Source.OBSERVED:
            assert abs(wrap(getattr(before, name) + shift - getattr(after, name))) < 1e-6


def test_rolling_the_months_mirrors_the_hemispheres() -> None:
    north = fit_cycle(bumps(MONTH_MIDDLES, [196.0]), MONTH_MIDDLES)
    south = fit_cycle(np.roll(bumps(MONTH_MIDDLES, [196.0]), 6), MONTH_MIDDLES)
    assert abs(wrap(np.array(north.greenup) + 182.5 - south.greenup)) < 3  # months differ in length
    assert south.greenup > south.dormancy  # across New Year


def test_two_cycles_are_found_and_the_stronger_is_the_first() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 365, 200)
    series = np.stack([bumps(MONTH_MIDDLES, [s, s + 180]) for s in start])
    cycles = fit_cycles(series + rng.normal(0, 0.01, series.shape), MONTH_MIDDLES)
    assert (cycles.n_cycles == 2).mean() > 0.98
    assert (fit_cycles(series, MONTH_MIDDLES, None, BINOMIAL).n_cycles == 2).mean() > 0.90
    values = bumps(MONTH_MIDDLES, [105.0], height=0.25) + bumps(MONTH_MIDDLES, [288.5], height=0.4) - 0.1
    two = fit_cycles(values[None], MONTH_MIDDLES)
    assert two.dates[0, 2] == 288.5
    assert two.second[0, 2] == 105.0
    assert two.second[0, 0] < 105 < two.second[0, 4] < two.dates[0, 0]
    equal = np.full(12, 0.1)
    equal[[2, 8]] = 0.5
    assert fit_cycle(equal, MONTH_MIDDLES).peak == MONTH_MIDDLES[2]  # of equal ones the earlier


@pytest.mark.parametrize(
    ("config", "noise", "most"),
    [(PhenologyConfig(), 0.02, 0.02), (PhenologyConfig(), 0.04, 0.6), (BINOMIAL, 0.04, 0.06)],
)
def test_evergreens_have_no_cycle_unless_noise_makes_one(config: PhenologyConfig, noise: float, most: float) -> None:
    rng = np.random.default_rng(0)
    series = 0.45 + 0.02 * np.cos(2 * np.pi * (MONTH_MIDDLES - 200) / 365) + rng.normal(0, noise / 2**0.5, (500, 12))
    cycles = fit_cycles(series, MONTH_MIDDLES, None, config)
    assert cycles.known.mean() <= most
    assert set(cycles.reason[~cycles.known]) == {Reason.NO_CYCLE}


def test_what_cannot_be_fitted_says_why() -> None:
    series = np.tile(bumps(MONTH_MIDDLES, [196.0]), (5, 1))
    series[0] = np.nan
    series[1, :7] = np.nan
    series[2, 3:8] = np.nan  # 166 days from mid-March to mid-September
    series[3] = 0.3
    cycles = fit_cycles(series, MONTH_MIDDLES)
    assert [Reason(code) for code in cycles.reason] == [
        Reason.TOO_FEW, Reason.TOO_FEW, Reason.GAP, Reason.NO_CYCLE, Reason.NONE,
    ]  # fmt: skip
    assert cycles.known.tolist() == [False] * 4 + [True]
    assert cycles.source.tolist() == [Source.NONE] * 4 + [Source.OBSERVED]
    assert (cycles.quality[:4] == 0).all()
    assert 0.7 < cycles.quality[4] <= 1
    frame = cycles.frame()
    assert frame["reason"].tolist() == ["too_few", "too_few", "gap", "no_cycle", ""]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-0.05, 1.2), st.just(np.nan), st.just(0.3)), min_size=12, max_size=12), st.booleans()
)
def test_any_series_gives_a_cycle_in_order_or_a_reason(values: list[float], smooth: bool) -> None:
    cycle = fit_cycle(values, MONTH_MIDDLES, 60.0, BINOMIAL if smooth else None)
    dates = np.array([cycle.greenup, cycle.maturity, cycle.peak, cycle.senescence, cycle.dormancy])
    if cycle.source == Source.OBSERVED:
        after = (dates - dates[0]) % 365
        assert (np.diff(after) >= 0).all()
        assert ((dates >= 0) & (dates < 365)).all()
        assert cycle.amplitude >= 0.1
        assert 0 < cycle.quality <= 1
    else:
        assert np.isnan(dates).all()
        assert cycle.reason != Reason.NONE


def test_a_missing_winter_is_filled_where_the_sun_is_low_and_nowhere_else() -> None:
    values = bumps(MONTH_MIDDLES, [196.0])
    values[[0, 10, 11]] = np.nan  # November to January
    values[1] = 0.1
    arctic, temperate = fit_cycle(values, MONTH_MIDDLES, 65.0), fit_cycle(values, MONTH_MIDDLES, 44.0)
    assert (arctic.filled, temperate.filled) == (3, 0)
    assert fit_cycle(np.roll(values, 6), MONTH_MIDDLES, -65.0).filled == 3
    assert fit_cycle(np.roll(values, 6), MONTH_MIDDLES, 65.0).filled == 0  # a summer is not filled
    assert fit_cycle(values, MONTH_MIDDLES).filled == 0  # nor where the latitude is unknown
    values[[0, 10, 11]], values[[2, 3]] = 0.1, np.nan
    assert fit_cycle(values, MONTH_MIDDLES, 65.0).filled == 0  # nor a spring
    sun = noon_sun(np.array([171.5, 354.5, 80.5]), np.array([60.0, 60.0, 0.0]))
    np.testing.assert_allclose(sun, [53.44, 6.56, 90.0], atol=0.5)
    assert fit_cycle(np.full(12, np.nan), MONTH_MIDDLES, 65.0).reason == Reason.TOO_FEW


def test_evi2_masks_what_is_no_land_and_patches_give_the_median_of_their_pixels() -> None:
    assert evi2(0.05, 0.45) == pytest.approx(2.5 * 0.4 / (0.45 + 0.12 + 1))
    assert np.isnan(evi2([0.0, np.nan, 0.6, 0.0], [0.0, 0.3, 0.1, 2.0])).all()
    red, nir = np.full((1, 2, 5, 5), 500.0), np.full((1, 2, 5, 5), 4500.0)
    nir[0, 0, :2] = 65535
    nir[0, 0, 2, 0] = 9000.0
    red[0, 1] = np.nan
    values, bright = evi2_of_patches(red, nir)
    assert values[0, 0] == pytest.approx(evi2(0.05, 0.45))
    assert bright[0, 0] == pytest.approx(0.05)
    assert np.isnan(values[0, 1])
    assert step_middles([[1, 31], [32, 59], [350, 15]]).tolist() == [15.5, 45.0, 364.5]


def test_a_single_bright_step_is_screened_and_a_bright_season_is_not() -> None:
    values = bumps(MONTH_MIDDLES, [166.0], width=70)
    red = np.full(12, 0.1)
    red[5] = 0.4
    values[5] = 0.05
    screened = screen_spikes(values[None], red[None])
    assert np.flatnonzero(np.isnan(screened[0])).tolist() == [5]
    assert fit_cycle(values, MONTH_MIDDLES).n_cycles == 2
    assert fit_cycle(screened[0], MONTH_MIDDLES).n_cycles == 1
    red[[5, 6]] = 0.4
    assert not np.isnan(screen_spikes(values[None], red[None])).any()
    red[6] = np.nan  # the next valid step counts
    assert np.isnan(screen_spikes(values[None], red[None])[0, 5])


def test_looks_of_many_dates_and_years_become_one_year() -> None:
    rng = np.random.default_rng(0)
    days = rng.uniform(0, 365, 400)
    values = bumps(days, [30.0], width=60) + rng.normal(0, 0.02, 400)
    values[::3] = np.nan
    cycle = fit_cycle(values, days)
    smooth = fit_cycle(bumps(MONTH_MIDDLES, [30.0], width=60), MONTH_MIDDLES)
    assert cycle.source == Source.OBSERVED
    assert abs(wrap(cycle.greenup - np.array(smooth.greenup))) < 12
    medians, stamps = composite([0.1, 0.3, np.nan, 0.2], [10.0, 12.0, 200.0, 364.0], 24)
    assert medians[0] == pytest.approx(0.2)
    assert stamps[0] == 11
    assert np.isnan(medians[1:23]).all()
    assert stamps[23] == 364


def test_shapes_and_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="two steps on one day"):
        fit_cycles(np.zeros((1, 3)), [1.0, 1.0, 2.0])
    with pytest.raises(InputError, match="days have shape"):
        fit_cycles(np.zeros((1, 3)), [1.0, 2.0])
    with pytest.raises(InputError, match="one length"):
        fit_cycle([0.1], [1.0, 2.0])
    with pytest.raises(ConfigError, match="smoother 'spline'"):
        PhenologyConfig(smoother="spline")
    with pytest.raises(ConfigError, match="thresholds"):
        PhenologyConfig(thresholds=(0.9, 0.15))
    assert len(fit_cycles(np.zeros((0, 12)), MONTH_MIDDLES)) == 0


@pytest.mark.skipif(not MONTHLY.is_file(), reason=f"{MONTHLY} is absent")
@pytest.mark.parametrize("screen", [False, True])
def test_real_monthly_series(screen: bool) -> None:
    frame = pd.read_parquet(MONTHLY)
    red, nir = (
        frame[[f"OPTICAL-{band}-ts{i}-10m" for i in range(12)]].to_numpy(float).reshape(-1, 12, 1, 1)
        for band in ("B04", "B08")
    )
    values, bright = evi2_of_patches(red, nir)
    if screen:
        screened = screen_spikes(values, bright)
        assert 0.1 < (np.isnan(screened) & ~np.isnan(values)).any(1).mean() < 0.3  # about a fifth of the rows
        values = screened
    first = pd.to_datetime(frame["start_date"]).dt.month.to_numpy()
    days = MONTH_MIDDLES[(first[:, None] - 1 + np.arange(12)) % 12]
    cycles = fit_cycles(values, days, frame["lat"].to_numpy())
    assert cycles.known.mean() > 0.8
    north = frame["lat"].to_numpy() > 40
    peak = cycles.dates[north & cycles.known, 2]
    assert ((peak > 90) & (peak < 270)).mean() > 0.8  # a wrong first month would put them anywhere


@pytest.mark.skipif(not FIR.is_file(), reason=f"{FIR} is absent")
def test_real_irregular_series_of_a_fir_stand() -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(FIR) as file:
        data, masks = file["sen-2-data"][:], file["sen-2-masks"][:]
        names = [name.decode() for name in file["sen-2-products"][:]]
    dates = np.array([re.search(r"_(\d{4})(\d\d)(\d\d)T", name).groups() for name in names])
    day = day_of_year(np.array(["-".join(date) for date in dates], dtype="datetime64[D]"))
    assert (np.diff(day) >= 0).all()
    clear = masks[:, :2].mean((1, 2, 3)) < 10  # per cent of snow and of cloud
    red, nir = (np.where(clear[:, None, None], data[:, band], np.nan)[None] for band in (2, 6))  # ascending bands
    values, _ = evi2_of_patches(red, nir)
    cycle = fit_cycle(values[0], day, 52.0)
    assert clear.sum() == 63
    assert cycle.source == Source.OBSERVED
    assert cycle.n_cycles == 1
    assert 150 < cycle.peak < 230
    assert cycle.maturity > 100
