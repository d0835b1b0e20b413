"""Runs training in real processes that can be killed: `python forked.py TASK DATA OUT`.

The libraries are imported once; every process is forked from there, so that a test of many processes takes seconds.
"""

import copy
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

import geotreeclip.training.checkpoint as checkpoint
import geotreeclip.training.loop as loop
from geotreeclip.errors import run_main
from geotreeclip.losses import contrastive_loss
from geotreeclip.observations import from_packed
from geotreeclip.training.config import LossConfig, ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig


def settings(data, out, **changes):
    model = {"observation": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.1}, "text": {"width": 16, "layers": 1}}
    values = {
        "data": data, "out": out, "steps": 12, "batch_size": 16, "threads": 1, "trackers": (), "validation": 0.2,
        "model": ModelChoice(name="tiny", embed_dim=16, **model),
        "schedule": ScheduleConfig(validations=2, checkpoints=12),
    }  # fmt: skip
    return RunConfig(**{**values, **changes})


def child(work, *arguments):
    """Forks; the child does the work and leaves with its exit code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = int(work(*arguments) or 0)
        except BaseException:  # noqa: BLE001 - the child must not go on with the work of the parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ranks(world, work, *arguments):
    """Runs the work in `world` processes of one group; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def member(rank):
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
        )  # fmt: skip
        return work(*arguments)

    return [wait(pid) for pid in [child(member, rank) for rank in range(world)]]


# -- tasks -----------------------------------------------------------------------------------------------------------


def train(config):
    return run_main(lambda: loop.train(config, quiet=True) and None)


def gradients(data, out):
    """Loss and gradients of several processes, against one process that computes the plain loss of the joined batch."""
    print(json.dumps({str(world): ranks(world, _compare, data, out) for world in (1, 2, 4)}))


def _compare(data, out):
    choice = {"observation": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.0}, "text": {"width": 16, "layers": 1}}
    for candidates, share_text, micro_batch in (
        ("batch", True, 0), ("batch", False, 0), ("all", True, 3), ("batch", False, 3), ("cached", True, 0),
        ("cached", True, 3),
    ):  # fmt: skip
        config = settings(
            data, out, micro_batch=micro_batch, model=ModelChoice(name="tiny", embed_dim=16, **choice),
            loss=LossConfig(candidates=candidates, share_text=share_text, coarse_share=1.0, label_smoothing=0.1),
        )  # fmt: skip
        trainer = loop.Trainer(config, quiet=True)
        single = copy.deepcopy(trainer.plain)
        rows = trainer.loader.global_rows(0)
        own = from_packed(trainer.dataset.read(trainer.loader.rows(0)))
        taxon = trainer.dataset.taxa[rows]
        share = trainer.objective.backward(own, taxon, 0)
        whole = float(trainer.accelerator.reduce(share, reduction="sum"))

        places = single.encode_observations(from_packed(trainer.dataset.read(rows)))
        expected = torch.zeros(())
        for weight, candidate in trainer.objective._terms(taxon, 0):
            texts = single.encode_text(candidate.tokens)
            if candidate.columns is not None:
                absent = single.encode_text(trainer.labels.known_tokens).detach()
                texts = absent.index_copy(0, candidate.columns, texts)
            both = contrastive_loss(places, texts, candidate.targets, single.logit_scale, candidate.log_q, 0.1)
            expected = expected + weight * (both.place_to_text + config.loss.text_weight * both.text_to_place)
        expected = expected / (1 + config.loss.text_weight)
        expected.backward()
        assert abs(whole - float(expected)) < 1e-5 * abs(float(expected)), (candidates, whole, float(expected))
        for (name, parameter), other in zip(single.named_parameters(), trainer.plain.parameters(), strict=True):
            error = (parameter.grad - other.grad).norm() / (parameter.grad.norm() + 1e-6)
            assert error < 2e-4, (trainer.accelerator.num_processes, candidates, share_text, micro_batch, name, error)
        trainer.accelerator.wait_for_everyone()


