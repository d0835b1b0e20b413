"""Slope and aspect against closed forms: analytic surfaces, any latitude, any projection, across the antimeridian."""

from pathlib import Path

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")
from raster_helpers import write_raster  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from geotreeclip.errors import ConfigError  # noqa: E402
from geotreeclip.prep.environment import Options, sample_environment  # noqa: E402
from geotreeclip.prep.terrain import horn, model_name, slope_and_aspect  # noqa: E402
from geotreeclip.schema import VARIABLE_INDEX  # noqa: E402

GEOD = pyproj.Geod(ellps="WGS84")
ARC_SECOND = 1 / 3600


def metres_from(lon0: float, lat0: float, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres to the east and north of a place, by distance and direction on the ellipsoid."""
    azimuth, _, distance = GEOD.inv(np.full(lon.shape, lon0), np.full(lon.shape, lat0), lon, lat)
    return distance * np.sin(np.deg2rad(azimuth)), distance * np.cos(np.deg2rad(azimuth))


def plane_in_degrees(path: Path, lon0: float, lat0: float, slope: float, aspect: float, size: int = 41) -> Path:
    """A model in degrees that falls by a slope towards a direction; columns go on beyond 180 degrees."""
    cell = ARC_SECOND
    west, north = lon0 - size / 2 * cell, lat0 + size / 2 * cell
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    east, up = metres_from(lon0, lat0, west + column * cell, north - row * cell)
    down = np.deg2rad(aspect)
    heights = 500 - np.tan(np.deg2rad(slope)) * (east * np.sin(down) + up * np.cos(down))
    return write_raster(path, heights, from_origin(west, north, cell, cell))


@pytest.mark.parametrize("aspect", [0.0, 37.0, 135.0, 250.0])
@pytest.mark.parametrize("place", [(20.0, 0.0), (20.0, 60.0), (-70.0, -33.3), (20.0, 80.0), (180.0, 65.0)])
def test_planes_have_their_slope_and_aspect_at_any_latitude(tmp_path: Path, place, aspect: float) -> None:
    dem = plane_in_degrees(tmp_path / "dem.tif", *place, slope=12.0, aspect=aspect)
    slope, direction, report = slope_and_aspect([dem], np.array([place[0]]), np.array([place[1]]))
    assert slope[0] == pytest.approx(12.0, abs=0.01)
    assert direction[0] == pytest.approx(aspect, abs=0.05) or direction[0] == pytest.approx(aspect + 360, abs=0.05)
    assert report.cell_metres == pytest.approx(30.9, abs=0.3)  # an arc-second of latitude, the larger side


def test_the_antimeridian_is_crossed_inside_a_global_model_and_between_tiles(tmp_path: Path) -> None:
    """The same hill on both sides of 180 degrees, once as two tiles and once from -180 to 180."""
    cell, half = ARC_SECOND, 30
    heights = np.broadcast_to(100 + 4.0 * (np.arange(60) + 0.5), (60, 60))  # rises to the east
    north = 10 + 30 * cell
    west = write_raster(tmp_path / "dem_e.tif", heights[:, :half], from_origin(180 - half * cell, north, cell, cell))
    east = write_raster(tmp_path / "dem_w.tif", heights[:, half:], from_origin(-180, north, cell, cell))
    wide = GEOD.inv(180, 10, -180 + cell, 10)[2]
    expected = np.rad2deg(np.arctan(4.0 / wide))
    lon = np.array([180.0, -180.0, 180 - cell / 10, -180 + cell / 10, 179.9975])
    slope, aspect, _ = slope_and_aspect([west, east], lon, np.full(5, 10.0))
    np.testing.assert_allclose(slope, expected, rtol=1e-3)
    np.testing.assert_allclose(aspect, 270.0, atol=0.1)
    around = 1000 * np.concatenate([heights[:, half:], np.full((60, 300), 160.0), heights[:, :half]], axis=1)
    circle = 360 / around.shape[1]  # a degree
    path = write_raster(tmp_path / "g" / "dem.tif", around, from_origin(-180, 10 + 30 * circle, circle, circle))
    slope, aspect, _ = slope_and_aspect([path], np.array([180.0, -180.0]), np.full(2, 10.0), force=True)
    assert slope[0] == slope[1] == pytest.approx(np.rad2deg(np.arctan(4000 / 110_600)), rel=0.02)
    np.testing.assert_allclose(aspect, 270.0, atol=2.0)  # over a degree a parallel bends away from a straight line


@pytest.mark.parametrize(("crs", "place"), [("EPSG:32633", (17.5, 61.0)), ("EPSG:3413", (30.0, 83.0)),
                                            ("EPSG:3031", (-120.0, -88.0)), ("EPSG:3857", (25.0, 66.0))])  # fmt: skip
def test_models_in_projections_give_true_directions(tmp_path: Path, crs: str, place) -> None:
    """Grid north is not north, and a metre of Web Mercator at 66 degrees is 0.41 m."""
    forward = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x0, y0 = forward.transform(*place)
    cell, size = 40.0, 41
    corner = (x0 - size / 2 * cell, y0 + size / 2 * cell)
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    lon, lat = forward.transform(corner[0] + column * cell, corner[1] - row * cell, direction="INVERSE")
    east, up = metres_from(*place, lon, lat)
    down = np.deg2rad(110.0)
    heights = 1000 - np.tan(np.deg2rad(20.0)) * (east * np.sin(down) + up * np.cos(down))
    dem = write_raster(tmp_path / "dem.tif", heights, from_origin(*corner, cell, cell), crs=crs)
    slope, aspect, _ = slope_and_aspect([dem], np.array([place[0]]), np.array([place[1]]))
    assert slope[0] == pytest.approx(20.0, abs=0.02)
    assert aspect[0] == pytest.approx(110.0, abs=0.1)


def test_horn_is_exact_on_a_quadratic_surface_and_counts_the_middle_twice() -> None:
    east, north = np.meshgrid([-30.0, 0.0, 30.0], [30.0, 0.0, -30.0])
    surface = 7 + 0.2 * east - 0.1 * north + 3e-3 * east**2 - 2e-3 * north**2 + 1e-3 * east * north
    slope, aspect = horn(surface[None], 30.0)
    assert slope[0] == pytest.approx(np.rad2deg(np.arctan(np.hypot(0.2, 0.1))))
    assert aspect[0] == pytest.approx(np.rad2deg(np.arctan2(-0.2, 0.1)) % 360)  # falls to the west and north
    spike = np.zeros((1, 3, 3))
    spike[0, 1, 2] = 8.0  # the middle row of the east side weighs 2 of 8
    assert horn(spike, 1.0)[0][0] == pytest.approx(np.rad2deg(np.arctan(2.0)))
    corner = np.zeros((1, 3, 3))
    corner[0, 0, 2] = 8.0
    assert horn(corner, 1.0)[0][0] == pytest.approx(np.rad2deg(np.arctan(np.hypot(1, 1))))
    assert horn(corner, 1.0)[1][0] == pytest.approx(225.0)
    flat_slope, flat_aspect = horn(np.full((1, 3, 3), 5.0), 30.0)
    assert flat_slope[0] == 0
    assert np.isnan(flat_aspect[0])


def test_flat_ground_has_no_aspect_and_a_missing_height_no_slope(tmp_path: Path) -> None:
    gentle = plane_in_degrees(tmp_path / "gentle.tif", 5.0, 45.0, slope=0.9, aspect=90.0)
    slope, aspect, report = slope_and_aspect([gentle], np.array([5.0]), np.array([45.0]))
    assert slope[0] == pytest.approx(0.9, abs=0.01)
    assert np.isnan(aspect[0])
    assert (report.flat, report.missing) == (1, 0)
    hole = np.fromfunction(lambda r, c: 10 * c, (9, 9))
    hole[3, 5] = -9999
    dem = write_raster(tmp_path / "dem.tif", hole, from_origin(5, 45, ARC_SECOND, ARC_SECOND), nodata=-9999)
    centres = 5 + np.array([4.5, 1.5]) * ARC_SECOND
    slope, aspect, report = slope_and_aspect([dem], centres, np.full(2, 45 - 4.5 * ARC_SECOND))
    assert np.isnan(slope[0])
    assert slope[1] > 20
    assert report.missing == 1


def test_coarse_models_are_refused_unless_forced(tmp_path: Path) -> None:
    heights = np.fromfunction(lambda r, c: 100.0 * c, (20, 20))
    coarse = write_raster(tmp_path / "etopo20.tif", heights, from_origin(5, 50, 1 / 3, 1 / 3))
    place, found = (np.array([8.0]), np.array([47.0])), {"elevation": [coarse]}
    with pytest.raises(ConfigError, match=r"etopo20\.tif: cells of 37,0\d\d m are too coarse .*--terrain force"):
        sample_environment(*place, found, Options(terrain="compute"))
    values, _, report = sample_environment(*place, found)
    assert np.isnan(values[0, VARIABLE_INDEX["slope"]])
    assert report.not_sampled[:2] == ["slope", "aspect"]
    assert "too coarse" in report.warnings[0]
    values, _, report = sample_environment(*place, found, Options(terrain="force"))
    assert values[0, VARIABLE_INDEX["slope"]] == pytest.approx(np.rad2deg(np.arctan(100 / 25_359)), rel=0.02)
    assert report.terrain is not None
    assert report.terrain.model == "ETOPO"
    assert "Horn (1981)" in report.text()
    with pytest.raises(ConfigError, match="needs an elevation model"):
        sample_environment(*place, {"slope": [coarse]}, Options(terrain="compute"))


def test_models_are_named_by_their_files() -> None:
    assert model_name(["https://example.org/Copernicus_DSM_COG_10_N47_00_E011_00_DEM.tif"]) == "Copernicus DEM GLO-30"
    assert model_name(["my_dem.tif"]) == "my_dem.tif"
