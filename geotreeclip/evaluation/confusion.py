"""Where the errors land: among relatives or far away, which pairs, and what each class is worth to its user.

Shape letters: N samples, S candidates, C classes.

The label that counts here is the first of the stored list, in which ties are broken by a draw (see
`geotreeclip.evaluation.predictions`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval
from geotreeclip.evaluation.metrics import bootstrap_of
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.ranking import rank_codes
from geotreeclip.schema import RANKS

NONE = "none"
FINEST_FIRST = tuple(reversed(RANKS))


class Kinship(NamedTuple):
    """One step of the ladder from the right label to no relation at all.

    Attributes:
        rank: finest rank at which the first label and the truth agree; "none" where at no rank.
        share: of all samples.
        of_errors: of the samples that are wrong at the predictions' own rank; None for the rank itself.
        by_chance: what `of_errors` would be if every error fell on a wrong candidate at random; None likewise.
    """

    rank: str
    share: Interval
    of_errors: Interval | None
    by_chance: float | None


def relatives(predictions: Predictions, bootstrap: BlockBootstrap | None = None) -> list[Kinship]:
    """How far up the taxonomy the first label is right: the finest rank at which it agrees with the truth.

    Shares add up to 1. A name that is not stated agrees with nothing.

    Args:
        predictions: of any rank; the ladder starts there.
        bootstrap: resamples to share; made from the predictions' blocks by default.
    """
    if not len(predictions):
        raise InputError("there are no samples to look at")
    ranks = FINEST_FIRST[FINEST_FIRST.index(predictions.rank) :]
    bootstrap = bootstrap or bootstrap_of(predictions)
    found = kinship(predictions)
    wrong = found > 0
    chance = _chance(predictions, ranks)[wrong].mean(axis=0) if wrong.any() else np.full(len(ranks) + 1, np.nan)
    ladder = []
    for step, rank in enumerate((*ranks, NONE)):
        here = (found == step).astype(np.float64)
        own = step == 0 or not wrong.any()
        ladder.append(
            Kinship(
                rank,
                bootstrap.mean(here),
                None if own else bootstrap.mean(here, wrong),
                None if own else float(chance[step]),
            )
        )
    return ladder


def kinship(predictions: Predictions) -> NDArray[np.int64]:
    """Int [N]: steps up the ranks, from the predictions' own, until first label and truth agree; the last: at none."""
    ranks = FINEST_FIRST[FINEST_FIRST.index(predictions.rank) :]
    first, truth = predictions.top[:, 0], predictions.truth
    found = np.full(len(predictions), len(ranks), dtype=np.int64)
    for step in reversed(range(len(ranks))):
        if step == 0:
            agree = first == truth
        else:
            code = rank_codes(predictions.classes, ranks[step])
            agree = (code[first] == code[truth]) & (code[truth] >= 0)
        found[agree] = step
    return found


def _chance(predictions: Predictions, ranks: tuple[str, ...]) -> NDArray[np.float64]:
    """[N, len(ranks) + 1]: share of the wrong candidates at each step from the truth of a sample."""
    classes, size = predictions.classes, predictions.candidates
    codes = [np.arange(len(classes)), *(rank_codes(classes, rank) for rank in ranks[1:])]
    truths, inverse = np.unique(predictions.truth, return_inverse=True)
    table = np.empty((len(truths), len(ranks) + 1))
    for row, truth in enumerate(truths):
        step = np.full(size, len(ranks))
        for number in reversed(range(len(ranks))):
            own = codes[number][truth]
            if own >= 0:
                step[codes[number][:size] == own] = number
        count = np.bincount(step, minlength=len(ranks) + 1)
        table[row] = count / max(1, count[1:].sum())
    return np.asarray(table[inverse.reshape(-1)])


class Confused(NamedTuple):
    """A pair of classes: samples of one that were given the name of the other."""

    truth: str
    predicted: str
    n: int
    share: float


