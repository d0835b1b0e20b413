"""Sampling the world: an even grid, scenes of the seasons with their real dates, published folders, weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("rasterio")
import rasterio
from rasterio.transform import from_origin

from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.splits import nearest_km
from geotreeclip.prep.imagery.grid import locate
from geotreeclip.prep.phenology import Cycles, season_of, season_weights
from geotreeclip.prep.world_sampling.grid import land_grid, on_land, whole_grid
from geotreeclip.prep.world_sampling.job import main, squares
from geotreeclip.prep.world_sampling.packing import sampling_weights
from geotreeclip.prep.world_sampling.seasons import cycles_at
from geotreeclip.prep.world_sampling.ssl4eco import FILE_BANDS
from geotreeclip.schema import BANDS, MISSING_DN
from geotreeclip.training.seasonal.sampling import read_weights
from geotreeclip.training.seasonal.seasons import SampleSeasons

LAND = Path(__file__).parents[3] / "shared/data/worldclim_2.1_10m/wc2.1_10m_bio_1.tif"
BOX = ["9.032", "50.137", "9.075", "50.158"]


def test_cells_are_even_from_the_equator_to_the_arctic():
    places = whole_grid(200.0)
    share = (np.sin(np.radians(84)) - np.sin(np.radians(-60))) / 2
    assert len(places.sample_id) == pytest.approx(4 * np.pi * 6371**2 * share / 200**2, rel=0.03)
    assert len(set(places.sample_id)) == len(places.sample_id)
    north = np.abs(places.latitude) > 70
    for part in (north, ~north):
        some = places.take(np.flatnonzero(part)[:200:20])
        others = places.take(~np.isin(places.sample_id, some.sample_id))
        gap = nearest_km(some.longitude, some.latitude, others.longitude, others.latitude)
        assert gap.min() > 120
        assert gap.max() < 215


def test_a_box_holds_the_cells_of_the_whole_grid_also_across_the_antimeridian():
    whole = whole_grid(100.0)
    box = whole_grid(100.0, (170.0, -20.0, -175.0, 10.0))
    inside = ((whole.longitude >= 170) | (whole.longitude <= -175)) & (np.abs(whole.latitude + 5) <= 15)
    assert set(box.sample_id) == set(whole.sample_id[inside])
    with pytest.raises(ConfigError, match="too many"):
        whole_grid(0.5)
    with pytest.raises(ConfigError, match="no location is left"):
        land_grid(100.0, None, (0.0, 0.0, 0.01, 0.01))


@pytest.mark.skipif(not LAND.is_file(), reason=f"{LAND} is not here")
def test_the_full_grid_is_planned(capsys):
    assert main(["--dry-run", "--land", str(LAND)]) == 0
    count = int(capsys.readouterr().out.split()[0].replace(",", ""))
    assert 250_000 < count < 285_000  # 149 Mkm2 of land without Antarctica and the far north, over 529 km2
    here = on_land(LAND, np.array([9.0, -30.0, 134.0]), np.array([50.0, 30.0, -25.0]))
    assert here.tolist() == [True, False, True]


def test_parts_share_a_zone_and_a_square():
    places = whole_grid(50.0, (0.0, 40.0, 14.0, 50.0))
    parts = squares(places, 3)
    assert sorted(np.concatenate(parts)) == list(range(len(places.sample_id)))
    for rows in parts:
        assert len(rows) <= 3
        assert len(set(np.floor(places.longitude[rows]))) == len(set(np.floor(places.latitude[rows]))) == 1


@pytest.fixture(scope="module")
def sampled(raw_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "set"
    arguments = ["--box", *BOX, "--spacing", "1", "--catalog", str(raw_world / "stac" / "catalog.json")]
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def test_a_region_is_sampled_for_real(raw_world, sampled):
    """Dates lie in their seasons, and a value is that of the file at that place and date."""
    dataset = PackedDataset(sampled)
    dataset.verify()
    table, batch = dataset.samples(), dataset.read(np.arange(len(dataset)))
    assert dataset.steps == 4
    assert len(dataset) >= 4
    cycles = cycles_at(table["longitude"].to_numpy(), table["latitude"].to_numpy(), None)
    season = season_of(batch.days[..., 0] - 0.5, cycles)
    seen = (batch.images != MISSING_DN).any(axis=(2, 3, 4))
    assert seen.mean() > 0.8
    assert (season[seen] == np.broadcast_to(np.arange(4), seen.shape)[seen]).all()
    checked = 0
    for row, number in zip(*np.nonzero(seen), strict=True):
        name = ("spring", "summer", "autumn", "winter")[number]
        date = table[f"date_{name}"][row]
        assert pd.Timestamp(date).day_of_year == batch.days[row, number, 0]  # 2021 to 2023 have no leap day
        item = next((raw_world / "stac").rglob(f"{table[f'scene_{name}'][row]}.json"))
        properties = json.loads(item.read_text())["properties"]
        assert properties["datetime"][:10] == date
        assert properties["eo:cloud_cover"] < 20
        late = properties["s2:processing_baseline"] >= "04.00"
        offset = 0 if properties["earthsearch:boa_offset_applied"] or not late else -1000
        with rasterio.open(item.parent / "B04.tif") as source:
            place = locate(
                table["longitude"][[row]].to_numpy(), table["latitude"][[row]].to_numpy(), source.crs.to_epsg()
            )
            raw = next(source.sample([(place.x[0], place.y[0])]))[0]
        value = batch.images[row, number, BANDS.index("B4"), 2, 2]
        if value != MISSING_DN:
            assert value == max(1, int(raw) + offset)
            checked += 1
    assert checked > 5


def test_the_set_is_ready_for_pretraining(sampled):
    dataset = PackedDataset(sampled)
    seasons = SampleSeasons.of(dataset, "steps")
    weights = seasons.weights(np.array([0, 1]), dataset.read([0, 1]).days, 4)
    np.testing.assert_array_equal(weights, np.stack([np.eye(4)] * 2))
    table = pd.read_parquet(sampled / "phenology.parquet")
    assert (table["source"] == "calendar").all()
    again = SampleSeasons.of(dataset, str(sampled / "phenology.parquet"))
    batch = dataset.read(np.arange(len(dataset)))
    seen = (batch.images != MISSING_DN).any(axis=(2, 3, 4))
    assert (again.weights(batch.index, batch.days, 4).argmax(2) == np.arange(4))[seen].all()
    assert (read_weights(sampled / "weights.parquet", dataset.samples()["sample_id"]) > 0).all()


def test_a_second_run_with_other_options_is_refused(raw_world, sampled):
    arguments = ["--box", *BOX, "--spacing", "1", "--catalog", str(raw_world / "stac" / "catalog.json")]
    with pytest.raises(DataError, match="other options"):
        main([*arguments, "--out", str(sampled), "--max-cloud", "10"])


def test_bare_places_and_mountains_have_their_weights():
    images = np.full((4, 4, 10, 5, 5), 1000, np.uint16)  # NDVI 0: bare
    images[1, 2, BANDS.index("B8")] = 3000  # green in autumn
    images[2] = MISSING_DN
    images[3, :3] = MISSING_DN
    assert sampling_weights(images).tolist() == [0.25, 1, 1, 0.25]
    assert sampling_weights(images, np.array([True, True, False, False])).tolist() == [0.5, 2, 1, 0.25]


def write_image(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": 8, "width": 8, "count": len(values), "dtype": "uint16"}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=from_origin(5e5, 5e6, 10, 10), **profile) as sink:
        sink.write(np.stack(values).astype(np.uint16))


def test_published_folders_are_read_into_the_same(tmp_path, capsys):
    pixels = np.arange(64).reshape(8, 8)
    bands = [pixels + 100 * (number + 1) for number in range(13)]
    folder = tmp_path / "imgs"
    for name in ("20190415T1_32TQM", "20190714T1_32TQM", "20180601T1_32TQM", "20200110T1_32TQM"):
        write_image(folder / "000007" / f"{name}.tif", bands if name[4:6] != "01" else [0 * band for band in bands])
    write_image(folder / "000009" / "20190714T1_32TQM.tif", bands)
    (tmp_path / "index.csv").write_text("index,lon,lat,image_id_1\n7,9.0,46.0,a\n9,10.0,46.0,b\n")
    arguments = ["--ssl4eco", str(folder), "--locations", str(tmp_path / "index.csv"), "--out", str(tmp_path / "set")]
    assert main(arguments) == 0
    assert "1 samples written" in capsys.readouterr().out
    dataset = PackedDataset(tmp_path / "set")
    batch, table = dataset.read([0]), dataset.samples()
    assert table["sample_id"].tolist() == ["000007"]
    # Of two summer images the one nearer to the middle of the season; none in autumn; winter has no data.
    assert table[["date_spring", "date_summer", "date_autumn"]].iloc[0].tolist() == ["2019-04-15", "2019-07-14", ""]
    for number, band in enumerate(BANDS):
        np.testing.assert_array_equal(batch.images[0, 1, number], bands[FILE_BANDS.index(band)][2:7, 2:7])
    assert (batch.images[0, 2:] == MISSING_DN).all()
    lost = pd.read_parquet(tmp_path / "set" / "refused.parquet")
    assert lost["sample_id"].tolist() == ["000009"]
    assert lost["reason"][0] == "1 of 4 seasons have a clear scene, at least 2 are needed"
    write_image(folder / "000009" / "20190415T1.tif", bands[:12])
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(DataError, match="has 12 bands"):
        main(arguments)


def test_cycles_come_from_near_places_or_the_calendar(tmp_path):
    names = ["greenup", "maturity", "peak", "senescence", "dormancy"]
    table = pd.DataFrame([[100.0, 150, 200, 250, 300], [10.0, 20, 30, 40, 50]], columns=names)
    table[["longitude", "latitude", "source"]] = [[10.0, 50.0, "observed"], [10.1, 50.0, "calendar"]]
    table.to_parquet(tmp_path / "cycles.parquet")
    cycles = cycles_at(np.array([10.2, 40.0]), np.array([50.0, -30.0]), tmp_path / "cycles.parquet")
    assert isinstance(cycles, Cycles)
    assert cycles.frame()["source"].tolist() == ["neighbor", "calendar"]
    np.testing.assert_allclose(cycles.dates[0], [100, 150, 200, 250, 300])
    assert season_weights(cycles)[1, 6].argmax() == 3  # July in the south


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", *BOX, "--spacing", "1"], "--out"),
        (["--spacing", "0"], "--spacing"),
        (["--ssl4eco", "x"], "--locations"),
        (["--box", *BOX, "--spacing", "1", "--out", "o"], "--catalog"),
    ],
)
def test_mistakes_of_the_command(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main(arguments)
