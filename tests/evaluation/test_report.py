"""Reports: rows are checked, files are complete, the page reads well."""

import json
from enum import StrEnum

import numpy as np
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.report import (
    CEILING,
    ROW_COLUMNS,
    ceiling_of,
    describe_run,
    make_row,
    markdown,
    read_ceiling,
    read_report,
    write_report,
)


class Rank(StrEnum):
    SPECIES = "species"


def row(**changes):
    base = {
        "set": "toy", "protocol": "published", "rank": "species", "group": "all", "metric": "top1", "value": 0.5,
        "low": 0.45, "high": 0.55, "n": 100, "system": "geotreeclip", "inputs": "all", "prior": "uniform",
    }  # fmt: skip
    return make_row(**{**base, **changes})


def test_rows_have_every_column_in_order_and_plain_values():
    made = row(value=np.float32(0.25), n=np.int64(7), rank=Rank.SPECIES, low=float("nan"), high=float("inf"))
    assert tuple(made) == ROW_COLUMNS
    assert (made["value"], made["n"], made["low"], made["high"], made["shots"]) == (0.25, 7, None, None, None)
    assert type(made["rank"]) is str


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 1.0}, "unknown column accuracy"),
        ({"value": "0.5"}, "value is '0.5'"),
        ({"n": 1.5}, "n is 1.5"),
        ({"system": 3}, "system is 3"),
        ({"metric": None}, "no metric"),
    ],
)
def test_wrong_rows_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        row(**changes)


def test_written_report_reads_back(tmp_path):
    rows = [row(), {"metric": "top5", "value": 0.7}]
    path, page = write_report(
        rows, tmp_path / "out" / "report.json", describe_run(model_fingerprint="abc", intervals="x")
    )
    meta, back = read_report(path)
    assert back == [row(), make_row(metric="top5", value=0.7)]
    assert meta["model_fingerprint"] == "abc"
    assert set(meta) >= {"versions", "command", "created", "data_fingerprint", "intervals"}
    assert page.name == "report.md"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["report.json", "report.md"]
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_unreadable_reports_are_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("[]")
    with pytest.raises(DataError, match=r"r\.json: no report"):
        read_report(path)
    path.write_text(json.dumps({"rows": [{"metric": "top1", "speed": 3}]}))
    with pytest.raises(DataError, match=r"r\.json: row 0: unknown column speed"):
        read_report(path)
    with pytest.raises(InputError, match=r"\.json"):
        write_report([], tmp_path / "report.csv")


def test_page_shows_systems_metrics_and_the_share_of_the_ceiling():
    rows = [
        row(), row(metric="top5", value=0.9, low=None, high=None), row(metric="ece", value=0.012, low=0.0, high=0.02),
        row(metric="log_loss", value=1.2345, low=1.2, high=1.3), row(prior="training", value=0.6),
        row(system="majority", inputs="none", prior="set", value=0.1, low=0.08, high=0.12),
        row(rank="genus", value=0.8), row(rank="genus", protocol="rolled-up", value=0.85),
        row(protocol="rolled-up"), row(protocol="rolled-up", prior="training", value=0.6),
        row(protocol="rolled-up", system="majority", inputs="none", prior="set", value=0.1, low=0.08, high=0.12),
        row(group="rare", value=0.3, n=20), row(group="frequent", value=0.7, n=80),
        row(metric="macro_top1", value=0.45), row(metric="macro_top1", value=0.5, prior="training"),
        make_row(system=CEILING, metric="macro_top1", rank="species", inputs="all", prior="uniform", value=0.9),
        make_row(system=CEILING, metric="top1", rank="species", inputs="all", prior="training", value=0.8),
        make_row(system=CEILING, metric="top1", rank="genus", inputs="all", prior="training", value=0.95),
    ]  # fmt: skip
    page = markdown(rows, {"command": "x"})
    lines = page.splitlines()
    uniform, training, majority = (
        next(line for line in lines if line.startswith(f"| {start} ")) for start in (
            "geotreeclip | all    | uniform", "geotreeclip | all    | training", "majority"
        )
    )  # fmt: skip
    cells = [cell.strip() for cell in uniform.strip("|").split("|")]
    expected = ["50.0 [45.0, 55.0]", "90.0", "45.0 [45.0, 55.0]", "1.2 [0.0, 2.0]", "1.234 [1.200, 1.300]"]
    assert cells[3:] == [*expected, "", "", "90.0", "50.0 %"]  # the macro ceiling is that of the uniform prior
    cells = [cell.strip() for cell in training.strip("|").split("|")]
    assert cells[-4:] == ["80.0", "75.0 %", "", ""]
    assert majority.strip("| ").endswith("10.0 [8.0, 12.0]")  # no ceiling for a system without inputs
    model = uniform
    assert "| all    | training | top-1       |    80.0 |  95.0 |" in page
    assert "genus, published" in page
    assert "genus, rolled-up" in page
    assert "species, rolled-up" not in page  # the same as published, nothing to add
    assert "rare (n 20)" in page
    assert "100 samples." in page
    widths = {len(line) for line in lines[lines.index(model) - 2 : lines.index(model) + 2]}
    assert len(widths) == 1  # aligned


def test_ceiling_matches_inputs_prior_and_what_it_states():
    ceilings = [
        make_row(system=CEILING, metric="top1", inputs="image", prior="uniform", value=0.4),
        make_row(system=CEILING, metric="top1", inputs="all", prior="training", value=0.8, split="default"),
        make_row(system=CEILING, metric="top1", inputs="all", prior="training", value=0.7),
    ]
    assert ceiling_of(row(inputs="image"), ceilings)["value"] == 0.4
    assert ceiling_of(row(), ceilings) is None
    assert ceiling_of(row(prior="training"), ceilings)["value"] == 0.7
    assert ceiling_of(row(prior=None), ceilings)["value"] == 0.7
    assert ceiling_of(row(prior="training", split="default"), ceilings)["value"] == 0.8
    assert ceiling_of(row(prior="training", rank="genus"), ceilings) is None
    assert ceiling_of(row(prior="training", group="rare"), ceilings) is None


def test_few_shot_scores_have_ceilings_of_their_own_labels():
    world = row(value=0.7, system=CEILING, candidates="all species of the world")
    few = row(value=0.8, system=CEILING, candidates="33 labels", shots=0)
    of_query = row(value=0.9, system=CEILING, candidates="33 labels", shots=0, metric="top5", prior="query")
    ceilings = [world, few, of_query]
    assert ceiling_of(row(candidates="60 taxa of the set"), ceilings)["value"] == 0.7
    assert ceiling_of(row(candidates="33 labels", shots=5), ceilings)["value"] == 0.8
    assert ceiling_of(row(candidates="12 labels", shots=5), ceilings) is None
    assert ceiling_of(row(candidates="33 labels", shots=5), [world]) is None
    assert ceiling_of(row(candidates="33 labels", shots=5, metric="top5"), ceilings)["value"] == 0.9
    assert ceiling_of(row(candidates="33 labels", metric="top5"), ceilings) is None


def test_ceiling_file(tmp_path):
    path = tmp_path / "ceiling.json"
    assert read_ceiling(path, "toy") == []
    path.write_text(json.dumps({"rows": [{"metric": "top1", "value": 0.8}]}))
    (found,) = read_ceiling(path, "toy")
    assert (found["system"], found["set"], found["value"]) == (CEILING, "toy", 0.8)
    path.write_text(json.dumps([{"metric": "top1", "wrong": 0.8}]))
    with pytest.raises(DataError, match=r"ceiling\.json.*unknown column wrong"):
        read_ceiling(path, "toy")
