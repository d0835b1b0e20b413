"""Writes a planted forest as a packed directory with its splits and its Bayes ceiling.

Besides the packed set itself the directory has

- `splits/default.parquet`: fold 0; validation and test are drawn like training, species as frequent as there;
- `splits/quota.parquet`: fold 0; the same training and validation, and a test set with the same number of records of
  each species, as the published evaluation sets have it;
- `ceiling.json`: rows of a report (see `ceiling`), with the configuration of the world.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geotreeclip.demo.ceiling import CEILING_SAMPLES, ceiling_rows
from geotreeclip.demo.config import world_config
from geotreeclip.demo.world import World, build_world, draw_environment, draw_images, draw_records
from geotreeclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["make_world"]

_CHUNK = 1024
_BLOCK_KM = 100.0
_YEAR = 2020  # the published imagery is of 2020; a world has no years
_SEED_SAMPLES = 200  # first of the streams that draw samples, one a chunk


def make_world(
    out: str | Path,
    preset: str = "image-led",
    seed: int = 0,
    samples: int | None = None,
    *,
    validation: int | None = None,
    test: int = 5000,
    quota: int = 30,
    ceiling_samples: int = CEILING_SAMPLES,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    knobs: Mapping[str, float] | None = None,
) -> World:
    """Make a world, draw its samples and write them.

    Args:
        out: The directory.
        preset: A key of `config.PRESETS`.
        seed: The same arguments and seed give the same files.
        samples: Training samples; None for the full size (`ranges.FULL_SIZE`), where species are rare (21 to 100
            training records), common (101 to 1,499) and frequent (1,500 and more) as published.
        validation: Validation samples; None for a tenth of `samples`.
        test: Test samples of the default split.
        quota: Test samples of each species in the split `quota`; 0 leaves that split out.
        ceiling_samples: Fresh samples for each prior of the ceiling; 0 leaves `ceiling.json` out.
        overwrite: Whether a finished set in `out` may be replaced.
        progress: Called with a line of text after each step.
        knobs: Fields of `config.WorldConfig` that differ from the preset.

    Returns:
        The world, which knows the truth about the samples.

    Raises:
        ConfigError: Unknown preset or knob, or an impossible number.
        DataError: `out` holds a finished set, or cannot be written.
    """
    say = progress or (lambda line: None)
    if min(test, quota, ceiling_samples, 0 if validation is None else validation) < 0:
        raise ConfigError("demo: numbers of samples must not be negative")
    started = time.monotonic()
    world = build_world(world_config(preset, seed=seed, **(knobs or {})), samples)
    training = int(world.counts.sum())
    roles = {"train": training, "validation": round(training / 10) if validation is None else validation, "test": test}
    table = _write_samples(world, Path(out), roles, quota, preset, overwrite)
    say(f"{len(table):,} samples of {len(world.counts)} species written in {time.monotonic() - started:.0f} s")
    if ceiling_samples:
        started = time.monotonic()
        rows = ceiling_rows(world, ceiling_samples)
        content = {"meta": {"preset": preset, "config": asdict(world.config)}, "rows": rows}
        _write_text(Path(out) / "ceiling.json", json.dumps(content, indent=1) + "\n")
        main_row = next(row for row in rows if row["inputs"] == "all" and row["prior"] == "training")
        say(f"Bayes ceiling {100 * main_row['value']:.1f} % top-1, computed in {time.monotonic() - started:.0f} s")
    return world


def _write_samples(
    world: World, out: Path, roles: dict[str, int], quota: int, preset: str, overwrite: bool
) -> pd.DataFrame:
    """Write all samples and the splits; returns the table of samples with a column `role`."""
    import pandas as pd

    from geotreeclip.data.writer import PackedWriter
    from geotreeclip.evaluation.metrics import rarity_of_counts
    from geotreeclip.evaluation.splits import spatial_blocks, write_split

    rng = np.random.default_rng([world.config.seed, 10])
    species = [np.repeat(np.arange(len(world.counts)), world.counts)]
    species += [rng.choice(len(world.counts), size=roles[role], p=world.prior) for role in ("validation", "test")]
    records = draw_records(world, rng, species=np.concatenate(species))
    even = draw_records(world, rng, recorded=np.repeat(np.arange(len(world.counts)), quota))
    records = type(records)(*(np.concatenate(pair) for pair in zip(records, even, strict=True)))
    role = np.repeat([*roles, "quota"], [*roles.values(), quota * len(world.counts)])
    order = rng.permutation(len(role))  # neighbours in a shard are no relatives
    records, role = type(records)(*(field[order] for field in records)), role[order]
    in_training = np.bincount(records.recorded[role == "train"], minlength=len(world.counts))
    if overwrite:
        shutil.rmtree(out / "splits", ignore_errors=True)
        (out / "ceiling.json").unlink(missing_ok=True)  # no ceiling of another world stays behind
    tables = []
    with PackedWriter(
        out, world.taxonomy, source=f"planted forest, preset {preset}, seed {world.config.seed}", worldclim="2.1",
        resolution="made", overwrite=overwrite,
    ) as writer:  # fmt: skip
        for start in range(0, len(role), _CHUNK):
            part = slice(start, start + _CHUNK)
            some = type(records)(*(field[part] for field in records))
            chunk_rng = np.random.default_rng([world.config.seed, _SEED_SAMPLES, start])
            environment = draw_environment(world, some, chunk_rng)
            samples = pd.DataFrame({
                "sample_id": [f"planted-{row:06d}" for row in range(start, start + len(some.site))],
                "longitude": environment[:, 0], "latitude": environment[:, 1], "year": _YEAR, "country": "",
                "source": "planted forest", "rarity": rarity_of_counts(in_training[some.recorded]),
            })  # fmt: skip
            writer.add(
                draw_images(world, some, chunk_rng), environment, some.recorded, samples["sample_id"].tolist(), samples
            )
            tables.append(samples.assign(role=role[part]))
    table = pd.concat(tables, ignore_index=True)
    split = table[["sample_id", "role"]].assign(fold=0)
    split["block"] = spatial_blocks(table["longitude"], table["latitude"], _BLOCK_KM)
    write_split(out, "default", split[split["role"] != "quota"])
    if quota:
        write_split(out, "quota", split[split["role"] != "test"].replace({"role": {"quota": "test"}}))
    return table


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
