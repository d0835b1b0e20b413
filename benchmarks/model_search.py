"""Model search at small scale: one change at a time to the recipes of `train/configs`, equal processor time, paired.

    python benchmarks/model_search.py --out DIR [--environment PACKED] [--cpu-minutes 0.7] [--seeds 0 1 2]
        [--sets image-led location-led environment] [--only WORD ...] [--table]

Sets: both presets of the demo world, another world for each seed, and a real packed set without imagery (as
`data_prep/environment.py` writes it), another fold of spatial blocks for each seed. Scores are of validation samples,
of the averaged weights at the end; test samples are never read.

Every fit of a set gets the same processor time: first a step of the variant and a step of the recipe are timed in turns
in one process, on one thread, then the number of steps follows from their ratio, so that a busy machine does not favour
what was timed in a quiet moment. Steps and finished fits are lines of DIR/timing.jsonl and DIR/fits.jsonl; a second run
goes on after them, the first seed of everything before the second. DIR/table.md has the paired differences to the
recipe, with 95 % intervals of the mean over the seeds (Student's t); a variant whose interval holds 0 is not told from
the recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.make import make_world
from geotreeclip.errors import ConfigError, run_main
from geotreeclip.evaluation.splits import spatial_folds, write_split
from geotreeclip.losses import ContrastiveTerms, contrastive_loss
from geotreeclip.models import observation_encoder
from geotreeclip.models.observation_encoder import StepTokens
from geotreeclip.observations import ObservationBatch, from_packed
from geotreeclip.schema import BANDS, PATCH, Rank
from geotreeclip.training import objective
from geotreeclip.training.cli import parse
from geotreeclip.training.config import RunConfig
from geotreeclip.training.loop import Trainer

CONFIGS = Path(__file__).resolve().parent.parent / "train" / "configs"
RECIPES = {"image-led": "laptop.yaml", "location-led": "laptop.yaml", "environment": "environment.yaml"}
TRAINING, VALIDATION = 6000, 2000  # samples of a world: a short fit still sees each several times
SHARES = {"image-led": 1.0, "location-led": 1.0, "environment": 0.6}  # of --cpu-minutes: no imagery, cheap steps
TIMED_STEPS = 5
T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}  # two-sided 95 % quantiles of Student's t by degrees of freedom


# -- what the package does not have: variants that are here only to be measured ----------------------------------------


class LinearPatch(StepTokens):
    """A token is one linear map of the standardised pixels of a step, and of its days."""

    def __init__(self, config: Any, embed_dim: int, bands: Any) -> None:
        super().__init__(config, embed_dim, bands)
        days = 2 * config.day_harmonics + 1
        self.patch = nn.Linear(len(BANDS) * PATCH * PATCH, config.width)
        self.days = nn.Linear(days, config.width)
        self.moments, self.pixels = nn.Sequential(), None
        self.seasonal = self.direct = nn.Linear(1, 1).requires_grad_(False)
        self.zero = nn.Buffer(torch.zeros(embed_dim), persistent=False)

    def forward(self, batch: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """As `StepTokens`, without a direct reading."""
        valid = batch.image_valid.flatten(3)
        values = self.standardise(batch.images.flatten(3), valid, axis=2)
        turn = observation_encoder.half_year_south(batch) if self.local_season else 0.0
        days = observation_encoder.days_as_cycle(batch.first_day + turn, batch.last_day + turn, self.harmonics)
        return self.patch(values.flatten(2)) + self.days(days), valid.flatten(2).any(-1), self.zero


class PixelSet(StepTokens):
    """Adds the mean of learnt features of single pixels (pixel-set encoder, Garnot et al. 2020)."""

    def __init__(self, config: Any, embed_dim: int, bands: Any) -> None:
        super().__init__(config, embed_dim, bands)
        self.single = nn.Sequential(nn.Linear(len(BANDS), 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.pooled = nn.Linear(64, config.width)

    def forward(self, batch: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """As `StepTokens`."""
        token, present, direct = super().forward(batch)
        valid = batch.image_valid.flatten(3)
        values = self.standardise.logarithm(batch.images.flatten(3), valid, axis=2).transpose(2, 3)  # [B, T, P, C]
        whole = valid.all(2).unsqueeze(-1)
        mean = (self.single(values) * whole).sum(2) / whole.sum(2).clamp(min=1)
        return token + self.pooled(mean), present, direct


def month_table(first_day: Tensor, last_day: Tensor, harmonics: int) -> Tensor:
    """Twelve weights of the months about the middle of a step, instead of harmonics: a learnt position."""
    middle = ((first_day - 1 + last_day) / 2).unsqueeze(-1) * (12 / 365) - 0.5
    apart = (middle - torch.arange(12, device=middle.device) + 6) % 12 - 6
    return torch.cat([(1 - apart.abs()).clamp(min=0), (last_day - first_day + 1).unsqueeze(-1) / 365], dim=-1)


def pairs(
    places: Tensor, texts: Tensor, targets: Tensor, scale: Tensor, log_q: Tensor | None = None, *_: Any, **named: Any
) -> ContrastiveTerms:
    """Plain CLIP: a place has one positive, its own text; the same text of another place is a negative."""
    return contrastive_loss(places, texts[targets], torch.arange(len(places)), scale, None, **named)


EDITS: dict[str, tuple[Any, str, Any]] = {
    "linear patch": (observation_encoder, "StepTokens", LinearPatch),
    "pixel set": (observation_encoder, "StepTokens", PixelSet),
    "month table": (observation_encoder, "days_as_cycle", month_table),
    "pairs": (objective, "contrastive_loss", pairs),
}


# -- variants ----------------------------------------------------------------------------------------------------------


def _see(**values: Any) -> dict[str, Any]:
    return {"model": {"observation": values}}


def _loss(**values: Any) -> dict[str, Any]:
    return {"loss": values}


def _hide(**values: Any) -> dict[str, Any]:
    return {"augment": values}


def _text(width: int, layers: int) -> dict[str, Any]:
    return {"model": {"text": {"width": width, "layers": layers, "heads": max(1, width // 32)}}}


NO_PLACE = {"model": {"inputs": ("image", "terrain", "soil", "climate")}}
PLAIN = {"loss": {"candidates": "batch", "prior_correction": False, "coarse_weight": 0.0, "text_weight": 1.0}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "image-led": {
        "recipe": {},
        "pixels: mean and deviation alone": _see(pixel_layout=False),
        "pixels: linear patch alone": {"edit": "linear patch"},
        "pixels: and a pixel set": {"edit": "pixel set"},
        "depth 1": _see(depth=1, drop_path=0.0),
        "depth 4": _see(depth=4),
        "width 64": _see(width=64),
        "width 256": _see(width=256),
        "days: 1 harmonic": _see(day_harmonics=1),
        "days: learnt month table": {**_see(day_harmonics=6), "edit": "month table"},
        "days: calendar in both hemispheres": _see(season="calendar"),
        "loss: pairs (plain CLIP)": {**PLAIN, "edit": "pairs"},
        "loss: taxa of the batch": _loss(candidates="batch"),
        "loss: taxa of the batch, no prior correction": _loss(candidates="batch", prior_correction=False),
        "loss: text to place as heavy": _loss(text_weight=1.0),
        "loss: no text to place": _loss(text_weight=0.0),
        "loss: no coarse ranks": _loss(coarse_weight=0.0),
        "loss: coarse ranks at every step, weight 1": _loss(coarse_share=1.0, coarse_weight=1.0),
        "dropout 0": _see(dropout=0.0, drop_path=0.0),
        "dropout 0.3": _see(dropout=0.3),
        "hide no months": _hide(drop_step=0.0),
        "no noise on bands": _hide(gain=0.0, band_noise=0.0),
        "text tower 32 x 1": _text(32, 1),
        "text tower 128 x 4": _text(128, 4),
    },
    "location-led": {
        "recipe": {},
        "place: unit vector alone": _see(location_octaves=0),
        "place: 3 octaves": _see(location_octaves=3),
        "place: 9 octaves": _see(location_octaves=9),
        "place: not read": NO_PLACE,
        "place: moved by 30 km": _hide(location_noise_km=30.0),
        "dropout 0.3": _see(dropout=0.3),
    },
    "environment": {
        "recipe": {},
        "place: unit vector alone": _see(location_octaves=0),
        "place: 6 octaves": _see(location_octaves=6),
        "place: 10 octaves": _see(location_octaves=10),
        "place: not read": NO_PLACE,
        "place: not moved": _hide(location_noise_km=0.0),
        "no noise on variables": _hide(variable_noise=0.0),
        "dropout 0.1": _see(dropout=0.1),
        "dropout 0.5": _see(dropout=0.5),
        "depth 4": _see(depth=4),
        "width 64": _see(width=64),
        "width 256": _see(width=256),
        "loss: pairs (plain CLIP)": {**PLAIN, "edit": "pairs"},
        "loss: taxa of the batch": _loss(candidates="batch"),
        "loss: text to place 0.2": _loss(text_weight=0.2),
        "loss: coarse ranks": _loss(coarse_weight=0.5),
        "text tower 128 x 2": _text(128, 2),
    },
}


# -- one fit -----------------------------------------------------------------------------------------------------------


def configure(kind: str, data: Path, seed: int, changes: dict[str, Any]) -> RunConfig:
    """The recipe of a set, changed."""
    config, _ = parse(["--config", str(CONFIGS / RECIPES[kind]), "--data", str(data), "--out", str(data / "run")])
    fixed = {"minutes": 0.0, "steps": 1, "seed": seed, "threads": 1, "trackers": (), "resume": "never"}
    if kind == "environment":
        fixed |= {"split": "search", "fold": seed}
    config = dataclasses.replace(config, **fixed)
    for part, values in changes.items():
        if part == "edit":
            continue
        old = getattr(config, part)
        merged = {
            name: {**getattr(old, name), **value} if isinstance(value, dict) else value
            for name, value in values.items()
        }
        config = dataclasses.replace(config, **{part: dataclasses.replace(old, **merged)})
    return config


@contextmanager
def edited(changes: dict[str, Any]) -> Iterator[None]:
    """Inside, the part of the package that a variant replaces is replaced."""
    with ExitStack() as stack:
        if "edit" in changes:
            stack.enter_context(patch.object(*EDITS[changes["edit"]]))
        yield


def step_seconds(kind: str, data: Path, changes: dict[str, Any]) -> tuple[float, float]:
    """Processor seconds of a step of a variant and of the recipe, timed in turns."""
    runs = []
    for one in (changes, {}):
        with edited(one):
            trainer = Trainer(configure(kind, data, 0, one), quiet=True)
        trainer.steps = 1000
        runs.append((trainer, trainer.loader.batches(), one, []))
    for turn in range(TIMED_STEPS + 1):
        for trainer, batches, one, seconds in runs:
            packed = next(batches)
            started = time.process_time()
            with edited(one):
                trainer.train_step(packed)
            if turn:  # the first allocates memory
                seconds.append(time.process_time() - started)
    for _, batches, _, _ in runs:
        batches.close()
    return statistics.median(runs[0][3]), statistics.median(runs[1][3])


def fit(kind: str, data: Path, seed: int, changes: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train for so many steps and score the averaged weights on the validation samples."""
    with edited(changes):
        trainer = Trainer(configure(kind, data, seed, changes), quiet=True)
        trainer.steps = steps
        batches = trainer.loader.batches()
        started = time.process_time()
        losses = [trainer.train_step(next(batches)) for _ in range(steps)]
        seconds = time.process_time() - started
        batches.close()
        with trainer.average.applied():
            plain, added = score(trainer)
    last = float(torch.stack(losses[-20:]).mean())
    parameters = sum(parameter.numel() for parameter in trainer.plain.parameters())
    return {
        "steps": steps, "cpu_seconds": round(seconds, 1), "parameters": parameters, "training_loss": last,
        "samples": len(trainer.samples.validation), "log_loss": plain[0], "top1": plain[1],
        "log_loss_prior_added": added[0], "top1_prior_added": added[1],
    }  # fmt: skip


