"""The command `geotreeclip`: finds the module of a sub-command and runs it.

Only argparse is imported here, and only the module of the sub-command that was asked for, so that help is instant.
Such a module offers `add_arguments(parser)` and `run(args)`, or, where it reads its arguments itself,
`delegate(arguments)`; it imports what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

from geotreeclip.errors import run_main

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "classify": ("geotreeclip.commands.classify", "name the likeliest taxa of each place of a table"),
    "embed": ("geotreeclip.commands.embed", "embed each place of a table"),
    "labels": ("geotreeclip.commands.labels", "list what a model can answer with"),
    "inspect": ("geotreeclip.commands.inspect", "say what a model, set, shard or table holds, and whether it is sane"),
    "card": ("geotreeclip.commands.card", "print the card of a model"),
    "train": ("geotreeclip.commands.train", "train a model on a packed set"),
    "evaluate": ("geotreeclip.commands.evaluate", "score a model on a set without training on it"),
    "adapt": ("geotreeclip.commands.adapt", "make a model for your own labels, from a few samples of each"),
    "map": ("geotreeclip.commands.map", "classify every pixel of a region: a GeoTIFF with legend and picture"),
    "convert": ("geotreeclip.commands.convert", "turn the published GGT_6M.pth into a model directory"),
    "export": ("geotreeclip.commands.export", "write a model as one torch.export program that plain torch runs"),
    "pack": ("geotreeclip.data.packing", "turn published shards into packed ones"),
    "demo": ("geotreeclip.demo.command", "make the planted forest, a world with known truth, or serve a page on it"),
}
"""Sub-command -> its module, and what it does."""

_DELEGATING = ("train",)


class _Version(argparse.Action):
    """Look the version up only when it is asked for: reading package metadata is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from geotreeclip import __version__

        print(f"geotreeclip {__version__}")
        parser.exit()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="geotreeclip",
        description="Tree species from space: Sentinel-2 time series, environment and taxonomic text in one space.",
        epilog="`geotreeclip COMMAND --help` tells more of a command.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked_for = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked_for:
            found = import_module(module)
            found.add_arguments(command)
            command.set_defaults(run=found.run, parser=command)
    return parser


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings as one line, without the place in the code."""
    print(f"note: {message}", file=file or sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; by default those of the process.

    Returns:
        Exit code: 0 after success, 2 for an error of the user's, 130 when interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> int | None:
        if given and given[0] in _DELEGATING:
            delegated: int = import_module(COMMANDS[given[0]][0]).delegate(given[1:])
            return delegated
        args, unknown = _parser(given).parse_known_args(given)
        if unknown:  # argparse would show the usage of the whole program
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        code: int | None = args.run(args)
        return code

    with warnings.catch_warnings():
        warnings.showwarning = _note
        return run_main(command)


if __name__ == "__main__":
    sys.exit(main())
