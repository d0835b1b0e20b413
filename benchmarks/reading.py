"""How fast are packed shards read, beside the published format, in one process and one run?

    python benchmarks/reading.py [--samples 4000] [--packed-samples 40000] [--workers 1 2] [--out reading.json]

Makes shards in the published format, packs them with the packing job, and reads both shuffled, every column, every byte
summed. The baseline is a plain WebDataset pipeline on the published shards (shuffle buffer of 1,000, decoded with
`torch.load(weights_only=True)` and `json.loads`). The packed set is also copied to several times its size, so that it
does not fit the caches of the processor.

Cold means: the files are synced and dropped from the page cache with posix_fadvise(DONTNEED) before each run, and the
set is opened anew; what the disk or a virtual machine's host caches by itself is not in our hands. Warm means: the same
read has just been done once.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.data.loader import Loader
from geotreeclip.data.packed import PackedBatch, PackedDataset, PackedWriter
from geotreeclip.data.packing import pack
from geotreeclip.data.published import PublishedSample, read_published, write_published
from geotreeclip.schema import VARIABLES
from geotreeclip.taxonomy import Taxon

BATCH = 1024


def synthetic(count: int, seed: int) -> Iterator[PublishedSample]:
    """Samples of plausible values with missing months, in the units of WorldClim 2.1."""
    rng = np.random.default_rng(seed)
    low = np.array([variable.low for variable in VARIABLES])
    high = np.array([variable.high for variable in VARIABLES])
    middle, width = (low + high) / 2, (high - low) / 8
    for number in range(count):
        images = rng.integers(1, 9000, (12, 10, 5, 5)).astype(np.float64)
        images[rng.random(12) < 0.2] = np.nan
        environment = middle + width * rng.uniform(-1, 1, len(VARIABLES))
        species = int(rng.integers(0, 300))
        taxon = Taxon(
            "Deciduous Broadleaf", f"Family{species // 30}", f"Genus{species // 5}", f"Genus{species // 5} s{species}"
        )
        key = str(seed * 1_000_000 + number)
        yield PublishedSample(key, images, environment, taxon, key, "")


def read_webdataset(paths: list[Path], rank: int = 0, world: int = 1) -> int:
    """A plain WebDataset pipeline on published shards, those of this process."""
    import torch
    import webdataset as wds

    def decode(key: str, data: bytes) -> object:
        if key.endswith("images.pth"):
            return torch.load(io.BytesIO(data), weights_only=True)
        return json.loads(data)

    count, total = 0, 0.0
    pipeline = wds.WebDataset([str(path) for path in paths[rank::world]], shardshuffle=False, seed=0)
    pipeline = pipeline.shuffle(1000).decode(decode)
    for sample in pipeline:
        total += float(torch.nansum(sample["images.pth"]))
        values = sample["auxiliary.json"]
        total += sum(float(values[variable.name] or 0) for variable in VARIABLES)
        total += sum(len(name) for name in sample["text.json"].values())
        count += 1
    return count


def read_ours_published(paths: list[Path]) -> int:
    """The safe reader of published shards, in file order."""
    count, total = 0, 0.0
    for path in paths:
        for item in read_published(path):
            if isinstance(item, PublishedSample):
                total += float(np.nansum(item.images)) + float(np.nansum(item.environment))
                total += sum(len(name) for name in item.taxon)
                count += 1
    return count


def _sum(batch: PackedBatch) -> int:
    """Sums every byte of every column."""
    total = int(batch.images.reshape(-1).view(np.uint64).sum(dtype=np.uint64))
    total += int(batch.environment.reshape(-1).view(np.uint32).sum(dtype=np.uint64))
    return total + int(batch.taxon.sum())


def read_packed(directory: Path) -> int:
    """Random rows of the packed set, one permutation."""
    data = PackedDataset(directory)
    order = np.random.default_rng(0).permutation(len(data))
    for start in range(0, len(order), BATCH):
        _sum(data.read(order[start : start + BATCH]))
    return len(order)


def read_loader(directory: Path, rank: int = 0, world: int = 1) -> int:
    """The training loader, the share of this process of one epoch, with its thread."""
    data = PackedDataset(directory)
    batches = Loader(data, np.arange(len(data)), BATCH * world, seed=0, rank=rank, world_size=world).batches()
    count = 0
    for batch in batches:
        _sum(batch)
        count += len(batch.index)
        if count >= len(data) / world:
            break
    batches.close()  # type: ignore[attr-defined]
    return count


def drop(paths: list[Path]) -> None:
    """Drops files from the page cache."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(read: Callable[[], int], files: list[Path], repeats: int) -> dict[str, float]:
    """Samples per second: the median of cold and of warm runs."""
    rates: dict[str, list[float]] = {"cold": [], "warm": []}
    read()  # imports, and the first touch of the code
    for kind in ("cold", "warm"):
        for _ in range(repeats):
            if kind == "cold":
                drop(files)
            begin = time.perf_counter()
            count = read()
            rates[kind].append(count / (time.perf_counter() - begin))
    return {kind: float(np.median(values)) for kind, values in rates.items()}


READERS: dict[str, Callable[..., int]] = {
    "libraries loaded, nothing read": lambda _, rank, world: 0,
    "published, plain WebDataset": read_webdataset,
    "packed, training loader": read_loader,
}


