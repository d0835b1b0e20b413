"""Time since greenup in place of the date: a packed set whose steps count their days from the greenup of each place.

Steps of a year then have the position of their season everywhere, in both hemispheres and at every altitude. The days
column carries it, so that whatever reads the set needs to know nothing of it but the setting
`model.observation.season: phase`, which says that days are not to be turned once more. Phase may also tell where a
place is, so hold it against the calendar in blocked scores.

Shapes: N samples, T steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import ConfigError, DataError, InputError

if TYPE_CHECKING:
    from geotreeclip.models.config import ModelConfig

__all__ = ["MARK", "check_days", "counts_from_greenup", "main", "shift_days_to_phase", "write_phase_set"]

MARK = "phase.json"
"""File of a packed set whose days count from greenup."""

_YEAR = 365.0
_BATCH = 4096


def shift_days_to_phase(days: ArrayLike, greenup: ArrayLike) -> NDArray[np.float32]:
    """Days of steps counted from the greenup of their place.

    Args:
        days: [T, 2] or [N, T, 2], first and last day of each step, days of a 365-day year from 1, both inclusive.
        greenup: [N], day of greenup, 0 the first moment of 1 January (as in tables of `data_prep/phenology.py`).

    Returns:
        float32 [N, T, 2]: the first day in [1, 366), the last as many days after it as before.

    Raises:
        InputError: A greenup is unknown, or shapes do not agree.
    """
    start = np.asarray(greenup, dtype=np.float64)
    steps = np.asarray(days, dtype=np.float64)
    if start.ndim != 1 or steps.shape[-1:] != (2,) or (steps.ndim == 3 and len(steps) != len(start)):
        raise InputError(f"days {steps.shape} and greenup {start.shape}: give [T, 2] or [N, T, 2], and [N]")
    if not np.isfinite(start).all():
        raise InputError(f"the greenup of place {int(np.argmax(~np.isfinite(start)))} is unknown")
    steps = np.broadcast_to(steps, (len(start), *steps.shape[-2:]))
    first = (steps[..., 0] - 1 - start[:, None]) % _YEAR + 1
    return np.stack([first, first + steps[..., 1] - steps[..., 0]], axis=-1).astype(np.float32)


def counts_from_greenup(directory: Path | str) -> bool:
    """Whether the days of a packed set count from greenup."""
    return (Path(directory) / MARK).is_file()


def check_days(directory: Path | str, config: ModelConfig) -> None:
    """Compare what the days of a set are with what a model takes them for.

    Raises:
        ConfigError: One counts from New Year, the other from greenup.
    """
    phase = counts_from_greenup(directory)
    if "image" in config.observation.inputs and phase != (config.observation.season == "phase"):
        days, wants = ("since greenup", "a calendar") if phase else ("of the calendar", "days since greenup")
        mend = (
            "train with --model.observation.season phase, or score a model that was trained so"
            if phase
            else "make the set with data_prep/phase.py"
        )
        raise ConfigError(
            f"{directory}: its days are {days}, and model.observation.season {config.observation.season!r} expects "
            f"{wants}; {mend}"
        )


def write_phase_set(data: Path, phenology: Path, out: Path, *, overwrite: bool = False, progress: bool = True) -> int:
    """Write a packed set again with days counted from greenup.

    Args:
        data: Packed set with imagery.
        phenology: Table of `data_prep/phenology.py` for its samples.
        out: Folder to write; splits come along.
        overwrite: Whether a finished set there may be replaced.
        progress: Whether to show how far it is.

    Returns:
        Number of samples.

    Raises:
        DataError: A sample has no greenup, or a file cannot be read or written.
    """
    import shutil

    from tqdm import tqdm

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.data.shardfile import write_atomically
    from geotreeclip.data.writer import SAMPLE_COLUMNS, PackedWriter
    from geotreeclip.schema import MONTH_DAYS
    from geotreeclip.training.seasonal.seasons import SampleSeasons

    if counts_from_greenup(data):
        raise ConfigError(f"{data}: its days count from greenup already")
    dataset = PackedDataset(data)
    greenup = SampleSeasons.of(dataset, str(phenology)).dates
    if greenup is None or not np.isfinite(greenup[:, 0]).all():
        lost = 0 if greenup is None else int((~np.isfinite(greenup[:, 0])).sum())
        raise DataError(f"{phenology}: {lost} samples have no greenup; fit the cycles without --no-fill")
    manifest, table = dataset.manifest, dataset.samples()
    own = [name for name in table.columns if name not in SAMPLE_COLUMNS[:2]]
    out.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"days": "since greenup", "phenology": phenology.name, "data": dataset.fingerprint()}
    write_atomically(out / MARK, lambda path: path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8"))
    with (
        PackedWriter(
            out, dataset.taxonomy, bands=manifest.bands, steps=dataset.steps, size=(manifest.height, manifest.width),
            has_days=True, source=f"{manifest.source}; days since greenup", worldclim=manifest.worldclim,
            resolution=manifest.resolution, overwrite=overwrite,
        ) as writer,
        tqdm(total=len(dataset), desc="phase", unit=" samples", disable=None if progress else True) as bar,
    ):  # fmt: skip
        for start in range(0, len(dataset), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(dataset)))
            packed = dataset.read(rows)
            days = shift_days_to_phase(MONTH_DAYS if packed.days is None else packed.days, greenup[rows, 0])
            part = table.iloc[rows]
            writer.add(
                packed.images, packed.environment, packed.taxon, part["sample_id"].astype(str).tolist(),
                part[own].reset_index(drop=True), days,
            )  # fmt: skip
            bar.update(len(rows))
    if (data / "splits").is_dir():
        shutil.copytree(data / "splits", out / "splits", dirs_exist_ok=True)
    return len(dataset)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `data_prep/phase.py`."""
    parser = argparse.ArgumentParser(
        prog="data_prep/phase.py", description="A packed set whose steps count their days from greenup."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed set with imagery")
    parser.add_argument("--phenology", type=Path, required=True, metavar="FILE", help="of data_prep/phenology.py")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished set in it")
    args = parser.parse_args(argv)
    print(f"counting the days of {args.data} from greenup by {args.phenology} -> {args.out}")
    count = write_phase_set(args.data, args.phenology, args.out, overwrite=args.overwrite)
    print(f"{count:,} samples written to {args.out}; train on it with --model.observation.season phase")
    return 0
