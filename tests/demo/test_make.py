import json

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.ceiling import bayes_probabilities
from geotreeclip.demo.command import main
from geotreeclip.demo.make import make_world
from geotreeclip.evaluation.report import read_ceiling

SMALL = {"samples": 300, "validation": 40, "test": 60, "quota": 1, "ceiling_samples": 128}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("forest") / "set"
    lines = []
    world = make_world(out, seed=2, knobs={"sites": 300}, progress=lines.append, **SMALL)
    return out, world, lines


def test_splits_and_table_of_samples(made):
    out, world, _ = made
    data = PackedDataset(out)
    assert len(data) == 300 + 40 + 60 + 60
    roles = {role: data.split("default", 0, role) for role in ("train", "validation", "test")}
    assert [len(rows) for rows in roles.values()] == [300, 40, 60]
    np.testing.assert_array_equal(np.bincount(data.taxa[roles["train"]], minlength=60), world.counts)
    quota = data.split("quota", 0, "test")
    assert np.bincount(data.taxa[quota], minlength=60).tolist() == [1] * 60
    assert not set(quota) & set(np.concatenate(list(roles.values())))
    np.testing.assert_array_equal(data.split("quota", 0, "train"), roles["train"])
    table = data.samples()
    assert set(table["rarity"]) <= {"scarce", "rare", "common", "frequent"}
    split = pd.read_parquet(out / "splits" / "default.parquet")
    assert split["block"].nunique() > 20
    assert data.taxonomy == world.taxonomy


def test_stored_samples_are_those_of_the_world(made):
    """The posterior of the stored tensors finds the recorded species as often as it says."""
    out, world, _ = made
    data = PackedDataset(out)
    batch = data.read(data.split("default", 0, "train"))
    got = bayes_probabilities(world, batch.images, batch.environment, inputs=("all",))["all"]
    best, hits = got.max(axis=1), got.argmax(axis=1) == batch.taxon
    assert abs(best.mean() - hits.mean()) < 3.5 * np.sqrt((best * (1 - best)).sum()) / len(best)
    assert hits.mean() > 0.4


def test_ceiling_travels_with_the_set(made):
    out, _, lines = made
    rows = read_ceiling(out / "ceiling.json", "forest")
    found = {(row["inputs"], row["prior"]) for row in rows}
    assert {("all", "training"), ("image", "training"), ("environment", "uniform")} <= found
    assert json.loads((out / "ceiling.json").read_text())["meta"]["config"]["seed"] == 2
    assert "ceiling" in lines[-1]


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    make_world(tmp_path / "again", seed=2, knobs={"sites": 300}, **SMALL)
    for path in sorted(made[0].rglob("*")):
        if path.suffix in (".tar", ".json"):
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made[0])).read_bytes(), path.name


def test_command_line(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "x"), "--samples", "20"]
    assert main(arguments) == 2
    assert "60 species" in capsys.readouterr().err
    assert main([*arguments, "--knob", "cloud=often"]) == 2
    assert "NAME=NUMBER" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
