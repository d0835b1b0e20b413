"""Labels that training never saw, put on one scale with those that it saw.

A score s of a seen label l estimates log p(place | l) / p(place), plus log p_l where scores carry the prior, up to a
constant. The loss has seen to that. Of a label that was never a candidate it has seen to nothing: its scores may lie
anywhere, and in practice lie above those of true answers. What it needs to stay a density ratio is that its mean over
places is 1, so the log of the mean of exp(s) over places of training is subtracted. What remains is a guess from words
alone, sharp and often wrong, so it is one part of three in

    p(place | unseen) / p(place)  =  TEXT * text  +  RELATIVES * mean over seen species of the genus  +  rest * 1

where the rest says that nothing is known of the place; without relatives, their part says the same. The weights are
near those under which species held out of training were likeliest on real occurrences, and below them for relatives,
which tell nothing in a world whose genera share nothing (`benchmarks/unseen_labels.py`; docs/experiments.md, "Names
never seen"). Labels that training saw are not touched.

Shapes: n places, L candidate labels, U of them unseen, R seen relatives, G genera, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geotreeclip.models.place_centres import PlaceCentres
from geotreeclip.taxonomy import Taxon

__all__ = ["RELATIVES", "TEXT", "LabelFacts", "UnseenLabels"]

TEXT = 0.1
"""Weight of the text of a label that training never saw."""

RELATIVES = 0.5
"""Weight of the seen species of its genus."""

_HIGHEST = 60.0  # of a log ratio, so that its exponential stays a float32


class LabelFacts(NamedTuple):
    """What is known of M labels.

    Attributes:
        taxa: [M].
        embeddings: [M, D] of unit length.
        log_prior: [M] in the training set.
        seen: [M] whether training saw them.
    """

    taxa: Sequence[Taxon]
    embeddings: Tensor
    log_prior: npt.NDArray[np.float64]
    seen: npt.NDArray[np.bool_]


class UnseenLabels(nn.Module):
    """Scores of unseen labels, made comparable.

    Args:
        columns: [U] where the unseen labels are among the candidates.
        labels: [U, D] their embeddings, of unit length.
        base: [U] score of a place of which nothing is known: the constant of the model, and the log prior where scores
            carry it.
        log_mass: [U] log of the mean over places of exp(score).
        genus: [U] group of each, G for one without relatives.
        relatives: [R, D] embeddings of the seen species of the G genera.
        relatives_base: [R] what is subtracted from their scores to give log ratios.
        relatives_genus: [R] their groups.
        scale: Scores are scaled cosines.
        weights: Of text and of relatives.
    """

    def __init__(
        self,
        columns: Tensor,
        labels: Tensor,
        base: Tensor,
        log_mass: Tensor,
        genus: Tensor,
        relatives: Tensor,
        relatives_base: Tensor,
        relatives_genus: Tensor,
        scale: Tensor,
        weights: tuple[float, float] = (TEXT, RELATIVES),
    ) -> None:
        super().__init__()
        self.weights = weights
        self.columns = nn.Buffer(columns)
        self.labels = nn.Buffer((scale * labels).contiguous())
        self.base = nn.Buffer(base)
        self.log_mass = nn.Buffer(log_mass)
        self.genus = nn.Buffer(genus)
        self.relatives = nn.Buffer((scale * relatives).contiguous())
        self.relatives_base = nn.Buffer(relatives_base)
        self.relatives_genus = nn.Buffer(relatives_genus)
        # The last group has no species: 1 for every place.
        size = torch.bincount(relatives_genus, minlength=int(genus.max()) + 1)
        self.size = nn.Buffer(size.clamp(min=1).float())
        self.none = nn.Buffer((size == 0).float())

    @classmethod
    def of(
        cls,
        candidates: LabelFacts,
        known: LabelFacts,
        centres: PlaceCentres,
        scale: Tensor,
        *,
        carried: bool,
        weights: tuple[float, float] = (TEXT, RELATIVES),
    ) -> UnseenLabels:
        """What a list of candidates needs.

        Args:
            candidates: L labels, not all of them seen.
            known: The S taxa of the model, not all of them unseen.
            centres: Of the places of training.
            scale: Scores are scaled cosines.
            carried: Whether scores carry the prior.
            weights: Of text and of relatives.
        """
        device, seen = known.embeddings.device, np.flatnonzero(known.seen).tolist()

        def prior(labels: LabelFacts) -> Tensor:
            return torch.from_numpy(labels.log_prior * carried).float().to(device)

        log_mass = centres.log_mean_score(known.embeddings, scale)
        constant = (log_mass - prior(known))[seen].median()
        rows = np.flatnonzero(~candidates.seen).tolist()
        wanted = {candidates.taxa[row].genus for row in rows} - {""}
        kin = [row for row in seen if known.taxa[row].genus in wanted]
        genera = {genus: number for number, genus in enumerate(sorted({known.taxa[row].genus for row in kin}))}

        def groups(labels: LabelFacts, of: list[int]) -> Tensor:
            return torch.tensor([genera.get(labels.taxa[row].genus, len(genera)) for row in of], device=device).long()

        unseen = candidates.embeddings[rows]
        return cls(
            columns=torch.tensor(rows, device=device),
            labels=unseen,
            base=constant + prior(candidates)[rows],
            log_mass=centres.log_mean_score(unseen, scale),
            genus=groups(candidates, rows),
            relatives=known.embeddings[kin],
            relatives_base=constant + prior(known)[kin],
            relatives_genus=groups(known, kin),
            scale=scale.detach(),
            weights=weights,
        )

    def forward(self, embedding: Tensor, scores: Tensor) -> Tensor:
        """Replace the scores of unseen labels.

        Args:
            embedding: [n, D] of places, of unit length.
            scores: [n, L] of all candidates.

        Returns:
            [n, L].
        """
        text = (embedding @ self.labels.T - self.log_mass).clamp(max=_HIGHEST).exp()
        kin = (embedding @ self.relatives.T - self.relatives_base).clamp(max=_HIGHEST).exp()
        total = self.none.expand(embedding.shape[0], -1).index_add(1, self.relatives_genus, kin)
        relatives = (total / self.size)[:, self.genus]
        of_text, of_relatives = self.weights
        ratio = of_text * text + of_relatives * relatives + (1 - of_text - of_relatives)
        return scores.index_copy(1, self.columns, self.base + ratio.log())
