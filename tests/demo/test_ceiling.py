import numpy as np
import pytest

from geotreeclip.demo.ceiling import ceiling_rows, fresh_posteriors
from geotreeclip.demo.config import world_config
from geotreeclip.demo.world import build_world
from geotreeclip.evaluation.report import check_row


def small(**knobs):
    return build_world(world_config(seed=5, sites=300, **{"contrast": 0.06, "timing": 0.2, **knobs}), 600)


@pytest.fixture(scope="module")
def world():
    return small()


@pytest.mark.parametrize("prior", ["training", "uniform"])
def test_the_mean_of_the_maximum_is_the_share_of_hits(world, prior):
    records, tables = fresh_posteriors(world, prior, 1500, seed=0)
    for table in tables.values():
        np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9)
        best = table.max(axis=1)
        error = np.sqrt((best * (1 - best)).sum()) / len(best)
        hits = table.argmax(axis=1) == records.recorded
        assert abs(best.mean() - hits.mean()) < 3.5 * error
        # calibrated at every level of confidence, not only on average
        sure = best > np.median(best)
        assert abs(best[sure].mean() - hits[sure].mean()) < 3.5 * error * np.sqrt(len(best) / sure.sum())


def test_more_inputs_never_lower_the_ceiling(world):
    for prior in ("training", "uniform"):
        _, tables = fresh_posteriors(world, prior, 800, seed=1)
        value = {name: table.max(axis=1).mean() for name, table in tables.items()}
        floor = world.prior.max() if prior == "training" else 1 / 60
        assert value["all"] > value["environment"] > floor
        assert value["all"] >= value["no-location"] - 0.01
        assert value["no-location"] > value["image"] > floor


def test_wrong_labels_lower_the_ceiling_as_the_closed_form_says(world):
    """Labels replaced by any of S, each alike: ceiling' = (1 - e) ceiling + e / S."""
    share = 0.3
    _, clean = fresh_posteriors(world, "training", 1500, seed=2, inputs=("all",))
    records, wrong = fresh_posteriors(small(wrong_labels=share), "training", 1500, seed=2, inputs=("all",))
    expected = (1 - share) * clean["all"].max(axis=1).mean() + share / 60
    assert wrong["all"].max(axis=1).mean() == pytest.approx(expected, abs=0.025)
    hits = wrong["all"].argmax(axis=1) == records.recorded
    assert hits.mean() == pytest.approx(expected, abs=0.045)


def test_wrong_labels_under_the_uniform_prior_are_calibrated():
    records, tables = fresh_posteriors(small(wrong_labels=0.3), "uniform", 1500, seed=3, inputs=("all",))
    assert np.bincount(records.recorded, minlength=60).tolist() == [25] * 60
    best = tables["all"].max(axis=1)
    hits = tables["all"].argmax(axis=1) == records.recorded
    assert abs(best.mean() - hits.mean()) < 3.5 * np.sqrt((best * (1 - best)).sum()) / len(best)


def test_coordinate_error_lowers_the_ceiling_of_the_environment(world):
    def ceiling(world):
        return fresh_posteriors(world, "training", 600, 4, ("environment",))[1]["environment"].max(axis=1).mean()

    # Variables of the true site tell the place anyway, so they are all taken away here.
    near, far = (small(coordinate_error_km=km, missing=5.0, history=2.0) for km in (0, 400))
    assert ceiling(near) > ceiling(far)


def test_rows_are_report_rows(world):
    rows = ceiling_rows(world, 200)
    for row in rows:
        check_row(row)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] == 200
    value = {(r["prior"], r["inputs"], r["rank"], r["metric"]): r["value"] for r in rows}
    assert value["training", "all", "species", "top1"] < value["training", "all", "species", "top5"]
    assert value["training", "all", "species", "top1"] <= value["training", "all", "genus", "top1"]
    assert value["training", "all", "genus", "top1"] <= value["training", "all", "leaf_type", "top1"]
    assert value["uniform", "all", "species", "top1"] == value["uniform", "all", "species", "macro_top1"]
    assert len(value) == len(rows)
