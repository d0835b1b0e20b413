"""The raw files hold what the truth beside them says: read back with GDAL alone, by rules written down here again."""

import json
import zipfile
from collections import defaultdict
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.raw import make
from geotreeclip.demo.raw.backbone import SYNONYMS
from geotreeclip.demo.raw.command import main
from geotreeclip.demo.raw.layout import AREAS
from geotreeclip.demo.raw.make import make_raw_world
from geotreeclip.demo.raw.planting import schedule
from geotreeclip.demo.raw.rasters import raster_name
from geotreeclip.demo.raw.scenes import ASSETS
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import MISSING_DN, VARIABLE_INDEX, VARIABLES

pystac = pytest.importorskip("pystac")
rasterio = pytest.importorskip("rasterio")
warp = pytest.importorskip("rasterio.warp")
ndimage = pytest.importorskip("scipy.ndimage")


def items_of(folder):
    """Items of the catalog as pystac finds them, by its links alone."""
    return list(pystac.Catalog.from_file(str(folder / "stac" / "catalog.json")).get_items(recursive=True))


@pytest.fixture(scope="module")
def world(raw_world):
    return raw_world, PackedDataset(raw_world / "truth"), items_of(raw_world)


def records(folder):
    with zipfile.ZipFile(folder / "occurrences.zip") as archive:
        (name,) = archive.namelist()
        lines = archive.read(name).decode().split("\n")
    header = lines[0].split("\t")
    return header, [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:] if line]


def passes_of(items):
    """Acquisition (its start, without the baseline) -> the items of its newest baseline."""
    found = defaultdict(list)
    for item in items:
        found[item.properties["s2:datatake_id"].rpartition("_N")[0]].append(item)
    return {
        key: [i for i in group if i.properties["s2:processing_baseline"] == newest]
        for key, group in found.items()
        for newest in [max(i.properties["s2:processing_baseline"] for i in group)]
    }


def clear_pixels(scl, widening):
    """Clear pixels of 10 m by classes of 20 m, clouds widened by 40 m as a disc or a square, at 10 m or at 20 m."""
    fine = scl.repeat(2, axis=0).repeat(2, axis=1)
    reach = 4 if widening.endswith("10 m") else 2
    grid = fine if reach == 4 else scl
    steps = np.arange(-reach, reach + 1)
    shape = steps[:, None] ** 2 + steps**2 <= reach**2 if widening.startswith("disc") else np.ones((2 * reach + 1,) * 2)
    wide = ndimage.binary_dilation(np.isin(grid, (3, 8, 9)), shape)
    wide = wide if reach == 4 else wide.repeat(2, axis=0).repeat(2, axis=1)
    return ~wide & ~np.isin(fine, (0, 1, 10, 11))


def bands_at_10_m(item):
    """All ten bands of a scene by GDAL's bilinear resampling, without their offset; NaN for no data."""
    from rasterio.enums import Resampling

    layers = []
    for asset in ASSETS[:-1]:
        with rasterio.open(item.assets[asset].get_absolute_href()) as source:
            assert source.profile["driver"] == "GTiff"
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            factor = int(source.res[0] / 10)
            shape = (source.height * factor, source.width * factor)
            stored = source.read(1, out_shape=shape, resampling=Resampling.bilinear).astype(float)
        band = item.assets[asset].extra_fields["raster:bands"][0]
        offset = 0 if item.properties["earthsearch:boa_offset_applied"] else round(band["offset"] / band["scale"])
        layers.append(np.where(stored == 0, np.nan, stored + offset))
    return np.stack(layers)


