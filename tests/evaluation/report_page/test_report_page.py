"""The report of runs: what is read, what is shown, that the page needs nothing but itself."""

import json
import re
import runpy
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import DataError
from geotreeclip.evaluation.metrics import score
from geotreeclip.evaluation.prediction_files import write_predictions
from geotreeclip.evaluation.predictions import Context, from_log_prob
from geotreeclip.evaluation.report import CEILING, make_row, write_report
from geotreeclip.evaluation.report_page.embeddings import project, read_embeddings, write_embeddings
from geotreeclip.evaluation.report_page.parts import Value
from geotreeclip.evaluation.report_page.plots import equal_earth
from geotreeclip.evaluation.report_page.runs import join_folds, read_run, read_runs
from geotreeclip.evaluation.report_page.scenes import rows_of, scenes_of
from geotreeclip.evaluation.report_page.style import DARK, LIGHT, places_of
from geotreeclip.taxonomy import Taxon

SCRIPT = Path(__file__).parents[3] / "eval" / "report.py"
TAXA = [
    Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
    Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex"),
    Taxon("Deciduous Broadleaf", "Betulaceae", "Betula", "Betula <b>pendula</b>"),
    Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo"),
]
SIZE = 240


def predict(seed=0, power=1.5, rows=slice(None), **context):
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 4, SIZE)
    scores = np.random.default_rng(seed).normal(size=(SIZE, 4)) + power * np.eye(4)[truth]
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    lon, lat = rng.uniform(-20, 60, SIZE), rng.uniform(-30, 60, SIZE)
    about = Context(**{"set": "demo", "split": "blocks100", "prior": "training", **context})
    item = from_log_prob(
        scores, TAXA, truth, [f"s{i}" for i in range(SIZE)], context=about, longitude=lon, latitude=lat,
        block=np.arange(SIZE) // 6, rarity=np.where(truth > 1, "rare", "frequent"),
    )  # fmt: skip
    return item.take(np.arange(SIZE)[rows])


def store(folder, items, rows=None, **meta):
    folder.mkdir(parents=True, exist_ok=True)
    if rows is None:
        rows = [row for item in items for rank in ("species", "genus") for row in score(item, rank=rank)]
    about = {"command": "python eval/zero_shot.py --model <here>", "model_fingerprint": "ab" * 32,
             "data_fingerprint": "cd" * 32, "created": "2026-01-02T03:04:05+00:00", **meta}  # fmt: skip
    write_report(rows, folder / "report.json", about)
    write_predictions(folder / "report.predictions.parquet", items)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = predict()
    items = [model, predict(seed=1, power=0.8, system="random forest", inputs="environment"),
             predict(seed=2, power=0, system="majority", inputs="none"),
             predict(seed=0, split="blocks0", power=2.5)]  # fmt: skip
    rows = [row for item in items for rank in ("species", "genus") for row in score(item, rank=rank)]
    ceiling = {"set": "demo", "system": CEILING, "metric": "top1", "inputs": "all", "prior": "training", "value": 0.9}
    rows += [make_row(**ceiling, rank=rank) for rank in ("species", "genus")]
    few = [
        replace(predict(seed=s, power=0.3 * n), context=replace(model.context, shots=n, seed=s, method="prototype"))
        for n in (1, 5)
        for s in (0, 1)
    ]
    rows += [row for item in few for row in score(item)]
    folder = store(tmp_path_factory.mktemp("runs") / "zero", items, rows)
    rng = np.random.default_rng(0)
    names = {"family": [TAXA[int(k)].family for k in model.truth]}
    write_embeddings(folder / "report.embeddings.npz", rng.normal(size=(SIZE, 8)), model.sample_id.tolist(), names)
    return folder


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    areas = out / "areas.csv"
    pd.DataFrame({"class": [taxon.family for taxon in TAXA[1:]], "area": [50.0, 30, 20]}).to_csv(areas, index=False)
    assert call("--out", out / "page", "--areas", areas, "--resamples", 60, run) == 0
    return out / "page"


