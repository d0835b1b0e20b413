"""`geotreeclip card MODEL`: the model card, as it is or written anew from the run and from reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from geotreeclip.errors import ConfigError, DataError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", nargs="?", help="as --model elsewhere; by default the default model")
    parser.add_argument(
        "--report", nargs="+", type=Path, default=[], metavar="report.json",
        help="reports of `geotreeclip evaluate`: a new card with their scores is made",
    )  # fmt: skip
    parser.add_argument("--new", action="store_true", help="make a new card also without reports")
    parser.add_argument(
        "--size",
        metavar="NAME",
        help="print the card of a size that has no weights yet, or of published: the checkpoint",
    )
    parser.add_argument(
        "--weights-licence", default="", metavar="SPDX", help="licence of the weights, such as cc-by-4.0"
    )
    parser.add_argument("--data-licence", default="", metavar="TEXT", help="licences of the training data, in words")
    parser.add_argument("--write", action="store_true", help="put the new card into the model directory")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If there is no such model, it has no card, or a report is of another one.
    """
    if args.size is not None:
        from geotreeclip.model_card_texts import size_card

        if args.model or args.report or args.new or args.write:
            raise ConfigError("--size goes alone: it is the card of no model directory")
        print(size_card(args.size), end="")
        return

    from geotreeclip.model_sources import find_model

    directory = find_model(args.model)
    path = Path(directory) / "README.md"
    if not (args.report or args.new or args.write):
        if not path.is_file():
            raise DataError(
                f"{directory}: has no README.md, the model card; `geotreeclip card --new --write` makes one"
            )
        print(path.read_text(encoding="utf-8"))
        return

    from geotreeclip.data.shardfile import write_atomically
    from geotreeclip.model_card import model_card, read_report
    from geotreeclip.models.calibration import read_calibration
    from geotreeclip.models.directory import load_model
    from geotreeclip.ranges import read_ranges

    loaded = load_model(directory)
    reports = [read_report(report, loaded.fingerprint) for report in args.report]
    inside = loaded.directory is not None
    text = model_card(
        loaded,
        read_calibration(directory, loaded.fingerprint) if inside else None,
        read_ranges(directory) if inside else None,
        reports,
        weights_licence=args.weights_licence,
        data_licence=args.data_licence,
    )
    if not args.write:
        print(text)
        return
    if not inside:
        raise DataError(f"{directory} is a file; `geotreeclip convert` makes a model directory that can hold a card")
    try:
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    print(f"Written: {path}")
