"""Rasters at points: projections, edges, gaps, tiles, the nearest land, addresses."""

from pathlib import Path

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
from raster_helpers import world, write_raster  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402
from rasterio.warp import transform as warp_points  # noqa: E402

from geotreeclip.errors import ConfigError, DataError  # noqa: E402
from geotreeclip.prep import rasters  # noqa: E402
from geotreeclip.prep.mosaic import sample_raster, sample_rasters  # noqa: E402
from geotreeclip.prep.raster_files import find_rasters, variable_of  # noqa: E402


def at(path: Path, lon: list[float], lat: list[float], method: str = "nearest") -> list[float]:
    return sample_raster(path, np.array(lon), np.array(lat), method)[0].tolist()


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
    found, info = sample_raster(path, np.array([10.5, 11.5, 9.9, 10.5, 11.5]), np.array([49.5, 49.5, 49.5, 47.9, 48.5]))
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
    assert variable_of(Path(name)) == variable


def test_tiles_are_joined_and_two_rasters_of_one_variable_refused(tmp_path: Path) -> None:
    west = write_raster(tmp_path / "a" / "bio01_w.tif", np.array([[1]], np.int16), from_origin(0, 10, 10, 10))
    write_raster(tmp_path / "a" / "bio01_x.tif", np.array([[2]], np.int16), from_origin(10, 10, 10, 10))
    found = find_rasters([tmp_path / "a"])
    values, *_ = sample_rasters(found["bio01"], np.array([5.0, 15.0, 25.0]), np.array([5.0] * 3))
    np.testing.assert_array_equal(values, [1, 2, np.nan])
    twin = write_raster(tmp_path / "a" / "bio_1.tif", np.array([[9]], np.int16), from_origin(0, 10, 10, 10))
    with pytest.raises(DataError, match=r"bio01_w\.tif and .*bio_1\.tif hold the same variable"):
        sample_rasters([west, twin], np.array([5.0]), np.array([5.0]))


def test_bilinear_goes_on_in_the_next_tile(tmp_path: Path) -> None:
    row, column = np.mgrid[:8, :8] + 0.5
    plane = 3.0 * column + 5.0 * row
    tiles = [
        write_raster(tmp_path / f"dem_{i}{j}.tif", plane[4 * i : 4 * i + 4, 4 * j : 4 * j + 4],
                     from_origin(4 * j, 8 - 4 * i, 1, 1))
        for i in (0, 1) for j in (0, 1)
    ]  # fmt: skip
    lon, lat = np.array([4.0, 3.8, 4.2, 3.9, 6.0]), np.array([4.0, 6.0, 6.0, 4.1, 2.2])
    values = sample_rasters(tiles, lon, lat, "bilinear").values
    np.testing.assert_allclose(values, 3 * lon + 5 * (8 - lat))


def test_the_nearest_land_is_taken_within_the_distance_and_marked(tmp_path: Path) -> None:
    cells = np.full((40, 40), -1, dtype=np.int16)
    cells[10, 10], cells[30, 30] = 7, 9
    path = write_raster(tmp_path / "bio01.tif", cells, from_origin(0, 60, 0.01, 0.01), nodata=-1)
    cell_km = 0.01 * 111.4 * np.cos(np.deg2rad(59.9))
    lon = np.array([0.105, 0.115, 0.125, 0.2, 0.305])  # on the land, one cell east of it, two, nine, on the land
    lat = np.array([59.895, 59.895, 59.895, 59.895, 59.695])
    found = sample_rasters([path], lon, lat, coast_km=1.0)
    np.testing.assert_array_equal(found.values, [7, 7, 7, np.nan, 9])
    np.testing.assert_allclose(found.coast_km, [0, 0.5 * cell_km, 1.5 * cell_km, 0, 0], rtol=0.01)
    np.testing.assert_allclose(found.longitude[:3], [0.105, 0.11, 0.11])
    assert np.isnan(sample_rasters([path], lon, lat).values[1])
    far = sample_rasters([path], lon, lat, coast_km=6.0)
    assert far.values[3] == 7
    assert far.coast_km[3] == pytest.approx(9 * cell_km, rel=0.01)


