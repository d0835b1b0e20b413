"""Places without imagery of their own: scenes from a catalog, environment from rasters, as planted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import geotreeclip
from geotreeclip.cli import main
from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import InputWarning
from geotreeclip.inputs.gathering import gather
from geotreeclip.schema import MISSING_DN

pytest.importorskip("rasterio")
pystac = pytest.importorskip("pystac")


@pytest.fixture(scope="module")
def planted(raw_world):
    """Samples as they are hidden in the scenes: places, years, composites, environment."""
    truth = PackedDataset(raw_world / "truth")
    table = truth.samples().reset_index(drop=True)
    rows = np.arange(len(truth))[::5]
    return table.iloc[rows], truth.read(rows)


def where(table: pd.DataFrame) -> dict:
    return {name: table[name].to_numpy(np.float64) for name in ("longitude", "latitude")}


def test_composites_of_a_catalog_are_those_planted(raw_world, planted):
    table, truth = planted
    options = {"source": f"stac:{raw_world}/stac/catalog.json", "year": table["year"].to_numpy(np.int64)}
    with pytest.warns(InputWarning, match="no clear pixel of 1 of 8 places"):  # scenes are of another year than its own
        given = gather(None, None, **where(table), options=options)
    both = (given.images != MISSING_DN) & (truth.images != MISSING_DN)
    assert both.any(axis=(1, 2, 3, 4)).sum() == len(table) - 1
    difference = np.abs(given.images.astype(int) - truth.images.astype(int))[both]
    assert np.quantile(difference, 0.95) <= 2
    assert given.options == {"scale": "dn", "nodata": MISSING_DN}


def test_environment_of_rasters_is_that_planted(raw_world, planted):
    table, truth = planted
    given = gather(None, None, **where(table), options={"rasters": raw_world / "rasters"})
    known = np.isfinite(given.environment) & np.isfinite(truth.environment)
    assert known[:, 8:].mean() > 0.9
    np.testing.assert_allclose(
        given.environment[:, 8:][known[:, 8:]], truth.environment[:, 8:][known[:, 8:]], rtol=0.02, atol=0.2
    )
    assert given.longitude is None


def test_classify_fetches_all_it_needs(raw_world, planted, tiny_model_dir):
    table, _ = planted
    first = table.iloc[0]
    result = geotreeclip.classify(
        longitude=first["longitude"], latitude=first["latitude"], year=int(first["year"]),
        source=f"stac:{raw_world}/stac/catalog.json", rasters=raw_world / "rasters", model=tiny_model_dir, device="cpu",
    )  # fmt: skip
    assert result.valid_months[0] > 3
    assert len(result.to_pandas()) == 5


def test_items_give_what_the_catalog_gives(raw_world, planted):
    table, _ = planted
    first = table.iloc[:1]
    catalog = pystac.Catalog.from_file(str(raw_world / "stac" / "catalog.json"))
    year = int(first["year"].iloc[0])
    items = [item for item in catalog.get_items(recursive=True) if item.datetime.year == year]
    options = {"source": f"stac:{raw_world}/stac/catalog.json", "year": year}
    expected = gather(None, None, **where(first), options=options).images
    np.testing.assert_array_equal(gather(items, None, **where(first), options={}).images, expected)
    with pytest.raises(DataError, match="no scene that can be read among 1 items: 1 has no"):
        gather(
            [{"id": "x", "assets": {}, "properties": {"datetime": "2020-01-01T00:00:00Z"}}],
            None,
            **where(first),
            options={},
        )


def test_the_nearest_year_stands_in(raw_world, planted):
    table, _ = planted
    source = {"source": f"stac:{raw_world}/stac/catalog.json"}
    year = table["year"].to_numpy(np.int64)
    with pytest.warns(InputWarning, match="the nearest year stands in, for place"):
        near = gather(None, None, **where(table), options={**source, "year": year, "nearest_year": True}).images
    seen = (near != MISSING_DN).any(axis=(1, 2, 3, 4))
    assert seen.all()  # the one whose own year has no clear pixel, too
    with pytest.warns(InputWarning, match="no clear pixel of 1 of 8 places"):
        own = gather(None, None, **where(table), options={**source, "year": year}).images
    same = (own != MISSING_DN).any(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(near[same], own[same])
    with pytest.raises(InputError, match="no clear pixel of the 8 places in 2090 or 5 years around"):
        gather(None, None, **where(table), options={**source, "year": 2090, "nearest_year": True})
    with pytest.raises(InputError, match="name its source too"):
        gather(None, None, 10.0, 50.0, {"nearest_year": True})


def test_the_command_line_fetches_too(raw_world, planted, tiny_model_dir, tmp_path, capsys):
    table, _ = planted
    points = tmp_path / "points.csv"
    table.iloc[:2][["sample_id", "longitude", "latitude", "year"]].to_csv(points, index=False)
    arguments = ["classify", str(points), "--model", str(tiny_model_dir), "--device", "cpu", "--top-k", "1"]
    arguments += ["--nearest-year"]
    fetched = [*arguments, "--source", f"stac:{raw_world}/stac/catalog.json", "--rasters", str(raw_world / "rasters")]
    assert main([*fetched, "--out", str(tmp_path / "out.csv"), "--log", str(tmp_path / "run.json")]) == 0
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame["sample"].astype(str).tolist() == table["sample_id"].iloc[:2].astype(str).tolist()
    assert (frame["valid_months"] > 3).all()
    assert json.loads((tmp_path / "run.json").read_text())["exit_code"] == 0
    capsys.readouterr()
    points.write_text("longitude,latitude\n1,2\n")
    assert main([*arguments, "--source", "stac:x"]) == 2
    assert "--source needs the year" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "stac:absent.json", "year": 2020}, "source is to be stac: and a STAC catalog"),
        ({"source": "https://x", "year": 2020}, 'source must be "stac:"'),
        ({"source": "stac:x"}, "cannot be read|year= is missing"),
        ({"year": 2020}, "name its source too"),
        ({"rasters": "absent"}, "absent"),
    ],
)
def test_what_cannot_be_fetched(options, message):
    with pytest.raises((InputError, DataError), match=message):
        gather(None, None, 10.0, 50.0, options)


def test_years_and_places_that_cannot_be(raw_world):
    source = {"source": f"stac:{raw_world}/stac/catalog.json"}
    for place, year, message in (
        ((10, 50), 2014, "first year of Sentinel-2"),
        ((10, 50), "x", "year must be a number"),
        ((10, 50), 2040, "no clear pixel of the 1 places in 2040; it has 20"),
        ((10, 99), 2020, "latitude 99"),
        ((None, None), 2020, "give longitude and latitude"),
    ):
        with pytest.raises(InputError, match=message):
            gather(None, None, *place, {**source, "year": year})
