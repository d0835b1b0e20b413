"""The environment of many occurrences: the same values as at once, in parts that resume, whatever happens to them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

rasterio = pytest.importorskip("rasterio")
from raster_helpers import REAL, world, write_raster  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from geotreeclip.errors import ConfigError, DataError  # noqa: E402
from geotreeclip.prep import environment_cli, environment_table  # noqa: E402
from geotreeclip.prep.environment import Options, sample_environment  # noqa: E402
from geotreeclip.prep.environment_table import write_table  # noqa: E402
from geotreeclip.prep.raster_files import find_rasters  # noqa: E402
from geotreeclip.schema import VARIABLE_INDEX, VARIABLE_NAMES  # noqa: E402

ROWS = 100


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    rng = np.random.default_rng(0)
    sea = np.where(rng.random((18, 36)) < 0.3, -999, rng.normal(12, 3, (18, 36))).astype(np.float32)
    world(tmp_path / "r" / "wc2.1_10m_bio_1.tif", sea, nodata=-999)
    world(tmp_path / "r" / "elev.tif", rng.uniform(0, 900, (18, 36)).astype(np.float32))
    table = pd.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(ROWS)],
            "longitude": rng.uniform(-180, 180, ROWS),
            "latitude": rng.uniform(-90, 90, ROWS),
            "species": "Acer rubrum",
        }
    )
    table.loc[7, "longitude"], table.loc[8, "latitude"] = np.nan, 95.0
    table.to_parquet(tmp_path / "occurrences.parquet", row_group_size=33)
    return tmp_path / "occurrences.parquet", find_rasters([tmp_path / "r"])


def test_the_table_holds_what_one_reading_gives_in_the_order_of_the_occurrences(tmp_path: Path, inputs) -> None:
    occurrences, rasters = inputs
    options = Options(coast_km=700)
    report, run = write_table(occurrences, rasters, tmp_path / "e.parquet", options, part_rows=16, progress=False)
    assert len(run.done) == 7
    assert report.refused == {"coordinates missing or no number": 1, "coordinates out of range": 1}
    frame = pd.read_parquet(occurrences).drop(index=[7, 8])
    values, coast, whole = sample_environment(frame["longitude"], frame["latitude"], rasters, options)
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert table["sample_id"].tolist() == frame["sample_id"].tolist()
    np.testing.assert_array_equal(table[list(VARIABLE_NAMES)].to_numpy(np.float32), values.astype(np.float32))
    np.testing.assert_array_equal(table["longitude"], frame["longitude"])  # in full precision
    np.testing.assert_array_equal(table["coast_km"], coast.astype(np.float32))
    assert 0 < whole.variables["bio01"].coast == report.variables["bio01"].coast == (table["coast_km"] > 0).sum()
    assert report.variables["bio01"].range == pytest.approx(whole.variables["bio01"].range)
    assert report.variables["bio01"].missing_rate == whole.variables["bio01"].missing_rate
    document = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"geotreeclip"])
    assert document["complete"]
    assert document["report"]["worldclim"] == "2.1"
    assert not (tmp_path / "e.parquet.parts").exists()
    again, run = write_table(occurrences, rasters, tmp_path / "e.parquet", options, part_rows=16, progress=False)
    assert run.done == []
    assert again.samples == report.samples
    with pytest.raises(DataError, match="made in another way"):
        write_table(occurrences, rasters, tmp_path / "e.parquet", Options(), part_rows=16, progress=False)


def test_a_csv_gives_the_same_table(tmp_path: Path, inputs) -> None:
    occurrences, rasters = inputs
    write_table(occurrences, rasters, tmp_path / "a.parquet", part_rows=30, progress=False)
    pd.read_parquet(occurrences).to_csv(tmp_path / "o.csv", index=False)
    write_table(tmp_path / "o.csv", rasters, tmp_path / "b.parquet", part_rows=30, progress=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet"))


def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path: Path, inputs) -> None:
    occurrences, rasters = inputs
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    write_table(occurrences, rasters, whole, part_rows=8, progress=False)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom geotreeclip.prep import environment_table as t\n"
        "from geotreeclip.prep.raster_files import find_rasters\nread = t._read_part\n"
        "t._read_part = lambda payload, folder: (time.sleep(0.05), read(payload, folder))[1]\n"
        f"t.write_table({str(occurrences)!r}, find_rasters([{str(tmp_path / 'r')!r}]), {str(stopped)!r}, "
        "part_rows=8, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    parts = tmp_path / "stopped.parquet.parts" / "parts"
    for _ in range(600):
        if len(list(parts.glob("rows-*"))) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not stopped.exists()
    assert 2 <= len(list(parts.glob("rows-*"))) < 13
    _, run = write_table(occurrences, rasters, stopped, part_rows=8, progress=False)
    assert sum(part.resumed for part in run.done) >= 2
    assert stopped.read_bytes() == whole.read_bytes()


def test_a_part_that_fails_is_reported_and_done_by_the_next_run(tmp_path: Path, inputs, monkeypatch) -> None:
    occurrences, _ = inputs
    read = environment_table._read_part

    def fail(payload, folder):
        if payload["rows"][0] == 20:
            raise DataError("wc2.1_10m_bio_1.tif: cannot be read: connection lost")
        return read(payload, folder)

    arguments = ["--occurrences", str(occurrences), "--rasters", str(tmp_path / "r"), "--retries", "0"]
    arguments += ["--table", str(tmp_path / "e.parquet"), "--part-rows", "20"]
    monkeypatch.setattr(environment_table, "_read_part", fail)
    assert environment_cli.main(arguments) == 1
    assert len(pd.read_parquet(tmp_path / "e.parquet")) == ROWS - 2 - 20
    assert not json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"geotreeclip"])["complete"]
    monkeypatch.setattr(environment_table, "_read_part", read)
    assert environment_cli.main(arguments) == 0
    assert len(pd.read_parquet(tmp_path / "e.parquet")) == ROWS - 2


def test_wrong_units_are_refused_before_any_part_is_read(tmp_path: Path, inputs) -> None:
    occurrences, _ = inputs
    fraction = world(tmp_path / "s" / "wv0033_0-5cm_mean.tif", np.full((18, 36), 0.31, np.float32))
    with pytest.raises(DataError, match=r"expected 0\.001 cm3/cm3: they look like cm3/cm3 \(multiply them by 1000\)"):
        write_table(occurrences, {"soil_moisture_0_5cm": [fraction]}, tmp_path / "e.parquet", progress=False)
    radians = world(tmp_path / "s" / "aspect.tif", np.random.default_rng(0).uniform(0, 6.2, (18, 36)))
    with pytest.raises(DataError, match="they look like radians"):
        write_table(occurrences, {"aspect": [radians]}, tmp_path / "e.parquet", progress=False)
    assert not (tmp_path / "e.parquet").exists()


def test_a_raster_cut_short_fails_with_its_name_and_writes_no_table(tmp_path: Path, inputs) -> None:
    occurrences, _ = inputs
    noise = np.random.default_rng(0).normal(size=(200, 400)).astype(np.float32)
    path = write_raster(tmp_path / "s" / "bio1.tif", noise, from_origin(-180, 90, 0.9, 0.9), tiled=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"bio1\.tif: cannot be read: .*cut short"):
        write_table(occurrences, {"bio01": [path]}, tmp_path / "e.parquet", progress=False)
    assert not (tmp_path / "e.parquet").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("sample_id\nx\n"), "lacks the column 'longitude'"),
        (lambda path: pd.DataFrame({"sample_id": ["a"], "longitude": [1.0]}).to_parquet(path), "column 'latitude'"),
        (lambda path: path.write_bytes(b"PAR1 no parquet"), "cannot be read as Parquet"),
        (lambda path: pd.DataFrame({"sample_id": [], "longitude": [], "latitude": []}).to_parquet(path), "no rows"),
        (lambda path: pd.DataFrame({"sample_id": ["a"], "longitude": ["east"], "latitude": [1.0]}).to_parquet(path),
         "column longitude holds no numbers"),
    ],
)  # fmt: skip
def test_broken_occurrences_say_what_is_wrong(tmp_path: Path, inputs, make, message: str) -> None:
    path = tmp_path / ("broken.csv" if "'longitude'" in message else "broken.parquet")
    make(path)
    with pytest.raises(DataError, match=message):
        write_table(path, inputs[1], tmp_path / "e.parquet", progress=False)


def test_the_command_asks_for_one_output_and_says_where_it_lies(tmp_path: Path, inputs, capsys) -> None:
    arguments = ["--occurrences", str(inputs[0]), "--rasters", str(tmp_path / "r")]
    with pytest.raises(ConfigError, match="--table FILE"):
        environment_cli.main(arguments)
    with pytest.raises(ConfigError, match="give VARIABLE=FILE"):
        environment_cli.main([*arguments, "--raster", "bio01", "--out", str(tmp_path / "o")])
    assert environment_cli.main([*arguments, "--table", str(tmp_path / "e.parquet")]) == 0
    assert f"98 rows written to {tmp_path / 'e.parquet'}" in capsys.readouterr().out
    if os.geteuid():  # root writes everywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(DataError, match="cannot be written"):
            environment_cli.main([*arguments, "--table", str(locked / "e.parquet")])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        environment_cli.main([*arguments, "--table", str(tmp_path / "file" / "e.parquet")])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real data not found in {REAL} (set GEOTREECLIP_REAL_DATA)")
def test_the_22_variables_of_the_real_rasters_at_the_90_species_set(tmp_path: Path) -> None:
    rasters = find_rasters([REAL / "worldclim_2.1_10m", REAL / "elevation"])
    report, _ = write_table(REAL / "GlobalGeoTree-10kEval-90.csv", rasters, tmp_path / "e.parquet", progress=False)
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert len(table) == 9930
    held = [name for name in VARIABLE_NAMES if table[name].notna().any()]
    assert len(held) == 22
    assert report.not_sampled == [name for name in VARIABLE_NAMES if name not in held]
    assert any("too coarse" in text for text in report.warnings)
    values = sample_environment(table["longitude"], table["latitude"], {"bio01": rasters["bio01"]}).values
    np.testing.assert_array_equal(table["bio01"], values[:, VARIABLE_INDEX["bio01"]].astype(np.float32))
