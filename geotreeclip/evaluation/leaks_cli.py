"""Command line of `eval/audit.py`: the leak audit of splits, or of one set against another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import DataError
from geotreeclip.evaluation.leaks import NEAR_KM, Audit, audit, audit_split, samples_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each split and fold."""
    parser = argparse.ArgumentParser(
        prog="audit.py",
        description="Leak audit: how near test samples are to training samples, and how often the label of the nearest "
        "one is right. Audits every split of a set, or a whole set against the set that a model was trained on.",
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="packed set")
    parser.add_argument("--split", action="append", metavar="NAME", help="split to audit; may be given again")
    parser.add_argument("--train", type=Path, metavar="DIR", help="packed set of training; audits all of --data")
    args = parser.parse_args(argv)
    from geotreeclip.data.packed import PackedDataset

    dataset = PackedDataset(args.data)
    found: dict[str, Audit] = {}
    if args.train:
        found[f"{args.data.name} against {args.train.name}"] = audit(
            samples_of(dataset), samples_of(PackedDataset(args.train))
        )
    else:
        names = args.split or sorted(path.stem for path in (dataset.directory / "splits").glob("*.parquet"))
        if not names:
            raise DataError(f"{args.data}: has no splits; make one with data_prep/splits.py, or give --train DIR")
        for name in names:
            for fold, part in audit_split(dataset, name).items():
                found[f"{name}, fold {fold}"] = part
    print("\n".join(table(found)))
    return 0


def table(audits: dict[str, Audit]) -> list[str]:
    """The audits as Markdown."""
    near = [f"within {km * 1000:g} m" if km < 1 else f"within {km:g} km" for km in NEAR_KM]
    head = [
        "what",
        "test",
        "train",
        "same id",
        "same place",
        *near,
        "same 100 km block",
        "median km",
        "neighbour right",
    ]
    lines = [f"| {' | '.join([*head, 'majority right'])} |", f"| --- {'| ---: ' * len(head)}|"]
    for name, item in audits.items():
        cells = [
            name, f"{item.test:,}", f"{item.train:,}", f"{item.same_id:,}", f"{item.same_place:,}",
            *(f"{share:.1%}" for share in item.near.values()), f"{item.same_block:.1%}", f"{item.median_km:.3g}",
            f"{item.neighbour_top1:.1%}", f"{item.majority_top1:.1%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines
