"""`geotreeclip embed POINTS`: the embedding of each place, with its coordinates."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from geotreeclip.commands import candidates, output, places, runlog
from geotreeclip.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    places.add_arguments(parser)
    candidates.add_model_arguments(parser)
    parser.add_argument("--raw", action="store_true", help="the encoder's own length instead of unit length")
    parser.add_argument(
        "--out", required=True, type=Path,
        help=f"file to write, {', '.join(output.FORMATS)}: a list column, in CSV one column a dimension",
    )  # fmt: skip
    runlog.add_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the table, the model or an argument is not right.
    """
    output.check_format(args.out)
    with runlog.written_log(args.log) as account:
        _run(args, account)


def _run(args: argparse.Namespace, account: dict[str, Any]) -> None:
    import pandas as pd

    next(places.open_places(args))  # before the model: what is wrong with the table is said at once
    classifier, plan = candidates.open_model(args, account)
    table = output.BatchedTable(args.out, {**plan, "table": "embeddings"})
    if table.done:
        print(f"note: going on after {table.done * places.ROWS:,} places that are done", file=sys.stderr)
    started, done = time.monotonic(), 0
    try:
        for batch in places.open_places(args, table.done):
            with warnings.catch_warnings():
                if done:
                    warnings.simplefilter("ignore", UserWarning)
                embedded = classifier.embed_batch(batch.build(classifier), normalize=not args.raw)
            frame = pd.DataFrame(
                {
                    "sample": list(batch.samples),
                    "longitude": batch.longitude,
                    "latitude": batch.latitude,
                    "embedding": list(embedded),
                    "model": classifier.fingerprint[:12],
                }
            )
            table.write(frame)
            done += len(batch.samples)
    except InputError:
        table.discard()
        raise
    table.finish()
    seconds = time.monotonic() - started
    account |= {"places": done, "outputs": [runlog.describe_file(args.out)]}
    print(f"{done:,} places in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f}/s): {args.out}", file=sys.stderr)
