"""Protocol published-exact, and sets read from published shards."""

import json

import numpy as np
import pytest
import torch
from webdataset.filters import _shuffle

from geotreeclip.data.published import PublishedSample, write_published
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation import exact, zero_shot
from geotreeclip.evaluation.exact import count_exactly, exact_rows, stream_order
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.report import read_report
from geotreeclip.evaluation.sets import PUBLISHED_SETS, open_set
from geotreeclip.models import config as configs
from geotreeclip.models.clip import create_model
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = Taxonomy(
    [
        Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
        Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex"),
        Taxon("Deciduous Broadleaf", "Rosaceae", "Sorbus", "Sorbus aria"),
    ]
)
SIZE = 23


@pytest.mark.parametrize("size", [3, 99, 250, 2500])
def test_the_order_is_that_of_the_buffer_of_webdataset(size):
    assert stream_order(size, 42).tolist() == list(_shuffle(iter(range(size)), 1000, seed=42))


def test_partial_batches_are_dropped_and_names_are_read_off():
    truth = [TAXA[row % 3] for row in range(SIZE)]
    batches = []

    def scores(rows):  # always the other oak first, then the right answer
        batches.append(rows)
        return np.array([[{0: 1, 1: 2, 2: 0}[row % 3], {0: 2, 1: 1, 2: 0}[row % 3], 0.5] for row in rows.tolist()])

    runs = count_exactly(scores, TAXA, truth, seeds=(1, 2), batch_size=5)
    assert [len(rows) for rows in batches] == [5] * 8
    for run, half in zip(runs, (batches[:4], batches[4:]), strict=True):
        rows = np.concatenate(half)
        assert run.counted == 20 == len(set(rows.tolist()))
        sorbus = (rows % 3 == 2).mean()
        assert run.top["species", 1] == pytest.approx(sorbus)
        assert run.top["genus", 1] == run.top["family", 1] == run.top["species", 5] == 1
    found = {(row["rank"], row["metric"]): row["value"] for row in exact_rows(runs, Context(set="s"))}
    values = [run.top["species", 1] for run in runs]
    assert found["species", "top1"] == pytest.approx(np.mean(values))
    assert found["species", "top1_deviation"] == pytest.approx(np.std(values))
    with pytest.raises(ConfigError, match="fewer than a batch of 512"):
        count_exactly(scores, TAXA, truth)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    rng = np.random.default_rng(0)
    samples = []
    for number in range(SIZE):
        images = rng.integers(200, 5000, (12, 10, 5, 5)).astype(np.float64)
        images[number % 12] = np.nan
        environment = rng.uniform(1, 30, 27)
        environment[8:] *= 10
        samples.append(PublishedSample(f"k{number}", images, environment, TAXA[number % 3], f"id{number}", ""))
    path = tmp_path_factory.mktemp("shards") / "GGT-10kEval-90.tar"
    write_published(path, samples)
    return path


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A small model of the published architecture, as a checkpoint."""
    from geotreeclip.data.statistics import Statistics
    from geotreeclip.models.published_checkpoint import _published

    sizes = ModelConfig(
        name="published",
        architecture="published",
        embed_dim=32,
        observation=ObservationConfig(width=24, depth=1, heads=2),
        text=TextConfig(width=32, layers=1, heads=2, context_length=77),
    )
    monkeypatch.setitem(configs._REGISTRY, "published", lambda: sizes)
    torch.manual_seed(0)
    state = create_model(sizes, Statistics.empty()).state_dict()
    own = [name for name in state if "_range" in name or name == "log_scale"]
    torch.save({_published(name): value for name, value in state.items() if name not in own}, tmp_path / "GGT.pth")
    return tmp_path / "GGT.pth"


def test_published_shards_are_packed_once_and_nothing_is_lost_unsaid(shard, tmp_path):
    dataset, name, notes = open_set([shard])
    assert (len(dataset), name, notes) == (SIZE, "GGT-10kEval-90", [])
    before = dataset.manifest
    assert open_set([shard])[0].manifest == before
    assert open_set([dataset.directory])[0].directory == dataset.directory
    table = tmp_path / "samples.csv"
    table.write_text("sample_id,country_code,Category\nid0,DE,Rare\n")
    joined = open_set([shard], [table])[0]
    assert joined.samples()["country"].fillna("").tolist() == ["DE"] + [""] * (SIZE - 1)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(
        shard.read_bytes().replace(b'"level3_species": "Sorbus aria"', b'"level3_species": 123456789012 ')
    )
    lost = sum(row % 3 == 2 for row in range(SIZE))
    dataset, _, notes = open_set([damaged])
    assert len(dataset) == SIZE - lost
    assert f"of {SIZE} samples in the shards {lost} could not be read" in notes[0]
    with pytest.raises(ConfigError, match="is a packed set"):
        open_set([dataset.directory, shard])
    with pytest.raises(DataError, match="no such file"):
        open_set([tmp_path / "absent.tar"])
    assert all(source.startswith("hf://datasets/") for source in PUBLISHED_SETS.values())


def test_zero_shot_of_the_published_model_on_published_shards(shard, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exact.count_exactly, "__kwdefaults__", {**exact.count_exactly.__kwdefaults__, "batch_size": 8})
    out = tmp_path / "report.json"
    arguments = ["--model", checkpoint, "--data", shard, "--out", out, "--published-exact", "--resamples", "10"]
    with pytest.warns(UserWarning, match="to repeat the published scores"):
        assert zero_shot.main(list(map(str, arguments))) == 0
    meta, rows = read_report(out)
    counted = {(row["set"], row["protocol"]): row["n"] for row in rows if row["metric"] == "top1"}
    assert counted["GGT-10kEval-90", "published"] == counted["GGT-10kEval-90", "rolled-up"] == SIZE
    assert counted["GGT-10kEval-90", "published-exact"] == 16
    assert counted["GGT-10kEval-90, rank-cleaned", "published"] == sum(row % 3 != 2 for row in range(SIZE))
    assert {row["prior"] for row in rows if row["system"] == "geotreeclip"} == {"uniform"}
    assert sorted(meta["published_exact_runs"]) == ["42", "43", "44", "45", "46"]
    assert "16 of 23 samples counted, 5 runs" in meta["published_exact"]
    assert "rank-cleaned" in out.with_suffix(".md").read_text()
    assert "Published-exact: species top-1" in capsys.readouterr().out
    assert json.loads(out.read_text())["meta"]["samples_scored"] == SIZE


def test_country_and_lists_side_by_side(shard, checkpoint, tmp_path):
    table, labels = tmp_path / "samples.csv", tmp_path / "many.csv"
    table.write_text(
        "sample_id,country_code\n" + "".join(f"id{row},{'DE' if row % 2 else 'FR'}\n" for row in range(SIZE))
    )
    labels.write_text("species\n" + "".join(f"Quercus number{row}\n" for row in range(40)) + "Quercus robur\n")
    out = tmp_path / "report.json"
    arguments = ["--model", checkpoint, "--data", shard, "--samples", table, "--out", out, "--labels", "set", labels]
    arguments += ["--country", "DE", "--variants", "original", "--resamples", "10"]
    assert zero_shot.main(list(map(str, arguments))) == 0
    _, rows = read_report(out)
    found = {
        (row["set"], row["candidates"]): row["n"]
        for row in rows
        if (row["metric"], row["rank"], row["protocol"]) == ("top1", "species", "published")
    }
    assert found == {
        ("GGT-10kEval-90", "3 taxa of the set"): SIZE,
        ("GGT-10kEval-90", "41 taxa of many.csv"): SIZE,
        ("GGT-10kEval-90, DE", "3 taxa of the set's samples of DE"): SIZE // 2,
    }
