"""Command line of `data_prep/environment.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.prep.partitions import add_run_arguments

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Sample rasters at occurrences, into a table or into packed shards without imagery."""
    args = _parser().parse_args(argv)
    if (args.table is None) == (args.out is None):
        raise ConfigError("give either --table FILE.parquet (any number of occurrences) or --out DIR (a packed set)")
    from geotreeclip.prep.environment import Options
    from geotreeclip.prep.environment_pack import pack_environment
    from geotreeclip.prep.environment_table import write_table
    from geotreeclip.prep.raster_files import find_rasters

    options = Options(args.method, args.worldclim, args.coast_km, args.terrain, args.elevation_model)
    named = _named(args.raster)
    rasters = find_rasters(args.rasters, named)
    files = sum(len(paths) for paths in rasters.values())
    print(f"reading {len(rasters)} variables of {files} rasters at the occurrences of {args.occurrences}", flush=True)
    if args.out is not None:
        report = pack_environment(
            args.occurrences, args.rasters, args.out, named=named, options=options, overwrite=args.overwrite
        )
        print(report.text())
        print(f"written to {args.out}")
        return 0
    report, run = write_table(
        args.occurrences, rasters, args.table, options, part_rows=args.part_rows, workers=args.workers,
        scheduler=args.scheduler, retries=args.retries, overwrite=args.overwrite,
    )  # fmt: skip
    print(report.text())
    if run.done:
        print(run.summary())
        print(f"{report.samples:,} rows written to {args.table}")
    else:
        print(f"{args.table} is complete already: {report.samples:,} rows")
    if run.failed:
        print("the table lacks the rows of the failed parts; the same command tries them again")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data_prep/environment.py",
        description="Sample rasters at occurrences: the 27 environmental variables, as a table for packing, or "
        "straight into packed shards without imagery.",
    )
    parser.add_argument("--occurrences", type=Path, required=True, metavar="FILE", help="CSV or Parquet")
    parser.add_argument(
        "--rasters", action="extend", nargs="+", default=[], metavar="PLACE",
        help="folders of rasters, and files or addresses (https://...) whose names tell the variable",
    )  # fmt: skip
    parser.add_argument(
        "--raster", action="append", default=[], metavar="VARIABLE=FILE",
        help="a raster whose name says nothing, file or address; give it again for further tiles",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE.parquet", help="table to write, for data_prep/pack.py")
    parser.add_argument("--out", type=Path, metavar="DIR", help="or the packed directory to write, for small sets")
    parser.add_argument("--method", choices=("nearest", "bilinear"), default="nearest", help="(default %(default)s)")
    parser.add_argument(
        "--worldclim", choices=("auto", "1", "2.1"), default="auto", help="version (default: by the file names)"
    )
    parser.add_argument(
        "--coast-km", type=float, default=0.0, metavar="KM",
        help="a point without a value takes the nearest cell with one within this distance (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--terrain", choices=("auto", "compute", "force", "off"), default="auto",
        help="slope and aspect from the elevation model: auto where its cells are at most 500 m; compute refuses a "
        "coarser model, force takes it, off leaves them missing (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--elevation-model", default="", metavar="NAME", help="its name for the report (default: by the file names)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what was made in another way")
    parser.add_argument("--part-rows", type=int, default=50_000, metavar="N", help="rows of a part (%(default)s)")
    add_run_arguments(parser)
    return parser


def _named(items: Sequence[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise ConfigError(f"--raster {item!r}: give VARIABLE=FILE, such as bio01=annual_mean.tif")
        named.setdefault(name, []).append(path)
    return named
