"""Centres of places: a mean over places from a mean over groups, and no group that tells of a single place."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from geotreeclip.errors import DataError
from geotreeclip.models.place_centres import CENTRES_FILE, LEAST_PLACES, PlaceCentres


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_mean_score_of_groups_is_that_of_places():
    spots, sizes = unit(4, 16), (400, 200, 40, 160)
    places = spots.repeat_interleave(torch.tensor(sizes), dim=0)[torch.randperm(800)]
    found = PlaceCentres.fit(places)
    labels = unit(7, 16, seed=1)
    expected = (12 * labels @ places.T).exp().mean(dim=1).log()
    torch.testing.assert_close(found.log_mean_score(labels, 12), expected, rtol=1e-4, atol=1e-4)


def test_spread_places_are_met_within_half_a_unit():
    places = functional.normalize(unit(5000, 32) + 2 * unit(20, 32, seed=2).repeat(250, 1), dim=-1)
    labels = unit(50, 32, seed=1)
    error = PlaceCentres.fit(places).log_mean_score(labels, 10) - (10 * labels @ places.T).exp().mean(dim=1).log()
    assert error.abs().max() < 0.5
    assert error.std() < 0.15


def test_no_group_of_few_places():
    lonely = -unit(1, 16)
    places = torch.cat([functional.normalize(unit(1, 16) + 0.05 * unit(600, 16, seed=3), dim=-1), lonely])
    found = PlaceCentres.fit(places)
    assert (found.centres @ lonely.T).max() < 0.5
    assert found.share.sum() == pytest.approx(1)
    assert found.share.min() * 601 >= LEAST_PLACES - 0.5


def test_same_seed_same_centres():
    places = unit(300, 8)
    assert torch.equal(PlaceCentres.fit(places, 4).centres, PlaceCentres.fit(places, 4).centres)


def test_too_few_places():
    assert PlaceCentres.fit(unit(LEAST_PLACES - 1, 8)) is None
    assert len(PlaceCentres.fit(unit(LEAST_PLACES, 8)).share) == 1


def test_kept_as_written(tmp_path):
    centres = PlaceCentres.fit(unit(200, 8))
    assert PlaceCentres.read(tmp_path, 8) is None
    centres.write(tmp_path)
    for found, written in zip(PlaceCentres.read(tmp_path, 8), centres, strict=True):
        assert torch.equal(found, written)


@pytest.mark.parametrize(
    ("centres", "share"),
    [
        (np.full((2, 8), np.nan), [0.5, 0.5]),
        (np.ones((2, 8)), [0.5, 0.5]),
        (np.zeros((2, 8)), [0.5, 0.4]),
        (np.zeros((2, 8)), [1.5, -0.5]),
        (np.zeros((2, 8)), [np.nan, 0.5]),
        (np.zeros((2, 7)), [0.5, 0.5]),
        (np.zeros((0, 8)), []),
        (np.zeros((2, 8)), [1.0]),
    ],
)
def test_values_that_cannot_be(tmp_path, centres, share):
    values = {"centres": torch.tensor(centres, dtype=torch.float32), "share": torch.tensor(share, dtype=torch.float32)}
    save_file(values, tmp_path / CENTRES_FILE)
    with pytest.raises(DataError, match=r"place_centres\.safetensors.*training writes it anew"):
        PlaceCentres.read(tmp_path, 8)


def test_damaged_file(tmp_path):
    (tmp_path / CENTRES_FILE).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="damaged"):
        PlaceCentres.read(tmp_path, 8)
