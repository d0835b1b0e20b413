"""Command that samples the world (`data_prep/world.py`)."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.grid import utm_epsg
from geotreeclip.prep.imagery.sources import EARTH_ENGINE, ImageryOptions, open_source
from geotreeclip.prep.partitions import Partition, add_run_arguments, run_partitions
from geotreeclip.prep.phenology import Cycles, DateRule
from geotreeclip.prep.world_sampling.grid import Locations, land_grid
from geotreeclip.prep.world_sampling.packing import pack_world
from geotreeclip.prep.world_sampling.picking import Picked, WorldTask, work
from geotreeclip.prep.world_sampling.seasons import cycles_at
from geotreeclip.prep.world_sampling.ssl4eco import read_folders, read_locations

__all__ = ["main", "squares"]

_SQUARE_DEGREES = 1.0
_SAMPLE_BYTES = 4 * 10 * 25 * 2 + 27 * 4 + 4 + 4 * 2 * 4 + 12


def squares(places: Locations, most: int) -> list[np.ndarray]:
    """Rows of locations by zone and square of a degree, at most so many in each: they share their scenes."""
    epsg = utm_epsg(places.longitude, places.latitude)
    keys = np.stack(
        [epsg, np.floor(places.latitude / _SQUARE_DEGREES), np.floor(places.longitude / _SQUARE_DEGREES)], axis=1
    )
    order = np.lexsort((*keys.T[::-1],))
    fresh = np.flatnonzero(np.r_[True, (np.diff(keys[order], axis=0) != 0).any(axis=1)])
    groups = np.split(order, fresh[1:])
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data_prep/world.py", description="Locations of the whole land, a scene in each of their seasons, packed."
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="folder to write: packed shards, weights.parquet, phenology.parquet")
    add("--spacing", type=float, default=23.0, metavar="KM", help="distance of locations (%(default)g: 250,000)")
    add("--land", type=Path, metavar="FILE", help="raster in degrees with data on land alone (any of WorldClim)")
    add("--mountains", type=Path, metavar="FILE", help="raster in degrees with data in mountains alone: drawn twice")
    add("--box", type=float, nargs=4, metavar=("W", "S", "E", "N"), help="only this part of the world")
    add("--phenology", type=Path, metavar="FILE", help="cycles of places (data_prep/phenology.py); else the calendar")
    add("--dry-run", action="store_true", help="say how many locations, parts and bytes, and stop")
    add("--overwrite", action="store_true", help="replace a finished set")
    group = parser.add_argument_group("imagery from a STAC catalog")
    group.add_argument("--catalog", default="", metavar="PLACE", help="static STAC catalog or STAC API")
    group.add_argument("--collection", default="", help="of an API (sentinel-2-l2a)")
    group.add_argument("--years", type=int, nargs=2, default=(2017, 2024), metavar="YEAR", help="first and last")
    group.add_argument("--max-cloud", type=float, default=20.0, help="cloudier scenes are no candidates (%(default)g)")
    group.add_argument(
        "--weight", type=float, default=0.5, help="of the middle of the season against cloud; inf: alone"
    )
    group.add_argument("--same-year", action="store_true", help="all scenes of a location from one year")
    group.add_argument("--no-audit", action="store_true", help="go on where values contradict their offset")
    group.add_argument("--points-per-part", type=int, default=256, metavar="N")
    group = parser.add_argument_group("or published folders of SSL4Eco")
    group.add_argument("--ssl4eco", type=Path, metavar="DIR", help="folder of one folder a location")
    group.add_argument("--locations", type=Path, metavar="FILE", help="its index: CSV with index, lon, lat")
    add_run_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `data_prep/world.py`; 1 where a part is missing from the result."""
    args = _parser().parse_args(argv)
    if args.ssl4eco:
        if not args.locations:
            raise ConfigError("--ssl4eco needs --locations FILE, the index with index, lon and lat")
        places = read_locations(args.locations)
    else:
        places = land_grid(args.spacing, args.land, tuple(args.box) if args.box else None)
    parts = squares(places, args.points_per_part)
    count, size = len(places.sample_id), len(places.sample_id) * _SAMPLE_BYTES / 1e9
    print(
        f"{count:,} locations{'' if args.ssl4eco else f' {args.spacing:g} km apart'}, {len(parts):,} parts, up to "
        f"{4 * count:,} patches, {size:.3g} GB packed"
    )
    if not args.ssl4eco and args.land is None:
        print("without --land, locations at sea are counted too")
    if args.dry_run:
        return 0
    if args.out is None:
        raise ConfigError("name the folder to write with --out DIR, or give --dry-run")
    cycles = cycles_at(places.longitude, places.latitude, args.phenology)
    names, counts = np.unique(cycles.frame()["source"].to_numpy(dtype=str), return_counts=True)
    print("seasons: " + ", ".join(f"{number:,} {name}" for name, number in zip(names, counts, strict=True)))
    if args.ssl4eco:
        read = (
            (places.take(p), _some(cycles, p), read_folders(args.ssl4eco, places.take(p), _some(cycles, p)))
            for p in parts
        )
        failed = 0
        written, lost = pack_world(read, args.out, mountains=args.mountains, source="SSL4Eco", overwrite=args.overwrite)
    else:
        written, lost, failed = _from_catalog(args, places, cycles, parts)
    print(f"{written:,} samples written to {args.out}, {lost:,} locations left out (refused.parquet)")
    print("pretrain: accelerate launch train/seasonal.py --phenology steps --weights OUT/weights.parquet --data OUT")
    return 1 if failed else 0


