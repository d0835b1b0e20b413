"""Models that count days from greenup: calendar days are refused, or turned by the greenup of each place."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from geotreeclip.cli import main
from geotreeclip.data.writer import PackedWriter
from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.probes.sources import embed_packed
from geotreeclip.evaluation.zero_shot import main as zero_shot
from geotreeclip.inference import load
from geotreeclip.mapping.pixels import PixelClassifier
from geotreeclip.prep.phase import check_days, shift_days_to_phase
from geotreeclip.schema import MONTH_DAYS
from geotreeclip.taxonomy import Taxon


@pytest.fixture(scope="module")
def phase_model(tiny_model_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("phase") / "model"
    shutil.copytree(tiny_model_dir, directory)
    config = json.loads((directory / "config.json").read_text())
    config["observation"]["season"] = "phase"
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    values = rng.integers(300, 1200, (3, 12, 10, 5, 5)).astype(float)
    values[:, :, 3:8] = rng.integers(2500, 3500, (3, 12, 5, 5, 5))  # B8 B5 B6 B7 B8A: leaves are bright there
    return values


def test_days_of_the_calendar_are_refused_with_the_remedy(phase_model, images):
    model = load(phase_model)
    with pytest.raises(InputError, match=r"season: phase.*days of the calendar; give greenup=.*greenup=0"):
        model.classify(images)
    with pytest.raises(InputError, match=r"sample b: greenup is nan"):
        model.classify(images, greenup=[90, np.nan, 100], sample_ids=["a", "b", "c"])
    with pytest.raises(InputError, match=r"one for each of 3 places"):
        model.classify(images, greenup=[90.0, 80.0])
    with pytest.raises(InputError, match=r"greenup is 400, no day of the year"):
        model.classify(images, greenup=400)


def test_greenup_turns_the_calendar_as_the_phase_set_does(phase_model, images):
    model, greenup = load(phase_model), np.array([90.0, 300.5, 0.0])
    turned = model.classify(images, greenup=greenup, top_k=None).to_pandas()["probability"].to_numpy()
    days = shift_days_to_phase(MONTH_DAYS, greenup)
    wrapped = np.where(days > 366, days - 365, days)  # as people write periods across the turn of their year
    ready = model.classify(images, days=wrapped, greenup=0, top_k=None).to_pandas()["probability"].to_numpy()
    assert np.allclose(turned, ready, atol=1e-6)
    other = model.classify(images, greenup=greenup + 30, top_k=None).to_pandas()["probability"].to_numpy()
    assert np.abs(turned - other).max() > 1e-3
    batch = model.build(images, greenup=greenup)
    assert np.allclose(batch.first_day.numpy(), days[..., 0])
    assert np.allclose(batch.last_day.numpy(), days[..., 1])


def test_without_imagery_nothing_is_asked(phase_model):
    answers = load(phase_model).classify(environment={"bio01": [8.0, 9.0]}, longitude=[9, 10], latitude=[50, 51])
    assert len(answers.to_pandas()) > 0


def test_other_models_refuse_greenup(tiny_model_dir, images):
    with pytest.raises(InputError, match="takes days of the calendar; leave greenup out"):
        load(tiny_model_dir).classify(images, greenup=90)


def test_the_command_reads_the_column_greenup(phase_model, tmp_path, capsys):
    table = pd.DataFrame({"longitude": [9.0, 10], "latitude": [50.0, 51], "bio01": [8.0, 9], "greenup": [90, 100]})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert (
        main(["classify", str(tmp_path / "t.csv"), "--model", str(phase_model), "--out", str(tmp_path / "o.csv")]) == 0
    )
    assert "greenup" not in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "o.csv")) == 10


def test_a_set_and_a_model_that_disagree_are_refused(phase_model, tmp_path):
    config = load(phase_model).config
    with pytest.raises(ConfigError, match=r"make the set with data_prep/phase\.py"):
        check_days(tmp_path, config)


def test_evaluators_and_the_command_refuse_a_set_of_the_calendar(phase_model, images, tmp_path, capsys):
    demo_set = tmp_path / "set"
    environment = np.full((3, 27), np.nan, np.float32)
    environment[:, :2] = [[9, 50], [10, 51], [11, 52]]
    with PackedWriter(demo_set, None) as writer:
        writer.add(images.astype(np.uint16), environment, [Taxon("a", "b", "c", "c d")] * 3, ["x", "y", "z"])
    with pytest.raises(ConfigError, match="expects days since greenup"):
        embed_packed(str(phase_model), demo_set, "all")
    with pytest.raises(ConfigError, match="expects days since greenup"):
        zero_shot(["--model", str(phase_model), "--data", str(demo_set), "--out", str(tmp_path / "r.json")])
    assert main(["classify", str(demo_set), "--model", str(phase_model), "--out", str(tmp_path / "o.csv")]) == 2
    assert "expects days since greenup" in capsys.readouterr().err


def test_maps_refuse_a_model_that_counts_from_greenup(phase_model, tiny_model_dir):
    with pytest.raises(ConfigError, match="a stack of months does not tell"):
        PixelClassifier(load(phase_model), (5, 6), ("B4", "B8")).check_inputs(rasters=False)
    PixelClassifier(load(tiny_model_dir), (5, 6), ("B4", "B8")).check_inputs(rasters=False)
