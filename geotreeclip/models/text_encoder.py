"""The encoder of taxonomic text: an open_clip tower, from scratch or pretrained by name.

Shapes: L labels, K tokens, D embedding.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from geotreeclip.errors import ConfigError
from geotreeclip.models.config import TextConfig

__all__ = ["TextEncoder"]

_BPE = "ViT-B-16"
"""Any plain CLIP model names open_clip's byte-pair tokenizer, whose vocabulary comes with the package."""


class TextEncoder(nn.Module):
    """Taxonomic text to embeddings.

    Args:
        config: Which tower.
        embed_dim: D; a named tower with another dimension gets a linear map after it.

    Raises:
        ConfigError: If open_clip does not know the tower.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        if config.tower == "scratch":
            self.tower: Any = TextTransformer(
                context_length=config.context_length,
                width=config.width,
                heads=config.heads,
                layers=config.layers,
                output_dim=embed_dim,
            )
            self.projection: nn.Module = nn.Identity()
            self.context_length = config.context_length
        else:
            self.tower, dimension, self.context_length = _named_tower(config)
            self.projection = nn.Linear(dimension, embed_dim, bias=False)
        if config.frozen:
            self.tower.requires_grad_(False)
        tokenizer_name = _BPE if config.tower == "scratch" else config.tower
        self._tokenizer = open_clip.get_tokenizer(tokenizer_name, context_length=self.context_length)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Tokens of prompts, [L, K] int64; what exceeds K is cut at the end, keeping the end mark."""
        if not prompts:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        tokens: Tensor = self._tokenizer(prompts)
        return tokens

    def lengths(self, tokens: Tensor) -> Tensor:
        """Tokens of each prompt that matter, [L] int64: `forward` gives the same where the columns behind are cut off.

        It is K for towers that read the padding too.
        """
        if not self._is_causal:
            return torch.full((len(tokens),), tokens.shape[1])
        length: Tensor = (tokens != self.tower.pad_id).sum(1)
        return length

    @property
    def _is_causal(self) -> bool:
        tower = self.tower
        return isinstance(tower, TextTransformer) and tower.attn_mask is not None and tower.cls_emb is None

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens [L, K] to [L, D], not normalised; K may be less than the context length (see `lengths`)."""
        tower = self.tower
        if not self._is_causal:
            return self.projection(tower(tokens))  # type: ignore[no-any-return]
        # With causal attention, padding after the end mark changes nothing: run only as far as the longest prompt.
        # Tokens that were cut before (see `lengths`) are taken as they come, as asking would wait for the device.
        length = tokens.shape[1]
        if length == self.context_length:
            length = int((tokens != tower.pad_id).any(0).sum())
        tokens = tokens[:, :length]
        hidden = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length]))
        pooled = text_global_pool(hidden, tokens, pool_type=tower.pool_type, eos_token_id=tower.eos_id)
        if isinstance(tower.text_projection, nn.Linear):
            pooled = tower.text_projection(pooled)
        elif tower.text_projection is not None:
            pooled = pooled @ tower.text_projection
        return self.projection(pooled)  # type: ignore[no-any-return]


def _named_tower(config: TextConfig) -> tuple[nn.Module, int, int]:
    """The text tower of a named open_clip model, its dimension and its context length."""
    known = config.tower.startswith(("hf-hub:", "local-dir:")) or config.tower in open_clip.list_models()
    if not known:
        raise ConfigError(
            f"model.text.tower: open_clip has no model {config.tower!r}; give 'scratch', a name that "
            "open_clip.list_models() lists, 'hf-hub:owner/name' or 'local-dir:PATH'"
        )
    keywords: dict[str, Any] = {"force_custom_text": True}
    if config.context_length:
        keywords["force_context_length"] = config.context_length
    try:
        model = open_clip.create_model(config.tower, pretrained=config.pretrained or None, **keywords)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"model.text: {config.tower!r} ({config.pretrained or 'random weights'}): {error}") from error
    tower = model.text
    dimension = int(getattr(tower, "output_dim", 0)) or int(model.visual.output_dim)
    return tower, dimension, int(getattr(tower, "context_length", config.context_length))
