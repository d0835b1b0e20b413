"""Log-probabilities of candidate labels at places: from text or from an adapted head, under a prior, calibrated or not.

Shapes: N samples, n of them at a time, L candidate labels, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.candidates import Prior, read_prior_table
from geotreeclip.errors import InputError
from geotreeclip.inference.checks import check_count
from geotreeclip.inputs.common import warn
from geotreeclip.label_space import LabelList
from geotreeclip.models.calibration import Calibration
from geotreeclip.models.directory import LoadedModel
from geotreeclip.models.published import NORMALISATIONS, PublishedObservationEncoder
from geotreeclip.observations import ObservationBatch

__all__ = ["Scorer"]

_LOGITS = 20_000_000  # scores held at once: 80 MB, whatever the number of labels


class Scorer:
    """The place side of a model, and how it is compared with labels.

    Args:
        loaded: The model, on `device` and in evaluation mode.
        device: Where to compute.
        normalisation: "statistics" or, of the published architecture alone, "batch".

    Raises:
        InputError: If the model cannot be normalised in this way.

    Warns:
        InputWarning: With normalisation="batch".
    """

    def __init__(self, loaded: LoadedModel, device: torch.device, normalisation: str) -> None:
        self.normalisation = _checked_normalisation(loaded, normalisation)
        self._loaded = loaded
        self._model = loaded.model
        self._device = device

    def log_probabilities(
        self,
        batch: ObservationBatch,
        candidates: LabelList,
        prior: Prior,
        batch_size: int,
        calibration: Calibration | None = None,
    ) -> Iterator[Tensor]:
        """Compare places with labels, one slice of the batch after the other.

        Scores that carry the prior p of the training set get log p' - log p for another prior p', others log p'. A
        calibration is of scores that carry it.

        Args:
            batch: N observations.
            candidates: L labels.
            prior: See `Classifier.classify`.
            batch_size: Places encoded at a time.
            calibration: What is applied to the scores, if anything.

        Yields:
            Log-probabilities [n, L] on the model's device, in the order of the batch.

        Raises:
            InputError: If the prior or the size cannot be right, or the model's head does not know a label.
        """
        factor, offset = self.terms(candidates, prior, calibration)
        check_count("batch_size", batch_size)
        rows = max(1, min(batch_size, _LOGITS // len(candidates.labels)))
        scored = self._text_scores if self._loaded.head is None else self._head_scores
        for scores in scored(batch, candidates, batch_size, rows):
            with torch.inference_mode():
                yield (factor * scores + offset).log_softmax(dim=-1)

    def terms(
        self, candidates: LabelList, prior: Prior, calibration: Calibration | None = None
    ) -> tuple[float, Tensor]:
        """How scores s become log-probabilities: the log-softmax of `factor * s + offset`.

        Args:
            candidates: L labels.
            prior: As in `log_probabilities`, and so the calibration.
            calibration: What is applied, if anything.

        Returns:
            The factor, and the offset [L] on the model's device.
        """
        carried = self._loaded.scores_carry_prior
        log_prior = np.log(candidates.prior)
        factor, offset = 1.0, np.zeros(len(log_prior))
        if calibration is not None:
            factor = 1 / calibration.temperature
            offset = calibration.apply(offset if carried else log_prior, log_prior)
            carried = True
        shift = _prior_shift(prior, candidates, carried=carried)
        if shift is not None:
            offset = offset + shift
        return factor, torch.from_numpy(offset).float().to(self._device)

    def columns(self, candidates: LabelList) -> list[int]:
        """Rows of the head of an adapted model that the labels are; none for a model without.

        Raises:
            InputError: If the head does not know a label.
        """
        if self._loaded.head is None:
            return []
        trained = self._loaded.taxonomy
        found = {taxon: trained.index_of(taxon) for taxon in candidates.labels}
        stranger = next((taxon.prompt() for taxon, row in found.items() if row is None), None)
        if stranger is not None:
            raise InputError(
                f"labels: {stranger!r} is none of the {len(trained)} labels that this model was adapted to; take "
                "some of these, or the model that it was adapted from"
            )
        return [row for row in found.values() if row is not None]

    def embeddings(self, batch: ObservationBatch, batch_size: int, *, normalize: bool) -> Iterator[Tensor]:
        """Encode places, [n, D] of one slice of the batch after the other, on the model's device.

        Raises:
            InputError: If the size cannot be right.
        """
        check_count("batch_size", batch_size)
        encode = self._model.encode_observations if normalize else self._model.observation_encoder
        if isinstance(self._model.observation_encoder, PublishedObservationEncoder):
            self._model.observation_encoder.normalisation = self.normalisation
        for start in range(0, batch.size, batch_size):
            part = batch.select(slice(start, start + batch_size)).to(self._device)
            with torch.inference_mode():
                embedding: Tensor = encode(part)
            yield embedding.float()

    def _text_scores(
        self, batch: ObservationBatch, candidates: LabelList, batch_size: int, rows: int
    ) -> Iterator[Tensor]:
        """Scaled cosines [n, L] of up to `rows` places at a time; of unseen labels, what is comparable with them."""
        for encoded in self.embeddings(batch, batch_size, normalize=True):
            for embedding in encoded.split(rows):
                with torch.inference_mode():
                    scores = self._model.logit_scale * (embedding @ candidates.embeddings.T)
                    yield scores if candidates.unseen is None else candidates.unseen(embedding, scores)

    def _head_scores(
        self, batch: ObservationBatch, candidates: LabelList, batch_size: int, rows: int
    ) -> Iterator[Tensor]:
        """Scores of an adapted model's own head, likewise."""
        head = self._loaded.head
        if head is None:
            raise InputError("this model was not adapted, it has no head")
        columns = torch.tensor(self.columns(candidates), device=self._device)
        size = min(batch_size, rows)
        for start in range(0, batch.size, size):
            part = batch.select(slice(start, start + size)).to(self._device)
            with torch.inference_mode():
                yield head.scores(self._model, part)[:, columns]


def _checked_normalisation(loaded: LoadedModel, normalisation: str) -> str:
    if normalisation not in NORMALISATIONS:
        raise InputError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
    published = isinstance(loaded.model.observation_encoder, PublishedObservationEncoder)
    if normalisation != "statistics" and not published:
        raise InputError(f"normalisation={normalisation!r} is for the published model; {loaded.config.name} has none")
    if normalisation == "batch":
        warn(
            'normalisation="batch" scales every place by the extremes of its batch: answers depend on the other places '
            "of the call and on batch_size, and those for a single place mean nothing. It is there to repeat the "
            'published scores; use "statistics" otherwise'
        )
    return normalisation


def _prior_shift(prior: Prior, candidates: LabelList, *, carried: bool) -> npt.NDArray[np.float64] | None:
    """What is added to scores, [L], or None for nothing.

    Args:
        prior: The prior asked for.
        candidates: The labels.
        carried: Whether the scores hold the training prior already.
    """
    if isinstance(prior, str) and prior in ("training", "uniform"):
        if (prior == "training") == carried:
            return None
        return -np.log(candidates.prior) if carried else np.log(candidates.prior)
    with np.errstate(divide="ignore"):  # a weight of 0 excludes a label
        asked = np.log(read_prior_table(prior, candidates.labels))
    return np.asarray(asked - np.log(candidates.prior) if carried else asked)
