"""Season-contrastive pretraining as a whole: what it learns, resume, two processes, and the start of CLIP from it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seasonal_world import season_angle, write_world
from torch.nn import functional

from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.observations import from_packed
from geotreeclip.training.config import ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig
from geotreeclip.training.initialise import initial_statistics, initialise
from geotreeclip.training.loop import Trainer
from geotreeclip.training.seasonal.cli import main
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.seasonal.embed import main as embed_main
from geotreeclip.training.seasonal.loop import SeasonalTrainer, pretrain
from geotreeclip.training.seasonal.output import read_encoder
from geotreeclip.training.seasonal.views import Share, frames

ROOT = Path(__file__).parents[3]
SMALL = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("seasonal") / "world", 64, missing=0.1)


def settings(data, out, **changes):
    config = SeasonalConfig(
        data=str(data),
        out=str(out),
        steps=6,
        batch_size=16,
        queue=40,
        dim=8,
        threads=1,
        trackers=(),
        model=ModelChoice(name="tiny", observation=SMALL, embed_dim=16),
        schedule=ScheduleConfig(checkpoints=2),
    )
    return dataclasses.replace(config, **changes)


def clip_settings(data, out, **changes):
    model = ModelChoice(name="tiny", observation=SMALL, text={"width": 16, "layers": 1}, embed_dim=16)
    return dataclasses.replace(
        RunConfig(data=str(data), out=str(out), steps=1, batch_size=16, threads=1, trackers=(), model=model), **changes
    )


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    pretrain(settings(world, out), quiet=True)
    return out


def ready(config):
    trainer = SeasonalTrainer(config, quiet=True)
    trainer.steps = config.steps
    return trainer, next(trainer.loader.batches())


@pytest.mark.parametrize("objective", ["season2", "seco_eco", "moco"])
def test_gradient_reaches_every_parameter_of_queries_and_none_of_keys(world, tmp_path, objective):
    trainer, packed = ready(settings(world, tmp_path / "run", objective=objective))
    drawn = trainer.draw(packed, Share(0, 0, slice(0, 16), 16))
    keys, series_keys = trainer.contrasts.keys_of(drawn)
    queries, series = trainer.model(drawn.query, drawn.series[0])
    losses = trainer.contrasts.losses(drawn, queries, keys, series, series_keys)
    sum(losses.values()).backward()
    silent = [n for n, p in trainer.plain.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    assert all(parameter.grad is None for parameter in trainer.contrasts.key_model.parameters())
    assert not any(key.requires_grad for key in keys.values())


@pytest.mark.parametrize("objective", ["season2", "seco_eco", "moco"])
@pytest.mark.parametrize("queue", [512, 0])
def test_random_projections_give_the_expected_losses(tmp_path, objective, queue, tmp_path_factory):
    """Counts every negative of every head, also those of the batch."""
    data = write_world(tmp_path / "world", 64)
    trainer, packed = ready(
        settings(data, tmp_path / "run", objective=objective, queue=queue, batch_size=64, dim=64, temperature=0.3)
    )
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        drawn = trainer.draw(packed, Share(0, 0, slice(0, 64), 64))
        keys, series = trainer.contrasts.keys_of(drawn)

        def noise(like):
            return functional.normalize(torch.randn_like(like), dim=-1)

        keys = {name: noise(key) for name, key in keys.items()}
        queries = torch.stack([noise(series)] * len(trainer.contrasts.objective.heads))
        found.append(trainer.contrasts.losses(drawn, queries, keys, noise(series), noise(series)))
    for name, expected in trainer.contrasts.expected_losses().items():
        assert torch.stack([losses[name] for losses in found]).mean().item() == pytest.approx(expected, abs=0.12), name


def test_keys_follow_by_momentum_and_enter_the_queue_after_the_step(world, tmp_path):
    trainer, packed = ready(settings(world, tmp_path / "run", momentum=0.9))
    trainer.train_step(packed)
    start = {name: value.clone() for name, value in trainer.contrasts.key_model.state_dict().items()}
    now = {name: value.clone() for name, value in trainer.plain.named_parameters()}
    random = trainer.contrasts.queue.keys[:, 16:].clone()
    assert trainer.contrasts.queue.patch.count_nonzero() == 16
    trainer.train_step(packed)
    for name, value in trainer.contrasts.key_model.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * now[name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(trainer.contrasts.queue.keys[:, 32:], random[:, 16:])
    assert trainer.contrasts.queue.patch.count_nonzero() == 32


def test_places_without_two_seasons_have_no_part_in_single_steps(tmp_path):
    data = write_world(tmp_path / "world", 16)
    trainer, packed = ready(settings(data, tmp_path / "run", queue=0))
    trainer.seasons.seasonal[packed.index[:4]] = False
    images = packed.images.copy()
    images[8:, 1:] = 65535  # one month left
    drawn = trainer.draw(packed._replace(images=images), Share(0, 0, slice(0, 16), 16))
    assert drawn.framed.tolist() == [True] * 8 + [False] * 8
    assert drawn.seasonal.tolist() == [False] * 4 + [True] * 4 + [False] * 8
    assert not drawn.paired[8:].any()
    keys, series_keys = trainer.contrasts.keys_of(drawn)
    queries, series = trainer.model(drawn.query, drawn.series[0])
    queries.retain_grad()
    trainer.contrasts.losses(drawn, queries, keys, series, series_keys)["season"].backward()
    moved = queries.grad[1].abs().amax(1) > 0
    assert moved.tolist() == [False] * 4 + [True] * 4 + [False] * 8


@pytest.mark.slow
def test_season_lies_in_the_season_head_and_not_in_the_invariant_one(tmp_path):
    """Linear read-out of the season on places that were not trained on."""
    data = write_world(tmp_path / "world", 320)
    config = settings(
        data, tmp_path / "run", steps=220, batch_size=64, queue=512, series_weight=0.0, momentum=0.95,
        model=ModelChoice(name="tiny", observation={**SMALL, "width": 32, "pixel_layout": False}, embed_dim=32),
        optimizer=OptimizerConfig(learning_rate=1e-2), dim=12,
    )  # fmt: skip
    trainer = SeasonalTrainer(config, quiet=True)
    trainer.steps = config.steps
    for _, packed in zip(range(config.steps), trainer.loader.batches(), strict=False):
        trainer.train_step(packed)
    rows = np.arange(320)
    batch = from_packed(trainer.dataset.read(rows))
    latitude = batch.environment[:, 1].numpy()
    network = trainer.plain.eval()
    read = {name: [] for name in network.frame_heads}
    truth = []
    with torch.no_grad():
        for month in range(12):
            shown = frames(batch, np.full(320, month), 0, False, config.disturb, Share(0, 0, slice(0, 320), 320))
            embedding = network.encoder(shown)
            for name, parts in read.items():
                parts.append(network.project(name, embedding).numpy())
            angle = season_angle([month], latitude)[:, 0]
            truth.append(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    known = np.tile(rows < 240, 12)
    season = {name: explained(np.concatenate(parts), np.concatenate(truth), known) for name, parts in read.items()}
    assert season["season"] > 0.5
    assert season["invariant"] < 0.1


def explained(features, target, known):
    """R2 of a ridge regression on samples that it was not fitted to."""
    x = np.c_[(features - features.mean(0)) / features.std(0), np.ones(len(features))]
    weights = np.linalg.solve(x[known].T @ x[known] + np.eye(x.shape[1]), x[known].T @ target[known])
    rest = ((target - x @ weights)[~known] ** 2).sum()
    return 1 - rest / ((target[~known] - target[known].mean(0)) ** 2).sum()


def test_a_run_writes_an_encoder_and_says_what_it_reads(run):
    account = json.loads((run / "encoder" / "pretraining.json").read_text())
    assert account["objective"] == "season2"
    assert account["imagery"]["bands"][3] == "B8"
    assert account["imagery"]["per_reflectance"] == 10000
    assert account["steps"] == 6
    assert [entry["step"] for entry in account["history"]] == [6]
    encoder = read_encoder(run)
    assert encoder.config.observation.inputs == ("image",)
    assert encoder.build()(from_packed(PackedDataset(account["config"]["data"]).read([0, 1]))).shape == (2, 16)


def test_places_are_embedded_for_the_probes(world, run, tmp_path):
    out = tmp_path / "e.npz"
    assert embed_main(["--encoder", str(run), "--data", str(world), "--out", str(out)]) == 0
    with np.load(out, allow_pickle=False) as file:
        assert file["embedding"].shape == (64, 16)
        assert file["sample_id"].tolist() == [f"s{i}" for i in range(64)]
        batch = from_packed(PackedDataset(world).read([5]))
        turn = 182.5 if batch.environment[0, 1] < 0 else 0.0
        batch = batch._replace(first_day=batch.first_day + turn, last_day=batch.last_day + turn)
        expected = read_encoder(run).build()(batch).detach().numpy()[0]
        np.testing.assert_allclose(file["embedding"][5], expected, atol=1e-5)


def test_resume_equals_no_interruption(world, run, tmp_path):
    config = settings(world, tmp_path / "run")
    trainer, _ = ready(config)
    for _, packed in zip(range(3), trainer.loader.batches(), strict=False):
        trainer.train_step(packed)
    trainer._save([])
    pretrain(config, quiet=True)
    assert_same(tmp_path / "run", run, atol=0)
    with pytest.raises(ConfigError, match="another queue"):
        pretrain(dataclasses.replace(config, queue=41), quiet=True)


def assert_same(first, second, atol):
    states = [load_file(Path(out) / "encoder" / "encoder.safetensors") for out in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_a_budget_in_minutes_leaves_no_trace(world, tmp_path):
    trainer = SeasonalTrainer(settings(world, tmp_path / "run", minutes=0.01, steps=0), quiet=True)
    before = [value.clone() for value in trainer._state()["queue"].values()]
    assert trainer._fix_steps() >= 30
    assert trainer.step == 0
    for value, then in zip(trainer._state()["queue"].values(), before, strict=True):
        torch.testing.assert_close(value, then, atol=0, rtol=0, equal_nan=True)
    assert trainer.optimizer.state_dict()["state"] == {}


@pytest.mark.slow
def test_two_processes_equal_one(world, tmp_path):
    """The queue too: keys are gathered in the order of the batch."""
    options = [
        f"--data={world}", "--steps=3", "--batch_size=16", "--queue=24", "--dim=8", "--threads=1", "--trackers=[]",
        "--model.name=tiny", "--model.embed_dim=16", '--model.observation={"width": 16, "depth": 1, "heads": 2}',
        "--objective=seco_eco",
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "train/seasonal.py"]
    done = subprocess.run(
        [*command, *options, f"--out={tmp_path / 'two'}"], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 cpu process(es)" in done.stdout
    assert main([*options, f"--out={tmp_path / 'one'}"]) == 0
    assert_same(tmp_path / "two", tmp_path / "one", atol=2e-4)


# -- the start of CLIP from it ---------------------------------------------------------------------------------------


def test_clip_starts_with_the_very_features_of_pretraining(world, run, tmp_path):
    batch = from_packed(PackedDataset(world).read(np.arange(8)))
    bare = batch._replace(environment_valid=torch.zeros_like(batch.environment_valid))
    encoder = read_encoder(run)
    config = clip_settings(world, tmp_path / "clip", init=str(run), validation=0.3)
    alone = dataclasses.replace(config, model=dataclasses.replace(config.model, inputs=("image",)))
    # Without the place the year is turned in neither.
    first = encoder._replace(config=with_observation(encoder.config, season="calendar")).build()
    features = Trainer(alone, quiet=True).plain.observation_encoder.eval()(bare)
    torch.testing.assert_close(features, first(bare), atol=1e-6, rtol=0)
    trainer = Trainer(config, quiet=True)
    assert trainer.fresh == ["terrain", "soil", "climate", "location"]
    state = trainer.plain.observation_encoder.state_dict()
    for name, value in encoder.state.items():
        torch.testing.assert_close(state[name][:1] if name == "kind" else state[name], value, atol=0, rtol=0)
    np.testing.assert_array_equal(trainer.statistics.band_mean, encoder.statistics.band_mean)


def with_observation(config, **changes):
    return dataclasses.replace(config, observation=dataclasses.replace(config.observation, **changes))


def copied(run, out, **imagery):
    """The encoder of a run, its account changed."""
    folder = out / "encoder"
    folder.mkdir(parents=True)
    for path in (run / "encoder").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    account = json.loads((folder / "pretraining.json").read_text())
    account["imagery"] |= imagery
    (folder / "pretraining.json").write_text(json.dumps(account))
    return folder


BANDS = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]


@pytest.mark.parametrize(
    ("imagery", "changes", "message"),
    [
        ({"bands": BANDS}, {}, "another order: band 4 is B5, here B8"),
        ({"bands": BANDS[:9]}, {}, "reads the bands"),
        ({"per_reflectance": 1}, {}, "scale differs: per_reflectance is 1, here 10000"),
        ({"offset": -1000}, {}, "offset is -1000"),
        ({}, {"embed_dim": 32}, "embed_dim 16, this one 32"),
        ({}, {"observation": {**SMALL, "depth": 2}}, "depth 1, this one 2"),
        ({}, {"observation": {**SMALL, "season": "calendar"}}, "season 'hemisphere', this one 'calendar'"),
        ({}, {"inputs": ("climate",)}, "reads image, which this model does not"),
    ],
)
def test_what_does_not_fit_is_named(world, run, tmp_path, imagery, changes, message):
    init = copied(run, tmp_path / "changed", **imagery)
    config = clip_settings(world, tmp_path / "clip", init=str(init))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    with pytest.raises(ConfigError, match=message):
        Trainer(config, quiet=True)


def test_weights_that_are_absent_or_damaged_are_named(world, run, tmp_path):
    trainer = Trainer(clip_settings(world, tmp_path / "clip"), quiet=True)
    folder = copied(run, tmp_path / "changed")
    state = load_file(folder / "encoder.safetensors")
    save_file({n: v for n, v in state.items() if n != "norm.weight"}, folder / "encoder.safetensors")
    with pytest.raises(ConfigError, match=r"1 absent \['norm.weight'\]"):
        initialise(trainer.plain, str(folder))
    save_file({**state, "norm.weight": state["norm.weight"] * torch.nan}, folder / "encoder.safetensors")
    with pytest.raises(DataError, match=r"norm.weight holds values that are not finite"):
        initialise(trainer.plain, str(folder))
    with pytest.raises(DataError, match="no pretrained encoder"):
        initialise(trainer.plain, str(tmp_path))


def test_data_on_another_scale_is_refused(world, run):
    encoder = read_encoder(run)
    reflectance = np.ones((4, 12, 10, 5, 5), np.uint16)
    small = Statistics.empty().updated(reflectance, np.zeros((4, 27)))
    model = dataclasses.replace(encoder.config, observation=encoder.config.observation)
    with pytest.raises(DataError, match=r"times those that .* digital numbers"):
        initial_statistics(str(run), model, small)


def test_user_mistakes_are_one_line(capsys, tmp_path, monkeypatch, world):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        ([], "--data"),
        (["--data=absent", "--out=x"], "absent"),
        ([f"--data={world}", "--out=x", "--phenology=none.parquet"], "no such table of cycles"),
        ([f"--data={world}", "--out=x", "--batch_size=4096"], "64 training samples make no batch of 4096"),
        ([f"--data={world}", "--out=x", "--batch_size=8", "--model.name=published"], "cannot be pretrained"),
    ):
        assert main([*arguments, "--trackers=[]"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
