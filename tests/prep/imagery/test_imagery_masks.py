"""Masks from the scene classification, tiles of one acquisition, medians."""

import numpy as np
import pytest

from geotreeclip.prep.imagery.composite import Composites, Look, median
from geotreeclip.prep.imagery.masking import Sight, sight
from geotreeclip.prep.imagery.sampling import TileView, merge_tiles
from geotreeclip.schema import MISSING_DN


def classes(value: int = 4) -> np.ndarray:
    return np.full((1, 13, 13), value, np.uint8)


@pytest.mark.parametrize(
    ("value", "seen", "clear", "snow"),
    [(0, 0, 0, 0), (1, 1, 0, 0), (2, 1, 1, 0), (3, 1, 0, 0), (4, 1, 1, 0), (5, 1, 1, 0), (6, 1, 1, 0), (7, 1, 1, 0),
     (8, 1, 0, 0), (9, 1, 0, 0), (10, 1, 0, 0), (11, 1, 0, 1), (12, 1, 0, 0), (200, 1, 0, 0)],
)  # fmt: skip
def test_each_class_alone(value: int, seen: int, clear: int, snow: int) -> None:
    grid = classes()
    grid[0, 6, 6] = value
    found = sight(grid)
    assert (found.seen[0, 2, 2], found.clear[0, 2, 2], found.snow[0, 2, 2]) == (seen, clear, snow)
    if value not in (3, 8, 9):
        assert found.clear[0].sum() == 24 + clear


@pytest.mark.parametrize("value", [3, 8, 9])
def test_clouds_and_shadows_are_widened_by_forty_metres(value: int) -> None:
    grid = classes()
    grid[0, 6, 1] = value  # 50 m west of the centre: 30 m from the western edge of the patch
    clear = sight(grid).clear[0]
    distance = 10 * np.hypot(np.arange(5)[:, None] - 2, np.arange(5)[None, :] + 3)
    np.testing.assert_array_equal(clear, distance > 40)
    grid = classes()
    grid[0, 6, 0] = value  # exactly 40 m from one pixel
    assert sight(grid).clear[0].sum() == 24


def test_cirrus_and_snow_are_not_widened() -> None:
    for value in (1, 10, 11):
        grid = classes()
        grid[0, :, :4] = value
        assert sight(grid).clear.all()


def test_snow_under_a_widened_cloud_is_not_snow() -> None:
    grid = classes(11)
    grid[0, 6, 6] = 9
    found = sight(grid)
    assert not found.clear.any()
    assert not found.snow[0, 2, 2]
    assert not found.snow[0].any()  # all 25 pixels lie within 40 m


def view(rows: list[int], seen: np.ndarray, beyond: list[int] | None = None) -> TileView:
    masks = np.broadcast_to(seen, (len(rows), 5, 5))
    return TileView(np.array(rows), Sight(masks, masks, masks & False), np.array(beyond or [0] * len(rows)))


def test_each_pixel_of_an_acquisition_is_taken_once() -> None:
    west, east = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    west[:, :3] = True
    east[:, 0] = False
    first, second = merge_tiles([view([0, 2], west), view([1, 2], east)])
    np.testing.assert_array_equal(first[0], west)
    np.testing.assert_array_equal(second[0], east)
    np.testing.assert_array_equal(first[1], west)
    np.testing.assert_array_equal(second[1], east & ~west)


def test_the_tile_that_holds_the_margin_comes_first() -> None:
    every = np.ones((5, 5), bool)
    first, second = merge_tiles([view([0, 1], every, [4, 0]), view([0, 1], every, [0, 0])])
    assert not first[0].any()
    assert second[0].all()
    assert first[1].all()
    assert not second[1].any()


def test_medians_of_odd_and_even_counts_with_gaps() -> None:
    rng = np.random.default_rng(1)
    stack = rng.integers(1, 9000, (7, 400)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = np.nan
    stack[:, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        np.testing.assert_array_equal(median(stack), np.nanmedian(stack, axis=0))


def look(values: list[float], row: int = 0) -> Look:
    images = np.full((1, 10, 5, 5), np.nan, np.float32)
    images[0, :, 0, : len(values)] = values
    clear = np.zeros((1, 5, 5), bool)
    clear[0, 0, : len(values)] = True
    return Look(np.array([row]), images, clear, np.zeros_like(clear), np.array([0]))


def test_halves_are_rounded_to_the_even_number_and_counts_are_kept() -> None:
    months = Composites.empty(2)
    months.add_month(3, [look([10, 11, 7]), look([11, 12])])
    assert months.images[0, 3, 0, 0].tolist() == [10, 12, 7, MISSING_DN, MISSING_DN]  # 10.5, 11.5
    assert months.scenes.tolist() == [[0, 0, 0, 2] + [0] * 8, [0] * 12]
    assert (months.images[1] == MISSING_DN).all()
    assert np.isnan(months.snow[1]).all()
    assert months.snow[0, 3] == 0
    assert months.found().tolist() == [True, False]


def test_the_order_of_looks_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    looks = [look(rng.integers(1, 500, 5).tolist(), int(row)) for row in rng.integers(0, 3, 12)]
    results = []
    for order in (range(12), reversed(range(12))):
        months = Composites.empty(3)
        months.add_month(0, [looks[n] for n in order])
        results.append(months.images)
    np.testing.assert_array_equal(*results)
