"""From log-probabilities of candidates to `Predictions`: summed to ranks, sorted, with what training knew.

Shapes: N samples, n of them at a time, L candidate labels, K answers for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.answers import RankAnswers, best_at, sets_above, sum_groups
from geotreeclip.inputs.steps import valid_months
from geotreeclip.label_space import LabelList
from geotreeclip.models.calibration import ConformalThreshold
from geotreeclip.observations import ObservationBatch
from geotreeclip.predictions import Predictions
from geotreeclip.ranges import CLIMATE, Ranges
from geotreeclip.schema import RANKS

__all__ = ["answer"]


def answer(
    scored: Iterator[Tensor],
    batch: ObservationBatch,
    candidates: LabelList,
    *,
    rank: str,
    top_k: int | None,
    samples: Sequence[object],
    calibrated: bool,
    promised: ConformalThreshold | None,
    ranges: Ranges | None,
) -> Predictions:
    """Answer for N places, a slice at a time.

    Args:
        scored: Log-probabilities [n, L] of one slice of the batch after the other.
        batch: The N places.
        candidates: The L labels.
        rank: Rank of the answers.
        top_k: K, or None for all labels.
        samples: Identifiers of the N places.
        calibrated: Whether the log-probabilities are.
        promised: The threshold of the label sets, or None for none.
        ranges: Where training saw each label, where that is known.

    Returns:
        Predictions of N places.
    """
    ranks = RANKS[RANKS.index(rank) :: -1]  # the one asked for, then coarser ones
    by_rank = [candidates.at_rank(name) for name in ranks]
    taxa, count = by_rank[0][0], len(by_rank[0][0]) if top_k is None else min(int(top_k), len(by_rank[0][0]))
    cover = None if ranges is None else ranges.applicability
    parts = []
    start = 0
    for log_probability in scored:
        finest = log_probability.exp()
        summed = [sum_groups(finest, groups, len(names)) for names, groups in by_rank]
        best = torch.topk(summed[0], count, dim=1)
        part = batch.select(slice(start, start + len(finest)))
        index = best.indices.cpu().numpy()
        environment = _environment(part)
        known = None if ranges is None else ranges.plausibility(taxa, index, environment)
        parts.append(
            Predictions(
                samples[start : start + len(finest)],
                taxa,
                index,
                best.values.cpu().numpy(),
                _months(part),
                calibrated=calibrated,
                ranks=RankAnswers(ranks, [names for names, _ in by_rank], *best_at(summed)),
                plausibility=known,
                dissimilarity=None if cover is None else cover.dissimilarity(environment[:, list(CLIMATE)]),
                dissimilarity_limit=float("nan") if cover is None else cover.threshold,
                sets=None if promised is None else sets_above(summed[0], promised),
                set_level=None if promised is None else promised.level,
            )
        )
        start += len(finest)
    return parts[0] if len(parts) == 1 else Predictions.join(parts)


def _environment(batch: ObservationBatch) -> npt.NDArray[np.float32]:
    """Environment [N, 27] with NaN where missing."""
    values = torch.where(batch.environment_valid, batch.environment, torch.nan)
    return np.asarray(values.cpu().numpy(), dtype=np.float32)


def _months(batch: ObservationBatch) -> npt.NDArray[np.int64]:
    seen = batch.image_valid.flatten(2).any(dim=-1)
    return valid_months(batch.first_day.cpu().numpy(), batch.last_day.cpu().numpy(), seen.cpu().numpy())
