"""MCD12Q2 read from GeoTIFFs: names, tiles, fill, scale, quality, and the command."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology import Source, cycles_from_mcd12q2
from geotreeclip.prep.phenology.job import main
from geotreeclip.prep.phenology.product import find_layers, read_product

DATES = {"Greenup": 100, "Maturity": 160, "Senescence": 240, "Dormancy": 300}
PLACES = np.array([10.25, 10.75, 11.25]), np.array([49.75, 49.75, 49.75])


def since_1970(year: int, day: float) -> int:
    return int((np.datetime64(f"{year}-01-01") - np.datetime64("1970-01-01")).astype(int) + day)


def layer(path: Path, row: list[float], west: float = 10.0, dtype: str = "int16", **tags) -> None:
    """One row of cells of half a degree from a western edge on."""
    values = np.array([row, row], dtype=dtype)
    with rasterio.open(
        path, "w", driver="GTiff", height=2, width=len(row), count=1, dtype=dtype, crs="EPSG:4326",
        transform=from_origin(west, 50, 0.5, 0.5), nodata=32767,
    ) as sink:  # fmt: skip
        sink.write(values, 1)
        if "scale" in tags:
            sink.scales = [tags["scale"]]


def write_product(folder: Path, years=(2018, 2019, 2020), first: int = 1, shift=(0, 0, 0)) -> Path:
    """Place 0 has one cycle, place 1 two, place 2 none."""
    folder.mkdir(exist_ok=True)
    for year, late in zip(years, shift, strict=True):
        layer(folder / f"NumCycles_{year}.tif", [1, 2, 0])
        for name, day in DATES.items():
            layer(folder / f"{name}_{first}_{year}.tif", [since_1970(year, day + late)] * 2 + [32767])
            layer(folder / f"{name}_{first + 1}_{year}.tif", [32767, since_1970(year, (day + 180) % 365), 32767])
        layer(folder / f"EVI_Amplitude_{first}_{year}.tif", [3500, 4200, 32767])
        layer(folder / f"QA_Overall_{first}_{year}.tif", [0, 1, 32767])
    return folder


def test_layers_become_cycles(tmp_path):
    layers = find_layers(write_product(tmp_path / "p", shift=(0, 10, 4)))
    assert layers.years == (2018, 2019, 2020)
    product = read_product(layers, *PLACES)
    assert product.num_cycles.tolist() == [[1] * 3, [2] * 3, [0] * 3]
    assert np.allclose(product.amplitude[:, 0, 0], (0.35, 0.42, np.nan), equal_nan=True)
    cycles = cycles_from_mcd12q2(product.days, product.num_cycles, product.amplitude)
    assert cycles.source.tolist() == [Source.PRODUCT, Source.PRODUCT, Source.NONE]
    assert np.allclose(cycles.dates[0], (104, 164, 204, 244, 304), atol=0.6)  # medians of 100, 110, 104 and so on
    assert np.isnan(cycles.second[0]).all()
    assert np.allclose(cycles.second[1, 0], 280, atol=0.6)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name, cycle, year: f"MCD12Q2.061_{name}_{cycle}_doy{year}001_aid0001.tif",  # AppEEARS counts from 0
        lambda name, cycle, year: f"mcd12q2_{name.lower()}_{cycle + 1}_{year}_01_01.tif",
    ],
)
def test_names_of_other_exports(tmp_path, rename):
    for name, day in DATES.items():
        for cycle in (0, 1):
            layer(tmp_path / rename(name, cycle, 2019), [since_1970(2019, day + 100 * cycle)])
    layer(tmp_path / "MCD12Q2.061_NumCycles_doy2019001_aid0001.tif", [2])
    layer(tmp_path / "MCD12Q2.061_MidGreenup_0_doy2019001_aid0001.tif", [1])
    product = read_product(find_layers(tmp_path), np.array([10.25]), np.array([49.75]))
    assert (product.days[0, 0, :, 0] - since_1970(2019, 0)).tolist() == [100, 200]
    assert product.amplitude is None


def test_poor_cycles_are_left_out_and_counted(tmp_path):
    folder = write_product(tmp_path / "p")
    layer(folder / "QA_Overall_1_2019.tif", [3, 2, 32767])
    found = read_product(find_layers(folder), *PLACES)
    assert found.poor.tolist() == [1, 0, 0]
    assert (found.days[0, :, 0, 0] == 32767).tolist() == [False, True, False]
    assert read_product(find_layers(folder), *PLACES, 3).poor.tolist() == [0, 0, 0]
    assert read_product(find_layers(folder), *PLACES, 1).poor.tolist() == [1, 1, 0]
    with pytest.raises(ConfigError, match=r"give 0 .best. to 3"):
        read_product(find_layers(folder), *PLACES, 4)


def test_tiles_and_a_scale_of_the_file_itself(tmp_path):
    folder = write_product(tmp_path / "p", years=(2019,), shift=(0,))
    layer(folder / "Greenup_1_2019_east.tif", [since_1970(2019, 77)], west=11.5)
    layer(folder / "NumCycles_2019_east.tif", [1], west=11.5)
    layer(folder / "EVI_Amplitude_1_2019.tif", [3500, 4200, 32767], scale=1e-4)
    product = read_product(find_layers(folder), np.array([10.25, 11.75]), np.array([49.75, 49.75]))
    assert (product.days[:, 0, 0, 0] - since_1970(2019, 0)).tolist() == [100, 77]
    assert np.isclose(product.amplitude[0, 0, 0], 0.35)


def test_what_is_lacking_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_layers(tmp_path / "none")
    with pytest.raises(DataError, match=r"Greenup_1_2019\.tif"):
        find_layers(tmp_path)
    layer(tmp_path / "Greenup_1_2019.tif", [since_1970(2019, 100)])
    with pytest.raises(DataError, match=r"lacks Maturity, Senescence, Dormancy, NumCycles of 2019"):
        find_layers(tmp_path)
    layer(tmp_path / "Maturity_1.tif", [1])
    with pytest.raises(DataError, match=r"Maturity_1\.tif: its name holds no year"):
        find_layers(tmp_path)
    folder = write_product(tmp_path / "p", years=(2019,), shift=(0,))
    with pytest.raises(DataError, match="none of 1 places has a value of NumCycles"):
        read_product(find_layers(folder), np.array([90.0]), np.array([0.0]))
    layer(folder / "Greenup_0_2019.tif", [1])
    with pytest.raises(ConfigError, match="0, 1 and 2"):
        find_layers(folder)


def test_the_command_reads_the_product_at_the_places_of_a_table(tmp_path, capsys):
    folder = write_product(tmp_path / "p")
    pd.DataFrame({"sample_id": ["a", "b", "c"], "lon": PLACES[0], "lat": PLACES[1]}).to_csv(tmp_path / "t.csv")
    out = tmp_path / "phenology.parquet"
    assert main(["--table", str(tmp_path / "t.csv"), "--mcd12q2", str(folder), "--out", str(out)]) == 0
    table = pd.read_parquet(out)
    assert table["source"].tolist() == ["product", "product", "neighbor"]
    assert np.allclose(table["greenup"], 100, atol=1)
    assert table["observed"].tolist() == [3, 3, 0]
    assert table["n_cycles"].tolist()[:2] == [1, 2]
    assert "product" in capsys.readouterr().out
    assert main(["--table", str(tmp_path / "t.csv"), "--mcd12q2", str(folder), "--out", str(out), "--no-fill"]) == 0
    assert pd.read_parquet(out)["source"].tolist() == ["product", "product", ""]
