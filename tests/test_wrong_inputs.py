"""Wrong inputs at every entrance: one clear line, exit code 2, no traceback and no file left behind."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import geotreeclip
from geotreeclip.cli import main
from geotreeclip.errors import GeotreeclipError

GOOD = "id,longitude,latitude,bio01\na,10,50,8\nb,11,51,9\n"


@pytest.fixture
def folder(tmp_path, tiny_model_dir):
    """Files that are wrong in their own ways, beside a good table and a good model."""
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("longitude,latitude\n")
    (tmp_path / "swapped.csv").write_text("longitude,latitude\n50,120\n")
    (tmp_path / "metres.csv").write_text("longitude,latitude\n400000,5600000\n")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "no_id.csv").write_text("longitude,latitude\n10,50\n")
    (tmp_path / "broken.tar").write_bytes(b"x" * 1000)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "ragged.csv").write_text("longitude,latitude\n1,2\n1,2,3,4\n")
    (tmp_path / "weights.csv").write_text("label,weight\nFagus sylvatica,many\n")
    (tmp_path / "broken.pth").write_bytes(b"x" * 1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").mkdir()
    model = tmp_path / "damaged"
    model.mkdir()
    for name in ("config.json", "statistics.json", "taxonomy.parquet", "training.json"):
        (model / name).write_bytes((tiny_model_dir / name).read_bytes())
    (model / "model.safetensors").write_bytes(b"nothing")
    odd = tmp_path / "odd"
    shutil.copytree(tiny_model_dir, odd)
    (odd / "config.json").write_text('{"name": 3}')
    return tmp_path


CLASSIFY = "classify {}/good.csv --model {model} --device cpu"
COMMANDS = [
    # no model
    ("classify {}/good.csv --model {}/none", "no model at"),
    ("classify {}/good.csv --model {}/folder", "not a model directory, model.safetensors, config.json"),
    ("classify {}/good.csv --model {}/damaged", "model.safetensors: damaged"),
    ("classify {}/good.csv --model {}/good.csv", "is a file; give the model directory"),
    ("classify {}/good.csv --model demo", "there is no demo model"),
    ("classify {}/good.csv --model {}/odd", "odd/config.json: model.name is 3"),
    ("classify {}/good.csv --model {}/broken.pth", "it is no PyTorch file"),
    ("embed {}/good.csv --out {}/o.csv --model {}/none", "no model at"),
    ("labels --model {}/none", "no model at"),
    ("card {}/none", "no model at"),
    ("evaluate --model {}/none --data {}/none --out {}/r.json", "none"),
    # tables
    ("classify {}/none.csv --model {model}", "none.csv: no such file"),
    ("classify {}/empty.csv --model {model}", "empty.csv: the file is empty"),
    ("classify {}/header.csv --model {model}", "header.csv: the table has no rows"),
    ("classify {}/binary.csv --model {model}", "binary.csv: "),
    ("classify {}/broken.parquet --model {model}", "broken.parquet: cannot be read as a table"),
    ("classify {}/folder --model {model}", "has no manifest.json, so it is no packed set"),
    ("classify {}/ragged.csv --model {model}", "cannot be read as a table (Error tokenizing data"),
    ("classify {}/table.csv --model {model}", "has no manifest.json, so it is no packed set"),
    ("embed {}/header.csv --out {}/o.csv --model {model}", "the table has no rows"),
    # coordinates
    ("classify {}/swapped.csv --model {model}", "swapped.csv: row 1: latitude is 120"),
    ("classify {}/metres.csv --model {model}", "looks like metres of a projection"),
    ("classify {}/metres.csv --model {model} --rasters {}/folder", "give degrees"),
    # labels, priors, options
    (CLASSIFY + " --labels Qercus", "'Qercus' is no leaf type, family, genus or species"),
    (CLASSIFY + " --labels genus=Qercus", "did you mean Quercus"),
    (CLASSIFY + " --labels {}/none.csv", "none.csv: no such file"),
    (CLASSIFY + " --labels {}/empty.csv", "empty.csv: cannot be read as a table"),
    (CLASSIFY + " --labels {}/good.csv --country DE", "no column country"),
    (CLASSIFY + " --prior {}/none.csv", "neither"),
    (CLASSIFY + " --threshold 2", "--threshold must lie above 0"),
    (CLASSIFY + " --top-k 0", "--top-k must be at least 1"),
    (CLASSIFY + " --device nonsense", "device 'nonsense' is unknown"),
    (CLASSIFY + " --device meta", "device 'meta' is unknown"),
    (CLASSIFY + " --prior {}/weights.csv", "row 1: weight of Fagus sylvatica is 'many', not a number"),
    (CLASSIFY + " --region=10,60,20,50", "does not know which taxa"),
    (CLASSIFY + " --region=10,60,20", "give west,south,east,north in degrees"),
    (CLASSIFY + " --region=10,60,x,50", "give west,south,east,north in degrees"),
    # imagery and sources
    (CLASSIFY + " --imagery {}/folder", "imagery.json: no such file"),
    ("classify {}/no_id.csv --model {model} --imagery {}/folder", "joined by identifier"),
    (CLASSIFY + " --source https://x --year 2020", 'source must be "stac:"'),
    (CLASSIFY + " --source stac:{}/none.json --year 2020", "none.json: cannot be read"),
    (CLASSIFY + " --source stac:{}/broken.json --year 2020", "broken.json: is no JSON"),
    (CLASSIFY + " --source stac:{}/none.json", "--source needs the year"),
    (CLASSIFY + " --year 2020", "--year says which imagery to fetch"),
    (CLASSIFY + " --rasters {}/picture.png", "its name tells no variable"),
    (CLASSIFY + " --rasters {}/none", "none"),
    # unwritable output
    (CLASSIFY + " --out {}/x.xlsx", "must end in .csv"),
    (CLASSIFY + " --out /proc/none/x.csv", "/proc/none/x.csv: cannot be written"),
    (CLASSIFY + " --out {}/good.csv/x.csv", "cannot be written"),
    (CLASSIFY + " --out {}/table.csv", "table.csv: is a folder; name a file in it"),
    (CLASSIFY + " --out {}/o.csv --explain /proc/none/x.csv", "/proc/none/x.csv: cannot be written"),
    (CLASSIFY + " --log /proc/none/run.json", "--log /proc/none/run.json: cannot be written"),
    ("embed {}/good.csv --model {model} --device cpu --out /proc/none/x.parquet", "cannot be written"),
    # others
    ("inspect {}/none", "no such file or directory"),
    ("inspect {}/picture.png", "nothing is known of files like this"),
    ("inspect {}/broken.tar", "cannot be read as a tar"),
    ("inspect {}/empty.csv", "the file is empty"),
    ("inspect {}/damaged", "model.safetensors: damaged"),
    ("train --data {}/folder --out {}/run", "manifest.json"),
    ("train --data {}/folder --out {}/run --steps -3", "--steps -3: give 0 or more"),
    ("train --data {}/folder --out {}/run --validation 1.5", "--validation 1.5: give a share"),
    ("evaluate --model {model} --data {}/folder --out {}/r.txt", "a file that ends in .json"),
    ("evaluate --model {model} --data {}/folder --out {}/r.json --resamples 0", "--resamples 0: give at least 1"),
    ("evaluate --model {model} --data {}/folder --out {}/r.json --batch-size 0", "--batch-size 0: give at least 1"),
    ("evaluate --model {model} --data {}/folder --out {}/r.json --block-km nan", "--block-km nan: give 0"),
    ("convert {}/none.pth {}/out", "no such file"),
]


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands_say_one_clear_line(command, message, folder, tiny_model_dir, capsys):
    before = sorted(path.name for path in folder.iterdir())
    arguments = [part.replace("{model}", str(tiny_model_dir)).replace("{}", str(folder)) for part in command.split()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(arguments) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert len(errors[0]) < 700
    left = sorted(path.name for path in folder.iterdir())
    assert [name for name in left if name not in (*before, "run")] == []


CALLS = [
    ({}, "nothing to look at"),
    ({"longitude": 10}, "latitude is missing"),
    ({"longitude": 10, "latitude": 120}, "latitude is 120"),
    ({"longitude": 200, "latitude": 10}, "subtract 360"),
    ({"longitude": [1, 2], "latitude": [1, 2, 3]}, "values where"),
    ({"longitude": "east", "latitude": 1}, "longitude"),
    ({"images": np.zeros((12, 4, 5, 5)) + 500}, "images have 4 bands"),
    ({"images": np.zeros((7, 10, 5, 5)) + 500}, "7 time steps"),
    ({"images": np.zeros((12, 10))}, "no valid pixel"),
    ({"images": "none.tif"}, "none.tif: no such file"),
    ({"images": np.zeros((1, 10)) + 500, "bands": ["B99"] * 10, "months": [1]}, "B99"),
    ({"environment": {"bio1": 300.5}}, "kelvin"),
    ({"environment": {"temperature": 3}}, "no known variable"),
    ({"longitude": 1, "latitude": 2, "labels": []}, "the list is empty"),
    ({"longitude": 1, "latitude": 2, "labels": ["Quercus robur"] * 2}, "more than once"),
    ({"longitude": 1, "latitude": 2, "rank": "order"}, "rank must be one of"),
    ({"longitude": 1, "latitude": 2, "top_k": 0}, "top_k must be"),
    ({"longitude": 1, "latitude": 2, "prior": {"Fagus sylvatica": 1}}, "no weight for"),
    ({"longitude": 1, "latitude": 2, "sample_ids": ["a", "b"]}, "2 identifiers for 1"),
    ({"longitude": 1, "latitude": 2, "calibrated": True}, "no calibration.json"),
    ({"longitude": 1, "latitude": 2, "year": 2020}, "name its source"),
    ({"longitude": 1, "latitude": 2, "source": "stac:", "year": 2020}, 'source must be "stac:"'),
    ({"longitude": 1, "latitude": 2, "rasters": "none"}, "none"),
    ({"longitude": 1, "latitude": 2, "environment": {"bio1": 1}, "rasters": "x"}, "not both"),
    ({"longitude": 1, "latitude": 2, "images": np.ones((12, 10)), "source": "stac:x", "year": 2020}, "not both"),
]


@pytest.mark.parametrize(("arguments", "message"), CALLS, ids=[message for _, message in CALLS])
def test_calls_say_one_clear_line(arguments, message, tiny_model_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(GeotreeclipError) as found:
            geotreeclip.classify(**arguments, model=tiny_model_dir, device="cpu")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_full_disk_is_said_and_finished_rows_stay(folder, tiny_model_dir, capsys, monkeypatch):
    """The second batch finds no room; with room, the same command goes on after the first."""
    import errno

    import pandas as pd

    from geotreeclip.commands import places

    monkeypatch.setattr(places, "ROWS", 1)
    arguments = ["classify", str(folder / "good.csv"), "--model", str(tiny_model_dir), "--device", "cpu"]
    arguments += ["--out", str(folder / "out.csv")]
    original = pd.DataFrame.to_parquet

    def full(frame, path, **options):
        if Path(path).name.endswith("000001.parquet"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(frame, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "No space left on device" in error
    assert main(arguments) == 0
    assert "going on after 1 places" in capsys.readouterr().err
    assert pd.read_csv(folder / "out.csv")["sample"].unique().tolist() == ["a", "b"]
