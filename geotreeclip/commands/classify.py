"""`geotreeclip classify POINTS`: the likeliest taxa of each place, batch by batch."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.commands import candidates, output, places, runlog
from geotreeclip.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.inference import Classifier
    from geotreeclip.observations import ObservationBatch

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    places.add_arguments(parser)
    candidates.add_model_arguments(parser)
    candidates.add_candidate_arguments(parser)
    parser.add_argument(
        "--rank",
        default="species",
        choices=("species", "genus", "family", "leaf_type"),
        help="rank of the answers; probabilities of species are summed to it (default: %(default)s)",
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="answers a place (default: %(default)s)")
    parser.add_argument(
        "--prior",
        default="training",
        help='how common the candidates are: "training", "uniform", or a CSV with columns label and weight '
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.8, metavar="P",
        help="probability that an answer must reach to be given at its rank, in the columns back_off (default: "
        "%(default)s)",
    )  # fmt: skip
    parser.add_argument("--uncalibrated", action="store_true", help="leave the model's calibration out")
    parser.add_argument(
        "--explain", type=Path, metavar="FILE",
        help="write a second table: months, bands and variables that moved each answer (about 50 times the work)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path,
        help=f"file to write, {', '.join(output.FORMATS)}; by default CSV on standard output. Interrupted, the same "
        "command goes on",
    )  # fmt: skip
    runlog.add_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the table, the model or an argument is not right.
    """
    output.check_format(args.out)
    output.check_format(args.explain, "--explain")
    if args.top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {args.top_k}")
    if not 0 < args.threshold <= 1:
        raise InputError(f"--threshold must lie above 0 and at most at 1, got {args.threshold:g}")
    with runlog.written_log(args.log) as account:
        _run(args, account)


def _run(args: argparse.Namespace, account: dict[str, Any]) -> None:
    batches = places.open_places(args)
    first = next(batches)  # before the model: what is wrong with the table is said at once
    classifier, plan = candidates.open_model(args, account)
    labels = candidates.candidates(args, classifier)
    table = output.BatchedTable(args.out, {**plan, "table": "answers"})
    try:
        reasons = None if args.explain is None else output.BatchedTable(args.explain, {**plan, "table": "reasons"})
    except DataError:
        if not table.done:
            table.discard()
        raise
    skip = table.done if reasons is None else min(table.done, reasons.done)
    table.done = skip
    if reasons is not None:
        reasons.done = skip
    if skip:
        print(f"note: going on after {skip * places.ROWS:,} places that are done", file=sys.stderr)
        first = next(batches := places.open_places(args, skip), None)  # type: ignore[assignment]
    _answer(args, classifier, labels, first, batches, table, reasons, skip, account)
    account["outputs"] = [runlog.describe_file(path) for path in (args.out, args.explain) if path is not None]


def _answer(
    args: argparse.Namespace,
    classifier: Classifier,
    labels: Any,
    first: places.PlaceBatch | None,
    batches: Any,
    table: output.BatchedTable,
    reasons: output.BatchedTable | None,
    skip: int,
    account: dict[str, Any],
) -> None:
    from tqdm import tqdm

    options = {"labels": labels, "rank": args.rank, "prior": args.prior}
    options["calibrated"] = False if args.uncalibrated else None
    started, done, batch = time.monotonic(), 0, first
    bar = tqdm(desc="places", unit="", initial=skip * places.ROWS, disable=args.out is None or not sys.stderr.isatty())
    try:
        while batch is not None:
            with warnings.catch_warnings():
                if done:  # what looks odd is said once, not for each batch
                    warnings.simplefilter("ignore", UserWarning)
                observations: ObservationBatch = batch.build(classifier)
                found = classifier.classify_batch(observations, top_k=args.top_k, sample_ids=batch.samples, **options)
            if reasons is not None:
                reasons.write(classifier.explain_batch(observations, sample_ids=batch.samples, **options))
            table.write(_with_places(found.to_pandas(args.threshold), batch, found.top_k))
            done += len(batch.samples)
            bar.update(len(batch.samples))
            batch = next(batches, None)
    except InputError:  # other input is another table
        table.discard()
        if reasons is not None:
            reasons.discard()
        raise
    except KeyboardInterrupt:
        if args.out is not None:
            kept = (table.done) * places.ROWS
            print(f"note: {kept:,} places are kept in {args.out}.parts; the same command goes on", file=sys.stderr)
        raise
    finally:
        bar.close()
    seconds = time.monotonic() - started
    table.finish()
    if reasons is not None:
        reasons.finish()
    account |= {"places": done, "places_before": skip * places.ROWS, "calibrated": classifier.calibration is not None}
    if args.out is not None:
        print(f"{done:,} places in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f}/s): {args.out}", file=sys.stderr)


def _with_places(frame: pd.DataFrame, batch: places.PlaceBatch, top_k: int) -> pd.DataFrame:
    """Coordinates behind the identifiers, where any are known in the batch or not: every batch has the same columns."""
    frame.insert(1, "longitude", batch.longitude.repeat(top_k))
    frame.insert(2, "latitude", batch.latitude.repeat(top_k))
    return frame
