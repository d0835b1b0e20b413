"""How fast are samples packed, beside a plain copy of their pixels, in one process and one run?

    python benchmarks/packing.py [--samples 40000] [--workers 1] [--out packing.json]

Makes occurrences, an imagery store whose samples stand in another order, and a table of environment, and packs them
with the packing job. The baseline copies the same pixels from the memory-mapped store to one file, in file order,
synced: what the disk allows. Peak memory is that of this process while it packs, reset before where Linux allows it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, VARIABLES

PART = 4096


def make_inputs(folder: Path, samples: int, seed: int = 0) -> dict[str, str]:
    """Writes synthetic inputs, a part at a time; returns their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    ids = np.array([f"gbif-{number:010d}" for number in rng.permutation(10 * samples)[:samples]], dtype=object)
    genus = rng.integers(0, 300, samples)
    species = genus * 4 + rng.integers(0, 4, samples)
    lon, lat = rng.uniform(-170, 170, samples), rng.uniform(-55, 65, samples)
    year = rng.integers(2017, 2025, samples).astype(np.int32)
    pq.write_table(
        pa.table(
            {
                "sample_id": ids, "leaf_type": ["Deciduous Broadleaf"] * samples,
                "family": [f"Family{g // 10}" for g in genus], "genus": [f"Genus{g}" for g in genus],
                "species": [f"Genus{g} s{s}" for g, s in zip(genus, species, strict=True)],
                "longitude": lon, "latitude": lat, "year": year, "country": ["AT"] * samples,
                "source": ["synthetic"] * samples, "precision": ["imagery"] * samples,
            }
        ),
        folder / "occurrences.parquet", row_group_size=100_000,
    )  # fmt: skip
    order = rng.permutation(samples)
    # One block of noise, turned for each part: the packing does not look at the values.
    noise = rng.integers(1, 9000, (PART, MONTHS, len(BANDS), PATCH, PATCH)).astype(np.uint16)
    noise[rng.random((PART, MONTHS)) < 0.3] = MISSING_DN
    parts = []
    for start in range(0, samples, PART):
        rows = order[start : start + PART]
        part = folder / "imagery" / "parts" / f"part-{start:09d}"
        part.mkdir(parents=True)
        np.save(part / "images.npy", np.roll(noise, start // PART, axis=0)[: len(rows)])
        scenes = rng.integers(0, 6, (len(rows), MONTHS)).tolist()
        table = {
            "sample_id": ids[rows], "year_used": year[rows], "year_difference": np.zeros(len(rows), np.int32),
            "scenes": pa.array(scenes, pa.list_(pa.int16())),
        }  # fmt: skip
        pq.write_table(pa.table(table), part / "samples.parquet")
        parts.append({"key": part.name, "rows": len(rows)})
    document = {"format": "geotreeclip imagery", "version": 1, "bands": list(BANDS), "parts": parts}
    (folder / "imagery" / "imagery.json").write_text(json.dumps(document))
    order = rng.permutation(samples)
    columns: dict[str, Any] = {"sample_id": ids[order]}
    for variable in VARIABLES:
        columns[variable.name] = rng.uniform(variable.low, variable.high, samples).astype(np.float32)
    columns |= {"longitude": lon[order], "latitude": lat[order]}
    pq.write_table(pa.table(columns), folder / "environment.parquet", row_group_size=50_000)
    files = {"occurrences": "occurrences.parquet", "imagery": "imagery", "environment": "environment.parquet"}
    return {name: str(folder / file) for name, file in files.items()}


def copy_pixels(folder: Path) -> float:
    """Seconds that copying the pixels of the store takes, synced."""
    start = time.perf_counter()
    with (folder / "copy").open("wb") as stream:
        for path in sorted((folder / "imagery" / "parts").glob("*/images.npy")):
            stream.write(np.load(path, mmap_mode="r").reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
    return time.perf_counter() - start


def measure(samples: int, out: Path, workers: int = 1) -> dict[str, Any]:
    """Packs synthetic samples.

    Args:
        samples: How many.
        out: Folder for inputs and outputs, which stay there.
        workers: Processes.

    Returns:
        Samples per second and the like.
    """
    from geotreeclip.prep.pack import PackOptions, pack_samples
    from geotreeclip.prep.pack_join import Inputs

    out.mkdir(parents=True, exist_ok=True)
    inputs = Inputs(**make_inputs(out, samples))
    copied = copy_pixels(out)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # peak memory begins anew; Linux only
    start = time.perf_counter()
    summary, failed = pack_samples(inputs, out / "packed", PackOptions(), workers=workers, progress=False)
    packed = time.perf_counter() - start
    assert not failed
    assert summary.packed == samples
    peak = _peak_bytes()
    few = min(samples, 4096)
    start = time.perf_counter()
    _publish(inputs, out, few)
    published = time.perf_counter() - start
    return {
        "samples": samples,
        "workers": workers,
        "packed_samples_per_s": samples / packed,
        "packed_mb_per_s": summary.bytes / packed / 1e6,
        "bytes_per_sample": summary.bytes / samples,
        "copying_pixels_samples_per_s": samples / copied,
        "share_of_copying": copied / packed,
        "published_samples_per_s": few / published,
        "peak_memory_mb": peak / 1e6,
    }


def _publish(inputs: Any, out: Path, count: int) -> None:
    """Packs the first samples in the published format."""
    from dataclasses import replace

    import pyarrow.parquet as pq

    from geotreeclip.prep.pack import PackOptions, pack_samples

    pq.write_table(pq.read_table(inputs.occurrences).slice(0, count), out / "few.parquet")
    options = PackOptions(format="published")
    pack_samples(replace(inputs, occurrences=str(out / "few.parquet")), out / "published", options, progress=False)


def _peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(args.samples, Path(folder), args.workers)
    figures["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
