"""Exchanged images stay within block and climate bin, and a model that sees nothing else loses everything by them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.baselines.permutation import climate_bins, exchange_images, what_images_add
from geotreeclip.evaluation.collect import truth_of
from geotreeclip.evaluation.predictions import Context
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = Taxonomy(Taxon("", "Pinaceae", "Pinus", f"Pinus {name}") for name in ("mugo", "nigra", "pinea", "taeda"))


def test_images_go_round_within_block_and_bin_and_nobody_keeps_its_own() -> None:
    rng = np.random.default_rng(3)
    block, climate = rng.integers(0, 12, 200), rng.integers(0, 3, 200)
    block[0] = 99  # alone
    donor = exchange_images(block, climate, seed=1)
    assert sorted(donor.tolist()) == list(range(200))
    np.testing.assert_array_equal(block[donor], block)
    np.testing.assert_array_equal(climate[donor], climate)
    group = block * 10 + climate
    alone = np.array([(group == value).sum() == 1 for value in group])
    np.testing.assert_array_equal(donor == np.arange(200), alone)
    assert alone[0]
    np.testing.assert_array_equal(donor, exchange_images(block, climate, seed=1))
    assert (donor != exchange_images(block, climate, seed=2)).any()


def test_climate_bins_are_quantiles_of_both_variables_and_keep_the_unknown_apart() -> None:
    environment = np.zeros((9, len(VARIABLES)))
    environment[:, VARIABLE_INDEX["bio01"]] = [1, 2, 3, 4, 1, 2, 3, 4, np.nan]
    environment[:, VARIABLE_INDEX["bio12"]] = [10] * 4 + [900] * 4 + [500]
    found = climate_bins(environment, bins=2)
    groups = [found[[0, 1]], found[[2, 3]], found[[4, 5]], found[[6, 7]], found[[8]]]
    assert all(len(set(group.tolist())) == 1 for group in groups)
    assert len({int(group[0]) for group in groups}) == 5


class Painter:
    """Reads the taxon off the first pixel."""

    def log_probabilities(self, batch: Any, labels: Any = None, prior: Any = None, batch_size: int = 0) -> Any:
        seen = batch.images[:, 0, 0, 0, 0].numpy().astype(int)
        scores = np.full((len(seen), len(labels)), -10.0)
        scores[np.arange(len(seen)), seen % len(labels)] = 0
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.fixture
def painted(tmp_path: Path) -> PackedDataset:
    """Sixty places of one climate with each sample's taxon painted into its images."""
    rng = np.random.default_rng(0)
    taxa = rng.integers(0, len(TAXA), 60)
    environment = rng.normal(size=(60, len(VARIABLES))).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-170, 170, 60), rng.uniform(-60, 60, 60)
    images = np.broadcast_to(taxa.astype(np.uint16)[:, None, None, None, None], (60, 12, 10, 5, 5))
    with PackedWriter(tmp_path / "painted", TAXA, shard_samples=32, chunk_samples=16) as writer:
        writer.add(images, environment, taxa, [f"s{number}" for number in range(60)])
    return PackedDataset(tmp_path / "painted")


def test_a_model_of_images_alone_loses_what_its_neighbours_do_not_share(painted: PackedDataset) -> None:
    rows = np.arange(len(painted))
    truth = truth_of(painted, rows, block_km=5_000)
    found = what_images_add(Painter(), painted, rows, TAXA, truth, Context(set="tiny"), repeats=2, resamples=50)
    assert found.intact.listed.hits(1).all()
    by_name = {
        (row["set"], row["rank"]): row
        for row in found.rows
        if row["metric"] == "top1_difference" and row["system"].endswith("(images permuted)")
    }
    rank = found.intact.ranks[0]
    exchanged = by_name["tiny, images exchanged", rank]
    assert exchanged["n"] == found.moved.sum()
    expected = 1 - np.mean([scored.listed.hits(1)[found.moved] for scored in found.permuted])
    assert exchanged["value"] == pytest.approx(expected)
    assert expected > 0.1
    assert by_name["tiny", rank]["value"] == pytest.approx(expected * found.moved.mean())
    assert not found.permuted[0].listed.hits(1)[found.moved].all()
    assert found.permuted[0].listed.hits(1)[~found.moved].all()
    blind = [row for row in found.rows if row["metric"] == "top1_difference" and "(environment)" in row["system"]]
    shares = [taxon == TAXA[0] for taxon in truth.taxa]  # without images it names the first taxon
    assert next(row for row in blind if row["rank"] == rank)["value"] == pytest.approx(1 - np.mean(shares))


def test_a_set_without_imagery_is_refused(painted: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedDataset, "has_images", property(lambda self: False))
    rows = np.arange(4)
    with pytest.raises(ConfigError, match="nothing to permute"):
        what_images_add(Painter(), painted, rows, TAXA, truth_of(painted, rows, block_km=100), Context())
