"""Command line of `data_prep/sentinel2.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.prep.partitions import add_run_arguments
from geotreeclip.schema import BANDS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Sample monthly Sentinel-2 composites at occurrences; 1 where a part is missing from the result."""
    from geotreeclip.prep.imagery.offsets import PROVIDERS

    parser = argparse.ArgumentParser(
        prog="data_prep/sentinel2.py",
        description="Monthly medians of Sentinel-2 Level-2A, 5 x 5 pixels of 10 m and 10 bands, at occurrences.",
        epilog="Catalogs: a static STAC catalog (path or URL), a STAC API such as "
        "https://earth-search.aws.element84.com/v1 or https://planetarycomputer.microsoft.com/api/stac/v1 "
        "(links are signed), or earthengine. The same command again goes on where it was stopped.",
    )
    parser.add_argument("--occurrences", type=Path, required=True, metavar="FILE", help="occurrences.parquet, or CSV")
    parser.add_argument("--catalog", required=True, metavar="PLACE", help="STAC catalog or API, or earthengine")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--collection", default="", help="collection (default: sentinel-2-l2a of an API, all of a static catalog)"
    )
    parser.add_argument(
        "--year", default="own", metavar="own|nearest|YEAR",
        help="year of imagery: that of the observation, the nearest one in which the place was seen clear, or one for "
        "all (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--reach", type=int, default=5, help="years that --year nearest goes (default %(default)s)")
    parser.add_argument("--bands", nargs="+", default=list(BANDS), metavar="BAND", help="bands to read (default: all)")
    parser.add_argument(
        "--allow-missing-bands", action="store_true", help="also use scenes that lack some of the bands"
    )
    parser.add_argument(
        "--max-cloud", type=float, default=100.0, metavar="PERCENT", help="leave out cloudier scenes (%(default)s)"
    )
    parser.add_argument(
        "--provider", choices=PROVIDERS, default="auto", help="where the radiometric offset is stated (%(default)s)"
    )
    parser.add_argument(
        "--offset", action="append", default=[], metavar="[SCENE=]NUMBER",
        help="offset to add to digital numbers, for all scenes or those whose id fits a pattern such as 'S2B_20HMD_*'",
    )  # fmt: skip
    parser.add_argument(
        "--no-audit", action="store_true", help="go on where dark pixels contradict the offset of their scenes"
    )
    parser.add_argument(
        "--sign", default="auto", metavar="NAME|MODULE:FUNCTION",
        help="how links are signed: none, planetary-computer, or a function of yours (default: by the catalog)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", nargs="+", default=["imagery", "unknown"], metavar="STRATUM",
        help="strata of the column `precision` of the occurrences to take (default: imagery unknown)",
    )  # fmt: skip
    parser.add_argument(
        "--points-per-part", type=int, default=512, metavar="N", help="bounds the memory of a part (%(default)s)"
    )
    add_run_arguments(parser)
    args = parser.parse_args(argv)
    from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery

    options = ImageryOptions(
        catalog=args.catalog,
        collection=args.collection,
        provider=args.provider,
        offsets=tuple(args.offset),
        sign=args.sign,
        bands=tuple(args.bands),
        allow_missing_bands=args.allow_missing_bands,
        max_cloud=args.max_cloud,
        year=args.year,
        reach=args.reach,
        audit=not args.no_audit,
        precision=tuple(args.precision),
    )
    report = sample_imagery(
        args.occurrences,
        args.out,
        options,
        points_per_part=args.points_per_part,
        workers=args.workers,
        scheduler=args.scheduler,
        retries=args.retries,
    )
    print(report.text())
    print(f"written: {args.out / 'imagery.json'}, report.json, scenes.parquet, refused.parquet")
    return 1 if report.failed else 0
