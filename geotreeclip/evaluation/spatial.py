"""The spatial benchmark: a network and baselines on the same folds, over a curve of block sizes.

One cell is one system on one fold of one geometry (block size and buffer) with one seed. Every cell is fitted on the
training and validation samples of its fold, scored on the test samples, and kept as a predictions file, so that a
stopped run goes on where it was. The report pools the test samples of all folds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.baselines import BASELINES, SEEDED, Fold
from geotreeclip.evaluation.collect import truth_of
from geotreeclip.evaluation.metrics import bootstrap_of, difference, score
from geotreeclip.evaluation.prediction_files import read_predictions, write_predictions
from geotreeclip.evaluation.predictions import Context, Predictions, concatenate, from_log_prob
from geotreeclip.evaluation.report import Row, make_row
from geotreeclip.evaluation.splits import spatial_folds, write_split

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

NETWORK = "geotreeclip"
RIVAL = "random forest"
INTERVAL_KM = 100.0
"""Blocks of the bootstrap are those of the folds, but no smaller than this: samples of a random split are no more
independent for it."""


@dataclass(frozen=True, order=True, slots=True)
class Geometry:
    """Blocks of a size, and the distance kept between training and test."""

    size_km: float
    buffer_km: float = 0.0

    @property
    def name(self) -> str:
        """Name of the split, such as "blocks500-buffer100"."""
        return f"blocks{self.size_km:g}" + (f"-buffer{self.buffer_km:g}" if self.buffer_km else "")


@dataclass(frozen=True, slots=True)
class Cell:
    """One fit.

    Attributes:
        data: Packed directory.
        out: Directory of the benchmark.
        geometry: Blocks and buffer.
        fold: Number of the fold.
        system: Key of ``BASELINES``, or ``geotreeclip``.
        seed: Seed of the fit, None for a system without one.
        recipe: Arguments of `train/clip.py` for the network.
        keep_model: Whether to keep the network's run directory.
    """

    data: Path
    out: Path
    geometry: Geometry
    fold: int
    system: str
    seed: int | None
    recipe: tuple[str, ...] = ()
    keep_model: bool = False

    @property
    def path(self) -> Path:
        """Its predictions."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return (
            self.out / "cells" / self.geometry.name / f"{self.system.replace(' ', '_')}-fold{self.fold}{seed}.parquet"
        )


@dataclass(frozen=True)
class Benchmark:
    """What is run.

    Attributes:
        data: Packed directory; every sample needs coordinates.
        out: Directory for predictions and report.
        sizes: Block sizes of the curve in kilometres, without buffer; 0 is a random split by place.
        main_size: Block size of the main figure.
        buffer_km: Buffer of the main figure.
        folds: Number of folds.
        seeds: Seeds of the fits. The folds are the same for all.
        split_seed: Seed of the folds.
        validation: Share of training that a network validates on; baselines learn from it instead.
        recipe: Arguments of `train/clip.py` (``--config FILE`` and overrides); empty runs the baselines alone.
        jobs: Cells at a time, each in a process with its share of the cores.
        keep_models: Whether to keep the networks.
    """

    data: Path
    out: Path
    sizes: tuple[float, ...] = (0.0, 100.0, 250.0, 500.0, 1000.0)
    main_size: float = 500.0
    buffer_km: float = 100.0
    folds: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    split_seed: int = 0
    validation: float = 0.1
    recipe: tuple[str, ...] = ()
    jobs: int = 1
    keep_models: bool = False
    systems: tuple[str, ...] = field(default=tuple(BASELINES))

    @property
    def main(self) -> Geometry:
        """Blocks and buffer of the main figure."""
        return Geometry(self.main_size, self.buffer_km)

    @property
    def geometries(self) -> list[Geometry]:
        """The curve, and the main figure last."""
        return list(dict.fromkeys([*(Geometry(size) for size in self.sizes), self.main]))

    def cells(self) -> list[Cell]:
        """Every fit, cheap systems first."""
        systems = [*self.systems, *([NETWORK] if self.recipe else [])]
        return [
            Cell(self.data, self.out, geometry, fold, system, seed, self.recipe, self.keep_models)
            for system in systems
            for geometry in reversed(self.geometries)
            for seed in (self.seeds if system in (*SEEDED, NETWORK) else (None,))
            for fold in range(self.folds)
        ]


def run_benchmark(benchmark: Benchmark, say: Callable[[str], None] = print) -> list[Predictions]:
    """Fit what is not yet fitted, and return the pooled predictions, one for each system, geometry and seed.

    Raises:
        ConfigError: The output directory holds another benchmark, or the data has other splits of the same names.
        DataError: Samples lack coordinates.
    """
    from geotreeclip.data.packed import PackedDataset

    dataset = PackedDataset(benchmark.data)
    _claim(benchmark, dataset)
    for geometry in benchmark.geometries:
        ensure_split(dataset, benchmark, geometry)
    cells = benchmark.cells()
    waiting = [cell for cell in cells if not cell.path.is_file()]
    say(f"{len(cells)} fits, {len(cells) - len(waiting)} of them already there")
    for number, cell in enumerate(_work(waiting, benchmark.jobs), 1):
        (part,) = read_predictions(cell.path)
        seed = "" if cell.seed is None else f", seed {cell.seed}"
        say(
            f"[{number}/{len(waiting)}] {cell.geometry.name} fold {cell.fold}{seed}: {cell.system} "
            f"top-1 {part.hits(1).mean():.1%}"
        )
    return [pool(list(group)) for group in _groups(cells)]