def nonfinite(data, out):
    """Two processes whose weights are sent beyond what numbers hold."""
    config = settings(data, out, steps=40, optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=1e30))
    print(json.dumps(ranks(2, train, config)))


def killed(data, out):
    """A run that is killed again and again, and the same run left alone."""
    out = Path(out)
    whole, broken = settings(data, str(out / "whole")), settings(data, str(out / "broken"))
    codes = [wait(child(train, whole))]
    generator = np.random.default_rng(int(os.environ.get("KILL_SEED", "0")))
    checkpoints = out / "broken" / "checkpoints"
    for _ in range(2):
        reached = generator.integers(1, 9)
        pid = child(train, broken)
        while not any(path.name >= f"step-{reached:09d}" for path in checkpoints.glob("step-*")):
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        codes.append(wait(pid))
    codes.append(wait(child(_die_while_writing, broken)))
    left = [path.name for path in checkpoints.glob(".partial-*")]
    codes.append(wait(child(train, broken)))
    print(json.dumps({"codes": codes, "left": left}))


def _die_while_writing(config):
    save = torch.save

    def half(state, file):
        save(state, file)
        file.flush()
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = half
    return train(config)


STEADY = ModelChoice(
    name="tiny", embed_dim=16, observation={"width": 16, "depth": 1, "heads": 2, "dropout": 0.0},
    text={"width": 16, "layers": 1},
)  # fmt: skip


def terminated(data, out):
    """Two processes that get SIGTERM on their way, as from a machine that is taken back, and how the run ends.

    It goes on with two processes, and once more with one; beside it the run that was never stopped.
    """
    out = Path(out)

    def run(name, **changes):
        return settings(
            data, str(out / name), steps=20, micro_batch=4, model=STEADY,
            schedule=ScheduleConfig(validations=2, checkpoints=20), **changes,
        )  # fmt: skip

    config, told = run("run"), out / "told"
    out.mkdir(parents=True, exist_ok=True)

    def work():
        if os.environ["RANK"] == "1":  # one is enough: both stop
            stop_at(7, told)
        return train(config)

    codes = ranks(2, work)
    seconds = time.monotonic() - float(told.read_text())
    checkpoints = sorted(path.name for path in (out / "run" / "checkpoints").iterdir())
    shutil.copytree(out / "run", out / "elastic")
    refused = wait(child(train, run("elastic")))
    ended = [
        ranks(2, train, config),
        ranks(2, train, run("whole")),
        wait(child(train, run("elastic", resume="elastic"))),
    ]
    print(json.dumps({
        "codes": codes, "seconds": seconds, "checkpoints": checkpoints, "refused": refused, "ended": ended
    }))  # fmt: skip


def rank_killed(data, out):
    """Two processes of which one is killed: the other must end too; the same command then goes on."""
    out = Path(out)
    schedule = ScheduleConfig(validations=2, checkpoints=12)
    whole, broken = (settings(data, str(out / name), micro_batch=4, schedule=schedule) for name in ("whole", "broken"))

    def work():
        if os.environ["RANK"] == "1":
            stop_at(6, None, signal.SIGKILL)
        return train(broken)

    codes = [ranks(2, train, whole), ranks(2, work)]
    found = sorted(path.name for path in (out / "broken" / "checkpoints").glob("step-*"))
    codes.append(ranks(2, train, broken))
    print(json.dumps({"codes": codes, "found": found}))


def stop_at(step, told, sent=signal.SIGTERM):
    one = loop.Trainer.train_step

    def train_step(self, packed):
        if self.step == step:
            if told:
                told.write_text(str(time.monotonic()))
            os.kill(os.getpid(), sent)
        return one(self, packed)

    loop.Trainer.train_step = train_step


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, *arguments = sys.argv[1:]
    tasks = [gradients, nonfinite, killed, terminated, rank_killed]
    {one.__name__: one for one in tasks}[task](*arguments)