def test_the_nearest_land_is_nearest_in_metres_around_the_earth_and_over_tiles(tmp_path: Path) -> None:
    cells = np.full((18, 36), -1.0, dtype=np.float32)
    cells[1, 20], cells[3, 18] = 5, 6  # at 80 N ten degrees of longitude are 194 km, ten of latitude 1,117 km
    polar = world(tmp_path / "a" / "bio01.tif", cells, nodata=-1)
    assert sample_rasters([polar], np.array([5.0]), np.array([75.0]), coast_km=900).values[0] == 5
    cells[:] = -1
    cells[8, 0] = 3
    seam = world(tmp_path / "b" / "bio01.tif", cells, nodata=-1)
    found = sample_rasters([seam], np.array([179.0, 168.0]), np.array([5.0, 5.0]), coast_km=400)
    np.testing.assert_array_equal(found.values, [3, np.nan])
    assert found.coast_km[0] == pytest.approx(111, abs=1)
    # Tiles of the sea are often not delivered: the point lies in none, the land in the next.
    tile = write_raster(tmp_path / "c" / "bio01.tif", np.full((4, 4), 8.0), from_origin(10, 4, 1, 1))
    found = sample_rasters([tile], np.array([9.9, 20.0]), np.array([2.0, 2.0]), coast_km=50)
    np.testing.assert_array_equal(found.values, [8, np.nan])
    assert found.coast_km[0] == pytest.approx(11.1, abs=0.1)


IGH = "+proj=igh +lat_0=0 +lon_0=0 +datum=WGS84 +units=m +no_defs"


def test_soilgrids_in_homolosine_is_read_in_every_lobe_and_through_a_vrt(tmp_path: Path) -> None:
    """Tiles of 250 m cells under a VRT, as SoilGrids is delivered."""
    places = np.array([[-100.0, 45.0], [30.0, 60.0], [-60.0, -10.0], [25.0, -25.0], [140.0, -30.0], [-179.9, 66.0]])
    x, y = warp_points("EPSG:4326", IGH, *places.T.tolist())
    sources = []
    for number, (east, north) in enumerate(zip(x, y, strict=True)):
        cells = np.full((8, 8), -32768, dtype=np.int16)
        column, row = np.floor(east / 250), np.floor(north / 250)
        cells[3, 4] = 200 + number
        left, top = (column - 4) * 250, (row + 4) * 250
        tile = write_raster(
            tmp_path / "wv0033_0-5cm_mean" / f"tileSG-{number}.tif", cells, from_origin(left, top, 250, 250),
            crs=IGH, nodata=-32768,
        )  # fmt: skip
        sources.append((tile, left, top))
    origin = (min(s[1] for s in sources), max(s[2] for s in sources))
    width = int((max(s[1] for s in sources) - origin[0]) / 250) + 8
    height = int((origin[1] - min(s[2] for s in sources)) / 250) + 8
    with rasterio.open(sources[0][0]) as tile:
        wkt = tile.crs.to_wkt()
    rects = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{path.parent.name}/{path.name}</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="8" ySize="8"/>'
        f'<DstRect xOff="{int((left - origin[0]) / 250)}" yOff="{int((origin[1] - top) / 250)}" xSize="8" ySize="8"/>'
        "</SimpleSource>"
        for path, left, top in sources
    )
    vrt = tmp_path / "wv0033_0-5cm_mean.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{wkt.replace("<", "&lt;")}</SRS>'
        f"<GeoTransform>{origin[0]}, 250, 0, {origin[1]}, 0, -250</GeoTransform>"
        f'<VRTRasterBand dataType="Int16" band="1"><NoDataValue>-32768</NoDataValue>{rects}</VRTRasterBand>'
        "</VRTDataset>"
    )
    found = find_rasters([tmp_path])
    assert found == {"soil_moisture_0_5cm": [str(vrt)]}  # the tiles are the VRT's, not rasters of their own
    lon, lat = np.concatenate([places, [[0.0, 0.0]]]).T
    values = sample_rasters(found["soil_moisture_0_5cm"], lon, lat).values
    np.testing.assert_array_equal(values, [200, 201, 202, 203, 204, 205, np.nan])


def test_cells_in_the_gaps_of_an_interrupted_projection_are_no_land(tmp_path: Path) -> None:
    """West of the South American lobe's southern edge the plane of the projection holds no place of the Earth."""
    (x,), (y,) = warp_points("EPSG:4326", IGH, [-99.9], [-60.0])
    cells = np.full((3, 60), -1, dtype=np.int16)
    cells[1, :13] = 77  # in the gap, though the file claims values there
    path = write_raster(
        tmp_path / "wv0033_0-5cm.tif", cells, from_origin(x - 40 * 250, y + 375, 250, 250), crs=IGH, nodata=-1
    )
    assert np.isnan(sample_rasters([path], np.array([-99.9]), np.array([-60.0]), coast_km=30).values[0])


