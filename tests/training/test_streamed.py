"""Training from a stream, from data elsewhere, compiled; and what a run says about its speed."""

import dataclasses
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from forked import settings
from safetensors.torch import load_file, save_file

from geotreeclip.data.published import PublishedSample, write_published
from geotreeclip.data.writer import PackedWriter
from geotreeclip.errors import DataError, GeotreeclipError
from geotreeclip.models.directory import load_model
from geotreeclip.taxonomy import Taxon
from geotreeclip.training.config import ScheduleConfig
from geotreeclip.training.loop import Trainer, train
from geotreeclip.training.resume import load_run_state, run_state
from geotreeclip.training.speed import Speed, count_cost, peak_flops

FEW = ScheduleConfig(validations=1, checkpoints=0)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run on data fetched from elsewhere."""
    out = tmp_path_factory.mktemp("elsewhere")
    config = settings(f"file://{data}", str(out / "run"), steps=3, schedule=FEW, cache=str(out / "cache"), verify=True)
    train(config, quiet=True)
    return out


def test_data_from_elsewhere_gives_the_run_of_data_that_is_here(data, trained, tmp_path):
    train(settings(str(data), str(tmp_path / "here"), steps=3, schedule=FEW), quiet=True)
    here, there = (load_file(out / "model" / "model.safetensors") for out in (tmp_path / "here", trained / "run"))
    for name in here:
        torch.testing.assert_close(here[name], there[name], atol=0, rtol=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A packed set of three shards, and the same samples as published."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    taxa = [Taxon("a", "F", "G", f"G s{number}") for number in range(4)]
    images = generator.integers(1, 9000, (96, 12, 10, 5, 5)).astype(np.uint16)
    environment = generator.uniform(5, 20, (96, 27)).astype(np.float32)
    (folder / "published").mkdir()
    with PackedWriter(folder / "packed", None, chunk_samples=16, shard_samples=32) as writer:
        writer.add(images, environment, [taxa[row % 4] for row in range(96)], [f"s{row}" for row in range(96)])
    for shard in range(3):
        rows = range(32 * shard, 32 * shard + 32)
        samples = [
            PublishedSample(
                str(row), images[row].astype(float), environment[row].astype(float), taxa[row % 4], str(row), ""
            )
            for row in rows
        ]
        write_published(folder / "published" / f"GGT-{shard}.tar", samples)
    return folder


@pytest.mark.parametrize("kind", ["packed", "published"])
def test_a_stream_trains_and_goes_on(shards, tmp_path, kind):
    source = f"file://{shards / kind}" if kind == "packed" else str(shards / kind)
    config = settings(
        source, str(tmp_path / "run"), steps=8, stream=True, stream_buffer=20, cache=str(tmp_path / "cache"),
        schedule=ScheduleConfig(validations=1, checkpoints=2),
    )  # fmt: skip
    train(config, quiet=True)
    account = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert sum(account["label_counts"]) == account["training_samples"] < 96
    trainer = Trainer(config, quiet=True)
    assert trainer._resume()
    assert trainer.step == 4
    train(config, quiet=True)
    if kind == "packed":
        assert len(list((tmp_path / "cache").glob("*/*.tar"))) == 1


@pytest.mark.slow
def test_compiled_encoders_give_the_same_loss(data, tmp_path):
    config = settings(str(data), str(tmp_path), steps=3, schedule=FEW)
    losses = []
    for compiled in (False, True):
        trainer = Trainer(dataclasses.replace(config, compile=compiled), quiet=True)
        trainer.steps = 3
        batches = trainer.loader.batches()
        try:
            losses.append([float(trainer.train_step(next(batches))) for _ in range(2)])
        except RuntimeError as error:
            pytest.skip(f"torch.compile does not work here: {str(error)[:100]}")
        finally:
            batches.close()
    # Dropout is drawn by other kernels once compiled.
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)


def test_arithmetic_is_counted_and_speed_told(data, tmp_path):
    trainer = Trainer(settings(str(data), str(tmp_path)), quiet=True)
    tokens = trainer.labels.known_tokens[:, :9]
    batch = trainer._augmented(trainer.dataset.read(trainer.loader.rows(0)), 0)
    cost = count_cost(trainer.plain, batch, tokens)
    weights = sum(p.numel() for p in trainer.plain.observation_encoder.parameters() if p.ndim > 1)
    assert cost.place > 6 * weights  # forward and backward: six operations for a weight and token
    assert cost.of_sample(8, 16) == cost.place + cost.text / 2
    assert count_cost(trainer.plain, batch.select(slice(0, 2)), tokens) == cost
    trainer.plain.text_encoder.requires_grad_(False)
    assert count_cost(trainer.plain, batch, tokens).text == cost.text / 3
    assert peak_flops(torch.device("cpu"), "bf16") is None
    speed = Speed(1e9, 1e12)
    speed._then -= 2
    speed.add(1000)
    told = speed.take()
    assert told["samples_per_second"] == pytest.approx(500, rel=0.05)
    assert told["utilisation"] == pytest.approx(0.5, rel=0.05)
    assert "utilisation" not in Speed(1e9, None).take()


# -- hostile model directories -----------------------------------------------------------------------------------------


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def nan(path):
    weights = load_file(path / "model.safetensors")
    weights["log_scale"] = torch.tensor(float("nan"))
    save_file(weights, path / "model.safetensors")


def giant_header(path):
    file = path / "model.safetensors"
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "model.safetensors").write_bytes(pickle.dumps(Payload(str(path / "ran")))),
        lambda path: torch.save({"log_scale": Payload(str(path / "ran"))}, path / "model.safetensors"),
        lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-10]),
        lambda path: (path / "taxonomy.parquet").write_bytes(pickle.dumps(Payload(str(path / "ran")))),
        lambda path: (path / "statistics.json").write_text("[" * 100_000),
        lambda path: (path / "config.json").write_text('{"architecture": "os.system"}'),
        lambda path: (path / "training.json").write_text("{}"),
        nan,
        giant_header,
    ],
)
def test_hostile_model_directories_are_refused(trained, tmp_path, spoil):
    path = tmp_path / "model"
    shutil.copytree(trained / "run" / "model", path)
    spoil(path)
    with pytest.raises(GeotreeclipError):
        load_model(path)
    assert not (path / "ran").exists()


def test_a_checkpoint_with_a_payload_is_refused_and_not_run(data, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"step": Payload(str(tmp_path / "ran"))}, folder / "step-000000001")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        train(settings(str(data), str(tmp_path / "run")), quiet=True)
    assert not (tmp_path / "ran").exists()
    torch.save({"step": 1}, folder / "step-000000001")
    with pytest.raises(DataError, match="has no average, best"):
        train(settings(str(data), str(tmp_path / "run")), quiet=True)
    os.truncate(folder / "step-000000001", 100)
    with pytest.raises(DataError, match="all 1 checkpoints are damaged"):
        train(settings(str(data), str(tmp_path / "run")), quiet=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("best", None), ("best", {"score": "high", "step": 0, "validation": {}, "weights": {}}), ("history", [3]),
        ("history", "x"), ("step", "3"), ("step", -1), ("step", 99), ("steps", None), ("stamp", "["), ("stamp", "{}"),
        ("model", {}), ("model", [torch.ones(3)]), ("optimizer", {"state": {}}),
        ("average", {"mean": [], "updates": 1}), ("average", {"mean": [torch.ones(1)], "updates": "x"}), ("average", 3),
    ],
)  # fmt: skip
def test_checkpoints_with_a_part_that_is_wrong_are_refused(trainer, tmp_path, key, value):
    state = {**run_state(trainer), key: value}
    with pytest.raises(GeotreeclipError, match="step-000000001"):
        load_run_state(trainer, state, tmp_path / "step-000000001")


def test_checkpoints_with_weights_that_are_not_finite_are_refused(trainer, tmp_path):
    state = run_state(trainer)
    state["model"] = {name: torch.full_like(value, torch.inf) for name, value in state["model"].items()}
    with pytest.raises(DataError, match="is not finite"):
        load_run_state(trainer, state, tmp_path / "step-000000001")
    assert load_run_state(trainer, run_state(trainer), tmp_path / "step-000000001") == ""


@pytest.fixture(scope="module")
def trainer(data, tmp_path_factory):
    made = Trainer(settings(str(data), str(tmp_path_factory.mktemp("state"))), quiet=True)
    made.steps = 12
    return made
