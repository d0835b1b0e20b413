"""The encoder of places with the projections of season-contrastive pretraining.

Shapes: B batch, H heads, E embedding of the encoder, D dimension of the projections.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.models.observation_encoder import ObservationEncoder
from geotreeclip.observations import ObservationBatch

__all__ = ["SERIES", "SeasonalModel"]

SERIES = "series"
"""Name of the projection of halves of a year."""


class SeasonalModel(nn.Module):
    """An encoder and its projections: two linear maps with a ReLU between them, to unit length (MoCo v2).

    Args:
        encoder: Of places.
        embed_dim: E.
        heads: Names of the projections of single steps.
        dim: D.
        series: Whether there is a projection of series.
    """

    def __init__(
        self, encoder: ObservationEncoder, embed_dim: int, heads: Sequence[str], dim: int, *, series: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        names = [*heads, SERIES] if series else list(heads)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, dim))
                for name in names
            }
        )
        self.frame_heads = tuple(heads)

    def project(self, name: str, embedding: Tensor) -> Tensor:
        """Embeddings [B, E] in a sub-space, [B, D] float32 of unit length."""
        return functional.normalize(self.heads[name](embedding).float(), dim=-1)

    def forward(self, frames: ObservationBatch, series: ObservationBatch | None) -> tuple[Tensor, Tensor | None]:
        """Projections of single steps by every head, [H, B, D], and of series, [B, D], in one call.

        (In one call so that a distributed wrapper sees every parameter.)
        """
        embedding = self.encoder(frames)
        projected = torch.stack([self.project(name, embedding) for name in self.frame_heads])
        return projected, None if series is None else self.project(SERIES, self.encoder(series))