def confused_pairs(predictions: Predictions, rank: str | None = None, top: int = 15) -> list[Confused]:
    """The pairs confused most often; `share` is of the samples of the true class.

    Args:
        predictions: of any rank.
        rank: rank of the classes, the predictions' own by default.
        top: how many pairs.
    """
    names, truth, first = _classes(predictions, rank)
    wrong = (truth != first) & (truth >= 0) & (first >= 0)
    size = np.bincount(truth[truth >= 0], minlength=len(names))
    pair, count = np.unique(truth[wrong] * len(names) + first[wrong], return_counts=True)
    order = np.lexsort((pair, -count))[:top]
    return [
        Confused(names[one], names[two], int(count[k]), float(count[k] / size[one]))
        for k, (one, two) in ((k, divmod(int(pair[k]), len(names))) for k in order.tolist())
    ]


def error_matrix(predictions: Predictions, rank: str | None = None) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the classes [C] and counts [C, C]: rows by the first label ("map"), columns by the truth ("reference").

    Classes that occur in neither are left out.
    """
    names, truth, first = _classes(predictions, rank)
    used = np.unique(np.concatenate([truth[truth >= 0], first[first >= 0]]))
    place = np.full(len(names), -1)
    place[used] = np.arange(len(used))
    stated = (truth >= 0) & (first >= 0)
    cell = place[first[stated]] * len(used) + place[truth[stated]]
    matrix = np.bincount(cell, minlength=len(used) ** 2).reshape(len(used), len(used))
    return [names[code] for code in used.tolist()], matrix.astype(np.int64)


class ClassAccuracy(NamedTuple):
    """User's and producer's accuracy of one class.

    Attributes:
        name: of the class.
        truths: samples of the class.
        predicted: samples that were given its name.
        users: of the samples that were given its name, the share that is right ("precision").
        producers: of the samples of the class, the share that was given its name ("recall").
    """

    name: str
    truths: int
    predicted: int
    users: Interval
    producers: Interval


def class_accuracy(
    predictions: Predictions,
    rank: str | None = None,
    bootstrap: BlockBootstrap | None = None,
    top: int | None = None,
) -> list[ClassAccuracy]:
    """User's and producer's accuracy of every class, the most frequent first, with intervals over blocks.

    These are shares of the samples. For shares of an area see `geotreeclip.evaluation.area_adjusted`.

    Args:
        predictions: of any rank.
        rank: rank of the classes, the predictions' own by default.
        bootstrap: resamples to share.
        top: how many classes; all by default.
    """
    names, truth, first = _classes(predictions, rank)
    bootstrap = bootstrap or bootstrap_of(predictions)
    right = ((truth == first) & (truth >= 0)).astype(np.float64)
    size = np.bincount(truth[truth >= 0], minlength=len(names))
    given = np.bincount(first[first >= 0], minlength=len(names))
    order = np.lexsort((np.arange(len(names)), -size))
    return [
        ClassAccuracy(
            names[code],
            int(size[code]),
            int(given[code]),
            bootstrap.mean(right, first == code),
            bootstrap.mean(right, truth == code),
        )
        for code in [code for code in order.tolist() if size[code] or given[code]][:top]
    ]


def _classes(predictions: Predictions, rank: str | None) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Names, and the class of the truth and of the first label of each sample; -1 where the rank is not stated."""
    rank = rank or predictions.rank
    if rank not in FINEST_FIRST:
        raise InputError(f"rank {rank!r} is unknown; there are {', '.join(FINEST_FIRST)}")
    if FINEST_FIRST.index(rank) < FINEST_FIRST.index(predictions.rank):
        raise InputError(f"predictions of {predictions.rank} say nothing of {rank}")
    if rank == predictions.rank:
        names = [taxon.name(rank) or taxon.prompt() for taxon in predictions.classes]
        return names, predictions.truth.astype(np.int64), predictions.top[:, 0].astype(np.int64)
    code = rank_codes(predictions.classes, rank)
    names = [""] * (int(code.max(initial=-1)) + 1)
    for taxon, number in zip(predictions.classes, code.tolist(), strict=True):
        if number >= 0:
            names[number] = taxon.name(rank)
    return names, code[predictions.truth], code[predictions.top[:, 0]]
