"""Metrics of predictions, as report rows with 95 % intervals.

Shape letters: N samples, C classes.

Protocols. ``published``: species are ranked, and genus, family and leaf type are read off the ranked species, as the
published benchmark does; probabilities are not summed, so there is no calibration above species. ``rolled-up``: species
probabilities are summed to the rank first, and the rank's own labels are ranked.

Every sample counts. A sample whose truth is no candidate is wrong in every accuracy; the metric
``truth_not_candidate`` says how many there are. Only ``log_loss`` must leave them out, and its n says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval, paired_bootstrap
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.ranking import rank_codes
from geotreeclip.evaluation.report import Row, make_row

PROTOCOLS = ("published", "rolled-up")
RARITY_GROUPS = ("unseen", "scarce", "rare", "common", "frequent")
RARITY_BOUNDS = (1, 21, 101, 1500)  # records of a species: rare 21-100, common 101-1,499, frequent 1,500 and more
CALIBRATION_BINS = 15


def rarity_of_counts(counts: ArrayLike) -> NDArray[np.str_]:
    """Rarity group of each sample from the number of training records of its species.

    The published groups are rare (21 to 100), common (101 to 1,499) and frequent (1,500 and more); below them lie
    scarce (1 to 20) and unseen (0).

    Args:
        counts: int [N].
    """
    return np.asarray(np.array(RARITY_GROUPS)[np.digitize(np.asarray(counts), RARITY_BOUNDS)])


def rarity_of_column(values: ArrayLike) -> NDArray[np.str_]:
    """Rarity groups as a set states them ("Rare", "Common", ...), in lower case; "" where missing."""
    text = np.array([str(value).strip().lower() for value in np.asarray(values, dtype=object)], dtype=str)
    return np.where(np.isin(text, ("", "nan", "none", "<na>")), "", text)


def equal_mass_bins(confidence: ArrayLike, bins: int = CALIBRATION_BINS) -> NDArray[np.int64]:
    """Int [N]: bin of each sample, bins of equal numbers of samples by confidence; equal confidences share a bin."""
    values = np.asarray(confidence, dtype=np.float64)
    _, first, code = np.unique(np.sort(values), return_index=True, return_inverse=True)
    by_value = first * bins // max(1, len(values))
    bin_of_sorted = by_value[code.reshape(-1)]
    result = np.empty(len(values), dtype=np.int64)
    result[np.argsort(values, kind="stable")] = bin_of_sorted
    return result


def confidence_and_hits(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of the first label and whether it is right (expected, under ties), both [N]."""
    return np.exp(predictions.top_log_prob[:, 0].astype(np.float64)), predictions.hits(1)


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of the first label, bins of equal mass."""
    confidence, hits = confidence_and_hits(predictions)
    return float(np.abs(np.bincount(equal_mass_bins(confidence, bins), weights=confidence - hits)).sum() / len(hits))


def calibration_error_interval(predictions: Predictions, bootstrap: BlockBootstrap | None = None) -> Interval:
    """`calibration_error` with its interval."""
    confidence, first = confidence_and_hits(predictions)
    bootstrap = bootstrap or bootstrap_of(predictions)
    return bootstrap.calibration_error(confidence - first, equal_mass_bins(confidence))


def hits_at(predictions: Predictions, rank: str, k: int) -> NDArray[np.float64]:
    """Float [N]: right among the first k at a rank; above the predictions' own rank, read off the ranked labels."""
    return predictions.hits(k) if str(rank) == predictions.rank else predictions.read_off(rank, k)


def bootstrap_of(predictions: Predictions, *, resamples: int = RESAMPLES, seed: int = 0) -> BlockBootstrap:
    """The resamples that belong to the rows of predictions: their blocks, or single samples where there are none."""
    return BlockBootstrap(predictions.block, len(predictions), resamples=resamples, seed=seed)


