"""From probabilities over candidates to answers: sums at every rank, the best label of each, sets that hold the truth.

Shapes: n places, L candidates, G labels of a rank, R ranks (the one asked for first, then coarser ones).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.models.calibration import Calibration, ConformalThreshold
from geotreeclip.taxonomy import Taxon

__all__ = ["RankAnswers", "best_at", "promised_threshold", "sets_above", "sum_groups"]


class RankAnswers(NamedTuple):
    """The likeliest label of every rank.

    Attributes:
        ranks: R names, fine to coarse.
        taxa: For each rank its G labels.
        position: int64 [N, R], in these.
        probability: float32 [N, R].
    """

    ranks: Sequence[str]
    taxa: Sequence[Sequence[Taxon]]
    position: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]


def sum_groups(probability: Tensor, groups: Tensor | None, count: int) -> Tensor:
    """Sum probabilities [n, L] to the groups [L] of a rank, [n, count]; None where every label is its own group."""
    if groups is None:
        return probability
    return probability.new_zeros(len(probability), count).index_add_(1, groups, probability)


def best_at(summed: Sequence[Tensor]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Position and probability of the likeliest label at each rank, [n, R] each."""
    found = [part.max(dim=1) for part in summed]
    index = torch.stack([item.indices for item in found], dim=1).cpu().numpy()
    return index, torch.stack([item.values for item in found], dim=1).cpu().numpy()


def promised_threshold(calibration: Calibration, rank: str) -> ConformalThreshold | None:
    """The threshold of the sets of a rank, that for places in new blocks where there is one; None without a promise."""
    for unit in ("block", "sample"):
        found = calibration.threshold(rank, unit)
        if found is not None and found.log_prob is not None:
            return found
    return None


def sets_above(probability: Tensor, threshold: ConformalThreshold) -> list[npt.NDArray[np.int64]]:
    """For each of n places the labels in its set, likeliest first; the likeliest is always one of them.

    Args:
        probability: [n, G], calibrated, under the training prior.
        threshold: Its `log_prob` is not None.
    """
    floor = math.exp(threshold.log_prob if threshold.log_prob is not None else -math.inf)
    best = probability.max(dim=1, keepdim=True).values
    rows, columns = torch.nonzero((probability >= floor) | (probability == best), as_tuple=True)
    values = probability[rows, columns].cpu().numpy()
    place, label = rows.cpu().numpy(), columns.cpu().numpy()
    order = np.lexsort((-values, place))
    edges = np.searchsorted(place[order], np.arange(1, len(probability)))
    return np.split(label[order], edges)
