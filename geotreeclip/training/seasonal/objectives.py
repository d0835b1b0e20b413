"""The objectives: which views are drawn of a place, and which of them each head has to tell apart.

A head h sees a query q, one positive key and many negative keys, all of unit length after its own projection:

    L_h = -log( e^(q.k+ / T) / (e^(q.k+ / T) + sum_n e^(q.k_n / T)) )     summed over heads

Negatives are keys of earlier batches, and for heads that tell seasons apart the other views of the whole batch (SeCo,
Manas et al. 2021). Random unit vectors of dimension d give ln K + 1 / (2 d T^2) with K negatives.

Shapes: B queries, N negatives, D dimension of the projections, K keys of the queue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OBJECTIVES", "Head", "Objective", "View", "contrast", "expected_initial_loss"]


@dataclass(frozen=True, slots=True)
class View:
    """One look at a place.

    Attributes:
        name: What heads call it.
        slot: Which of the drawn seasons, 0 to 2; views of one slot show the same pixels.
        disturbed: Whether gain, noise and lost bands are drawn for it.
    """

    name: str
    slot: int
    disturbed: bool = True


@dataclass(frozen=True, slots=True)
class Head:
    """One sub-space.

    Attributes:
        name: Of the projection.
        positive: View that the query is to meet.
        against: Views of the whole batch that it is to be told from, beside the keys of earlier batches.
        seasonal: Whether it asks for the season; places without seasons then have no part in it.
    """

    name: str
    positive: str
    against: tuple[str, ...] = ()
    seasonal: bool = False

    @property
    def views(self) -> tuple[str, ...]:
        """Views that it projects, the positive first."""
        return (self.positive, *self.against)


@dataclass(frozen=True, slots=True)
class Objective:
    """What is drawn, and what is asked of it."""

    query: View
    keys: tuple[View, ...]
    heads: tuple[Head, ...]

    @property
    def slots(self) -> int:
        """Seasons drawn of each place."""
        return 1 + max(view.slot for view in (self.query, *self.keys))


OBJECTIVES: dict[str, Objective] = {
    "season2": Objective(
        View("query", 0),
        (View("other", 1), View("same", 0)),
        (Head("invariant", "other"), Head("season", "same", ("other",), seasonal=True)),
    ),
    # Views k0, k1, k2 and sub-spaces 0, 1, 2 of SeCo: invariant to all; to the season; to the disturbance.
    "seco_eco": Objective(
        View("query", 0, disturbed=False),
        (View("k0", 1), View("k1", 2, disturbed=False), View("k2", 0)),
        (Head("z0", "k0"), Head("z1", "k1", ("k0", "k2")), Head("z2", "k2", ("k0", "k1"), seasonal=True)),
    ),
    "moco": Objective(View("query", 0), (View("other", 1),), (Head("invariant", "other"),)),
}


def contrast(query: Tensor, positive: Tensor, negatives: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Loss of each query.

    Args:
        query: [B, D], unit length.
        positive: [B, D], unit length.
        negatives: [N, D], unit length.
        allowed: [B, N], which of them count.
        temperature: T.

    Returns:
        [B]; 0 where no negative is allowed.
    """
    import torch

    own = (query * positive).sum(-1, keepdim=True)
    others = (query @ negatives.t()).masked_fill(~allowed, -torch.inf)
    logits = torch.cat([own, others], dim=1) / temperature
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


def expected_initial_loss(negatives: int, dim: int, temperature: float) -> float:
    """Loss of random unit vectors: ln K + 1 / (2 d T^2), good for T of 0.1 and more (second order in 1 / T)."""
    return math.log(negatives) + 1 / (2 * dim * temperature**2)
