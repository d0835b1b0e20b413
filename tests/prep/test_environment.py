"""The variables of places: units, versions, what is refused, and the packed set made of them."""

import json
from pathlib import Path

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
from raster_helpers import REAL, world, write_raster  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from geotreeclip.data.packed import PackedDataset  # noqa: E402
from geotreeclip.errors import ConfigError, DataError  # noqa: E402
from geotreeclip.prep import environment_cli  # noqa: E402
from geotreeclip.prep.environment import Options, sample_environment  # noqa: E402
from geotreeclip.prep.environment_pack import pack_environment  # noqa: E402
from geotreeclip.prep.environment_units import plausible, worldclim_version  # noqa: E402
from geotreeclip.prep.occurrence_files import read_occurrences  # noqa: E402
from geotreeclip.prep.raster_files import find_rasters  # noqa: E402
from geotreeclip.schema import VARIABLE_INDEX  # noqa: E402

TOWNS = "sample_id,longitude,latitude,level3_species,level2_genus,country_code,year,Category\n"


def test_scale_and_offset_of_the_file_are_applied(tmp_path: Path) -> None:
    cells = np.full((18, 36), 2800, dtype=np.int32)
    path = world(tmp_path / "CHELSA_bio1_1981-2010.tif", cells, scale=(0.1, -273.15))
    values, _, report = sample_environment(np.array([5.0]), np.array([5.0]), {"bio01": [path]})
    assert values[0, VARIABLE_INDEX["bio01"]] == pytest.approx(6.85)
    assert report.variables["bio01"].rasters[0].scaled


def test_worldclim_1_is_converted_and_doubtful_units_are_refused(tmp_path: Path) -> None:
    tenths = world(tmp_path / "r" / "bio05.tif", np.full((18, 36), 253, np.int16))
    rain = world(tmp_path / "r" / "bio12.tif", np.full((18, 36), 900, np.int16))
    place = (np.array([5.0]), np.array([5.0]))
    found = {"bio05": [tenths], "bio12": [rain]}
    values, _, report = sample_environment(*place, found, Options(worldclim="1"))
    assert values[0, [VARIABLE_INDEX["bio05"], VARIABLE_INDEX["bio12"]]].tolist() == pytest.approx([25.3, 900])
    assert report.worldclim == "1"
    with pytest.raises(DataError, match=r"bio05\.tif: 100% .* look like tenths.*--worldclim 1"):
        sample_environment(*place, found)
    kelvin = world(tmp_path / "r" / "bio01.tif", np.full((18, 36), 290.5, np.float32))
    with pytest.raises(DataError, match=r"look like tenths .*, or like kelvin"):
        sample_environment(*place, {"bio01": [kelvin]})
    degrees = world(tmp_path / "v" / "bio05.tif", np.full((18, 36), 25.3, np.float32))
    with pytest.raises(DataError, match=r"stores bio05 as whole tenths.*such as 25\.3"):
        sample_environment(*place, {"bio05": [degrees]}, Options(worldclim="1"))


def test_the_version_comes_from_the_names_and_contradictions_are_refused() -> None:
    second, first = Path("wc2.1_10m_bio_1.tif"), Path("worldclim_1.4/bio2.bil")
    assert worldclim_version([second]) == "2.1"
    assert worldclim_version([first]) == "1"
    assert worldclim_version([Path("bio1.tif")]) == "2.1"
    assert worldclim_version([Path("bio1.tif")], "1") == "1"
    with pytest.raises(ConfigError, match=r"named as version 2\.1"):
        worldclim_version([second], "1")
    with pytest.raises(ConfigError, match="two WorldClim versions"):
        worldclim_version([second, first])


def test_few_implausible_values_become_missing_and_are_counted() -> None:
    values = np.array([100.0] * 197 + [-3000.0, 20_000.0, np.nan])
    kept, count = plausible("elevation", values, "dem.tif")
    assert count == 2
    assert np.isnan(kept).sum() == 3
    with pytest.raises(DataError, match=r"dem\.tif: 100% of the values of slope are outside 0 to 90 degree"):
        plausible("slope", np.full(9, 4000.0), "dem.tif")


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
    assert environment_cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
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
        environment_cli.main([*arguments, "--out", str(tmp_path / "out")])


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
        read_occurrences(path)


def test_broken_rasters_say_what_is_wrong_and_nothing_is_written(tmp_path: Path) -> None:
    table = occurrences(tmp_path / "o.csv", "a,1,2,Acer rubrum,Acer,US,2020,Rare\n")
    (tmp_path / "r").mkdir()
    with pytest.raises(DataError, match=r"no raster found in .*wc2\.1_10m_bio_1\.tif"):
        pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        pack_environment(table, [tmp_path / "absent"], tmp_path / "out")
    (tmp_path / "r" / "bio1.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"bio1\.tif: cannot be opened as a raster"):
        pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    whole = world(tmp_path / "r" / "bio1.tif", np.random.default_rng(0).normal(size=(18, 36)))
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"bio1\.tif: cannot be"):
        pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    nowhere = from_origin(5e5, 5e6, 10, 10)
    write_raster(tmp_path / "r" / "bio1.tif", np.zeros((2, 2), np.int16), nowhere, crs=None)
    with pytest.raises(DataError, match="states no projection"):
        pack_environment(table, [tmp_path / "r"], tmp_path / "out")
    with pytest.raises(ConfigError, match="no raster variable 'bio99'"):
        pack_environment(table, [], tmp_path / "out", named={"bio99": table})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real data not found in {REAL} (set GEOTREECLIP_REAL_DATA)")
def test_real_rasters_at_real_occurrences() -> None:
    table, taxa, refused = read_occurrences(REAL / "GlobalGeoTree-10kEval-90.csv")
    assert (len(table), len(set(taxa)), refused) == (9930, 90, {})
    found = find_rasters([REAL / "worldclim_2.1_10m", REAL / "elevation"])
    assert len(found) == 20
    values, _, report = sample_environment(
        table["longitude"].to_numpy(),
        table["latitude"].to_numpy(),
        {name: found[name] for name in ("elevation", "bio01")},
    )
    assert report.worldclim == "2.1"
    warmth = values[:, VARIABLE_INDEX["bio01"]]
    assert np.isnan(warmth).mean() < 0.01
    tropical = np.abs(table["latitude"].to_numpy()) < 10
    assert np.nanmedian(warmth[tropical]) > 20 > np.nanmedian(warmth[~tropical]) + 3
    assert np.isnan(values[:, VARIABLE_INDEX["elevation"]]).mean() == pytest.approx(0.013, abs=0.001)
