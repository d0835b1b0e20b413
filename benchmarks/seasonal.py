"""Does seasonal pretraining help? Few-shot accuracy in blocks that neither pretraining nor training has seen.

    OMP_NUM_THREADS=1 python benchmarks/seasonal.py --out DIR [--seeds 3] [--samples 20000] [--shots 8 20]

For each seed a planted world is drawn and cut into blocks of 100 km; a third of the blocks is for the test. Pretraining
sees the imagery of all other samples (about two thirds of 20,000) without labels; 8 or 20 samples of each species there
have labels. Starts are `random` (untrained) and the three objectives; three things are asked of each:

    frozen      A linear head on the embedding of the encoder as the start left it: shrinkage discriminant analysis
                (`lda`) and logistic regression (`logistic`, the linear probe), each with its strength chosen on blocks
                of the support; and `lda` on the embedding and the month means together. `lda` is the mean of 3 draws of
                the support, `logistic` of the first.
    clip        `train/clip.py --init`, fine-tuned on the labelled samples of the first draw, most shots.
    control     The same heads on handcrafted features: logarithms of month means, the year turned by half in the south.

All read imagery alone, with days counted from the beginning of spring (`data_prep/phase.py` with the calendar of the
hemisphere), so that both hemispheres agree and the place tells nothing.

Compute is counted in multiplications and additions of the networks, not in minutes, so that it is equal whatever else
the machine does: every pretraining has the budget of `--steps` steps of season2, every fine-tuning has
`--finetune-steps` steps, and `random-long` trains from random weights with both budgets together.

Intervals are of 95 %, by resampling blocks within seeds, those of gains by resampling the paired difference to the
same head on the untrained start (`clip`: to the better of random and random-long). They hold neither the chance of the
world nor that of a run beyond the seeds; the gain of each seed is therefore printed beside them.

Whatever is finished stays in `--out` and is not done again; pretraining and training go on from their checkpoints. The
same command gives the same numbers on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.demo.make import make_world
from geotreeclip.errors import ConfigError, run_main
from geotreeclip.evaluation.baselines.features import monthly_means
from geotreeclip.evaluation.few_shot.heads import Solver, fit_path, inner_folds, lda_path, logistic_path
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.models.directory import load_model
from geotreeclip.observations import from_packed
from geotreeclip.prep.phase import write_phase_set
from geotreeclip.prep.phenology import DATES, calendar_dates
from geotreeclip.schema import MISSING_DN, VARIABLE_INDEX
from geotreeclip.training.config import AugmentConfig, ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig
from geotreeclip.training.loop import Trainer
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.seasonal.loop import SeasonalTrainer
from geotreeclip.training.seasonal.output import ENCODER, read_encoder, write_encoder
from geotreeclip.training.seasonal.views import Share, draw_seasons, frames

OBJECTIVES = ("moco", "season2", "seco_eco")
STARTS = ("random", *OBJECTIVES)
MODEL = ModelChoice(name="tiny", inputs=("image",), observation={"dropout": 0.1, "season": "phase"})
BLOCK_KM = 100.0
TROPICS = 10.0  # degrees within which the calendar tells no seasons
DRAWS = 3
SHOWN_PLACES = 2000  # for the look at a pretraining
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Task(NamedTuple):
    """What is asked in one world.

    Attributes:
        calendar: Packed set, for pretraining.
        cycles: Table of the seasons of its samples.
        data: The same with days that count from spring, for everything else.
        labelled: shots -> rows with labels, [draws, n].
        test: int64 [m], rows of the test, all of labelled species.
        taxa: int64 [N], of all samples.
        block: [N].
    """

    calendar: Path
    cycles: Path
    data: Path
    labelled: dict[int, Integers]
    test: Integers
    taxa: Integers
    block: Integers


def prepare(folder: Path, seed: int, samples: int, shots: tuple[int, ...]) -> Task:
    """The world of a seed, and its split `bench`: fold 0 for pretraining, folds by number of shots for training."""
    calendar, data = folder / f"world-{seed}", folder / f"phase-{seed}"
    cycles = calendar / "cycles.parquet"
    if not (data / "manifest.json").is_file():
        make_world(
            calendar, seed=seed, samples=samples, test=100, quota=2, validation=100, ceiling_samples=0, overwrite=True
        )
        places = PackedDataset(calendar).samples()
        latitude = places["latitude"].to_numpy()
        columns = dict(zip(DATES, calendar_dates(latitude).T, strict=True))
        source = np.where(np.abs(latitude) < TROPICS, "aseasonal", "calendar")
        pd.DataFrame({"sample_id": places["sample_id"], "source": source, **columns}).to_parquet(cycles)
        write_phase_set(calendar, cycles, data, overwrite=True, progress=False)
    dataset = PackedDataset(data)
    table = dataset.samples()
    block = spatial_blocks(table["longitude"].to_numpy(), table["latitude"].to_numpy(), BLOCK_KM)
    rng = np.random.default_rng([seed, 0xBE])
    names = rng.permutation(np.unique(block))
    held_out = np.isin(block, names[: len(names) // 3])
    taxa = np.asarray(dataset.taxa)
    draws = []
    for _ in range(DRAWS):
        support = []
        for taxon in np.unique(taxa[~held_out]):
            rows = np.flatnonzero((taxa == taxon) & ~held_out)
            if len(rows) >= max(shots):
                support.append(rng.choice(rows, max(shots), replace=False))
        draws.append(np.stack(support))
    drawn = np.stack(draws)  # [draws, species, shots]; fewer shots are the first of them
    labelled = {count: np.sort(drawn[:, :, :count].reshape(DRAWS, -1), axis=1) for count in shots}
    test = np.flatnonzero(held_out & np.isin(taxa, taxa[drawn[0, :, 0]]))
    ids = table["sample_id"].astype(str).to_numpy()
    roles = [(np.flatnonzero(~held_out), 0, "train")]
    for count in shots:
        roles += [(labelled[count][0], count, "train"), (test, count, "test")]
    split = pd.concat(
        [pd.DataFrame({"sample_id": ids[rows], "fold": fold, "role": role}) for rows, fold, role in roles]
    )
    for place in (calendar, data):
        (place / "splits").mkdir(exist_ok=True)
        split.to_parquet(place / "splits" / "bench.parquet", index=False)
    return Task(calendar, cycles, data, labelled, test, taxa, block)


# -- pretraining and training ------------------------------------------------------------------------------------------


def pretraining(task: Task, out: Path, objective: str, steps: int, seed: int, rate: float) -> SeasonalTrainer:
    """A pretraining run that has not begun."""
    config = SeasonalConfig(
        data=str(task.calendar), phenology=str(task.cycles), out=str(out), split="bench", fold=0, seed=seed,
        objective=objective, steps=steps, queue=4096,
        model=MODEL, optimizer=OptimizerConfig(learning_rate=rate), trackers=(), threads=1,
    )  # fmt: skip
    return SeasonalTrainer(config, quiet=True)


def finetuning(task: Task, out: Path, init: Path | None, steps: int, seed: int, shots: int, rate: float) -> Trainer:
    """A run of `train/clip.py` on the labelled samples that has not begun."""
    config = RunConfig(
        data=str(task.data), out=str(out), init=str(init or ""), split="bench", fold=shots, validation=0.0, steps=steps,
        seed=seed, batch_size=min(256, task.labelled[shots].shape[1]), model=MODEL, trackers=(), threads=1,
        optimizer=OptimizerConfig(learning_rate=rate, weight_decay=0.1),
        schedule=ScheduleConfig(checkpoints=2, validations=0),
        augment=AugmentConfig(drop_image=0.0, drop_groups=0.0, keep_one_image=0.0, drop_step=0.3, band_noise=0.05),
    )  # fmt: skip
    return Trainer(config, quiet=True)


def operations(task: Task, folder: Path, shots: int) -> dict[str, int]:
    """Floating-point operations of one step of each objective and of training."""
    trainers: dict[str, Any] = {name: pretraining(task, folder, name, 1, 0, 1e-3) for name in OBJECTIVES}
    trainers["training"] = finetuning(task, folder, None, 1, 0, shots, 1e-3)
    counts = {}
    for name, trainer in trainers.items():
        trainer.steps = 1
        with FlopCounterMode(display=False) as counter:
            trainer.train_step(next(trainer.loader.batches()))
        counts[name] = int(counter.get_total_flops())
    return counts


def start(task: Task, out: Path, objective: str, steps: int, seed: int, rate: float) -> dict[str, Any]:
    """A run folder with an encoder, pretrained or with its random weights; returns what is to be seen of it."""
    began = time.process_time()
    trainer = pretraining(task, out, "season2" if objective == "random" else objective, steps, seed, rate)
    if objective == "random":
        out.mkdir(parents=True, exist_ok=True)
        account = {"objective": "random", "history": [], "steps": 0}
        write_encoder(out / ENCODER, trainer.plain.encoder, trainer.model_config, trainer.statistics, account)
    else:
        trainer.run()
    seconds = time.process_time() - began
    losses = [entry["loss"] for entry in trainer.history]
    return {
        "start": objective, "seed": seed, "steps": trainer.step, "cpu_seconds": round(seconds, 1),
        "first_loss": losses[0] if losses else None, "last_loss": losses[-1] if losses else None,
        "expected_loss": sum(trainer.contrasts.expected_losses().values()), **look(task, trainer),
    }  # fmt: skip


def look(task: Task, trainer: SeasonalTrainer) -> dict[str, float]:
    """Is the encoder sound: what single steps of unseen places tell of season and place, head by head.

    Returns:
        `season NAME`: accuracy of a linear reading of four seasons; `place NAME`: share of places found among all by
        a step of another season; `rank`: effective rank of embeddings of whole years (exponential of the entropy of
        the shares of variance).
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(task.test, min(SHOWN_PLACES, len(task.test)), replace=False))
    rows = rows[trainer.seasons.seasonal[rows]]
    packed = trainer.dataset.read(rows)
    share = Share(0, 0, slice(0, len(rows)), len(rows))
    weights = trainer.seasons.weights(packed.index, packed.days, trainer.dataset.steps)
    drawn = draw_seasons(weights, (packed.images != MISSING_DN).any(axis=(2, 3, 4)), 2, share)
    two = drawn.seasons == 2
    batch, model = from_packed(packed), trainer.plain.eval()
    found: dict[str, float] = {}
    with torch.inference_mode():
        views = [
            model.encoder(frames(batch, drawn.step[:, k], k, False, trainer.config.disturb, share)) for k in (0, 1)
        ]
        spaces = {"embedding": views, **{n: [model.project(n, view) for view in views] for n in model.frame_heads}}
        variance = torch.linalg.eigvalsh(
            torch.cov(model.encoder(from_packed(PackedDataset(task.data).read(rows))).double().t())
        ).clamp(min=0)
    half = len(rows) // 2
    for name, (first, second) in spaces.items():
        season = drawn.season[:, 0]
        fit = fit_path(lda_path, first[:half].numpy(), season[:half], 4, inner_folds(season[:half]).few)  # type: ignore[union-attr]
        scores = fit.head.logits(first[half:].numpy().astype(np.float64))
        found[f"season {name}"] = float((scores.argmax(1) == season[half:]).mean())
        near = torch.nn.functional.normalize(first[two], dim=1) @ torch.nn.functional.normalize(second[two], dim=1).t()
        found[f"place {name}"] = float((near.argmax(1) == torch.arange(int(two.sum()))).float().mean())
    part = (variance / variance.sum()).clamp(min=1e-12)
    found["rank"] = float((-(part * part.log()).sum()).exp())
    return found


