"""Labels of a training set at every rank: prompts, tokens, shares, and the candidates of a batch.

Shapes: S taxa, L labels of a rank, K tokens, B samples of the global batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.losses import log_inclusion, log_share
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.schema import Rank
from geotreeclip.taxonomy import Taxonomy
from geotreeclip.training.config import LossConfig

__all__ = ["Candidates", "RankLabels", "TrainingLabels"]


class Candidates(NamedTuple):
    """The labels that one softmax holds.

    Attributes:
        tokens: [L, K] int64.
        targets: [B] index of each sample's label.
        log_q: [L] float32 log probability of being a candidate.
        columns: Where the prompts of `tokens` stand among the candidates, if those are more: the labels whose
            embeddings are kept between steps (`geotreeclip.training.text_cache`). L then counts these, and `tokens` has
            fewer rows.
    """

    tokens: Tensor
    targets: Tensor
    log_q: Tensor
    columns: Tensor | None = None

    def to(self, device: torch.device) -> Candidates:
        """The candidates on another device (the tokens stay)."""
        columns = None if self.columns is None else self.columns.to(device, non_blocking=True)
        targets, log_q = (part.to(device, non_blocking=True) for part in (self.targets, self.log_q))
        return Candidates(self.tokens, targets, log_q, columns)


class RankLabels(NamedTuple):
    """Labels of one rank: every sample beneath a prompt is a positive of it.

    Attributes:
        label: [S] label of each taxon.
        tokens: [L, K] int64 tokens of the prompts.
        log_p: [L] log share among the training samples.
        occurs: [L] whether the training set holds it.
    """

    label: npt.NDArray[np.int64]
    tokens: Tensor
    log_p: npt.NDArray[np.float64]
    occurs: npt.NDArray[np.bool_]


class TrainingLabels:
    """Labels of a training set at the rank of its taxa and at the coarser ranks of the loss.

    Args:
        taxonomy: The taxa.
        counts: [S] training samples of each.
        model: Whose tokenizer to use.
        config: Candidates, correction and coarse ranks.
        batch_size: B, samples of the global batch.
        seed: Seed of the run, for the draw of coarse ranks.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        counts: npt.NDArray[np.int64],
        model: GeoTreeCLIP,
        config: LossConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        ranks = (Rank.SPECIES.value, *config.coarse_ranks)
        self.ranks = {rank: self._rank(taxonomy, counts, model, rank) for rank in ranks}
        whole = int(self.ranks[Rank.SPECIES].occurs.sum())
        self.mode: str = config.candidates
        if self.mode == "auto":
            self.mode = "all" if whole <= config.all_up_to else "batch"

    @property
    def known_tokens(self) -> Tensor:
        """[L, K] prompts of the taxa that the training set holds."""
        labels = self.ranks[Rank.SPECIES.value]
        return labels.tokens[torch.from_numpy(np.flatnonzero(labels.occurs))]

    @staticmethod
    def _rank(taxonomy: Taxonomy, counts: npt.NDArray[np.int64], model: GeoTreeCLIP, rank: str) -> RankLabels:
        taxa, label = taxonomy.groups(rank)
        totals = np.bincount(label, weights=counts, minlength=len(taxa)).astype(np.int64)
        tokens = model.tokenize([taxon.prompt() for taxon in taxa])
        return RankLabels(label, tokens, log_share(totals), totals > 0)

    def candidates(self, taxon: npt.NDArray[np.int64], rank: str) -> Candidates:
        """The softmax of a global batch at a rank.

        Args:
            taxon: [B] taxon row of every sample.
            rank: species (the whole taxon) or one of the coarse ranks.
        """
        labels = self.ranks[rank]
        own = labels.label[taxon]
        columns = None
        if self.mode == "all" or (self.mode == "cached" and rank == Rank.SPECIES.value):
            known = np.flatnonzero(labels.occurs)
            targets = np.searchsorted(known, own)
            log_q = np.zeros(len(known))
            chosen = known
            if self.mode == "cached":
                live = np.unique(targets)
                chosen, columns = known[live], torch.from_numpy(live)
        else:
            chosen, targets = np.unique(own, return_inverse=True)
            log_q = log_inclusion(labels.log_p[chosen], self.batch_size)
            if not self.config.prior_correction:
                log_q = np.zeros(len(chosen))
        return Candidates(
            labels.tokens[torch.from_numpy(chosen)],
            torch.from_numpy(np.asarray(targets, dtype=np.int64)),
            torch.from_numpy(log_q.astype(np.float32)),
            columns,
        )

    def coarse_rank(self, position: int) -> str | None:
        """The coarse rank of the step at a stream position, drawn by seed; None where it has no coarse term."""
        if not self.config.coarse_ranks or self.config.coarse_weight == 0:
            return None
        generator = np.random.default_rng([self.seed, position, 0xC0])
        if generator.random() >= self.config.coarse_share:
            return None
        return self.config.coarse_ranks[int(generator.integers(len(self.config.coarse_ranks)))]
