"""The imagery job on planted scenes: every pixel that was planted comes back, whatever grid it lies on."""

import numpy as np
import pandas as pd
import pytest
from imagery_world import World, at

pytest.importorskip("pyproj")
from imagery_runs import by_id, gradient, run
from pyproj import Transformer

from geotreeclip.schema import BANDS, MISSING_DN

FINE = ("B2", "B3", "B4", "B8")


def test_clear_pixels_come_back_exactly(world: World) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z", value=gradient())
    world.scene("S2A_2", "2020-07-05T10:00:00Z", value=gradient(7))
    lon, lat = at([(30, 30), (31, 7), (2, 57)])
    report, store = run(world, lon, lat)
    images, table = by_id(store)
    fine = np.arange(3600).reshape(60, 60) % 4001
    coarse = np.arange(900).reshape(30, 30).astype(float) % 4001
    for name, (column, row) in {"p0": (30, 30), "p1": (31, 7), "p2": (2, 57)}.items():
        for month, plus in ((2, 0), (6, 7)):
            for band in FINE:
                expected = fine[row - 2 : row + 3, column - 2 : column + 3] + 100 + plus + 200 * BANDS.index(band)
                np.testing.assert_array_equal(images[name][month, BANDS.index(band)], expected)
        others = [month for month in range(12) if month not in (2, 6)]
        assert (images[name][others] == MISSING_DN).all()
        assert table.scenes[name].tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    for month, plus in ((2, 0), (6, 7)):  # bilinear by hand: an even pixel of 10 m lies 5 m before a centre of 20 m
        for i in range(5):
            for j in range(5):
                r, c = (28 + i + 0.5) / 2 - 0.5, (28 + j + 0.5) / 2 - 0.5
                top, left = int(np.floor(r)), int(np.floor(c))
                a, b = r - top, c - left
                mean = (1 - a) * ((1 - b) * coarse[top, left] + b * coarse[top, left + 1]) + a * (
                    (1 - b) * coarse[top + 1, left] + b * coarse[top + 1, left + 1]
                )
                assert images["p0"][month, 8, i, j] == np.rint(mean + 100 + plus + 1600)
    assert (table.epsg == 32633).all()
    assert (table.x["p0"], table.y["p0"]) == (500_305, 5_099_695)
    assert (table.year_difference == 0).all()
    assert report.opened == 22  # each of 11 rasters of 2 scenes once
    assert report.samples == 3


def test_no_data_is_never_mixed_in_and_values_below_one_are_counted(world: World) -> None:
    def value(band: str, base: np.ndarray) -> np.ndarray:
        grid = base + 1500
        if base.shape[0] == 30:
            grid[15, 15] = 0  # pixels (30, 30) to (31, 31)
        else:
            grid[30, 30], grid[30, 29] = 0, 900
        return grid

    world.scene("S2A_1", "2020-03-05T10:00:00Z", value=value, offset=-0.1, baseline="05.00")
    lon, lat = at([(30, 30)])
    _, store = run(world, lon, lat, audit=False)
    images, table = by_id(store)
    red, swir = images["p0"][2, 2], images["p0"][2, 8]
    assert red[2].tolist() == [500, 1, MISSING_DN, 500, 500]
    assert swir[0].tolist() == [500] * 5
    assert swir[2].tolist() == [500, 500, MISSING_DN, MISSING_DN, 500]
    assert table.clipped["p0"] == 4


def test_clouds_are_widened_and_snow_leaves_the_median(world: World) -> None:
    def cloudy(base: np.ndarray) -> np.ndarray:
        grid = base + 4
        grid[15, 11] = 9  # columns 22, 23 of 10 m, rows 30, 31
        return grid

    def snowy(base: np.ndarray) -> np.ndarray:
        grid = base + 4
        grid[:, 15:] = 11  # from column 30
        return grid

    world.scene("S2A_1", "2020-03-05T10:00:00Z", value=1000, classes=cloudy)
    world.scene("S2A_2", "2020-03-15T10:00:00Z", value=2001, classes=snowy)
    world.scene("S2A_3", "2020-04-05T10:00:00Z", classes=11)
    world.scene("S2A_4", "2020-05-05T10:00:00Z", classes=8)
    lon, lat = at([(29, 30)])  # patch: columns 27 to 31, rows 28 to 32
    _, store = run(world, lon, lat)
    images, table = by_id(store)
    patch = images["p0"][2, 0].astype(int)
    column, row = np.meshgrid(np.arange(27, 32), np.arange(28, 33))
    near = np.min([np.hypot(column - c, row - r) for c in (22, 23) for r in (30, 31)], axis=0) <= 4
    assert near.any()
    expected = np.where(near, 2001, np.where(column >= 30, 1000, 1500))  # 1500.5 to the even number
    np.testing.assert_array_equal(patch, expected)
    snow = table.snow["p0"]
    assert snow[2] == pytest.approx(10 / (25 - near.sum() + 25))
    assert (snow[3], table.scenes["p0"][3]) == (1, 0)
    assert np.isnan(snow[4])
    assert table.scenes["p0"].tolist()[2:5] == [2, 0, 0]
    assert (images["p0"][3:5] == MISSING_DN).all()