# -- scores ------------------------------------------------------------------------------------------------------------


def embeddings(task: Task, run: Path, rows: Integers) -> Floats:
    """Embeddings of samples by the encoder of a run, [n, D]."""
    encoder, dataset = read_encoder(run).build(), PackedDataset(task.data)
    with torch.inference_mode():
        parts = [encoder(from_packed(packed)).numpy() for packed in sequential(dataset, rows, 512)]
    return np.concatenate(parts).astype(np.float64)


def month_means(task: Task, rows: Integers) -> Floats:
    """Logarithms of month means, the year turned by six months in the south, [n, 120]; NaN where missing."""
    parts = []
    for packed in sequential(PackedDataset(task.calendar), rows, 512):
        months = np.log(np.maximum(monthly_means(packed.images, packed.days), 1.0)).astype(np.float64)
        south = packed.environment[:, VARIABLE_INDEX["latitude"]] < 0
        months[south] = np.roll(months[south], 6, axis=1)
        parts.append(months.reshape(len(months), -1))
    return np.concatenate(parts)


def probe(task: Task, features: Floats, solver: Solver, shots: int, draws: int = DRAWS) -> Floats:
    """Share of the draws whose head names each test sample right, [m]; features are of all samples."""
    hits = np.zeros(len(task.test))
    for rows in task.labelled[shots][:draws]:
        species, code = np.unique(task.taxa[rows], return_inverse=True)
        folds = inner_folds(code, task.block[rows])
        fit = fit_path(solver, features[rows], code, len(species), None if folds is None else folds.few)
        hits += species[fit.head.logits(features[task.test]).argmax(1)] == task.taxa[task.test]
    return hits / draws


