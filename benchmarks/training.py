"""Training throughput: ours on packed shards beside the published design on published shards, in one run.

    python benchmarks/training.py [--seconds 20] [--sizes tiny small base] [--processes 1 2] [--out training.json]

Every system trains its text tower. Taxa follow the tail of GlobalGeoTree: 21,001 taxa with shares proportional to
1 / (k + 10), which gives the most frequent 1.2 % and the 254th 0.05 % of the samples (published: 2.8 % and 0.07 %).
The published design is rebuilt at its size from `transformers` layers with random weights: CLIP ViT-B/16 text tower on
the text of every sample, a 12-layer ViT of width 768 over each of 12 months of 16 x 16 pixels, attention over months,
AdamW; samples come from published-format shards through plain WebDataset. It measures cost, not accuracy.

`base` has smaller batches than the others (`BATCHES`), so that a few steps fit into minutes on a CPU. A second table
trains the first size in several processes, which share the cores: samples per second of all together and the largest
resident memory of one (the mapped shards and the libraries count in each, though they lie in memory once).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from geotreeclip.data.packing import main as pack
from geotreeclip.data.published import PublishedSample, write_published
from geotreeclip.schema import VARIABLE_NAMES, VARIABLES
from geotreeclip.taxonomy import Taxon
from geotreeclip.training.config import ModelChoice, RunConfig
from geotreeclip.training.loop import Trainer

TAXA = 21_001
BATCHES = {"base": 64}
SYLLABLES = ("qu", "er", "mac", "ar", "ang", "phyl", "oph", "lith", "ac", "ia", "pod", "oc", "arp", "us", "il", "ex")


def taxa(count: int) -> list[Taxon]:
    """Taxa with names of about the length of real ones."""
    rng = np.random.default_rng(0)

    def name(parts: int) -> str:
        return "".join(rng.choice(SYLLABLES, parts)).capitalize()

    families = [name(3) + "aceae" for _ in range(275)]
    genera = [(families[int(rng.integers(275))], f"{name(3)}{i % 97}") for i in range(2734)]
    result = []
    for i in range(count):
        family, genus = genera[int(rng.integers(2734))]
        result.append(Taxon("Evergreen Broadleaf", family, genus, f"{genus} {name(3).lower()}{i % 89}"))
    return result


def write_shards(out: Path, samples: int, taxon_count: int) -> Path:
    """Published shards with values in range, and packed ones made from them; returns the packed directory."""
    rng = np.random.default_rng(1)
    names = taxa(taxon_count)
    share = 1 / (np.arange(taxon_count) + 10.0)
    labels = rng.choice(taxon_count, samples, p=share / share.sum())
    low, high = (np.array([getattr(v, side) for v in VARIABLES]) for side in ("low", "high"))

    def stream() -> Iterator[PublishedSample]:
        for i, label in enumerate(labels):
            images = rng.integers(100, 5000, (12, 10, 5, 5)).astype(float)
            images[rng.random(12) < 0.2] = np.nan
            environment = rng.uniform(low, high)
            yield PublishedSample(f"{i:07d}", images, environment, names[label], f"{i:07d}", "synthetic")

    write_published(out / "published.tar", stream())
    pack([str(out / "published.tar"), "--out", str(out / "packed"), "--worldclim", "2.1"])
    return out / "packed"


class PublishedDesign(nn.Module):
    """The published architecture at its size, rebuilt for its cost."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(hidden_size=512, num_hidden_layers=12, num_attention_heads=8))
        vision = CLIPVisionConfig(hidden_size=768, num_hidden_layers=12, image_size=16, patch_size=16, num_channels=10)
        self.month = CLIPVisionModel(vision)
        self.time = nn.MultiheadAttention(768, 4, batch_first=True)
        self.environment = nn.Sequential(nn.Linear(27, 256), nn.ReLU(), nn.Linear(256, 256))
        self.head = nn.Linear(768 + 256, 512)

    def forward(self, images: torch.Tensor, environment: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, B]."""
        size = len(images)
        big = nn.functional.interpolate(images.flatten(0, 1), size=(16, 16), mode="bilinear")
        months = self.month(pixel_values=big).pooler_output.view(size, 12, 768)
        months = self.time(months, months, months, need_weights=False)[0].mean(1)
        places = self.head(torch.cat([months, self.environment(environment)], 1))
        texts = self.text(input_ids=tokens).pooler_output
        return nn.functional.normalize(places, dim=1) @ nn.functional.normalize(texts, dim=1).t() / 0.07


def published_samples(path: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor, str]]:
    """Samples of a published shard as its own reader decodes them, for ever."""
    source = wds.WebDataset([str(path)], shardshuffle=False, empty_check=False).shuffle(1000)
    while True:
        for sample in source:
            images = torch.load(io.BytesIO(sample["images.pth"]), weights_only=True).float().nan_to_num()
            fields, ranks = json.loads(sample["auxiliary.json"]), json.loads(sample["text.json"])
            ranks = ranks[0] if isinstance(ranks, list) else ranks
            yield images, torch.tensor([fields[name] or 0.0 for name in VARIABLE_NAMES]), " / ".join(ranks.values())


def time_published(path: Path, seconds: float, batch_size: int) -> float:
    """Samples a second of the published design."""
    import open_clip

    model = PublishedDesign()
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    stream = published_samples(path)
    done, start = 0, 0.0
    while not done or time.perf_counter() - start < seconds:
        images, environment, texts = zip(*(next(stream) for _ in range(batch_size)), strict=True)
        logits = model(torch.stack(images) / 10_000, torch.stack(environment) / 1_000, tokenizer(list(texts)))
        target = torch.arange(batch_size)
        loss = nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.t(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not start:  # the first step allocates
            start = time.perf_counter()
        else:
            done += batch_size
    return done / (time.perf_counter() - start)


def time_ours(data: Path, name: str, seconds: float, batch_size: int, out: Path) -> dict[str, float]:
    """Samples a second of one of our sizes, through the same loop as `train/clip.py`."""
    config = RunConfig(
        data=str(data), out=str(out), batch_size=batch_size, trackers=(), resume="never", model=ModelChoice(name=name)
    )
    trainer = Trainer(config, quiet=True)
    trainer.steps = 10_000
    batches = trainer.loader.batches()
    for _ in range(2):
        trainer.train_step(next(batches))
    done, start = 0, time.perf_counter()
    going = True
    while going:
        float(trainer.train_step(next(batches)))
        done += batch_size
        going = bool(broadcast_object_list([time.perf_counter() - start < seconds])[0])  # all stop at one step
    rate = done / (time.perf_counter() - start)
    batches.close()  # type: ignore[attr-defined]
    trainer.accelerator.end_training()
    parameters = sum(p.numel() for p in trainer.plain.parameters())
    return {"rate": rate, "parameters": parameters, "batch": batch_size}


def _member(rank: int, world: int, port: int, answers: Any, job: tuple[Any, ...]) -> None:
    """One of several training processes; the first one answers."""
    cores = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, len(cores) // world))
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
    found = time_ours(*job)
    # Not getrusage: its maximum goes on from that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    answers.put((found["rate"], int(status.split("VmHWM:")[1].split()[0]) / 1024))


def time_processes(job: tuple[Any, ...], world: int) -> dict[str, float]:
    """Samples a second of several processes together, and the resident memory of the largest in MB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_member, args=(rank, world, port, answers, job)) for rank in range(world)]
    for process in processes:
        process.start()
    rates, sizes = zip(*(answers.get(timeout=3600) for _ in processes), strict=True)
    for process in processes:
        process.join()
    return {"processes": world, "rate": min(rates), "largest_mb": max(sizes)}


