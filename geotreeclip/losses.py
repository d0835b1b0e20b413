"""The contrastive loss between places and taxa, with every same-taxon pair a positive, and its prior correction.

Shapes: B places of the global batch, b places of this process, L candidate labels, D embedding.

Candidates are either the distinct taxa of the global batch or all taxa of the training set. A taxon is among the
former with probability q_y = 1 - (1 - p_y)^B, where p_y is its share of the training samples. Sub-sampling candidates
like this favours frequent taxa in the softmax, so the training logit is s - log q_y (the correction of sampled
softmax, Bengio and Senecal 2008); s then estimates log p(place | taxon) + log p_y up to a constant of the place: it
carries the training prior. With all taxa as candidates q_y = 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

__all__ = ["ContrastiveTerms", "contrastive_loss", "gather_with_gradient", "log_inclusion", "log_share"]


class ContrastiveTerms(NamedTuple):
    """The two directions of the loss, each a scalar mean."""

    place_to_text: Tensor
    text_to_place: Tensor


def log_share(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Log share p_y = (n_y + 1) / (N + L) of each label among the training samples (add-one smoothing).

    Args:
        counts: [L] training samples n_y of each label.
    """
    n = np.asarray(counts, dtype=np.float64)
    return np.asarray(np.log((n + 1) / (n.sum() + len(n))), dtype=np.float64)


def log_inclusion(log_p: npt.ArrayLike, batch_size: int) -> npt.NDArray[np.float64]:
    """Log probability q_y = 1 - (1 - p_y)^B that a label is in a batch of B samples.

    Args:
        log_p: [L] log shares.
        batch_size: B.
    """
    p = np.minimum(np.exp(np.asarray(log_p, dtype=np.float64)), 1 - 1e-12)
    return np.asarray(np.log(-np.expm1(batch_size * np.log1p(-p))), dtype=np.float64)


class _Gather(torch.autograd.Function):
    """All processes' rows in rank order; the backward pass sums what every process sends to a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        size = len(total) // dist.get_world_size()
        return total[dist.get_rank() * size : (dist.get_rank() + 1) * size]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Rows [b, ...] of all processes as [B, ...], with gradient; the identity in a single process.

    The gradient of a row is the sum over what all processes compute from it. Where each process computes its share of a
    loss (`contrastive_loss`), times the number of processes, the mean over processes that a distributed wrapper takes
    makes the gradient that of one process on the joined batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    if not rows.requires_grad:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def contrastive_loss(
    places: Tensor,
    texts: Tensor,
    targets: Tensor,
    scale: Tensor,
    log_q: Tensor | None = None,
    label_smoothing: float = 0.0,
    *,
    rank: int = 0,
    world: int = 1,
    both: bool = True,
) -> ContrastiveTerms:
    """Both directions of the CLIP loss for places whose labels repeat.

    From a place, its one label stands against all candidates: a softmax over L. From a label that occurs, every place
    of that label is a positive: the mean over them of the log-softmax over the B places, then the mean over labels.

    Several processes that hold the same gathered rows divide the work: each takes its share of the places of the first
    direction and of the labels of the second, so that memory is B L / W on each. The shares add up to the loss.

    Args:
        places: [B, D] of unit length.
        texts: [L, D] of unit length.
        targets: [B] index of each place's label among the candidates.
        scale: Inverse temperature.
        log_q: [L] correction subtracted from the logits of place -> text; None for none.
        label_smoothing: Share of the target spread evenly over the candidates (place -> text only).
        rank: Which share to compute, from 0.
        world: Number of shares W; 1 computes the whole loss.
        both: False leaves text -> place out (0).

    Returns:
        The two terms.
    """
    own = _share(len(places), rank, world)
    logits = scale * places[own] @ texts.t()
    corrected = logits if log_q is None else logits - log_q
    summed = functional.cross_entropy(corrected, targets[own], label_smoothing=label_smoothing, reduction="sum")
    place_to_text = summed / len(places)
    if not both:
        return ContrastiveTerms(place_to_text, torch.zeros_like(place_to_text))
    labels = _share(len(texts), rank, world)
    if world > 1:
        logits = scale * places @ texts[labels].t()
    # Not bincount, which makes the host wait for the device.
    count = torch.zeros(len(texts), dtype=logits.dtype, device=logits.device)
    count.index_add_(0, targets, torch.ones_like(targets, dtype=logits.dtype))
    if not logits.shape[1]:  # fewer labels than processes: none is left for this one
        return ContrastiveTerms(place_to_text, 0 * place_to_text)
    mine = (targets >= labels.start) & (targets < labels.stop)
    column = (targets - labels.start).clamp(0, logits.shape[1] - 1)
    chosen = functional.log_softmax(logits, dim=0).gather(1, column[:, None]).squeeze(1)
    # Dividing by the size of a place's label first gives labels, not places, equal weight.
    text_to_place = -torch.where(mine, chosen / count[targets], 0.0).sum() / (count > 0).sum()
    return ContrastiveTerms(place_to_text, text_to_place)


def _share(size: int, rank: int, world: int) -> slice:
    """The rank-th of `world` consecutive shares of `size` rows, as even as can be."""
    return slice(size * rank // world, size * (rank + 1) // world)