@torch.no_grad()
def score(trainer: Trainer) -> tuple[tuple[float, float], tuple[float, float]]:
    """Log loss and top-1 among the taxa of training, of the logits as they are and with the log prior added.

    A loss that samples its candidates by their frequency and does not correct for it learns logits without the prior.
    """
    model, labels = trainer.plain.eval(), trainer.labels.ranks[Rank.SPECIES.value]
    known = np.flatnonzero(labels.occurs)
    texts = model.encode_text(labels.tokens[torch.from_numpy(known)])
    log_p = torch.from_numpy(labels.log_p[known]).float()
    logits, truth = [], []
    for packed in sequential(trainer.dataset, trainer.samples.validation, 512):
        logits.append(model.logit_scale * model.encode_observations(from_packed(packed)) @ texts.t())
        truth.append(packed.taxon)
    joined, labelled = torch.cat(logits), np.concatenate(truth)
    seen = torch.from_numpy(labels.occurs[labels.label[labelled]])  # a taxon that training never saw is a miss
    target = torch.from_numpy(np.searchsorted(known, labels.label[labelled])).clamp(max=len(known) - 1)

    def both(values: Tensor) -> tuple[float, float]:
        losses = functional.cross_entropy(values, target, reduction="none")
        hits = (values.argmax(1) == target) & seen
        return float(torch.where(seen, losses, math.log(len(known))).mean()), float(hits.float().mean())

    return both(joined), both(joined + log_p)


