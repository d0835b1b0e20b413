"""Fit a model's temperature and the thresholds of its prediction sets, and store them with it.

Everything is fitted on validation samples, which the weights were not fitted to (only the best step was chosen by
them), of blocks that training did not see. Test samples are never touched. What the fit does to the scores is measured
by cross-fitting: each sample is judged by a fit that has not seen its block.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.calibration import (
    calibrated,
    calibration_table,
    classwise_error,
    cross_fitted,
    fit_temperature,
    reliability,
    restricted_lists,
)
from geotreeclip.evaluation.collect import Truth, named_ranks, truth_of
from geotreeclip.evaluation.conformal import (
    LEVEL,
    block_quantile,
    conformal_quantile,
    cross_conformal,
)
from geotreeclip.evaluation.intervals import Interval
from geotreeclip.evaluation.metrics import bootstrap_of, calibration_error_interval
from geotreeclip.evaluation.options import BLOCK_KM
from geotreeclip.evaluation.predictions import Predictions, from_log_prob
from geotreeclip.evaluation.ranking import locate
from geotreeclip.evaluation.report import describe_run
from geotreeclip.evaluation.selection import candidate_list, trained_with
from geotreeclip.evaluation.zero_shot import model_directory
from geotreeclip.models.calibration import Calibration, ConformalThreshold, read_calibration, write_calibration
from geotreeclip.taxonomy import Taxonomy, log_sum_groups

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

MAX_SCORES = 200_000_000  # [N, L] held at once: 800 MB
LIST_SIZES = (2, 5, 10, 30, 90, 300, 900, 3000, 10_000)
MIN_SAMPLES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--model", required=True, metavar="RUN", help="training run or model directory; written into")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="packed set with a split")
    parser.add_argument("--split", metavar="NAME", help="split; default: the one trained with")
    parser.add_argument(
        "--fold", type=int, metavar="K", help="fold of the split; default: the one trained with, else 0"
    )
    parser.add_argument("--role", default="validation", choices=("validation", "buffer"), help="samples to fit on")
    parser.add_argument("--labels", type=Path, metavar="table.csv", help="candidates; default: the taxa of training")
    parser.add_argument("--fit-prior", action="store_true", help="fit the weight of the log prior too")
    parser.add_argument("--level", type=float, default=LEVEL, help="coverage of the prediction sets (%(default)g)")
    parser.add_argument("--block-km", type=float, default=BLOCK_KM, help="edge of the blocks (%(default)g)")
    parser.add_argument("--limit", type=int, default=20_000, help="samples at most, drawn by seed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="torch device; default: a GPU where there is one")
    parser.add_argument("--dry-run", action="store_true", help="fit and print, write nothing")


def run(args: argparse.Namespace) -> int:
    """Fit, print what changes, write ``calibration.json``."""
    if not 0 < args.level < 1:
        raise ConfigError(f"--level {args.level}: give a share between 0 and 1")
    print(f"Loading {args.model} and {args.data} ...", flush=True)
    from geotreeclip.candidates import label_priors
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.inference import Classifier
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model
    from geotreeclip.prep.phase import check_days

    dataset = PackedDataset(args.data)
    path = find_model(model_directory(args.model))
    loaded = load_model(path)
    check_days(dataset.directory, loaded.config)
    rows, split, fold = _rows(dataset, args, trained_with(loaded.training, dataset))
    labels = loaded.taxonomy if args.labels is None else candidate_list(dataset, args.labels, loaded.taxonomy)[0]
    count = min(args.limit, max(MIN_SAMPLES, MAX_SCORES // max(1, len(labels))))
    if len(rows) > count:
        rows = np.sort(np.random.default_rng([args.seed, 7]).permutation(rows)[:count])
    truth = truth_of(dataset, rows, block_km=args.block_km)
    print(f"Fitting on {len(rows):,} {args.role} samples of split {split}, fold {fold}; {len(labels)} candidates.")
    for note in _notes(dataset, split, fold, args.role, truth):
        print(f"Note: {note}")
    scores = score(Classifier(loaded, args.device), dataset, rows, labels)
    prior = np.log(label_priors(labels, loaded.taxonomy, loaded.counts))
    about = {
        "data_fingerprint": dataset.fingerprint(), "set": dataset.directory.resolve().name, "split": split,
        "fold": fold, "role": args.role, "block_km": args.block_km, "labels": len(labels), "seed": args.seed,
        "command": describe_run()["command"], "created": describe_run()["created"],
    }  # fmt: skip
    result, lines = fit(
        scores, labels, truth, log_prior=prior if args.fit_prior else None, level=args.level, seed=args.seed,
        about=about, model_fingerprint=loaded.fingerprint,
    )  # fmt: skip
    print("\n".join(["", *lines, ""]))
    if args.dry_run:
        print(f"Dry run: nothing was written to {path}.")
    else:
        before = read_calibration(path)
        print(f"{'Replaced' if before else 'Wrote'} {write_calibration(path, result)}")
    return 0


def fit(
    scores: NDArray[Any],
    labels: Taxonomy,
    truth: Truth,
    *,
    log_prior: NDArray[np.float64] | None = None,
    level: float = LEVEL,
    seed: int = 0,
    about: dict[str, Any] | None = None,
    model_fingerprint: str = "",
) -> tuple[Calibration, list[str]]:
    """The calibration of scores, and what to tell of it.

    Args:
        scores: [N, L] log-probabilities under the training prior.
        labels: the L candidates.
        truth: of the N samples.
        log_prior: [L]; fits its weight too.
        level: coverage of the prediction sets.
        seed: of the cross-fitting.
        about: goes into `Calibration.fitted_on`.
        model_fingerprint: of the weights.
    """
    column = locate(labels, truth.taxa, named_ranks(labels)[0])[1]
    fitted = fit_temperature(scores, column, log_prior=log_prior, blocks=truth.block)
    crossed = cross_fitted(scores, column, truth.block, log_prior=log_prior, seed=seed)
    after = calibrated(scores, fitted.temperature, fitted.prior_weight, log_prior)
    measured = {"before": _measures(scores, labels, truth, column), "after": _measures(crossed, labels, truth, column)}
    thresholds, table = _conformal(after, labels, truth, level, seed)
    blocks = None if truth.block is None else len(np.unique(truth.block))
    result = Calibration(
        temperature=fitted.temperature,
        prior_weight=fitted.prior_weight,
        model_fingerprint=model_fingerprint,
        fitted_on={**(about or {}), "samples": fitted.n, "of": len(truth), "blocks": blocks},
        scores={
            "temperature_interval": [fitted.low, fitted.high],
            "note": "after: by cross-fitting over blocks",
            **measured,
        },
        conformal=tuple(thresholds),
    )
    lines = [f"temperature {fitted.temperature:.3f} [{fitted.low:.3f}, {fitted.high:.3f}]"]
    if log_prior is not None:
        lines.append(f"weight of the log prior {fitted.prior_weight:+.3f}")
    lines += ["", f"{'':34}{'before':>10}{'after (cross-fitted)':>24}"]
    for name, words in _WORDS.items():
        one, two = (_show(measured[when][name], name) for when in ("before", "after"))
        lines.append(f"{words:34}{one:>10}{two:>24}")
    lines += ["", *_list_sizes(scores, crossed, column, truth, seed), "", *table]
    return result, lines


def score(classifier: Any, dataset: PackedDataset, rows: NDArray[np.int64], labels: Taxonomy) -> NDArray[np.float32]:
    """Log-probabilities [N, L] under the training prior, uncalibrated."""
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.evaluation.collect import batch_size_for
    from geotreeclip.observations import from_packed

    result = np.empty((len(rows), len(labels)), dtype=np.float32)
    size, start = batch_size_for(len(labels)), 0
    with tqdm(total=len(rows), unit=" samples", desc="scoring", disable=not sys.stderr.isatty()) as bar:
        for packed in sequential(dataset, rows, size):
            batch = from_packed(packed, classifier.device)
            part = classifier.log_probabilities(batch, labels=labels, prior="training", batch_size=size)
            result[start : start + len(part)] = part
            start += len(part)
            bar.update(len(part))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/calibrate.py``."""
    parser = argparse.ArgumentParser(
        prog="calibrate.py",
        description="Fit a model's temperature and the thresholds of its prediction sets on validation samples, and "
        "store them in its directory as calibration.json.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


_WORDS = {
    "log_loss": "log loss, nats",
    "ece": "calibration error, plug-in",
    "ece_debiased": "root mean square error, debiased",
    "ece_classwise": "classwise calibration error",
    "top1": "top-1",
}


def _rows(
    dataset: PackedDataset, args: argparse.Namespace, trained: tuple[str, int] | None
) -> tuple[NDArray[np.int64], str, int]:
    split = args.split or (trained[0] if trained else None)
    if split is None:
        found = sorted(path.stem for path in (dataset.directory / "splits").glob("*.parquet"))
        raise ConfigError(
            f"{args.data}: the model was trained on another set, so name the split whose {args.role} samples to fit on "
            f"with --split; the set has {', '.join(found) or 'none: make one with data_prep/splits.py'}"
        )
    fold = args.fold if args.fold is not None else (trained[1] if trained and trained[0] == split else 0)
    rows = dataset.split(split, fold, args.role)
    if len(rows) < MIN_SAMPLES:
        raise ConfigError(
            f"split {split}, fold {fold} has {len(rows)} {args.role} samples; calibration needs at least {MIN_SAMPLES}"
        )
    if trained and trained != (split, fold):
        seen = np.concatenate([dataset.split(*trained, role) for role in ("train", "validation")])
        share = float(np.isin(rows, seen).mean())
        if share > 0:
            raise ConfigError(
                f"the model was trained on {share:.0%} of these samples (split {trained[0]}, fold {trained[1]}); a "
                "calibration on them would be far too sure: leave --split and --fold out"
            )
    return rows, split, fold


def _notes(dataset: PackedDataset, split: str, fold: int, role: str, truth: Truth) -> list[str]:
    """How far the samples are from training."""
    if truth.block is None:
        return ["the samples have no coordinates: blocks are unknown, so intervals are too narrow"]
    from geotreeclip.evaluation.leaks import audit, samples_of

    train, rows = dataset.split(split, fold, "train"), dataset.split(split, fold, role)
    if not len(train):
        return []
    table = dataset.samples()[["longitude", "latitude"]].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(table).all(axis=1)
    found = audit(samples_of(dataset, rows[known[rows]]), samples_of(dataset, train[known[train]]))
    notes = []
    if found.same_block > 0.5:
        notes.append(
            f"{found.same_block:.0%} of the {role} samples share a 100 km block with training samples, so this split "
            "is not spatially blocked: the calibration holds near known places, not in new regions"
        )
    return notes


def _measures(
    scores: NDArray[Any], labels: Taxonomy, truth: Truth, column: NDArray[np.int64]
) -> dict[str, list[float | None]]:
    """Metric -> [value, low, high]."""
    item = _predictions(scores, labels, truth)
    bootstrap = bootstrap_of(item)
    known = item.truth_is_candidate
    table = calibration_table(item)
    loss = bootstrap.mean(-np.where(known, item.log_prob, 0.0), known)
    return {
        "log_loss": list(loss),
        "ece": list(calibration_error_interval(item, bootstrap)),
        "ece_debiased": [table.debiased, None, None],
        "ece_classwise": [classwise_error(scores, column), None, None],
        "top1": list(bootstrap.mean(item.hits(1))),
    }


def _predictions(scores: NDArray[Any], labels: Taxonomy, truth: Truth, rank: str | None = None) -> Predictions:
    finest = named_ranks(labels)[0]
    values, candidates = scores, labels
    if rank and rank != finest:
        taxa, groups = labels.names(rank)
        values, candidates = log_sum_groups(np.asarray(scores, dtype=np.float64), groups, len(taxa)), Taxonomy(taxa)
    columns = truth.columns(slice(None))
    return from_log_prob(values, candidates, truth.taxa, truth.sample_id, rank=rank or finest, **columns)


def _conformal(
    scores: NDArray[Any], labels: Taxonomy, truth: Truth, level: float, seed: int
) -> tuple[list[ConformalThreshold], list[str]]:
    """Thresholds for every rank, and a table of how the sets fare across two halves of the blocks."""
    blocks = None if truth.block is None else len(np.unique(truth.block))
    found: list[ConformalThreshold] = []
    lines = [f"prediction sets at {level:.0%}, one half of the blocks judged by the threshold of the other:"]
    for rank in named_ranks(labels):
        item = _predictions(scores, labels, truth, rank)
        own = 1.0 - np.where(item.truth_is_candidate, np.exp(item.log_prob.astype(np.float64)), -np.inf)
        limits = {"sample": conformal_quantile(own, level)}
        if truth.block is not None:
            limits["block"] = block_quantile(own, truth.block, level)
        for unit, limit in limits.items():
            finite = np.isfinite(limit)
            floor = float(np.log(max(1.0 - limit, 1e-300))) if finite else None
            found.append(ConformalThreshold(rank, level, floor, unit, "lac", len(item), blocks))
            fare = cross_conformal(item, level, by_block=unit == "block", seed=seed)
            new = "a new block" if unit == "block" else "a sample"
            size = f"{'at least ' if fare.censored > 0.001 else ''}{_span(fare.size, 1)}"
            lines.append(
                f"  {rank.replace('_', ' '):10}{new:13}every label above {100 * (1 - limit) if finite else 0:5.2f} %: "
                f"holds the truth in {_span(fare.coverage, 1, 100)} %, {size} labels"
            )
    return found, lines


def _list_sizes(
    scores: NDArray[Any], crossed: NDArray[Any], column: NDArray[np.int64], truth: Truth, seed: int
) -> list[str]:
    """Calibration error by the length of the candidate list, before and after."""
    width = scores.shape[1]
    sizes = [*(size for size in LIST_SIZES if size < width), width]
    lines = ["root mean square error (debiased) by length of the candidate list, drawn at random around the truth:"]
    tables = []
    for values in (scores, crossed):
        table = {}
        for size, (confidence, right, rows) in restricted_lists(values, column, sizes, seed=seed).items():
            blocks = rows if truth.block is None else truth.block[rows]
            table[size] = reliability(confidence, right, blocks).debiased
        tables.append(table)
    before, after = tables
    return lines + [
        f"  {size:>6} candidates: {100 * before[size]:5.1f} % -> {100 * after[size]:5.1f} %" for size in before
    ]


def _show(values: Sequence[float | None], name: str) -> str:
    value = values[0]
    if value is None:
        return ""
    return f"{value:.4f}" if name == "log_loss" else f"{100 * value:.2f} %"


def _span(interval: Interval, digits: int, factor: float = 1.0) -> str:
    text = f"{factor * interval.value:.{digits}f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"