def own_megabytes() -> float:
    """Memory of this process that holds no file: pages of mapped files are dropped when room is wanted."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return sizes["Anonymous"] / 1024


def largest_while(read: Callable[[], int]) -> float:
    """Own memory in MB at its largest while something is read."""
    sizes, done = [own_megabytes()], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            sizes.append(own_megabytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        read()
    finally:
        done.set()
        watcher.join()
    return max(*sizes, own_megabytes())


def work(name: str, source: Any, rank: int, world: int, barrier: Any, answers: Any) -> None:
    """One of several processes that read at the same time: its samples, seconds and own memory."""
    import torch  # noqa: F401 - both systems carry the same libraries
    import webdataset  # noqa: F401

    memory = largest_while(lambda: READERS[name](source, rank, world))
    barrier.wait(timeout=3600)
    begin = time.perf_counter()
    count = READERS[name](source, rank, world)
    answers.put((count, time.perf_counter() - begin, memory))


def grow(name: str, source: Any, world: int) -> tuple[float, float, float]:
    """Samples per second of `world` processes, and the own memory of the largest and of all, in MB."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(world), context.Queue()
    processes = [
        context.Process(target=work, args=(name, source, rank, world, barrier, answers)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=3600) for _ in processes]
    for process in processes:
        process.join()
    counts, seconds, sizes = zip(*found, strict=True)
    return sum(counts) / max(seconds), max(sizes), sum(sizes)


def enlarge(source: Path, out: Path, samples: int) -> None:
    """Copies a packed set onto itself until it has so many samples."""
    data = PackedDataset(source)
    with PackedWriter(out, data.taxonomy, shard_samples=32768) as writer:
        for start in range(0, samples, 4096):
            rows = np.arange(start, min(start + 4096, samples)) % len(data)
            batch = data.read(rows)
            ids = [str(start + number) for number in range(len(rows))]
            writer.add(batch.images, batch.environment, batch.taxon, ids)


def main() -> int:
    """Runs the benchmark and prints a Markdown table."""
    parser = argparse.ArgumentParser(description="Reading rates of published and packed shards.")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--packed-samples", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of the second table")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument("--directory", type=Path, help="where to make the shards (default: a temporary directory)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as made:
        folder = Path(made)
        parts = max(2, *args.workers)  # a shard for each process at least
        published = [folder / f"published-{number}.tar" for number in range(parts)]
        for number, path in enumerate(published):
            write_published(path, synthetic(args.samples // parts, seed=number + 1))
        begin = time.perf_counter()
        report = pack(published, folder / "packed")
        packing = report.packed / (time.perf_counter() - begin)
        enlarge(folder / "packed", folder / "large", args.packed_samples)
        small, large = sorted((folder / "packed").iterdir()), sorted((folder / "large").iterdir())
        published_bytes = sum(path.stat().st_size for path in published) / args.samples
        packed_bytes = report.bytes / report.packed
        rows = [
            ("published, plain WebDataset, shuffle 1,000", published_bytes,
             measure(lambda: read_webdataset(published), published, args.repeats)),
            ("published, safe reader, in order", published_bytes,
             measure(lambda: read_ours_published(published), published, args.repeats)),
            (f"packed, {args.samples:,} samples, random rows", packed_bytes,
             measure(lambda: read_packed(folder / "packed"), small, args.repeats)),
            (f"packed, {args.packed_samples:,} samples, random rows", packed_bytes,
             measure(lambda: read_packed(folder / "large"), large, args.repeats)),
            (f"packed, {args.packed_samples:,} samples, training loader", packed_bytes,
             measure(lambda: read_loader(folder / "large"), large, args.repeats)),
        ]  # fmt: skip
        sources = {name: published if "published" in name else folder / "large" for name in READERS}
        growth = [(name, world, *grow(name, sources[name], world)) for name in READERS for world in args.workers]
    base = rows[0][2]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"packing: {packing:,.0f} samples/s\n")
    print(
        "| one process, all columns, bytes summed | bytes a sample | cold samples/s | ratio | warm samples/s | ratio |"
    )
    print("|---|---|---|---|---|---|")
    for name, size, rate in rows:
        cells = [f"{rate[kind]:,.0f} | {rate[kind] / base[kind]:.1f}" for kind in ("cold", "warm")]
        print(f"| {name} | {size:,.0f} | {' | '.join(cells)} |")
    print("\n| processes | reader | samples/s | of one | own memory, largest MB | all MB |")
    print("|---|---|---|---|---|---|")
    alone = {name: rate for name, world, rate, *_ in growth if world == args.workers[0]}
    for name, world, rate, largest, together in growth:
        share = f"{rate:,.0f} | {rate / alone[name]:.2f}" if rate else " | "
        print(f"| {world} | {name} | {share} | {largest:,.0f} | {together:,.0f} |")
    if args.out:
        document = {
            "machine": platform.machine(), "cores": os.cpu_count(), "packing_samples_per_second": packing,
            "rows": [{"name": name, "bytes_per_sample": size, **rate} for name, size, rate in rows],
            "growth": [
                dict(zip(("name", "processes", "rate", "largest_mb", "all_mb"), row, strict=True)) for row in growth
            ],
        }  # fmt: skip
        args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