# -- the job -----------------------------------------------------------------------------------------------------------


def prepare(kind: str, seed: int, out: Path, environment: Path | None) -> Path:
    """The packed set of a kind and seed, made where it is not there yet."""
    if kind == "environment":
        if environment is None:
            raise ConfigError("the set `environment` needs --environment PACKED, as data_prep/environment.py writes it")
        if not (environment / "splits" / "search.parquet").is_file():
            table = PackedDataset(environment).samples()
            ids = table["sample_id"].astype(str).tolist()
            lon, lat = table["longitude"].to_numpy(), table["latitude"].to_numpy()
            split = spatial_folds(lon, lat, 250.0, folds=5, seed=0, validation=0.0, sample_id=ids)
            write_split(environment, "search", split.replace({"role": {"test": "validation"}}))
        return environment
    place = out / "sets" / f"{kind}-{seed}"
    if not (place / "splits" / "default.parquet").is_file():
        make_world(
            place, kind, seed, TRAINING, validation=VALIDATION, test=1, quota=0, ceiling_samples=0, overwrite=True
        )
    return place


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; a last one that was cut off is left out."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Append a line of JSON, after dropping one that was cut off."""
    text = path.read_text() if path.is_file() else ""
    with path.open("r+" if path.is_file() else "w") as file:
        file.truncate(len(text[: text.rfind("\n") + 1].encode()))
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(line) + "\n")


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a finished fit is known by."""
    return line["set"], line["variant"], line.get("seed"), line["cpu_minutes"]


def run(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do what is not done yet, seed by seed."""
    timing, fits = args.out / "timing.jsonl", args.out / "fits.jsonl"
    steps = {key(line): line["steps"] for line in read_lines(timing)}
    done = {key(line) for line in read_lines(fits)}
    jobs = [
        (seed, kind, name)
        for seed in args.seeds
        for kind in args.sets
        for name in VARIANTS[kind]
        if name == "recipe" or not args.only or any(word in name for word in args.only)
    ]
    say(f"{len(jobs)} fits of {args.cpu_minutes:g} processor minutes each, {len(done)} are done")
    for number, (seed, kind, name) in enumerate(jobs, 1):
        whole = {"set": kind, "variant": name, "seed": seed, "cpu_minutes": args.cpu_minutes}
        if key(whole) in done:
            continue
        changes, data = VARIANTS[kind][name], prepare(kind, seed, args.out, args.environment)
        timed = {"set": kind, "variant": name, "cpu_minutes": args.cpu_minutes}
        if key(timed) not in steps:
            own, recipe = step_seconds(kind, prepare(kind, args.seeds[0], args.out, args.environment), changes)
            base = steps.get(key({**timed, "variant": "recipe"}), round(args.cpu_minutes * SHARES[kind] * 60 / recipe))
            steps[key(timed)] = base if name == "recipe" else max(1, round(base * recipe / own))
            add_line(timing, {**timed, "steps": steps[key(timed)], "step_seconds": own, "recipe_seconds": recipe})
        line = {**whole, **fit(kind, data, seed, changes, steps[key(timed)])}
        add_line(fits, line)
        say(
            f"{number}/{len(jobs)}  {kind}, seed {seed}, {name}: {line['steps']} steps in {line['cpu_seconds']:.0f} s, "
            f"top-1 {line['top1']:.1%}, log loss {line['log_loss']:.3f}"
        )


