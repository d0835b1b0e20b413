"""`geotreeclip map STACK --out map.tif`: every pixel of a region classified."""

from __future__ import annotations

import argparse
import sys

from geotreeclip.prep.partitions import add_run_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "stack", metavar="STACK",
        help="monthly composites of Sentinel-2 at 10 m: a GeoTIFF whose bands are named like 2020-06_B04, a folder of "
        "GeoTIFFs named like s2_2020-06.tif, or NetCDF or Zarr with time, band, y and x",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="MAP.tif", help="Cloud-Optimized GeoTIFF to write")
    parser.add_argument(
        "--model",
        help='model directory, "hf-hub:owner/name" or "demo"; by default $GEOTREECLIP_MODEL, else the default',
    )
    what = parser.add_argument_group("what to map")
    what.add_argument("--labels", help='candidates: a table or text file of names, or such as "genus=Quercus"')
    what.add_argument("--rank", default="species", choices=("species", "genus", "family", "leaf_type"),
                      help="rank of the labels (default: %(default)s)")  # fmt: skip
    what.add_argument("--prior", default="training", help='"training", "uniform", or a CSV with label and weight')
    what.add_argument("--mask", default="", metavar="FOREST.tif", help="map only where this raster is not 0")
    what.add_argument(
        "--minimum-unit",
        type=int,
        default=0,
        metavar="N",
        help="patches of fewer pixels take the label of their largest neighbour (labels alone)",
    )
    what.add_argument("--polygons", default="", metavar="STANDS.gpkg", help="also the composition of each stand")
    what.add_argument("--stride", type=int, default=1, metavar="N", help="classify every N-th pixel both ways")
    read = parser.add_argument_group("how the stack is read")
    read.add_argument("--bands", help="spectral bands in the order of the file, such as B2,B3,B4,B8")
    read.add_argument("--months", help="months in the order of the file, such as 5,6,7,8,9; bands vary fastest")
    read.add_argument("--crs", help="reference system where the stack states none, such as EPSG:32633")
    read.add_argument("--scale", default="auto", choices=("auto", "dn", "reflectance"), help="default: %(default)s")
    read.add_argument("--offset", type=float, default=0.0, help="digital numbers to take away, 1000 where they hold it")
    read.add_argument("--nodata", type=float, action="append", default=[], help="value that means missing; repeatable")
    read.add_argument(
        "--rasters",
        action="append",
        default=[],
        metavar="DIR",
        help="environmental rasters, known by their names; repeatable; without, imagery and location",
    )
    read.add_argument("--worldclim", default="auto", choices=("auto", "2.1", "1"), help="units of the climate rasters")
    work = parser.add_argument_group("how it runs")
    work.add_argument("--colours", default="", metavar="LEGEND.csv", help="take the colours of another map's legend")
    work.add_argument("--tile", type=int, default=256, metavar="N", help="pixels along a tile: memory (%(default)s)")
    work.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    work.add_argument("--overwrite", action="store_true", help="replace a map that is there")
    add_run_arguments(work)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the stack, the model or an argument is not right.
    """
    from geotreeclip.mapping.job import MapOptions, make_map

    options = MapOptions(
        bands=_words(args.bands), months=_months(args.months), crs=args.crs, scale=args.scale, offset=args.offset,
        nodata=tuple(args.nodata), labels=args.labels, rank=args.rank, prior=args.prior, rasters=tuple(args.rasters),
        worldclim=args.worldclim, mask=args.mask, minimum_unit=args.minimum_unit, polygons=args.polygons,
        stride=args.stride, tile=args.tile, colours=args.colours, device=args.device, workers=args.workers,
        scheduler=args.scheduler, retries=args.retries, overwrite=args.overwrite,
    )  # fmt: skip
    report = make_map(args.stack, args.out, args.model, options, lambda line: print(line, file=sys.stderr))
    fresh = report.classified - report.resumed
    speed = f"{fresh:,} classified in {report.seconds:.1f} s ({fresh / max(report.seconds, 1e-9):,.0f} pixels/s"
    print(
        f"{report.pixels:,} pixels, {speed}, peak {report.peak_mb:,.0f} MB)"
        + (f", {report.resumed:,} by an earlier run" if report.resumed else ""),
        file=sys.stderr,
    )
    for path in report.files:
        print(path)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word for word in text.replace(",", " ").split() if word]


def _months(text: str | None) -> list[int] | None:
    from geotreeclip.errors import ConfigError

    words = _words(text)
    if words is None:
        return None
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--months {text}: give numbers from 1 to 12, such as 5,6,7,8,9")
    return [int(word) for word in words]
