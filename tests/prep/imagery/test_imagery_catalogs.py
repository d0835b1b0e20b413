"""Catalogs: static ones with their dead links, over HTTP, APIs; signing; servers that fail."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagery_world import World, at, occurrences, served

pytest.importorskip("pystac")

from geotreeclip.errors import DataError
from geotreeclip.prep.imagery import catalogs, reading
from geotreeclip.prep.imagery.catalogs import SceneIndex, covers, walk
from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.offsets import OffsetRules
from geotreeclip.prep.imagery.problems import SceneLost, Unreachable
from geotreeclip.prep.imagery.scenes import Asset, Scene
from geotreeclip.prep.imagery.signing import PlanetaryComputer
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS

RULES = OffsetRules()


def scene(bbox: tuple[float, float, float, float], time: str = "2020-03-05T10:00:00+00:00", name: str = "s") -> Scene:
    return Scene(name, time, name, "", (0, 0), "", bbox, 0.0, 0.0, "", {"SCL": Asset("x")})


def test_extents_may_cross_the_antimeridian_in_any_spelling() -> None:
    lon, lat = np.array([179.9, -179.9, 0.0, 178.0]), np.zeros(4)
    for west, east in ((179, -179), (179, 181), (-181, -179)):
        assert covers(scene((west, -1, east, 1)), lon, lat).tolist() == [True, True, False, False]
    assert covers(scene((-1, -1, 1, 1)), lon, lat).tolist() == [False, False, True, False]
    assert not covers(scene((-180, 5, 180, 6)), lon, lat).any()


def test_the_index_finds_by_place_and_year() -> None:
    rng = np.random.default_rng(0)
    west, south = rng.uniform(-170, 170, 500), rng.uniform(-70, 70, 500)
    index = SceneIndex.of(
        scene((w, s, w + 3, s + 3), f"{2018 + n % 3}-05-05T00:00:00+00:00", f"s{n}")
        for n, (w, s) in enumerate(zip(west, south, strict=True))
    )
    lon, lat = rng.uniform(-170, 170, 5), rng.uniform(-70, 70, 5)
    found = {found.id for found in index.search(lon, lat, 2019)}
    inside = (lon[:, None] >= west) & (lon[:, None] <= west + 3) & (lat[:, None] >= south) & (lat[:, None] <= south + 3)
    expected = {f"s{n}" for n in np.flatnonzero(inside.any(axis=0)) if n % 3 == 1}
    assert found == expected
    assert index.search(lon, lat, 2030) == []
    assert index.search(lon[:0], lat[:0], 2019) == []


def test_a_catalog_of_catalogs_with_loops_dead_links_and_strangers(world: World, tmp_path: Path) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    world.scene("S2A_2", "2020-03-05T10:00:00Z")
    strange = json.loads(json.dumps(world.items[0])) | {"id": "radar", "assets": {"vv": {"href": "./vv.tif"}}}
    world.items.append(strange)
    inner = world.catalog()
    broken = world.folder / "broken.json"
    broken.write_text("{")
    outer = tmp_path / "outer.json"
    links = [
        {"rel": "child", "href": "./stac/catalog.json"},
        {"rel": "child", "href": "./outer.json"},
        {"rel": "child", "href": "./nowhere/catalog.json"},
        {"rel": "item", "href": "./stac/broken.json"},
        {"rel": "items", "href": "./items.json"},
        {"rel": "self", "href": "./nowhere.json"},
    ]
    outer.write_text(json.dumps({"type": "Catalog", "links": links}))
    moved = world.items[1] | {"id": "S2A_3"}
    moved["assets"] = {key: asset | {"href": f"./stac/{asset['href']}"} for key, asset in moved["assets"].items()}
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [moved]}))
    found = walk(str(outer), RULES, BANDS)
    assert sorted(scene.id for scene in found.scenes) == ["S2A_1", "S2A_2", "S2A_3"]
    assert sorted(Path(link).name for link in found.dead) == ["broken.json", "catalog.json"]
    assert found.refused == {"has no scene classification (SCL)": ["radar"]}
    assert all(Path(asset.href).is_file() for scene in found.scenes for asset in scene.assets.values())
    assert walk(str(inner), RULES, BANDS, "another").scenes == []


def test_a_catalog_that_is_none_is_refused(tmp_path: Path) -> None:
    for name, text, match in (("a", "[1]", "no JSON object"), ("b", "{}", "no links"), ("c", "x", "no JSON")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=match):
            walk(str(tmp_path / name), RULES, BANDS)


def plant(world: World) -> tuple[Any, Any]:
    def value(band: str, base: np.ndarray) -> np.ndarray:
        return base + 100 + np.arange(base.size).reshape(base.shape)

    world.scene("S2A_1", "2020-03-05T10:00:00Z", value=value)
    world.scene("S2A_2", "2020-04-05T10:00:00Z", value=value)
    world.links = ["./gone.json"]
    return at([(30, 30), (11, 40)])


def sample(world: World, lon: Any, lat: Any, out: str, **options: Any) -> tuple[Any, np.ndarray]:
    table = occurrences(world.folder.parent / "occurrences.parquet", lon, lat)
    folder = world.folder.parent / out
    report = sample_imagery(table, folder, ImageryOptions(**options), retries=0, progress=False)
    return report, ImageryStore(folder).read(np.arange(len(lon)))


@pytest.mark.parametrize("ranges", [True, False])
def test_over_http_the_same_as_from_files(world: World, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lon, lat = plant(world)
    _, local = sample(world, lon, lat, "local", catalog=str(world.catalog()))
    monkeypatch.setattr(reading, "_WHOLE_ONLY", set())
    (world.folder / "S2A_2" / "B04.tif").unlink()
    with served(world.folder, ranges=ranges) as (url, _):
        report, remote = sample(world, lon, lat, "remote", catalog=f"{url}/catalog.json")
    np.testing.assert_array_equal(local[:, 2], remote[:, 2])
    assert (remote[:, 3] == 65535).all()
    assert report.dead == [f"{url}/gone.json"]
    assert "404" in report.lost["S2A_2"]


def test_a_server_that_fails_for_now_fails_the_part_and_never_drops_the_scene(world: World) -> None:
    lon, lat = plant(world)
    down: list[bool] = []

    def answer(path: str) -> tuple[int, bytes]:
        file = world.folder / path.split("?")[0].lstrip("/")
        if down and file.name == "B8A.tif":
            return 400, b""  # neither "not there" nor one that GDAL asks again
        return (200, file.read_bytes()) if file.is_file() else (404, b"")

    with served(answer=answer) as (url, _):
        world.catalog()
        down.append(True)
        with pytest.raises(DataError, match=r"all 1 parts failed.*B8A.tif: the server answers 400"):
            sample(world, lon, lat, "out", catalog=f"{url}/catalog.json")
        assert not (world.folder.parent / "out" / "imagery.json").exists()
        down.clear()
        # The same process remembers what a server answered; another one does not.
        shutil.rmtree(world.folder.parent / "out")
    with served(answer=answer) as (url, _):
        report, images = sample(world, lon, lat, "out", catalog=f"{url}/catalog.json")
    assert not report.lost
    assert (images[:, 2:4] != 65535).all()


def test_a_catalog_server_that_does_not_answer_stops_the_walk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs.time, "sleep", lambda _: None)
    plant(world)
    catalog = world.catalog().read_bytes()
    with (
        served(answer=lambda path: (200, catalog) if "catalog" in path else (503, b"")) as (url, asked),
        pytest.raises(Unreachable, match="answers 503"),
    ):
        walk(f"{url}/catalog.json", RULES, BANDS)
    assert len([path for path in asked if path == "/S2A_1.json"]) == 4


def test_a_remote_item_cannot_name_files_of_this_machine(world: World) -> None:
    lon, lat = plant(world)
    for key, href in (("B02", "/etc/hostname"), ("B03", "file:///etc/hostname"), ("B04", "/vsizip//tmp/x.zip")):
        world.items[0]["assets"][key]["href"] = href
    world.items[1]["assets"]["B02"]["href"] = "<VRTDataset></VRTDataset>"
    world.catalog()
    with served(world.folder) as (url, _):
        found = walk(f"{url}/catalog.json", RULES, BANDS)
        assert found.scenes[0].assets["B2"].href == f"{url}/etc/hostname"  # a path of the server
        for scene, band in ((0, "B3"), (0, "B4"), (1, "B2")):
            with pytest.raises(SceneLost, match="no link to a file"):
                reading.read_asset(found.scenes[scene].assets[band], str, reading.Clock(), lambda raster: raster)
        report, _ = sample(world, lon, lat, "out", catalog=f"{url}/catalog.json")
    assert sorted(report.lost) == ["S2A_1", "S2A_2"]


def test_a_stac_api_is_asked_for_each_part(world: World) -> None:
    pytest.importorskip("pystac_client")
    lon, lat = plant(world)
    _, local = sample(world, lon, lat, "local", catalog=str(world.catalog()))
    searches: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        link = {"rel": "search", "type": "application/geo+json", "href": f"{url}/search", "method": "POST"}
        if path.startswith("/search"):
            searches.append(path)
            wanted = json.loads(path.partition("?")[2])
            year = wanted["datetime"][:4]
            items = [item for item in world.items if item["properties"]["datetime"].startswith(year)]
            return 200, json.dumps({"type": "FeatureCollection", "features": items, "links": []}).encode()
        if path == "/":
            document = {
                "type": "Catalog", "id": "api", "stac_version": "1.0.0", "description": "", "links": [link],
                "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
            }  # fmt: skip
            return 200, json.dumps(document).encode()
        file = world.folder / path.lstrip("/")
        return (200, file.read_bytes()) if file.is_file() else (404, b"")

    with served(answer=answer) as (url, _):
        for item in world.items:
            for asset in item["assets"].values():
                asset["href"] = f"{url}/{asset['href'].removeprefix('./')}"
        report, remote = sample(world, lon, lat, "api", catalog=f"{url}/")
    np.testing.assert_array_equal(local, remote)
    asked = json.loads(searches[0].partition("?")[2])
    assert asked["collections"] == ["sentinel-2-l2a"]
    assert asked["datetime"].startswith("2020-01-01T00:00:00Z/2020-12-31T23:59:59")
    west, south, east, north = asked["bbox"]
    assert west < min(lon) <= max(lon) < east
    assert south < min(lat) <= max(lat) < north
    assert len(searches) == 1
    assert report.scenes == 2


def test_an_api_that_fails_is_unreachable(world: World) -> None:
    pytest.importorskip("pystac_client")
    with served(answer=lambda path: (404, b"{}")) as (url, _), pytest.raises(Unreachable, match="the search fails"):
        catalogs.ask_api(f"{url}/", "c", RULES, BANDS, np.array([1.0]), np.array([1.0]), 2020)


def test_links_of_the_planetary_computer_are_signed_with_a_token_that_is_kept() -> None:
    expiry = [datetime.now(UTC) + timedelta(hours=1)]

    def answer(path: str) -> tuple[int, bytes]:
        return 200, json.dumps({"token": f"sig={path[1:]}", "msft:expiry": expiry[0].isoformat()}).encode()

    with served(answer=answer) as (url, asked):
        sign = PlanetaryComputer(url)
        link = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/33/B02.tif"
        assert sign(link) == f"{link}?sig=sentinel2l2a01/sentinel2-l2"
        assert sign(link.replace("B02", "B03")).endswith("?sig=sentinel2l2a01/sentinel2-l2")
        assert sign("https://elsewhere.org/B02.tif") == "https://elsewhere.org/B02.tif"
        assert sign(f"{link}?sig=own") == f"{link}?sig=own"
        assert len(asked) == 1
        expiry[0] = datetime.now(UTC) + timedelta(seconds=30)
        sign(link.replace("sentinel2-l2", "other"))
        sign(link.replace("sentinel2-l2", "other"))  # about to expire: asked anew
        assert len(asked) == 3
    with pytest.raises(Unreachable, match="no token"):
        PlanetaryComputer(url)(link)


def test_a_function_of_the_user_signs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_signer.py").write_text("def sign(href):\n    return href + '?key=1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    lon, lat = plant(world)
    world.catalog()
    with served(world.folder) as (url, asked):
        sample(world, lon, lat, "out", catalog=f"{url}/catalog.json", sign="my_signer:sign")
    assert {path.partition("?")[2] for path in asked if ".tif" in path and path.endswith("key=1")} == {"key=1"}
    assert any(path.startswith("/S2A_1/B02.tif?key=1") for path in asked)
