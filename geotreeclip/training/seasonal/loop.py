"""The loop of season-contrastive pretraining under Accelerate.

A step is a function of the weights, the queue and its position in the stream of samples, as in `training.loop`.
"""

from __future__ import annotations

import copy
import json
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from geotreeclip.data.packed import PackedBatch, PackedDataset
from geotreeclip.data.statistics import compute_statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.observation_encoder import ObservationEncoder, half_year_south
from geotreeclip.models.seasonal_heads import SeasonalModel
from geotreeclip.observations import ObservationBatch, from_packed
from geotreeclip.schema import MISSING_DN, VARIABLE_INDEX
from geotreeclip.training.checkpoint import newest_checkpoint, read_checkpoint, write_checkpoint
from geotreeclip.training.config import ModelChoice, RunConfig, resolve_model
from geotreeclip.training.interrupt import Interrupt
from geotreeclip.training.optimizer import build_optimizer, learning_rate
from geotreeclip.training.processes import prepare, start_accelerator
from geotreeclip.training.samples import choose_samples
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.seasonal.contrasts import Contrasts, Drawn
from geotreeclip.training.seasonal.objectives import OBJECTIVES, View
from geotreeclip.training.seasonal.output import ENCODER, write_encoder
from geotreeclip.training.seasonal.queue import fingerprints, origins
from geotreeclip.training.seasonal.sampling import WeightedLoader, density_weights, read_weights
from geotreeclip.training.seasonal.seasons import CALENDAR, STEPS, SampleSeasons
from geotreeclip.training.seasonal.views import MIN_HALF, Share, draw_halves, draw_seasons, frames, halves

__all__ = ["SeasonalTrainer", "pretrain"]

_LOG_EVERY = 20
_TIMED_STEPS = 30
_UNTIMED_STEPS = 3
_STATISTICS_SAMPLES = 50_000
_FITTED_SAMPLES = 4_000
_FIRST_HALF = 100  # number of its view; single steps count from 0
_NOT_IDENTITY = ("out", "resume", "trackers", "prefetch", "threads")


def pretrain(config: SeasonalConfig, *, quiet: bool = False) -> Path:
    """Pretrain an encoder as configured and write it to `config.out`/encoder.

    Args:
        config: The run.
        quiet: No progress bar and no messages.

    Returns:
        The folder of the encoder.

    Raises:
        ConfigError: If settings do not go together, or `out` holds another run.
        DataError: If the data is not what it should be, or the loss stops being finite.
        KeyboardInterrupt: When interrupted; a checkpoint is written first.
    """
    return SeasonalTrainer(config, quiet=quiet).run()


