"""The README from top to bottom on a small world: its commands as written, with what makes them small behind them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from doc_blocks import ROOT, Block, blocks, commands

pytestmark = pytest.mark.slow

SECTIONS = ("Prepare", "Train", "Score", "Classify", "Own species", "Seasons")
"""In this order, since the model of `make demo` is that of the run here."""

SMALLER = {
    "geotreeclip demo --out": "--samples 1500 --test 400",
    "train/clip.py": "--minutes 0.2",
    "train/seasonal.py": "--minutes 0.1",
    "eval/zero_shot.py": "--resamples 50",
    "eval/few_shot.py --model runs/mine --data": "--shots 1,3 --seeds 0,1 --methods zero-shot,prototype --min-query 2",
    "eval/baselines.py": "--systems majority,location-neighbours --resamples 50",
    "eval/report.py": "--resamples 50",
    "geotreeclip demo --region": "--samples 1500 --size 16 24 --stands 4",
    "geotreeclip map": "--stride 2",
}
"""What is appended to commands that hold a text; of an option that stands twice the last one counts."""

MADE = (
    "packed/manifest.json", "packed/splits/blocks100.parquet", "runs/mine/model/model.safetensors",
    "runs/mine/model/README.md", "runs/mine/report.json", "runs/mine/few-shot/report.json",
    "runs/baselines/report.json",
    "runs/mine/model/calibration.json", "runs/page/index.html", "answers.csv", "embeddings.parquet",
    "exported/model.pt2", "region/stack.tif",
    "map.tif", "map.png", "mine.npz", "runs/own/head.safetensors", "own-answers.csv", "phenology.parquet",
    "runs/seasons/encoder/config.json", "runs/started/model/model.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("readme")
    for name in ("data_prep", "train", "eval"):
        (out / name).symlink_to(ROOT / name)
    return out


def environment(folder: Path) -> dict[str, str]:
    beside = Path(sys.executable).parent  # geotreeclip and accelerate of this very Python
    return os.environ | {
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "GEOTREECLIP_CACHE": str(folder / "cache"),
    }


def run(line: str, folder: Path) -> None:
    command = shlex.split(line, comments=True)
    for text, more in SMALLER.items():
        if text in " ".join(command):
            command += more.split()
    if command[0] == "accelerate":
        command[2:2] = ["--num_processes", "1", "--cpu"]  # on a machine with several GPUs too
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_python(block: Block, folder: Path) -> None:
    """Run a block on four species of the test samples, five places each: the arrays that its words speak of."""
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.schema import MISSING_DN

    packed = PackedDataset(folder / "packed")
    rows = packed.split("default", 0, "test")
    taxa, counts = np.unique(packed.taxa[rows], return_counts=True)
    some = np.concatenate([rows[packed.taxa[rows] == taxon][:5] for taxon in taxa[np.argsort(-counts)[:4]]])
    places = packed.read(some)
    images = np.where(places.images == MISSING_DN, np.nan, places.images)[:, 4:8, :4]
    names = {
        "images": images,
        "species": [packed.taxonomy[int(row)].species for row in places.taxon],
        "longitude": places.environment[:, 0],
        "latitude": places.environment[:, 1],
    }
    exec(compile(block.text, "README.md", "exec"), names)  # noqa: S102 - the repository's own text


def test_the_readme_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    page = [block for block in blocks(ROOT / "README.md") if not block.reason]
    for section in SECTIONS:
        found = [block for block in page if block.section == section]
        assert found, section
        if section == "Classify":
            shutil.copytree(folder / "runs/mine/model", folder / "runs/demo/model")
        for block in found:
            if block.title:
                (folder / block.title).write_text(block.text)
            elif block.language == "python":
                run_python(block, folder)
            else:
                for line in commands(block):
                    run(line, folder)
    assert [name for name in MADE if not (folder / name).exists()] == []
    answers = pd.read_csv(folder / "answers.csv")
    assert answers["calibrated"].all()
    assert len(answers) == 2 * 5
    assert pd.read_csv(folder / "own-answers.csv")["label"].nunique() <= 4
    rows = json.loads((folder / "runs/mine/report.json").read_text())["rows"]
    assert {row["split"] for row in rows if row["split"]} == {"blocks100"}

    damaged = (folder / "points.csv").read_text().replace("40.1", "401")
    (folder / "bad.csv").write_text(damaged)
    with pytest.raises(AssertionError, match=r"error: bad.csv: row 2: latitude is 401"):
        run("geotreeclip classify bad.csv --model runs/demo/model --out bad-answers.csv", folder)
    assert not (folder / "bad-answers.csv").exists()
    page_is_served(folder)


def page_is_served(folder: Path) -> None:
    command = ["geotreeclip", "demo", "--serve", "--model", "runs/mine", "--data", "packed", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            said, end = "", time.monotonic() + 300
            while "http://" not in said and time.monotonic() < end and server.poll() is None:
                said += server.stdout.readline()
            address = next((word for word in said.split() if word.startswith("http://")), "").rstrip(".,;")
            assert address, said
            with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - our own server
                assert b"geotreeclip" in answer.read()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
