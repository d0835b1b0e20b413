"""Where should a year begin? In January, by the hemisphere, or at greenup: accuracy in blocks never trained on.

    OMP_NUM_THREADS=1 python benchmarks/phase.py --out DIR [--seeds 3] [--samples 20000] [--steps 450]

For each seed a planted world is drawn and cut into blocks of 100 km, a third of which is for the test. The same model
(`tiny`, imagery and place) is trained on the rest with the same steps and seeds, and only what days mean differs:

    calendar      days as they are
    hemisphere    the year turned by half south of the equator (the default)
    phase         days since the greenup of each sample, from cycles fitted to its own imagery, or to its neighbours'
                  where it shows none (`data_prep/phenology.py`, `data_prep/phase.py`)

Printed are top-1 of all test samples and of those north and south of the equator, and the gains over the calendar, with
95 % intervals by resampling blocks within seeds, and seed by seed. Runs that are finished stay in `--out`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from seasonal import Bench, interval

from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.demo.make import make_world
from geotreeclip.errors import run_main
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.models.directory import load_model
from geotreeclip.observations import from_packed
from geotreeclip.prep.phase import write_phase_set
from geotreeclip.prep.phenology.cycles import PhenologyConfig
from geotreeclip.prep.phenology.job import write_phenology
from geotreeclip.prep.phenology.series import packed_series
from geotreeclip.training.config import AugmentConfig, ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig
from geotreeclip.training.loop import train

ENCODINGS = ("calendar", "hemisphere", "phase")
BLOCK_KM = 100.0
GROUPS = ("all", "north", "south")
Floats = NDArray[np.float64]


class World(NamedTuple):
    """A set in both ways of counting days.

    Attributes:
        sets: Encoding -> packed set.
        test: int64 [m], rows of the test.
        block: [m], their blocks.
        south: bool [m].
        sources: Where the greenup of all samples comes from, with counts.
    """

    sets: dict[str, Path]
    test: NDArray[np.int64]
    block: NDArray[np.int64]
    south: NDArray[np.bool_]
    sources: dict[str, int]


def prepare(folder: Path, seed: int, samples: int) -> World:
    """The world of a seed, and its split `bench`."""
    data, phase = folder / f"world-{seed}", folder / f"phase-{seed}"
    cycles = folder / f"phenology-{seed}.parquet"
    if not (phase / "manifest.json").is_file():
        make_world(
            data, seed=seed, samples=samples, test=100, quota=2, validation=100, ceiling_samples=0, overwrite=True
        )
        _, parts = packed_series(data)
        write_phenology(parts, cycles, PhenologyConfig(), source=data.name)
        write_phase_set(data, cycles, phase, overwrite=True, progress=False)
    dataset = PackedDataset(data)
    table = dataset.samples()
    block = spatial_blocks(table["longitude"].to_numpy(), table["latitude"].to_numpy(), BLOCK_KM)
    names = np.random.default_rng([seed, 0xFA]).permutation(np.unique(block))
    held_out = np.isin(block, names[: len(names) // 3])
    taxa = np.asarray(dataset.taxa)
    test = np.flatnonzero(held_out & np.isin(taxa, taxa[~held_out]))
    ids = table["sample_id"].astype(str).to_numpy()
    split = pd.concat(
        [
            pd.DataFrame({"sample_id": ids[rows], "fold": 0, "role": role})
            for rows, role in ((np.flatnonzero(~held_out), "train"), (test, "test"))
        ]
    )
    for place in (data, phase):
        (place / "splits").mkdir(exist_ok=True)
        split.to_parquet(place / "splits" / "bench.parquet", index=False)
    counts = pd.read_parquet(cycles)["source"].value_counts()
    sets = {"calendar": data, "hemisphere": data, "phase": phase}
    south = table["latitude"].to_numpy()[test] < 0
    return World(sets, test, block[test], south, {str(name): int(count) for name, count in counts.items()})


def trained(world: World, encoding: str, out: Path, steps: int, seed: int) -> dict[str, Floats]:
    """Hits of a model that was trained with an encoding, [m]."""
    config = RunConfig(
        data=str(world.sets[encoding]), out=str(out), split="bench", fold=0, validation=0.0, steps=steps, seed=seed,
        trackers=(), threads=1, schedule=ScheduleConfig(validations=0),
        model=ModelChoice(name="tiny", inputs=("image", "location"), observation={"dropout": 0.1, "season": encoding}),
        optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=0.1),
        augment=AugmentConfig(drop_image=0.0, drop_groups=0.1, keep_one_image=0.1, drop_step=0.3, band_noise=0.05),
    )  # fmt: skip
    loaded = load_model(train(config, quiet=True))
    dataset = PackedDataset(world.sets[encoding])
    taxa = np.unique(np.asarray(dataset.taxa)[world.test])
    prompts = [loaded.taxonomy[int(taxon)].prompt() for taxon in taxa]
    hits = []
    with torch.inference_mode():
        texts = loaded.model.encode_text(loaded.model.tokenize(prompts))
        for packed in sequential(dataset, world.test, 512):
            places = loaded.model.encode_observations(from_packed(packed))
            hits.append(taxa[(places @ texts.t()).argmax(1).numpy()] == packed.taxon)
    return {"hits": np.concatenate(hits).astype(np.float64)}


def table(hits: dict[str, list[Floats]], worlds: list[World]) -> list[dict[str, Any]]:
    """A row for each group and encoding."""
    rows = []
    for group in GROUPS:
        chosen = [np.ones(len(w.test), bool) if group == "all" else w.south == (group == "south") for w in worlds]
        blocks = [world.block[some] for world, some in zip(worlds, chosen, strict=True)]
        for encoding, values in hits.items():
            own = [value[some] for value, some in zip(values, chosen, strict=True)]
            base = [value[some] for value, some in zip(hits["calendar"], chosen, strict=True)]
            gain = [a - b for a, b in zip(own, base, strict=True)]
            rows.append({
                "group": group, "encoding": encoding, "samples": sum(map(len, own)), "top1": interval(own, blocks),
                "gain": interval(gain, blocks), "gain_by_seed": [float(part.mean()) for part in gain],
            })  # fmt: skip
    return rows


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; what is finished there is kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=20_000, help="of a world (%(default)s)")
    parser.add_argument("--steps", type=int, default=450, help="of each training (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    settings = {"samples": args.samples, "steps": args.steps}
    bench = Bench(args.out, settings)
    hits: dict[str, list[Floats]] = {name: [] for name in ENCODINGS}
    worlds = []
    for seed in range(args.seeds):
        worlds.append(prepare(args.out, seed, args.samples))
        print(f"seed {seed}: {len(worlds[-1].test)} test samples, greenup {worlds[-1].sources}", flush=True)
        for encoding in ENCODINGS:
            name = f"{encoding}-{seed}"
            hits[encoding].append(
                bench.hits(name, trained, worlds[-1], encoding, args.out / name, args.steps, seed)["hits"]
            )
    rows = table(hits, worlds)
    print("\n| samples | days | top-1 [95 %] | gain over the calendar [95 %] | by seed |\n|---|---|---|---|---|")
    for row in rows:
        top, gain = ([100 * value for value in row[name]] for name in ("top1", "gain"))
        gained = f"{gain[0]:+.1f} [{gain[1]:+.1f}, {gain[2]:+.1f}]" if row["encoding"] != "calendar" else ""
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in row["gain_by_seed"]) if gained else ""
        accuracy = f"{top[0]:.1f} [{top[1]:.1f}, {top[2]:.1f}]"
        print(f"| {row['group']} | {row['encoding']} | {accuracy} | {gained} | {by_seed} |")
    result = {"rows": rows, "settings": settings, "seeds": args.seeds, "greenup": [world.sources for world in worlds]}
    path = args.out / "results.json"
    write_atomically(path, lambda aside: aside.write_text(json.dumps(result, indent=1) + "\n"))
    print(f"\nwrote {path}; {(time.process_time() - began) / 60:.1f} minutes of the CPU")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
