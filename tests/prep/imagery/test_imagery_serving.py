"""Which scenes serve a point: the newest baseline, the nearest clear year; scenes that are lost are named."""

import shutil

import numpy as np
import pandas as pd
import pytest
from imagery_runs import by_id, run
from imagery_world import World, at

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.offsets import OffsetContradiction
from geotreeclip.schema import MISSING_DN


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
