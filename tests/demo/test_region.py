"""The region: what is written is what was planted, and its outlines hold their stands."""

from __future__ import annotations

import csv

import numpy as np
import pytest

pytest.importorskip("rasterio")

import rasterio
from rasterio.features import rasterize

from geotreeclip.cli import main
from geotreeclip.demo.region import make_region, plant_region
from geotreeclip.errors import ConfigError
from geotreeclip.mapping.stack import open_stack
from geotreeclip.prep.environment import sample_environment
from geotreeclip.prep.raster_files import find_rasters
from geotreeclip.schema import BANDS, VARIABLES


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    out = tmp_path_factory.mktemp("region")
    return out, make_region(out, 24, 30, samples=400, stands=5)


def test_files_hold_what_was_planted(region):
    out, planted = region
    stack = open_stack(out / "stack.tif")
    assert (stack.months, stack.bands) == (tuple(range(1, 13)), BANDS)
    stored = stack.read(0, 24, 0, 30)
    np.testing.assert_array_equal(np.where(np.isnan(stored), 65535, stored), planted.images)
    with rasterio.open(out / "truth.tif") as truth, rasterio.open(out / "forest.tif") as forest:
        rows, inside = truth.read(1), forest.read(1) == 1
        assert (truth.crs, truth.transform, truth.shape) == (forest.crs, forest.transform, (24, 30))
        place = truth.lnglat()
    np.testing.assert_array_equal(inside, planted.stand >= 0)
    np.testing.assert_array_equal(rows[inside], planted.species[planted.stand[inside]])
    assert (rows[~inside] == 65535).all()
    assert place == pytest.approx((planted.longitude, planted.latitude), abs=1e-3)
    names = [row["species"] for row in csv.DictReader((out / "species.csv").open())]
    assert len(names) == 60


def test_outlines_hold_their_stands(region):
    geopandas = pytest.importorskip("geopandas")
    out, planted = region
    frame = geopandas.read_file(out / "stands.geojson")
    with rasterio.open(out / "truth.tif") as truth:
        assert frame.crs.to_epsg() == truth.crs.to_epsg()
        drawn = rasterize(zip(frame.geometry, frame["stand"], strict=True), truth.shape, -1, transform=truth.transform)
    np.testing.assert_array_equal(drawn, planted.stand)


def test_rasters_hold_the_place(region):
    out, planted = region
    found = sample_environment(
        np.array([planted.longitude]), np.array([planted.latitude]), find_rasters([out / "rasters"])
    )  # fmt: skip
    assert set(found.report.variables) == {variable.name for variable in VARIABLES[2:]}
    steady = [column for column, variable in enumerate(VARIABLES) if variable.name != "aspect"]
    np.testing.assert_allclose(found.values[0, steady], planted.environment[steady], rtol=0.05, atol=0.01)


def test_the_same_seed_gives_the_same_region_and_bad_sizes_are_refused(region, capsys, tmp_path):
    again = make_region(tmp_path / "again", 24, 30, samples=400, stands=5)
    np.testing.assert_array_equal(again.images, region[1].images)
    with pytest.raises(ConfigError, match="at least 10 x 10"):
        plant_region(None, 5, 5)  # type: ignore[arg-type]


def test_the_command(region, capsys, tmp_path):
    command = ["demo", "--region", "--out", str(tmp_path / "small"), "--samples", "400", "--stands", "5"]
    assert main([*command, "--size", "24", "30"]) == 0
    assert "24 x 30 pixels at" in capsys.readouterr().out
    np.testing.assert_array_equal(
        open_stack(tmp_path / "small" / "stack.tif").read(0, 24, 0, 30),
        open_stack(region[0] / "stack.tif").read(0, 24, 0, 30),
    )
    assert main([*command, "--size", "3", "3"]) == 2
    assert capsys.readouterr().err.startswith("error: region of 3 x 3 pixels")
    assert main([*command, "--raw"]) == 2
    assert main(["demo", "--out", str(tmp_path / "world"), "--stands", "3"]) == 2
    assert "belong to --region" in capsys.readouterr().err
