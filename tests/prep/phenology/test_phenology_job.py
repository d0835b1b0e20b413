"""The command: packed sets and tables in, one Parquet of phenology out."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from geotreeclip.data.packed import PackedWriter
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology import MONTH_MIDDLES, PhenologyConfig
from geotreeclip.prep.phenology.job import main
from geotreeclip.schema import MISSING_DN, VARIABLES
from geotreeclip.taxonomy import Taxon

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
MONTHLY = REAL / "sentinel2" / "monthly_500_points.parquet"


def bands(peak: float, days: np.ndarray = MONTH_MIDDLES) -> tuple[np.ndarray, np.ndarray]:
    """Red and near infrared digital numbers of a year with its peak on a day."""
    green = np.exp(-((((days - peak + 182.5) % 365 - 182.5) / 60) ** 2))
    return np.round(1500 - 1000 * green), np.round(2000 + 2500 * green)


def wide(count: int = 6) -> pd.DataFrame:
    rows = []
    for row in range(count):
        red, nir = bands(40 + 50 * row)
        start = row % 12
        month = {f"B4_{i + 1}": red[(start + i) % 12] for i in range(12)}
        month |= {f"B8_{i + 1}": nir[(start + i) % 12] for i in range(12)}
        rows.append({"sample_id": f"s{row}", "lon": 10.0 + row, "lat": 48.0, "first": start + 1, **month})
    return pd.DataFrame(rows)


def run(*options: str | Path) -> pd.DataFrame:
    assert main([str(option) for option in options]) == 0
    return pd.read_parquet(options[-1])


PATTERN = ("--red", "B4_{}", "--nir", "B8_{}", "--start", "first")


def test_a_packed_set_and_a_wide_table_give_the_same_phenology(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = wide()
    images = np.full((6, 12, 10, 5, 5), 1000, dtype=np.uint16)
    for row in range(6):
        for band, values in zip((2, 3), bands(40 + 50 * row), strict=True):  # B4 is third, B8 fourth
            images[row, :, band] = values[:, None, None]
    images[:, :, :, 0] = MISSING_DN
    samples = pd.DataFrame({"longitude": frame["lon"], "latitude": frame["lat"]})
    environment = np.zeros((6, len(VARIABLES)), np.float32)
    with PackedWriter(tmp_path / "packed") as writer:
        writer.add(images, environment, [Taxon(species="A b")] * 6, frame["sample_id"].tolist(), samples)
    packed = run("--data", tmp_path / "packed", "--out", tmp_path / "a" / "packed.parquet")
    frame.to_parquet(tmp_path / "wide.parquet")
    table = run("--table", tmp_path / "wide.parquet", *PATTERN, "--out", tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(packed, table)
    assert table["sample_id"].tolist() == [f"s{row}" for row in range(6)]
    assert (table["source"] == "observed").all()
    assert (table["observed"] == 12).all()
    apart = (table["peak"] - (40 + 50 * np.arange(6)) + 182.5) % 365 - 182.5
    assert apart.abs().max() < 16  # a peak is an observation: half a month
    assert "observed                               6  100.0%" in capsys.readouterr().out
    about = json.loads(pq.read_schema(tmp_path / "table.parquet").metadata[b"geotreeclip"])
    assert about["phenology"]["min_amplitude"] == PhenologyConfig().min_amplitude
    assert len(about["phenology_hash"]) == 16


def test_a_long_table_of_any_dates_and_years(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    looks = []
    for row, peak in enumerate((200.0, 20.0)):
        dates = np.datetime64("2019-01-01") + rng.integers(0, 3 * 365, 150)
        red, nir = bands(peak, (dates - np.datetime64("2019-01-01")).astype(int) % 365)
        looks.append(pd.DataFrame({"sample_id": f"00{row}", "date": dates, "red": red, "nir": nir}))
    frame = pd.concat(looks).sample(frac=1, random_state=0).assign(longitude=10.0, latitude=48.0)
    frame.to_csv(tmp_path / "long.csv", index=False)
    found = run("--table", tmp_path / "long.csv", "--out", tmp_path / "o.parquet").set_index("sample_id")
    assert set(found.index) == {"000", "001"}  # text, not numbers
    assert found.loc["000", "peak"] == pytest.approx(200, abs=20)
    assert (found.loc["001", "peak"] + 100) % 365 == pytest.approx(120, abs=20)


def test_what_has_no_cycle_is_filled_or_left_and_spikes_are_counted(tmp_path: Path) -> None:
    frame = wide(3)
    frame.loc[1, [f"B4_{i}" for i in range(1, 9)]] = MISSING_DN
    frame.loc[0, ["B4_6", "B8_6"]] = 6000
    frame.to_parquet(tmp_path / "wide.parquet")
    left = run("--table", tmp_path / "wide.parquet", *PATTERN, "--no-fill", "--out", tmp_path / "a.parquet")
    assert left["source"].tolist() == ["observed", "", "observed"]
    assert left["reason"].tolist() == ["", "too_few", ""]
    assert left["greenup"].isna().tolist() == [False, True, False]
    filled = run("--table", tmp_path / "wide.parquet", *PATTERN, "--screen", "--out", tmp_path / "b.parquet")
    assert filled["source"].tolist() == ["observed", "neighbor", "observed"]
    assert filled["reason"].tolist() == ["", "too_few", ""]
    assert filled["screened"].tolist() == [1, 0, 0]
    assert filled["observed"].tolist() == [12, 4, 12]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, ("--red", "B3_{}", "--nir", "B8_{}"), "0 columns are named like 'B3_{}'"),
        ({}, ("--red", "B4_{}", "--nir", "nir"), "in both or in none"),
        ({}, (), "lacks the columns date, red, nir"),
        ({"first": 13}, PATTERN, "row 0: first is '13'"),
        ({"lat": np.nan}, PATTERN, "sample 's0' has no coordinates"),
        ({}, (*PATTERN, "--scale", "0"), "scale is 0"),
        ({}, (*PATTERN, "--min-valid", "1"), "min_valid is 1"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, change: dict, options: tuple, words: str) -> None:
    wide().assign(**change).to_parquet(tmp_path / "wide.parquet")
    with pytest.raises((DataError, ConfigError), match=words.replace("{", r"\{")):
        run("--table", tmp_path / "wide.parquet", *options, "--out", tmp_path / "o.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.parquet"]


def test_broken_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        run("--table", tmp_path / "none.csv", "--out", tmp_path / "o.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match=r"cut\.parquet: cannot be read"):
        run("--table", tmp_path / "cut.parquet", "--out", tmp_path / "o.parquet")
    wide().to_parquet(tmp_path / "wide.parquet")
    with pytest.raises(DataError, match="cannot be written"):
        run("--table", tmp_path / "wide.parquet", *PATTERN, "--out", tmp_path / "wide.parquet" / "o.parquet")


@pytest.mark.skipif(not MONTHLY.is_file(), reason=f"{MONTHLY} is absent")
def test_the_real_monthly_table(tmp_path: Path) -> None:
    options = ("--red", "OPTICAL-B04-ts{}-10m", "--nir", "OPTICAL-B08-ts{}-10m", "--start", "start_date")
    found = run("--table", MONTHLY, *options, "--out", tmp_path / "o.parquet")
    assert len(found) == 500
    assert (found["source"] == "observed").mean() > 0.8
    assert found["greenup"].notna().all()