@pytest.fixture
def server(tmp_path: Path):
    """Serves a folder over loopback HTTP with byte ranges, as object stores do; counts what it sends."""
    import http.server
    import threading

    sent = {"bytes": 0, "broken": False}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, body: bool) -> None:
            path = tmp_path / self.path.lstrip("/").partition("?")[0]
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            low, high = 0, len(data) - 1
            if asked := self.headers.get("Range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                low, high = int(first), min(high, int(last or high))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {low}-{high}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(high - low + 1))
            self.end_headers()
            if body:
                sent["bytes"] += high - low + 1
                self.wfile.write(data[low : high + 1])

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", sent
    running.shutdown()
    running.server_close()


def test_rasters_at_an_address_are_read_by_window(tmp_path: Path, server) -> None:
    address, sent = server
    noise = np.random.default_rng(0).integers(0, 30_000, (1024, 1024)).astype(np.int16)
    with rasterio.open(
        tmp_path / "wv0033_5-15cm_mean.tif", "w", driver="GTiff", height=1024, width=1024, count=1, dtype="int16",
        crs="EPSG:4326", transform=from_origin(0, 10, 0.01, 0.01), tiled=True, blockxsize=64, blockysize=64,
    ) as sink:  # fmt: skip
        sink.write(noise, 1)
    found = find_rasters([f"{address}/wv0033_5-15cm_mean.tif"])
    values, *_ = sample_rasters(found["soil_moisture_5_15cm"], np.array([0.005, 5.005]), np.array([9.995, 4.995]))
    np.testing.assert_array_equal(values, [noise[0, 0], noise[500, 500]])
    assert 0 < sent["bytes"] < noise.nbytes / 4
    with pytest.raises(DataError, match=r"absent_bio1\.tif: cannot be opened as a raster"):
        sample_rasters([f"{address}/absent_bio1.tif"], np.array([0.5]), np.array([9.5]))
    with pytest.raises(ConfigError, match="its name tells no variable"):
        find_rasters([f"{address}/unnamed.tif"])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3413"])
def test_both_ways_to_look_for_land_find_what_a_look_at_every_cell_finds(tmp_path: Path, monkeypatch, crs: str) -> None:
    from geotreeclip.prep import coast

    rng = np.random.default_rng(0)
    cells = np.where(rng.random((60, 80)) < 0.03, rng.integers(1, 999, (60, 80)), -1).astype(np.float32)
    if crs == "EPSG:4326":
        transform, lon, lat = from_origin(20, 72, 0.05, 0.02), rng.uniform(19.9, 24.1, 60), rng.uniform(70.7, 72.1, 60)
    else:
        transform = from_origin(-200_000, -800_000, 2500, 2500)
        lon, lat = warp_points(crs, "EPSG:4326", rng.uniform(-2.1e5, 1e4, 60), rng.uniform(-9.6e5, -7.9e5, 60))
    path = write_raster(tmp_path / "bio01.tif", cells, transform, crs=crs, nodata=-1)
    grid = rasters.read_grid(str(path))
    column, row = grid.place(np.array(lon), np.array(lat))
    down, across = np.nonzero(cells > 0)
    expected, distance = np.full(60, np.nan), np.zeros(60)
    for i in range(60):
        places = grid.degrees(np.clip(column[i], across, across + 1.0), np.clip(row[i], down, down + 1.0))
        far = rasters.geodesic().inv(np.full(len(across), lon[i]), np.full(len(across), lat[i]), *places)[2]
        if far.min() <= 8000:
            expected[i], distance[i] = cells[down[np.argmin(far)], across[np.argmin(far)]], far.min() / 1000
    assert 10 < np.isfinite(expected).sum() < 60
    for few in (0, 10**9):
        monkeypatch.setattr(coast, "_FEW_CELLS", few)
        found = sample_rasters([path], np.array(lon), np.array(lat), coast_km=8)
        np.testing.assert_array_equal(found.values, expected)
        np.testing.assert_allclose(found.coast_km, distance, atol=1e-6)


def test_points_beside_a_regional_raster_are_beside_it_on_either_side(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bio01.tif", np.full((4, 4), 8.0), from_origin(176, 4, 1, 1))
    found = sample_rasters([path], np.array([175.9, -179.9, 179.9, -170.0]), np.full(4, 2.0), coast_km=20)
    np.testing.assert_array_equal(found.values, [8, 8, 8, np.nan])
    np.testing.assert_allclose(found.coast_km, [11.1, 11.1, 0, 0], atol=0.1)
