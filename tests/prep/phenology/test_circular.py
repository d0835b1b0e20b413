"""Days on a year that closes on itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotreeclip.prep.phenology.circular import circular_mean, circular_median, day_of_year, wrap

NEW_YEAR = [360.0, 363, 2, 5, 358, 364, 1, 3]
days = st.lists(st.floats(0, 364.9), min_size=1, max_size=9)


def apart(a: float, b: float) -> float:
    return abs(float(wrap(np.asarray(a) - b)))


def test_the_median_of_days_round_new_year_is_new_year() -> None:
    assert np.median(NEW_YEAR) == 181.5
    median, spread = circular_median(NEW_YEAR)
    assert apart(median, 0.0) < 1e-9
    assert 0 <= median < 365
    assert spread == 2.5


def test_days_in_all_directions_have_no_middle_and_missing_ones_do_not_count() -> None:
    assert np.isnan(circular_median([0.0, 91.25, 182.5, 273.75])[0])
    assert np.isnan(circular_median([np.nan, np.nan])[0])
    assert circular_median([[10, np.nan, 12, 11], [np.nan] * 4])[0].tolist() == [
        pytest.approx(11),
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert np.isnan(circular_mean([0.0, 182.5])[0])
    assert circular_mean([0.0, 182.5], [3, 1])[0] == pytest.approx(0)


@settings(max_examples=30, deadline=None)
@given(days, st.floats(0, 365))
def test_a_median_moves_with_its_days(values: list[float], shift: float) -> None:
    before, spread = circular_median(values)
    after, same = circular_median((np.array(values) + shift) % 365)
    if circular_mean(values)[1] > 0.31:
        assert apart(before + shift, after) < 1e-6
        assert spread == pytest.approx(same, abs=1e-6)
        assert 0 <= after < 365


def test_a_date_is_the_same_day_in_every_year() -> None:
    for month_day, day in (("01-01", 0.5), ("02-28", 58.5), ("03-01", 59.5), ("12-31", 364.5)):
        assert {float(day_of_year(f"{year}-{month_day}")) for year in (1970, 1999, 2000, 2023, 2024, 2100)} == {day}
    assert day_of_year("2024-02-29") == day_of_year("2024-02-28")
    assert np.isnan(day_of_year([np.datetime64("NaT")])).all()
