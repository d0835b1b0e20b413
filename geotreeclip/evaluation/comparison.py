"""Two systems on the same samples, and one system on several splits side by side.

Shape letters: N samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval
from geotreeclip.evaluation.metrics import bootstrap_of, hits_at
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.ranking import rank_codes

METRICS = ("top1", "top5", "macro_top1", "log_loss")


class Difference(NamedTuple):
    """First minus second on the samples that both were scored on.

    Attributes:
        metric: one of `METRICS`; for log loss smaller is better.
        interval: of the difference, by paired block bootstrap.
        n: samples that it rests on.
    """

    metric: str
    interval: Interval
    n: int


def compare(
    first: Predictions,
    second: Predictions,
    *,
    rank: str | None = None,
    metrics: Sequence[str] = METRICS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Paired differences between two systems: the same blocks are drawn for both, so what both find hard cancels.

    Args:
        first: predictions.
        second: predictions of the same samples, in any order.
        rank: rank to compare at; the predictions' own by default.
        metrics: of `METRICS`. Log loss is compared at the predictions' own rank, where both systems could have been
            right, and left out where one of them calls a truth impossible.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: the samples are not the same, or an unknown metric.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise InputError(f"metric {', '.join(unknown)} is unknown; there are {', '.join(METRICS)}")
    one, two = _aligned(first, second)
    rank = rank or one.rank
    bootstrap = bootstrap_of(one, resamples=resamples, seed=seed)
    own = rank == one.rank
    names = np.array([taxon.name(rank) or taxon.prompt() for taxon in one.classes])
    classes = names[one.truth] if own else rank_codes(one.classes, rank)[one.truth]
    found = []
    for metric in metrics:
        if metric == "log_loss":
            both = one.truth_is_candidate & two.truth_is_candidate
            loss = np.where(both, two.log_prob, 0.0) - np.where(both, one.log_prob, 0.0)
            if own and one.rank == two.rank and both.any() and np.isfinite(loss).all():
                found.append(Difference(metric, bootstrap.mean(loss, both), int(both.sum())))
            continue
        k = 5 if metric.endswith("5") else 1
        gain = hits_at(one, rank, k) - hits_at(two, rank, k)
        value = bootstrap.macro(gain, classes) if metric.startswith("macro") else bootstrap.mean(gain)
        found.append(Difference(metric, value, len(one)))
    return found


@dataclass(frozen=True)
class SideBySide:
    """One system on several splits.

    Attributes:
        system: who, in words.
        values: top-1 by name of the split, in the order of `splits`.
        gap: what it loses from the first split to each other one: first minus other. Paired over samples where both
            splits test the same ones; None where they do not.
    """

    system: str
    values: dict[str, Interval]
    gap: dict[str, Interval | None]


def side_by_side(
    items: Sequence[Predictions], rank: str | None = None, k: int = 1
) -> tuple[list[str], list[SideBySide]]:
    """Random and spatially blocked splits side by side.

    Predictions of several folds of one split should be joined first (`geotreeclip.evaluation.predictions.concatenate`).
    Several seeds of a system are averaged within each sample.

    Args:
        items: predictions of any systems and splits, of one set and rank.
        rank: rank to score at.
        k: of top-k.

    Returns:
        Names of the splits, the least spatial first, and a row for each system.
    """
    splits = sorted({item.context.split or "all samples" for item in items}, key=split_order)
    table: dict[str, dict[str, list[Predictions]]] = {}
    for item in items:
        row = table.setdefault(system_name(item), {})
        row.setdefault(item.context.split or "all samples", []).append(item)
    rows = []
    for system, cells in table.items():
        scored = {split: _mean_hits(cells[split], rank, k) for split in splits if split in cells}
        values = {split: bootstrap.mean(hits) for split, (_, hits, bootstrap) in scored.items()}
        gap: dict[str, Interval | None] = {}
        for split in list(scored)[1:]:
            gap[split] = _gap(scored[splits[0]], scored[split]) if splits[0] in scored else None
        rows.append(SideBySide(system, values, gap))
    return splits, rows


def split_order(name: str) -> tuple[float, float, str]:
    """Random splits first, then blocks by their size and their buffer, then the rest by name."""
    found = re.fullmatch(r"blocks(\d+(?:\.\d+)?)(?:-buffer(\d+(?:\.\d+)?))?", name)
    if found:
        return (float(found[1]), float(found[2] or 0), name)
    return (-1.0 if "random" in name else float("inf"), 0.0, name)


def split_words(name: str) -> str:
    """What a split is, in a few words."""
    size, buffer, _ = split_order(name)
    if name.startswith("blocks") and np.isfinite(size):
        words = f"{size:g} km blocks" if size else "random, by place"
        return f"{words}, {buffer:g} km buffer" if buffer else words
    return name


def system_name(item: Predictions) -> str:
    """System with what tells it from others: its inputs and prior, a method and shots where they are stated."""
    context = item.context
    inputs = "" if context.inputs in ("all", "none", "") or context.inputs in context.system else context.inputs
    parts = [
        inputs,
        f"{context.prior} prior" if context.prior else "",
        f"{context.shots} shots" if context.shots else "",
    ]
    more = ", ".join(part for part in parts if part)
    return f"{context.system} ({more})" if more else context.system


_Scored = tuple[NDArray[np.str_], NDArray[np.float64], BlockBootstrap]


def _mean_hits(items: Sequence[Predictions], rank: str | None, k: int) -> _Scored:
    """Sample ids (sorted), hits averaged over seeds, and the resamples."""
    order = [np.argsort(item.sample_id) for item in items]
    ids = items[0].sample_id[order[0]]
    stack = []
    for item, rows in zip(items, order, strict=True):
        if not np.array_equal(item.sample_id[rows], ids):
            raise InputError(
                f"{system_name(item)} has several predictions on split {item.context.split} over different samples; "
                "join the folds of a split first"
            )
        stack.append(hits_at(item, rank or item.rank, k)[rows])
    return ids, np.mean(stack, axis=0), bootstrap_of(items[0].take(order[0]))


def _gap(first: _Scored, other: _Scored) -> Interval | None:
    """Paired over samples, with the (coarser) blocks of the other split."""
    if not np.array_equal(first[0], other[0]):
        return None
    return other[2].mean(first[1] - other[1])


def _aligned(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    one, two = (item.take(np.argsort(item.sample_id)) for item in (first, second))
    if not np.array_equal(one.sample_id, two.sample_id):
        shared = len(np.intersect1d(one.sample_id, two.sample_id))
        raise InputError(
            f"{system_name(first)} and {system_name(second)} were scored on different samples ({len(one):,} and "
            f"{len(two):,}, {shared:,} shared); compare them on one set"
        )
    return one, two
