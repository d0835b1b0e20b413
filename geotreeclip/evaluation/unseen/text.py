"""What a species is to the model: its names, the names of another, or a vector of its own.

Shape letters: S species, G groups of a rank, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.errors import ConfigError
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.taxonomy import Taxonomy

__all__ = ["TEXTS", "Labels", "permuted_names"]

TEXTS = ("names", "permuted", "identity")
"""The species' own names; names dealt out among the species; a learnt vector for each species instead of text."""


def permuted_names(taxonomy: Taxonomy, seed: int) -> Taxonomy:
    """The table with its names dealt out among the rows by seed.

    Whole rows move, so the names keep the shape of their tree (as many species in each genus, as many genera in each
    family) while row and name have nothing to do with each other: what a genus is called says nothing of its species.
    """
    order = np.random.default_rng([seed, 0x9A3E]).permutation(len(taxonomy))
    return taxonomy.take(order.tolist())


class Group(NamedTuple):
    """Prompts of a coarser rank.

    Attributes:
        label: int64 [S], group of each species.
        tokens: int64 [G, K].
    """

    label: NDArray[np.int64]
    tokens: Tensor


class Labels(nn.Module):
    """Embeddings of species, and of genus and family prompts where there is text.

    Args:
        text: One of `TEXTS`.
        taxonomy: The S species.
        model: Whose text tower to use, with its random weights.
        seed: Of the permutation and of the vectors.
    """

    def __init__(self, text: str, taxonomy: Taxonomy, model: GeoTreeCLIP, seed: int) -> None:
        super().__init__()
        if text not in TEXTS:
            raise ConfigError(f"text {text!r} is unknown; there are {', '.join(TEXTS)}")
        self.groups: list[Group] = []
        self.vectors: nn.Parameter | None = None
        if text == "identity":
            generator = torch.Generator().manual_seed(seed)
            self.vectors = nn.Parameter(torch.randn(len(taxonomy), model.config.embed_dim, generator=generator))
            return
        self.encoder = model.text_encoder
        read = taxonomy if text == "names" else permuted_names(taxonomy, seed)
        self.register_buffer("tokens", model.tokenize(read.prompts()), persistent=False)
        for rank in ("genus", "family"):
            taxa, label = read.groups(rank)
            if 1 < len(taxa) < len(read):
                self.groups.append(Group(label, model.tokenize([taxon.prompt() for taxon in taxa])))

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings of species, [len(rows), D] of unit length."""
        if self.vectors is not None:
            return functional.normalize(self.vectors[rows], dim=-1)
        return self.encode(self.tokens[rows])  # type: ignore[index]

    def encode(self, tokens: Tensor) -> Tensor:
        """Embeddings of prompts, of unit length."""
        return functional.normalize(self.encoder(tokens).float(), dim=-1)
