"""How fast is a region mapped, in how much memory, and do two tilings agree?

    python benchmarks/mapping.py [--model DIR] [--side 192] [--workers 1] [--out mapping.json]

Maps a region of the planted forest of SIDE x SIDE pixels, imagery and location alone, with small and with large tiles,
each in a process of its own, and compares the maps bit by bit. The naive way cuts the patch of each pixel and passes
all to `Classifier.classify`; it is timed on a part of the pixels and must give the same labels. Without --model a model
`tiny` with random weights is made, which costs what a trained one costs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from geotreeclip.demo.region import make_region
from geotreeclip.demo.species import demo_taxonomy
from geotreeclip.mapping.stack import open_stack
from geotreeclip.mapping.tiles import NODATA, places
from geotreeclip.schema import MISSING_DN

_MAP = """
import json, resource, sys
from pathlib import Path
from geotreeclip.mapping.job import MapOptions, make_map
stack, out, model, tile, workers = sys.argv[1:]
from geotreeclip.inference import load
import geotreeclip.mapping.quicklook, pyproj, rasterio
load(model, "cpu")
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
options = MapOptions(tile=int(tile), workers=int(workers), device="cpu", progress=False)
report = make_map(stack, out, model, options)
told = {"pixels": report.classified, "seconds": report.seconds, "cpu_seconds": report.cpu_seconds}
print(json.dumps({**told, "loaded_mb": idle, "peak_mb": report.peak_mb}))
"""


def random_model(folder: Path) -> Path:
    """A model `tiny` with random weights and the taxa of the planted forest."""
    import torch

    from geotreeclip.data.statistics import Statistics
    from geotreeclip.models.clip import create_model
    from geotreeclip.models.config import model_config
    from geotreeclip.models.directory import save_model
    from geotreeclip.schema import BANDS, MONTHS, PATCH, VARIABLES

    rng = np.random.default_rng(0)
    images = rng.integers(200, 4000, (64, MONTHS, len(BANDS), PATCH, PATCH)).astype(np.uint16)
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    environment = (low + (high - low) * rng.uniform(0.3, 0.7, (64, len(VARIABLES)))).astype(np.float32)
    statistics = Statistics.empty().updated(images, environment)
    torch.manual_seed(0)
    taxonomy = demo_taxonomy()
    model = create_model(model_config("tiny"), statistics)
    return Path(save_model(folder, model, taxonomy, (100,) * len(taxonomy), statistics, {"seed": 0}))


def mapped(stack: Path, out: Path, model: Path, tile: int, workers: int) -> dict[str, Any]:
    """Map in a process of its own; speed without loading the model, memory once it is loaded and at its peak."""
    command = [sys.executable, "-c", _MAP, str(stack), str(out), str(model), str(tile), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for unit in ("second", "cpu_second"):
        result[f"pixels_per_{unit}"] = round(result["pixels"] / result[f"{unit}s"], 1)
    return {"tile": tile, "workers": workers, **result}


def naive(stack: Path, out: Path, model: Path, pixels: int) -> dict[str, Any]:
    """Patches cut one by one and classified; the share of labels that agree with the map."""
    from geotreeclip.inference import load

    source = open_stack(stack)
    with rasterio.open(out) as target:
        labels = target.read(1)
    names = [row["label"] for row in csv.DictReader(out.with_name(out.stem + ".legend.csv").open())]
    classifier = load(model, "cpu")
    known = np.argwhere(labels != NODATA)
    chosen = known[np.random.default_rng(0).choice(len(known), min(pixels, len(known)), replace=False)]
    started = time.monotonic(), time.process_time()
    whole = source.read(0, source.grid.height, 0, source.grid.width)
    padded = np.pad(whole, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    patches = np.stack([padded[:, :, row : row + 5, column : column + 5] for row, column in chosen])
    longitude, latitude = places(source.grid, chosen[:, 0], chosen[:, 1])
    answers = classifier.classify(patches, None, longitude, latitude, top_k=1, nodata=MISSING_DN).best()
    seconds, processor = time.monotonic() - started[0], time.process_time() - started[1]
    mapped_as = [names[label] for label in labels[chosen[:, 0], chosen[:, 1]]]
    same = [answer.label == name for answer, name in zip(answers, mapped_as, strict=True)]
    return {
        "pixels": len(chosen),
        "pixels_per_second": round(len(chosen) / seconds, 1),
        "pixels_per_cpu_second": round(len(chosen) / processor, 1),
        "same_labels": float(np.mean(same)),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Speed and memory of maps, and whether tilings agree.")
    parser.add_argument("--model", type=Path, help="model directory; by default random weights")
    parser.add_argument("--side", type=int, default=192, help="pixels along the region (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_region(folder / "region", args.side, args.side)
        stack = folder / "region" / "stack.tif"
        model = args.model or random_model(folder / "model")
        maps = [folder / f"map{tile}.tif" for tile in (64, 256)]
        rows = [mapped(stack, out, model, tile, args.workers) for out, tile in zip(maps, (64, 256), strict=True)]
        arrays = []
        for out in maps:
            with rasterio.open(out) as source:
                arrays.append(source.read())
        result = {
            "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "region": args.side,
            "threads": os.environ.get("OMP_NUM_THREADS", "all"), "maps": rows,
            "tilings_agree_bit_for_bit": bool((arrays[0] == arrays[1]).all()),
            "naive": naive(stack, maps[1], model, 2000),
        }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
