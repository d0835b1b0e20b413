"""The arguments of zero-shot scoring, apart from its work so that help is instant."""

from __future__ import annotations

import argparse
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.inputs import INPUT_SETS
from geotreeclip.evaluation.options import BLOCK_KM, RESAMPLES, VARIANTS

__all__ = ["add_arguments", "check_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "--model", required=True, metavar="RUN", help="training run, model directory, or the published GGT_6M.pth"
    )
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="SET",
        help="packed set; or published shards (tar, folder, https://, hf://datasets/...), or 10kEval-90, 10kEval-300, "
        "10kEval-900 from the hub",
    )  # fmt: skip
    parser.add_argument(
        "--samples", nargs="+", default=[], metavar="CSV",
        help="tables with year, country, source, rarity by sample_id, for published shards",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="report.json", help="report to write; .md beside it")
    parser.add_argument(
        "--labels", nargs="+", metavar="LIST",
        help="candidate lists, side by side: set (its taxa), model (all that it knows), or tables of taxa; default: "
        "set, or nothing else with --country",
    )  # fmt: skip
    parser.add_argument(
        "--country", nargs="+", default=[], metavar="CODE", help="score the samples of a country against its species"
    )
    parser.add_argument(
        "--checklist", type=Path, metavar="CSV",
        help="species of --country, by a column country where it holds several; default: those of the set's samples",
    )  # fmt: skip
    parser.add_argument(
        "--variants", metavar="A,B",
        help=f"of {', '.join(VARIANTS)}; default: the original beside each that differs from it",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-species", type=Path, metavar="CSV",
        help="further classes that are no species, for rank-cleaned; those documented of the published sets are known",
    )  # fmt: skip
    parser.add_argument("--trees", type=Path, metavar="CSV", help="names of trees, such as GlobalTreeSearch, for trees")
    parser.add_argument(
        "--published-exact", action="store_true",
        help="also count as the published script does: whole batches of 512 alone, normalised by batch where the model "
        "is the published one, five runs",
    )  # fmt: skip
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="score its test samples; default: the split trained with, else default, else all samples",
    )
    parser.add_argument("--fold", type=int, metavar="K", help="fold of the split")
    parser.add_argument(
        "--prior", choices=("uniform", "training", "both"), default="both", help="prior over the labels"
    )
    parser.add_argument(
        "--inputs", metavar="A,B", help=f"sets of inputs: {', '.join(INPUT_SETS)}; default: all that differ"
    )
    parser.add_argument("--block-km", type=float, default=BLOCK_KM, help="edge of the blocks of the intervals")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="resamples of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--batch-size", type=int, help="samples at a time")
    parser.add_argument("--device", help="torch device; default: a GPU where there is one")
    parser.add_argument("--name", help="name of the set in the report; default: name of its directory")
    parser.add_argument("--system", default="geotreeclip", help="name of the model in the report")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ConfigError: If the report is no .json, or a number is out of range.
    """
    if args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    if args.resamples < 1:
        raise ConfigError(f"--resamples {args.resamples}: give at least 1, better {RESAMPLES:,}")
    if args.batch_size is not None and args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: give at least 1")
    if not args.block_km >= 0:  # also false for NaN
        raise ConfigError(f"--block-km {args.block_km:g}: give 0 (single places) or more")
