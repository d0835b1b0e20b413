"""Nested probing: outer folds at random and in spatial blocks, every choice on inner folds of the training part.

Shape letters: N samples, F features, K targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.probes.fitting import PROBES, choose
from geotreeclip.evaluation.probes.scores import (
    SCORES,
    best_thresholds,
    jackknife,
    macro_f1_of_labels,
    micro_f1_of_labels,
)
from geotreeclip.evaluation.report import Row, make_row
from geotreeclip.evaluation.splits import assign_folds, nearest_km, spatial_blocks

Floats = NDArray[np.float64]

BLOCK_KM = 500.0
INTERVAL_KM = 100.0
MIN_SAMPLES = 10
SPLITS = ("random", "blocks")


@dataclass(frozen=True, eq=False)
class Problem:
    """What is asked of an embedding.

    Attributes:
        task: "multiclass", "multilabel" or "regression".
        features: float64 [N, F], finite.
        target: float64 [N, K].
        names: K names of classes, labels or quantities.
        longitude: [N] degrees.
        latitude: [N] degrees.
        sample_id: [N] text.
        left_out: reason -> how many classes, labels or rows were left out for it.
    """

    task: str
    features: Floats
    target: Floats
    names: list[str]
    longitude: Floats
    latitude: Floats
    sample_id: NDArray[np.str_]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Options:
    """How it is asked.

    Attributes:
        probes: of `PROBES`.
        folds: outer folds.
        block_km: edge of the blocks; the random split keeps samples of one place together.
        buffer_km: training samples closer to a test sample are left out of the blocked split.
        seed: of the folds.
    """

    probes: tuple[str, ...] = PROBES
    folds: int = 5
    block_km: float = BLOCK_KM
    buffer_km: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.probes if name not in PROBES]
        if unknown or not self.probes:
            raise ConfigError(f"probes {', '.join(unknown) or '(none)'}: choose from {', '.join(PROBES)}")
        if not self.block_km > 0 or self.buffer_km < 0:
            raise ConfigError(f"probes: blocks of {self.block_km} km with a buffer of {self.buffer_km} km cannot be")


@dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions of one probe on one split; every sample is predicted once, by a probe that had not seen its fold.

    Attributes:
        probe: its name.
        split: "random" or "blocks".
        predicted: [N, K].
        fold: int64 [N].
        settings: what was chosen in each fold.
        thresholds: [folds, K] of several labels at once, chosen on inner folds; else None.
        dropped: training samples left out for the buffer, in each fold.
    """

    probe: str
    split: str
    predicted: Floats
    fold: NDArray[np.int64]
    settings: list[str]
    thresholds: Floats | None
    dropped: list[int]


def run_probes(problem: Problem, options: Options, say: Callable[[str], None] = lambda text: None) -> list[Outcome]:
    """Fit and score all probes on both splits.

    Args:
        problem: embedding and targets.
        options: folds and probes.
        say: told of every fold.

    Raises:
        DataError: fewer blocks than folds.
    """
    outcomes = []
    probes = options.probes
    if problem.task == "regression" and "ridge" in probes:  # a linear regression with a penalty is ridge
        probes = tuple(name for name in probes if name != "linear")
    lon, lat = problem.longitude, problem.latitude
    for split in SPLITS:
        size = 0.0 if split == "random" else options.block_km
        unit = spatial_blocks(lon, lat, size)
        if len(np.unique(unit)) < options.folds:
            kind = "places" if split == "random" else f"blocks of {options.block_km:g} km"
            raise DataError(
                f"probe: {len(np.unique(unit))} {kind} for {options.folds} folds; take smaller blocks or fewer folds"
            )
        fold = assign_folds(unit, options.folds, options.seed)
        train = {
            k: _training(problem, fold == k, options.buffer_km if split == "blocks" else 0.0)
            for k in range(options.folds)
        }
        for probe in probes:
            predicted = np.full(problem.target.shape, np.nan)
            settings, thresholds = [], []
            for k in range(options.folds):
                rows = train[k]
                chosen = choose(
                    probe, problem.task, problem.features[rows], problem.target[rows], unit[rows],
                    seed=options.seed * 1000 + k,
                )  # fmt: skip
                predicted[fold == k] = chosen.predict(problem.features[fold == k])
                settings.append(chosen.setting)
                if problem.task == "multilabel":
                    thresholds.append(best_thresholds(problem.target[rows], chosen.held_out))
                say(f"{split}, {probe}, fold {k}: {chosen.setting}")
            dropped = [int((fold != k).sum() - train[k].sum()) for k in range(options.folds)]
            outcomes.append(
                Outcome(probe, split, predicted, fold, settings, np.array(thresholds) if thresholds else None, dropped)
            )
    return outcomes


def _training(problem: Problem, test: NDArray[np.bool_], buffer_km: float) -> NDArray[np.bool_]:
    """Samples that train for a test fold."""
    train = ~test
    if buffer_km > 0:
        lon, lat = problem.longitude, problem.latitude
        train[train] = nearest_km(lon[train], lat[train], lon[test], lat[test]) > buffer_km
    if not train.any():
        raise DataError(f"probe: no training sample is left outside a buffer of {buffer_km:g} km; take a smaller one")
    return train


def report_rows(problem: Problem, outcomes: Sequence[Outcome], options: Options, **about: str) -> list[Row]:
    """Rows of a report: pooled over folds with intervals by blocks, each fold, mean over folds, random minus blocks.

    Args:
        problem: as probed.
        outcomes: of `run_probes`.
        options: as probed.
        **about: columns that all rows share (set, system, inputs).
    """
    size = max(INTERVAL_KM, options.block_km)
    blocks = spatial_blocks(problem.longitude, problem.latitude, size)
    rows: list[Row] = []
    pooled: dict[tuple[str, str, str], float] = {}
    for outcome in outcomes:
        shown = {"random": "random", "blocks": f"blocks{options.block_km:g}"}[outcome.split]
        if outcome.split == "blocks" and options.buffer_km:
            shown += f"-buffer{options.buffer_km:g}"
        scores = dict(SCORES[problem.task])
        predictions = dict.fromkeys(scores, outcome.predicted)
        if outcome.thresholds is not None:
            scores |= {"macro_f1": macro_f1_of_labels, "micro_f1": micro_f1_of_labels}
            answers = outcome.predicted - outcome.thresholds[outcome.fold]
            predictions |= {"macro_f1": answers, "micro_f1": answers}
        for name, score in scores.items():
            shared = {**about, "method": outcome.probe, "split": shown, "group": "all", "seed": options.seed}
            interval = jackknife(score, problem.target, predictions[name], blocks, seed=options.seed)
            pooled[outcome.split, outcome.probe, name] = interval.value
            rows.append(make_row(**shared, metric=name, n=len(problem), **interval._asdict()))
            by_fold = []
            for k in range(options.folds):
                part = outcome.fold == k
                by_fold.append(score(problem.target[part], predictions[name][part]))
                rows.append(make_row(**shared, metric=name, n=int(part.sum()), fold=k, value=by_fold[-1]))
            rows.append(
                make_row(**shared, metric=f"{name}_mean_of_folds", n=len(problem), value=float(np.mean(by_fold)))
            )
    for (split, probe, name), value in pooled.items():
        if split == "random" and ("blocks", probe, name) in pooled:
            gap = value - pooled["blocks", probe, name]
            rows.append(make_row(**about, method=probe, split="random - blocks", group="all", seed=options.seed,
                                 metric=f"{name}_gap", n=len(problem), value=gap))  # fmt: skip
    return rows