def pool(cells: Sequence[Cell]) -> Predictions:
    """The test samples of all folds of one system as one."""
    parts = [read_predictions(cell.path)[0] for cell in cells]
    methods = {part.context.method for part in parts}
    method = methods.pop() if len(methods) == 1 else "settings chosen in each fold"
    return concatenate(parts, fold=None, candidates="taxa of the training part of each fold", method=method)


def report_rows(benchmark: Benchmark, pooled: Sequence[Predictions], resamples: int = 1000) -> list[Row]:
    """Rows of the report: metrics of every system, geometry and seed, means over seeds, folds, paired differences.

    Differences are network minus random forest in top-1 on the pooled test samples, by paired bootstrap over spatial
    blocks: seed by seed, and with hits averaged over the seeds within each sample (seed null, method "mean of seeds").
    """
    rows: list[Row] = []
    for item in pooled:
        rows += score(item, bootstrap=bootstrap_of(item, resamples=resamples))
    by_system: dict[tuple[str | None, str], list[Predictions]] = {}
    for item in pooled:
        by_system.setdefault((item.context.split, item.context.system), []).append(item)
    for items in by_system.values():
        rows += _seed_mean(items, resamples)
    for geometry in benchmark.geometries:
        ours, theirs = (by_system.get((geometry.name, system), []) for system in (NETWORK, RIVAL))
        if ours and theirs:
            rows += _differences(ours, theirs, resamples)
    for cell in benchmark.cells():
        (part,) = read_predictions(cell.path)
        rows.append(_row(part.context, "top1", len(part), value=float(part.hits(1).mean())))
    return rows


def ensure_split(dataset: PackedDataset, benchmark: Benchmark, geometry: Geometry) -> Path:
    """The split file of a geometry, written if absent.

    Raises:
        ConfigError: There is one of the same name with other folds.
    """
    import pandas as pd

    table = dataset.samples()
    lon, lat = (table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("longitude", "latitude"))
    frame = spatial_folds(
        lon,
        lat,
        geometry.size_km,
        folds=benchmark.folds,
        seed=benchmark.split_seed,
        buffer_km=geometry.buffer_km,
        validation=benchmark.validation,
        sample_id=table["sample_id"].astype(str).tolist(),
    )
    path = dataset.directory / "splits" / f"{geometry.name}.parquet"
    if not path.is_file():
        return write_split(dataset.directory, geometry.name, frame)
    there = pd.read_parquet(path, columns=["sample_id", "fold", "role"])
    same = len(there) == len(frame) and all(
        np.array_equal(there[name].to_numpy(), frame[name].to_numpy()) for name in there.columns
    )
    if not same:
        raise ConfigError(
            f"{path}: is another split than {benchmark.folds} folds with seed {benchmark.split_seed} and validation "
            f"{benchmark.validation:g}; remove it, or give its settings"
        )
    return path


def fit_cell(cell: Cell) -> Cell:
    """Fit a system on a fold, score its test samples and keep the predictions."""
    from geotreeclip.data.packed import PackedDataset

    dataset = PackedDataset(cell.data)
    split = cell.geometry.name
    test = dataset.split(split, cell.fold, "test")
    train = np.sort(np.concatenate([dataset.split(split, cell.fold, role) for role in ("train", "validation")]))
    truth = truth_of(dataset, test, block_km=max(cell.geometry.size_km, INTERVAL_KM))
    if cell.system == NETWORK:
        labels = np.unique(dataset.taxa[train])
        log_prob, inputs, method = _network(cell, dataset, test, labels), "all", None
    else:
        function, inputs = BASELINES[cell.system]
        blocks = truth_of(dataset, np.arange(len(dataset)), block_km=cell.geometry.size_km).block
        if blocks is None:
            raise DataError(f"{cell.data}: no sample has coordinates; spatial folds need them")
        fold = Fold(
            environment=dataset.read(np.arange(len(dataset))).environment,
            taxon=dataset.taxa,
            block=blocks,
            train=train,
            test=test,
            buffer_km=cell.geometry.buffer_km,
            seed=cell.seed or 0,
        )
        labels, log_prob, method = function(fold)
    predictions = from_log_prob(
        log_prob,
        [dataset.taxonomy[int(row)] for row in labels],
        truth.taxa,
        truth.sample_id,
        context=Context(
            set=dataset.directory.resolve().name,
            split=split,
            fold=cell.fold,
            system=cell.system,
            inputs=inputs,
            prior="training",
            candidates=f"{len(labels)} taxa of the training part",
            method=method,
            seed=cell.seed,
        ),
        **truth.columns(slice(None)),
    )
    write_predictions(cell.path, predictions)
    return cell


