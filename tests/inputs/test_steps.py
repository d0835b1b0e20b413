"""Which calendar months a set of steps has seen."""

from __future__ import annotations

import numpy as np
import pytest

from geotreeclip.inputs.steps import read_days, valid_months
from geotreeclip.schema import MONTH_DAYS


def seen(days: list[list[float]], valid: list[bool] | None = None) -> int:
    periods = read_days(np.array(days), 1, len(days))
    step_valid = np.array([valid or [True] * len(days)])
    return int(valid_months(periods[..., 0], periods[..., 1], step_valid)[0])


@pytest.mark.parametrize("month", range(12))
def test_every_calendar_month_is_one(month):
    assert seen([MONTH_DAYS[month].tolist()]) == 1


def test_a_year_of_months_in_any_order():
    october_first = np.roll(MONTH_DAYS, 3, axis=0).tolist()
    assert seen(october_first) == 12
    assert seen(october_first, [True] * 5 + [False] * 7) == 5


@pytest.mark.parametrize(
    ("days", "count"),
    [
        ([[60, 151]], 3),  # March to May
        ([[335, 59]], 3),  # December to February
        ([[61, 152]], 3),  # the same season, days counted in a leap year
        ([[200, 200]], 1),  # one scene
        ([[200, 200], [205, 205]], 1),  # two scenes of one month
        ([[31, 31], [32, 32]], 2),
        ([[366, 366]], 1),  # the last day of a leap year
        ([[1, 365]], 12),
        ([[10, 40]], 1),  # most of January, less than half of February
    ],
)
def test_seasons_and_scenes(days, count):
    assert seen(days) == count


def test_nothing_valid_is_no_month():
    assert seen([[1, 31]], [False]) == 0
