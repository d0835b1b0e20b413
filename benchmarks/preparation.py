"""Data preparation in one table: cleaning, imagery, packing, and one job on Dask clusters of one and two workers.

    python benchmarks/preparation.py [--rows 10000000] [--workers 2] [--out preparation.json]

The parts are measured by `occurrences.py`, `imagery.py` and `packing.py` beside this file, which can be run alone and
say what is measured against what. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import imagery
import numpy as np
import occurrences
import packing

from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.store import ImageryStore


def measure_dask(out: Path, points: int, scenes: int) -> dict[str, Any]:
    """Points per second of the imagery job on local Dask clusters; the composites must agree.

    Args:
        out: Folder to work in.
        points: How many.
        scenes: Of one tile.

    Returns:
        Points per second by number of workers, and their ratio. Starting a cluster is not counted.
    """
    from distributed import Client, LocalCluster

    catalog, table = imagery.write_world(out / "world", scenes, points)
    rates, images = {}, []
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(workers)
            client.run(__import__, "rasterio")  # a cluster is warm when work arrives
            begin = time.perf_counter()
            sample_imagery(
                table, out / f"dask-{workers}", ImageryOptions(str(catalog)), points_per_part=-(-points // 8),
                scheduler=cluster.scheduler_address, progress=False,
            )  # fmt: skip
            rates[workers] = points / (time.perf_counter() - begin)
        store = ImageryStore(out / f"dask-{workers}")
        images.append(store.read(np.arange(len(store))))
    if not np.array_equal(*images):
        raise RuntimeError("one and two workers give other composites")
    return {"points": points, "points_per_second": rates, "ratio": rates[2] / rates[1]}


def main() -> int:
    """Measures all and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="occurrences to clean")
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--samples", type=int, default=40_000, help="to pack")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    numbers: dict[str, Any] = {}
    for name, measure in {
        "occurrences": lambda folder: occurrences.measure(args.rows, args.workers, folder),
        "imagery": lambda folder: imagery.measure(folder, args.points, args.scenes, 1),
        "dask": lambda folder: measure_dask(folder, args.points, args.scenes),
        "packing": lambda folder: packing.measure(args.samples, folder),
    }.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            numbers[name] = measure(Path(folder))
    cleaned, sampled, clusters, packed = (numbers[name] for name in ("occurrences", "imagery", "dask", "packing"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| step | rate | and |\n|---|---|---|")
    print(
        f"| cleaning {cleaned['rows']:,} rows, {args.workers} workers | {cleaned['rows_per_second']:,} rows/s | peak "
        f"{cleaned['peak_bytes'] / 1e9:.2f} GB over all processes |"
    )
    print(
        f"| composites of {args.points} points, {args.scenes} scenes | {sampled['points_per_second_sampling']:.1f} "
        f"points/s | {sampled['share_reading']:.0%} opening and reading; {sampled['ratio']:.0f} x the naive way |"
    )
    one, two = (clusters["points_per_second"][count] for count in (1, 2))
    print(
        f"| the same job on Dask, 1 and 2 workers | {one:.1f} and {two:.1f} points/s | ratio {clusters['ratio']:.2f} |"
    )
    print(
        f"| packing {packed['samples']:,} samples | {packed['packed_samples_per_s']:,.0f} samples/s | "
        f"{packed['packed_mb_per_s']:.0f} MB/s, peak {packed['peak_memory_mb']:.0f} MB |"
    )
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
