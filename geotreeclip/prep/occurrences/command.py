"""Command line of `data_prep/occurrences.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.prep.partitions import add_run_arguments

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Clean occurrences and print the report."""
    from geotreeclip.data.licences import licence_code
    from geotreeclip.prep.occurrences.job import Job, clean_occurrences
    from geotreeclip.prep.occurrences.rules import RuleOptions
    from geotreeclip.prep.occurrences.sources import ReadingOptions
    from geotreeclip.prep.occurrences.taxa import TaxonTables

    args = _parser().parse_args(argv)
    rules = RuleOptions(
        skip=tuple(args.skip), issues=tuple(name.upper() for name in args.issues), basis=tuple(args.basis),
        obscured_uncertainty=args.obscured_uncertainty, max_uncertainty=args.max_uncertainty,
        min_decimals=args.min_decimals, first_year=args.first_year, last_year=args.last_year, kingdom=args.kingdom,
        licences=tuple(licence_code(name) for text in args.licences for name in text.split(",") if name.strip()),
        exclude_noncommercial=args.exclude_noncommercial,
        require_backbone=args.require_backbone, tree_evidence=args.tree_evidence, mask_min=args.mask_min,
        duplicate_decimals=args.duplicate_decimals,
    )  # fmt: skip
    if args.require_backbone and args.backbone is None:
        raise ConfigError("--require-backbone needs --backbone")
    job = Job(
        inputs=tuple(args.inputs), out=args.out, rules=rules, mask=args.mask, overwrite=args.overwrite,
        tables=TaxonTables(args.backbone, tuple(args.trees), tuple(args.growth), tuple(args.leaf_types)),
        reading=ReadingOptions(args.encoding, args.separator.replace("\\t", "\t"), args.quote),
        workers=args.workers, scheduler=args.scheduler, retries=args.retries,
    )  # fmt: skip
    print(f"cleaning {len(args.inputs)} files or folders of occurrences into {args.out}")
    report = clean_occurrences(job)
    print(report.text())
    print(f"{args.out}: occurrences.parquet, refused.parquet, taxa.parquet, datasets.csv, report.json, report.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    from geotreeclip.prep.occurrences.rules import BASES, ISSUES, RULES

    listed = "\n".join(f"  {rule.name:<12} {rule.refuses}" for rule in RULES)
    parser = argparse.ArgumentParser(
        prog="data_prep/occurrences.py",
        description="GBIF downloads and other tables of occurrences to one clean Parquet table.",
        epilog=f"rules, in order:\n{listed}\n\nA stopped run goes on when the same command is given again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Darwin Core Archives, SIMPLE_CSV (zip, gz or plain), SIMPLE_PARQUET (folder, file or zip), CSV tables",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the outputs")
    add("--overwrite", action="store_true", help="replace the result of other files or options")
    add("--skip", nargs="+", action="extend", default=[], metavar="RULE", help="rules that refuse nothing")
    text = parser.add_argument_group("text files, where they do not show it themselves")
    text.add_argument("--encoding", default="", help="for example latin-1 (default: utf-8, or as meta.xml says)")
    text.add_argument("--separator", default="", help="one character, or \\t")
    text.add_argument("--quote", default="", help="a quotation mark, or none where it is an ordinary character")
    taxa = parser.add_argument_group("taxa")

    def tables(flag: str, words: str) -> None:
        taxa.add_argument(flag, type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=words)

    taxa.add_argument(
        "--backbone",
        type=Path,
        metavar="FILE",
        help="Taxon.tsv of the GBIF backbone (plain, gz, in its zip) or a CSV of names and accepted names",
    )
    taxa.add_argument("--require-backbone", action="store_true", help="refuse names that the backbone does not hold")
    tables("--trees", "lists of trees, such as GlobalTreeSearch")
    tables("--growth", "tables of growth form and woodiness")
    taxa.add_argument(
        "--tree-evidence",
        default="listed",
        metavar="HOW",
        help="listed: trees are what a list holds, where one is given; excluded: all without evidence against "
        "(default %(default)s)",
    )
    tables("--leaf-types", "tables of leaf types by species, genus or family")
    taxa.add_argument("--kingdom", default="Plantae", help='the only one accepted, "" for all (default %(default)s)')
    place = parser.add_argument_group("places")
    place.add_argument("--max-uncertainty", type=float, default=1000.0, metavar="M", help="(default %(default)g)")
    place.add_argument(
        "--obscured-uncertainty",
        type=float,
        default=20000.0,
        metavar="M",
        help="from here a place counts as hidden on purpose (default %(default)g)",
    )
    place.add_argument(
        "--min-decimals",
        type=int,
        default=3,
        metavar="N",
        help="decimals that one of the coordinates must have, 0 for none (default %(default)d)",
    )
    place.add_argument(
        "--duplicate-decimals",
        type=int,
        default=5,
        metavar="N",
        help="decimals to which places of a species are compared (default %(default)d)",
    )
    place.add_argument("--mask", type=Path, metavar="RASTER", help="for example tree cover; places below are refused")
    place.add_argument(
        "--mask-min", type=float, default=1.0, metavar="X", help="lowest accepted value (default %(default)g)"
    )
    record = parser.add_argument_group("records")
    record.add_argument("--first-year", type=int, default=2015, metavar="Y", help="(default %(default)d)")
    record.add_argument("--last-year", type=int, default=0, metavar="Y", help="0 for none (default)")
    record.add_argument("--basis", nargs="+", default=list(BASES), metavar="NAME", help=f"(default {' '.join(BASES)})")
    record.add_argument(
        "--issues", nargs="+", default=list(ISSUES), metavar="NAME", help=f"(default {' '.join(ISSUES)})"
    )
    record.add_argument(
        "--licences", nargs="+", action="extend", default=[], metavar="NAME",
        help="keep only records under these, such as CC0_1_0 CC_BY_4_0; records that state none are refused, too",
    )  # fmt: skip
    record.add_argument(
        "--exclude-noncommercial",
        action="store_true",
        help="keep only records whose licence is known to allow commercial use",
    )
    add_run_arguments(parser)
    return parser
