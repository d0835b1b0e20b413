"""Cubes and stacks: the patch around a place is the one that lies there, whatever form it comes in."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import geotreeclip
from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import InputWarning
from geotreeclip.inputs.gathering import gather
from geotreeclip.inputs.gridded import open_cube, patches
from geotreeclip.schema import BANDS

xarray = pytest.importorskip("xarray")
pyproj = pytest.importorskip("pyproj")

EPSG = 32633
Y, X = 20, 24
WEST, NORTH = 400_000.0, 5_600_000.0
TO_DEGREES = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True)


def values(steps: int = 12) -> np.ndarray:
    """[T, C, Y, X]: every number tells where it stands."""
    step, band, row, column = np.meshgrid(np.arange(steps), np.arange(10), np.arange(Y), np.arange(X), indexing="ij")
    return (300 + 200 * step + 20 * band + row + column / 100).astype(np.float32)


def cube(time=None, **changes):
    time = np.arange(1, 13) if time is None else time
    array = xarray.DataArray(
        values(len(time)),
        dims=("time", "band", "y", "x"),
        coords={
            "time": time,
            "band": list(BANDS),
            "y": NORTH - 10 * (np.arange(Y) + 0.5),
            "x": WEST + 10 * (np.arange(X) + 0.5),
        },
        attrs={"crs": f"EPSG:{EPSG}"},
    )
    return array.assign_coords(**changes) if changes else array


def degrees(row: float, column: float) -> tuple[float, float]:
    """Of a place within the pixel."""
    return TO_DEGREES.transform(WEST + 10 * (column + 0.7), NORTH - 10 * (row + 0.3))


@pytest.mark.parametrize("turned", [False, True])
def test_the_patch_is_the_one_around_the_place(turned):
    data = cube()
    if turned:  # rows from south to north, axes in another order: the same places
        data = data.isel(y=slice(None, None, -1)).transpose("x", "time", "y", "band")
    where = [degrees(5, 7), degrees(11, 3)]
    found, east, north = patches(open_cube(data), np.array([w[0] for w in where]), np.array([w[1] for w in where]))
    assert (east[0], north[0]) == where[0]
    expected = np.stack([values()[:, :, 3:8, 5:10], values()[:, :, 9:14, 1:6]])
    np.testing.assert_array_equal(found, expected[..., ::-1, :] if turned else expected)


def test_edges_are_missing_and_places_outside_too():
    where = [degrees(0, 0), degrees(500, 500)]
    with pytest.warns(InputWarning, match="1 of 2 places lie outside"):
        found = patches(open_cube(cube()), np.array([w[0] for w in where]), np.array([w[1] for w in where]))[0]
    np.testing.assert_array_equal(found[0, :, :, 2:, 2:], values()[:, :, :3, :3])
    assert np.isnan(found[0, :, :, :2]).all()
    assert np.isnan(found[0, :, :, :, :2]).all()
    assert np.isnan(found[1]).all()
    with pytest.raises(InputError, match="none of the 1 places lies within"):
        patches(open_cube(cube()), np.array([100.0]), np.array([0.0]))


def test_without_places_the_centre_is_read_and_located():
    found, east, north = patches(open_cube(cube()), None, None)
    np.testing.assert_array_equal(found[0], values()[:, :, 8:13, 10:15])
    x, y = TO_DEGREES.transform(WEST + 10 * 12.5, NORTH - 10 * 10.5)
    assert (east[0], north[0]) == pytest.approx((x, y), abs=1e-9)


def test_times_are_months_or_days():
    monthly = np.array([f"2020-{month:02d}-01" for month in (3, 4, 7)], "datetime64[ns]")
    assert open_cube(cube(monthly)).months == [3, 4, 7]
    ends = np.array(["2020-01-31", "2020-02-29", "2020-03-31"], "datetime64[ns]")
    assert open_cube(cube(ends)).months == [1, 2, 3]
    scenes = np.array(["2020-06-03", "2020-06-18", "2020-07-03"], "datetime64[ns]")
    assert open_cube(cube(scenes)).months is None
    given = gather(cube(scenes), None, None, None, {})
    batch = geotreeclip.build_observations(
        given.images, longitude=given.longitude, latitude=given.latitude, **given.options
    )
    assert batch.first_day.tolist() == [[155, 170, 185]]  # 2020 is a leap year


def test_a_dataset_of_bands_and_a_file_hold_the_same(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    array = cube().assign_coords(time=np.array([f"2020-{m:02d}-01" for m in range(1, 13)], "datetime64[ns]"))
    apart = array.to_dataset(dim="band").assign_attrs(crs=f"EPSG:{EPSG}")
    path = tmp_path / "stack.tif"
    transform = rasterio.transform.from_origin(WEST, NORTH, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", width=X, height=Y, count=120, dtype="float32", crs=EPSG, transform=transform
    ) as target:
        target.write(values().reshape(120, Y, X))
        for index in range(120):
            target.set_band_description(index + 1, f"2020-{index // 10 + 1:02d}_{BANDS[index % 10]}")
    east, north = (np.array([end]) for end in degrees(6, 9))
    expected = patches(open_cube(array), east, north)[0]
    for data in (apart, path):
        opened = open_cube(data)
        order = [list(opened.bands).index(band) for band in BANDS]
        np.testing.assert_array_equal(patches(opened, east, north)[0][:, :, order], expected)


def test_classify_takes_cubes(tiny_model_dir):
    model = geotreeclip.load(tiny_model_dir, "cpu")
    where = [degrees(5, 7), degrees(11, 3)]
    longitude, latitude = ([place[axis] for place in where] for axis in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        from_cube = model.classify(cube(), longitude=longitude, latitude=latitude)
        by_hand = model.classify(
            np.stack([values()[:, :, 3:8, 5:10], values()[:, :, 9:14, 1:6]]), longitude=longitude, latitude=latitude
        )
    np.testing.assert_allclose(from_cube.probability, by_hand.probability, atol=1e-6)
    assert from_cube.valid_months.tolist() == [12, 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: cube().rename(time="when"), "no dimension is called time"),
        (lambda: cube(band=[f"x{n}" for n in range(10)]), "bands x0, x1"),
        (lambda: cube().isel(time=0), "a DataArray of time, band, y and x is expected"),
        (lambda: xarray.Dataset({"a": cube().isel(band=0)}), "needs one variable of time, band, y and x"),
        (lambda: cube().drop_vars("time").isel(time=slice(3)), "time has no coordinate and 3 steps"),
        (lambda: cube(y=np.cumsum(np.arange(Y)) * 10.0), "not evenly spaced"),
    ],
)
def test_cubes_that_cannot_be_read(change, message):
    with pytest.raises(InputError, match=message):
        open_cube(change())


def test_places_need_a_reference_system():
    bare = cube()
    bare.attrs.clear()
    east, north = (np.array([end]) for end in degrees(6, 9))
    with pytest.raises(InputError, match="no reference system is stated"):
        patches(open_cube(bare), east, north)
    assert patches(open_cube(bare), None, None)[1] is None
    with pytest.raises(DataError, match="no such file"):
        gather("absent.tif", None, None, None, {})


def test_points_of_geopandas(tiny_model_dir):
    geopandas = pytest.importorskip("geopandas")
    model = geotreeclip.load(tiny_model_dir, "cpu")
    longitude, latitude, bio = [10.0, 12.5], [50.0, 47.0], [9.0, 7.5]
    frame = geopandas.GeoDataFrame(
        {"bio_1": bio, "name": ["a", "b"]}, geometry=geopandas.points_from_xy(longitude, latitude), crs=4326
    )
    expected = model.classify(longitude=longitude, latitude=latitude, environment={"bio01": bio}).probability
    for points in (frame, frame.to_crs(EPSG)):
        np.testing.assert_allclose(model.classify(environment=points).probability, expected, atol=1e-5)
    with pytest.raises(InputError, match="no reference system"):
        model.classify(environment=frame.set_crs(None, allow_override=True))
    with pytest.raises(InputError, match="row 0 of the GeoDataFrame is Polygon"):
        model.classify(environment=frame.to_crs(EPSG).assign(geometry=lambda f: f.buffer(10)))
    with pytest.raises(InputError, match="has no rows"):
        model.classify(environment=frame.iloc[:0])
    with pytest.raises(InputError, match="leave longitude"):
        model.classify(environment=frame, longitude=longitude, latitude=latitude)
