"""Ranking of candidates: the most probable labels, ties included, and where the truth stands among them.

Shape letters: N samples, S candidates, K labels kept.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import InputError
from geotreeclip.taxonomy import Taxon

TOP_K = 10


def rank_codes(taxa: Sequence[Taxon], rank: str) -> NDArray[np.int64]:
    """Int64 [len(taxa)]: a number for the name at a rank, equal for equal names; -1 where the taxon states none."""
    names = np.array([getattr(taxon, str(rank)) for taxon in taxa], dtype=str)
    _, code = np.unique(names, return_inverse=True)
    return np.where(names == "", -1, code.reshape(-1)).astype(np.int64)


def rank_labels(
    log_prob: NDArray[np.floating[Any]], keys: Sequence[str], k: int = TOP_K
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k most probable labels of each row.

    Args:
        log_prob: [N, S], no NaN.
        keys: N sample ids; they decide the draw where scores are tied.
        k: labels to keep; fewer where S is smaller.

    Returns:
        (labels int32 [N, K], log-probabilities float32 [N, K]), most probable first.
    """
    count, width = log_prob.shape
    k = min(k, width)
    kept = min(k + 1, width)  # one more than asked shows a tie across the edge
    part = np.argpartition(-log_prob, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(log_prob, part, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    top = np.take_along_axis(part, order, axis=1)
    for row in np.flatnonzero((values[:, 1:] == values[:, :-1]).any(axis=1)).tolist():
        rng = np.random.default_rng(zlib.crc32(str(keys[row]).encode()))
        edge = values[row, -1]
        sure, level = np.flatnonzero(log_prob[row] > edge), np.flatnonzero(log_prob[row] == edge)
        chosen = np.concatenate([sure, rng.choice(level, kept - len(sure), replace=False)])
        chosen = chosen[rng.permutation(kept)]
        top[row] = chosen[np.argsort(-log_prob[row, chosen], kind="stable")]
        values[row] = log_prob[row, top[row]]
    return top[:count, :k].astype(np.int32), values[:, :k].astype(np.float32)


def locate(
    candidates: Sequence[Taxon], truth: Sequence[Taxon] | NDArray[np.integer[Any]], rank: str
) -> tuple[tuple[Taxon, ...], NDArray[np.int64]]:
    """Classes (candidates, then truths that are none) and the row of each truth in them."""
    if isinstance(truth, np.ndarray) and np.issubdtype(truth.dtype, np.integer):
        if truth.size and (truth.min() < 0 or truth.max() >= len(candidates)):
            raise InputError(
                f"predictions: truth has values outside the {len(candidates)} candidates; give taxa instead"
            )
        return tuple(candidates), truth.astype(np.int64)
    finest = str(rank) == "species"
    classes = [Taxon(*taxon) for taxon in candidates]
    borne = Counter(taxon.name(rank) for taxon in classes)
    # Above species a name is all that counts; of species it helps where one candidate alone bears it
    by_name = {taxon.name(rank): row for row, taxon in enumerate(classes) if not finest or borne[taxon.name(rank)] == 1}
    by_name.pop("", None)
    rows = {taxon: row for row, taxon in enumerate(classes)} if finest else {}
    index = np.empty(len(truth), dtype=np.int64)
    for sample, taxon in enumerate(truth):
        row = rows.get(taxon, by_name.get(taxon.name(rank)))
        if row is None:
            row = len(classes)
            classes.append(taxon if finest else taxon.at(rank))
            if not finest and taxon.name(rank):
                by_name[taxon.name(rank)] = row
        rows[taxon] = row
        index[sample] = row
    return tuple(classes), index
