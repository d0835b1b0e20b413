import numpy as np
import pytest

from geotreeclip.schema import BANDS, GROUPS, MONTH_DAYS, VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES, worldclim1_to_2


def test_published_order_of_bands_and_variables():
    assert len(BANDS) == 10
    assert BANDS[3] == "B8"
    assert VARIABLE_NAMES[:5] == ("longitude", "latitude", "elevation", "slope", "aspect")
    assert VARIABLE_NAMES[8:] == tuple(f"bio{i:02d}" for i in range(1, 20))


def test_groups_hold_every_variable_once():
    assert sorted(column for columns in GROUPS.values() for column in columns) == list(range(27))


def test_months_cover_the_year_without_gap():
    assert MONTH_DAYS[0, 0] == 1
    assert MONTH_DAYS[-1, 1] == 365
    np.testing.assert_array_equal(MONTH_DAYS[1:, 0], MONTH_DAYS[:-1, 1] + 1)


def test_worldclim_1_stores_tenths_of_a_degree():
    values = np.full(27, np.nan)
    values[VARIABLE_INDEX["bio01"]] = 123
    values[VARIABLE_INDEX["bio04"]] = 6543
    values[VARIABLE_INDEX["bio03"]] = 45
    values[VARIABLE_INDEX["bio12"]] = 800
    converted = worldclim1_to_2(values)
    assert converted[VARIABLE_INDEX["bio01"]] == pytest.approx(12.3)
    assert converted[VARIABLE_INDEX["bio04"]] == pytest.approx(654.3)
    assert converted[VARIABLE_INDEX["bio03"]] == 45
    assert converted[VARIABLE_INDEX["bio12"]] == 800
    assert np.isnan(converted).sum() == 23


def test_only_temperatures_change_unit():
    scaled = {variable.name for variable in VARIABLES if variable.worldclim1_factor != 1}
    assert scaled == {f"bio{i:02d}" for i in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11)}


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="27 variables"):
        worldclim1_to_2(np.zeros(19))
