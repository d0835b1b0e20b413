"""The command `geotreeclip demo`; numpy and the rest are imported when it runs."""

from __future__ import annotations

import argparse

from geotreeclip.demo.config import PRESETS
from geotreeclip.errors import ConfigError, run_main

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geotreeclip demo`."""
    parser.add_argument("--out", metavar="DIR", help="directory for the packed set; needed without --serve")
    parser.add_argument("--preset", default="image-led", choices=list(PRESETS), help="what tells most of a species")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world")
    parser.add_argument(
        "--raw", action="store_true", help="raw files (records, scenes, rasters: 300 samples) instead of a packed set"
    )
    parser.add_argument(
        "--region", action="store_true",
        help="a region to be mapped (a stack of 12 months, rasters, stands of known species) instead of a packed set; "
        "--preset, --seed and --samples are those of the world that the model learnt from",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of --region, pixels of 10 m (default: 80 100)"
    )
    parser.add_argument("--stands", type=int, metavar="N", help="of --region (default: 28)")
    parser.add_argument("--samples", type=int, metavar="N", help="training samples (default about 19,000)")
    parser.add_argument("--test", type=int, metavar="N", help="test samples (default 5000)")
    parser.add_argument(
        "--knob", action="append", default=[], metavar="NAME=VALUE",
        help="a field of the world's configuration, such as wrong_labels=0.1 or coordinate_error_km=20; repeatable",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a finished set")
    page = parser.add_argument_group("the page to try")
    page.add_argument(
        "--serve", action="store_true",
        help="instead of making a world, serve a page for the browser: click a place, see what a model says of it",
    )  # fmt: skip
    page.add_argument(
        "--model", default="demo", help="model directory, hf-hub:owner/name or demo (default: %(default)s)"
    )
    page.add_argument(
        "--data", default="demo-world", metavar="DIR", help="packed set with the places (default: %(default)s)"
    )
    page.add_argument("--port", type=int, default=7860, help="0 for any free one (default: %(default)s)")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    page.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Run `geotreeclip demo`."""
    if args.serve:
        return _serve(args)
    if args.out is None:
        raise ConfigError("--out DIR says where the world is written; or --serve shows one that is there")
    if args.region:
        return _region(args)
    if args.size is not None or args.stands is not None:
        raise ConfigError("--size and --stands belong to --region")
    from geotreeclip.demo.make import make_world

    if args.raw:
        from geotreeclip.demo.raw.make import make_raw_world

        if args.test is not None or args.knob:
            raise ConfigError("--test and --knob belong to a packed set; leave them out with --raw")
        samples = 300 if args.samples is None else args.samples
        make_raw_world(args.out, samples, args.preset, args.seed, overwrite=args.overwrite, progress=print)
        return 0
    knobs: dict[str, float] = {}
    for entry in args.knob:
        name, _, value = entry.partition("=")
        try:
            knobs[name] = int(value) if name == "sites" else float(value)
        except ValueError as error:
            raise ConfigError(f"--knob {entry}: give NAME=NUMBER, such as --knob wrong_labels=0.1") from error
    make_world(
        args.out, args.preset, args.seed, args.samples, test=5000 if args.test is None else args.test,
        overwrite=args.overwrite, progress=lambda line: print(line, flush=True), knobs=knobs,
    )  # fmt: skip
    return 0


def _region(args: argparse.Namespace) -> int:
    """Make a region."""
    if args.raw or args.test is not None or args.knob:
        raise ConfigError("--raw, --test and --knob do not go with --region")
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ConfigError("--region needs rasterio: pip install 'geotreeclip[prep]'") from error
    from geotreeclip.demo.region import describe, make_region

    height, width = args.size or (80, 100)
    print(f"planting {height} x {width} pixels of the world {args.preset}, seed {args.seed}, in {args.out}", flush=True)
    stands = 28 if args.stands is None else args.stands
    region = make_region(
        args.out, height, width, preset=args.preset, seed=args.seed, samples=args.samples, stands=stands
    )
    print(describe(region, args.out))
    return 0


def _serve(args: argparse.Namespace) -> int:
    """Open the places, then the model, then the page."""
    from geotreeclip.page.places import Places

    if args.out is not None:
        raise ConfigError("--serve shows a world that is there and --out makes one; give one of them")
    places = Places(args.data)
    from geotreeclip.inference import load
    from geotreeclip.page.api import Api
    from geotreeclip.page.server import serve

    classifier = load(args.model, args.device)
    print(f"{len(places):,} places of {args.data}, model {args.model} ({len(classifier.taxonomy):,} taxa)")
    name = "/".join(args.model.rstrip("/").split("/")[-2:])  # of a path, what tells it from others
    serve(Api(classifier, places, name), args.host, args.port, lambda line: print(line, flush=True))
    return 0


def main(argv: list[str] | None = None) -> int:
    """`python -m geotreeclip.demo`."""
    parser = argparse.ArgumentParser(prog="python -m geotreeclip.demo", description="Make the planted forest.")
    add_arguments(parser)
    args = parser.parse_args(argv)
    return run_main(lambda: run(args))
