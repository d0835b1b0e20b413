"""Tables in every format, logs, interruption, and what the other commands say."""

from __future__ import annotations

import json
import struct

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest

from geotreeclip.cli import main
from geotreeclip.commands import classify as classify_command
from geotreeclip.commands import places
from geotreeclip.data.writer import PackedWriter
from geotreeclip.taxonomy import Taxon

ROWS = 10
IDS = [f"s{number}" for number in range(5)]


@pytest.fixture
def points(tmp_path):
    rng = np.random.default_rng(0)
    table = {"id": [f"p{i:02d}" for i in range(ROWS)], "lon": rng.uniform(-20, 40, ROWS).round(4)}
    frame = pd.DataFrame(table | {"lat": rng.uniform(30, 60, ROWS).round(4), "bio1": rng.uniform(0, 20, ROWS).round(2)})
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def run(tiny_model_dir, points, capsys, monkeypatch):
    monkeypatch.setattr(places, "ROWS", 3)

    def call(name, *arguments, source=points):
        code = main([name, str(source), "--model", str(tiny_model_dir), "--device", "cpu", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_every_format_holds_the_same(run, tmp_path):
    for suffix in ("csv", "parquet", "geoparquet", "geojson"):
        assert run("classify", "--top-k", 2, "--out", tmp_path / f"out.{suffix}")[0] == 0
    expected = pd.read_csv(tmp_path / "out.csv")
    assert len(expected) == 2 * ROWS
    plain = pd.read_parquet(tmp_path / "out.parquet")
    assert plain["label"].tolist() == expected["label"].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"out.{suffix}" for suffix in ("csv", "geojson", "geoparquet", "parquet")), "points.csv",
    ]  # fmt: skip

    table = parquet.read_table(tmp_path / "out.geoparquet")
    about = json.loads(table.schema.metadata[b"geo"])
    column = about["columns"][about["primary_column"]]
    assert (about["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", ["Point"])
    order, kind, x, y = struct.unpack("<BIdd", table["geometry"][0].as_py())
    assert (order, kind) == (1, 1)
    assert (x, y) == (expected["longitude"][0], expected["latitude"][0])
    ends = [getattr(expected[name], end)() for end in ("min", "max") for name in ("longitude", "latitude")]
    assert column["bbox"] == ends

    document = json.loads((tmp_path / "out.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == 2 * ROWS
    first = document["features"][0]
    assert first["geometry"] == {"type": "Point", "coordinates": [x, y]}
    assert first["properties"]["label"] == expected["label"][0]
    assert first["properties"]["in_range"] is None


def test_geopandas_reads_what_is_written(run, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    for suffix, read in (("geoparquet", geopandas.read_parquet), ("geojson", geopandas.read_file)):
        assert run("classify", "--out", tmp_path / f"out.{suffix}")[0] == 0
        frame = read(tmp_path / f"out.{suffix}")
        assert frame.crs.is_geographic
        assert frame.geometry.x.between(-20, 40).all()


def test_an_interrupted_command_goes_on(run, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    assert run("classify", "--out", whole)[0] == 0
    built = []
    joined = classify_command._with_places

    def first_run(frame, batch, top_k):
        if batch.samples[0] == "p06":
            raise KeyboardInterrupt
        return joined(frame, batch, top_k)

    monkeypatch.setattr(classify_command, "_with_places", first_run)
    code, _, err = run("classify", "--out", out)
    assert code == 130
    assert "6 places are kept" in err
    assert not out.exists()

    def second_run(frame, batch, top_k):
        built.append(batch.samples[0])
        return joined(frame, batch, top_k)

    monkeypatch.setattr(classify_command, "_with_places", second_run)
    code, _, err = run("classify", "--out", out)
    assert code == 0
    assert "going on after 6 places" in err
    assert built == ["p06", "p09"]
    assert out.read_text() == whole.read_text()
    assert not out.with_name("out.csv.parts").exists()


def test_other_input_is_begun_anew(run, tmp_path, points, monkeypatch):
    out = tmp_path / "out.csv"
    joined = classify_command._with_places

    def stop(frame, batch, top_k):
        if batch.samples[0] == "p06":
            raise KeyboardInterrupt
        return joined(frame, batch, top_k)

    with monkeypatch.context() as patch:
        patch.setattr(classify_command, "_with_places", stop)
        assert run("classify", "--out", out)[0] == 130
    points.write_text(points.read_text().replace("p00", "q00"))
    code, _, err = run("classify", "--out", out)
    assert code == 0
    assert "begun anew" in err
    assert pd.read_csv(out)["sample"][0] == "q00"


def test_the_log_says_what_was_done(run, tmp_path, points):
    log = tmp_path / "run.json"
    assert run("classify", "--out", tmp_path / "out.csv", "--log", log)[0] == 0
    account = json.loads(log.read_text())
    assert account["exit_code"] == 0
    assert account["places"] == ROWS
    assert account["inputs"][0]["path"] == str(points)
    assert len(account["inputs"][0]["sha256"]) == len(account["model"]["fingerprint"]) == 64
    assert account["outputs"][0]["bytes"] == (tmp_path / "out.csv").stat().st_size
    assert account["versions"]["torch"]
    points.write_text("lon,lat\n1,99\n")
    assert run("classify", "--log", log)[0] == 2
    account = json.loads(log.read_text())
    assert account["exit_code"] == 2
    assert "latitude is 99" in account["error"]
    code, _, err = run("classify", "--log", "/proc/none/run.json")
    assert code == 2
    assert "--log /proc/none/run.json: cannot be written" in err


def test_explain_writes_a_second_table(run, tmp_path):
    assert run("classify", "--out", tmp_path / "out.csv", "--explain", tmp_path / "why.csv")[0] == 0
    why = pd.read_csv(tmp_path / "why.csv")
    assert why.groupby("sample").size().tolist() == [3] * ROWS  # location, climate, bio01
    best = pd.read_csv(tmp_path / "out.csv").groupby("sample")["label"].first()
    assert why.groupby("sample")["label"].first().tolist() == best.tolist()


def test_candidates_of_a_country(run, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("species,country\nQuercus robur,DE\nFagus sylvatica,DE;FR\nQuercus ilex,FR\n")
    run("classify", "--labels", path, "--country", "DE", "--out", tmp_path / "out.csv")
    assert set(pd.read_csv(tmp_path / "out.csv")["label"]) == {"Quercus robur", "Fagus sylvatica"}
    for arguments, message in (
        (["--country", "DE"], "name the table with --labels"),
        (["--labels", path, "--country", "XX"], "no row of country 'XX'"),
        (["--region=0,40,20,60"], "no ranges.parquet"),
        (["--region=0,40,20,60", "--country", "DE"], "leave --labels and --country out"),
    ):
        code, _, err = run("classify", *arguments)
        assert code == 2
        assert message in err


# -- the other commands -----------------------------------------------------------------------------------------------


def test_embed_is_what_python_gives(run, tmp_path, tiny_model_dir, points):
    import geotreeclip

    assert run("embed", "--out", tmp_path / "out.parquet")[0] == 0
    assert run("embed", "--out", tmp_path / "out.csv")[0] == 0
    frame = pd.read_parquet(tmp_path / "out.parquet")
    given = pd.read_csv(points)
    expected = geotreeclip.load(tiny_model_dir, "cpu").embed(
        longitude=given["lon"], latitude=given["lat"], environment={"bio01": given["bio1"]}
    )
    np.testing.assert_allclose(np.stack(frame["embedding"]), expected, atol=1e-6)
    flat = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(flat[[f"embedding_{i}" for i in range(32)]], expected, rtol=1e-4, atol=1e-5)


def test_labels_lists_taxa_and_counts(tiny_model_dir, capsys, tmp_path):
    assert main(["labels", "--model", str(tiny_model_dir), "--labels", "genus=Quercus"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "leaf_type,family,genus,species,training_samples"
    assert lines[1] == "Deciduous Broadleaf,Fagaceae,Quercus,Quercus robur,120"
    assert len(lines) == 4


@pytest.fixture
def packed(tmp_path):
    rng = np.random.default_rng(0)
    directory = tmp_path / "packed"
    environment = np.full((5, 27), np.nan, np.float32)
    environment[:, 0], environment[:, 1] = 10 + np.arange(5), 50
    images = rng.integers(200, 4000, (5, 12, 10, 5, 5)).astype(np.uint16)
    with PackedWriter(directory) as writer:
        writer.add(images, environment, [Taxon("D", "Fagaceae", "Quercus", "Quercus robur")] * 5, IDS)
    return directory


def test_inspect_tells_what_is_there(packed, tiny_model_dir, points, capsys, tmp_path):
    assert main(["inspect", str(tiny_model_dir)]) == 1  # it has no card
    out = capsys.readouterr().out
    assert "8 taxa" in out
    assert "PROBLEM: no README.md" in out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run" / "model").symlink_to(tiny_model_dir)
    assert main(["inspect", str(tmp_path / "run")]) == 1
    assert "8 taxa" in capsys.readouterr().out
    assert main(["inspect", str(packed), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "packed set of 5 samples" in out
    assert out.endswith("sane\n")
    assert main(["inspect", str(next(packed.glob("*.tar")))]) == 0
    assert "packed shard" in capsys.readouterr().out
    assert main(["inspect", str(points)]) == 0
    assert "table of 10 rows" in capsys.readouterr().out
    points.write_text("lon,lat,bio5,name\n1,2,236,a\n3,99,x,b\n")
    assert main(["inspect", str(points)]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: lat: 2 to 99, outside" in out
    assert "--worldclim 1" in out
    assert "PROBLEM: bio5: row 2 is 'x', not a number" in out
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "neither a model")):
        assert main(["inspect", str(path)]) == 2
        assert message in capsys.readouterr().err


def test_a_packed_set_can_be_classified(run, packed, tmp_path):
    code, out, _ = run("classify", "--top-k", 1, source=packed)
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines()] == ["sample", *(f"s{number}" for number in range(5))]


def test_card(tiny_model_dir, capsys, tmp_path):
    assert main(["card", str(tiny_model_dir)]) == 2
    assert "has no README.md" in capsys.readouterr().err


def test_train_reads_its_own_arguments(capsys):
    assert main(["train", "--out", "x"]) == 2
    assert "--data" in capsys.readouterr().err
