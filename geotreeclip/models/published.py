"""The architecture of GGT_6M.pth, the published GeoTreeCLIP (Mu et al. 2026, doi 10.5194/essd-18-1379-2026).

Every month is read by a CLIP vision transformer of its own two tokens (Radford et al. 2021: pre-norm blocks, quick
GELU, LayerNorm eps 1e-5), months meet in one attention layer without positions and are averaged, the environment goes
through four small networks, and text through a CLIP text transformer without its projection. Inputs are scaled to -1 to
1 by minima and maxima, in the original those of the batch at hand (see `geotreeclip.models.published_ranges`).

Names inside the modules follow the published state dict, so that a prefix is all that has to be renamed.

Shapes: B batch, T months, C bands, H W pixels, V variables (27), M months with data, L labels, K tokens, E width,
D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.errors import ConfigError
from geotreeclip.models.published_ranges import BatchRanges, default_ranges, scale_by_batch
from geotreeclip.schema import BANDS, MONTHS, VARIABLES

if TYPE_CHECKING:
    from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig
    from geotreeclip.observations import ObservationBatch

__all__ = ["NORMALISATIONS", "PublishedObservationEncoder", "PublishedTextEncoder", "published_towers"]

NORMALISATIONS: tuple[str, ...] = ("statistics", "batch")
"""Where minima and maxima come from: stored with the model, or those of the batch, as in the published scripts."""

_IMAGE = 16  # pixels along the side of the picture, and of its only patch
_MONTH_HEADS = 4  # attention between months
_GROUP_WIDTH = 256  # channels of the environment's networks
_GROUPS = (("geo", 3), ("terrain", 2), ("soil", 3), ("bio", 19))  # in published order; elevation counts as geo
_VOCABULARY = 49408  # byte-pair tokens of CLIP
_MONTHS_AT_A_TIME = 4096  # bounds the memory of activations


class _Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor, causal: bool) -> Tensor:
        """[N, K, E] to [N, K, E]."""
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Mlp(nn.Module):
    """Two layers with the quick GELU of CLIP, x sigmoid(1.702 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.fc1(tokens)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, hidden)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, causal: bool) -> Tensor:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens), causal)
        return tokens + self.mlp(self.layer_norm2(tokens))  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, config: ObservationConfig | TextConfig, depth: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config.width, config.heads, hidden) for _ in range(depth))

    def forward(self, tokens: Tensor, causal: bool = False) -> Tensor:
        for block in self.layers:
            tokens = block(tokens, causal)
        return tokens


class _MonthEmbeddings(nn.Module):
    """The two tokens of a month: a learnt one, and one for the whole picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
        self.patch_embedding = nn.Conv2d(len(BANDS), width, kernel_size=_IMAGE, stride=_IMAGE, bias=False)
        self.position_embedding = nn.Embedding(2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        picture = functional.interpolate(pixels, size=(_IMAGE, _IMAGE), mode="bilinear", align_corners=False)
        # The kernel covers the picture, so the convolution is a matrix product, which GPUs do in full precision
        patch = functional.linear(picture.flatten(1), self.patch_embedding.weight.flatten(1))
        return torch.stack([self.class_embedding.expand_as(patch), patch], dim=1) + self.position_embedding.weight


class MonthEncoder(nn.Module):
    """A month's picture to its feature: the first token after the last block.

    The published model reads it before `post_layernorm`, which stands in its file and is used by nothing.
    """

    def __init__(self, config: ObservationConfig) -> None:
        super().__init__()
        self.embeddings = _MonthEmbeddings(config.width)
        self.pre_layrnorm = nn.LayerNorm(config.width)  # the spelling of the published state dict
        self.encoder = _Encoder(config, config.depth, int(config.width * config.mlp_ratio))
        self.post_layernorm = nn.LayerNorm(config.width).requires_grad_(False)  # unused, so there is nothing to train

    def forward(self, pixels: Tensor) -> Tensor:
        """[M, C, H, W], scaled to -1 to 1, to [M, E]."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))[:, 0]  # type: ignore[no-any-return]


class MonthAttention(nn.Module):
    """Attention between the months, then their mean; all of them count, those without data as zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, _MONTH_HEADS, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, T, E] to [B, E]."""
        return self.attn(features, features, features, need_weights=False)[0].mean(dim=1)  # type: ignore[no-any-return]


def _layer(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.ReLU())


class EnvironmentEncoder(nn.Module):
    """The 27 variables, scaled to -1 to 1, in four groups; a missing one is 0."""

    def __init__(self) -> None:
        super().__init__()
        for name, size in _GROUPS:
            self.add_module(f"{name}_encoder", _layer(size, _GROUP_WIDTH))
        self.fusion = _layer(len(_GROUPS) * _GROUP_WIDTH, _GROUP_WIDTH)

    def forward(self, values: Tensor) -> Tensor:
        """[B, V] to [B, 256]."""
        parts = values.split([size for _, size in _GROUPS], dim=1)
        encoded = [self.get_submodule(f"{name}_encoder")(part) for (name, _), part in zip(_GROUPS, parts, strict=True)]
        return self.fusion(torch.cat(encoded, dim=1))  # type: ignore[no-any-return]