def call(*arguments):
    before, sys.argv = sys.argv, ["report.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        sys.argv = before
    return stop.value.code


class Page(HTMLParser):
    """Collects addresses, and that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "source", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_for_nothing(report):
    text = (report / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert "url(" not in text
    assert "@import" not in text
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert all(f'id="{anchor}"' in text for anchor in anchors)
    assert text.count("<img") == len([path for path in report.glob("*.png") if not path.stem.endswith("-dark")])


def test_page_says_what_it_must(report):
    text = (report / "index.html").read_text()
    for words in ("100 km blocks", "random, by place", "what nearness is worth", "Bayes ceiling", "Paired differences",
                  "Prediction sets at 90%", "right genus", "By continent", "Area-adjusted accuracy", "Few-shot, top-1",
                  "user&#x27;s accuracy", "Embeddings of"):  # fmt: skip
        assert words in text, words
    assert "<b>pendula" not in text  # names are data, not markup
    assert "Betula &lt;b&gt;pendula" in text
    figures = re.findall(r"<figure.*?</figure>", text, re.S)
    assert len(figures) >= 7
    for figure in figures:
        assert "model abababababab" in figure
        assert "data cdcdcdcdcdcd" in figure
        assert "python eval/zero_shot.py --model &lt;here&gt;" in figure


def test_markdown_links_to_pictures_that_exist(report):
    text = (report / "report.md").read_text()
    names = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert names
    assert all((report / name).is_file() for name in names)
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1


def test_numbers_of_the_page_are_those_of_the_rows(report, run):
    rows = json.loads((run / "report.json").read_text())["rows"]
    top = next(row for row in rows if row["metric"] == "top1" and row["group"] == "all" and row["rank"] == "species")
    cell = f"{100 * top['value']:.1f}<small>{100 * top['low']:.1f} to {100 * top['high']:.1f}</small>"
    text = (report / "index.html").read_text()
    assert cell in text
    assert f">{100 * top['value'] / 0.9:.1f}<" in text  # share of the ceiling


def test_what_is_no_run_is_named(tmp_path, run, capsys):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.json").write_text("{}")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "table.parquet")
    for path, message in (
        (tmp_path, "this folder has notes.txt, other.json"),
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path / "notes.txt", "is no run"),
        (tmp_path / "other.json", "no report"),
        (tmp_path / "table.parquet", "none of predictions"),
    ):
        with pytest.raises(DataError, match=re.escape(message)) as error:
            read_run(path)
        assert str(path) in str(error.value)
    assert call("--out", tmp_path / "out", tmp_path) == 2
    assert "is no run" in capsys.readouterr().err
    areas = tmp_path / "areas.csv"
    areas.write_text("class,area\nUnicorn,3\n")
    assert call("--out", tmp_path / "out", "--areas", areas, "--resamples", 20, run) == 2
    assert "names no species" in capsys.readouterr().err


def test_runs_are_read_once_and_named_apart(run, tmp_path):
    twice = read_runs([run, run / "report.json", run / "report.predictions.parquet"])
    assert [item.name for item in twice] == ["zero"]
    other = store(tmp_path / "zero", [predict()])
    assert [item.name for item in read_runs([run, other])] == ["zero", "zero (2)"]


def test_predictions_alone_are_scored(tmp_path):
    write_predictions(tmp_path / "predictions.parquet", predict())
    (scene,) = scenes_of([read_run(tmp_path)], 50)
    assert {row["protocol"] for row in scene.rows} == {"published", "rolled-up"}
    value = next(row["value"] for row in scene.rows if row["metric"] == "top1" and row["rank"] == "species")
    assert value == pytest.approx(predict().hits(1).mean())


def test_folds_are_joined_and_draws_are_not():
    folds = [predict(rows=slice(start, None, 3), fold=start, candidates=f"list {start}") for start in range(3)]
    (joined,) = join_folds(folds)
    assert len(joined) == SIZE
    assert joined.context.fold is None
    assert joined.hits(1).mean() == pytest.approx(predict().hits(1).mean())
    draws = [replace(part, context=replace(part.context, shots=1, fold=0, seed=k)) for k, part in enumerate(folds)]
    assert len(join_folds(draws)) == 3
    assert len(join_folds([predict(), predict(prior="uniform")])) == 2


def test_rows_of_seeds_and_folds_become_one():
    def row(**more):
        return make_row(**{"set": "s", "system": "a", "metric": "top1", "rank": "species", "value": 0.5, **more})

    pooled = [row(fold=None, seed=0, value=0.4), row(fold=0, seed=0), row(fold=1, seed=0)]
    assert [item["value"] for item in rows_of(pooled)] == [0.4]
    seeds = [row(seed=0, value=0.4, low=0.1, high=0.9), row(seed=1, value=0.6)]
    (mean,) = rows_of(seeds)
    assert mean["value"] == pytest.approx(0.5)
    assert mean["low"] is None
    stated = row(seed=None, value=0.51, low=0.4, high=0.6, method="mean of seeds")
    assert [item["value"] for item in rows_of([*seeds, stated])] == [0.51]
    assert rows_of([row(system=CEILING)]) == []
    settings = [row(method="k 5", metric="ece"), row(method="several")]
    assert {item["method"] for item in rows_of(settings)} == {None}
    few = [row(method=name, shots=1, seed=k) for name in ("x", "y") for k in (0, 1)]
    assert {item["method"] for item in rows_of(few)} == {"x", "y"}


def test_values_are_shown_with_their_interval():
    assert (Value(0.5, 0.4, 0.61).text, Value(0.5, 0.4, 0.61).span) == ("50.0", "40.0 to 61.0")
    assert Value(-0.012, sign=True).text == "\u22121.2"
    assert Value(0.012, sign=True).text == "+1.2"
    assert Value(21158.4, 15000, 27315, percent=False, digits=0).span == "15,000 to 27,315"


def test_embeddings_go_round_and_hostile_files_are_refused(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    path = write_embeddings(tmp_path / "e.npz", values, [f"s{i}" for i in range(40)], {"family": ["F"] * 40})
    found = read_embeddings(path)
    np.testing.assert_array_equal(found.embedding, values)
    assert found.names["family"].tolist() == ["F"] * 40
    points, rows = project(values, most=30)
    assert points.shape == (30, 2)
    assert len(set(rows.tolist())) == 30
    np.savez(tmp_path / "pickled.npz", embedding=np.array([{}], dtype=object), sample_id=["a"])
    np.savez(tmp_path / "short.npz", embedding=values, sample_id=["a"])
    np.savez(tmp_path / "nan.npz", embedding=values[:1] * np.nan, sample_id=["a"])
    (tmp_path / "text.npz").write_text("no")
    for name, message in (("pickled", "pickle"), ("short", "sample_id"), ("nan", "row 0"), ("text", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_embeddings(tmp_path / f"{name}.npz")


def test_projection_of_the_map_has_equal_areas():
    lat = np.linspace(-85, 85, 18)
    x, y = equal_earth(np.array([0.0, 1.0])[:, None], np.stack([lat - 0.5, lat + 0.5])[:, None, :].mean(axis=0))
    _, top = equal_earth(np.zeros(18), lat + 0.5)
    _, bottom = equal_earth(np.zeros(18), lat - 0.5)
    area = (x[1] - x[0]) * (top - bottom)
    sphere = np.radians(1) * (np.sin(np.radians(lat + 0.5)) - np.sin(np.radians(lat - 0.5)))
    np.testing.assert_allclose(area / sphere, 1, rtol=0.002)
    assert y.shape == (1, 18)


def test_a_system_looks_alike_in_every_plot():
    assert places_of(["majority (set prior)", "geotreeclip", "random forest (environment)"]) == {
        "majority (set prior)": 5, "geotreeclip": 0, "random forest (environment)": 1,
    }  # fmt: skip
    many = places_of([f"geotreeclip ({k})" for k in range(9)])
    assert set(many.values()) <= set(range(6))
    assert len(set(many.values())) == 6
    assert LIGHT.ground != DARK.ground
