"""Earth Engine: the requests that are built, and composites of what a stand-in answers."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyproj")

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.earthengine import EarthEngineSampler, images_of, pixel_request, scene_of_row
from geotreeclip.prep.imagery.grid import locate
from geotreeclip.prep.imagery.job import ImageryOptions, sample_years
from geotreeclip.prep.imagery.problems import Unreachable
from geotreeclip.schema import BANDS, MISSING_DN


class Call:
    """Records what is asked of the server as nested tuples."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __getattr__(self, name: str) -> Any:
        return lambda *args: Call((name, self.path, *(bare(arg) for arg in args)))

    def map(self, function: Any) -> "Call":
        return Call(("map", self.path, bare(function(Call("image")))))


def bare(value: Any) -> Any:
    return value.path if isinstance(value, Call) else value


class Module:
    """Stands in for the module `ee`."""

    class EEException(Exception):  # its name there
        pass

    def __init__(self, rows: list[list[Any]], patches: dict[str, dict[str, np.ndarray]]) -> None:
        self.rows, self.patches, self.requests = rows, patches, []
        self.data = self
        self.Filter = self.Geometry = self.Reducer = Call("ee")

    def ImageCollection(self, name: str) -> Call:
        module = self

        class Collection(Call):
            def __getattr__(self, method: str) -> Any:
                if method == "getInfo":
                    return lambda: module.rows
                return lambda *args: Collection((method, self.path, *(bare(arg) for arg in args)))

            def map(self, function: Any) -> Any:
                return Collection(("map", self.path, bare(function(Call("image")))))

        return Collection(("ImageCollection", name))

    def computePixels(self, request: dict[str, Any]) -> np.ndarray:
        self.requests.append(request)
        names = find(request["expression"].path, "inList")[-1]
        kinds = [(f"{name}_{band}", "f4") for name in names for band in (*BANDS, "SCL")]
        answer = np.zeros((13, 13), kinds)
        for name in names:
            for band, patch in self.patches[name].items():
                answer[f"{name}_{band}"] = patch
        return answer


def find(path: Any, name: str) -> Any:
    """The call of a name within recorded calls."""
    if isinstance(path, tuple):
        if path and path[0] == name:
            return path
        return next((found for part in path if (found := find(part, name)) is not None), None)
    return None


def test_the_images_of_a_place() -> None:
    path = images_of(Module([], {}), 15.5, 46.5, 2020).path
    assert path == (
        "filterDate",
        ("filterBounds", ("ImageCollection", "COPERNICUS/S2_SR_HARMONIZED"), ("Point", "ee", [15.5, 46.5])),
        "2020-01-01",
        "2021-01-01",
    )


def test_the_request_for_pixels() -> None:
    ee = Module([], {})
    request = pixel_request(ee, ee.ImageCollection("C"), ["a", "b"], BANDS, 32633, 500_305.0, 5_099_695.0)
    assert request["fileFormat"] == "NUMPY_NDARRAY"
    assert request["grid"] == {
        "dimensions": {"width": 13, "height": 13},
        "affineTransform": {
            "scaleX": 10.0, "shearX": 0, "translateX": 500_240.0,
            "shearY": 0, "scaleY": -10.0, "translateY": 5_099_760.0,
        },
        "crsCode": "EPSG:32633",
    }  # fmt: skip
    name, mapped = request["expression"].path
    assert name == "toBands"
    assert mapped[0] == "map"
    assert find(mapped, "inList") == ("inList", "ee", "system:index", ["a", "b"])
    assert mapped[2] == (
        "unmask",
        (
            "toFloat",
            (
                "addBands",
                ("select", "image", ["B2", "B3", "B4", "B8", "SCL"]),
                ("resample", ("select", "image", ["B5", "B6", "B7", "B8A", "B11", "B12"]), "bilinear"),
            ),
        ),
        0,
        False,
    )
    only = pixel_request(ee, ee.ImageCollection("C"), ["a"], ["B2"], 32633, 5.0, 5.0)
    assert find(only["expression"].path, "resample") is None


