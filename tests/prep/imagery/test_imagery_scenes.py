"""STAC items of several providers as scenes; offsets, baselines, and the audit."""

from typing import Any

import numpy as np
import pytest

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.offsets import Audit, OffsetContradiction, OffsetRules, Tally
from geotreeclip.prep.imagery.problems import NotAScene
from geotreeclip.prep.imagery.scenes import Scene, newest_baselines, scene_of

AUTO = OffsetRules()
SHIFTED = {"scale": 0.0001, "offset": -0.1, "nodata": 0}


def earth_search(**properties: Any) -> dict[str, Any]:
    keys = ("blue", "green", "red", "nir", "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22")
    assets: dict[str, Any] = {key: {"href": f"https://cogs/{key}.tif", "raster:bands": [SHIFTED]} for key in keys}
    assets |= {"scl": {"href": "https://cogs/SCL.tif"}, "blue-jp2": {"href": "s3://other/B02.jp2"}}
    return {
        "id": "S2B_20HMD_20221023_0_L2A",
        "bbox": [-65, -30, -64, -29],
        "properties": {
            "datetime": "2022-10-23T14:18:51Z",
            "grid:code": "MGRS-20HMD",
            "proj:epsg": 32720,
            "s2:processing_baseline": "04.00",
            "s2:datatake_id": "GS2B_20221023T141049_029408_N04.00",
            "eo:cloud_cover": 12.5,
            **properties,
        },
        "assets": assets,
    }


def planetary(baseline: str) -> dict[str, Any]:
    names = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
    base = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/33"
    return {
        "id": f"S2A_MSIL2A_20200615T100031_R122_T33TWM_{baseline}",
        "bbox": [15, 46, 16, 47],
        "properties": {
            "datetime": "2020-06-15T10:00:31.024Z",
            "s2:mgrs_tile": "33TWM",
            "proj:code": "EPSG:32633",
            "s2:processing_baseline": baseline,
            "s2:datatake_id": f"GS2A_20200615T100031_026015_N{baseline}",
        },
        "assets": {name: {"href": f"{base}/{name}.tif"} for name in names},
    }


def test_an_item_of_earth_search() -> None:
    scene = scene_of(earth_search(**{"earthsearch:boa_offset_applied": True}), AUTO)
    assert (scene.tile, scene.baseline, scene.datatake) == ("20HMD", (4, 0), "S2B_20221023T141049")
    assert (scene.year, scene.month, scene.epsg, scene.cloud) == (2022, 9, 32720, 12.5)
    assert scene.assets["B2"].href == "https://cogs/blue.tif"
    assert scene.assets["B8A"].href == "https://cogs/nir08.tif"
    assert scene.assets["B5"].href == "https://cogs/rededge1.tif"
    assert Scene.of_document(scene.document()) == scene


@pytest.mark.parametrize(
    ("properties", "offset", "rule"),
    [
        ({"earthsearch:boa_offset_applied": True}, 0, "boa_offset_applied is true"),
        ({"earthsearch:boa_offset_applied": False}, -1000, "boa_offset_applied is false"),
        ({"sentinel:boa_offset_applied": True}, 0, "boa_offset_applied is true"),
        ({}, -1000, "stated by raster metadata"),
    ],
)
def test_the_property_of_earth_search_overrides_the_offset_of_its_bands(
    properties: dict[str, Any], offset: float, rule: str
) -> None:
    scene = scene_of(earth_search(**properties), AUTO)
    assert (scene.offset, scene.rule) == (offset, rule)


@pytest.mark.parametrize(
    ("baseline", "offset"), [("02.12", 0), ("03.01", 0), ("04.00", -1000), ("05.11", -1000), ("05.00", -1000)]
)
def test_the_planetary_computer_by_baseline(baseline: str, offset: float) -> None:
    scene = scene_of(planetary(baseline), AUTO)
    assert scene.offset == offset
    assert scene.rule == "Planetary Computer"


def test_offsets_by_hand_by_provider_and_of_new_stac() -> None:
    item = earth_search(**{"earthsearch:boa_offset_applied": True})
    rules = OffsetRules.parse("auto", ["-500", "S2B_20HMD_*=-1000"])
    assert scene_of(item, rules).offset == -1000
    assert scene_of(planetary("04.00"), rules).offset == -500
    assert scene_of(item, OffsetRules("none")).offset == 0
    assert scene_of(item, OffsetRules("stated")).offset == -1000
    del item["properties"]["earthsearch:boa_offset_applied"]
    for asset in item["assets"].values():
        asset.pop("raster:bands", None)
        asset |= {"raster:scale": 0.0001, "raster:offset": -0.1}
    assert scene_of(item, AUTO).offset == -1000
    for asset in item["assets"].values():
        del asset["raster:scale"], asset["raster:offset"]
    assert scene_of(item, AUTO).rule == "none stated"


