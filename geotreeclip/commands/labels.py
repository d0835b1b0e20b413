"""`geotreeclip labels`: what a model can answer with, and where it saw it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from geotreeclip.commands import candidates, output

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    candidates.add_model_arguments(parser)
    candidates.add_candidate_arguments(parser)
    parser.add_argument("--out", type=Path, help="CSV or Parquet file to write; by default CSV on standard output")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the model or an argument is not right.
    """
    output.check_format(args.out)

    from geotreeclip.candidates import read_labels
    from geotreeclip.inference import load

    classifier = load(args.model, args.device)
    labels = read_labels(candidates.candidates(args, classifier), classifier.taxonomy)
    frame = labels.frame()
    frame["training_samples"] = classifier.counts_of(labels)
    if classifier.ranges is not None:
        cells = dict(zip(classifier.ranges.taxa, (len(cells) for cells in classifier.ranges.cells), strict=True))
        frame["cells_100km"] = [cells.get(taxon, 0) for taxon in labels]
    table = output.BatchedTable(args.out, {})
    table.write(frame)
    table.finish()
    if args.out is not None:
        print(f"{len(frame):,} labels: {args.out}", file=sys.stderr)
