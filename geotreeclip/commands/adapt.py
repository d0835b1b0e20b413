"""`geotreeclip adapt TABLE --model MODEL --out DIR`: a model for a person's own labels, from a few samples of each."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

__all__ = ["adapt_model", "add_arguments", "add_sample_arguments", "names", "numbers", "run"]

METHODS = ("prototype", "text", "logistic", "lda", "lda-inputs", "combined", "low-rank", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "table",
        type=Path,
        help="CSV or Parquet with a column of labels beside those that classify reads, or npz with images and labels",
    )
    parser.add_argument(
        "--model", help="training run, model directory or hf-hub:owner/name; by default the default model"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory of the adapted model")
    add_sample_arguments(parser)


def add_sample_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare what says how the samples are to be read, and how the model is adapted."""
    parser.add_argument("--method", choices=METHODS, default="combined", help="head, or tuning of the tower")
    parser.add_argument("--label", metavar="COLUMN", help="column or array of labels; default: species, label, ...")
    parser.add_argument("--images", type=Path, metavar="FILE.npy", help="images [N, T, C, H, W] of a table's rows")
    parser.add_argument("--bands", type=names, metavar="B2,B3", help="bands in the order of the images")
    parser.add_argument("--months", type=numbers, metavar="6,7", help="calendar months of the time steps")
    parser.add_argument("--steps", type=names, metavar="A,B", help='or dates and periods: "2022-03..05,2022-08-15"')
    parser.add_argument("--scale", choices=("auto", "dn", "reflectance"), default="auto")
    parser.add_argument("--offset", type=float, default=0.0, metavar="DN", help="digital numbers to take away: 1000 "
                        "where the offset of processing baseline 04.00 is still in the values")  # fmt: skip
    parser.add_argument("--worldclim", choices=("2.1", "1"), default="2.1", help="units of bio variables")
    parser.add_argument("--seed", type=int, default=0, help="of tuning")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        GeotreeclipError: If the samples, the model or an argument is not right.
    """
    return adapt_model(args.table, args)


def adapt_model(table: Path, args: argparse.Namespace) -> int:
    """Fit a head to a person's samples and write a model directory.

    Args:
        table: The samples.
        args: What `add_arguments` declares.

    Returns:
        Exit code 0.

    Raises:
        GeotreeclipError: If the samples, the model or an argument is not right, or the directory is taken.
    """
    from geotreeclip.evaluation.few_shot.tables import read_samples, read_steps

    samples = read_samples(table, label=args.label, images=args.images)
    of = args.model or "the default model"
    print(f"Adapting {of} to {len(samples):,} samples of {table} with {args.method} ...", flush=True)
    import numpy as np

    from geotreeclip.evaluation.few_shot.adapt import adapt, save_adapted
    from geotreeclip.evaluation.zero_shot import model_directory
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model
    from geotreeclip.observation_builder import build_observations

    loaded = load_model(find_model(model_directory(args.model) if args.model else None))
    options: dict[str, Any] = dict(samples.options)
    if args.bands:
        options["bands"] = args.bands
    if args.months or args.steps:
        options = {key: value for key, value in options.items() if key not in ("months", "days")}
        options.update(read_steps(np.array(args.steps), "--steps") if args.steps else {"months": args.months})
    if samples.images is not None:
        options.update(scale=args.scale, offset=args.offset)
    taxa = samples.labelled(loaded.taxonomy)
    batch = build_observations(
        samples.images, environment=samples.environment, longitude=samples.longitude, latitude=samples.latitude,
        worldclim=args.worldclim, name_sample=lambda row: f"{table}: sample {samples.sample_id[row]}", **options,
    )  # fmt: skip
    adapted = adapt(
        loaded, batch, taxa, method=args.method, longitude=samples.longitude, latitude=samples.latitude, seed=args.seed
    )
    account = {
        "source": table.name,
        "method": args.method,
        "bands": list(map(str, options.get("bands") or ())) or "all ten",
        "offset_removed": args.offset,
    }
    path = save_adapted(args.out, adapted, account)
    print(f"{len(adapted.labels)} labels; {_in_short(adapted.fit.setting)}.")
    if adapted.held_out is not None:
        print(f"Right when held out: {adapted.held_out:.1%} (the setting was chosen on the same folds).")
    print(
        f"Model: {path}, its card README.md says how it was made.\n"
        f"Use it: geotreeclip classify places.csv --model {path} --out answers.csv, or "
        f"geotreeclip.classify(..., model={str(path)!r})"
    )
    return 0


def _in_short(setting: str) -> str:
    """A setting without the weights of each strength, which the card lists."""
    while (shorter := re.sub(r" ?\([^()]*\)", "", setting)) != setting:
        setting = shorter
    return setting


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between, of an argument."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between") from error


def names(text: str) -> tuple[str, ...]:
    """Names with commas between, of an argument."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