def frozen(task: Task, run: Path) -> dict[str, Floats]:
    """Hits of the heads on a frozen encoder."""
    every = np.arange(len(task.taxa))
    embedded, means = embeddings(task, run, every), month_means(task, every)
    hits = {}
    for shots in task.labelled:
        hits[f"lda {shots}"] = probe(task, embedded, lda_path, shots)
        hits[f"logistic {shots}"] = probe(task, embedded, logistic_path, shots, 1)
        hits[f"lda+means {shots}"] = probe(task, np.concatenate([embedded, means], axis=1), lda_path, shots)
    return hits


def control(task: Task) -> dict[str, Floats]:
    """Hits of the heads on handcrafted features."""
    means = month_means(task, np.arange(len(task.taxa)))
    hits = {}
    for shots in task.labelled:
        hits[f"lda {shots}"] = probe(task, means, lda_path, shots)
        hits[f"logistic {shots}"] = probe(task, means, logistic_path, shots, 1)
    return hits


def finetuned(
    task: Task, out: Path, init: Path | None, steps: int, seed: int, shots: int, rate: float
) -> dict[str, Floats]:
    """Hits of CLIP trained on the labelled samples, among their taxa."""
    loaded = load_model(finetuning(task, out, init, steps, seed, shots, rate).run())
    dataset = PackedDataset(task.data)
    taxa = np.unique(task.taxa[task.labelled[shots][0]])
    prompts = [loaded.taxonomy[int(taxon)].prompt() for taxon in taxa]
    hits = []
    with torch.inference_mode():
        texts = loaded.model.encode_text(loaded.model.tokenize(prompts))
        for packed in sequential(dataset, task.test, 512):
            places = loaded.model.encode_observations(from_packed(packed))
            hits.append(taxa[(places @ texts.t()).argmax(1).numpy()] == packed.taxon)
    return {f"clip {shots}": np.concatenate(hits).astype(np.float64)}


