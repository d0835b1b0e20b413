"""The classifier: a trained model and the questions it answers.

Shapes: N samples, L candidate labels, D embedding, K answers for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from geotreeclip.answers import promised_threshold, sum_groups
from geotreeclip.candidates import Labels, Prior, read_labels
from geotreeclip.errors import InputError
from geotreeclip.explanation import explain
from geotreeclip.hub import find_pretrained
from geotreeclip.inference.answering import answer
from geotreeclip.inference.observing import observe
from geotreeclip.inference.scoring import Scorer
from geotreeclip.inference.trained import TrainedModel
from geotreeclip.inputs.gathering import PlaceOptions
from geotreeclip.label_cache import LabelCache
from geotreeclip.label_space import LabelSpace
from geotreeclip.models.calibration import Calibration
from geotreeclip.models.directory import LoadedModel, load_model
from geotreeclip.observations import ObservationBatch
from geotreeclip.predictions import Predictions
from geotreeclip.schema import RANKS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Classifier"]


class Classifier(TrainedModel):
    """A trained model, ready for questions.

    Args:
        loaded: A model directory in memory.
        device: Where to compute, "cpu" or "cuda"; by default a GPU if there is one.
        cache: Where label embeddings are kept between runs; by default the user's cache.
        normalisation: How inputs are scaled: "statistics" by numbers stored with the model; "batch", of the published
            architecture alone, by the extremes of each batch, as the published scripts do.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: str | torch.device | None = None,
        cache: LabelCache | None = None,
        *,
        normalisation: str = "statistics",
    ) -> None:
        super().__init__(loaded, device)
        self._labels = LabelSpace(loaded, self.device, cache)
        self._scorer = Scorer(loaded, self.device, normalisation)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        fingerprint: str | None = None,
        device: str | torch.device | None = None,
    ) -> Classifier:
        """Load a model of the hub, or of a path; see `geotreeclip.hub.find_pretrained`."""
        return cls(load_model(find_pretrained(name, revision, fingerprint)), device)

    @property
    def normalisation(self) -> str:
        """How inputs are scaled, "statistics" or "batch"."""
        return self._scorer.normalisation

    def classify(
        self,
        images: Any = None,
        environment: Any = None,
        longitude: Any = None,
        latitude: Any = None,
        labels: Labels = None,
        rank: str = "species",
        top_k: int | None = 5,
        prior: Prior = "training",
        *,
        calibrated: bool | None = None,
        sample_ids: Sequence[object] | None = None,
        batch_size: int = 1024,
        **options: Unpack[PlaceOptions],
    ) -> Predictions:
        """Name the likeliest taxa of each place.

        Args:
            images: Sentinel-2 time series: arrays as `geotreeclip.build_observations` takes them; an xarray DataArray
                or Dataset with time, band, y and x, or the path of a stack of GeoTIFFs, of which the patches around
                the places are read (around the centre without places); or STAC items.
            environment: Environmental variables; see there. Or a GeoDataFrame of points.
            longitude: Degrees east.
            latitude: Degrees north.
            labels: Candidates: names at any rank, seen in training or not, a table, a path, a restriction such as
                "genus=Quercus"; see `geotreeclip.candidates.read_labels`. By default all taxa of training.
            rank: "species", "genus", "family" or "leaf_type". Probabilities of finer candidates are summed to it;
                candidates that are coarser themselves stay as they are.
            top_k: Answers for each place; None for all.
            prior: How common the candidates are where the places lie: "training" as in the training set; "uniform"
                for all alike; or a table of weights (mapping by name, array, CSV path).
            calibrated: Whether to apply the model's calibration; by default where it has one.
            sample_ids: Identifiers of the N places, by default 0 to N - 1.
            batch_size: Places encoded at a time; it changes memory and speed, not the answers.
            **options: What `geotreeclip.build_observations` takes beside: bands, months or days, scale, offset, nodata,
                worldclim. Or where to fetch from: source="stac:URL" and year=, a STAC API or static catalog of
                Sentinel-2; rasters=DIR, environmental rasters known by their names. And greenup=, for a model that
                counts days from it: see `geotreeclip.inference.phase`.

        Returns:
            Predictions of N places.

        Raises:
            InputError: If an argument cannot be right; the message says which, where and how to mend it.
        """
        if sample_ids is not None:
            known = list(sample_ids)
            options.setdefault("name_sample", lambda row: f"sample {known[row] if row < len(known) else row!s}")
        batch = self.build(images, environment, longitude, latitude, **options)
        return self.classify_batch(
            batch,
            labels=labels,
            rank=rank,
            top_k=top_k,
            prior=prior,
            calibrated=calibrated,
            sample_ids=sample_ids,
            batch_size=batch_size,
        )

    def classify_batch(
        self,
        batch: ObservationBatch,
        *,
        labels: Labels = None,
        rank: str = "species",
        top_k: int | None = 5,
        prior: Prior = "training",
        calibrated: bool | None = None,
        sample_ids: Sequence[object] | None = None,
        batch_size: int = 1024,
    ) -> Predictions:
        """`classify` for observations that are built already (see `classify` for the arguments)."""
        _rank(rank)
        if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
            raise InputError(f"top_k must be a whole number from 1, or None for all, got {top_k!r}")
        samples = _samples(sample_ids, batch.size)
        candidates = self._labels.ready(labels)
        calibration = self._applied(calibrated)
        promised = None
        if calibration is not None and prior == "training" and candidates.labels is self.taxonomy:
            promised = promised_threshold(calibration, rank)
        return answer(
            self._scorer.log_probabilities(batch, candidates, prior, batch_size, calibration),
            batch,
            candidates,
            rank=rank,
            top_k=top_k,
            samples=samples,
            calibrated=calibration is not None,
            promised=promised,
            ranges=self.ranges,
        )

    def log_probabilities(
        self,
        batch: ObservationBatch,
        labels: Labels = None,
        prior: Prior = "training",
        batch_size: int = 1024,
        *,
        calibrated: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Log-probability of every candidate at every place.

        Args:
            batch: N observations.
            labels: Candidates, as in `classify`.
            prior: As in `classify`.
            batch_size: Places encoded at a time.
            calibrated: True to apply the model's calibration; evaluation and calibration itself work without.

        Returns:
            float32 [N, L]; the exponentials of each row sum to 1.
        """
        calibration = self._applied(calibrated)
        scored = self._scorer.log_probabilities(batch, self._labels.ready(labels), prior, batch_size, calibration)
        return np.concatenate([part.cpu().numpy() for part in scored])

    def explain(
        self,
        images: Any = None,
        environment: Any = None,
        longitude: Any = None,
        latitude: Any = None,
        labels: Labels = None,
        rank: str = "species",
        prior: Prior = "training",
        *,
        label: str | None = None,
        calibrated: bool | None = None,
        sample_ids: Sequence[object] | None = None,
        batch_size: int = 1024,
        **options: Unpack[PlaceOptions],
    ) -> pd.DataFrame:
        """Which months, bands and variables moved the answer: each is hidden in turn.

        Args:
            images: As in `classify`, and so the other inputs.
            environment: Environmental variables.
            longitude: Degrees east.
            latitude: Degrees north.
            labels: Candidates.
            rank: Rank of the answer.
            prior: How common the candidates are.
            label: The label to explain; by default the likeliest of each place.
            calibrated: As in `classify`.
            sample_ids: Identifiers of the places.
            batch_size: Places encoded at a time.
            **options: As in `classify`.

        Returns:
            A table; see `geotreeclip.explanation.explain`.
        """
        batch = self.build(images, environment, longitude, latitude, **options)
        return self.explain_batch(
            batch, labels=labels, rank=rank, prior=prior, label=label, calibrated=calibrated, sample_ids=sample_ids,
            batch_size=batch_size,
        )  # fmt: skip

    def explain_batch(
        self,
        batch: ObservationBatch,
        *,
        labels: Labels = None,
        rank: str = "species",
        prior: Prior = "training",
        label: str | None = None,
        calibrated: bool | None = None,
        sample_ids: Sequence[object] | None = None,
        batch_size: int = 1024,
    ) -> pd.DataFrame:
        """`explain` for observations that are built already."""
        samples = _samples(sample_ids, batch.size)
        candidates = self._labels.ready(labels)
        taxa, groups = candidates.at_rank(_rank(rank))
        names = [taxon.name(taxon.rank) for taxon in taxa]
        target = None
        if label is not None:
            place = {name.casefold(): index for index, name in enumerate(names)}.get(label.strip().casefold())
            if place is None:
                raise InputError(f"label: {label!r} is none of the {len(names)} candidates at rank {rank}")
            target = place
        calibration = self._applied(calibrated)

        def score(observations: ObservationBatch) -> npt.NDArray[np.float32]:
            parts = self._scorer.log_probabilities(observations, candidates, prior, batch_size, calibration)
            return np.concatenate([sum_groups(part.exp(), groups, len(taxa)).cpu().numpy() for part in parts])

        return explain(score, batch, names, self.config.observation.inputs, samples=samples, target=target)

    def embed(
        self,
        images: Any = None,
        environment: Any = None,
        longitude: Any = None,
        latitude: Any = None,
        *,
        normalize: bool = True,
        batch_size: int = 1024,
        **options: Unpack[PlaceOptions],
    ) -> npt.NDArray[np.float32]:
        """Embed places.

        With normalisation="batch", every `batch_size` places in the order given are a batch.

        Args:
            images: As in `classify`, and so the other inputs.
            environment: Environmental variables.
            longitude: Degrees east.
            latitude: Degrees north.
            normalize: True for unit length, as `classify` compares them; False for the encoder's raw output.
            batch_size: Places encoded at a time.
            **options: As in `classify`.

        Returns:
            float32 [N, D].
        """
        batch = self.build(images, environment, longitude, latitude, **options)
        return self.embed_batch(batch, normalize=normalize, batch_size=batch_size)

    def embed_batch(
        self, batch: ObservationBatch, *, normalize: bool = True, batch_size: int = 1024
    ) -> npt.NDArray[np.float32]:
        """`embed` for observations that are built already."""
        return np.concatenate(
            [part.cpu().numpy() for part in self._scorer.embeddings(batch, batch_size, normalize=normalize)]
        )

    def embed_labels(self, labels: Labels = None, *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """Embed labels.

        Args:
            labels: As in `classify`; their order is kept.
            normalize: True for unit length; False for the encoder's raw output.

        Returns:
            float32 [L, D].
        """
        if normalize:
            return np.array(self._labels.ready(labels).embeddings.cpu().numpy())
        return np.array(self._labels.encode(read_labels(labels, self.taxonomy), normalize=False).cpu().numpy())

    def build(
        self,
        images: Any = None,
        environment: Any = None,
        longitude: Any = None,
        latitude: Any = None,
        **options: Unpack[PlaceOptions],
    ) -> ObservationBatch:
        """Observations as `classify` builds them, for `classify_batch`, `embed_batch` and `explain_batch`."""
        if self.normalisation == "batch":  # only the place within the batch counts, so no unit is out of range
            options.setdefault("implausible", "warn")
        return observe(images, environment, longitude, latitude, options, self.config.observation)

    def _applied(self, calibrated: bool | None) -> Calibration | None:
        """The calibration to use: None asks for what the model has."""
        if calibrated and self._calibration is None:
            raise InputError("calibrated=True, but this model has no calibration.json; eval/calibrate.py fits one")
        return None if calibrated is False else self._calibration


def _rank(rank: str) -> str:
    if rank not in RANKS:
        raise InputError(f"rank must be one of {', '.join(reversed(RANKS))}, got {rank!r}")
    return rank


def _samples(sample_ids: Sequence[object] | None, count: int) -> Sequence[object]:
    samples: Sequence[object] = range(count) if sample_ids is None else list(sample_ids)
    if len(samples) != count:
        raise InputError(f"sample_ids has {len(samples)} identifiers for {count} places")
    return samples
