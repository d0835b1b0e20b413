"""`geotreeclip export MODEL --out DIR`: a model as one program that plain torch runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from geotreeclip.commands import candidates

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", nargs="?", help="as --model elsewhere; by default the default model")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory to write model.pt2 and model.json into"
    )
    candidates.add_candidate_arguments(parser)
    parser.add_argument(
        "--prior",
        default="training",
        help="how common the labels are where the program is used: training, uniform, or a CSV of weights",
    )
    parser.add_argument(
        "--uncalibrated", action="store_true", help="leave out the calibration that the model directory holds"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the model or an argument is not right, or the model cannot be exported.
    """
    from geotreeclip.inference import load

    classifier = load(args.model, "cpu")
    labels = candidates.candidates(args, classifier)
    print(f"Exporting {classifier} to {args.out} ...", flush=True)
    done = classifier.export(args.out, labels, args.prior, calibrated=False if args.uncalibrated else None)
    size = sum(path.stat().st_size for path in done.directory.iterdir())
    print(
        f"Written: {done.directory}, model.pt2 and model.json, {size / 1e6:.1f} MB: {done.labels:,} labels; differs "
        f"from the model by {done.difference:.1e} at most. torch.export.load reads it; see docs/export.md."
    )
