"""Command line of `data_prep/pack.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.prep.partitions import add_run_arguments

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Pack what the earlier steps made, and describe it; or describe a set that is there."""
    args = _parser().parse_args(argv)
    if args.report_only is not None:
        return _report(args.report_only)
    if args.occurrences is None or args.out is None:
        raise ConfigError("give --occurrences FILE and --out DIR, or --report-only DIR for a set that is there")
    from geotreeclip.prep.pack import PackOptions, pack_samples
    from geotreeclip.prep.pack_join import Inputs

    inputs = Inputs(
        str(args.occurrences), str(args.imagery or ""), str(args.environment or ""), str(args.partition or ""),
        tuple(args.set), args.without_imagery, args.without_environment,
    )  # fmt: skip
    options = PackOptions(args.format, args.shard_samples, args.worldclim == "1", args.source)
    joined = [str(path) for path in (args.imagery, args.environment, args.partition) if path]
    print(f"packing {args.occurrences} with {', '.join(joined)} into {args.out}, {args.format} format", flush=True)
    summary, failed = pack_samples(
        inputs, args.out, options, workers=args.workers, scheduler=args.scheduler, retries=args.retries
    )
    if failed:
        for failure in failed:
            print(f"FAILED after {failure.attempts} attempts: {failure.key}: {failure.reason}{failure.detail}")
        print(f"{args.out} is not finished: {len(failed)} parts failed; the same command tries them again")
        return 1
    print(summary.text())
    print(f"written to {args.out}")
    return 0 if args.no_report else _report(args.out)


def _report(directory: Path) -> int:
    from geotreeclip.prep.quality_page import write_quality

    report = write_quality(directory, progress=True)
    for text in report["warnings"]:
        print(f"warning: {text}")
    print(f"quality of {report['samples']:,} samples: {directory / 'quality.html'}, {directory / 'quality.json'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data_prep/pack.py",
        description="Join occurrences, imagery and environment into packed shards, with a quality report.",
    )
    parser.add_argument("--occurrences", type=Path, metavar="FILE", help="occurrences.parquet (or CSV)")
    parser.add_argument("--imagery", type=Path, metavar="DIR", help="what data_prep/sentinel2.py wrote")
    parser.add_argument(
        "--environment", type=Path, metavar="FILE.parquet", help="what data_prep/environment.py --table wrote"
    )
    parser.add_argument("--partition", type=Path, metavar="FILE.parquet", help="what data_prep/partition.py wrote")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME", help="set of the partition to pack; may come again"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--format", choices=("packed", "published"), default="packed",
        help="packed shards, or shards such as the published ones (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--without-imagery", choices=("leave-out", "keep"), default="leave-out",
        help="samples that have no clear pixel (default %(default)s; kept ones have missing pixels)",
    )  # fmt: skip
    parser.add_argument(
        "--without-environment", choices=("leave-out", "keep"), default="keep",
        help="samples that have no variable (default %(default)s, with missing values)",
    )  # fmt: skip
    parser.add_argument("--shard-samples", type=int, default=8192, metavar="N", help="samples of a shard (%(default)s)")
    parser.add_argument(
        "--worldclim", choices=("1", "2.1"), default="2.1",
        help="units of the temperatures in published shards: 1 writes tenths of a degree, as the published set does "
        "(default %(default)s: degrees)",
    )  # fmt: skip
    parser.add_argument("--source", default="", metavar="TEXT", help="where the samples come from, for the manifest")
    parser.add_argument("--no-report", action="store_true", help="no quality.html and quality.json")
    parser.add_argument("--report-only", type=Path, metavar="DIR", help="only describe the set in a directory")
    add_run_arguments(parser)
    return parser
