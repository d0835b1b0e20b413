"""`geotreeclip card MODEL`: the model card, and what lies beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from geotreeclip.errors import DataError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", nargs="?", help="as --model elsewhere; by default the default model")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If there is no such model, or it has no card.
    """
    from geotreeclip.model_sources import find_model

    directory = find_model(args.model)
    path = Path(directory) / "README.md"
    if not path.is_file():
        raise DataError(f"{directory}: has no README.md, the model card; training and `geotreeclip convert` write one")
    print(path.read_text(encoding="utf-8"))
