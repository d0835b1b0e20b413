"""GeoTreeCLIP: places and taxa in one embedding space.

Shapes: B batch, L labels, K text tokens, D embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.models.config import ModelConfig, model_config
from geotreeclip.models.observation_encoder import ObservationEncoder
from geotreeclip.models.published import PublishedObservationEncoder, PublishedTextEncoder, published_towers
from geotreeclip.models.text_encoder import TextEncoder
from geotreeclip.observations import ObservationBatch

if TYPE_CHECKING:
    from geotreeclip.data.statistics import Statistics

__all__ = ["MAX_LOGIT_SCALE", "GeoTreeCLIP", "create_model"]

MAX_LOGIT_SCALE = 100.0
"""Largest inverse temperature, as in CLIP (Radford et al. 2021)."""


class GeoTreeCLIP(nn.Module):
    """Both encoders and the temperature between them.

    Args:
        config: Sizes and towers.
        statistics: Means and deviations of bands and variables, in the units of the observations. (The published
            architecture has ranges of its own instead.)
    """

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.observation_encoder: ObservationEncoder | PublishedObservationEncoder
        self.text_encoder: TextEncoder | PublishedTextEncoder
        if config.architecture == "published":
            self.observation_encoder, self.text_encoder = published_towers(config)
        else:
            self.observation_encoder = ObservationEncoder(
                config.observation,
                config.embed_dim,
                *(
                    torch.as_tensor(values, dtype=torch.float32)
                    for values in (
                        statistics.band_mean,
                        statistics.band_deviation,
                        statistics.variable_mean,
                        statistics.variable_deviation,
                    )
                ),
            )
            self.text_encoder = TextEncoder(config.text, config.embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.initial_temperature)))

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature, clamped to `MAX_LOGIT_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Tokens of prompts, [L, K] int64."""
        return self.text_encoder.tokenize(prompts)

    def encode_observations(self, batch: ObservationBatch) -> Tensor:
        """Embed places: [B, D] of unit length."""
        return functional.normalize(self.observation_encoder(batch).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed prompts: [L, D] of unit length."""
        return functional.normalize(self.text_encoder(tokens).float(), dim=-1)

    def forward(self, batch: ObservationBatch, *tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both embeddings and the scale, in one call (so that a distributed wrapper sees every parameter).

        Tokens may come in several parts, each cut to the length of its longest prompt; the embeddings are joined.
        """
        texts = torch.cat([self.encode_text(part) for part in tokens])
        return self.encode_observations(batch), texts, self.logit_scale


def create_model(name: str | ModelConfig, statistics: Statistics) -> GeoTreeCLIP:
    """Build a model with random weights (or the pretrained text tower that its configuration names).

    Args:
        name: A registered name (see `geotreeclip.models.config.model_names`) or a configuration.
        statistics: Means and deviations for standardisation.

    Raises:
        ConfigError: If the name or the text tower is unknown.
    """
    return GeoTreeCLIP(model_config(name) if isinstance(name, str) else name, statistics)
