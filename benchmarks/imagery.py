"""How fast are monthly composites made from local COGs, and how much of it is reading?

    python benchmarks/imagery.py [--points 400] [--scenes 12] [--workers 2] [--out imagery.json]

Writes tiled, compressed GeoTIFFs of 1,098 x 1,098 pixels of 10 m (549 x 549 of 20 m), blocks of 256, all 10 bands and
the scene classification, and samples them with the imagery job. The naive way opens every raster anew for every point;
it is timed on a part of the points, must give the same composites, and is told in points per second as well. Files lie
in the page cache: what is measured is opening, decoding and computing, not a network, over which opening weighs far
more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from pyproj import Transformer
from rasterio.transform import Affine

from geotreeclip.prep.imagery.catalogs import load_index
from geotreeclip.prep.imagery.grid import locate
from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.planning import POINTS, points_of
from geotreeclip.prep.imagery.sampling import StacSampler
from geotreeclip.prep.imagery.signing import signer
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS

SIDE = 1098
LEFT, TOP, EPSG = 520_020, 5_150_040, 32633
FINE = ("B2", "B3", "B4", "B8")


def write_world(folder: Path, scenes: int, points: int) -> tuple[Path, Path]:
    """Scenes of one tile spread over a year, and occurrences in it; returns catalog and occurrences."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    x = LEFT + rng.uniform(100, SIDE * 10 - 100, points)
    y = TOP - rng.uniform(100, SIDE * 10 - 100, points)
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(x, y)
    table = {"sample_id": [f"p{n}" for n in range(points)], "longitude": lon, "latitude": lat, "year": [2020] * points}
    pq.write_table(pa.table(table), folder / "occurrences.parquet")
    west, south = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(LEFT, TOP - SIDE * 10)
    features = []
    smooth = rng.integers(200, 3000, (SIDE // 16 + 1, SIDE // 16 + 1))
    for scene in range(scenes):
        assets = {}
        for band in (*BANDS, "SCL"):
            step = 10 if band in FINE else 20
            side = SIDE * 10 // step
            if band == "SCL":
                classes = rng.choice([4, 4, 4, 5, 8, 9], (side // 40 + 1, side // 40 + 1))
                data = np.kron(classes, np.ones((40, 40))).astype(np.uint8)[:side, :side]
            else:
                base = np.kron(smooth, np.ones((16, 16)))[:side, :side]
                data = (base + rng.integers(0, 60, (side, side))).astype(np.uint16)
            path = folder / f"{scene}_{band}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", height=side, width=side, count=1, dtype=data.dtype, crs=f"EPSG:{EPSG}",
                transform=Affine(step, 0, LEFT, 0, -step, TOP), tiled=True, blockxsize=256, blockysize=256,
                compress="deflate", zlevel=1, nodata=0,
            ) as sink:  # fmt: skip
                sink.write(data, 1)
            assets[band] = {"href": f"./{path.name}"}
        month, day = scene * 12 // scenes + 1, scene % 28 + 1
        features.append(
            {
                "type": "Feature",
                "id": f"S2A_{scene:03d}",
                "bbox": [west - 0.1, south - 0.1, west + 0.3, south + 0.3],
                "properties": {
                    "datetime": f"2020-{month:02d}-{day:02d}T10:00:00Z",
                    "s2:datatake_id": f"GS2A_2020{month:02d}{day:02d}T1000{scene % 60:02d}_000001_N03.01",
                    "s2:mgrs_tile": "33TWM",
                    "s2:processing_baseline": "03.01",
                },
                "assets": assets,
            }
        )
    catalog = folder / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return catalog, folder / "occurrences.parquet"


def measure(out: Path, points: int, scenes: int, workers: int) -> dict[str, Any]:
    """Points per second from local COGs, scenes opened once and once per point, and the share of reading.

    Args:
        out: Folder to work in; `world` and `imagery` are written below it.
        points: How many.
        scenes: Of one tile, over the year.
        workers: Processes of the second run; 1 leaves it out.

    Returns:
        Rates, and what they were measured on.
    """
    catalog, occurrences = write_world(out / "world", scenes, points)
    options = ImageryOptions(str(catalog))
    result: dict[str, Any] = {"points": points, "scenes": scenes, "workers": workers}
    size = -(-points // (2 * max(1, workers)))
    for count in sorted({1, workers}):
        begin, busy = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            report = sample_imagery(
                occurrences, out / f"imagery-{count}", options, points_per_part=size, workers=count, progress=False
            )
        result[f"points_per_second_{count}_workers"] = points / (time.perf_counter() - begin)
        if count == 1:
            result["share_reading"] = report.reading / report.seconds
            result["points_per_second_sampling"] = points / report.seconds
            result["points_per_cpu_second"] = points / (time.process_time() - busy)
            result["rasters_opened_per_point"] = report.opened / points
    store = ImageryStore(out / "imagery-1")
    some = np.linspace(0, points - 1, min(points, 20)).astype(np.int64)
    table = points_of(out / "imagery-1" / POINTS, 0, points)
    places = locate(table["longitude"].to_numpy()[some], table["latitude"].to_numpy()[some], EPSG)
    index = out / "imagery-1" / "scenes.jsonl"
    naive = StacSampler(load_index(str(index), "benchmark").search, signer("none"))
    begin, busy = time.perf_counter(), time.process_time()
    images = [naive.composites(places.take(np.array([n])), 2020).images for n in range(len(some))]
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    if not np.array_equal(np.concatenate(images), store.read(some)):
        raise RuntimeError("the naive way gives other composites")
    result["naive_points_per_second"] = len(some) / seconds
    result["naive_points_per_cpu_second"] = len(some) / busy
    result["naive_share_reading"] = naive.clock.seconds / seconds
    result["naive_rasters_opened_per_point"] = naive.clock.opened / len(some)
    result["ratio"] = result["points_per_second_sampling"] / result["naive_points_per_second"]
    result["ratio_of_cpu_time"] = result["points_per_cpu_second"] / result["naive_points_per_cpu_second"]
    return result


def main() -> int:
    """Runs the benchmark and prints a Markdown table."""
    parser = argparse.ArgumentParser(description="Composites per second from local COGs.")
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument("--directory", type=Path, help="where to make the scenes (default: a temporary directory)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as made:
        result = measure(Path(made), args.points, args.scenes, args.workers)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{args.points} points, {args.scenes} scenes of 11 rasters\n")
    print("| way | points/s | points per second of CPU | share of opening and reading | rasters opened a point |")
    print("|---|---|---|---|---|")
    for name, rate, cpu, share, opened in (
        ("scenes opened once, one process", "points_per_second_sampling", "points_per_cpu_second", "share_reading",
         "rasters_opened_per_point"),
        ("naive: opened for every point", "naive_points_per_second", "naive_points_per_cpu_second",
         "naive_share_reading", "naive_rasters_opened_per_point"),
    ):  # fmt: skip
        print(f"| {name} | {result[rate]:,.1f} | {result[cpu]:,.1f} | {result[share]:.0%} | {result[opened]:.1f} |")
    for count in sorted({1, args.workers}):
        rate = result[f"points_per_second_{count}_workers"]
        print(f"| the whole job, start to end, {count} workers | {rate:,.1f} | | | |")
    print(f"\nratio: {result['ratio']:.1f}, of CPU time {result['ratio_of_cpu_time']:.1f}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
