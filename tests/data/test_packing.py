import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from geotreeclip.data import packjob
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.packing import main, pack
from geotreeclip.data.published import write_published
from geotreeclip.data.sources import open_source
from geotreeclip.errors import DataError
from geotreeclip.schema import VARIABLE_NAMES

pd = pytest.importorskip("pandas")
pytest.importorskip("torch")


@pytest.fixture
def shards(published_samples, tmp_path):
    """Three shards of 20, 20 and 7 samples."""
    paths = []
    for number, count in enumerate((20, 20, 7)):
        path = tmp_path / f"GGT-{number}.tar"
        write_published(path, published_samples(count, first=20 * number))
        paths.append(path)
    return paths


@pytest.fixture
def everything(published_samples):
    return [sample for number, count in enumerate((20, 20, 7)) for sample in published_samples(count, 20 * number)]


def contents(directory):
    """Hash of every file."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_packed_is_published_rounded_and_converted(shards, everything, tmp_path):
    report = pack(shards, tmp_path / "out")
    data = PackedDataset(tmp_path / "out")
    data.verify()
    batch = data.read(np.arange(len(data)))
    assert (report.read, report.packed, report.refused, report.taxa) == (47, 47, 0, 3)
    assert (report.worldclim, report.converted) == ("1", True)
    for row, sample in enumerate(everything):
        missing = np.isnan(sample.images)
        np.testing.assert_array_equal(batch.images[row] == 65535, missing)
        error = np.abs(batch.images[row][~missing] - sample.images[~missing])
        assert error.max() == 0.5
        np.testing.assert_array_equal(batch.images[row][~missing], np.round(sample.images[~missing]))
        assert data.taxonomy[batch.taxon[row]] == sample.taxon
    raw = np.stack([sample.environment for sample in everything])
    scaled = [
        f"bio{number:02d}" in {f"bio{k:02d}" for k in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11)} for number in range(1, 20)
    ]
    factors = np.array([1.0] * 8 + [10.0 if scale else 1.0 for scale in scaled])
    np.testing.assert_allclose(batch.environment, raw / factors, rtol=1e-6)
    table = data.samples()
    assert list(table["sample_id"]) == [sample.sample_id for sample in everything]
    np.testing.assert_array_equal(table["longitude"], raw[:, 0])  # not rounded to float32
    assert data.manifest.worldclim == "1"
    assert data.statistics.resolution == "30 arc-seconds"
    assert not (tmp_path / "out" / ".pack").exists()


def test_every_sample_is_accounted_for(tar, published_samples, tmp_path):
    samples = published_samples(8)
    too_bright = samples[2].images.copy()
    too_bright[4, 1, 0, 0] = 65534.6
    negative = samples[3].images.copy()
    negative[0, 0, 0, 0] = -3.0
    tar.sample(samples[0])
    tar.sample(samples[1], text=b"{")
    tar.sample(samples[2]._replace(images=too_bright))
    tar.sample(samples[3]._replace(images=negative))
    tar.sample(samples[4]._replace(sample_id="0"))
    tar.sample(samples[5]).member("note.txt", b"x").sample(samples[6]).sample(samples[7])
    excluded = tmp_path / "10kEval-x.csv"
    excluded.write_text("sample_id\n6\n")
    report = pack([tar.close()], tmp_path / "out", exclude=[excluded])
    assert (report.read, report.packed, report.refused, report.duplicates) == (8, 3, 3, 1)
    assert (report.excluded_ids, report.excluded_places, report.notices) == (1, 0, 1)
    assert report.read == report.packed + report.refused + report.duplicates + report.excluded_ids
    rows = pd.read_parquet(tmp_path / "out" / "refused.parquet").set_index("key")
    assert "65534.6 at month 5, band B3" in rows.loc["2", "reason"]
    assert "-3.0 at month 1, band B2" in rows.loc["3", "reason"]
    assert rows.loc["4", "kind"] == "duplicate"
    assert rows.loc["6", "reason"] == "sample id 6 is in 10kEval-x.csv"
    assert set(rows["shard"]) == {"GGT-000.tar"}
    stored = json.loads((tmp_path / "out" / "pack_report.json").read_text())
    assert stored["refused"] == 3


def test_too_many_refused_samples_stop_the_job_until_more_is_allowed(
    tar, published_samples, tmp_path, monkeypatch, capsys
):
    samples = published_samples(12)
    for number, sample in enumerate(samples):
        tar.sample(sample, **({"text": b"{"} if number in (2, 4, 9) else {}))
    path = str(tar.close())
    assert pack([path], tmp_path / "few").refused == 3  # three of so few say nothing
    monkeypatch.setattr(packjob, "_LEAST", 0)
    with pytest.raises(
        DataError, match=r"2 of 5 .* first: GGT-000.tar, 2: text.json .* last: GGT-000.tar, 4: .*lenient-share"
    ):
        pack([path], tmp_path / "out", lenient_share=0.35)
    assert main([path, "--out", str(tmp_path / "out"), "--lenient-share", "0.5"]) == 0  # goes on, with another limit
    assert contents(tmp_path / "out") == contents(tmp_path / "few")
    with pytest.raises(DataError, match="1 of 3 samples read are refused"):
        pack([path], tmp_path / "strict", lenient_share=0)
    assert main([path, "--out", str(tmp_path / "x"), "--lenient-share", "1.5"]) == 2
    assert "give 0 to 1" in capsys.readouterr().err


def test_duplicates_across_shards(published_samples, tmp_path):
    write_published(tmp_path / "a.tar", published_samples(5))
    write_published(tmp_path / "b.tar", published_samples(8))
    report = pack([tmp_path / "a.tar", tmp_path / "b.tar"], tmp_path / "out")
    assert (report.read, report.packed, report.duplicates) == (13, 8, 5)


def test_exclusion_by_place(shards, everything, tmp_path):
    place = everything[3].environment.copy()
    place[:2] = 12.34567, -45.00004
    moved = [sample._replace(environment=place) if sample.key == "3" else sample for sample in everything[:20]]
    moved[4] = moved[4]._replace(environment=place + np.array([0.0003, *[0] * 26]))
    write_published(shards[0], moved)
    table = tmp_path / "eval.csv"
    table.write_text("sample_id,longitude,latitude\nzz,12.34569,-45.0\n")
    report = pack(shards, tmp_path / "out", exclude=[table])
    assert (report.excluded_ids, report.excluded_places) == (0, 1)
    ids = set(PackedDataset(tmp_path / "out").samples()["sample_id"])
    assert "3" not in ids
    assert "4" in ids
    coarse = pack(shards, tmp_path / "coarse", exclude=[table], place_decimals=2)
    assert coarse.excluded_places == 2


def test_join_of_the_table_of_samples(shards, tmp_path):
    table = tmp_path / "GlobalGeoTree.csv"
    table.write_text(
        "sample_id,country_code,level0,source,year,Category\n"
        "0,DE,x,iNaturalist,2020,Rare\n5,NA,x,Pl@ntNet,,Common\n999,FR,x,y,2019,Rare\n0,ZZ,x,again,1999,Rare\n"
    )
    report = pack(shards, tmp_path / "out", samples=[table])
    rows = PackedDataset(tmp_path / "out").samples().set_index("sample_id")
    assert report.joined == 2
    assert rows.loc["0", ["year", "country", "source", "rarity"]].tolist() == [2020, "DE", "iNaturalist", "Rare"]
    assert rows.loc["5", "source"] == "Pl@ntNet"
    assert rows.loc["5", "country"] == "NA"  # Namibia, not a missing value
    assert pd.isna(rows.loc["5", "year"])
    assert pd.isna(rows.loc["1", "country"])


def _with_climate(samples, **values):
    changed = []
    for sample in samples:
        environment = sample.environment.copy()
        for name, value in values.items():
            environment[VARIABLE_NAMES.index(name)] = value
        changed.append(sample._replace(environment=environment))
    return changed


def test_units_of_worldclim(published_samples, tmp_path):
    samples = published_samples(10)
    degrees = []
    for sample in samples:
        environment = sample.environment.copy()
        for number in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11):
            environment[VARIABLE_NAMES.index(f"bio{number:02d}")] /= 10
        degrees.append(sample._replace(environment=environment))
    write_published(tmp_path / "one.tar", samples)
    write_published(tmp_path / "two.tar", degrees)
    one = pack([tmp_path / "one.tar"], tmp_path / "1")
    two = pack([tmp_path / "two.tar"], tmp_path / "2")
    assert (one.worldclim, two.worldclim) == ("1", "2.1")
    np.testing.assert_allclose(
        PackedDataset(tmp_path / "1").read(np.arange(10)).environment,
        PackedDataset(tmp_path / "2").read(np.arange(10)).environment,
        rtol=1e-6,
    )
    write_published(tmp_path / "mixed.tar", [*samples[:5], *degrees[5:]])
    with pytest.raises(DataError, match=r"5 fit only version 1 .*, 5 only version 2.1 .*; state --worldclim"):
        pack([tmp_path / "mixed.tar"], tmp_path / "m")
    assert pack([tmp_path / "mixed.tar"], tmp_path / "m2", worldclim="2.1").implausible["bio05"] > 0
    nothing = _with_climate(samples, **{f"bio{number:02d}": np.nan for number in range(1, 20)})
    write_published(tmp_path / "nothing.tar", nothing)
    report = pack([tmp_path / "nothing.tar"], tmp_path / "n")
    assert not report.converted
    assert "bio01" in report.never_present


def test_the_same_command_again_does_nothing(shards, tmp_path):
    first = pack(shards, tmp_path / "out")
    before = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert pack(shards, tmp_path / "out") == first
    assert contents(tmp_path / "out") == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match="made in another way"):
        pack(shards[:1], tmp_path / "out")


def test_failed_source_keeps_what_is_finished(shards, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(shards, whole)
    opened = []

    def unreachable(source):
        opened.append(source)
        if source.endswith("GGT-1.tar"):
            raise DataError(f"{source}: cannot be opened")
        return open_source(source)

    monkeypatch.setattr(packjob, "open_source", unreachable)
    with pytest.raises(DataError, match="cannot be opened"):
        pack(shards, out)
    assert not (out / "manifest.json").exists()
    monkeypatch.undo()
    pack(shards, out)
    assert contents(out) == contents(whole)


SLOW = """
import sys, time
from geotreeclip.data import packjob, packing
flush = packjob.Job._flush
def slow(job, samples):
    flush(job, samples)
    time.sleep(0.2)
