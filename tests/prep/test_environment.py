"""Sampling rasters at coordinates: projections, edges, gaps, units, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep import environment, rasters
from geotreeclip.schema import VARIABLE_INDEX

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402
from rasterio.warp import transform as warp_points  # noqa: E402

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TOWNS = "sample_id,longitude,latitude,level3_species,level2_genus,country_code,year,Category\n"


def write_raster(path: Path, values: np.ndarray, transform, *, crs="EPSG:4326", nodata=None, scale=None, tiled=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=crs, transform=transform, nodata=nodata, **options,
    ) as sink:  # fmt: skip
        sink.write(values, 1)
        if scale is not None:
            sink.scales, sink.offsets = [scale[0]], [scale[1]]
    return path


def world(path: Path, values: np.ndarray | None = None, **options) -> Path:
    """A global raster of 10 degree cells; by default each cell holds 36 * row + column."""
    cells = np.arange(18 * 36, dtype=np.float32).reshape(18, 36) if values is None else values
    return write_raster(path, cells, from_origin(-180, 90, 10, 10), **options)


def at(path: Path, lon: list[float], lat: list[float], method: str = "nearest") -> list[float]:
    return rasters.sample_raster(path, np.array(lon), np.array(lat), method)[0].tolist()


def test_the_cell_that_holds_the_point_is_read_at_every_edge_of_the_world(tmp_path: Path) -> None:
    path = world(tmp_path / "bio01.tif")
    lon = [-180, 179.9, 180, -175, 0, 0, 350, -9.999]
    lat = [89.9, 89.9, 89.9, -90, 90, 5, 5, 5]
    assert at(path, lon, lat) == [0, 35, 0, 17 * 36, 18, 8 * 36 + 18, 8 * 36 + 17, 8 * 36 + 17]


def test_a_raster_from_0_to_360_degrees_takes_western_longitudes(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "dem.tif", np.arange(36, dtype=np.int16).reshape(1, 36), from_origin(0, 90, 10, 180))
    assert at(path, [-5, 5, -180, 180, 359], [0] * 5) == [35, 0, 18, 18, 35]


def test_points_outside_and_cells_without_data_are_missing(tmp_path: Path) -> None:
    values = np.array([[1, -9999], [3, 4]], dtype=np.float32)
    path = write_raster(tmp_path / "slope.tif", values, from_origin(10, 50, 1, 1), nodata=-9999)
    found, info = rasters.sample_raster(
        path, np.array([10.5, 11.5, 9.9, 10.5, 11.5]), np.array([49.5, 49.5, 49.5, 47.9, 48.5])
    )
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, np.nan, 4])
    assert (info.outside, info.no_data) == (2, 1)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3031", "+proj=igh +datum=WGS84 +units=m"])
def test_rasters_in_other_projections_are_read_at_the_place_of_the_point(tmp_path: Path, crs: str) -> None:
    lon, lat = (15.0, -75.0) if crs == "EPSG:3031" else (15.1, 47.3)
    (x,), (y,) = warp_points("EPSG:4326", crs, [lon], [lat])
    values = np.zeros((40, 40), dtype=np.int16)
    values[17, 23] = 77
    corner = (x - 23.5 * 250, y + 17.5 * 250)
    path = write_raster(tmp_path / "wv0033_0-5cm.tif", values, from_origin(*corner, 250, 250), crs=crs)
    assert at(path, [lon, lon], [lat, lat + 0.01]) == [77, 0]


def test_points_without_a_place_in_the_projection_are_missing_and_harm_no_other(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "dem.tif", np.full((4, 4), 5, np.int16), from_origin(-2e7, 2e7, 1e7, 1e7), crs="EPSG:3857"
    )
    np.testing.assert_array_equal(at(path, [0, 0, 10], [90, -90, 10]), [np.nan, np.nan, 5])


def test_scale_and_offset_of_the_file_are_applied(tmp_path: Path) -> None:
    cells = np.full((18, 36), 2800, dtype=np.int32)
    path = world(tmp_path / "CHELSA_bio1_1981-2010.tif", cells, scale=(0.1, -273.15))
    values, report = environment.sample_environment(np.array([5.0]), np.array([5.0]), {"bio01": [path]})
    assert values[0, VARIABLE_INDEX["bio01"]] == pytest.approx(6.85)
    assert report.variables["bio01"].rasters[0].scaled


@pytest.mark.parametrize("tiled", [False, True])
def test_windows_give_the_same_values_as_the_whole_raster(tmp_path: Path, monkeypatch, tiled: bool) -> None:
    values = np.random.default_rng(0).normal(size=(60, 120)).astype(np.float32)
    path = write_raster(tmp_path / "bio02.tif", values, from_origin(-180, 90, 3, 3), tiled=tiled)
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-180, 180, 500), rng.uniform(-90, 90, 500)
    expected = values[((90 - lat) // 3).astype(int), ((lon + 180) // 3).astype(int)]
    for cells in (1, 10**9):
        monkeypatch.setattr(rasters, "WHOLE_CELLS", cells)
        monkeypatch.setattr(rasters, "WINDOW_CELLS", 1000)
        np.testing.assert_array_equal(at(path, list(lon), list(lat)), expected)


def test_bilinear_is_exact_on_a_plane_joins_the_dateline_and_leaves_gaps_alone(tmp_path: Path) -> None:
    row, column = np.mgrid[:18, :36]
    plane = world(tmp_path / "bio01.tif", (2 * row - 3 * column).astype(np.float32))
    lon, lat = np.array([-100.0, 33.3, 2.0]), np.array([44.0, -71.2, 0.0])
    expected = 2 * ((90 - lat) / 10 - 0.5) - 3 * ((lon + 180) / 10 - 0.5)
    np.testing.assert_allclose(at(plane, list(lon), list(lat), "bilinear"), expected, atol=1e-5)
    seam = np.zeros((18, 36), dtype=np.float32)
    seam[:, 0], seam[:, 35] = 10, 20
    np.testing.assert_allclose(at(world(tmp_path / "bio02.tif", seam), [180, 177], [0, 0], "bilinear"), [15, 18])
    coast = np.full((18, 36), 8, dtype=np.float32)
    coast[:, 18:] = -1
    path = world(tmp_path / "bio03.tif", coast, nodata=-1)
    np.testing.assert_array_equal(at(path, [-0.1, 0.1], [0, 0], "bilinear"), [8, np.nan])


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("wc2.1_10m_bio_1.tif", "bio01"), ("wc2.1_30s_bio_19.tif", "bio19"), ("bio07.tif", "bio07"),
        ("CHELSA_bio10_1981-2010_V.2.1.tif", "bio10"), ("bio12.bil", "bio12"), ("bio_20.tif", None),
        ("etopo20.tif", "elevation"), ("wc2.1_10m_elev.tif", "elevation"), ("srtm_dem.tif", "elevation"),
        ("ELEVATION.TIF", "elevation"), ("slope_deg.tif", "slope"), ("aspect.tif", "aspect"), ("demo.tif", None),
        ("wv0033_0-5cm_mean.tif", "soil_moisture_0_5cm"), ("soil_moisture_15_30cm.tif", "soil_moisture_15_30cm"),
        ("wv0033_30-60cm_mean.tif", None), ("biomass.tif", None), ("landcover.tif", None),
    ],
)  # fmt: skip
def test_variables_are_known_by_file_name(name: str, variable: str | None) -> None:
    assert rasters.variable_of(Path(name)) == variable


def test_tiles_are_joined_and_two_rasters_of_one_variable_refused(tmp_path: Path) -> None:
    west = write_raster(tmp_path / "a" / "bio01_w.tif", np.array([[1]], np.int16), from_origin(0, 10, 10, 10))
    write_raster(tmp_path / "a" / "bio01_x.tif", np.array([[2]], np.int16), from_origin(10, 10, 10, 10))
    found = rasters.find_rasters([tmp_path / "a"])
    values, _ = rasters.sample_rasters(found["bio01"], np.array([5.0, 15.0, 25.0]), np.array([5.0] * 3))
    np.testing.assert_array_equal(values, [1, 2, np.nan])
    twin = write_raster(tmp_path / "a" / "bio_1.tif", np.array([[9]], np.int16), from_origin(0, 10, 10, 10))
    with pytest.raises(DataError, match=r"bio01_w\.tif and .*bio_1\.tif hold the same variable"):
        rasters.sample_rasters([west, twin], np.array([5.0]), np.array([5.0]))


def test_worldclim_1_is_converted_and_doubtful_units_are_refused(tmp_path: Path) -> None:
    tenths = world(tmp_path / "r" / "bio05.tif", np.full((18, 36), 253, np.int16))
    rain = world(tmp_path / "r" / "bio12.tif", np.full((18, 36), 900, np.int16))
    place = (np.array([5.0]), np.array([5.0]))
    found = {"bio05": [tenths], "bio12": [rain]}
    values, report = environment.sample_environment(*place, found, worldclim="1")
    assert values[0, [VARIABLE_INDEX["bio05"], VARIABLE_INDEX["bio12"]]].tolist() == pytest.approx([25.3, 900])
    assert report.worldclim == "1"
    with pytest.raises(DataError, match=r"bio05\.tif: 100% .* look like tenths.*--worldclim 1"):
        environment.sample_environment(*place, found)
    kelvin = world(tmp_path / "r" / "bio01.tif", np.full((18, 36), 290.5, np.float32))
    with pytest.raises(DataError, match=r"look like tenths .*, or like kelvin"):
        environment.sample_environment(*place, {"bio01": [kelvin]})
    degrees = world(tmp_path / "v" / "bio05.tif", np.full((18, 36), 25.3, np.float32))
    with pytest.raises(DataError, match=r"stores bio05 as whole tenths.*such as 25\.3"):
        environment.sample_environment(*place, {"bio05": [degrees]}, worldclim="1")


def test_the_version_comes_from_the_names_and_contradictions_are_refused() -> None:
    second, first = Path("wc2.1_10m_bio_1.tif"), Path("worldclim_1.4/bio2.bil")
    assert environment.worldclim_version([second]) == "2.1"
    assert environment.worldclim_version([first]) == "1"
    assert environment.worldclim_version([Path("bio1.tif")]) == "2.1"
    assert environment.worldclim_version([Path("bio1.tif")], "1") == "1"
    with pytest.raises(ConfigError, match=r"named as version 2\.1"):
        environment.worldclim_version([second], "1")
    with pytest.raises(ConfigError, match="two WorldClim versions"):
        environment.worldclim_version([second, first])


def test_few_implausible_values_become_missing_and_are_counted() -> None:
    values = np.array([100.0] * 197 + [-3000.0, 20_000.0, np.nan])
    kept, count = environment.plausible("elevation", values, "dem.tif")
    assert count == 2
    assert np.isnan(kept).sum() == 3
    with pytest.raises(DataError, match=r"dem\.tif: 100% of the values of slope are outside 0 to 90 degree"):
        environment.plausible("slope", np.full(9, 4000.0), "dem.tif")


def occurrences(path: Path, rows: str) -> Path:
    path.write_text(TOWNS + rows, encoding="utf-8")
    return path


def test_occurrences_become_a_packed_set_with_a_report(tmp_path: Path, capsys) -> None:
    world(tmp_path / "r" / "wc2.1_10m_bio_1.tif", np.full((18, 36), 12.5, np.float32))
    world(tmp_path / "d" / "dem.tif", np.full((18, 36), 300, np.int16), nodata=-1)
    table = occurrences(
        tmp_path / "o.csv",
        "a,18.123456789,-22.5,Acacia erioloba,Acacia,NA,2019,Rare\nb,,5,Acer rubrum,Acer,US,2020,Common\n"
        "c,200,5,Acer rubrum,Acer,US,2020,Common\nd,10,5,,,US,2020,Common\ne,-80,40,Acer rubrum,Acer,US,,Frequent\n",
    )
    arguments = ["--occurrences", str(table), "--rasters", str(tmp_path / "r"), str(tmp_path / "d")]
    assert environment.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "2 samples; WorldClim 2.1" in printed
    assert "refused 1: coordinates out of range" in printed
    data = PackedDataset(tmp_path / "out")
    assert not data.has_images
    samples = data.samples()
    assert samples["sample_id"].tolist() == ["a", "e"]
    assert samples["country"].tolist() == ["NA", "US"]  # Namibia, not "not available"
    assert samples["longitude"][0] == 18.123456789
    assert samples["rarity"].tolist() == ["Rare", "Frequent"]
    assert [data.taxonomy[row].species for row in data.taxa] == ["Acacia erioloba", "Acer rubrum"]
    values = data.read(np.array([1, 0])).environment
    np.testing.assert_allclose(values[0, :3], [-80, 40, 300])
    assert values[0, VARIABLE_INDEX["bio01"]] == 12.5
    assert np.isnan(values[0, VARIABLE_INDEX["aspect"]])
    report = json.loads((tmp_path / "out" / "environment_report.json").read_text())
    assert report["resolution"] == "terrain 600 arc-minutes, climate 600 arc-minutes"
    assert report["refused"] == {
        "coordinates missing or no number": 1, "coordinates out of range": 1, "no taxon": 1
    }  # fmt: skip
    with pytest.raises(DataError, match="finished packed set"):
        environment.main([*arguments, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"o\.csv: is empty"),
        ("longitude,latitude,species\n", "header and no rows"),
        ("longitude,species\n1,Acer rubrum\n", "lacks the column 'latitude'"),
        ("longitude,latitude\n1,2\n", "no column of leaf_type, family, genus, species"),
        ("sample_id,longitude,latitude,species\nx,1,2,Acer rubrum\nx,1,2,Acer rubrum\n", "'x' comes twice"),
        ("longitude,latitude,species\neast,2,Acer rubrum\n", "no usable row: 1 coordinates missing"),
    ],
)
def test_broken_tables_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "o.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        environment.read_occurrences(path)


def test_broken_rasters_say_what_is_wrong_and_nothing_is_written(tmp_path: Path) -> None:
    table = occurrences(tmp_path / "o.csv", "a,1,2,Acer rubrum,Acer,US,2020,Rare\n")
    (tmp_path / "r").mkdir()
    with pytest.raises(DataError, match=r"no raster found in .*wc2\.1_10m_bio_1\.tif"):
        environment.pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        environment.pack_environment(table, [tmp_path / "absent"], tmp_path / "out")
    (tmp_path / "r" / "bio1.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"bio1\.tif: cannot be opened as a raster"):
        environment.pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    whole = world(tmp_path / "r" / "bio1.tif", np.random.default_rng(0).normal(size=(18, 36)))
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"bio1\.tif: cannot be"):
        environment.pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    nowhere = from_origin(5e5, 5e6, 10, 10)
    write_raster(tmp_path / "r" / "bio1.tif", np.zeros((2, 2), np.int16), nowhere, crs=None)
    with pytest.raises(DataError, match="states no projection"):
        environment.pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    with pytest.raises(ConfigError, match="no raster variable 'bio99'"):
        environment.pack_environment(table, [], tmp_path / "out", named={"bio99": table})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real data not found in {REAL} (set GEOTREECLIP_REAL_DATA)")
def test_real_rasters_at_real_occurrences() -> None:
    table, taxa, refused = environment.read_occurrences(REAL / "GlobalGeoTree-10kEval-90.csv")
    assert (len(table), len(set(taxa)), refused) == (9930, 90, {})
    found = rasters.find_rasters([REAL / "worldclim_2.1_10m", REAL / "elevation"])
    assert len(found) == 20
    values, report = environment.sample_environment(
        table["longitude"].to_numpy(),
        table["latitude"].to_numpy(),
        {name: found[name] for name in ("elevation", "bio01")},
    )
    assert report.worldclim == "2.1"
    warmth = values[:, VARIABLE_INDEX["bio01"]]
    assert np.isnan(warmth).mean() < 0.01
    tropical = np.abs(table["latitude"].to_numpy()) < 10
    assert np.nanmedian(warmth[tropical]) > 20 > np.nanmedian(warmth[~tropical]) + 3
    assert pd.Series(values[:, VARIABLE_INDEX["elevation"]]).isna().mean() == pytest.approx(0.013, abs=0.001)
