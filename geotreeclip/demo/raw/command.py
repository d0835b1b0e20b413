"""The command `python -m geotreeclip.demo.raw`; numpy and the rest are imported when it runs."""

from __future__ import annotations

import argparse

from geotreeclip.demo.config import PRESETS
from geotreeclip.errors import run_main

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the raw files")
    parser.add_argument("--samples", type=int, default=300, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--preset", default="image-led", choices=list(PRESETS), help="what tells most of a species")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world (default %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished folder")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from geotreeclip.demo.raw.make import make_raw_world

    print(f"{args.samples} samples of a planted forest as raw files in {args.out}", flush=True)
    make_raw_world(
        args.out, args.samples, args.preset, args.seed, overwrite=args.overwrite,
        progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    return 0


def main(argv: list[str] | None = None) -> int:
    """`python -m geotreeclip.demo.raw`."""
    parser = argparse.ArgumentParser(
        prog="python -m geotreeclip.demo.raw",
        description="Make a planted forest as raw files: records, scenes, rasters, and the truth behind them.",
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    return run_main(lambda: run(args))