# -- cells and their table ---------------------------------------------------------------------------------------------


class Bench:
    """All cells of a run, each kept as a file.

    Args:
        folder: Of the run.
        settings: What the cells depend on.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.cells = folder, folder / "cells"
        self.cells.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.is_file() and json.loads(path.read_text()) != settings:
            raise ConfigError(f"{path}: was begun with other settings; give the same ones, or another --out")
        write_atomically(path, lambda aside: aside.write_text(json.dumps(settings, indent=1) + "\n"))

    def account(self, name: str, make: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
        """A JSON cell, made unless it is there."""
        path = self.cells / f"{name}.json"
        if not path.is_file():
            value = make(*given)
            write_atomically(path, lambda aside: aside.write_text(json.dumps(value, indent=1) + "\n"))
            told = (
                f"{key} {number:.3g}" if isinstance(number, float) else f"{key} {number}"
                for key, number in value.items()
            )
            print(f"  {name}: {', '.join(told)}", flush=True)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def hits(self, name: str, make: Callable[..., dict[str, Floats]], *given: Any) -> dict[str, Floats]:
        """A cell of hits, made unless it is there."""
        path = self.cells / f"{name}.npz"
        if not path.is_file():
            value = make(*given)

            def save(aside: Path) -> None:
                with aside.open("wb") as file:
                    np.savez(file, **value)

            write_atomically(path, save)
            print(f"  {name}: {', '.join(f'{head} {hits.mean():.1%}' for head, hits in value.items())}", flush=True)
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}


def interval(values: list[Floats], blocks: list[Integers], draws: int = 2000) -> list[float]:
    """Mean over seeds of the mean of values, and its 95 % interval by resampling the blocks of each seed."""
    rng = np.random.default_rng(0)
    means = np.zeros((len(values), draws))
    for seed, (value, block) in enumerate(zip(values, blocks, strict=True)):
        _, code = np.unique(block, return_inverse=True)
        total, count = np.bincount(code, weights=value), np.bincount(code)
        drawn = rng.integers(0, len(count), (draws, len(count)))
        means[seed] = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.percentile(means.mean(axis=0), [2.5, 97.5])
    return [float(np.mean([value.mean() for value in values])), float(low), float(high)]


def run(args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """All cells, seed by seed, and the rows of the table."""
    cells: dict[tuple[str, str], list[Floats]] = {}
    blocks, looks, folder = [], [], bench.folder

    def keep(system: str, hits: dict[str, Floats]) -> None:
        for head, values in hits.items():
            cells.setdefault((head, system), []).append(values)

    for seed in range(args.first_seed, args.first_seed + args.seeds):
        task = prepare(folder, seed, args.samples, tuple(args.shots))
        blocks.append(task.block[task.test])
        labels = ", ".join(f"{rows.shape[1]} ({shots} shots)" for shots, rows in task.labelled.items())
        places = f"{len(task.test)} of the test in {len(np.unique(blocks[-1]))} blocks"
        print(f"seed {seed}: {labels} labelled samples; {places}", flush=True)
        cost = bench.account("operations", operations, task, folder / "none", args.shots[0])
        budget = args.steps * cost["season2"]
        keep("month means", bench.hits(f"control-{seed}", control, task))
        for begun in STARTS:
            place, steps = folder / f"{begun}-{seed}", 0 if begun == "random" else round(budget / cost[begun])
            name = f"pretraining-{begun}-{seed}"
            looks.append(bench.account(name, start, task, place, begun, steps, seed, args.pretraining_rate))
            keep(begun, bench.hits(f"frozen-{begun}-{seed}", frozen, task, place))
        runs = {begun: (folder / f"{begun}-{seed}", args.finetune_steps, args.finetune_rate) for begun in OBJECTIVES}
        long = args.finetune_steps + round(budget / cost["training"])
        runs |= {"random": (None, args.finetune_steps, args.random_rate), "random-long": (None, long, args.random_rate)}
        shots = max(args.shots)
        for begun, (init, steps, rate) in runs.items():
            name = f"clip-{begun}-{seed}-{shots}"
            keep(begun, bench.hits(name, finetuned, task, folder / name, init, steps, seed, shots, rate))
    return {"rows": compare(cells, blocks), "pretraining": looks}


def compare(cells: dict[tuple[str, str], list[Floats]], blocks: list[Integers]) -> list[dict[str, Any]]:
    """A row for each head and start: accuracy, gain over the untrained start and over moco, with intervals."""
    rows = []
    for (head, system), values in sorted(cells.items()):
        rivals = [name for name in ("random", "random-long") if (head, name) in cells] or [system]
        rival = max(rivals, key=lambda name: float(np.mean([v.mean() for v in cells[head, name]])))
        row = {"head": head, "start": system, "rival": rival, "top1": interval(values, blocks)}
        for name, other in (("gain", rival), ("over_moco", "moco")):
            if other != system and (head, other) in cells:
                paired = [a - b for a, b in zip(values, cells[head, other], strict=True)]
                row |= {name: interval(paired, blocks), f"{name}_by_seed": [float(p.mean()) for p in paired]}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, in points of per cent."""
    lines = [
        "| head, shots | start | top-1 [95 %] | gain over random [95 %] | by seed | gain over moco [95 %] |",
        "|---|---|---|---|---|---|",
    ]

    def points(values: list[float] | None, signed: str = "+") -> str:
        mean, low, high = (f"{100 * value:{signed}.1f}" for value in values or (0.0, 0.0, 0.0))
        return f"{mean} [{low}, {high}]" if values else ""

    for row in rows:
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in row.get("gain_by_seed", []))
        moco = points(row.get("over_moco")) if row["start"] in OBJECTIVES else ""
        cells = (row["head"], row["start"], points(row["top1"], ""), points(row.get("gain")), by_seed, moco)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; what is finished there is kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=20_000, help="of a world (%(default)s)")
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 20], help="labelled samples of a species")
    parser.add_argument("--steps", type=int, default=300, help="of a pretraining by season2 (%(default)s)")
    parser.add_argument("--finetune-steps", type=int, default=150, help="(%(default)s)")
    parser.add_argument("--pretraining-rate", type=float, default=2e-3, help="learning rate (%(default)g)")
    parser.add_argument("--finetune-rate", type=float, default=1e-3, help="from a pretrained start (%(default)g)")
    parser.add_argument("--random-rate", type=float, default=1e-3, help="from a random start (%(default)g)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "seeds", "first_seed")}
    began = time.process_time()
    result = run(args, Bench(args.out, settings))
    result |= {
        "settings": settings,
        "seeds": args.seeds,
        "cpu_seconds": time.process_time() - began,
        "cores": os.cpu_count(),
    }
    print(f"\n{table(result['rows'])}")
    path = args.out / "results.json"
    write_atomically(path, lambda aside: aside.write_text(json.dumps(result, indent=1) + "\n"))
    print(f"\nwrote {path}; {(time.process_time() - began) / 60:.1f} minutes of the CPU")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
