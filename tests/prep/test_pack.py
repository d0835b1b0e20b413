"""Packing: what was joined comes back in both formats, whatever interrupts it; every occurrence is accounted for."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyproj")
from pack_helpers import environment, imagery, occurrences

from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.packing import pack
from geotreeclip.data.published import PublishedSample, read_published
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep import pack_cli
from geotreeclip.prep.pack import PackOptions, pack_samples
from geotreeclip.prep.pack_join import IdIndex, Inputs
from geotreeclip.schema import MISSING_DN, VARIABLE_INDEX, VARIABLE_NAMES

COUNT = 120


class World:
    """Inputs of which some samples lack imagery, some environment."""

    def __init__(self, folder: Path, shuffled: bool = True) -> None:
        self.folder = folder
        self.frame = occurrences(folder / "occurrences.parquet", COUNT)
        self.images = imagery(folder / "imagery", self.frame.iloc[10:], shuffled=shuffled)
        self.environment = environment(folder / "environment.parquet", self.frame.iloc[:-15])

    def inputs(self, **changes) -> Inputs:
        given = {"occurrences": self.folder / "occurrences.parquet", "imagery": self.folder / "imagery",
                 "environment": self.folder / "environment.parquet", **changes}  # fmt: skip
        return Inputs(**{name: value if isinstance(value, tuple) else str(value) for name, value in given.items()})

    def command(self, out: Path, *more: str) -> list[str]:
        return ["--occurrences", str(self.folder / "occurrences.parquet"), "--imagery", str(self.folder / "imagery"),
                "--environment", str(self.folder / "environment.parquet"), "--out", str(out), *more]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_packed_set_holds_what_the_tables_say(world: World, tmp_path: Path) -> None:
    summary, failed = pack_samples(world.inputs(), tmp_path / "out", PackOptions(shard_samples=32), progress=False)
    assert not failed
    assert summary.left_out == {"no imagery": 10}
    assert summary.read == summary.packed + sum(summary.left_out.values()) == COUNT
    data = PackedDataset(tmp_path / "out")
    data.verify()
    assert [shard.samples for shard in data.manifest.shards] == [32, 32, 32, 14]
    assert data.manifest.resolution == "climate 10 arc-minutes"
    kept = world.frame.iloc[10:]
    samples = data.samples()
    assert samples["sample_id"].tolist() == kept["sample_id"].tolist()
    np.testing.assert_array_equal(samples["longitude"], kept["longitude"])
    assert [data.taxonomy[row].species for row in data.taxa] == kept["species"].tolist()
    batch = data.read(np.arange(len(data)))
    for row, name in enumerate(kept["sample_id"]):
        np.testing.assert_array_equal(batch.images[row], world.images[name])
        if name in world.environment.index:
            expected = world.environment.loc[name, list(VARIABLE_NAMES)].to_numpy(np.float32)
            np.testing.assert_array_equal(batch.environment[row], expected)
            assert samples["coast_km"][row] == world.environment.loc[name, "coast_km"]
        else:
            assert np.isnan(batch.environment[row, 2:]).all()
            assert batch.environment[row, 0] == np.float32(kept["longitude"].iloc[row])
    assert data.statistics.samples == len(kept)
    assert data.statistics.band.count.sum() == (batch.images != MISSING_DN).sum()
    carried = ["year", "month", "precision", "uncertainty_m", "taxon_key"]
    for name in carried:
        np.testing.assert_array_equal(samples[name], kept[name].reset_index(drop=True))
    assert samples["country"].isna().sum() == (kept["country"] == "").sum()
    assert (samples["year_used"] - samples["year"]).tolist() == samples["year_difference"].tolist()
    assert len(samples["scenes"][0]) == 12
    # Rarity counts the records of the species in the whole file, those without imagery too.
    of_species = world.frame["species"].value_counts()
    rarity = dict(zip(kept["species"], samples["rarity"], strict=True))
    assert rarity == {name: "rare" if of_species[name] > 20 else "scarce" for name in rarity}
    assert not (tmp_path / "out" / ".pack").exists()


def test_published_shards_hold_the_same_samples_and_pack_to_the_same_set(world: World, tmp_path: Path) -> None:
    options = PackOptions(format="published", shard_samples=50)
    summary, _ = pack_samples(world.inputs(), tmp_path / "published", options, progress=False)
    pack_samples(world.inputs(), tmp_path / "packed", progress=False)
    shards = sorted((tmp_path / "published").glob("*.tar"))
    assert (len(shards), summary.packed) == (3, COUNT - 10)
    read = [item for path in shards for item in read_published(path)]
    assert all(isinstance(item, PublishedSample) for item in read)
    packed = PackedDataset(tmp_path / "packed")
    batch = packed.read(np.arange(len(packed)))
    assert [item.sample_id for item in read] == packed.samples()["sample_id"].tolist()
    for row, item in enumerate(read):
        assert item.images.dtype == np.float64
        np.testing.assert_array_equal(np.isnan(item.images), batch.images[row] == MISSING_DN)
        np.testing.assert_array_equal(np.nan_to_num(item.images, nan=MISSING_DN), batch.images[row])
        np.testing.assert_array_equal(item.environment.astype(np.float32), batch.environment[row])
        assert item.environment[0] == packed.samples()["longitude"][row]
        assert item.taxon == packed.taxonomy[packed.taxa[row]]
    pack(shards, tmp_path / "again", worldclim="2.1")
    again = PackedDataset(tmp_path / "again")
    second = again.read(np.arange(len(again)))
    np.testing.assert_array_equal(second.images, batch.images)
    np.testing.assert_array_equal(second.environment, batch.environment)


def test_published_temperatures_can_be_tenths_as_in_the_published_set(world: World, tmp_path: Path) -> None:
    options = PackOptions(format="published", worldclim1=True)
    pack_samples(world.inputs(), tmp_path / "out", options, progress=False)
    item = next(read_published(tmp_path / "out" / "part-000000.tar"))
    assert isinstance(item, PublishedSample)
    values = world.environment.loc[item.sample_id]
    assert item.environment[VARIABLE_INDEX["bio05"]] == pytest.approx(10 * values["bio05"], nan_ok=True)
    assert item.environment[VARIABLE_INDEX["bio12"]] == pytest.approx(values["bio12"], nan_ok=True)


@pytest.mark.parametrize("form", ["packed", pytest.param("published", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(world: World, tmp_path: Path, form: str) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    more = ["--format", form, "--shard-samples", "16", "--no-report"]
    assert pack_cli.main(world.command(whole, *more)) == 0
    script = (
        "import sys, time\nfrom geotreeclip.prep import pack, pack_cli\nwork = pack.pack_part\n"
        "pack.pack_part = lambda part, folder: (work(part, folder), time.sleep(0.1))[0]\n"
        "pack_cli.main(sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, *world.command(stopped, *more)])
    parts = stopped / ".pack" / "parts"
    for _ in range(1000):
        if len(list(parts.glob("samples-*"))) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(parts.glob("samples-*"))) < 7
    assert pack_cli.main(world.command(stopped, *more)) == 0
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in stopped.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert pack_cli.main(world.command(stopped, *more)) == 0  # nothing left to do


def test_every_occurrence_is_packed_or_left_out_for_one_reason(world: World, tmp_path: Path) -> None:
    frame = world.frame.copy()
    frame.loc[100, "longitude"], frame.loc[101, "latitude"] = np.nan, 91.0
    frame.loc[102, ["leaf_type", "family", "genus", "species"]] = ""
    frame.loc[103, "sample_id"] = frame.loc[50, "sample_id"]
    frame.loc[104, "sample_id"] = ""
    elsewhere = pd.read_parquet(tmp_path / "environment.parquet").set_index("sample_id", drop=False)
    elsewhere.loc[frame["sample_id"][60], "longitude"] += 0.5
    elsewhere.to_parquet(tmp_path / "environment.parquet", index=False)
    frame.to_parquet(tmp_path / "occurrences.parquet")
    images = np.load(tmp_path / "imagery" / "parts" / "part-1" / "images.npy")
    images[3] = MISSING_DN
    np.save(tmp_path / "imagery" / "parts" / "part-1" / "images.npy", images)
    inputs = world.inputs(without_environment="leave-out")
    summary, _ = pack_samples(inputs, tmp_path / "out", PackOptions(shard_samples=40), progress=False)
    assert summary.left_out == {
        "coordinates missing or no number": 1, "coordinates out of range": 1, "no taxon": 1,
        "sample id came before": 1, "sample id empty or too long": 1, "no imagery": 10, "no environment": 15,
        "imagery without a clear pixel": 1, "environment of another place": 1,
    }  # fmt: skip
    assert summary.read == summary.packed + sum(summary.left_out.values())
    listed = pd.read_parquet(tmp_path / "out" / "left_out.parquet")
    assert listed["reason"].value_counts().to_dict() == summary.left_out
    assert listed.set_index("row").loc[103, "reason"] == "sample id came before"
    kept, _ = pack_samples(
        world.inputs(without_imagery="keep"), tmp_path / "all", PackOptions(shard_samples=40), progress=False
    )
    assert kept.packed == COUNT - 6
    everything = PackedDataset(tmp_path / "all")
    first = everything.read([0])
    assert (first.images == MISSING_DN).all()
    assert pd.isna(everything.samples()["year_used"][0])


def test_imagery_of_another_place_is_left_out(world: World, tmp_path: Path) -> None:
    frame = world.frame.copy()
    frame.loc[20, "latitude"] += 0.0005  # 55 m
    frame.to_parquet(tmp_path / "occurrences.parquet")
    summary, _ = pack_samples(world.inputs(environment=""), tmp_path / "out", progress=False)
    assert summary.left_out == {"no imagery": 10, "imagery of another place": 1}


def test_sets_of_a_partition_are_packed_apart(world: World, tmp_path: Path) -> None:
    sets = np.where(np.arange(COUNT) % 3 == 0, "eval-90", "pretraining")
    pd.DataFrame({"sample_id": world.frame["sample_id"], "set": sets}).sample(frac=1, random_state=0).to_parquet(
        tmp_path / "partition.parquet"
    )
    assert pack_cli.main(
        world.command(tmp_path / "out", "--partition", str(tmp_path / "partition.parquet"), "--set", "eval-90",
                      "--no-report")
    ) == 0  # fmt: skip
    packed = PackedDataset(tmp_path / "out").samples()["sample_id"].tolist()
    assert packed == world.frame["sample_id"][(sets == "eval-90") & (np.arange(COUNT) >= 10)].tolist()
    report = json.loads((tmp_path / "out" / "pack_report.json").read_text())
    assert report["left_out"]["not in eval-90"] == (sets != "eval-90").sum()
    inputs = world.inputs(partition=tmp_path / "partition.parquet", sets=("eval-91",))
    with pytest.raises(DataError, match="has no set 'eval-91'; it has eval-90, pretraining"):
        pack_samples(inputs, tmp_path / "none", progress=False)


def test_two_processes_give_the_same_set(world: World, tmp_path: Path) -> None:
    for out, workers in (("one", 1), ("two", 2)):
        pack_samples(world.inputs(), tmp_path / out, PackOptions(shard_samples=64), workers=workers, progress=False)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_csv_without_imagery_packs_too(world: World, tmp_path: Path) -> None:
    world.frame.rename(columns={"species": "level3_species", "country": "country_code"}).to_csv(
        tmp_path / "o.csv", index=False
    )
    summary, _ = pack_samples(
        world.inputs(occurrences=tmp_path / "o.csv", imagery=""), tmp_path / "out", progress=False
    )
    data = PackedDataset(tmp_path / "out")
    assert not data.has_images
    assert summary.packed == COUNT
    assert data.samples()["year"].tolist() == world.frame["year"].tolist()


def test_what_cannot_be_packed_says_why_and_leaves_no_set(world: World, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="nothing to pack but coordinates"):
        pack_samples(world.inputs(imagery="", environment=""), out, progress=False)
    with pytest.raises(ConfigError, match="--partition FILE --set NAME"):
        pack_samples(world.inputs(sets=("a",)), out, progress=False)
    with pytest.raises(ConfigError, match="--report-only"):
        pack_cli.main([])
    poor = tmp_path / "poor.parquet"
    world.environment.reset_index().drop(columns="elevation").to_parquet(poor)
    with pytest.raises(DataError, match=r"poor\.parquet: lacks the column 'elevation'"):
        pack_samples(world.inputs(environment=poor), out, progress=False)
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        pack_samples(world.inputs(occurrences=tmp_path / "absent.parquet"), out, progress=False)
    with pytest.raises(DataError, match=r"imagery\.json: no such file"):
        pack_samples(world.inputs(imagery=tmp_path / "nothing"), tmp_path / "other", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        pack_samples(world.inputs(), tmp_path / "file" / "out", progress=False)
    strangers = world.frame.assign(sample_id=lambda frame: "x" + frame["sample_id"])
    strangers.to_parquet(tmp_path / "strangers.parquet")
    with pytest.raises(DataError, match=r"none of 120 occurrences is left to pack: 120 no imagery"):
        pack_samples(world.inputs(occurrences=tmp_path / "strangers.parquet"), tmp_path / "new", progress=False)
    assert not (out / "manifest.json").exists()


def test_damaged_pixels_fail_their_part_and_a_second_run_ends_the_work(tmp_path: Path, capsys) -> None:
    world = World(tmp_path, shuffled=False)
    path = tmp_path / "imagery" / "parts" / "part-2" / "images.npy"
    shutil.copy(path, tmp_path / "sound.npy")
    path.write_bytes(path.read_bytes()[:5000])
    more = ["--shard-samples", "30", "--retries", "0", "--no-report"]
    assert pack_cli.main(world.command(tmp_path / "out", *more)) == 1
    printed = capsys.readouterr().out
    assert "images.npy: cannot be read" in printed
    assert "the same command tries them again" in printed
    with pytest.raises(DataError, match="packing was interrupted"):
        PackedDataset(tmp_path / "out")
    shutil.copy(tmp_path / "sound.npy", path)
    assert pack_cli.main(world.command(tmp_path / "out", *more)) == 0
    assert len(PackedDataset(tmp_path / "out")) == COUNT - 10
    with pytest.raises(DataError, match="made in another way"):
        pack_cli.main(world.command(tmp_path / "out", "--shard-samples", "5"))


def test_ids_are_found_by_their_rows_and_repeats_are_told() -> None:
    keys = np.array([[5, 1], [3, 9], [5, 2], [3, 9], [0, 0]], dtype=np.uint64)
    index = IdIndex(keys)
    asked = np.array([[5, 2], [3, 9], [5, 1], [5, 3], [7, 7]], dtype=np.uint64)
    assert index.rows(asked).tolist() == [2, 1, 0, -1, -1]
    assert index.repeated().tolist() == [False, False, False, True, False]
    assert IdIndex(np.empty((0, 2), np.uint64)).rows(asked).tolist() == [-1] * 5


def test_licences_and_data_sets_travel_with_the_samples(world: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    frame = world.frame.assign(
        license=rng.choice(["CC0_1_0", "CC_BY_4_0", ""], COUNT), dataset_key=rng.choice(["one", "two"], COUNT)
    )
    frame.to_parquet(world.folder / "occurrences.parquet", index=False)
    out = tmp_path / "out"
    pack_samples(world.inputs(), out, PackOptions(shard_samples=32), progress=False)
    data, kept = PackedDataset(out), frame.iloc[10:]
    assert data.samples()["license"].fillna("").tolist() == kept["license"].tolist()
    counts = kept["license"].replace("", "not stated").value_counts()
    assert data.manifest.licences == counts.to_dict()
    assert data.manifest.datasets == 2
    listed = pd.read_csv(out / "datasets.csv").set_index("datasetKey")["count"]
    assert listed.to_dict() == kept["dataset_key"].value_counts().to_dict()


def test_sets_without_licences_say_nothing_of_them(world: World, tmp_path: Path) -> None:
    pack_samples(world.inputs(), tmp_path / "out", progress=False)
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert "licences" not in text
    assert not (tmp_path / "out" / "datasets.csv").exists()
    assert PackedDataset(tmp_path / "out").manifest.licences == {}
