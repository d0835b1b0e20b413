import numpy as np
import pytest

from geotreeclip.data.statistics import Statistics, compute_statistics
from geotreeclip.errors import DataError
from geotreeclip.schema import MISSING_DN


def _expected(samples, rows):
    pixels = np.where(samples.images[rows] == MISSING_DN, np.nan, samples.images[rows].astype(np.float64))
    return pixels, samples.environment[rows].astype(np.float64)


def test_chunks_give_what_numpy_gives_on_all(packed, samples):
    rows = np.arange(3, 40)
    pixels, environment = _expected(samples, rows)
    found = compute_statistics(packed, rows, batch_size=5)
    axes = (0, 1, 3, 4)
    np.testing.assert_allclose(found.band.mean, np.nanmean(pixels, axis=axes), rtol=1e-12)
    np.testing.assert_allclose(found.band.deviation, np.nanstd(pixels, axis=axes), rtol=1e-12)
    np.testing.assert_array_equal(found.band.minimum, np.nanmin(pixels, axis=axes))
    np.testing.assert_array_equal(found.band.maximum, np.nanmax(pixels, axis=axes))
    np.testing.assert_allclose(found.band.missing_rate, np.isnan(pixels).mean(axis=axes))
    np.testing.assert_allclose(found.variable.mean, np.nanmean(environment, axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.variable.deviation, np.nanstd(environment, axis=0), rtol=1e-10)
    np.testing.assert_array_equal(found.variable.count, (~np.isnan(environment)).sum(axis=0))
    assert found.samples == len(rows)


def test_json_gives_back_the_same_numbers(packed):
    again = Statistics.from_json(packed.statistics.to_json())
    for name in ("mean", "squares", "count", "missing", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(again.band, name), getattr(packed.statistics.band, name))
        np.testing.assert_array_equal(getattr(again.variable, name), getattr(packed.statistics.variable, name))


def test_large_offset_does_not_cost_precision():
    rng = np.random.default_rng(0)
    environment = rng.normal(1e6, 0.01, (4000, 27))
    found = Statistics.empty()
    for start in range(0, 4000, 37):
        found = found.updated(None, environment[start : start + 37])
    np.testing.assert_allclose(found.variable.deviation, environment.std(axis=0), rtol=1e-6)


def test_empty_and_constant_columns_are_safe_to_divide_by():
    environment = np.full((5, 27), 7.0)
    environment[:, 0] = np.nan
    found = Statistics.empty().updated(None, environment)
    assert (found.variable_deviation == 1).all()
    assert found.variable_mean[0] == 0
    assert found.variable.missing_rate[0] == 1
    again = Statistics.from_json(found.to_json())
    assert again.variable.minimum[0] == np.inf


def test_an_empty_side_does_not_pull_the_mean():
    environment = np.full((5, 27), 7.0)
    found = Statistics.empty().updated(None, environment)
    for joined in (found + Statistics.empty(), Statistics.empty() + found):
        np.testing.assert_array_equal(joined.variable.mean, 7.0)
        np.testing.assert_array_equal(joined.variable.count, 5)


def test_joining_versions_or_resolutions_warns():
    environment = np.ones((2, 27))
    one = Statistics.empty(worldclim="1", resolution="30 arc-seconds").updated(None, environment)
    two = Statistics.empty(worldclim="2.1", resolution="30 arc-seconds").updated(None, environment)
    with pytest.warns(UserWarning, match="WorldClim version: '1' and '2.1'"):
        assert (one + two).worldclim == "1+2.1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "geotreeclip-statistics", "version": 9}', "null"])
def test_foreign_json_is_refused(text):
    with pytest.raises(DataError, match="statistics"):
        Statistics.from_json(text)
