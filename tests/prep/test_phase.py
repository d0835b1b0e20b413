"""Days since greenup: both hemispheres align, a set is written again, and a model says what its days mean."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.writer import PackedWriter
from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.models.config import ModelConfig, ObservationConfig, config_from_dict
from geotreeclip.models.observation_encoder import ObservationEncoder
from geotreeclip.observations import from_packed
from geotreeclip.prep.phase import check_days, main, shift_days_to_phase, write_phase_set
from geotreeclip.prep.phenology import MONTH_MIDDLES, fit_cycles, season_of
from geotreeclip.prep.phenology.job import main as fit
from geotreeclip.schema import MONTH_DAYS
from geotreeclip.taxonomy import Taxon


def test_days_count_from_greenup_round_new_year():
    shifted = shift_days_to_phase(MONTH_DAYS, [0.0, 31.0, 350.0])
    np.testing.assert_array_equal(shifted[0], MONTH_DAYS)
    assert shifted[1, 1].tolist() == [1, 28]  # February begins the year where greenup is on 1 February
    assert shifted[1, 0].tolist() == [335, 365]
    assert shifted[2, 0].tolist() == [16, 46]
    np.testing.assert_allclose(np.diff(shifted), np.broadcast_to(np.diff(MONTH_DAYS), (3, 12, 1)))
    with pytest.raises(InputError, match="greenup of place 1 is unknown"):
        shift_days_to_phase(MONTH_DAYS, [0.0, np.nan])


def half_year_apart(samples=16):
    """Greenness of northern places, and the same half a year (six months) on in the south."""
    angle = 2 * np.pi * (np.arange(12) + 0.5 - 6.5) / 12
    nir = 2500 + 1500 * np.cos(angle)
    nir = np.where(np.arange(samples)[:, None] % 2, np.roll(nir, 6), nir)
    images = np.full((samples, 12, 10, 5, 5), 400.0)
    images[:, :, 3] = nir[:, :, None, None]
    return images.astype(np.uint16)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase")
    images = half_year_apart()
    environment = np.full((16, 27), np.nan, np.float32)
    environment[:, 0], environment[:, 1] = np.linspace(-100, 100, 16), np.where(np.arange(16) % 2, -40, 40)
    table = pd.DataFrame({"year": np.full(16, 2020), "country": ["DE"] * 16})
    with PackedWriter(folder / "data", None) as writer:
        writer.add(images, environment, [Taxon("a", "b", "c", "c d")] * 16, [f"s{i}" for i in range(16)], table)
    assert fit(["--data", str(folder / "data"), "--out", str(folder / "cycles.parquet")]) == 0
    arguments = ["--data", str(folder / "data"), "--phenology", str(folder / "cycles.parquet")]
    assert main([*arguments, "--out", str(folder / "phase")]) == 0
    return folder


def test_hemispheres_align(sets):
    """Calendar days differ by half a year, days since greenup by less than the error of months of unequal length."""
    packed = PackedDataset(sets / "phase").read(np.arange(16))
    middle = packed.days.mean(2)
    green = packed.images[:, :, 3, 0, 0].argmax(1)
    peak = middle[np.arange(16), green]
    assert np.ptp(peak) < 5
    assert abs(MONTH_MIDDLES[green[0]] - MONTH_MIDDLES[green[1]]) > 180
    statistics = PackedDataset(sets / "data").statistics
    values = (statistics.band_mean, statistics.band_deviation, statistics.variable_mean, statistics.variable_deviation)

    def embedded(folder, season):
        torch.manual_seed(0)
        config = ObservationConfig(inputs=("image", "location"), width=16, depth=1, heads=2, season=season)
        encoder = ObservationEncoder(config, 16, *(torch.as_tensor(value) for value in values)).eval()
        batch = from_packed(PackedDataset(sets / folder).read([0, 1]))
        with torch.no_grad():
            return encoder.readers["image"](batch)[2]  # the sum over steps weighed by their days

    north, south = embedded("phase", "phase")
    calendar_north, calendar_south = embedded("data", "calendar")
    assert (north - south).norm() < 0.2 * (calendar_north - calendar_south).norm()


def test_the_set_is_otherwise_the_same(sets):
    first, second = PackedDataset(sets / "data"), PackedDataset(sets / "phase")
    one, other = first.read(np.arange(16)), second.read(np.arange(16))
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.environment, other.environment)
    pd.testing.assert_frame_equal(first.samples(), second.samples(), check_dtype=False)
    second.verify()
    with pytest.raises(ConfigError, match="already"):
        write_phase_set(sets / "phase", sets / "cycles.parquet", sets / "again")


def test_a_model_says_what_its_days_mean(sets):
    calendar, phase = (ModelConfig(observation=ObservationConfig(season=season)) for season in ("hemisphere", "phase"))
    check_days(sets / "data", calendar)
    check_days(sets / "phase", phase)
    with pytest.raises(ConfigError, match="its days are since greenup"):
        check_days(sets / "phase", calendar)
    with pytest.raises(ConfigError, match=r"make the set with data_prep/phase.py"):
        check_days(sets / "data", phase)
    with pytest.raises(ConfigError, match="season 'solar'"):
        ObservationConfig(season="solar")


def test_older_configurations_are_read():
    values = dataclasses.asdict(ModelConfig())
    for stored, season in ((True, "hemisphere"), (False, "calendar")):
        values["observation"].pop("season", None)
        values["observation"]["local_season"] = stored
        assert config_from_dict(ModelConfig, values, "config.json").observation.season == season
    assert ModelConfig().observation.season == "hemisphere"


def test_places_without_greenup_are_named(sets, tmp_path):
    table = pd.read_parquet(sets / "cycles.parquet")
    table.loc[2, "greenup"] = np.nan
    table.to_parquet(tmp_path / "cycles.parquet")
    with pytest.raises(DataError, match="1 samples have no greenup"):
        write_phase_set(sets / "data", tmp_path / "cycles.parquet", tmp_path / "out")


def test_seasons_of_fitted_cycles_agree_with_what_was_planted(sets):
    cycles = fit_cycles(np.cos(2 * np.pi * (np.arange(12) - 6) / 12)[None] * 0.2 + 0.3, MONTH_MIDDLES)
    assert season_of(MONTH_MIDDLES, cycles)[0, 6] == 1
