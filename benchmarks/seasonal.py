"""Does seasonal pretraining help? Few-shot accuracy in blocks that neither pretraining nor training has seen.

    python benchmarks/seasonal.py --minutes 60 [--seeds 3] [--samples 20000] [--shots 8] [--out seasonal.json]

For each seed a planted world is drawn and cut into blocks of 100 km; a third of the blocks is for the test. Pretraining
sees the imagery of all other samples, without labels; training sees a few labelled ones of each species there.

    frozen      a linear classifier on the embedding of the encoder as it is after pretraining (or random)
    finetuned   train/clip.py, imagery alone, from that encoder

Time is dealt out evenly: each pretraining and each training gets the same share, and `random-long` trains for both
shares together, which is the fair rival of a pretrained start. Intervals are of 95 % by resampling blocks within seeds,
also of the paired difference to random starts; they do not hold the chance of the seed beyond those that were run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.make import make_world
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.models.directory import load_model
from geotreeclip.models.observation_encoder import half_year_south
from geotreeclip.observations import from_packed
from geotreeclip.training.config import AugmentConfig, ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig
from geotreeclip.training.loop import train
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.seasonal.loop import SeasonalTrainer, pretrain
from geotreeclip.training.seasonal.output import read_encoder, write_encoder

OBJECTIVES = ("moco", "season2", "seco_eco")
STAGES = 2 * len(OBJECTIVES) + 3  # pretraining and training of each, random, and random for twice as long
MODEL = ModelChoice(name="tiny", inputs=("image",), observation={"dropout": 0.1})
BLOCK_KM = 100.0
Budget = dict[str, Any]
"""Minutes or steps of a stage, as the configuration of a run has them."""


def prepare(data: Path, seed: int, shots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the labelled samples and of the test, and the block of every sample; writes the split `bench`."""
    dataset = PackedDataset(data)
    table = dataset.samples()
    block = spatial_blocks(table["longitude"].to_numpy(), table["latitude"].to_numpy(), BLOCK_KM)
    rng = np.random.default_rng([seed, 0xBE])
    names = rng.permutation(np.unique(block))
    held_out = np.isin(block, names[: len(names) // 3])
    taxa = dataset.taxa
    support = []
    for taxon in np.unique(taxa[~held_out]):
        rows = np.flatnonzero((taxa == taxon) & ~held_out)
        if len(rows) >= shots:
            support.append(rng.choice(rows, shots, replace=False))
    labelled = np.sort(np.concatenate(support))
    test = np.flatnonzero(held_out & np.isin(taxa, taxa[labelled]))
    ids = table["sample_id"].astype(str).to_numpy()
    roles = [(np.flatnonzero(~held_out), 0, "train"), (labelled, 1, "train"), (test, 1, "test")]
    split = pd.concat(
        [pd.DataFrame({"sample_id": ids[rows], "fold": fold, "role": role}) for rows, fold, role in roles]
    )
    (data / "splits").mkdir(exist_ok=True)
    split.to_parquet(data / "splits" / "bench.parquet", index=False)
    return labelled, test, block


def seasonal(data: Path, out: Path, objective: str, budget: Budget, seed: int) -> SeasonalConfig:
    """A pretraining run."""
    return SeasonalConfig(
        data=str(data), out=str(out), split="bench", fold=0, objective=objective, seed=seed, **budget,
        queue=4096, model=MODEL, optimizer=OptimizerConfig(learning_rate=2e-3), trackers=(), resume="never",
        schedule=ScheduleConfig(checkpoints=0),
    )  # fmt: skip


def start(data: Path, out: Path, objective: str, budget: Budget, seed: int) -> Path:
    """A run folder with an encoder: pretrained, or with its random weights."""
    if objective != "random":
        pretrain(seasonal(data, out, objective, budget, seed), quiet=True)
        return out
    trainer = SeasonalTrainer(seasonal(data, out, "moco", budget, seed), quiet=True)
    out.mkdir(parents=True)
    account = {"objective": "random", "history": [], "steps": 0}
    write_encoder(out / "encoder", trainer.plain.encoder, trainer.model_config, trainer.statistics, account)
    return out


def frozen(data: Path, run: Path, labelled: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Hits of a linear classifier on the frozen embedding, [n test]."""
    encoder, dataset = read_encoder(run).build(), PackedDataset(data)

    def embed(rows: np.ndarray) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for packed in sequential(dataset, rows, 512):
                batch = from_packed(packed)
                turn = half_year_south(batch)
                batch = batch._replace(first_day=batch.first_day + turn, last_day=batch.last_day + turn)
                parts.append(encoder(batch).numpy())
        return np.concatenate(parts)

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    classifier.fit(embed(labelled), dataset.taxa[labelled])
    return np.asarray(classifier.predict(embed(test)) == dataset.taxa[test])


def finetuned(
    data: Path, out: Path, init: Path | None, budget: Budget, seed: int, labelled: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Hits of CLIP trained on the labelled samples, among their taxa, [n test]."""
    config = RunConfig(
        data=str(data), out=str(out), init=str(init or ""), split="bench", fold=1, validation=0.0, **budget,
        seed=seed, batch_size=min(256, len(labelled)), model=MODEL, trackers=(), resume="never",
        optimizer=OptimizerConfig(learning_rate=1e-3 if init else 2e-3, weight_decay=0.1),
        schedule=ScheduleConfig(checkpoints=0, validations=0),
        augment=AugmentConfig(drop_image=0.0, drop_groups=0.0, keep_one_image=0.0, drop_step=0.3),
    )  # fmt: skip
    loaded = load_model(train(config, quiet=True))
    dataset = PackedDataset(data)
    taxa = np.unique(dataset.taxa[labelled])
    prompts = [loaded.taxonomy[int(taxon)].prompt() for taxon in taxa]
    hits = []
    with torch.inference_mode():
        texts = loaded.model.encode_text(loaded.model.tokenize(prompts))
        for packed in sequential(dataset, test, 512):
            places = loaded.model.encode_observations(from_packed(packed))
            hits.append(taxa[(places @ texts.t()).argmax(1).numpy()] == packed.taxon)
    return np.concatenate(hits)


def interval(values: list[np.ndarray], blocks: list[np.ndarray], draws: int = 1000) -> tuple[float, float, float]:
    """Mean over seeds of the mean of values, and its 95 % interval by resampling the blocks of each seed."""
    rng = np.random.default_rng(0)
    means = np.zeros((len(values), draws))
    for seed, (value, block) in enumerate(zip(values, blocks, strict=True)):
        _, code = np.unique(block, return_inverse=True)
        total, count = np.bincount(code, weights=value), np.bincount(code)
        drawn = rng.integers(0, len(count), (draws, len(count)))
        means[seed] = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.percentile(means.mean(axis=0), [2.5, 97.5])
    return float(np.mean([value.mean() for value in values])), float(low), float(high)


def run(seeds: int, samples: int, shots: int, budget: Budget, folder: Path) -> dict[str, Any]:
    """All systems on all seeds, each stage with the same budget."""
    hits: dict[str, list[np.ndarray]] = {}
    blocks = []
    for seed in range(seeds):
        data = folder / f"world-{seed}"
        make_world(data, seed=seed, samples=samples, test=100, quota=2, validation=100, ceiling_samples=100)
        labelled, test, block = prepare(data, seed, shots)
        blocks.append(block[test])
        print(
            f"seed {seed}: {len(labelled)} labelled samples, {len(test)} of the test in {len(set(block[test]))} blocks"
        )

        def keep(name: str, values: np.ndarray) -> None:
            hits.setdefault(name, []).append(values)
            print(f"  {name:<22}{values.mean():>7.1%}", flush=True)

        for objective in ("random", *OBJECTIVES):
            place = folder / f"{objective}-{seed}"
            begun = start(data, place, objective, budget, seed)
            keep(f"frozen {objective}", frozen(data, begun, labelled, test))
            init = None if objective == "random" else begun
            keep(f"finetuned {objective}", finetuned(data, place / "clip", init, budget, seed, labelled, test))
        twice = finetuned(
            data, folder / f"long-{seed}", None, {key: 2 * value for key, value in budget.items()}, seed, labelled, test
        )
        keep("finetuned random-long", twice)
    rows = []
    for name, values in hits.items():
        kind, system = name.split()
        rival = hits["frozen random" if kind == "frozen" else "finetuned random-long"]
        gain = interval([a.astype(float) - b for a, b in zip(values, rival, strict=True)], blocks)
        rows.append({"kind": kind, "start": system, "top1": interval(values, blocks), "gain": gain})
    return {"rows": rows, "by_seed": {name: [float(v.mean()) for v in values] for name, values in hits.items()}}


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of all pretraining and training (%(default)g)")
    parser.add_argument("--steps", type=int, default=0, help="of each stage, instead of minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=20_000, help="of a world")
    parser.add_argument("--shots", type=int, default=8, help="labelled samples of a species")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    share = args.minutes / (args.seeds * STAGES)
    budget: Budget = {"steps": args.steps} if args.steps else {"minutes": share}
    stage = f"{args.steps} steps" if args.steps else f"{share:.2f} minutes"
    print(f"{args.seeds} worlds of {args.samples:,} samples, {args.shots} shots, {stage} a stage")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = run(args.seeds, args.samples, args.shots, budget, Path(folder))
    print(f"\n{'':<11}{'start':<14}{'top-1':>8}  {'95 %':<17}{'against random':>16}  95 %")
    for row in result["rows"]:
        (top, low, high), (gain, less, more) = row["top1"], row["gain"]
        print(
            f"{row['kind']:<11}{row['start']:<14}{top:>8.1%}  {low:>6.1%} to {high:<7.1%}{gain:>+16.1%}  "
            f"{less:+.1%} to {more:+.1%}"
        )
    settings = {"stage": stage, "seeds": args.seeds, "samples": args.samples, "shots": args.shots}
    result |= {"settings": settings, "threads": os.cpu_count(), "seconds": time.monotonic() - begun}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