def _some(cycles: Cycles, rows: np.ndarray) -> Cycles:
    return Cycles(**{name: getattr(cycles, name)[rows] for name in Cycles.__dataclass_fields__})


def _from_catalog(
    args: argparse.Namespace, places: Locations, cycles: Cycles, parts: list[np.ndarray]
) -> tuple[int, int, int]:
    """Sample all parts and pack those that are there; samples, locations left out, and parts that failed."""
    if not args.catalog or args.catalog == EARTH_ENGINE:
        raise ConfigError("name a STAC catalog or API with --catalog, or published folders with --ssl4eco")
    first, last = args.years
    if first > last:
        raise ConfigError(f"--years {first} {last}: the first comes after the last")
    rule = DateRule(args.weight, args.max_cloud, args.same_year)
    state = args.out / "state"
    state.mkdir(parents=True, exist_ok=True)
    options = ImageryOptions(args.catalog, args.collection, audit=not args.no_audit).checked()
    source, catalog, options = open_source(state, options)
    years = max(first, source.span[0]), min(last, source.span[1])
    print(f"{catalog['text']}\nyears {years[0]} to {years[1]}, scenes below {args.max_cloud:g} % cloud")
    epsg = utm_epsg(places.longitude, places.latitude)
    tasks = []
    for rows in parts:
        payload = WorldTask(
            tuple(places.longitude[rows].tolist()), tuple(places.latitude[rows].tolist()),
            tuple(map(tuple, cycles.dates[rows].tolist())), int(epsg[rows[0]]), source, years, rule, options,
        )  # fmt: skip
        tasks.append(Partition(f"{payload.epsg}-{places.sample_id[rows[0]]}", payload))
    digest = hashlib.sha256(places.longitude.tobytes() + places.latitude.tobytes() + cycles.dates.tobytes())
    plan = {
        "locations": digest.hexdigest(), "options": asdict(options), "rule": asdict(rule), "years": list(years),
        "index": catalog["digest"],
    }  # fmt: skip
    run = run_partitions(
        tasks, work, state, plan=plan, workers=args.workers, scheduler=args.scheduler, retries=args.retries,
        label="world",
    )  # fmt: skip
    run.raise_if_empty()
    for failure in run.failed:
        print(f"part {failure.key} failed: {failure.reason}")
    rows_of = {task.key: rows for task, rows in zip(tasks, parts, strict=True)}

    def read() -> Iterator[tuple[Locations, Cycles, Picked]]:
        for done in run.done:
            rows = rows_of[done.key]
            with np.load(done.folder / "picked.npz", allow_pickle=False) as file:
                found = Picked(**{name: _whole(file[name]) for name in Picked.__dataclass_fields__})
            yield places.take(rows), _some(cycles, rows), found

    written, lost = pack_world(
        read(), args.out, mountains=args.mountains, source=catalog["text"].splitlines()[0], overwrite=args.overwrite
    )
    return written, lost, len(run.failed)


def _whole(values: np.ndarray) -> np.ndarray:
    return values.astype(object) if values.dtype.kind == "U" else values