def score(
    predictions: Predictions,
    *,
    protocol: str = "published",
    rank: str | None = None,
    bootstrap: BlockBootstrap | None = None,
    by_rarity: bool = True,
) -> list[Row]:
    """All metrics of predictions at one rank.

    Args:
        predictions: of species for protocol ``published``; of the rank itself for ``rolled-up``.
        protocol: name that the rows bear.
        rank: rank to score; the predictions' own by default.
        bootstrap: resamples to share between systems on the same rows; made from the predictions' blocks by default.
        by_rarity: whether to add rows for each rarity group.

    Returns:
        Rows with metrics top1, top5, macro_top1, macro_top5 (mean over the true classes) for the group ``all`` and
        each rarity group; ece, log_loss (nats) at the predictions' own rank; truth_not_candidate.

    Raises:
        InputError: an unknown protocol, no samples, or ``rolled-up`` at another rank than the predictions'.
    """
    rank = str(rank or predictions.rank)
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is unknown; there are {', '.join(PROTOCOLS)}")
    if protocol == "rolled-up" and rank != predictions.rank:
        raise InputError(
            f"protocol rolled-up at {rank} needs predictions of that rank, these are of {predictions.rank}"
        )
    if not len(predictions):
        raise InputError("there are no samples to score")
    bootstrap = bootstrap or bootstrap_of(predictions)
    own = rank == predictions.rank
    code = rank_codes(predictions.classes, rank)
    classes = predictions.truth if own else code[predictions.truth]
    rows: list[Row] = []

    def add(metric: str, interval: Interval, n: int, group: str = "all") -> None:
        rows.append(
            make_row(
                **asdict(predictions.context), protocol=protocol, rank=rank, group=group, metric=metric, n=n,
                **interval._asdict(),
            )
        )  # fmt: skip

    groups: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(predictions), dtype=bool)}
    if by_rarity and predictions.rarity is not None:
        present = set(predictions.rarity.tolist()) - {""}
        for name in sorted(present, key=lambda name: (*RARITY_GROUPS, name).index(name)):
            groups[name] = predictions.rarity == name
    for k in (1, 5):
        hits = hits_at(predictions, rank, k)
        for group, mask in groups.items():
            add(f"top{k}", bootstrap.mean(hits, mask), int(mask.sum()), group)
            add(f"macro_top{k}", bootstrap.macro(hits, classes, mask), int(mask.sum()), group)
    if own:
        add("ece", calibration_error_interval(predictions, bootstrap), len(predictions))
        known = predictions.truth_is_candidate
        if np.isneginf(predictions.log_prob[known]).any():
            loss = Interval(float("inf"), None, None)
        else:
            loss = bootstrap.mean(-np.where(known, predictions.log_prob, 0.0), known)
        add("log_loss", loss, int(known.sum()))
        missing = ~known
    else:
        possible = np.unique(code[: predictions.candidates])
        missing = ~np.isin(classes, possible[possible >= 0])
    add("truth_not_candidate", bootstrap.mean(missing.astype(np.float64)), len(predictions))
    return rows


def difference(
    first: Predictions | Sequence[Predictions],
    second: Predictions | Sequence[Predictions],
    *,
    rank: str | None = None,
    k: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Difference in top-k between two systems on the same samples, by paired block bootstrap.

    Args:
        first: predictions, or those of several seeds, whose hits are averaged within each sample.
        second: likewise; the same samples in any order.
        rank: rank to compare at; the predictions' own by default.
        k: of top-k.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        First minus second, as a fraction, with its interval.

    Raises:
        InputError: the samples are not the same.
    """
    one = [first] if isinstance(first, Predictions) else list(first)
    two = [second] if isinstance(second, Predictions) else list(second)
    base = one[0]
    order = np.argsort(base.sample_id)
    stacks: list[list[NDArray[np.float64]]] = [[], []]
    for stack, items in zip(stacks, (one, two), strict=True):
        for item in items:
            rows = np.argsort(item.sample_id)
            if not np.array_equal(item.sample_id[rows], base.sample_id[order]):
                raise InputError(
                    f"{base.context.system} and {item.context.system} were scored on different samples "
                    f"({len(base)} and {len(item)}, {len(np.intersect1d(base.sample_id, item.sample_id))} shared); "
                    "compare them on one set"
                )
            stack.append(hits_at(item, rank or item.rank, k)[rows])
    block = None if base.block is None else base.block[order]
    return paired_bootstrap(
        np.stack(stacks[0], axis=1), np.stack(stacks[1], axis=1), block, resamples=resamples, seed=seed
    )


def difference_row(first: Predictions, second: Predictions, interval: Interval, *, rank: str, k: int = 1) -> Row:
    """The row of a paired difference; system reads "first - second", the metric "topk_difference"."""
    context = asdict(first.context)
    name = first.context.system
    if first.context.system == second.context.system:
        name, other = (f"{item.context.system} ({item.context.inputs})" for item in (first, second))
    else:
        other = second.context.system
    context.update(system=f"{name} - {other}")
    return make_row(
        **context, protocol="published", rank=rank, group="all", metric=f"top{k}_difference", n=len(first),
        **interval._asdict(),
    )  # fmt: skip
