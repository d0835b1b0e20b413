"""The training loop under Accelerate: one process or many, the same run.

A step is a function of the weights and of its position in the stream of samples: order, augmentation, dropout and the
draw of coarse ranks all follow from (seed, position), so a run that goes on from a checkpoint is the run that was never
stopped.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from geotreeclip.data.loader import Loader
from geotreeclip.data.packed import PackedBatch, PackedDataset
from geotreeclip.data.statistics import compute_statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.losses import contrastive_loss, gather_with_gradient
from geotreeclip.models.clip import GeoTreeCLIP, create_model
from geotreeclip.observations import from_packed
from geotreeclip.schema import Rank
from geotreeclip.training.augment import augment
from geotreeclip.training.checkpoint import newest_checkpoint, read_checkpoint, write_checkpoint
from geotreeclip.training.config import RunConfig, resolve_model
from geotreeclip.training.finish import write_final_model
from geotreeclip.training.interrupt import Interrupt
from geotreeclip.training.labels import TrainingLabels
from geotreeclip.training.optimizer import WeightAverage, build_optimizer, learning_rate
from geotreeclip.training.samples import choose_samples
from geotreeclip.training.validation import ValidationScore, validate

__all__ = ["Trainer", "train"]

_TIMED_STEPS = 50
_UNTIMED_STEPS = 3  # the first steps allocate memory and fill caches
_STATISTICS_SAMPLES = 50_000
"""Enough for means and deviations to three digits."""
_FITTED_SAMPLES = 4_000
"""Tens of thousands of time steps, and places enough for the covariance of 19 climate variables."""


def train(config: RunConfig, *, quiet: bool = False) -> Path:
    """Train a model as configured and write it to `config.out`/model.

    Args:
        config: The run.
        quiet: No progress bar and no messages (for use inside other jobs).

    Returns:
        The model directory.

    Raises:
        ConfigError: If settings do not go together, or `out` holds another run.
        DataError: If the data is not what it should be, or the loss stops being finite.
        KeyboardInterrupt: When interrupted; a checkpoint is written first.
    """
    return Trainer(config, quiet=quiet).run()


class Trainer:
    """All parts of a run, and its loop.

    Args:
        config: The run.
        quiet: No progress bar and no messages.
    """

    def __init__(self, config: RunConfig, *, quiet: bool = False) -> None:
        if not config.data or not config.out:
            raise ConfigError("name the packed shards with --data DIR and the folder of the run with --out RUN")
        self.config = config
        self.out = Path(config.out)
        self.started = time.monotonic()
        self.accelerator = _accelerator(config)
        if self.device.type == "cpu":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(config.threads or max(1, cores // self.accelerator.num_processes))
            torch.set_flush_denormal(True)  # vanishing moments of AdamW would be computed in slow motion
        self.quiet = quiet or not self.accelerator.is_main_process
        self.dataset = PackedDataset(config.data)
        self.samples = choose_samples(self.dataset, config)
        self.loader = Loader(
            self.dataset,
            self.samples.train,
            config.batch_size,
            seed=config.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            prefetch=config.prefetch,
        )
        self.counts = np.bincount(self.dataset.taxa[self.samples.train], minlength=len(self.dataset.taxonomy)).astype(
            np.int64
        )
        self.model_config = resolve_model(config.model, has_images=self.dataset.has_images)
        self.statistics = compute_statistics(self.dataset, self._some_rows(_STATISTICS_SAMPLES))
        torch.manual_seed(config.seed)
        model = create_model(self.model_config, self.statistics)
        model.observation_encoder.fit(from_packed(self.dataset.read(self._some_rows(_FITTED_SAMPLES))))
        self.labels = TrainingLabels(
            self.dataset.taxonomy, self.counts, model, config.loss, config.batch_size, config.seed
        )
        optimizer = build_optimizer(model, config.optimizer)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.plain: GeoTreeCLIP = self.accelerator.unwrap_model(self.model)
        self.average = WeightAverage(self.plain, config.optimizer.average)
        self.variable_deviation = torch.as_tensor(self.statistics.variable_deviation, device=self.device)
        self.step = 0
        self.steps = 0
        self.best: dict[str, Any] = {"score": -math.inf, "step": -1, "validation": {}, "weights": {}}
        self.history: list[dict[str, float]] = []

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        device: torch.device = self.accelerator.device
        return device

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end and write the model directory."""
        try:
            self._train()
            directory = self.out / "model"
            if self.accelerator.is_main_process:
                self._restore_best()
                write_final_model(directory, self)
            self.accelerator.wait_for_everyone()
        finally:
            self.accelerator.end_training()  # closes logs and the process group, also when interrupted
        self._say(self._farewell(directory))
        return directory

    def _train(self) -> None:
        resumed = self._resume()
        if not resumed:
            self.steps = self._fix_steps()
        self._announce(resumed)
        self._start_trackers()
        batches = self.loader.batches(start=self.step * self.config.batch_size)
        bar = tqdm(
            total=self.steps * self.config.batch_size,
            initial=self.step * self.config.batch_size,
            unit=" samples",
            unit_scale=True,
            desc="training",
            disable=self.quiet,
            mininterval=1.0,
        )
        validate_at = _milestones(self.steps, self.config.schedule.validations) | {self.steps}
        save_at = _milestones(self.steps, self.config.schedule.checkpoints) - {self.steps}
        running: list[Tensor] = []
        with Interrupt() as interrupt, bar:
            try:
                while self.step < self.steps:
                    running.append(self.train_step(next(batches)))
                    bar.update(self.config.batch_size)
                    if self.step % 20 == 0 or self.step in validate_at:
                        self._log(running, bar)
                        running = []
                    if self.step in validate_at:
                        self._validate(bar)
                    stop = interrupt.requested(self.accelerator, self.step)
                    if self.step in save_at or stop:
                        self._save()
                    if stop:
                        self._say(f"stopped at step {self.step} of {self.steps}; the same command goes on from there")
                        raise KeyboardInterrupt
            finally:
                batches.close()  # type: ignore[attr-defined]

    def train_step(self, packed: PackedBatch) -> Tensor:
        """One optimizer step on this process's share of a global batch; returns the loss, detached."""
        config, position = self.config, self.step * self.config.batch_size
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = config.batch_size // world
        # Dropout draws from torch's own generator: it too must follow from the position alone.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, position, rank]).generate_state(1)[0]))
        batch = augment(
            from_packed(packed, self.device),
            config.augment,
            self.variable_deviation,
            config.seed,
            position,
            slice(rank * share, (rank + 1) * share),
            config.batch_size,
        )
        taxon = gather_with_gradient(torch.from_numpy(packed.taxon).to(self.device)).cpu().numpy()
        loss = self._loss(batch, taxon, position)
        rate = learning_rate(self.step, self.steps, config.optimizer.learning_rate, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        self.step += 1
        return loss.detach()

    def _loss(self, batch: Any, taxon: Any, position: int) -> Tensor:
        """The loss of the global batch, the same on every process."""
        config = self.config.loss
        chosen = [(Rank.SPECIES.value, 1.0)]
        coarse = self.labels.coarse_rank(position)
        if coarse is not None:
            chosen.append((coarse, config.coarse_weight))
        candidates = [self.labels.candidates(taxon, rank).to(self.device) for rank, _ in chosen]
        with self.accelerator.autocast():
            own, texts, scale = self.model(batch, torch.cat([candidate.tokens for candidate in candidates]))
        places = gather_with_gradient(own.float())
        total = torch.zeros((), device=self.device)
        for (_, weight), candidate, text in zip(
            chosen, candidates, texts.float().split([len(c.tokens) for c in candidates]), strict=True
        ):
            terms = contrastive_loss(
                places, text, candidate.targets, scale.float(), candidate.log_q, config.label_smoothing
            )
            total = total + weight * (terms.place_to_text + config.text_weight * terms.text_to_place)
        return total / (1 + config.text_weight)

    # -- length, start and end ---------------------------------------------------------------------------------

    def _fix_steps(self) -> int:
        """The number of steps of the run; with a budget in minutes, from timed steps whose effect is undone."""
        config = self.config
        if config.minutes <= 0:
            return config.steps or math.ceil(config.epochs * len(self.loader) / config.batch_size)
        weights = copy.deepcopy(self.plain.state_dict())
        optimizer = copy.deepcopy(self.optimizer.state_dict())
        self.steps = _TIMED_STEPS
        batches = self.loader.batches()
        for _ in range(_UNTIMED_STEPS):
            self.train_step(next(batches))
        start = time.monotonic()
        for _ in range(_TIMED_STEPS - _UNTIMED_STEPS):
            float(self.train_step(next(batches)))
        seconds = (time.monotonic() - start) / (_TIMED_STEPS - _UNTIMED_STEPS)
        batches.close()  # type: ignore[attr-defined]
        start = time.monotonic()
        if len(self.samples.validation):
            self._score()
        validation = (time.monotonic() - start) * (config.schedule.validations + 1)
        self.plain.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.average = WeightAverage(self.plain, config.optimizer.average)
        self.step = 0
        left = config.minutes * 60 - (time.monotonic() - self.started) - validation
        steps = [max(_TIMED_STEPS, int(left / seconds))]
        return int(broadcast_object_list(steps)[0])

    def _some_rows(self, most: int) -> Any:
        """At most so many training rows, drawn by seed."""
        rows = self.samples.train
        if len(rows) > most:
            rows = np.sort(np.random.default_rng([self.config.seed, 0x57]).choice(rows, most, False))
        return rows

    def _validate(self, bar: Any) -> None:
        """Score the averaged weights and keep them if they are the best so far."""
        if not len(self.samples.validation):
            return
        score = self._score()
        value = -score.log_loss if self.config.select == "log_loss" else score.top1
        entry = {"step": float(self.step), **{f"validation/{k}": float(v) for k, v in score._asdict().items()}}
        self.history.append(entry)
        self.accelerator.log({k: v for k, v in entry.items() if k != "step"}, step=self.step)
        if value > self.best["score"]:
            with self.average.applied():
                weights = {name: tensor.detach().clone() for name, tensor in self.plain.state_dict().items()}
            self.best = {"score": value, "step": self.step, "validation": score._asdict(), "weights": weights}
        if not self.quiet:
            bar.write(
                f"step {self.step}: validation top-1 {score.top1:.1%}, log loss {score.log_loss:.3f}, uniform prior "
                f"macro top-1 {score.uniform_top1:.1%}{'  (best)' if self.best['step'] == self.step else ''}"
            )

    def _score(self) -> ValidationScore:
        with self.average.applied():
            return validate(
                self.plain, self.dataset, self.samples.validation, self.labels.ranks[Rank.SPECIES], self.device
            )

    def _restore_best(self) -> None:
        if self.best["weights"]:
            self.plain.load_state_dict(self.best["weights"])
        else:  # nothing to choose by: the average of the last steps
            self.average.keep()

    # -- logging and checkpoints -------------------------------------------------------------------------------

    def _log(self, losses: list[Tensor], bar: Any) -> None:
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise DataError(
                f"the loss is {mean} within the {len(losses)} steps before step {self.step}; the newest checkpoint in "
                f"{self.out / 'checkpoints'} is from before; lower --optimizer.learning_rate, or inspect the data"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{mean:.3f}", lr=f"{rate:.1e}", refresh=False)
        values = {
            "training/loss": mean,
            "training/learning_rate": rate,
            "training/scale": float(self.plain.logit_scale.detach()),
        }
        self.accelerator.log(values, step=self.step)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to go on from it."""
        config = self.config.to_dict()
        for key in ("out", "resume", "trackers", "prefetch", "threads"):
            config.pop(key)
        config["data"] = self.dataset.fingerprint()
        return config

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "steps": self.steps,
                "identity": json.dumps(self._identity(), sort_keys=True),
                "model": self.plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state(),
                "best": self.best,
                "history": self.history,
            }
            write_checkpoint(self.out / "checkpoints", self.step, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> bool:
        """Go on from the newest checkpoint of the folder, if there is one and it is of this very run."""
        if self.config.resume == "never":
            return False
        path = newest_checkpoint(self.out / "checkpoints")
        if path is None:
            return False
        state = read_checkpoint(path)
        then, now = json.loads(state["identity"]), json.loads(json.dumps(self._identity(), sort_keys=True))
        changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
        if changed:
            raise ConfigError(
                f"{path}: was written by a run with another {', '.join(changed)}; go on with the same settings, or "
                "start anew with --resume never or another --out"
            )
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load(state["average"])
        self.step, self.steps = state["step"], state["steps"]
        self.best, self.history = state["best"], state["history"]
        return True

    def _start_trackers(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            text = json.dumps({**self.config.to_dict(), "steps_fixed": self.steps}, indent=1)
            (self.out / "config.json").write_text(text + "\n")
        self.accelerator.init_trackers("log")

    def _announce(self, resumed: bool) -> None:
        parameters = sum(parameter.numel() for parameter in self.plain.parameters())
        observation = sum(parameter.numel() for parameter in self.plain.observation_encoder.parameters())
        known = int((self.counts > 0).sum())
        inputs = ", ".join(self.model_config.observation.inputs)
        self._say(
            f"{'going on with' if resumed else 'training'} {self.model_config.name}: {parameters / 1e6:.1f} M "
            f"parameters ({observation / 1e6:.2f} M read places), inputs {inputs}\n"
            f"data: {len(self.samples.train):,} training and {len(self.samples.validation):,} validation samples of "
            f"{known:,} taxa, split {self.samples.split or 'none'}; candidates: "
            f"{'all taxa' if self.labels.use_all else 'taxa of the batch'}\n"
            f"steps: {self.step:,} to {self.steps:,} of {self.config.batch_size} samples "
            f"({self.steps * self.config.batch_size / len(self.loader):.1f} epochs) on "
            f"{self.accelerator.num_processes} {self.device.type} process(es)"
            f"{f' of {torch.get_num_threads()} threads' if self.device.type == 'cpu' else ''}, precision "
            f"{self.accelerator.mixed_precision}"
        )

    def _farewell(self, directory: Path) -> str:
        score = self.best["validation"]
        best = f"best validation at step {self.best['step']}: top-1 {score['top1']:.1%}; " if score else ""
        return f"{best}{(time.monotonic() - self.started) / 60:.1f} minutes; model in {directory}"

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


def _accelerator(config: RunConfig) -> Accelerator:
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    trackers = list(config.trackers)
    if "tensorboard" in trackers:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            trackers.remove("tensorboard")
            print("tensorboard is not installed: no log (pip install 'geotreeclip[train]')", flush=True)
    return Accelerator(mixed_precision=precision, log_with=trackers or None, project_dir=config.out)


def _milestones(steps: int, count: int) -> set[int]:
    """`count` steps evenly spread over a run, the last one its end."""
    return {round(steps * part / count) for part in range(1, count + 1)} if count else set()