class PublishedObservationEncoder(nn.Module):
    """Places to embeddings as the published model computes them; no element is negative.

    Args:
        config: The month encoder; its inputs must be all of them.
        embed_dim: D.
        ranges: Minima and maxima of bands and variables for "statistics".

    Attributes:
        normalisation: "statistics" or "batch" (see `NORMALISATIONS`).
    """

    band_range: Tensor
    variable_range: Tensor

    def __init__(self, config: ObservationConfig, embed_dim: int, ranges: BatchRanges | None = None) -> None:
        super().__init__()
        self.normalisation = "statistics"
        self.month_encoder = MonthEncoder(config)
        self.month_attention = MonthAttention(config.width)
        self.environment_encoder = EnvironmentEncoder()
        self.image_projection = _layer(config.width, embed_dim)
        self.aux_projection = _layer(_GROUP_WIDTH, embed_dim)
        self.fusion = _layer(2 * embed_dim, embed_dim)
        ranges = ranges or default_ranges()
        self.register_buffer("band_range", torch.tensor(ranges.bands, dtype=torch.float32))
        self.register_buffer("variable_range", torch.tensor(ranges.variables, dtype=torch.float32))

    def fit(self, batch: ObservationBatch) -> None:
        """Nothing is fitted to training samples."""

    def scaled(self, batch: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Images [B, T, C, H, W] and environment [B, V], scaled to -1 to 1, 0 where missing."""
        if self.normalisation == "batch":
            return scale_by_batch(batch)
        ranges = self.band_range.view(1, 1, -1, 1, 1, 2)
        images = torch.where(batch.image_valid, _scale(batch.images, ranges), 0.0)
        return images, torch.where(batch.environment_valid, _scale(batch.environment, self.variable_range), 0.0)

    def temporal_features(self, images: Tensor, month_valid: Tensor) -> Tensor:
        """Scaled images [B, T, C, H, W] and which months hold data [B, T] to [B, E].

        A series of another length than 12 is filled up with months without data: the mean is over all of them.
        """
        if torch.compiler.is_exporting():  # a program has no shapes that hang on values: it reads the empty months too
            read = self.month_encoder(images.flatten(0, 1)).unflatten(0, month_valid.shape)
            return self.month_attention(torch.where(month_valid.unsqueeze(-1), read, 0.0))  # type: ignore[no-any-return]
        months = images[month_valid].split(_MONTHS_AT_A_TIME)
        encoded = torch.cat([self.month_encoder(part) for part in months])
        size, steps = month_valid.shape
        features = encoded.new_zeros(size, max(steps, MONTHS), encoded.shape[-1])
        where = functional.pad(month_valid, (0, features.shape[1] - steps))
        features[where] = encoded
        return self.month_attention(features)  # type: ignore[no-any-return]

    def forward(self, batch: ObservationBatch) -> Tensor:
        """Encode places.

        Returns:
            [B, D], not normalised.
        """
        images, environment = self.scaled(batch)
        seen = self.temporal_features(images, batch.image_valid.flatten(2).any(dim=-1))
        parts = [self.image_projection(seen), self.aux_projection(self.environment_encoder(environment))]
        return self.fusion(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


def _scale(values: Tensor, ranges: Tensor) -> Tensor:
    """To -1 to 1 by stored minima and maxima; what lies outside is cut, as the model never saw such values."""
    low, high = ranges.unbind(-1)
    return (2 * (values - low) / (high - low) - 1).clamp(-1, 1)


class _TextEmbeddings(nn.Module):
    """Tokens and their positions."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(_VOCABULARY, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]  # type: ignore[no-any-return]


class _TextTower(nn.Module):
    """CLIP's text transformer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = _TextEmbeddings(config)
        self.encoder = _Encoder(config, config.layers, 4 * config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)


class PublishedTextEncoder(nn.Module):
    """Prompts to embeddings: CLIP's text transformer, read at the end mark, without CLIP's projection.

    Args:
        config: Its size.
        embed_dim: D, which must be the width of the tower.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        if config.width != embed_dim or config.tower != "scratch":
            raise ConfigError(
                f"model.text: the published architecture has a tower of its own, as wide as the embedding "
                f"({embed_dim}), not {config.tower!r} of width {config.width}"
            )
        self.config = config
        self.context_length = config.context_length
        self.tower = _TextTower(config)
        # CLIP's byte-pair tokenizer, whose vocabulary comes with open_clip
        self._tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=config.context_length)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Tokens of prompts, [L, K] int64; what exceeds K is cut at the end, keeping the end mark."""
        if not prompts:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        tokens: Tensor = self._tokenizer(prompts)
        return tokens

    def lengths(self, tokens: Tensor) -> Tensor:
        """Tokens of each prompt up to its end mark, [L] int64; `forward` needs no more columns than the longest has."""
        return tokens.argmax(dim=1) + 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens [L, K] to [L, D], not normalised."""
        end = tokens.argmax(dim=1)  # the end mark has the largest number of all tokens
        # Attention is causal, so what follows the end mark changes nothing: run only as far as the longest prompt.
        tokens = tokens[:, : int(end.max()) + 1] if len(tokens) else tokens
        hidden = self.tower.encoder(self.tower.embeddings(tokens), causal=True)
        return self.tower.final_layer_norm(hidden[torch.arange(len(tokens), device=tokens.device), end])  # type: ignore[no-any-return]


def published_towers(
    config: ModelConfig, ranges: BatchRanges | None = None
) -> tuple[PublishedObservationEncoder, PublishedTextEncoder]:
    """Both encoders of the published architecture.

    Raises:
        ConfigError: If a part of the inputs is left out, which this architecture cannot do.
    """
    if len(config.observation.inputs) < 1 + len({variable.group for variable in VARIABLES}):
        raise ConfigError(
            "model.observation.inputs: the published architecture reads all inputs; a value that is not there is masked"
        )
    return (
        PublishedObservationEncoder(config.observation, config.embed_dim, ranges),
        PublishedTextEncoder(config.text, config.embed_dim),
    )
