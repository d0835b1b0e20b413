"""What README and documentation show: Python is run, commands are read by their parsers, files that are named exist."""

from __future__ import annotations

import re
import shutil
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import PAGES, ROOT, blocks, check_command, commands

ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
LINES = [(str(block), line) for block in ALL if block.language == "console" for line in commands(block)]
NOT_RUN = {"README.md": 2, "docs/evaluation.md": 1, "docs/guide/inputs.md": 1, "docs/seasons.md": 3}
"""Blocks that say why they are not run; another one is a decision."""

BANDS, MONTHS, SPECIES = ["B2", "B3", "B4", "B8"], [5, 6, 7, 8], ["Quercus robur", "Fagus sylvatica"]


def test_blocks_that_are_not_run_are_counted():
    marked = [block.page for block in ALL if block.reason]
    assert {page: marked.count(page) for page in marked} == NOT_RUN


def test_every_block_says_what_it_is():
    known = {"console", "python", "csv", "text"}
    assert [str(block) for block in ALL if block.language not in known] == []
    assert [str(block) for block in ALL if block.language == "csv" and not block.title] == []
    assert len(PYTHON) >= 5
    assert len(LINES) >= 50


@pytest.mark.parametrize(("where", "line"), LINES, ids=[f"{where}-{number}" for number, (where, _) in enumerate(LINES)])
def test_commands_are_read_by_their_parsers(where, line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # configurations that commands name are there
    try:
        check_command(line)
    except SystemExit as end:
        pytest.fail(f"{where}: {line}\n{capsys.readouterr().err or end}")


@pytest.mark.parametrize("line", ["geotreeclip classify points.csv --modle x", "python eval/report.py", "make nothing",
                                  "accelerate launch train/clip.py --minutes soon", "pip install '.[maps]'",
                                  "python data_prep/splits.py --data packed --folds many"])  # fmt: skip
def test_commands_that_are_wrong_are_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError)):
        check_command(line)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_model_dir) -> Path:
    """A folder with what the pages speak of: models of random weights, tables, a stack."""
    from geotreeclip.evaluation.few_shot.command import main as few_shot
    from geotreeclip.models.calibration import Calibration, ConformalThreshold, write_calibration

    out = tmp_path_factory.mktemp("docs")
    for name in ("runs/demo/model", "runs/mine/model"):
        shutil.copytree(tiny_model_dir, out / name)
    threshold = ConformalThreshold("species", 0.9, -2.0, "block", "lac", 100, 20)
    write_calibration(out / "runs/demo/model", Calibration(1.3, conformal=(threshold,)))
    for block in ALL:
        if block.title:
            (out / block.title).write_text(block.text)
    (out / "checklist.csv").write_text("species,country\nQuercus robur,CH;DE\nFagus sylvatica,CH\n")
    _write_stack(out / "stack.tif")
    rng = np.random.default_rng(3)
    labels = np.repeat(SPECIES, 5)
    images = rng.integers(300, 3000, (10, 4, 4, 5, 5)) + 500 * np.repeat([0, 1], 5)[:, None, None, None, None]
    np.savez(out / "ten.npz", images=images, bands=BANDS, months=MONTHS, species=labels)
    few_shot(["--model", str(out / "runs/mine"), "--adapt", str(out / "ten.npz"), "--out", str(out / "runs/own")])
    return out


def _write_stack(path: Path) -> None:
    """Twenty pixels square around 15 degrees east on the equator, June and July of two bands."""
    rasterio = pytest.importorskip("rasterio")
    grid = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(499_900, 200, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", width=30, height=20, count=4, dtype="uint16", **grid) as file:
        for number, name in enumerate(("2020-06_B04", "2020-06_B08", "2020-07_B04", "2020-07_B08"), 1):
            file.write(np.full((20, 30), 400 * number, np.uint16), number)
            file.set_band_description(number, name)


@pytest.mark.parametrize("page", PYTHON, ids=[str(page.relative_to(ROOT)) for page in PYTHON])
def test_python_runs(page, workplace, monkeypatch):
    """In one namespace a page, with the arrays that its words speak of: two places, four months, four bands."""
    monkeypatch.chdir(workplace)
    rng = np.random.default_rng(0)
    names = {
        "images": rng.integers(300, 3000, (2, 4, 4, 5, 5)).astype(float),
        "species": SPECIES,
        "longitude": [8.4, 8.6],
        "latitude": [47.3, 47.1],
    }
    for block in blocks(page):
        if block.language == "python" and not block.reason:
            code = compile("\n" * block.line + block.text, str(page), "exec")  # lines of errors are those of the page
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # names that a model never saw, say
                exec(code, names)  # noqa: S102 - the repository's own text


def test_tables_of_the_pages_work(workplace, monkeypatch, capsys):
    from geotreeclip.cli import main
    from geotreeclip.evaluation.few_shot.command import main as few_shot

    monkeypatch.chdir(workplace)
    assert main(["classify", "points.csv", "--model", "runs/mine", "--out", "answers.csv"]) == 0
    assert few_shot(["--model", "runs/mine", "--adapt", "mine.csv", "--out", "runs/own-table"]) == 0
    assert main(["classify", "points.csv", "--model", "runs/own-table"]) == 0
    assert "Fagus sylvatica" in capsys.readouterr().out


def test_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for page in PAGES for name in re.findall(r"`\[([a-z]+)\]`", page.read_text(encoding="utf-8"))}
    assert named <= set(extras)
    listed = re.findall(r"^\| `\[([a-z]+)\]` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(extras)


def test_files_that_are_named_exist():
    kinds = r"`((?:geotreeclip|train|eval|data_prep|benchmarks|docs|model_cards)/[\w/.-]+\.(?:py|yaml|md))`"
    absent = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(kinds, page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert absent == []
    linked = re.findall(r"\]\((docs/[\w/.-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert linked
    assert [name for name in linked if not (ROOT / name).exists()] == []


def test_pretraining_and_training_of_the_pages_name_the_same_model():
    """`--init` refuses an encoder of another shape."""
    import yaml

    laptop, seasonal = (
        yaml.safe_load((ROOT / "train" / "configs" / name).read_text(encoding="utf-8"))["model"]
        for name in ("laptop.yaml", "seasonal.yaml")
    )
    assert laptop == seasonal