def _network(
    cell: Cell, dataset: PackedDataset, test: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Train the network on a fold as `train/clip.py` would, and score the test samples over the labels."""
    import shutil

    import torch

    from geotreeclip.data.loader import sequential
    from geotreeclip.inference import Classifier
    from geotreeclip.label_cache import LabelCache
    from geotreeclip.models.directory import load_model
    from geotreeclip.observations import from_packed
    from geotreeclip.training.cli import parse
    from geotreeclip.training.loop import train

    run = cell.out / "runs" / cell.geometry.name / f"fold{cell.fold}-seed{cell.seed}"
    config = parse(list(cell.recipe))[0]
    config = replace(
        config,
        data=str(cell.data),
        out=str(run),
        split=cell.geometry.name,
        fold=cell.fold,
        seed=cell.seed or 0,
        trackers=(),
        threads=config.threads or torch.get_num_threads(),  # the share of this process, not the whole machine
    )
    model = load_model(train(config, quiet=True))
    classifier = Classifier(model, cache=LabelCache(run / "labels"))  # of no use to others: it goes with the run
    candidates = dataset.taxonomy.take(labels.tolist())
    scores = [
        classifier.log_probabilities(from_packed(batch, classifier.device), labels=candidates, prior="training")
        for batch in sequential(dataset, test, 1024)
    ]
    if not cell.keep_model:
        shutil.rmtree(run)
    return np.concatenate(scores).astype(np.float32)


def _work(cells: Sequence[Cell], jobs: int) -> Iterable[Cell]:
    """Fit cells one after the other, or several at a time in processes of their own."""
    if jobs <= 1 or len(cells) <= 1:
        yield from map(fit_cell, cells)
        return
    # Threads of a parent do not survive a fork: processes start afresh.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_share_cores, initargs=(jobs,)) as pool:
        for done in as_completed([pool.submit(fit_cell, cell) for cell in cells]):
            yield done.result()


def _share_cores(jobs: int) -> None:
    import os

    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _groups(cells: Sequence[Cell]) -> Iterable[list[Cell]]:
    """Cells that differ in the fold alone."""
    groups: dict[tuple[Geometry, str, int | None], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.geometry, cell.system, cell.seed), []).append(cell)
    return groups.values()


def _claim(benchmark: Benchmark, dataset: PackedDataset) -> None:
    """Make the output directory that of this benchmark, or refuse it where it is that of another."""
    identity = {
        "data": dataset.fingerprint(),
        "folds": benchmark.folds,
        "split_seed": benchmark.split_seed,
        "validation": benchmark.validation,
    }
    if benchmark.recipe:
        identity["recipe"] = _recipe_identity(benchmark.recipe)
    path = benchmark.out / "benchmark.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = [key for key, value in identity.items() if key in known and known[key] != value]
    if changed:
        raise ConfigError(
            f"{benchmark.out}: holds a benchmark with another {', '.join(changed)}; give another --out, or remove it"
        )
    benchmark.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, **identity}, indent=1), encoding="utf-8")


def _recipe_identity(recipe: Sequence[str]) -> str:
    from geotreeclip.training.cli import parse

    settings = parse(list(recipe))[0].to_dict()
    for name in ("data", "out", "split", "fold", "seed", "trackers"):
        settings.pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _seed_mean(items: Sequence[Predictions], resamples: int) -> list[Row]:
    """Top-1 and top-5 averaged over seeds, the interval over blocks of the averaged hits."""
    if len(items) < 2:
        return []
    order = [np.argsort(item.sample_id) for item in items]
    bootstrap = bootstrap_of(items[0].take(order[0]), resamples=resamples)
    context = replace(items[0].context, seed=None, method="mean of seeds")
    rows = []
    for k in (1, 5):
        hits = np.mean([item.hits(k)[index] for item, index in zip(items, order, strict=True)], axis=0)
        rows.append(_row(context, f"top{k}", len(hits), **bootstrap.mean(hits)._asdict()))
    return rows


def _differences(ours: Sequence[Predictions], theirs: Sequence[Predictions], resamples: int) -> list[Row]:
    context = replace(ours[0].context, system=f"{NETWORK} - {RIVAL}", method=None)
    rows = []
    for first, second in zip(ours, theirs, strict=False):
        between = difference(first, second, resamples=resamples)
        seed = replace(context, seed=first.context.seed)
        rows.append(_row(seed, "top1_difference", len(first), **between._asdict()))
    between = difference(ours, theirs, resamples=resamples)
    every = replace(context, seed=None, method="mean of seeds")
    rows.append(_row(every, "top1_difference", len(ours[0]), **between._asdict()))
    return rows


def _row(context: Context, metric: str, n: int, **values: Any) -> Row:
    from dataclasses import asdict

    return make_row(**asdict(context), protocol="published", rank="species", group="all", metric=metric, n=n, **values)
