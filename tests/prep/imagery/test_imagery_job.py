"""The imagery job on planted scenes: what was planted comes back, and what is broken is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imagery_world import World, at, occurrences

pytest.importorskip("pyproj")
from pyproj import Transformer

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery import job
from geotreeclip.prep.imagery.command import main
from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.offsets import OffsetContradiction
from geotreeclip.prep.imagery.report import ImageryReport
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS, MISSING_DN

FINE = ("B2", "B3", "B4", "B8")


def run(world: World, lon: Any, lat: Any, own: Any = 2020, **options: Any) -> tuple[ImageryReport, ImageryStore]:
    out = world.folder.parent / "out"
    table = occurrences(world.folder.parent / "occurrences.parquet", lon, lat, own)
    running = {key: options.pop(key) for key in ("points_per_part", "workers", "retries") if key in options}
    report = sample_imagery(
        table, out, ImageryOptions(str(world.catalog()), **options), **{"retries": 0, **running}, progress=False
    )
    return report, ImageryStore(out)


def by_id(store: ImageryStore) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    images = store.read(np.arange(len(store)))
    return dict(zip(store.sample_ids, images, strict=True)), store.table().set_index("sample_id")


def gradient(plus: int = 0) -> Any:
    """Every pixel of 10 m unlike its neighbours, other in each band; 20 m bands likewise."""

    def value(band: str, base: np.ndarray) -> np.ndarray:
        return base + 100 + plus + 200 * BANDS.index(band) + np.arange(base.size).reshape(base.shape) % 4001

    return value


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


def test_the_newest_baseline_counts_and_an_acquisition_counts_once(world: World) -> None:
    # The same acquisition: two baselines of one tile, and a second tile that overlaps it by 20 pixels.
    world.scene("S2A_old", "2020-03-05T10:00:00Z", value=9000, baseline="02.12")
    world.scene("S2A_new", "2020-03-05T10:00:00Z", value=2000, baseline="05.00", offset=-0.1)
    world.scene("S2A_east", "2020-03-05T10:00:04Z", value=2002, baseline="05.00", offset=-0.1, tile="33TXM",
                left=500_400)  # fmt: skip
    world.scene("S2A_next", "2020-03-15T10:00:00Z", value=3000)
    lon, lat = at([(20, 30), (50, 30), (59, 30), (70, 30)])
    report, store = run(world, lon, lat, audit=False)
    images, table = by_id(store)
    assert np.unique(images["p0"][2]).tolist() == [2000]
    assert np.unique(images["p1"][2]).tolist() == [2000]  # in both tiles: once, so 1000 and 3000
    assert np.unique(images["p3"][2]).tolist() == [1002]
    # Beside the edge of the first tile the second holds the margin; beyond column 60 the other day has nothing.
    assert np.unique(images["p2"][2, :, :, :3]).tolist() == [2001]
    assert np.unique(images["p2"][2, :, :, 3:]).tolist() == [1002]
    assert [table.scenes[name][2] for name in ("p0", "p1", "p2", "p3")] == [2, 2, 2, 1]
    assert report.left == {"exists with a newer processing baseline": 1}
    scenes = pd.read_parquet(world.folder.parent / "out" / "scenes.parquet").set_index("id")
    assert scenes.offset.to_dict() == {"S2A_new": -1000, "S2A_east": -1000, "S2A_next": 0}


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


def test_lost_and_damaged_scenes_are_named_and_the_others_serve(world: World) -> None:
    for number, name in enumerate(("S2A_good", "S2A_gone", "S2A_cut", "S2A_band", "S2A_many", "S2A_text")):
        world.scene(name, f"2020-03-{number + 1:02d}T10:00:00Z", value=1000 + number)
    (world.folder / "S2A_gone" / "SCL.tif").unlink()
    for name, file in (("S2A_cut", "SCL.tif"), ("S2A_band", "B11.tif")):
        path = world.folder / name / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])
    shutil.copy(world.folder / "S2A_good" / "B02.tif", world.folder / "S2A_many" / "B02.tif")
    (world.folder / "S2A_text" / "B03.tif").write_text("<VRTDataset/>")
    lon, lat = at([(30, 30), (10, 10)])
    report, store = run(world, lon, lat)
    images, table = by_id(store)
    assert sorted(report.lost) == ["S2A_band", "S2A_cut", "S2A_gone", "S2A_text"]
    assert "B11.tif" in report.lost["S2A_band"]
    assert "S2A_gone" in report.text()
    assert np.unique(images["p0"][2, 1:]).tolist() == [1002]
    assert table.scenes["p0"][2] == 2
    assert not report.failed


def test_where_a_tile_is_lost_the_other_tile_of_the_acquisition_serves(world: World) -> None:
    world.scene("S2A_a", "2020-03-05T10:00:00Z", value=1000)
    world.scene("S2A_b", "2020-03-05T10:00:00Z", value=2000, tile="33TXM")
    (world.folder / "S2A_a" / "B12.tif").unlink()
    lon, lat = at([(30, 30)])
    report, store = run(world, lon, lat)
    assert np.unique(by_id(store)[0]["p0"][2]).tolist() == [2000]
    assert list(report.lost) == ["S2A_a"]


def test_bands_that_a_catalog_lacks(world: World) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z", bands=("B2", "B3", "B4", "B8"))
    lon, lat = at([(30, 30)])
    with pytest.raises(ConfigError, match=r"no scene has B5, B6.*--bands .*B2, B3, B4, B8.*--allow-missing-bands"):
        run(world, lon, lat)
    shutil.rmtree(world.folder.parent / "out")
    report, store = run(world, lon, lat, allow_missing_bands=True)
    images = by_id(store)[0]["p0"]
    assert np.unique(images[2, :4]).tolist() == [1000]
    assert (images[2, 4:] == MISSING_DN).all()
    shutil.rmtree(world.folder.parent / "out")
    _, store = run(world, lon, lat, bands=("B8", "B2"))
    assert (by_id(store)[0]["p0"][2] == MISSING_DN).all(axis=(1, 2)).tolist() == [False, True, True, False, *[True] * 6]
    assert store.document["bands_read"] == ["B2", "B8"]
    assert report.samples == 1


def plain(folder: Path) -> tuple[list[str], np.ndarray, pd.DataFrame]:
    store = ImageryStore(folder)
    return store.sample_ids, store.read(np.arange(len(store))), store.table()


def many(world: World) -> tuple[Any, Any, list[int]]:
    """Points of two zones, two squares, two years."""
    rng = np.random.default_rng(3)
    for name, year in (("S2A_1", 2020), ("S2A_2", 2021)):
        world.scene(name, f"{year}-03-05T10:00:00Z", value=gradient(year % 100))
        world.scene(f"{name}_34", f"{year}-04-05T10:00:00Z", epsg=32634, left=400_000, value=gradient(5), tile="34TDS")
    lon, lat = at([tuple(pair) for pair in rng.integers(-3, 63, (9, 2))])
    more = at([(10, 10), (40, 40), (41, 40)], left=400_000, epsg=32634)
    return [*lon, *more[0]], [*lat, *more[1]], [2020, 2021, 2021] * 4


def test_the_result_does_not_depend_on_parts_and_workers(world: World) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years)
    whole = plain(out)
    assert len(list((out / "parts").iterdir())) == 3
    shutil.rmtree(out)
    run(world, lon, lat, years, points_per_part=2)
    assert len(list((out / "parts").iterdir())) == 7
    cut = plain(out)
    shutil.rmtree(out)
    run(world, lon, lat, years, workers=2)
    for other in (cut, plain(out)):
        assert whole[0] == other[0]
        np.testing.assert_array_equal(whole[1], other[1])
        pd.testing.assert_frame_equal(whole[2], other[2])


def test_the_order_of_the_table_does_not_matter(world: World) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years)
    whole = plain(out)
    shutil.rmtree(out)
    table = world.folder.parent / "occurrences.parquet"
    pd.read_parquet(table).sample(frac=1, random_state=1).to_parquet(table)
    sample_imagery(table, out, ImageryOptions(str(world.catalog())), progress=False)
    again = plain(out)
    assert whole[0] == again[0]
    np.testing.assert_array_equal(whole[1], again[1])


def test_a_stopped_run_goes_on_and_ends_in_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years, points_per_part=2)
    whole = plain(out)
    shutil.rmtree(out)
    parts: list[int] = []
    real = job.sample_years

    def dies(*args: Any) -> Any:
        if len(parts) == 3:
            raise KeyboardInterrupt
        parts.append(1)
        return real(*args)

    monkeypatch.setattr(job, "sample_years", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world, lon, lat, years, points_per_part=2)
    with pytest.raises(DataError, match="is the imagery job finished"):
        ImageryStore(out)
    monkeypatch.setattr(job, "sample_years", real)
    run(world, lon, lat, years, points_per_part=2)
    again = plain(out)
    assert whole[0] == again[0]
    np.testing.assert_array_equal(whole[1], again[1])
    with pytest.raises(DataError, match="other options"):
        run(world, lon, lat, years, points_per_part=2, year="2020")


def test_a_part_that_fails_does_not_sink_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lon, lat, years = many(world)
    real = job.locate

    def fails(longitude: Any, latitude: Any, epsg: int) -> Any:
        if epsg == 32634:
            raise OSError("disk on fire")
        return real(longitude, latitude, epsg)

    monkeypatch.setattr(job, "locate", fails)
    report, store = run(world, lon, lat, years)
    assert len(store) == 9
    assert "disk on fire" in report.text()
    assert not store.document["complete"]


def test_the_nearest_year_in_which_the_place_was_seen_clear(world: World) -> None:
    world.scene("S2A_17", "2017-03-05T10:00:00Z", value=1700)
    world.scene("S2A_19", "2019-03-05T10:00:00Z", value=1900)
    world.scene("S2A_20", "2020-03-05T10:00:00Z", value=2000, classes=9)
    world.scene("S2A_23", "2023-03-05T10:00:00Z", value=2300)
    lon, lat = at([(30, 30)] * 6)
    own = [2018, 2020, 2021, 2022, 2009, 2012]
    report, store = run(world, lon, lat, own, year="nearest")
    images, table = by_id(store)
    table = table.sort_index()
    assert table.year_used.tolist() == [2017, 2019, 2019, 2023, pd.NA, 2017]  # of two as near, the earlier
    assert table.year_difference.tolist() == [-1, -1, -2, 1, pd.NA, 5]
    assert images["p3"][2, 0, 0, 0] == 2300
    assert (images["p4"] == MISSING_DN).all()
    assert report.without == 1
    assert report.differences == {"-2": 1, "-1": 2, "1": 1, "5": 1}


def test_a_fixed_year_serves_samples_without_one(world: World) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    lon, lat = at([(30, 30), (31, 30)])
    years = pd.array([2018, pd.NA], dtype="Int32")
    report, store = run(world, lon, lat, years, year="2020")
    _, table = by_id(store)
    assert table.year_used.tolist() == [2020, 2020]
    assert table.sort_index().year_difference.tolist() == [2, pd.NA]
    shutil.rmtree(world.folder.parent / "out")
    report, store = run(world, lon, lat, years)
    assert report.refused == {"no year of observation (give --year YEAR)": 1}
    assert (by_id(store)[0]["p0"] == MISSING_DN).all()
    assert report.without == 1


def test_dark_pixels_that_contradict_the_offset_stop_the_job(world: World) -> None:
    rng = np.random.default_rng(5)

    def forest(band: str, base: np.ndarray) -> np.ndarray:
        return base + (rng.gamma(4, 60, base.shape) + 60).astype(np.uint16)

    world.scene("S2A_lies", "2022-03-05T10:00:00Z", value=forest, baseline="04.00", offset=-0.1,
                properties={"earthsearch:boa_offset_applied": False})  # fmt: skip
    lon, lat = at([(10 * n + 5, 30) for n in range(5)])
    with pytest.raises(OffsetContradiction, match=r"S2A_lies: 1000 was subtracted .*below -\d+.*--offset 'S2A_lies="):
        run(world, lon, lat, 2022)
    assert not (world.folder.parent / "out" / "imagery.json").exists()
    shutil.rmtree(world.folder.parent / "out")
    report, store = run(world, lon, lat, 2022, offsets=("S2A_lies=0",))
    assert (store.read(np.arange(5))[:, 2] < 2000).all()
    assert list(report.offsets) == ["given by --offset, +0"]
    shutil.rmtree(world.folder.parent / "out")
    report, _ = run(world, lon, lat, 2022, audit=False)
    assert report.clipped == 5 * 250 * 1 or report.clipped > 1000


def test_input_that_cannot_be(world: World, tmp_path: Path) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    catalog = str(world.catalog())
    lon, lat = at([(30, 30)])
    good = occurrences(tmp_path / "good.parquet", lon, lat)

    def fails(
        kind: type[Exception], match: str, table: Path = good, out: Path = tmp_path / "out", **options: Any
    ) -> None:
        with pytest.raises(kind, match=match):
            sample_imagery(table, out, ImageryOptions(**{"catalog": catalog, **options}), progress=False, retries=0)

    fails(DataError, "cannot be read as a table", tmp_path / "none.parquet")
    pd.DataFrame({"longitude": [1.0]}).to_parquet(tmp_path / "bare.parquet")
    fails(DataError, "no column sample_id, latitude", tmp_path / "bare.parquet")
    twice = occurrences(tmp_path / "twice.parquet", [*lon, *lon], [*lat, *lat])
    pd.read_parquet(twice).assign(sample_id="a").to_parquet(twice)
    fails(DataError, "'a' comes more than once", twice)
    fails(DataError, "no sample can be placed", occurrences(tmp_path / "pole.parquet", [0.0], [90.0]))
    fails(ConfigError, "--bands", bands=("B1",))
    fails(ConfigError, "--year", year="2004")
    fails(ConfigError, "--sign", sign="nobody")
    fails(ConfigError, "cannot be loaded", sign="nobody:sign")
    fails(DataError, "--catalog is to be", catalog=str(tmp_path / "no.json"))
    (tmp_path / "file").write_text("")
    fails(DataError, "cannot be written", out=tmp_path / "file")
    fails(DataError, "cannot be written", out=tmp_path / "file" / "below")
    empty = World(tmp_path / "empty")
    fails(DataError, "no scene that can be read among 0 items", catalog=str(empty.catalog()))


def test_the_precision_of_coordinates_decides(world: World) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    lon, lat = at([(30, 30)] * 3)
    table = occurrences(world.folder.parent / "o.parquet", lon, lat, precision=["imagery", "environment", "unknown"])
    report = sample_imagery(
        table, world.folder.parent / "out", ImageryOptions(str(world.catalog())), progress=False
    )  # fmt: skip
    assert report.samples == 2
    assert sum(report.refused.values()) == 1


def test_the_command_reports_and_writes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    world.links = ["./gone.json"]
    lon, lat = at([(30, 30)])
    base = world.folder.parent
    table = base / "points.csv"
    pd.DataFrame({"sample_id": ["a"], "longitude": lon, "latitude": lat, "year": 2020}).to_csv(table, index=False)
    arguments = ["--occurrences", str(table), "--catalog", str(world.catalog()), "--out", str(base / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 points in 1 parts" in printed
    assert "1 links lead nowhere" in printed
    assert "imagery.json" in printed
    document = json.loads((base / "out" / "imagery.json").read_text())
    assert (document["bands"], document["steps"], document["size"]) == (list(BANDS), 12, 5)
    assert document["parts"][0]["rows"] == 1
    (world.folder / "S2A_1.json").unlink()
    with pytest.raises(DataError, match="no scene that can be read"):
        main(arguments)