class SeasonalTrainer:
    """All parts of a run, and its loop.

    Args:
        config: The run.
        quiet: No progress bar and no messages.
    """

    def __init__(self, config: SeasonalConfig, *, quiet: bool = False) -> None:
        if not config.data or not config.out:
            raise ConfigError("name the packed shards with --data DIR and the folder of the run with --out RUN")
        self.config, self.out = config, Path(config.out)
        self.objective = OBJECTIVES[config.objective]
        self.started = time.monotonic()
        self.accelerator = start_accelerator(config)
        self.quiet = quiet or not self.accelerator.is_main_process
        self.dataset = PackedDataset(config.data)
        self.seasons = SampleSeasons.of(self.dataset, config.phenology)
        chosen = choose_samples(
            self.dataset, RunConfig(split=config.split, fold=config.fold, seed=config.seed, validation=0.0)
        )
        self.rows, self.split = chosen.train, chosen.split
        if len(self.rows) < config.batch_size:
            raise ConfigError(
                f"{config.data}: {len(self.rows)} training samples make no batch of {config.batch_size} distinct ones; "
                "lower --batch_size"
            )
        self.loader = WeightedLoader(
            self.dataset,
            self.rows,
            config.batch_size,
            self._sample_weights(),
            seed=config.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            prefetch=config.prefetch,
        )
        inputs = ModelChoice(**{**vars(config.model), "inputs": ("image",)})
        # Whether the year is turned in the south is a matter of the days, which are turned before the place is hidden.
        self.model_config = resolve_model(inputs, has_images=True)
        if self.model_config.architecture != "tokens":
            raise ConfigError(f"model {self.model_config.name}: its encoder of places cannot be pretrained by seasons")
        if self.model_config.observation.season == "phase" and config.phenology in (CALENDAR, STEPS):
            raise ConfigError("model.observation.season phase needs the greenup of places: give --phenology FILE")
        self.series = config.series_weight > 0 and self.dataset.steps >= 2 * MIN_HALF
        self.statistics = compute_statistics(self.dataset, self._some_rows(_STATISTICS_SAMPLES))
        model = self._model()
        self.contrasts = Contrasts(model, config, self.accelerator, series=self.series)
        optimizer = build_optimizer(model, config.optimizer)
        self.model, self.optimizer = prepare(self.accelerator, model, optimizer)
        self.plain: SeasonalModel = self.accelerator.unwrap_model(self.model)
        self.step = self.steps = 0
        self.history: list[dict[str, float]] = []

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        device: torch.device = self.accelerator.device
        return device

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Pretrain to the end and write the encoder."""
        try:
            self._train()
            directory = self.out / ENCODER
            if self.accelerator.is_main_process:
                write_encoder(directory, self.plain.encoder, self.model_config, self.statistics, self._account())
            self.accelerator.wait_for_everyone()
        finally:
            self.accelerator.end_training()
        minutes = (time.monotonic() - self.started) / 60
        self._say(f"{minutes:.1f} minutes; encoder in {directory}; start from it with train/clip.py --init {self.out}")
        return directory

    def _train(self) -> None:
        resumed = self._resume()
        if not resumed:
            self.steps = self._fix_steps()
        self._announce(resumed)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            text = json.dumps({**self.config.to_dict(), "steps_fixed": self.steps}, indent=1)
            (self.out / "config.json").write_text(text + "\n")
        self.accelerator.init_trackers("log")
        size = self.config.batch_size
        bar = tqdm(
            total=self.steps * size, initial=self.step * size, unit=" samples", unit_scale=True, desc="pretraining",
            disable=self.quiet, mininterval=1.0,
        )  # fmt: skip
        count = self.config.schedule.checkpoints
        save_at = {round(self.steps * part / count) for part in range(1, count)} if count else set()
        running: list[dict[str, Tensor]] = []
        batches = self.loader.batches(start=self.step * size)
        with Interrupt() as interrupt, bar, closing(batches):  # type: ignore[type-var]
            while self.step < self.steps:
                running.append(self.train_step(next(batches)))
                bar.update(size)
                if self.step % _LOG_EVERY == 0 or self.step == self.steps:
                    self._log(running, bar)
                    running = []
                stop = interrupt.requested(self.accelerator, self.step)
                if self.step in save_at or stop:
                    self._save(running)
                if stop:
                    self._say(f"stopped at step {self.step} of {self.steps}; the same command goes on from there")
                    raise KeyboardInterrupt

    def train_step(self, packed: PackedBatch) -> dict[str, Tensor]:
        """One optimizer step on this process's share of a global batch; returns the losses by head, detached."""
        config, position = self.config, self.step * self.config.batch_size
        rank, share = self.accelerator.process_index, config.batch_size // self.accelerator.num_processes
        torch.manual_seed(int(np.random.SeedSequence([config.seed, position, rank]).generate_state(1)[0]))
        drawn = self.draw(
            packed, Share(config.seed, position, slice(rank * share, (rank + 1) * share), config.batch_size)
        )
        self.contrasts.follow(self.plain, config.momentum_of(self.steps))
        with torch.no_grad(), self.accelerator.autocast():
            keys, series_keys = self.contrasts.keys_of(drawn)
        with self.accelerator.autocast():
            queries, series_queries = self.model(drawn.query, drawn.series[0] if drawn.series else None)
        losses = self.contrasts.losses(drawn, queries, keys, series_queries, series_keys)
        total = sum(losses.values(), torch.zeros((), device=self.device))
        rate = learning_rate(self.step, self.steps, config.optimizer.learning_rate, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.contrasts.enqueue(drawn, keys)  # after the backward pass, which needs the queue as it was
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    # -- views -------------------------------------------------------------------------------------------------

    def draw(self, packed: PackedBatch, share: Share) -> Drawn:
        """Draw the views of this process's samples."""
        weights = self.seasons.weights(packed.index, packed.days, self.dataset.steps)
        seen = (packed.images != MISSING_DN).any(axis=(2, 3, 4))
        seasons = draw_seasons(weights, seen, self.objective.slots, share)
        batch = from_packed(packed, self.device)
        turn = self._turn(batch, packed.index)
        batch = batch._replace(first_day=batch.first_day + turn, last_day=batch.last_day + turn)
        disturb = self.config.disturb

        def view(number: int, which: View) -> ObservationBatch:
            return frames(batch, seasons.step[:, which.slot], number, which.disturbed, disturb, share)

        series, paired = None, np.zeros(batch.size, bool)
        if self.series:
            parts = draw_halves(weights, seen, share)
            first = halves(batch, parts.first, _FIRST_HALF, disturb, share)
            second = halves(batch, parts.second, _FIRST_HALF + 1, disturb, share)
            series, paired = (first, second), parts.usable
        place = packed.environment[:, [VARIABLE_INDEX["longitude"], VARIABLE_INDEX["latitude"]]]
        framed = seasons.seasons >= 2
        framed_and_seasonal = framed & self.seasons.seasonal[packed.index]
        return Drawn(
            view(0, self.objective.query),
            {key.name: view(number, key) for number, key in enumerate(self.objective.keys, start=1)},
            series,
            origins(place[:, 0], place[:, 1], fingerprints(packed.images), self.device),
            *(torch.from_numpy(mask).to(self.device) for mask in (framed, framed_and_seasonal, paired)),
        )

    def _turn(self, batch: ObservationBatch, rows: np.ndarray) -> Tensor:
        """Days to add to those of the calendar, [b, 1], before the place is hidden."""
        season = self.model_config.observation.season
        if season == "hemisphere":
            return half_year_south(batch)
        greenup = np.zeros(len(rows), np.float32)
        if season == "phase" and self.seasons.dates is not None:
            greenup = np.nan_to_num(self.seasons.dates[rows, 0])  # places without a cycle have no part in what is asked
        return torch.from_numpy(-greenup).to(self.device).unsqueeze(1)

    # -- parts -------------------------------------------------------------------------------------------------

    def _model(self) -> SeasonalModel:
        config, statistics = self.model_config, self.statistics
        torch.manual_seed(self.config.seed)
        encoder = ObservationEncoder(
            config.observation,
            config.embed_dim,
            *(
                torch.as_tensor(values, dtype=torch.float32)
                for values in (
                    statistics.band_mean,
                    statistics.band_deviation,
                    statistics.variable_mean,
                    statistics.variable_deviation,
                )
            ),
        )
        encoder.fit(from_packed(self.dataset.read(self._some_rows(_FITTED_SAMPLES))))
        heads = [head.name for head in self.objective.heads]
        return SeasonalModel(encoder, config.embed_dim, heads, self.config.dim, series=self.series)

    def _sample_weights(self) -> np.ndarray:
        """How often to draw each of the training samples."""
        table = self.dataset.samples().iloc[self.rows]
        if self.config.weights:
            return read_weights(Path(self.config.weights), table["sample_id"])
        lon, lat = (table[name].to_numpy(dtype=float, na_value=np.nan) for name in ("longitude", "latitude"))
        return density_weights(lon, lat, self.config.density)

    def _some_rows(self, most: int) -> Any:
        """At most so many training rows, drawn by seed."""
        rows = self.rows
        if len(rows) > most:
            rows = np.sort(np.random.default_rng([self.config.seed, 0x57]).choice(rows, most, False))
        return rows

    def _fix_steps(self) -> int:
        """The number of steps; with a budget in minutes, from timed steps whose effect is undone."""
        config = self.config
        if config.minutes <= 0:
            return config.steps or math.ceil(config.epochs * len(self.loader) / config.batch_size)
        before = copy.deepcopy(self._state())
        self.steps = _TIMED_STEPS
        with closing(self.loader.batches()) as batches:  # type: ignore[type-var]
            for _ in range(_UNTIMED_STEPS):
                self.train_step(next(batches))
            start = time.monotonic()
            for _ in range(_TIMED_STEPS - _UNTIMED_STEPS):
                self.train_step(next(batches))
            seconds = (time.monotonic() - start) / (_TIMED_STEPS - _UNTIMED_STEPS)
        self._restore(before)
        left = config.minutes * 60 - (time.monotonic() - self.started)
        return int(broadcast_object_list([max(_TIMED_STEPS, int(left / seconds))])[0])

    # -- logging and checkpoints -------------------------------------------------------------------------------

    def _log(self, running: list[dict[str, Tensor]], bar: Any) -> None:
        """Mean losses since the last time, of all processes."""
        names = list(running[0])
        mean = torch.stack([torch.stack([losses[name] for losses in running]).mean() for name in names])
        values = dict(zip(names, self.accelerator.reduce(mean, reduction="mean").tolist(), strict=True))
        total = sum(values.values())
        if not math.isfinite(total):
            raise DataError(
                f"the loss is {total} within the {len(running)} steps before step {self.step}; the newest checkpoint "
                f"in {self.out / 'checkpoints'} is from before; lower --optimizer.learning_rate, or inspect the data"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self.history.append({"step": float(self.step), "loss": total, **values})
        bar.set_postfix({name: f"{value:.2f}" for name, value in values.items()}, refresh=False)
        logged = {f"training/{name}": value for name, value in values.items()}
        self.accelerator.log({"training/loss": total, "training/learning_rate": rate, **logged}, step=self.step)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "steps": self.steps,
            "model": self.plain.state_dict(),
            "keys": self.contrasts.key_model.state_dict(),
            "queue": self.contrasts.queue.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.plain.load_state_dict(state["model"])
        self.contrasts.key_model.load_state_dict(state["keys"])
        self.contrasts.queue.load_state_dict(state["queue"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.steps, self.history = state["step"], state["steps"], state["history"]

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to go on from it."""
        config = self.config.to_dict()
        for key in _NOT_IDENTITY:
            config.pop(key)
        config |= {"data": self.dataset.fingerprint(), "phenology": self.seasons.digest}
        plain: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
        return plain

    def _save(self, running: list[dict[str, Tensor]]) -> None:
        if self.accelerator.is_main_process:
            state = {**self._state(), "identity": json.dumps(self._identity())}
            write_checkpoint(self.out / "checkpoints", self.step, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> bool:
        """Go on from the newest checkpoint of the folder, if there is one and it is of this very run."""
        path = newest_checkpoint(self.out / "checkpoints") if self.config.resume == "auto" else None
        if path is None:
            return False
        state = read_checkpoint(path)
        then, now = json.loads(state["identity"]), self._identity()
        changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
        if changed:
            raise ConfigError(
                f"{path}: was written by a run with another {', '.join(changed)}; go on with the same settings, or "
                "start anew with --resume never or another --out"
            )
        self._restore(state)
        return True

    def _account(self) -> dict[str, Any]:
        """What the encoder was made from."""
        return {
            "objective": self.config.objective,
            "config": self.config.to_dict(),
            "phenology": {"source": self.seasons.source, "digest": self.seasons.digest},
            "seed": self.config.seed,
            "steps": self.step,
            "split": self.split,
            "fold": self.config.fold,
            "data_fingerprint": self.dataset.fingerprint(),
            "training_samples": len(self.rows),
            "expected_initial_loss": self.contrasts.expected_losses(),
            "history": self.history,
        }

    def _announce(self, resumed: bool) -> None:
        config, size = self.config, self.config.batch_size
        parameters = sum(parameter.numel() for parameter in self.plain.encoder.parameters())
        seasonal = float(self.seasons.seasonal[self.rows].mean())
        expected = ", ".join(f"{name} {value:.2f}" for name, value in self.contrasts.expected_losses().items())
        series = "with halves of the year" if self.series else "single steps alone"
        if config.series_weight > 0 and not self.series:
            series += f" ({self.dataset.steps} steps make no two halves of {MIN_HALF})"
        self._say(
            f"{'going on with' if resumed else 'pretraining'} {self.model_config.name} by {config.objective}, "
            f"{series}; {parameters / 1e6:.2f} M parameters\n"
            f"data: {len(self.rows):,} samples, split {self.split or 'none'}; seasons from {self.seasons.source}, "
            f"{seasonal:.1%} of the samples have them\n"
            f"steps: {self.step:,} to {self.steps:,} of {size} samples ({self.steps * size / len(self.loader):.1f} "
            f"epochs) on {self.accelerator.num_processes} {self.device.type} process(es), momentum "
            f"{config.momentum_of(self.steps):g}, queue {config.queue:,}\n"
            f"loss of random directions: {expected}"
        )

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)
