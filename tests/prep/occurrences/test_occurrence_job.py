"""The whole job: the same result whatever the parts, the workers and the stops; nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from occurrence_helpers import clean, meta, records, simple_csv, text

from geotreeclip.errors import ConfigError, DataError, run_main
from geotreeclip.prep.occurrences import main
from geotreeclip.prep.occurrences.rules import RuleOptions

OUTPUTS = ("occurrences.parquet", "refused.parquet", "taxa.parquet", "report.md", "datasets.csv")


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in OUTPUTS}


def tables(out: Path) -> str:
    return "".join(pd.read_parquet(out / name).to_csv() for name in OUTPUTS[:2])


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Two files of records with every kind of defect, ids that come again, and large and small species."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("downloads")
    names = ["Quercus robur"] * 6 + ["Acer rubrum", "Pinus mugo", "Albizia sp", ""]
    changes = []
    for _ in range(700):
        name = str(rng.choice(names))
        change = {
            "gbifID": str(1000 + int(rng.integers(650))),
            "species": name, "scientificName": "", "taxonRank": "SPECIES" if name else "GENUS",
            "speciesKey": str(3_000_000 + names.index(name)), "taxonKey": str(3_000_000 + names.index(name)),
            "decimalLatitude": f"{50 + rng.integers(300) / 7000:.5f}", "year": str(rng.integers(2012, 2024)),
            "coordinateUncertaintyInMeters": str(rng.choice(["", "5", "40", "3000", "28000"])),
        }  # fmt: skip
        changes.append(change)
    rows = records(*changes)
    simple_csv(folder / "a.zip", rows[:400])
    lines = text(rows[400:]).splitlines()
    lines[50] = "broken"
    (folder / "b.csv").write_text("\n".join(lines))
    return folder / "a.zip", folder / "b.csv"


@pytest.fixture(scope="module")
def expected(downloads, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    report, kept, refused = clean(out, *downloads)
    assert report.read == 700 == len(kept) + len(refused)
    assert {"readable", "repeated", "duplicate", "rank", "name", "uncertainty", "year"} <= set(refused["reason"])
    assert kept["sample_id"].is_unique
    assert (
        not kept.assign(x=kept["longitude"].round(5), y=kept["latitude"].round(5))
        .duplicated(["species", "x", "y"])
        .any()
    )
    pairs = pd.concat([kept["sample_id"], refused["sample_id"]]).value_counts()
    assert pairs.sum() == 700
    return out


@pytest.mark.parametrize(("chunk", "bucket"), [(90, 60), (20, 1000), (1000, 25)])
def test_the_result_does_not_depend_on_the_parts(chunk, bucket, downloads, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("geotreeclip.prep.occurrences.tables.BLOCK_BYTES", 20_000)
    report, _, _ = clean(tmp_path / "out", *downloads, chunk_rows=chunk, bucket_rows=bucket)
    assert tables(tmp_path / "out") == tables(expected)
    before = json.loads((expected / "report.json").read_text())
    assert [vars_of(rule) for rule in report.rules] == before["rules"]


def vars_of(rule):
    return {name: getattr(rule, name) for name in ("name", "refuses", "active", "refused", "alone", "not_testable")}


def test_several_processes_give_the_same_bytes(downloads, expected, tmp_path):
    clean(tmp_path / "out", *downloads, workers=2)
    assert digests(tmp_path / "out") == digests(expected)


def test_the_order_is_that_of_species(expected):
    kept = pd.read_parquet(expected / "occurrences.parquet")
    assert kept["species"].is_monotonic_increasing or kept.groupby(["family", "genus", "species"]).ngroups == (
        (kept["species"] != kept["species"].shift()).sum()
    )


SLOW = ("find_repeats", "concatenate", "build_report")
STAGES = ("read_source", "judge_chunk", "settle", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_the_middle_then_the_same_again(stage, downloads, expected, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from geotreeclip.prep.occurrences import job\n"
        f"whole, calls = job.{stage}, []\n"
        "def killed(*given, **more):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == 2 or {stage == 'build_report'}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(*given, **more)\n"
        f"job.{stage} = killed\n"
        "inputs = tuple(map(Path, sys.argv[2:]))\n"
        "job.clean_occurrences(job.Job(inputs, Path(sys.argv[1]), chunk_rows=150, bucket_rows=60, progress=False))\n"
    )
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(out), *map(str, downloads)], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (out / "report.json").exists()
    clean(out, *downloads, chunk_rows=150, bucket_rows=60)
    assert tables(out) == tables(expected)
    assert sorted(path.name for path in out.iterdir()) == sorted([*OUTPUTS, "report.json"])


def test_what_was_read_serves_other_options(downloads, tmp_path, monkeypatch):
    def stop(*_given):
        raise DataError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("geotreeclip.prep.occurrences.job.judge_chunk", stop)
        with pytest.raises(DataError, match="stopped"):
            clean(tmp_path / "out", *downloads)
    monkeypatch.setattr("geotreeclip.prep.occurrences.job.read_source", stop)
    report, _, _ = clean(tmp_path / "out", *downloads, rules=RuleOptions(first_year=2020))
    assert report.read == 700


def test_a_finished_job_is_found_done_and_another_is_refused(downloads, expected, tmp_path):
    before = digests(expected), (expected / "report.json").stat().st_mtime_ns
    report, _, _ = clean(expected, *downloads)
    assert report.read == 700
    assert before == (digests(expected), (expected / "report.json").stat().st_mtime_ns)
    with pytest.raises(DataError, match=r"other files or options.*--overwrite"):
        clean(expected, downloads[0])
    out = tmp_path / "out"
    clean(out, downloads[0])
    clean(out, *downloads, overwrite=True)
    assert digests(out) == digests(expected)


def test_a_damaged_file_among_good_ones_stops_and_what_is_done_is_kept(downloads, expected, tmp_path):
    bad, body = tmp_path / "b.csv.gz", downloads[1].read_text()
    noise = np.random.default_rng(0).bytes(400 * 700).hex()
    lines = [line.replace('the "old" oak', noise[600 * i : 600 * i + 600]) for i, line in enumerate(body.splitlines())]
    whole = gzip.compress("\n".join(lines).encode())
    bad.write_bytes(whole[:-300])
    with pytest.raises(DataError, match=r"1 of 2 parts .*\n.*b\.csv\.gz: cannot be read to its end"):
        clean(tmp_path / "out", downloads[0], bad)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".occurrences"]
    bad.write_bytes(whole)
    clean(tmp_path / "out", downloads[0], bad)
    assert tables(tmp_path / "out") == tables(expected)


def test_an_unwritable_output_ends_in_a_clear_message(downloads, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        clean(tmp_path / "out", *downloads)
    assert run_main(lambda: main([str(downloads[0]), "--out", str(tmp_path / "out/below")])) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_says_what_it_does_and_did(downloads, tmp_path, capsys):
    (tmp_path / "trees.csv").write_text("name\nQuercus robur\n")
    arguments = [str(downloads[0]), "--out", str(tmp_path / "out"), "--trees", str(tmp_path / "trees.csv")]
    assert main([*arguments, "--skip", "year", "rounded"]) == 0
    said = capsys.readouterr().out
    assert "read 400 = kept" in said
    assert "a.zip!0001.csv" in said
    assert "skipped" in said
    assert "report.md" in said
    kept = pd.read_parquet(tmp_path / "out/occurrences.parquet")
    assert set(kept["species"]) == {"Quercus robur"}
    assert kept["year"].min() < 2015
    with pytest.raises(ConfigError, match="--require-backbone needs"):
        main([*arguments, "--require-backbone"])
    with pytest.raises(ConfigError, match="'nonsense' is unknown"):
        main([*arguments, "--skip", "nonsense"])


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from geotreeclip.prep.occurrences import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pandas', 'pyarrow', 'torch', 'rasterio'} & set(sys.modules), sorted(sys.modules)\n"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "duplicate" in done.stdout
    assert time.perf_counter() - begin < 20


def test_an_archive_in_the_layout_of_2013(tmp_path):
    columns = [
        "occurrenceID",
        "genus",
        "specificEpithet",
        "decimalLatitude",
        "decimalLongitude",
        "year",
        "basisOfRecord",
    ]
    rows = "1\tQuercus\tQuercus robur\t51.12345\t9.54321\t2020\tHumanObservation\n"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("meta.xml", meta(columns).replace('ignoreHeaderLines="1"', 'ignoreHeaderLines="0"'))
        packed.writestr("occurrence.txt", rows)
    _, kept, _ = clean(tmp_path / "out", tmp_path / "a.zip")
    assert kept[["sample_id", "species"]].to_numpy().tolist() == [["1", "Quercus robur"]]


def test_on_a_cluster(downloads, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        clean(tmp_path / "out", *downloads, scheduler=cluster.scheduler_address)
    assert digests(tmp_path / "out") == digests(expected)
