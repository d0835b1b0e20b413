"""The command line: one clear line for every mistake, and tables for everything else."""

from __future__ import annotations

import io
import subprocess
import sys

import pandas as pd
import pytest

import geotreeclip
from geotreeclip.cli import COMMANDS, main
from geotreeclip.commands import places as command

POINTS = (
    "id,longitude,latitude,elev,bio_1,remark\n007,10.5,50.1,300,8.5,wet\n12,-3.2,40.0,,14.25,\nx,25,62.0,120,3.5,a\n"
)


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(POINTS)
    return path


@pytest.fixture
def classify(tiny_model_dir, points, capsys):
    """Run `geotreeclip classify`, and return exit code, output and error lines."""

    def run(*arguments, table: str | None = None, model=tiny_model_dir):
        if table is not None:
            points.write_text(table)
        code = main(["classify", str(points), "--model", str(model), "--device", "cpu", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


def test_the_table_is_what_python_gives(classify, points, tiny_model_dir):
    code, out, notes = classify("--top-k", 2)
    assert code == 0
    frame = pd.read_csv(io.StringIO(out), dtype={"sample": str}, keep_default_na=False)
    expected = geotreeclip.load(tiny_model_dir, "cpu").classify(
        longitude=[10.5, -3.2, 25],
        latitude=[50.1, 40.0, 62.0],
        environment={"elevation": [300, None, 120], "bio01": [8.5, 14.25, 3.5]},
        sample_ids=["007", "12", "x"],
        top_k=2,
    )
    assert frame["longitude"].tolist() == [10.5, 10.5, -3.2, -3.2, 25, 25]
    expected = expected.to_pandas()
    assert list(frame.drop(columns=["longitude", "latitude"]).columns) == list(expected.columns)
    same = ["sample", "rank", "label", "genus", "family", "probability", "back_off_label", "unknown", "calibrated"]
    pd.testing.assert_frame_equal(frame[same], expected[same], rtol=1e-4, check_dtype=False)
    assert notes == [f"note: {points}: columns not used: remark"]


def test_places_in_several_chunks_and_both_formats(classify, tmp_path, monkeypatch):
    whole = pd.read_csv(io.StringIO(classify()[1]))
    monkeypatch.setattr(command, "ROWS", 2)
    code, out, errors = classify("--out", tmp_path / "new" / "out.csv")
    assert (code, out) == (0, "")
    assert errors[-1].startswith("3 places in ")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "out.csv"), whole, rtol=1e-4)
    assert classify("--out", tmp_path / "out.parquet")[0] == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "out.parquet")[["sample", "label", "probability"]],
        whole[["sample", "label", "probability"]],
        rtol=1e-4,
        check_dtype=False,
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.csv"]


def test_labels_rank_and_prior(classify, tmp_path):
    (tmp_path / "prior.csv").write_text("label,weight\nQuercus robur,1\nQuercus petraea,3\nQuercus ilex,0\n")
    code, out, _ = classify("--labels", "genus=Quercus", "--prior", tmp_path / "prior.csv")
    frame = pd.read_csv(io.StringIO(out))
    assert code == 0
    assert set(frame["label"]) == {"Quercus robur", "Quercus petraea", "Quercus ilex"}
    assert (frame.loc[frame["label"] == "Quercus ilex", "probability"] == 0).all()
    frame = pd.read_csv(io.StringIO(classify("--rank", "family", "--prior", "uniform")[1]))
    assert set(frame["label"]) == {"Fagaceae", "Betulaceae", "Pinaceae"}


def test_location_alone_is_said(classify, points):
    code, _, notes = classify(table="lon;lat\n10;50\n")
    assert code == 0
    assert notes == [f"note: {points} has no environment columns: location alone is used"]


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ("", [], "the file is empty"),
        ("longitude,latitude\n", [], "the table has no rows"),
        ("a,b\n1,2\n", [], "no column of longitude and latitude (found: a, b)"),
        ("longitude,bio01\n1,2\n", [], "no column of latitude"),
        ("longitude,latitude\n1,2\n3,x\n", [], "points.csv: row 2: latitude is 'x', not a number"),
        ("longitude,latitude\n1,2\n3,99\n", [], "points.csv: row 2: latitude is 99, outside"),
        ("longitude,latitude\n1,2\n,\n", [], "points.csv: row 2 has no valid pixel and no environment value"),
        ("longitude,latitude,bio05\n1,2,236\n", [], 'pass worldclim="1"'),
        ("longitude,latitude,lon\n1,2,3\n", [], "names longitude twice"),
        (POINTS, ["--id", "plot"], "no column 'plot'"),
        (POINTS, ["--out", "x.gif"], "must end in .csv, .parquet, .geoparquet or .geojson"),
        (POINTS, ["--top-k", "0"], "--top-k must be at least 1"),
        (POINTS, ["--labels", "genus=Qercus"], "did you mean Quercus"),
        (POINTS, ["--labels", "none.csv"], "none.csv: no such file"),
        (POINTS, ["--prior", "unifrom"], "neither"),
        (POINTS, ["--out", "/proc/none/out.csv"], "/proc/none/out.csv: cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(classify, table, arguments, message):
    code, _, lines = classify(*arguments, table=table)
    assert code == 2
    errors = [line for line in lines if not line.startswith("note: ")]
    assert len(errors) == 1, lines
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_a_mistake_leaves_no_file(classify, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ROWS", 1)
    code, _, lines = classify("--out", tmp_path / "out.csv", table="lon,lat\n1,2\n3,4\n5,99\n")
    assert code == 2
    assert "points.csv: row 3: latitude is 99" in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv"]


def test_absent_files_and_models(classify, tmp_path, capsys):
    assert main(["classify", str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv: no such file" in capsys.readouterr().err
    code, _, lines = classify(model=tmp_path / "nothing")
    assert code == 2
    assert "no model at" in lines[-1]


def test_unknown_commands_and_no_command(capsys):
    for arguments in ([], ["clasify"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert not end.value.code
    assert f"usage: geotreeclip {name}" in capsys.readouterr().out


def test_as_a_module_in_its_own_process():
    done = subprocess.run([sys.executable, "-m", "geotreeclip", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


def test_unknown_argument_is_told_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["map", "stack.tif", "--out", "map.tif", "--forest", "mask.tif"])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert "usage: geotreeclip map" in told
    assert "unrecognized arguments: --forest mask.tif" in told


def test_own_labels_from_the_command_line(tiny_model_dir, tmp_path, capsys):
    rows = [
        f"{name},{8 + k + shift},{47 + k},{600 + 400 * k}" for k, name in enumerate(("a", "b")) for shift in (0, 2, 4)
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["label,longitude,latitude,elevation", *rows]) + "\n")
    assert (
        main(["adapt", str(tmp_path / "mine.csv"), "--model", str(tiny_model_dir), "--out", str(tmp_path / "own")]) == 0
    )
    told = capsys.readouterr().out
    assert "2 labels" in told
    assert "(0." not in told  # the weights of single strengths are in the card
    (tmp_path / "places.csv").write_text("longitude,latitude,elevation\n8,47,600\n9,48,1000\n")
    assert main(["classify", str(tmp_path / "places.csv"), "--model", str(tmp_path / "own"), "--top-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[4] for line in lines[1:]] == ["a", "b"]
