"""Places on the UTM grid: zones and their exceptions, alignment, the ends of the Earth."""

import numpy as np
import pytest

pytest.importorskip("pyproj")
from pyproj import Transformer

from geotreeclip.prep.imagery.grid import locate, pixel_centres, project, utm_epsg


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (15.5, 46.0, 32633),
        (5.999, 45, 32631),
        (6.0, 45, 32632),
        (-179.9, -17, 32701),
        (179.9, -17, 32760),
        (180.0, -17, 32701),
        (-180.0, -17, 32701),
        (10, 0, 32632),
        (10, -1e-9, 32732),
        (5.3, 60.4, 32632),  # Bergen
        (2.9, 60.4, 32631),
        (5.3, 55.9, 32631),
        (15.6, 78.2, 32633),  # Longyearbyen
        (8.9, 78, 32631),
        (9.0, 78, 32633),
        (20.9, 78, 32633),
        (21, 78, 32635),
        (33, 78, 32637),
        (42, 78, 32638),
        (10, 84, 32633),
        (10, 84.01, 0),
        (10, -80.01, 0),
        (0, 90, 0),
        (181, 10, 0),
        (10, 91, 0),
        (np.nan, 10, 0),
        (10, np.nan, 0),
        (np.inf, 10, 0),
    ],
)
def test_the_zone_of_a_place(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(np.array([lon]), np.array([lat]))[0] == epsg


def test_the_central_pixel_holds_the_point_and_lies_on_multiples_of_ten_metres() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(12, 18, 500), rng.uniform(-60, 70, 500)
    epsg = utm_epsg(lon, lat)
    for zone in np.unique(epsg):
        mine = epsg == zone
        points = locate(lon[mine], lat[mine], int(zone))
        x, y = Transformer.from_crs(4326, int(zone), always_xy=True).transform(lon[mine], lat[mine])
        assert (np.abs(points.x - x) <= 5).all()
        assert (np.abs(points.y - y) <= 5).all()
        assert (points.x % 10 == 5).all()
        assert (points.y % 10 == 5).all()


def test_an_edge_belongs_to_the_pixel_east_or_south_of_it() -> None:
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform([500_000.0], [5_100_000.0])
    points = locate(np.array(lon) + 1e-12, np.array(lat) - 1e-12, 32633)
    assert (points.x[0], points.y[0]) == (500_005, 5_099_995)


def test_rows_run_from_north_to_south_and_the_margin_surrounds_the_patch() -> None:
    points = locate(np.array([15.0]), np.array([46.0]), 32633)
    x, y = pixel_centres(points, 4)
    assert x.shape == (1, 13, 13)
    assert y[0, 0, 0] - y[0, 1, 0] == 10
    assert x[0, 0, 1] - x[0, 0, 0] == 10
    inner_x, inner_y = pixel_centres(points)
    np.testing.assert_array_equal(x[:, 4:9, 4:9], inner_x)
    np.testing.assert_array_equal(y[:, 4:9, 4:9], inner_y)
    assert (inner_x[0, 2, 2], inner_y[0, 2, 2]) == (points.x[0], points.y[0])


def test_the_two_halves_of_a_zone_differ_by_a_false_northing_alone() -> None:
    x, y = np.array([512_345.0]), np.array([-25.0])
    east, north = project(x, y, 32633, "EPSG:32733")
    assert (east[0], north[0]) == (512_345, 9_999_975)
    back = project(east, north, 32733, "EPSG:32633")
    assert (back[0][0], back[1][0]) == (512_345, -25)
    exact = Transformer.from_crs(32633, 32733, always_xy=True).transform(x, y)
    np.testing.assert_allclose([east[0], north[0]], [exact[0][0], exact[1][0]], atol=1e-6)


def test_a_place_beside_the_antimeridian_lies_in_the_neighbouring_zone_too() -> None:
    points = locate(np.array([180.0]), np.array([-17.0]), 32701)
    other = locate(np.array([-180.0]), np.array([-17.0]), 32701)
    assert points.x[0] == other.x[0]
    x, y = project(points.x, points.y, 32701, "EPSG:32760")
    lon, lat = Transformer.from_crs(32760, 4326, always_xy=True).transform(x, y)
    assert abs(abs(lon[0]) - 180) < 2e-4
    assert lat[0] == pytest.approx(-17, abs=2e-4)
