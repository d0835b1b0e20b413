"""Maps: each pixel is what classify says of its patch, whatever the tiles; files that other programs read."""

from __future__ import annotations

import csv
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rasterio")
sys.path.insert(0, str(Path(__file__).parent))

import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin
from stacks import CRS, NORTH, WEST, forest, write_raster, write_stack

from geotreeclip.cli import main
from geotreeclip.errors import DataError
from geotreeclip.inference import load
from geotreeclip.inputs.common import InputWarning
from geotreeclip.mapping import job as job_module
from geotreeclip.mapping.job import MapOptions, MapReport, make_map
from geotreeclip.mapping.tiles import BLOCK, ENTROPY_SCALE, NODATA, PROBABILITY_SCALE, classify_tile
from geotreeclip.models.calibration import Calibration, write_calibration

HEIGHT, WIDTH = 37, 45
QUIET = MapOptions(device="cpu", progress=False, prior="uniform")


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return forest(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def stack(values, tmp_path_factory) -> Path:
    return write_stack(tmp_path_factory.mktemp("stack") / "stack.tif", values)


@pytest.fixture(scope="module")
def rasters(tmp_path_factory) -> Path:
    """Four variables, on a grid of 90 m."""
    folder = tmp_path_factory.mktemp("rasters")
    rng = np.random.default_rng(3)
    for name, low, high in (
        ("wc2.1_30s_bio_1.tif", -4, 22),
        ("wv0033_0-5cm_mean.tif", 100, 500),
        ("slope.tif", 0, 60),
        ("aspect.tif", 0, 360),
    ):
        cells = rng.uniform(low, high, (1, 6, 6)).astype(np.float32)
        write_raster(folder / name, cells, transform=from_origin(WEST - 5, NORTH + 5, 90, 90), nodata=-9999.0)
    return folder


@pytest.fixture(scope="module")
def stands(tmp_path_factory) -> Path:
    """Three stands: six whole pixels; a quarter of one pixel and another; the corner without data."""
    geopandas = pytest.importorskip("geopandas")
    from shapely.geometry import box

    def pixels(left: float, top: float, right: float, bottom: float):
        return box(WEST + 10 * left, NORTH - 10 * bottom, WEST + 10 * right, NORTH - 10 * top)

    shapes = [pixels(4, 6, 7, 8), pixels(20.5, 14.5, 22, 15), pixels(40, 33, 44, 36)]
    path = tmp_path_factory.mktemp("stands") / "stands.gpkg"
    geopandas.GeoDataFrame({"name": list("abc")}, geometry=shapes, crs=CRS).to_crs(4326).to_file(path)
    return path


@pytest.fixture(scope="module")
def mapped(stack, rasters, stands, tiny_model_dir, tmp_path_factory) -> tuple[Path, MapReport]:
    out = tmp_path_factory.mktemp("map") / "map.tif"
    options = replace(QUIET, rasters=(str(rasters),), tile=48, polygons=str(stands))
    return out, make_map(stack, out, tiny_model_dir, options)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes longer than mapping; the map of the module has its picture."""
    monkeypatch.setattr(job_module, "write_quicklook", lambda *_: None)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


def place(row: int, column: int) -> tuple[float, float]:
    x, y = WEST + 10 * column + 5, NORTH - 10 * row - 5
    return Transformer.from_crs(CRS, 4326, always_xy=True).transform(x, y)


def patch(values: np.ndarray, row: int, column: int) -> np.ndarray:
    """[12, 10, 5, 5] as a user would cut it: NaN beyond the edges and where nothing is known."""
    padded = np.full((*values.shape[:2], HEIGHT + 4, WIDTH + 4), np.nan)
    padded[:, :, 2:-2, 2:-2] = np.where(values == 65535, np.nan, values)
    return padded[:, :, row : row + 5, column : column + 5]


def at(raster: Path, row: int, column: int) -> float:
    """The value of a raster at the centre of a pixel."""
    with rasterio.open(raster) as source:
        x, y = WEST + 10 * column + 5, NORTH - 10 * row - 5
        return float(next(source.sample([(x, y)]))[0])


def surroundings(rasters: Path, row: int, column: int) -> dict[str, float]:
    names = {
        "bio01": "wc2.1_30s_bio_1",
        "soil_moisture_0_5cm": "wv0033_0-5cm_mean",
        "slope": "slope",
        "aspect": "aspect",
    }
    return {name: at(rasters / f"{file}.tif", row, column) for name, file in names.items()}


PIXELS = [(0, 0), (0, WIDTH - 1), (HEIGHT - 1, 0), (1, 20), (15, 16), (16, 15), (20, 33), (HEIGHT - 7, WIDTH - 8)]


@pytest.mark.parametrize(("row", "column"), PIXELS)
def test_a_pixel_is_what_classify_says_of_its_patch(mapped, values, rasters, tiny_model_dir, row, column):
    label, probability, entropy = read(mapped[0])[:, row, column]
    if label == NODATA:
        pytest.fail(f"pixel {row}, {column} is not mapped")
    longitude, latitude = place(row, column)
    environment = surroundings(rasters, row, column)
    answer = load(tiny_model_dir, "cpu").classify(
        patch(values, row, column), environment, longitude, latitude, top_k=None, scale="dn", prior="uniform"
    )
    shares = answer.probability[0].astype(np.float64)
    assert answer.taxa[int(label)].species == answer[0].label
    assert probability * PROBABILITY_SCALE == pytest.approx(shares[0], abs=PROBABILITY_SCALE)
    assert entropy * ENTROPY_SCALE == pytest.approx(-(shares * np.log(shares)).sum(), abs=ENTROPY_SCALE)


def test_a_calibrated_model_gives_calibrated_maps(stack, values, tiny_model_dir, tmp_path):
    plain = load(tiny_model_dir, "cpu")
    calibrated = tmp_path / "model"
    shutil.copytree(tiny_model_dir, calibrated)
    write_calibration(calibrated, Calibration(temperature=3.0, model_fingerprint=plain.fingerprint))
    out = tmp_path / "map.tif"
    make_map(stack, out, calibrated, replace(QUIET, stride=9))
    row, column = 13, 22
    places = patch(values, row, column), None, *place(row, column)
    shown = read(out)[1, row // 9, column // 9] * PROBABILITY_SCALE
    soft = load(calibrated, "cpu").classify(*places, scale="dn", prior="uniform")[0].probability
    assert shown == pytest.approx(soft, abs=PROBABILITY_SCALE)
    assert abs(shown - plain.classify(*places, scale="dn", prior="uniform")[0].probability) > 0.01


def test_two_tilings_agree_bit_for_bit(mapped, stack, rasters, tiny_model_dir, tmp_path):
    other = tmp_path / "other.tif"
    make_map(stack, other, tiny_model_dir, replace(QUIET, rasters=(str(rasters),), tile=BLOCK))
    np.testing.assert_array_equal(read(other), read(mapped[0]))


def test_a_pixel_without_a_value_of_its_own_is_no_data(mapped, values):
    known = (values != 65535).any(axis=(0, 1))
    np.testing.assert_array_equal(read(mapped[0])[0] != NODATA, known)
    assert mapped[1].classified == known.sum()
    assert mapped[1].pixels == HEIGHT * WIDTH


def test_other_programs_read_it(mapped):
    out = mapped[0]
    with rasterio.open(out) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.crs.to_epsg() == 32633
        assert source.transform == from_origin(WEST, NORTH, 10, 10)
        assert (source.dtypes[0], source.nodata, source.shape) == ("uint16", NODATA, (HEIGHT, WIDTH))
        assert source.descriptions == ("label", "probability", "entropy")
        assert source.scales == (1.0, PROBABILITY_SCALE, ENTROPY_SCALE)
        assert "weights " in source.tags()["MODEL"]
        colours = source.colormap(1)
    rows = list(csv.DictReader(out.with_name("map.legend.csv").open()))
    labels = read(out)[0]
    for row in rows:
        assert int(row["pixels"]) == (labels == int(row["index"])).sum()
        assert "#{:02x}{:02x}{:02x}".format(*colours[int(row["index"])][:3]) == row["colour"]
    used = [row["colour"] for row in rows if int(row["pixels"])]
    assert len(set(used)) == len(used) > 1
    with rasterio.open(out) as source:
        assert source.colorinterp[0].name == "palette"
    for suffix in (".png", ".qml", ".tif.aux.xml"):
        assert out.with_name("map" + suffix).stat().st_size > 100
    assert not list(out.parent.glob(".partial*"))
    assert not out.with_name("map.tif.parts").exists()


def test_stride_takes_every_nth_pixel(mapped, stack, rasters, tiny_model_dir, tmp_path):
    out = tmp_path / "coarse.tif"
    make_map(stack, out, tiny_model_dir, replace(QUIET, rasters=(str(rasters),), stride=3, tile=BLOCK))
    whole, coarse = read(mapped[0]), read(out)
    assert coarse.shape == (3, 12, 15)
    np.testing.assert_array_equal(coarse[0], whole[0, 1::3, 1::3])
    np.testing.assert_allclose(coarse[1].astype(int), whole[1, 1::3, 1::3], atol=1)
    with rasterio.open(out) as source:
        assert source.transform == from_origin(WEST, NORTH, 30, 30)


def test_mask_rank_and_labels(mapped, stack, tiny_model_dir, tmp_path):
    forest_here = np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8)
    forest_here[0, 5:20, 8:30] = 1
    mask = write_raster(tmp_path / "forest.tif", forest_here, nodata=None)
    out = tmp_path / "genus.tif"
    options = replace(QUIET, mask=str(mask), rank="genus", labels="family=Fagaceae", tile=BLOCK)
    make_map(stack, out, tiny_model_dir, options)
    labels = read(out)[0]
    np.testing.assert_array_equal(labels != NODATA, (forest_here[0] == 1) & (read(mapped[0])[0] != NODATA))
    names = [row["label"] for row in csv.DictReader(out.with_name("genus.legend.csv").open())]
    assert set(names) == {"Quercus", "Fagus"}


def test_a_stack_in_degrees_and_one_of_coarse_pixels(values, tiny_model_dir, tmp_path):
    some = values[:, :, :20, :20]
    degrees = write_stack(tmp_path / "degrees.tif", some, crs="EPSG:4326", transform=from_origin(15, 48.7, 1e-4, 1e-4))
    out = tmp_path / "map.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        make_map(degrees, out, tiny_model_dir, replace(QUIET, stride=2))
    with rasterio.open(out) as source:
        assert source.crs.to_epsg() == 4326
    row, column = 9, 13
    answer = load(tiny_model_dir, "cpu").classify(
        np.where(some == 65535, np.nan, some)[:, :, row - 2 : row + 3, column - 2 : column + 3],
        None,
        15 + (column + 0.5) * 1e-4,
        48.7 - (row + 0.5) * 1e-4,
        scale="dn",
        prior="uniform",
    )
    assert read(out)[1, row // 2, column // 2] * PROBABILITY_SCALE == pytest.approx(answer[0].probability, abs=1e-4)
    assert all(line["area_ha"] == "" for line in csv.DictReader(out.with_name("map.legend.csv").open()))
    coarse = write_stack(tmp_path / "coarse.tif", some, transform=from_origin(WEST, NORTH, 30, 30))
    with pytest.warns(InputWarning, match="pixels are 30 x 30 m"):
        make_map(coarse, tmp_path / "coarse_map.tif", tiny_model_dir, replace(QUIET, stride=9))


def test_a_full_disk_is_told_before_the_work(stack, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"needs up to 0\.03 MB while it is made, and 0\.00 MB are free"):
        make_map(stack, tmp_path / "map.tif", tiny_model_dir, QUIET)


def test_nothing_to_map_is_said(stack, tiny_model_dir, tmp_path):
    elsewhere = np.ones((1, 4, 4), dtype=np.uint8)
    mask = write_raster(
        tmp_path / "far.tif", elsewhere, transform=from_origin(WEST + 9_000, NORTH, 10, 10), nodata=None
    )
    with pytest.raises(DataError, match="no pixel has data where"):
        make_map(stack, tmp_path / "map.tif", tiny_model_dir, replace(QUIET, mask=str(mask)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.tif"]


def test_small_patches_take_the_label_of_their_neighbour(mapped, stack, rasters, tiny_model_dir, tmp_path):
    from scipy.ndimage import label as components

    out = tmp_path / "sieved.tif"
    make_map(stack, out, tiny_model_dir, replace(QUIET, rasters=(str(rasters),), minimum_unit=5, tile=BLOCK))
    before, after = read(mapped[0]), read(out)
    np.testing.assert_array_equal(after[1:], before[1:])
    np.testing.assert_array_equal(after[0] == NODATA, before[0] == NODATA)

    def smallest(labels):
        sizes = [np.bincount(components(labels == one)[0].ravel())[1:] for one in np.unique(labels) if one != NODATA]
        return min(size.min() for size in sizes)

    assert smallest(before[0]) < 5 <= smallest(after[0])


def test_stands_are_area_weighted_means(mapped, values, rasters, tiny_model_dir):
    import geopandas

    out = mapped[0]
    told = geopandas.read_file(out.with_name("map.stands.gpkg"))
    assert told["name"].tolist() == list("abc")
    rows = list(csv.DictReader(out.with_name("map.stands.csv").open()))
    model = load(tiny_model_dir, "cpu")

    def shares(row, column):
        environment = surroundings(rasters, row, column)
        longitude, latitude = place(row, column)
        answer = model.classify(
            patch(values, row, column), environment, longitude, latitude, top_k=None, scale="dn", prior="uniform"
        )
        return {answer.taxa[i].species: p for i, p in zip(answer.index[0], answer.probability[0], strict=True)}

    parts = {0: [(r, c, 1.0) for r in (6, 7) for c in (4, 5, 6)], 1: [(14, 20, 0.25), (14, 21, 0.5)]}
    for stand, pixels in parts.items():
        listed = {row["label"]: float(row["share"]) for row in rows if row["stand"] == str(stand)}
        weight = sum(part for *_, part in pixels)
        for name, share in listed.items():
            expected = sum(part * shares(row, column)[name] for row, column, part in pixels) / weight
            assert share == pytest.approx(expected, abs=1e-5)
        assert sum(listed.values()) == pytest.approx(1, abs=1e-4)
        best = max(listed, key=listed.__getitem__)
        assert told["label_1"][stand] == best
    assert told["mapped"].tolist() == [1, 1, 0]
    assert told["label_1"].isna().tolist() == [False, False, True]


def test_a_stopped_run_goes_on(mapped, stack, rasters, tiny_model_dir, tmp_path, monkeypatch):
    out, done = tmp_path / "map.tif", []

    def stopping(tile, folder):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(tile)
        return classify_tile(tile, folder)

    options = replace(QUIET, rasters=(str(rasters),), tile=BLOCK)
    monkeypatch.setattr(job_module, "classify_tile", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_map(stack, out, tiny_model_dir, options)
    assert not out.exists()
    monkeypatch.setattr(job_module, "classify_tile", classify_tile)
    with pytest.raises(DataError, match="prior was"):
        make_map(stack, out, tiny_model_dir, replace(options, prior="training"))
    report = make_map(stack, out, tiny_model_dir, options)
    assert report.resumed == 2 * BLOCK * BLOCK
    np.testing.assert_array_equal(read(out), read(mapped[0]))


def test_colours_of_another_map(mapped, stack, tiny_model_dir, tmp_path):
    legend = mapped[0].with_name("map.legend.csv")
    wanted = {row["label"]: row["colour"] for row in csv.DictReader(legend.open()) if int(row["pixels"])}
    out = tmp_path / "other.tif"
    make_map(stack, out, tiny_model_dir, replace(QUIET, colours=str(legend), tile=48, stride=4))
    found = {row["label"]: row["colour"] for row in csv.DictReader(out.with_name("other.legend.csv").open())}
    assert all(found[name] == colour for name, colour in wanted.items())


def test_the_command_says_what_it_did_and_errors_are_one_line(stack, tiny_model_dir, tmp_path, capsys):
    out = tmp_path / "map.tif"
    given = ["map", str(stack), "--out", str(out), "--model", str(tiny_model_dir), "--device", "cpu", "--stride", "9"]
    assert main(given) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == str(out)
    assert "pixels/s, peak" in told.err

    def refused(*arguments: str) -> str:
        assert main(["map", *arguments]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    assert "is there already" in refused(*given[1:])
    new = ["--out", str(tmp_path / "new.tif"), "--device", "cpu"]
    model = ["--model", str(tiny_model_dir)]
    assert "no such file" in refused(str(tmp_path / "none.tif"), *new, *model)
    assert "ends in .tif" in refused(str(stack), "--out", "map.png", *model)
    assert "no model at" in refused(str(stack), *new, "--model", str(tmp_path / "nowhere"))
    assert "multiple of 16" in refused(str(stack), *new, *model, "--tile", "50")
    assert "cannot be written" in refused(str(stack), "--out", str(stack / "map.tif"), *model)
    assert "look like digital numbers" in refused(str(stack), *new, *model, "--scale", "reflectance")
    assert "no genus 'Nonsense'" in refused(str(stack), *new, *model, "--labels", "genus=Nonsense")
    assert "is no month" in refused(str(stack), *new, *model, "--months", "0,1")
    assert "no raster found" in refused(str(stack), *new, *model, "--rasters", str(tmp_path))
    assert "no such file" in refused(str(stack), *new, *model, "--polygons", str(tmp_path / "no.gpkg"))
    assert "cannot be opened" in refused(str(stack), *new, *model, "--mask", str(tmp_path / "no.tif"))