def table(lines: list[dict[str, Any]], cpu_minutes: float) -> str:
    """Markdown: scores, and their paired differences to the recipe."""
    text = []
    for kind in RECIPES:
        fits = {
            (line["variant"], line["seed"]): line
            for line in lines
            if line["set"] == kind and line["cpu_minutes"] == cpu_minutes
        }
        if not fits:
            continue
        heads = ["variant", "seeds", "steps", "top-1", "log loss"]
        heads += ["top-1 against the recipe", "log loss against the recipe"]
        text += [f"\n### {kind} ({RECIPES[kind]})\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name in VARIANTS[kind]:
            seeds = [seed for seed in sorted({s for _, s in fits}) if (name, seed) in fits and ("recipe", seed) in fits]
            if not seeds:
                continue
            # Plain pairs learn logits without the prior: they are read with it.
            ending = "_prior_added" if VARIANTS[kind][name].get("edit") == "pairs" else ""
            top1 = [100 * fits[name, seed]["top1" + ending] for seed in seeds]
            loss = [fits[name, seed]["log_loss" + ending] for seed in seeds]
            base = [fits["recipe", seed] for seed in seeds]
            cells = [name, str(len(seeds)), str(fits[name, seeds[0]]["steps"])]
            cells += [f"{statistics.mean(top1):.1f}", f"{statistics.mean(loss):.3f}"]
            if name == "recipe":
                cells += ["", ""]
            else:
                cells.append(interval([own - 100 * line["top1"] for own, line in zip(top1, base, strict=True)], 1))
                cells.append(interval([own - line["log_loss"] for own, line in zip(loss, base, strict=True)], 3))
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def interval(differences: list[float], digits: int) -> str:
    """Mean, and its 95 % interval by Student's t over the seeds."""
    mean = statistics.mean(differences)
    if len(differences) - 1 not in T_95:
        return f"{mean:+.{digits}f}"
    half = T_95[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def main() -> None:
    """Search, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="sets, finished fits and the table")
    parser.add_argument("--environment", type=Path, help="packed set without imagery; a split is written beside it")
    parser.add_argument("--cpu-minutes", type=float, default=0.7, help="processor time of a fit (%(default)g)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0 to 4 (default: 0 1 2)")
    parser.add_argument("--sets", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--only", nargs="+", metavar="WORD", help="variants whose name holds one of these")
    parser.add_argument("--table", action="store_true", help="only write the table of what is done")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        run(args, lambda line: print(line, flush=True))
    text = table(read_lines(args.out / "fits.jsonl"), args.cpu_minutes)
    (args.out / "table.md").write_text(text)
    print(text)
    print(f"written to {args.out / 'table.md'}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
