"""Parts of season-contrastive pretraining: losses with known values, queue, views without shortcuts, weights."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from seasonal_world import write_world
from torch.nn import functional

from geotreeclip.data.packed import PackedDataset
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.config import ObservationConfig
from geotreeclip.models.observation_encoder import ObservationEncoder
from geotreeclip.observations import from_packed
from geotreeclip.training.seasonal.config import DisturbConfig, SeasonalConfig
from geotreeclip.training.seasonal.objectives import OBJECTIVES, contrast, expected_initial_loss
from geotreeclip.training.seasonal.queue import KeyQueue, Origin, fingerprints, origins
from geotreeclip.training.seasonal.sampling import WeightedLoader, density_weights, read_weights, systematic_draw
from geotreeclip.training.seasonal.seasons import SampleSeasons
from geotreeclip.training.seasonal.views import Share, disturb, draw_halves, draw_seasons, frames, halves


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return PackedDataset(write_world(tmp_path_factory.mktemp("seasonal") / "world", 48, missing=0.2))


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize(("negatives", "value"), [(65536, 11.19), (4096, 8.42)])
def test_random_directions_give_the_expected_loss(negatives, value):
    assert expected_initial_loss(negatives, 128, 0.2) == pytest.approx(value, abs=0.005)
    losses = contrast(
        unit(256, 128), unit(256, 128, seed=1), unit(negatives, 128, seed=2),
        torch.ones(256, negatives, dtype=torch.bool), 0.2,
    )  # fmt: skip
    assert losses.mean().item() == pytest.approx(value, abs=0.08)


def test_the_loss_of_two_samples_by_hand():
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    negative = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    losses = contrast(query, positive, negative, torch.tensor([[True, True], [True, False]]), 0.5)
    first = -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(2.0) + math.exp(0.0)))
    second = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(0.0)))
    torch.testing.assert_close(losses, torch.tensor([first, second]))


def test_masked_negatives_have_no_part_and_no_gradient():
    negatives = unit(3, 4, seed=2).requires_grad_()
    allowed = torch.tensor([[True, False, False], [False, False, True]])
    contrast(unit(2, 4), unit(2, 4, seed=1), negatives, allowed, 0.2).sum().backward()
    assert negatives.grad[1].abs().max() == 0
    assert (negatives.grad[[0, 2]].abs().max(dim=1).values > 0).all()
    alone = contrast(unit(2, 4), unit(2, 4, seed=1), negatives, torch.zeros(2, 3, dtype=torch.bool), 0.2)
    assert alone.abs().max() == 0


def test_the_queue_wraps_whatever_its_size():
    queue = KeyQueue(2, 5, 3, seed=0)
    keys = torch.arange(2 * 7 * 3, dtype=torch.float32).reshape(2, 7, 3)
    where = Origin(torch.arange(21.0).reshape(7, 3), torch.arange(1, 8))
    for low, high in ((0, 3), (3, 7)):
        queue.enqueue(keys[:, low:high], Origin(*(part[low:high] for part in where)))
    # 7 keys into 5 places: the first two were replaced by the last two.
    assert queue.patch.tolist() == [6, 7, 3, 4, 5]
    torch.testing.assert_close(queue.keys, keys[:, [5, 6, 2, 3, 4]])
    torch.testing.assert_close(queue.place, where.place[[5, 6, 2, 3, 4]])
    assert int(queue.pointer) == 2
    queue.enqueue(keys, where)
    assert sorted(queue.patch.tolist()) == [3, 4, 5, 6, 7]


def test_near_places_and_equal_patches_are_no_negatives():
    # 1 km is 0.00899 degrees of latitude, twice that of longitude at 60 degrees; the last one's place is unknown.
    lon = [10.0, 10.0, 10.0, 179.999, -179.999, 10.017, np.nan]
    lat = [60.0, 60.0088, 60.0092, 0.0, 0.0, 60.0, np.nan]
    origin = origins(lon, lat, np.array([1, 2, 3, 4, 5, 6, 1]))
    near = origin.near(origin, 1.0).numpy()
    assert near[0].tolist() == [True, True, False, False, False, True, True]
    assert near[3, 4]
    assert near[6].tolist() == [True, False, False, False, False, False, True]
    images = np.random.default_rng(0).integers(0, 9000, (3, 12, 10, 5, 5)).astype(np.uint16)
    images[2] = images[0]
    prints = fingerprints(images)
    assert prints[0] == prints[2] != prints[1]


def test_drawn_steps_are_of_distinct_seasons_and_follow_the_weights():
    weights = np.zeros((4000, 12, 4))
    for month in range(12):
        weights[:, month, month // 3] = 1.0
    weights[:, 2] = [0.5, 0.5, 0, 0]  # half of two seasons
    seen = np.ones((4000, 12), bool)
    seen[:, 11] = False
    seen[:1000, 3:] = False  # months 0 to 2 alone: spring, and half a summer
    seen[0, 1:] = False
    draw = draw_seasons(weights, seen, 3, Share(0, 0, slice(0, 4000), 4000))
    assert draw.seasons[0] == 1
    assert (draw.seasons[1:1000] <= 2).all()
    assert (draw.seasons[1000:] == 3).all()
    rows = np.arange(4000)
    for slot in range(3):
        assert seen[rows, draw.step[:, slot]].all()
        assert (weights[rows, draw.step[:, slot], draw.season[:, slot]] > 0).all()
    whole = draw.step[1000:]
    assert all(len(set(steps)) == 3 for steps in whole.tolist())
    assert all(len(set(seasons)) == 3 for seasons in draw.season[1000:].tolist())
    assert (draw.step[draw.seasons == 2][:, 1] == draw.step[draw.seasons == 2][:, 2]).all()
    spring = draw.step[1000:, 0][draw.season[1000:, 0] == 0]
    counts = np.bincount(spring, minlength=3)[:3] / len(spring)
    np.testing.assert_allclose(counts, [0.4, 0.4, 0.2], atol=0.05)


def test_draws_do_not_depend_on_the_process():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), (16, 12))
    seen = np.random.default_rng(1).random((16, 12)) < 0.8
    whole = draw_seasons(weights, seen, 2, Share(3, 64, slice(0, 16), 16))
    parts = [draw_seasons(weights[s], seen[s], 2, Share(3, 64, s, 16)) for s in (slice(0, 8), slice(8, 16))]
    for all_rows, *halved in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(halved), all_rows)


def test_halves_share_no_step_and_need_enough_of_a_year():
    weights = np.zeros((3, 12, 4))
    weights[0] = weights[2] = np.eye(4)[np.arange(12) // 3]
    weights[1, :, 0] = 1.0  # one season all year
    seen = np.ones((3, 12), bool)
    seen[2, 4:] = False
    for position in range(20):
        drawn = draw_halves(weights, seen, Share(0, position, slice(0, 3), 3))
        assert not set(drawn.first) & set(drawn.second)
        assert len(drawn.first) == len(drawn.second) == 6
        assert drawn.usable.tolist() == [True, False, False]


def encoder_for(dataset):
    torch.manual_seed(0)
    statistics = dataset.statistics
    config = ObservationConfig(inputs=("image",), width=16, depth=1, heads=2)
    values = (statistics.band_mean, statistics.band_deviation, statistics.variable_mean, statistics.variable_deviation)
    return ObservationEncoder(config, 16, *(torch.as_tensor(value) for value in values)).eval()


def test_the_month_of_a_single_step_cannot_be_read(world):
    """The same pixels in another month, at another place, give the very same embedding."""
    encoder, calm = encoder_for(world), DisturbConfig()
    batch = from_packed(world.read(np.arange(8)))
    share = Share(0, 0, slice(0, 8), 8)
    march = frames(batch, np.full(8, 2), 0, True, calm, share)
    moved = batch._replace(
        images=batch.images.roll(4, 1), image_valid=batch.image_valid.roll(4, 1), environment=batch.environment.flip(0)
    )
    july = frames(moved, np.full(8, 6), 0, True, calm, share)
    torch.testing.assert_close(encoder(july), encoder(march), atol=0, rtol=0)
    assert not march.environment_valid.any()


def test_disturbance_hides_and_turns_but_never_invents(world):
    batch = from_packed(world.read(np.arange(32)))
    share = Share(0, 0, slice(0, 32), 32)
    off = DisturbConfig(gain=0, noise=0, drop_band=0, turn=False)
    for part, same in zip(disturb(batch, off, 0, True, share), batch, strict=True):
        torch.testing.assert_close(part, same, atol=0, rtol=0)
    out = disturb(batch, DisturbConfig(drop_band=0.5, turn=False), 0, True, share)
    assert not (out.image_valid & ~batch.image_valid).any()
    assert (out.images[~out.image_valid] == 0).all()
    assert out.image_valid.flatten(1).any(1).all()
    gain = disturb(batch, dataclasses.replace(off, gain=0.2), 0, True, share).images / batch.images
    gain = gain.nan_to_num(1.0)
    assert 0.8 <= gain.min() < 0.9 < 1.1 < gain.max() <= 1.2
    quiet = disturb(batch, dataclasses.replace(off, turn=True), 0, False, share)
    torch.testing.assert_close(quiet.images.flatten(3).sort().values, batch.images.flatten(3).sort().values)
    parts = [
        disturb(batch.select(s), DisturbConfig(), 1, True, Share(0, 0, s, 32)) for s in (slice(0, 16), slice(16, 32))
    ]
    together = disturb(batch, DisturbConfig(), 1, True, share)
    torch.testing.assert_close(torch.cat([part.images for part in parts]), together.images, atol=0, rtol=0)


def test_halves_of_a_year_keep_their_dates(world):
    batch = from_packed(world.read(np.arange(4)))
    some = halves(batch, np.array([1, 7]), 0, DisturbConfig(), Share(0, 0, slice(0, 4), 4))
    assert some.first_day[0].tolist() == [32, 213]
    assert some.images.shape == (4, 2, 10, 5, 5)


def test_seasons_of_the_calendar_turn_with_the_hemisphere(world):
    seasons = SampleSeasons.of(world, "calendar")
    south = world.samples()["latitude"].to_numpy() < 0
    weights = seasons.weights(np.arange(len(world)), None, 12)
    np.testing.assert_allclose(weights.sum(2), 1)
    assert (weights[:, 6].argmax(1) == np.where(south, 3, 1)).all()  # July: winter in the south
    assert seasons.seasonal.all()


def test_seasons_come_by_sample_id_whatever_the_order(world, tmp_path):
    names = ["greenup", "maturity", "peak", "senescence", "dormancy"]
    table = pd.DataFrame(np.tile([100.0, 150, 200, 250, 300], (len(world), 1)), columns=names)
    table.insert(0, "sample_id", world.samples()["sample_id"])
    table["source"] = "observed"
    table.loc[3, names] = np.nan
    table.loc[5, "source"] = "aseasonal"
    table.loc[7, "greenup"] = 20.0
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "cycles.parquet")
    seasons = SampleSeasons.of(world, str(tmp_path / "cycles.parquet"))
    assert np.flatnonzero(~seasons.seasonal).tolist() == [3, 5]
    weights = seasons.weights(np.array([7, 3, 0]), None, 12)
    assert weights[0, 1].tolist() == [1, 0, 0, 0]  # February is spring where greenup is day 20
    assert weights[2, 1].tolist() == [0, 0, 0, 1]
    assert weights[1].sum() == 0
    table.iloc[1:].to_parquet(tmp_path / "cycles.parquet")
    with pytest.raises(DataError, match=r"1 of 48 samples .* first 's0'"):
        SampleSeasons.of(world, str(tmp_path / "cycles.parquet"))
    with pytest.raises(ConfigError, match="12 steps, so they cannot be the four seasons"):
        SampleSeasons.of(world, "steps")


def test_systematic_draws_are_the_share_rounded_up_or_down():
    weight = np.random.default_rng(0).random(200) ** 3
    share = weight / weight.sum() * 200
    total = np.zeros(200)
    for start in np.arange(50) / 50:
        counts = np.bincount(systematic_draw(weight, start), minlength=200)
        assert counts.sum() == 200
        assert (counts >= np.floor(share - 1e-9)).all()
        assert (counts <= np.ceil(share + 1e-9)).all()
        total += counts
    np.testing.assert_allclose(total / 50, share, atol=0.03)


def test_crowded_cells_are_drawn_less_often(world):
    lon, lat = np.array([10.0, 10.001, 10.002, 10.003, 50.0, np.nan]), np.array([50.0] * 4 + [20.0, np.nan])
    np.testing.assert_allclose(density_weights(lon, lat, 0.5), [0.5, 0.5, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(density_weights(lon, lat, 0.0), 1)
    even = WeightedLoader(world, np.arange(48), 16, np.ones(48), seed=1)
    drawn = np.concatenate([even.rows(offset) for offset in (0, 16, 32)])
    assert sorted(drawn) == list(range(48))
    heavy = np.where(np.arange(48) == 7, 12.0, 36 / 47)
    loader = WeightedLoader(world, np.arange(48), 16, heavy, seed=1)
    drawn = np.concatenate([loader.rows(offset) for offset in range(0, 48 * 4, 16)])
    assert (drawn == 7).sum() == 48
    shares = [WeightedLoader(world, np.arange(48), 16, heavy, seed=1, rank=r, world_size=2).rows(16) for r in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(shares), loader.rows(16))


def test_weights_belong_to_ids(tmp_path):
    table = pd.DataFrame({"sample_id": ["b", "a", "c"], "weight": [2.0, 1.0, 0.0]})
    table.to_parquet(tmp_path / "w.parquet")
    assert read_weights(tmp_path / "w.parquet", ["a", "b"]).tolist() == [1, 2]
    with pytest.raises(DataError, match="no weight for 1 samples, first 'x'"):
        read_weights(tmp_path / "w.parquet", ["a", "x"])
    table.assign(weight=[1.0, -1.0, 1.0]).to_parquet(tmp_path / "w.parquet")
    with pytest.raises(DataError, match="weight of 'a' is -1"):
        read_weights(tmp_path / "w.parquet", ["a", "b"])


def test_objectives_are_those_of_the_specification():
    seco = OBJECTIVES["seco_eco"]
    assert not seco.query.disturbed
    assert {key.name: (key.slot, key.disturbed) for key in seco.keys} == {
        "k0": (1, True),
        "k1": (2, False),
        "k2": (0, True),
    }
    assert [(head.positive, set(head.against)) for head in seco.heads] == [
        ("k0", set()), ("k1", {"k0", "k2"}), ("k2", {"k0", "k1"}),
    ]  # fmt: skip
    assert [head.seasonal for head in seco.heads] == [False, False, True]
    assert SeasonalConfig().temperature == 0.2
    assert SeasonalConfig().momentum_of(4999) == 0.99
    assert SeasonalConfig().momentum_of(5000) == 0.999


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"batch_size": 1}, {"momentum": 1.0}, {"objective": "simclr"}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SeasonalConfig(**wrong)