@pytest.mark.parametrize("text", ["a", "S2=x", "20000"])
def test_an_offset_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--offset"):
        OffsetRules.parse("auto", [text])
    with pytest.raises(ConfigError, match="--provider"):
        OffsetRules.parse("nasa", [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda item: item["assets"].pop("SCL"), "scene classification"),
        (lambda item: item["properties"].pop("datetime"), "no date"),
        (lambda item: item.update(bbox=[1, 2]), "bbox"),
        (lambda item: item.update(assets={"SCL": {"href": "x"}}), "none of the bands"),
        (lambda item: item["assets"]["B02"].update({"raster:bands": [{"scale": 1}]}), "scale"),
        (lambda item: item["assets"].update(
            B02={"href": "a", "raster:bands": [SHIFTED]}, B03={"href": "b", "raster:bands": [SHIFTED | {"offset": 0}]}
        ), "different offsets"),
    ],
)  # fmt: skip
def test_items_that_are_no_scenes(change: Any, reason: str) -> None:
    item = planetary("03.00")
    for asset in item["assets"].values():
        asset["href"] = asset["href"].replace("sentinel2l2a01", "elsewhere")
    change(item)
    with pytest.raises(NotAScene, match=reason):
        scene_of(item, AUTO)


def test_one_acquisition_has_one_name_in_all_baselines_and_the_newest_is_kept() -> None:
    old, new = scene_of(planetary("02.12"), AUTO), scene_of(planetary("05.00"), AUTO)
    assert old.datatake == new.datatake == "S2A_20200615T100031"
    kept, left = newest_baselines([new, old])
    assert (kept, left) == ([new], 1)
    kept, left = newest_baselines([old, new])
    assert (kept, left) == ([new], 1)


def test_a_baseline_is_a_number_not_a_text() -> None:
    item = planetary("05.10")
    item["properties"].pop("s2:processing_baseline")
    assert scene_of(item, AUTO).baseline == (5, 10)
    assert scene_of(planetary("05.09"), AUTO).baseline < (5, 10)


def test_items_without_an_acquisition_id_are_told_apart_by_satellite_and_day() -> None:
    item = planetary("05.10")
    item["id"] = "x"
    del item["properties"]["s2:datatake_id"]
    item["properties"]["platform"] = "sentinel-2a"
    assert scene_of(item, AUTO).datatake == "sentinel-2a_20200615_R"


def tally(offset: float, blue: np.ndarray, red: np.ndarray, scenes: int = 3, late: bool = True) -> Audit:
    counted = Tally(offset, late, names=["S2A_one", "S2A_two"], scenes=scenes, rule="a rule")
    counted.add("B2", blue)
    counted.add("B4", red)
    return Audit({"a rule": counted})


def forest(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(4, 60, 1000) + 60, rng.gamma(4, 90, 1000) + 40


def test_the_audit_stops_where_dark_pixels_contradict_the_offset() -> None:
    blue, red = forest()
    tally(0, blue, red).check(scenes_alone=False)
    tally(-1000, blue, red).check(scenes_alone=False)
    with pytest.raises(OffsetContradiction, match=r"S2A_one.*already.*--offset 'S2A_one="):
        tally(-1000, blue - 1000, red - 1000).check(scenes_alone=True)
    with pytest.raises(OffsetContradiction, match=r"S2A_one, S2A_two.*nothing was subtracted.*ends at 1\d\d\d.*-1000"):
        tally(0, blue + 1000, red + 1000).check(scenes_alone=False)


def test_the_audit_knows_deserts_old_baselines_single_scenes_and_small_samples() -> None:
    blue, red = forest()
    tally(0, blue + 1100, red + 2500).check(scenes_alone=False)  # sand: red far above blue
    tally(0, blue + 1000, red + 1000, late=False).check(scenes_alone=False)
    tally(0, blue + 1000, red + 1000, scenes=1).check(scenes_alone=False)
    tally(0, blue + 1000, red + 1000).check(scenes_alone=True)
    tally(0, blue[:50] + 1000, red[:50] + 1000).check(scenes_alone=False)


def test_tallies_merge_to_the_same_as_one() -> None:
    blue, red = forest()
    one, half, other = tally(0, blue, red), tally(0, blue[:300], red[:300]), tally(0, blue[300:], red[300:])
    merged = Audit()
    merged.merge(half.document())
    merged.merge(other.document())
    np.testing.assert_array_equal(merged.tallies["a rule"].counts, one.tallies["a rule"].counts)
    found = merged.summary()["a rule"]["1st percentile"]["B2"]
    assert abs(found - np.percentile(blue, 1)) <= 20
