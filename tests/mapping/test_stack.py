"""Stacks in the forms people have, and clear refusals of what cannot be one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio")
sys.path.insert(0, str(Path(__file__).parent))

from rasterio.transform import from_origin
from stacks import CRS, NAMES, NORTH, WEST, forest, write_raster, write_stack

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.inputs.imagery import read_imagery
from geotreeclip.mapping.names import band_in, month_in
from geotreeclip.mapping.stack import open_stack
from geotreeclip.mapping.values import Reading, find_reading
from geotreeclip.schema import BANDS

SIZE = 9, 12


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return forest(*SIZE)


def expected(values: np.ndarray) -> np.ndarray:
    return np.where(values == 65535, np.nan, values).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "month", "band"),
    [
        ("2020-06_B04", 6, "B4"),
        ("B8A_202011", 11, "B8A"),
        ("b12 dec", 12, "B12"),
        ("nir_2021-03-15", 3, "B8"),
        ("11_B11", 11, "B11"),
        ("B11 01", 1, "B11"),
        ("m7.swir16", 7, "B11"),
        ("B02_month_9", 9, "B2"),
        ("S2_L2A_20200715_B05", 7, "B5"),
        ("T33UVP_2020_May_red", 5, "B4"),
    ],
)
def test_names_tell_month_and_band(name, month, band):
    found, rest = band_in(name)
    assert (month_in(rest), found) == (month, band)


@pytest.mark.parametrize("name", ["", "NDVI", "B04", "2020_B04", "13_B04", "B04_06_07", "B04_B05_06", "band 1"])
def test_names_that_do_not(name):
    found, rest = band_in(name)
    assert found is None or month_in(rest) is None


def test_a_geotiff_with_named_bands_in_any_order(values, tmp_path):
    order = np.random.default_rng(1).permutation(120)
    flat = values.reshape(120, *SIZE)
    path = write_raster(tmp_path / "s.tif", flat[order], [NAMES[index] for index in order])
    stack = open_stack(path)
    assert stack.months == tuple(range(1, 13))
    assert stack.bands == BANDS
    np.testing.assert_array_equal(stack.read(0, *SIZE[:1], 0, SIZE[1]), expected(values))
    np.testing.assert_array_equal(stack.read(3, 7, 2, 5), expected(values)[:, :, 3:7, 2:5])


def test_a_geotiff_in_the_order_that_options_say(values, tmp_path):
    some = values[4:7][:, [0, 3]]
    path = write_raster(tmp_path / "s.tif", some.reshape(6, *SIZE))
    stack = open_stack(path, bands=["nir", "blue"], months=[7, 5, 6])
    assert (stack.months, stack.bands) == ((5, 6, 7), ("B2", "B8"))
    np.testing.assert_array_equal(stack.read(0, SIZE[0], 0, SIZE[1]), expected(some)[[1, 2, 0]][:, ::-1])
    with pytest.raises(DataError, match="band 1 of 6 has no name"):
        open_stack(path)
    with pytest.raises(ConfigError, match="3 months of 10 spectral bands are 30"):
        open_stack(path, months=[5, 6, 7])
    with pytest.raises(ConfigError, match="'ndvi' is no Sentinel-2 band"):
        open_stack(path, bands=["ndvi"], months=[5])


def test_a_folder_of_months_and_one_of_months_and_bands(values, tmp_path):
    for month in (4, 6, 10):
        write_raster(tmp_path / "a" / f"s2_2020{month:02d}.tif", values[month - 1], [f"B{b[1:]:>02}" for b in BANDS])
        for index, band in enumerate(BANDS[:3]):
            write_raster(tmp_path / "b" / f"{band}_{month}.tif", values[month - 1, index : index + 1])
    wanted = expected(values[[3, 5, 9]])
    stack = open_stack(tmp_path / "a")
    assert stack.months == (4, 6, 10)
    np.testing.assert_array_equal(stack.read(0, SIZE[0], 0, SIZE[1]), wanted)
    np.testing.assert_array_equal(open_stack(tmp_path / "b").read(0, SIZE[0], 0, SIZE[1]), wanted[:, :3])

    write_raster(tmp_path / "a" / "s2_2021-06.tif", values[5], [str(band) for band in BANDS])
    with pytest.raises(DataError, match=r"B2 of month 6 is there twice: s2_202006\.tif band 1 and s2_2021-06\.tif"):
        open_stack(tmp_path / "a")
    write_raster(tmp_path / "b" / "B5_4.tif", values[3, 4:5], transform=from_origin(WEST + 10, NORTH, 10, 10))
    with pytest.raises(DataError, match="lies on another grid"):
        open_stack(tmp_path / "b")
    write_raster(tmp_path / "c" / "composite.tif", values[3])
    with pytest.raises(DataError, match="does not tell the month"):
        open_stack(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="holds no GeoTIFF"):
        open_stack(tmp_path / "d")


@pytest.mark.parametrize("shape", ["array", "variables"])
def test_netcdf(values, tmp_path, shape):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    import pandas as pd
    from rasterio.crs import CRS as Crs

    known = expected(values)
    coords = {
        "time": pd.to_datetime([f"2020-{month:02d}-01" for month in range(1, 13)]),
        "y": NORTH - 10 * np.arange(SIZE[0]) - 5,
        "x": WEST + 10 * np.arange(SIZE[1]) + 5,
    }
    if shape == "array":
        array = xarray.DataArray(
            known[:, ::-1], dims=("time", "band", "y", "x"), coords={**coords, "band": np.array(BANDS[::-1])}
        )
        data = array.to_dataset(name="reflectance")
    else:
        data = xarray.Dataset({band: (("time", "y", "x"), known[:, i]) for i, band in enumerate(BANDS)}, coords)
    path = tmp_path / "s.nc"
    data.to_netcdf(path, engine="scipy")
    with pytest.raises(DataError, match="states no coordinate reference system; give it, such as --crs"):
        open_stack(path)
    with pytest.raises(ConfigError, match="--crs nonsense"):
        open_stack(path, crs="nonsense")
    data["spatial_ref"] = xarray.DataArray(0, attrs={"crs_wkt": Crs.from_string(CRS).to_wkt()})
    data.to_netcdf(tmp_path / "told.nc", engine="scipy")
    stack = open_stack(tmp_path / "told.nc")
    assert stack.bands == BANDS
    assert stack.grid.transform == (10, 0, WEST, 0, -10, NORTH)
    assert Crs.from_wkt(stack.grid.crs).to_epsg() == 32633
    np.testing.assert_array_equal(stack.read(2, 8, 1, 12), known[:, :, 2:8, 1:12])


def test_files_that_are_no_stack(values, tmp_path):
    with pytest.raises(DataError, match="states no coordinate reference system"):
        open_stack(write_stack(tmp_path / "a.tif", values, crs=None))
    assert "33N" in open_stack(tmp_path / "a.tif", crs="EPSG:32633").grid.crs
    (tmp_path / "b.tif").write_text("no raster")
    with pytest.raises(DataError, match="cannot be opened as a raster"):
        open_stack(tmp_path / "b.tif")
    names = [*NAMES[:-1], "cloud"]
    with pytest.raises(DataError, match="band 120 of 120 has the name 'cloud'"):
        open_stack(write_raster(tmp_path / "c.tif", values.reshape(120, *SIZE), names))


def test_values_are_read_as_build_observations_reads_them(values, tmp_path):
    """Offset, no data, fill and reflectance, against the reader of single places."""
    raw = values.astype(np.float32) + 1000
    raw[values == 65535] = 65535
    raw[2, :, 4, 4] = 0
    raw[3, 1, 5, 5] = -7
    raw[4, 2, 6, 6] = 900
    stack = open_stack(write_stack(tmp_path / "s.tif", raw, nodata=None))
    for scaled, factor in ((stack, 1), (None, 10_000)):
        if scaled is None:
            small = np.where(raw == 65535, np.nan, raw / factor).astype(np.float32)
            small[3, 1, 5, 5] = -7
            scaled = open_stack(write_stack(tmp_path / "r.tif", small, nodata=None))
        reading = find_reading(scaled, offset=1000, nodata=(-7.0,))
        assert reading.scale == ("dn" if factor == 1 else "reflectance")
        stored = scaled.read(0, SIZE[0], 0, SIZE[1])
        numbers, valid = reading.digital_numbers(stored, "here")
        one = read_imagery(stored[None, :, :, 2:7, 2:7], offset=1000, nodata=-7, scale=reading.scale)
        np.testing.assert_array_equal(valid[:, :, 2:7, 2:7], one.valid[0])
        np.testing.assert_array_equal(numbers[:, :, 2:7, 2:7], one.images[0])


def test_wrong_values_are_refused(values, tmp_path):
    byte = (values // 300).astype(np.uint8)
    stack = open_stack(write_stack(tmp_path / "byte.tif", byte, nodata=None))
    with pytest.raises(InputError, match="8-bit picture"):
        find_reading(stack)
    empty = np.full_like(values, 65535)
    with pytest.raises(DataError, match="no valid pixel"):
        find_reading(open_stack(write_stack(tmp_path / "empty.tif", empty)))
    stored = np.full((12, 10, 3, 3), 500, dtype=np.float32)
    stored[0, 0, 1, 1] = -9999
    with pytest.raises(DataError, match="here: holds a value of -9999 digital numbers"):
        Reading("dn", 0, ()).digital_numbers(stored, "here")