@pytest.fixture(scope="module")
def seen(world):
    """Each sample in each acquisition, in whatever tile it is met first: row, month, values and classes around it."""
    folder, _, items = world
    looks = pd.read_parquet(folder / "truth" / "looks.parquet")
    found = []
    for group in passes_of(items).values():
        done = set()
        for item in group:
            with rasterio.open(item.assets["SCL"].get_absolute_href()) as source:
                epsg, bounds, scl = source.crs.to_epsg(), source.bounds, source.read(1)
            near = looks[(looks["epsg"] == epsg) & looks["x"].between(bounds.left + 100, bounds.right - 100)]
            near = near[near["y"].between(bounds.bottom + 100, bounds.top - 100) & ~near.index.isin(done)]
            if near.empty:
                continue
            values = bands_at_10_m(item)
            month = datetime.fromisoformat(item.properties["datetime"]).month - 1
            for row, x, y in near[["x", "y"]].itertuples():
                done.add(row)
                top, left = int((bounds.top - y) // 10) - 2, int((x - bounds.left) // 10) - 2
                first = [place // 2 - 4 for place in (top, left)]  # cells of 20 m, far enough for the widening
                patch = values[:, top : top + 5, left : left + 5]
                classes = scl[first[0] : first[0] + 11, first[1] : first[1] + 11]
                found.append((row, month, patch, classes, (top - 2 * first[0], left - 2 * first[1])))
    return looks, found


@pytest.mark.parametrize("widening", ["disc at 10 m", "square at 10 m", "disc at 20 m", "square at 20 m"])
def test_monthly_medians_read_directly_are_the_truth(world, seen, widening):
    _, truth, _ = world
    looks, found = seen
    stack = np.full((3, len(looks), 12, 10, 5, 5), np.nan)
    scenes = np.zeros((len(looks), 12), int)
    for row, month, values, classes, (top, left) in found:
        clear = clear_pixels(classes, widening)[top : top + 5, left : left + 5]
        if clear.any():
            stack[scenes[row, month], row, month] = np.where(clear, np.maximum(values, 1), np.nan)
            scenes[row, month] += 1
    stack.sort(axis=0)  # NaN last
    count = (~np.isnan(stack)).sum(axis=0)
    low, high = (
        np.take_along_axis(stack, np.maximum(place, 0)[None], axis=0)[0] for place in ((count - 1) // 2, count // 2 % 3)
    )
    wanted = truth.read(np.arange(len(truth))).images
    np.testing.assert_array_equal(np.where(count > 0, (low + high) / 2, MISSING_DN), wanted)
    np.testing.assert_array_equal(scenes, np.stack(looks["scenes"]))


def test_truth_has_all_that_makes_it_hard(world):
    folder, truth, items = world
    looks = pd.read_parquet(folder / "truth" / "looks.parquet")
    images = truth.read(np.arange(len(truth))).images
    missing = images[:, :, 0] == MISSING_DN
    whole, some = missing.all(axis=(2, 3)), missing.any(axis=(2, 3))
    assert 0.1 < whole.mean() < 0.5
    assert 0.02 < (some & ~whole).mean() < 0.3
    np.testing.assert_array_equal(missing, (images == MISSING_DN).any(axis=2))  # bands are missing together
    assert set(np.unique(np.stack(looks["scenes"]))) == {0, 1, 2, 3}
    assert (looks["clipped"] > 0).any()
    assert (images == 1).sum() >= looks["clipped"].sum() > 0
    assert set(looks["epsg"] // 100) == {326, 327}
    assert looks["epsg"].nunique() >= 3
    assert set(looks["year_difference"].dropna()) == {-1, 0, 1}
    properties = [item.properties for item in items]
    assert {p["s2:processing_baseline"] >= "04.00" for p in properties} == {True, False}
    assert {(p["s2:processing_baseline"] >= "04.00", p["earthsearch:boa_offset_applied"]) for p in properties} == {
        (False, False), (True, False), (True, True),
    }  # fmt: skip
    passes = passes_of(items)
    assert sum(map(len, passes.values())) < len(items)  # some are processed twice
    # Some exist in two tiles: of one zone, and of two.
    assert {len({item.properties["mgrs:utm_zone"] for item in group}) for group in passes.values() if group[1:]} == {
        1,
        2,
    }
    assert len({item.id for item in items}) == len(items)
    assert len({item.properties["grid:code"] for item in items}) == 6


def test_overlapping_tiles_agree_and_each_slot_lies_whole_in_one(world):
    _, _, items = world
    for group in passes_of(items).values():
        if len({item.properties["mgrs:utm_zone"] for item in group}) < len(group):
            first, second = (rasterio.open(item.assets["B05"].get_absolute_href()) for item in group)
            low, high = max(first.bounds.left, second.bounds.left), min(first.bounds.right, second.bounds.right)
            assert high > low
            parts = [
                s.read(1)[:, int((low - s.bounds.left) / 20) : int((high - s.bounds.left) / 20)]
                for s in (first, second)
            ]
            np.testing.assert_array_equal(*parts)
            return
    raise AssertionError("no datatake of two tiles")


def test_items_say_what_their_rasters_are(world):
    folder, _, items = world
    for item in items[::7]:
        code = item.properties.get("proj:code") or f"EPSG:{item.properties['proj:epsg']}"
        for name in ("B04", "SCL"):
            asset = item.assets[name]
            assert asset.href.startswith("./")
            with rasterio.open(asset.get_absolute_href()) as source:
                assert source.crs.to_string() == code
                assert list(source.shape) == asset.extra_fields["proj:shape"]
                assert list(source.transform)[:6] == asset.extra_fields["proj:transform"]
                assert all(edge % 60 == 0 for edge in source.bounds)
                west, south, east, north = warp.transform_bounds(source.crs, "EPSG:4326", *source.bounds)
            assert np.allclose(item.bbox, (west, south, east, north), atol=1e-3)
    assert not any("http" in link["href"] for path in (folder / "stac").rglob("*.json") for link in _links(path))


def _links(path):
    return json.loads(path.read_text())["links"]


def test_rasters_give_back_the_environment_exactly(world):
    folder, truth, _ = world
    environment = truth.read(np.arange(len(truth))).environment
    table = truth.samples()
    points = list(zip(table["longitude"], table["latitude"], strict=True))
    for column, variable in enumerate(VARIABLES):
        if variable.group == "location":
            continue
        with rasterio.open(folder / "rasters" / raster_name(variable.name)) as source:
            lon, lat = zip(*points, strict=True)
            x, y = warp.transform("EPSG:4326", source.crs, lon, lat)
            cells = np.ma.concatenate(list(source.sample(zip(x, y, strict=True), masked=True)))
        got = cells.astype(np.float32).filled(np.nan)
        np.testing.assert_array_equal(got, environment[:, column], err_msg=variable.name)
    known = environment[~np.isnan(environment[:, VARIABLE_INDEX["aspect"]])]
    assert (known[:, VARIABLE_INDEX["slope"]] >= 1).all()
    assert 0 < np.isnan(environment).mean() < 0.2


def test_records_are_a_simple_csv_of_the_samples_and_of_rows_to_refuse(world):
    folder, truth, _ = world
    header, rows = records(folder)
    assert header[:4] == ["gbifID", "datasetKey", "occurrenceID", "kingdom"]
    assert len(header) == 50
    by_id = {row["gbifID"]: row for row in rows}
    assert len(by_id) == len(rows) - 1  # one comes twice
    table, refused = truth.samples(), pd.read_csv(folder / "truth" / "refused.csv", dtype=str)
    assert len(rows) == len(table) + len(refused)
    assert set(by_id) == set(table["sample_id"]) | set(refused["sample_id"])
    assert table["sample_id"].is_monotonic_increasing
    backbone = pd.read_csv(folder / "taxonomy.csv", dtype=str, keep_default_na=False).set_index("name")
    trees = set(pd.read_csv(folder / "trees.csv")["Taxon name"])
    renamed = 0
    for sample in table.itertuples():
        row, taxon = by_id[sample.sample_id], truth.taxonomy[sample.taxon]
        assert (float(row["decimalLongitude"]), float(row["decimalLatitude"])) == (sample.longitude, sample.latitude)
        assert len(row["decimalLongitude"].partition(".")[2]) == 7
        assert not row["decimalLongitude"].endswith("0")
        entry = backbone.loc[row["species"]]
        assert (entry["accepted_name"], entry["taxon_key"]) == (taxon.species, row["taxonKey"])
        assert tuple(entry[["leaf_type", "family", "genus"]]) == taxon[:3]
        assert taxon.species in trees
        renamed += row["species"] in SYNONYMS
    assert renamed
    assert any(row["locality"].count('"') % 2 for row in rows)  # a reader that minds quotes loses its way
    assert refused["reason"].nunique() >= 13


def test_same_seed_same_files(world, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "schedule", lambda area, rng: schedule(area, rng)[:2])
    folder, _, _ = world
    made = json.loads((folder / "world.json").read_text())
    assert made["refused"] > 20
    for number in range(2):
        make_raw_world(tmp_path / str(number), 1, seed=5)
    first, second = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "01"
    )
    assert first == second


def test_command_refuses_what_it_must(world, tmp_path, capsys):
    folder, _, _ = world
    assert main(["--out", str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert main(["--out", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(ConfigError, match="10,000"):
        make_raw_world(tmp_path / "new", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        make_raw_world(tmp_path / "file", 3)


def test_areas_lie_in_the_zones_that_they_need():
    zones = {area.epsg for area in AREAS}
    assert len(zones) == len(AREAS)
    assert sum(zone // 100 == 327 for zone in zones) == 3
    first = AREAS[:3]
    assert {area.year for area in first} == {2021, 2022, 2023}
    assert any(area.latitude < 0 for area in first)