packjob.Job._flush = slow
packjob._CHUNK = 8
sys.exit(packing.main(sys.argv[1:]))
"""


def test_kill_and_the_same_command_again(shards, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    monkeypatch.setattr(packjob, "_CHUNK", 8)
    pack(shards, whole, shard_samples=16)
    paths = [str(path) for path in shards]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *paths, "--shard-samples", "16", "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # Killed when the first shard is recorded and a packed shard of the second is half written.
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(out.glob(".pack/source-*.json")) and list(out.glob(".partial-shard*")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob(".pack/source-*.json"))) == 1
    assert list(out.glob(".partial-shard*"))
    with pytest.raises(DataError, match="incomplete"):
        PackedDataset(out)
    pack(shards, out, shard_samples=16)
    assert contents(out) == contents(whole)


def test_other_options_or_a_changed_source_stop_a_resumed_run(shards, tmp_path, published_samples, monkeypatch):
    original = packjob.Job._pack

    def fail_at_second(job, number, source):
        if number == 1:
            raise KeyboardInterrupt
        original(job, number, source)

    monkeypatch.setattr(packjob.Job, "_pack", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        pack(shards, tmp_path / "out")
    monkeypatch.setattr(packjob.Job, "_pack", original)
    with pytest.raises(DataError, match="begun with other sources, options or tables"):
        pack(shards, tmp_path / "out", worldclim="1")
    before = shards[0].stat()
    write_published(shards[0], published_samples(20, seed=9))
    with pytest.raises(DataError, match="has changed since it was packed"):
        pack(shards, tmp_path / "out")
    assert before.st_size > 0


def test_limit(shards, tmp_path):
    assert pack(shards, tmp_path / "out", limit=23).packed == 23
    assert len(PackedDataset(tmp_path / "out")) == 23


def test_command_line(shards, tmp_path, capsys):
    assert main([str(path) for path in shards] + ["--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "packed            47 of 3 taxa" in printed.out
    assert "look like WorldClim 1" in printed.err
    assert main([str(tmp_path / "none.tar"), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nothing_to_pack_is_an_error(tar, published_samples, tmp_path):
    tar.sample(published_samples(1)[0], text=b"{")
    with pytest.raises(DataError, match=r"no sample could be packed of 1 read; first: text.json is no JSON"):
        pack([tar.close()], tmp_path / "out")


@pytest.mark.parametrize(("text", "message"), [("a,b\n1,2\n", "has neither"), ("", "no CSV table")])
def test_tables_that_are_none(shards, tmp_path, text, message):
    table = tmp_path / "x.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        pack(shards, tmp_path / "out", exclude=[table])
    with pytest.raises(DataError, match=r"x\.csv"):
        pack(shards, tmp_path / "out2", samples=[table])
