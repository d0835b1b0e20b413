"""How long it takes to classify one place among 21,001 labels, and how many places a second in batches.

    python benchmarks/classify.py [--model-size small] [--labels 21001] [--repeats 200] [--encode] [--out FILE.json]

The model has random weights and the taxonomy made-up names: neither changes the time. Every timed call does all that a
user's call does, from raw arrays to `Predictions`: twelve months of 10 bands x 5 x 5 pixels and the 27 variables are
checked, encoded, compared with all labels, and the best five are named. Label embeddings are found in the cache, as at
any but the first start; with --encode they are computed, and timed, instead of planted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from geotreeclip.data.statistics import Statistics
from geotreeclip.inference import Classifier
from geotreeclip.label_cache import LabelCache, label_key
from geotreeclip.models.clip import create_model
from geotreeclip.models.directory import LoadedModel
from geotreeclip.schema import BANDS, MONTHS, PATCH, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

FAMILIES, GENERA = 275, 2734  # as many as the published data set has beside its 21,001 species
LEAF_TYPES = ("Deciduous Broadleaf", "Evergreen Broadleaf", "Evergreen Needleleaf", "Deciduous Needleleaf")


def made_up_taxonomy(size: int) -> Taxonomy:
    """Species spread over genera and families as in the published data set, under made-up names."""
    taxa = []
    for species in range(size):
        genus = species % GENERA
        family = genus % FAMILIES
        name = f"Genus{genus:04d}"
        taxa.append(Taxon(LEAF_TYPES[family % 4], f"Family{family:03d}aceae", name, f"{name} species{species}"))
    return Taxonomy(taxa)


def places(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random places with all inputs in plausible ranges."""
    rng = np.random.default_rng(seed)
    forest = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900])[:, None, None]
    images = forest * rng.uniform(0.5, 1.5, (count, MONTHS, len(BANDS), PATCH, PATCH))
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    return {"images": images, "environment": low + (high - low) * rng.uniform(0.3, 0.7, (count, len(VARIABLES)))}


def milliseconds(call: Callable[[], object], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall and processor time of each of the calls after three that warm up.

    Processor time tells what the call costs where other work keeps the machine busy.
    """
    wall, processor = [], []
    for _ in range(repeats + 3):
        start, start_processor = time.perf_counter(), time.process_time()
        call()
        wall.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.process_time() - start_processor))
    return np.array(wall[3:]), np.array(processor[3:])


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-size", default="small", help="name in the registry (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=21_001, help="candidate labels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=200, help="timed calls (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="places of the batch call (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--encode", action="store_true", help="encode the labels instead of planting embeddings")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()

    taxonomy = made_up_taxonomy(args.labels)
    many, one = places(args.batch), places(1, seed=1)
    statistics = Statistics.empty().updated(many["images"].astype(np.uint16), many["environment"])
    torch.manual_seed(0)
    model = create_model(args.model_size, statistics)
    counts = np.ones(len(taxonomy), dtype=np.int64)
    loaded = LoadedModel(model, model.config, taxonomy, counts, statistics, {}, "benchmark", None)
    report: dict[str, float | int | str] = {
        "model": args.model_size,
        "labels": len(taxonomy),
        "device": args.device,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = LabelCache(folder)
        if not args.encode:
            planted = torch.nn.functional.normalize(torch.randn(len(taxonomy), model.config.embed_dim), dim=1)
            cache.put(label_key("benchmark", taxonomy.prompts(), model.text_encoder.context_length), planted)
        classifier = Classifier(loaded, args.device, cache)
        start = time.perf_counter()
        classifier.classify(**one)
        report["first call, ms"] = 1000 * (time.perf_counter() - start)
        calls: dict[str, Callable[[], object]] = {
            "one place": lambda: classifier.classify(**one),
            "one place, to a table": lambda: classifier.classify(**one).to_pandas(),
            "one place, uniform prior": lambda: classifier.classify(**one, prior="uniform"),
            "one place, rank genus": lambda: classifier.classify(**one, rank="genus"),
        }
        for name, call in calls.items():
            wall, processor = milliseconds(call, args.repeats)
            report[f"{name}, median ms"] = float(np.median(wall))
            report[f"{name}, 95th percentile ms"] = float(np.percentile(wall, 95))
            report[f"{name}, median ms of processor time"] = float(np.median(processor))
        seconds = float(np.median(milliseconds(lambda: classifier.classify(**many), 3)[0])) / 1000
        report[f"{args.batch} places, places/s"] = args.batch / seconds

    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}}  {value:,.1f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