def row(name: str, day: str, take: str, tile: str = "33TWM", baseline: str = "05.00", cloud: float = 3.0) -> list[Any]:
    start = np.datetime64(f"{day}T10:00:00").astype("datetime64[ms]").astype(int)
    return [name, int(start), f"GS2A_{take}_000001_N{baseline}", tile, baseline, cloud]


def patch(value: float, classes: Any = 4) -> dict[str, np.ndarray]:
    bands = {band: np.full((13, 13), value + 10 * number) for number, band in enumerate(BANDS)}
    return bands | {"SCL": np.zeros((13, 13)) + classes}


def test_a_row_as_a_scene() -> None:
    scene = scene_of_row(row("x", "2020-07-31", "20200731T100000", baseline="02.12"))
    assert (scene.year, scene.month, scene.baseline, scene.datatake) == (
        2020,
        6,
        (2, 12),
        "GS2A_20200731T100000_000001",
    )


def test_composites_by_the_same_rules_as_from_files() -> None:
    cloud = np.full((13, 13), 4)
    cloud[6, 1] = 9
    rows = [
        row("a", "2020-03-05", "20200305T100000"),
        row("a_old", "2020-03-05", "20200305T100000", baseline="02.12"),
        row("a_east", "2020-03-05", "20200305T100000", tile="33TXM"),
        row("b", "2020-03-15", "20200315T100000"),
        row("dark", "2020-03-25", "20200325T100000", cloud=99.0),
    ]
    patches = {
        "a": patch(1000, cloud), "a_old": patch(9000), "a_east": patch(5000), "b": patch(2000), "dark": patch(7000)
    }  # fmt: skip
    ee = Module(rows, patches)
    sampler = EarthEngineSampler(ee, BANDS, max_cloud=90)
    points = locate(np.array([15.5]), np.array([46.5]), 32633)
    result, used = sample_years(sampler, points, np.array([2020]), "own", 0, (2015, 2030))
    assert used.tolist() == [2020]
    near = np.hypot(np.arange(5)[:, None] - 2, np.arange(5)[None, :] + 3) <= 4
    np.testing.assert_array_equal(result.images[0, 2, 0], np.where(near, 2000, 1500))
    assert result.images[0, 2, 9, 4, 4] == 1590
    assert result.scenes[0].tolist() == [0, 0, 2] + [0] * 9
    assert (result.images[0, 3:] == MISSING_DN).all()
    assert len(ee.requests) == 1
    assert find(ee.requests[0]["expression"].path, "inList")[-1] == ["a", "a_east", "b"]
    assert {use["rule"] for use in sampler.scene_table()} == {"Earth Engine, harmonised"}
    assert list(sampler.audit().summary().values())[0]["offset"] == 0  # noqa: RUF015


def test_many_images_take_several_requests() -> None:
    rows = [row(f"i{n}", f"2020-{n % 12 + 1:02d}-{n % 28 + 1:02d}", f"2020{n:04d}T100000") for n in range(200)]
    ee = Module(rows, {f"i{n}": patch(500) for n in range(200)})
    points = locate(np.array([15.5]), np.array([46.5]), 32633)
    result = EarthEngineSampler(ee).composites(points, 2020)
    assert [len(find(request["expression"].path, "inList")[-1]) for request in ee.requests] == [90, 90, 20]
    assert result.scenes.sum() == 200


def test_errors_of_earth_engine_fail_the_part() -> None:
    ee = Module([row("a", "2020-03-05", "20200305T100000")], {"a": patch(1)})

    def fails(_: Any) -> Any:
        raise Module.EEException("Too many concurrent aggregations")

    ee.computePixels = fails
    with pytest.raises(Unreachable, match="Too many"):
        EarthEngineSampler(ee).composites(locate(np.array([15.5]), np.array([46.5]), 32633), 2020)


def test_without_earth_engine_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ee", None)
    with pytest.raises(ConfigError, match=r"geotreeclip\[earthengine\]"):
        EarthEngineSampler.connected(BANDS, 100)
    assert ImageryOptions("earthengine").checked().catalog == "earthengine"