def main() -> None:
    """Time everything and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="timed for each system")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=512, help="batch of our models")
    parser.add_argument("--published-batch", type=int, default=32)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "base"])
    parser.add_argument("--processes", nargs="+", type=int, default=[], help="second table, for example 1 2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tail, ninety = Path(folder) / "tail", Path(folder) / "ninety"
        for path, count in ((tail, TAXA), (ninety, 90)):
            path.mkdir()
            write_shards(path, options.samples, count)
        parameters = sum(parameter.numel() for parameter in PublishedDesign().parameters())
        rate = time_published(tail / "published.tar", options.seconds, options.published_batch)
        about = {"parameters": parameters, "batch": options.published_batch}
        rows.append({"system": "published design, published shards", "taxa": TAXA, "rate": rate, "ratio": 1.0, **about})
        jobs = [(tail, TAXA, name) for name in options.sizes] + [(ninety, 90, "tiny")]
        for path, count, name in jobs:
            batch = min(options.batch, BATCHES.get(name, options.batch))
            found = time_ours(path / "packed", name, options.seconds, batch, Path(folder) / "run")
            rows.append({"system": f"{name}, packed shards", "taxa": count, **found, "ratio": found["rate"] / rate})
        job = (tail / "packed", options.sizes[0], options.seconds, options.batch, Path(folder) / "run")
        growth = [time_processes(job, world) for world in options.processes]
    print(
        f"\n{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("| system | taxa | parameters | batch | samples/s | ratio |\n|---|---|---|---|---|---|")
    for row in rows:
        size = f"{row['parameters'] / 1e6:.1f} M | {row['batch']}"
        print(f"| {row['system']} | {row['taxa']:,} | {size} | {row['rate']:,.1f} | {row['ratio']:.1f} x |")
    if growth:
        print(f"\n| processes, {options.sizes[0]} | samples/s | resident memory, largest MB |\n|---|---|---|")
    for row in growth:
        print(f"| {row['processes']} | {row['rate']:,.1f} | {row['largest_mb']:,.0f} |")
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "growth": growth}, indent=1))


if __name__ == "__main__":
    main()
