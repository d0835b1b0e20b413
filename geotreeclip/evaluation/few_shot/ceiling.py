"""The Bayes ceiling of few-shot scores on a planted forest: of the labels and the queries that take part, no others.

Shape letters: N samples of the set, Q query, L labels.

Fewer candidates are told apart more easily, so the ceiling that travels with the set, of all its species, bounds
nothing here. Of the posterior p_u under the uniform prior over the L labels:

    macro top-1 <= mean over labels y of E[ max p_u | y ]         the heads' prior, and the prior of this mean
    top-1       <= E[ max of p_u q, made to sum to one ]          q the shares of the labels in the query

both estimated on the query itself, mean over draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.known import known_posterior, known_world
from geotreeclip.evaluation.collect import named_ranks
from geotreeclip.evaluation.few_shot.benchmark import Work
from geotreeclip.evaluation.report import CEILING, Row, make_row

__all__ = ["ceiling_rows", "macro_ceiling", "top1_ceiling"]

Floats = NDArray[np.float64]
_NORMAL_95 = 1.959964


def ceiling_rows(work: Work) -> list[Row]:
    """Rows of the ceiling; none where the truth about the set is not known.

    Args:
        work: the draws.
    """
    world = known_world(work.dataset)
    if world is None:
        return []
    uniform = known_posterior(world, work.dataset, work.indices)[:, work.episodes.labels]
    queries = list({episode.seed: episode.query for episode in work.episodes.episodes}.values())
    context = work.context
    about = {
        "set": context.set, "split": context.split, "fold": context.fold, "system": CEILING, "inputs": "all",
        "group": "all", "candidates": context.candidates, "shots": 0, "n": sum(map(len, queries)) // len(queries),
    }  # fmt: skip
    finest, *coarser = named_ranks(work.labels)
    found = [macro_ceiling(uniform[query], work.codes[query]) for query in queries]
    rows = [make_row(**about, metric="macro_top1", prior="uniform", rank=finest, **_mean(found))]
    for rank in (finest, *coarser):
        group = work.labels.names(rank)[1] if rank != finest else np.arange(len(work.labels))
        found = [top1_ceiling(uniform[query], work.codes[query], group) for query in queries]
        rows.append(make_row(**about, metric="top1", prior="query", rank=rank, **_mean(found)))
    return rows


def macro_ceiling(uniform: Floats, truth: NDArray[np.int64]) -> tuple[float, float]:
    """Highest mean over labels of their share of hits, and the variance of this estimate.

    Args:
        uniform: [Q, L], proportional to the posterior under the uniform prior.
        truth: int [Q], 0 to L - 1.
    """
    best = uniform.max(axis=1) / uniform.sum(axis=1)
    labels, code, count = np.unique(truth, return_inverse=True, return_counts=True)
    mean = np.bincount(code, best) / count
    spread = np.bincount(code, (best - mean[code]) ** 2) / np.maximum(count - 1, 1)
    return float(mean.mean()), float((spread / count).sum() / len(labels) ** 2)


def top1_ceiling(
    uniform: Floats, truth: NDArray[np.int64], group: NDArray[np.integer] | None = None
) -> tuple[float, float]:
    """Highest share of hits of a rule that knows the shares of the labels, and the variance of this estimate.

    Args:
        uniform: [Q, L], proportional to the posterior under the uniform prior.
        truth: int [Q], 0 to L - 1.
        group: int [L], the group of each label at a coarser rank, whose probabilities are summed.
    """
    posterior = uniform * np.bincount(truth, minlength=uniform.shape[1])
    posterior /= posterior.sum(axis=1, keepdims=True)
    if group is not None:
        posterior = posterior @ np.eye(int(group.max()) + 1)[group]
    best = posterior.max(axis=1)
    return float(best.mean()), float(best.var(ddof=1) / len(best))


def _mean(found: list[tuple[float, float]]) -> dict[str, float]:
    """Mean over draws with 95 % limits; the draws share most of their samples, so its variance is that of one."""
    value, variance = np.mean(found, axis=0)
    half = _NORMAL_95 * float(np.sqrt(variance))
    return {"value": float(value), "low": max(0.0, float(value) - half), "high": min(1.0, float(value) + half)}
