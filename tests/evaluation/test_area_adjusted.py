"""Area-adjusted accuracy: the published worked example, a census, and what cannot be estimated."""

import numpy as np
import pytest

from geotreeclip.errors import InputError
from geotreeclip.evaluation.area_adjusted import area_adjusted

# Olofsson et al. (2014), section 5, tables 8 and 9: deforestation, forest gain, stable forest, stable non-forest
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09  # of a 30 m pixel


def test_published_example():
    found = area_adjusted(COUNTS, PIXELS * HECTARES)
    np.testing.assert_allclose(found.proportion[0], [0.0176, 0, 0.0013, 0.0011], atol=5e-5)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(found.margin(found.users_se), [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(found.producers_se, [0.109, 0.130, 0.0175, 0.00937], rtol=0.005)
    assert found.overall == pytest.approx(0.947, abs=5e-4)
    assert found.margin(found.overall_se) == pytest.approx(0.018, abs=5e-4)
    np.testing.assert_allclose(found.area, [21_158, 11_686, 285_770, 581_386], atol=1)
    np.testing.assert_allclose(found.margin(found.area_se), [6_158, 3_756, 15_510, 16_282], atol=2)
    assert found.area.sum() == pytest.approx(found.mapped.sum())
    pixels = area_adjusted(COUNTS, PIXELS)
    assert pixels.area[0] == pytest.approx(235_086, abs=1)
    assert pixels.margin(pixels.area_se[0]) == pytest.approx(68_418, abs=2)


def test_estimates_are_unbiased_and_their_errors_honest_in_a_simulated_map():
    """A known map with known truth, sampled again and again with equal numbers in unequal classes."""
    rng = np.random.default_rng(0)
    truth_given_map = np.array([[0.8, 0.15, 0.05], [0.02, 0.9, 0.08], [0.05, 0.1, 0.85]])
    area = np.array([5.0, 60.0, 35.0])
    real = (area / 100) @ truth_given_map
    producers = area / 100 * np.diag(truth_given_map) / real
    found = [area_adjusted(np.stack([rng.multinomial(300, row) for row in truth_given_map]), area) for _ in range(800)]
    for name, wanted in (("area", 100 * real), ("producers", producers), ("users", np.diag(truth_given_map))):
        values = np.stack([getattr(item, name) for item in found])
        errors = np.stack([getattr(item, f"{name}_se") for item in found])
        np.testing.assert_allclose(values.mean(axis=0), wanted, rtol=0.03)
        np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=0)), values.std(axis=0), rtol=0.12)
    overall = np.array([item.overall for item in found])
    assert np.sqrt(np.mean([item.overall_se**2 for item in found])) == pytest.approx(overall.std(), rel=0.12)


def test_equal_sampling_needs_no_adjustment():
    counts = np.array([[30, 10], [5, 55]])
    found = area_adjusted(counts, counts.sum(axis=1))
    assert found.overall == pytest.approx(85 / 100)
    np.testing.assert_allclose(found.producers, np.diag(counts) / counts.sum(axis=0))
    np.testing.assert_allclose(found.area, counts.sum(axis=0))


def test_a_class_that_is_not_on_the_map_is_nan_not_zero():
    found = area_adjusted([[10, 2, 0], [1, 9, 0], [0, 0, 0]], [1, 1, 0])
    assert np.isnan(found.users[2])
    assert np.isnan(found.producers[2])
    assert found.area[2] == 0


@pytest.mark.parametrize(
    ("counts", "area", "message"),
    [
        ([[5, 1]], [1], "error matrix"),
        ([[5, 1], [0, 1]], [1, 1], r"class 'oak' covers 50.00% of the map but has 1"),
        ([[5, -1], [2, 3]], [1, 1], "0 or more"),
        ([[5, 1], [2, 3]], [0, 0], "some area"),
    ],
)
def test_refusals(counts, area, message):
    with pytest.raises(InputError, match=message):
        area_adjusted(counts, area, ["pine", "oak"][: len(counts)])
