"""The training loop: resume equals no interruption, two processes equal one, hidden parts stay hidden."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.writer import PackedWriter
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.directory import load_model
from geotreeclip.observations import from_packed
from geotreeclip.schema import GROUPS
from geotreeclip.taxonomy import Taxon
from geotreeclip.training.augment import augment
from geotreeclip.training.checkpoint import newest_checkpoint, read_checkpoint, write_checkpoint
from geotreeclip.training.cli import main, parse
from geotreeclip.training.config import AugmentConfig, LossConfig, ModelChoice, RunConfig, ScheduleConfig
from geotreeclip.training.loop import Trainer, train
from geotreeclip.training.optimizer import learning_rate
from geotreeclip.training.samples import choose_samples

ROOT = Path(__file__).parents[2]
TAXA = [Taxon("a", "F", "G", f"G s{i}") for i in range(8)]


def settings(data, out, **changes):
    config = RunConfig(
        data=str(data),
        out=str(out),
        steps=6,
        batch_size=16,
        threads=1,
        trackers=(),
        validation=0.2,
        model=ModelChoice(
            name="tiny",
            observation={"width": 16, "depth": 1, "heads": 2},
            text={"width": 16, "layers": 1},
            embed_dim=16,
        ),
        schedule=ScheduleConfig(validations=2, checkpoints=2),
    )
    return dataclasses.replace(config, **changes)


def weights(out):
    return load_file(Path(out) / "model" / "model.safetensors")


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(settings(data, out), quiet=True)
    return out


def test_a_run_learns_and_writes_a_model(data, whole):
    account = json.loads((whole / "model" / "training.json").read_text())
    assert account["steps"] == 6
    assert account["training_samples"] == 128
    assert len(account["history"]) == 2
    assert sum(account["label_counts"]) == 128
    assert "license: other" in (whole / "model" / "README.md").read_text()
    places = load_model(whole / "model").places
    assert 1 < len(places.share) <= 128 // 20  # groups of training samples
    assert (places.share * 128).min() > 4.9  # none of them a single place


def test_the_same_run_twice_is_the_same(data, whole, tmp_path):
    train(settings(data, tmp_path / "run"), quiet=True)
    assert_same(weights(tmp_path / "run"), weights(whole), atol=0, rtol=0)


def test_resume_equals_no_interruption(data, whole, tmp_path):
    config = settings(data, tmp_path / "run")
    first = Trainer(config, quiet=True)
    first.steps = first._fix_steps()
    batches = first.loader.batches()
    for _ in range(3):
        first.train_step(next(batches))
    first._validate(None)
    first._save()
    train(config, quiet=True)
    assert_same(weights(tmp_path / "run"), weights(whole), atol=0, rtol=0)


def test_resume_of_another_run_is_refused_with_the_reason(data, tmp_path, monkeypatch):
    config = settings(data, tmp_path / "run")
    trainer = Trainer(config, quiet=True)
    trainer.steps = 6
    trainer._save()

    def resumed(**changes):
        other = dataclasses.replace(config, **changes)
        trainer.config = other
        return trainer._resume()

    for changes, message in (
        ({"seed": 1}, r"another seed \(0 then, 1 now\)"),
        ({"batch_size": 32}, "another batch_size"),
        ({"loss": LossConfig(text_weight=1.0)}, r"another loss.text_weight \(0.2 then, 1.0 now\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            resumed(**changes)
    # What touches no number of the result may change.
    assert resumed(prefetch=0, out=config.out, schedule=ScheduleConfig(validations=2, checkpoints=5, keep=9))
    with monkeypatch.context() as patch:
        patch.setattr(PackedDataset, "fingerprint", lambda self: "another")
        with pytest.raises(ConfigError, match=r"another data \("):
            resumed()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        with pytest.raises(ConfigError, match=r"threads 1 then, 7 now \(sums are .*--resume elastic"):
            resumed()
        assert resumed(resume="elastic")
    trainer.config = dataclasses.replace(config, resume="never")
    assert not trainer._resume()
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is None


def test_two_processes_equal_one(data, tmp_path):
    flat = {
        "steps": 3, "batch_size": 16, "threads": 1, "validation": 0.2, "loss.candidates": "batch",
        "model.name": "tiny", "model.embed_dim": 16, "schedule.validations": 1, "schedule.checkpoints": 0,
        "optimizer.average": 0.0, "resume": "never",
    }  # fmt: skip
    options = [f"--{key}={value}" for key, value in flat.items()] + [
        "--trackers=[]",
        '--model.observation={"width": 16, "depth": 1, "heads": 2, "dropout": 0.0}',
        '--model.text={"width": 16, "layers": 1}',
        f"--data={data}",
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "train/clip.py"]
    done = subprocess.run(
        [*command, *options, f"--out={tmp_path / 'two'}"], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 cpu process(es)" in done.stdout
    assert main([*options, f"--out={tmp_path / 'one'}"]) == 0
    # float32: sums over two halves are rounded differently, and AdamW divides small numbers by small numbers.
    assert_same(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-4, rtol=0)


def test_a_budget_in_minutes_fixes_the_steps_and_leaves_no_trace(data, tmp_path):
    trainer = Trainer(settings(data, tmp_path / "run", minutes=0.02, steps=0), quiet=True)
    before = {name: value.clone() for name, value in trainer.plain.state_dict().items()}
    assert trainer._fix_steps() >= 50
    assert trainer.step == 0
    assert_same(trainer.plain.state_dict(), before, atol=0, rtol=0)
    assert trainer.optimizer.state_dict()["state"] == {}


def test_a_budget_in_minutes_is_cut_at_the_most_epochs(data, tmp_path):
    trainer = Trainer(settings(data, tmp_path / "run", minutes=60, steps=0, most_epochs=8), quiet=True)
    assert trainer._fix_steps() == math.ceil(8 * len(trainer.samples.train) / trainer.config.batch_size)


def test_data_without_imagery_trains(tmp_path):
    generator = np.random.default_rng(0)
    with PackedWriter(tmp_path / "data", None, has_images=False) as writer:
        taxa = [TAXA[i % 8] for i in range(64)]
        writer.add(None, generator.random((64, 27)).astype(np.float32), taxa, [str(i) for i in range(64)])
    train(settings(tmp_path / "data", tmp_path / "run", steps=2), quiet=True)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["observation"]["inputs"] == ["terrain", "soil", "climate", "location"]


def test_augmentation_hides_but_never_invents_and_never_depends_on_the_process(data):
    dataset = PackedDataset(data)
    packed = dataset.read(np.arange(64))
    batch = from_packed(packed)
    config = AugmentConfig(drop_image=0.3, drop_groups=0.5, keep_one_image=0.3, gain=0.1, band_noise=0.1)
    unit = torch.ones(27)
    out = augment(batch, config, unit, 0, 640, slice(0, 64), 64)
    assert not (out.environment_valid & ~batch.environment_valid).any()
    assert out.image_valid.sum() < batch.image_valid.sum()
    assert (out.images[~out.image_valid] == 0).all()
    assert (out.environment[~out.environment_valid] == 0).all()
    anything = out.image_valid.flatten(1).any(1) | out.environment_valid.any(1)
    assert anything.all()
    alone = out.image_valid.flatten(1).any(1) & ~out.environment_valid.any(1)
    assert alone.any()  # places with nothing but their images
    for columns in GROUPS.values():
        assert (
            out.environment_valid[:, list(columns)].any(1) <= batch.environment_valid[:, list(columns)].any(1)
        ).all()
    halves = [augment(batch.select(rows), config, unit, 0, 640, rows, 64) for rows in (slice(0, 32), slice(32, 64))]
    for part, (first, second) in zip(out, zip(*halves, strict=True), strict=True):
        torch.testing.assert_close(torch.cat([first, second]), part, atol=0, rtol=0)
    other = augment(batch, config, unit, 1, 640, slice(0, 64), 64)
    assert not torch.equal(other.image_valid, out.image_valid)


def test_no_augmentation_changes_nothing(data):
    batch = from_packed(PackedDataset(data).read(np.arange(8)))
    off = AugmentConfig(
        drop_image=0, drop_groups=0, keep_one_image=0, drop_step=0, gain=0, band_noise=0, pixel_flip=False
    )
    for part, original in zip(augment(batch, off, torch.ones(27), 0, 0, slice(0, 8), 8), batch, strict=True):
        torch.testing.assert_close(part, original, atol=0, rtol=0)


def test_moved_places_stay_near_and_on_the_map(data):
    batch = from_packed(PackedDataset(data).read(np.arange(4)))
    environment = batch.environment.clone()
    environment[:, 0] = torch.tensor([179.99, -179.99, 10.0, 10.0])
    environment[:, 1] = torch.tensor([0.0, 60.0, 89.9, -45.0])
    config = AugmentConfig(drop_image=0, drop_groups=0, keep_one_image=0, drop_step=0, location_noise_km=10)
    moved = augment(batch._replace(environment=environment), config, torch.ones(27), 0, 0, slice(0, 4), 4).environment
    assert (moved[:, 0].abs() <= 180).all()
    assert (moved[:, 1].abs() <= 90).all()
    assert ((moved[:, 1] - environment[:, 1]).abs() < 0.5).all()
    assert not torch.equal(moved[:, :2], environment[:, :2])


def test_validation_never_overlaps_training_or_test(data):
    dataset = PackedDataset(data)
    chosen = choose_samples(dataset, settings(data, "unused"))
    assert not np.intersect1d(chosen.train, chosen.validation).size
    assert len(chosen.train) + len(chosen.validation) == 160


def test_learning_rate_warms_up_and_comes_down():
    schedule = ScheduleConfig(warmup=0.1, final=0.01)
    rates = [learning_rate(step, 100, 1.0, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_checkpoints_are_bounded_and_hold_no_code(tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step, {"step": step})
    (tmp_path / ".partial-step-000000009").write_bytes(b"half a checkpoint")
    assert newest_checkpoint(tmp_path).name == "step-000000003"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]
    torch.save({"step": os.system}, tmp_path / "step-000000010")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        read_checkpoint(newest_checkpoint(tmp_path))


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step, {"weights": torch.arange(4000)}, keep=3)
    cut = tmp_path / "step-000000003"
    cut.write_bytes(cut.read_bytes()[:-500])
    flipped = bytearray((tmp_path / "step-000000002").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "step-000000002").write_bytes(flipped)
    told = []
    assert newest_checkpoint(tmp_path, told.append).name == "step-000000001"
    assert ["step-000000003: damaged" in told[0], "step-000000002: damaged" in told[1]] == [True, True]
    (tmp_path / "step-000000001").write_bytes(b"")
    with pytest.raises(DataError, match="all 3 checkpoints are damaged"):
        newest_checkpoint(tmp_path, told.append)


def test_a_run_killed_at_any_moment_goes_on_as_if_nothing_had_been(forked, tmp_path):
    told, errors = forked("killed", tmp_path)
    assert told["codes"] == [0, -9, -9, -9, 0], errors[-2000:]
    assert told["left"], "the third one was to die in the middle of a checkpoint"
    assert_same(weights(tmp_path / "broken"), weights(tmp_path / "whole"), atol=0, rtol=0)
    accounts = [json.loads((tmp_path / run / "model" / "training.json").read_text()) for run in ("broken", "whole")]
    assert accounts[0]["history"] == accounts[1]["history"]
    assert {path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()} == {
        "step-000000010", "step-000000011"
    }  # fmt: skip


def test_a_stop_signal_to_one_process_saves_and_stops_all_in_time(forked, tmp_path):
    told, errors = forked("terminated", tmp_path)
    assert told["codes"] == [130, 130], errors[-2000:]
    assert told["seconds"] < 30
    assert told["checkpoints"][-1] == "step-000000010"  # asked for during step 8; all agree every 10 steps
    # The same command goes on; one process where there were two is refused unless that is accepted.
    assert told["refused"] == 2
    assert told["ended"] == [[0, 0], [0, 0], 0], errors[-2000:]
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"), atol=0, rtol=0)
    elastic, whole = (
        torch.cat([w.flatten() for w in weights(tmp_path / run).values()]) for run in ("elastic", "whole")
    )
    assert not torch.equal(elastic, whole)
    assert (elastic - whole).norm() < 1e-3 * whole.norm()  # the same samples and order, other last digits


def test_a_killed_process_ends_the_others_and_the_run_goes_on_exactly(forked, tmp_path):
    """With gradient accumulation in each process, too."""
    told, errors = forked("rank_killed", tmp_path)
    assert told["codes"][0] == told["codes"][2] == [0, 0], errors[-2000:]
    assert told["codes"][1][1] == -9
    assert told["codes"][1][0] not in (0, -9)  # it noticed, and did not wait for ever
    assert told["found"][-1] == "step-000000006"
    assert_same(weights(tmp_path / "broken"), weights(tmp_path / "whole"), atol=0, rtol=0)


def test_yaml_and_command_line_settings(tmp_path):
    (tmp_path / "c.yaml").write_text("batch_size: 64\nmodel:\n  name: tiny\nloss:\n  candidates: batch\n")
    config, _ = parse(["--config", str(tmp_path / "c.yaml"), "--loss.text_weight=1", "--data=D", "--minutes=2"])
    assert (config.batch_size, config.model.name, config.minutes) == (64, "tiny", 2)
    assert config.loss == LossConfig(candidates="batch", text_weight=1.0)
    switched = parse(["--stream", "--lenient", "--compile", "false", "--verify"])[0]
    assert (switched.stream, switched.lenient, switched.compile, switched.verify) == (True, True, False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "--data"), (["--data=absent", "--out=x"], "absent"), (["--dry-run"], "dry run needs")],
)
def test_user_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_dry_run_of_the_large_recipe(capsys):
    assert main(["--config", str(ROOT / "train/configs/globalgeotree.yaml"), "--dry-run", "--model.name=tiny"]) == 0
    text = capsys.readouterr().out
    assert "6,263,345 samples of 21,001 taxa on 8 process(es)" in text
    assert "hours" in text
