"""Embeddings of all taxa that are kept between steps, so that a softmax over all of them costs no text tower.

The taxa of the batch are encoded with gradient and put over their rows; the other rows are older and carry none. Every
so many steps all of them are encoded anew.

Shapes: L taxa of the training set, M taxa of a batch, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geotreeclip.losses import gather_with_gradient
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.training.text_work import divide_text

__all__ = ["TextCache"]

_BATCH = 512


class TextCache:
    """Detached embeddings of all taxa.

    Args:
        tokens: [L, K] prompts, on the CPU.
        every: Steps between two encodings of all.
        rank: This process.
        world: Processes that share the encoding.
    """

    def __init__(self, tokens: Tensor, every: int, rank: int = 0, world: int = 1) -> None:
        self.tokens = tokens
        self.every = every
        self.rank, self.world = rank, world
        self.rows: Tensor | None = None

    @torch.no_grad()
    def refresh(self, model: GeoTreeCLIP, step: int) -> None:
        """Encode all taxa if the step is due, or there are no embeddings yet."""
        if self.rows is not None and step % self.every:
            return
        was_training = model.training
        model.eval()
        lengths = model.text_encoder.lengths(self.tokens)
        parts = -(-len(self.tokens) // (self.world * _BATCH))
        work = divide_text(self.tokens, lengths, self.rank, self.world, parts).to(model.log_scale.device)
        own = torch.cat([model.encode_text(part).float() for part in work.parts])
        self.rows = (gather_with_gradient(own) if work.shared else own).index_select(0, work.position)
        model.train(was_training)

    def merged(self, columns: Tensor, live: Tensor) -> Tensor:
        """All embeddings [L, D], with gradient to `live` [M, D] alone, which take the rows `columns` [M] for good."""
        if self.rows is None:
            raise RuntimeError("the embeddings are read before they were ever made")
        texts = self.rows.index_copy(0, columns, live)
        self.rows = texts.detach()
        return texts