def test_a_patch_across_two_tiles_is_whole(world: World) -> None:
    world.scene("S2A_west", "2020-03-05T10:00:00Z", value=1000)
    world.scene("S2A_east", "2020-03-05T10:00:04Z", value=2000, tile="33TXM", left=500_600)
    lon, lat = at([(59, 30)])
    _, store = run(world, lon, lat)
    images, table = by_id(store)
    assert images["p0"][2, 0, 2].tolist() == [1000, 1000, 1000, 2000, 2000]
    assert table.scenes["p0"][2] == 1


def neighbour(band: str, base: np.ndarray) -> np.ndarray:
    return base + 1000 + 20 * np.arange(base.shape[1])[None, :] * (60 // base.shape[0])


def test_a_scene_of_the_neighbouring_zone_is_brought_to_the_grid_of_the_point(world: World) -> None:
    lon, lat = [17.99], [46.0]
    x, y = Transformer.from_crs(4326, 32634, always_xy=True).transform(lon[0], lat[0])
    left, top = round(x / 20) * 20 - 300, round(y / 20) * 20 + 300
    world.scene("S2A_34TBS", "2020-03-05T10:00:00Z", epsg=32634, left=left, top=top, value=neighbour, tile="34TBS")
    _, store = run(world, lon, lat)
    images, table = by_id(store)
    assert table.epsg["p0"] == 32633
    px = table.x["p0"] + 10 * np.arange(-2, 3)[None, :] + np.zeros((5, 1))
    py = table.y["p0"] - 10 * np.arange(-2, 3)[:, None] + np.zeros((1, 5))
    east, _ = Transformer.from_crs(32633, 32634, always_xy=True).transform(px, py)
    column = (east - left) / 10
    np.testing.assert_array_equal(images["p0"][2, 0], 1000 + 20 * np.floor(column))
    np.testing.assert_allclose(images["p0"][2, 8], 1000 + 20 * (column - 1), atol=0.51)  # linear: bilinear is exact


def test_the_southern_hemisphere_the_equator_and_the_antimeridian(world: World) -> None:
    south_lon, south_lat = at([(30, 30)], left=500_000, top=6_200_000, epsg=32733)
    world.scene("S2A_south", "2020-01-05T10:00:00Z", epsg=32733, top=6_200_000, value=gradient(), tile="33HXX")
    # A point 25 m north of the equator, seen by a scene of the southern half of the zone alone.
    north_lon, north_lat = at([(30, 0)], left=500_000, top=30, epsg=32633)
    world.scene("S2A_equator", "2020-02-05T10:00:00Z", epsg=32733, top=10_000_300, value=gradient(), tile="33MXX")
    # 180 degrees east: zone 1, seen by a scene of zone 60 across the antimeridian.
    x, y = Transformer.from_crs(4326, 32760, always_xy=True).transform(180.0, -17.0)
    left, top = round(x / 20) * 20 - 300, round(y / 20) * 20 + 300
    world.scene("S2A_60KXX", "2020-03-05T10:00:00Z", epsg=32760, left=left, top=top, tile="60KXX",
                bbox=[179.99, -17.01, -179.99, -16.99])  # fmt: skip
    lon, lat = [*south_lon, *north_lon, 180.0, 10.0], [*south_lat, *north_lat, -17.0, 85.0]
    report, store = run(world, lon, lat)
    images, table = by_id(store)
    assert table.epsg.to_dict() == {"p0": 32733, "p1": 32633, "p2": 32701}
    fine = np.arange(3600).reshape(60, 60)
    np.testing.assert_array_equal(images["p0"][0, 0], fine[28:33, 28:33] + 100)
    np.testing.assert_array_equal(images["p1"][1, 0], fine[25:30, 28:33] + 100)
    assert np.unique(images["p2"][2]).tolist() == [1000]
    assert report.refused == {"no UTM zone north of 84 N or south of 80 S": 1}
    refused = pd.read_parquet(world.folder.parent / "out" / "refused.parquet")
    assert refused.sample_id.tolist() == ["p3"]


def test_a_scene_in_another_projection_and_one_without_georeference(world: World) -> None:
    lon, lat = at([(30, 30)])
    step = 0.0002
    world.scene(
        "S2A_degrees", "2020-03-05T10:00:00Z", degrees=(lon[0] - 30 * step, lat[0] + 30 * step, step),
        bbox=[lon[0] - 0.01, lat[0] - 0.01, lon[0] + 0.01, lat[0] + 0.01],
    )  # fmt: skip
    item = world.scene("S2A_plain", "2020-04-05T10:00:00Z", georeferenced=False, value=gradient())
    for asset in item["assets"].values():  # the item speaks of twice the resolution, as where rasters are overviews
        size = asset["proj:shape"][0]
        a, _, c, _, e, f = asset["proj:transform"]
        asset |= {"proj:transform": [a / 2, 0, c, 0, e / 2, f], "proj:shape": [2 * size, 2 * size]}
    world.scene("S2A_nowhere", "2020-05-05T10:00:00Z", georeferenced=False)
    for asset in world.items[-1]["assets"].values():
        del asset["proj:transform"]
    report, store = run(world, lon, lat)
    images, _ = by_id(store)
    assert np.unique(images["p0"][2]).tolist() == [1000]
    np.testing.assert_array_equal(images["p0"][3, 0], (np.arange(3600).reshape(60, 60) + 100)[28:33, 28:33])
    assert list(report.lost) == ["S2A_nowhere"]
    assert "georeference" in report.lost["S2A_nowhere"]
