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
from geotreeclip.inference.answering import answer
from geotreeclip.inference.checks import check_count, check_rank, identifiers
from geotreeclip.inference.exporting import Exported, export_model
from geotreeclip.inference.observing import observe
from geotreeclip.inference.scoring import Scorer
from geotreeclip.inference.trained import TrainedModel
from geotreeclip.inputs.gathering import PlaceOptions
from geotreeclip.label_cache import LabelCache
from geotreeclip.label_space import LabelSpace
from geotreeclip.models.calibration import Calibration
from geotreeclip.models.directory import LoadedModel
from geotreeclip.observations import ObservationBatch
from geotreeclip.predictions import Predictions

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

    Raises:
        InputError: If there is no such device, or the model cannot be normalised in this way.
        ConfigError: If the device is a GPU and there is none.
        DataError: If calibration.json is damaged, or of other weights.

    Warns:
        InputWarning: With normalisation="batch".
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
            DataError: If a file of labels, weights, imagery or rasters, or a catalog, cannot be read.
            ConfigError: If reading it needs a library that is not installed.

        Warns:
            InputWarning: If something is taken that looks odd: another unit or offset, an input that the model does
                not read, a genus that it never saw.
        """
        if sample_ids is not None:
            known = list(sample_ids)
            options.setdefault("name_sample", lambda row: f"sample {known[row] if row < len(known) else row!s}")
        batch = self.build(images, environment, longitude, latitude, **options)
        return self.classify_batch(
            batch, labels=labels, rank=rank, top_k=top_k, prior=prior, calibrated=calibrated, sample_ids=sample_ids,
            batch_size=batch_size,
        )  # fmt: skip

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
        """`classify` for N observations that are built already; arguments, result and errors are its own."""
        check_rank(rank)
        if top_k is not None:
            check_count("top_k", top_k, ", or None for all")
        samples = identifiers(sample_ids, batch.size)
        candidates = self._labels.ready(labels)
        calibration = self._applied(calibrated)
        promised = None
        carries = isinstance(prior, str) and prior == "training"
        if calibration is not None and carries and candidates.labels is self.taxonomy:
            promised = promised_threshold(calibration, rank)
        scored = self._scorer.log_probabilities(batch, candidates, prior, batch_size, calibration)
        return answer(
            scored, batch, candidates, rank=rank, top_k=top_k, samples=samples, calibrated=calibration is not None,
            promised=promised, ranges=self.ranges,
        )  # fmt: skip

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

        Raises:
            InputError: If an argument cannot be right.
            DataError: If a file of labels or weights cannot be read.
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

        Raises:
            GeotreeclipError: As `classify`; and if `label` is none of the candidates at the rank.
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
        """`explain` for N observations that are built already; arguments, result and errors are its own."""
        check_rank(rank)
        samples = identifiers(sample_ids, batch.size)
        candidates = self._labels.ready(labels)
        taxa, groups = candidates.at_rank(rank)
        names = [taxon.name(taxon.rank) for taxon in taxa]
        places = {name.casefold(): index for index, name in enumerate(names)}
        target = None if label is None else places.get(label.strip().casefold())
        if label is not None and target is None:
            raise InputError(f"label: {label!r} is none of the {len(names)} candidates at rank {rank}")
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

        Raises:
            GeotreeclipError: As `classify` about what was given.
        """
        batch = self.build(images, environment, longitude, latitude, **options)
        return self.embed_batch(batch, normalize=normalize, batch_size=batch_size)

    def embed_batch(
        self, batch: ObservationBatch, *, normalize: bool = True, batch_size: int = 1024
    ) -> npt.NDArray[np.float32]:
        """`embed` for N observations that are built already: float32 [N, D].

        Raises:
            InputError: If batch_size cannot be right.
        """
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

        Raises:
            InputError: If the labels cannot be right.
            DataError: If a file of them cannot be read.
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
        """Observations of N places as `classify` builds them, for `classify_batch`, `embed_batch`, `explain_batch`.

        Raises:
            GeotreeclipError: As `classify` about what was given.
        """
        if self.normalisation == "batch":  # only the place within the batch counts, so no unit is out of range
            options.setdefault("implausible", "warn")
        return observe(images, environment, longitude, latitude, options, self.config.observation)

    def export(
        self,
        directory: str | Path,
        labels: Labels = None,
        prior: Prior = "training",
        *,
        calibrated: bool | None = None,
    ) -> Exported:
        """Write the model and a list of labels as one `torch.export` program, which plain torch runs.

        The program is read back and compared with the model on places of which parts are missing.

        Args:
            directory: Where `model.pt2` and `model.json`, its description, go; it must not exist, or be empty.
            labels: As in `classify`.
            prior: As in `classify`.
            calibrated: As in `classify`.

        Returns:
            Where it lies, how many labels it has, and by how much it differs from the model.

        Raises:
            InputError: If the model is not on the CPU, scales by batches, or something is at the directory.
            ConfigError: If torch cannot trace the model, or the program does not repeat its answers.
            DataError: If it cannot be written.
        """
        if self.device.type != "cpu" or self.normalisation == "batch":
            raise InputError(
                f'export wants a model on the CPU with normalisation="statistics", this one is on {self.device} with '
                f'{self.normalisation!r}; load(..., device="cpu") gives one'
            )
        return export_model(
            self._loaded, self._scorer, self._labels.ready(labels), prior, self._applied(calibrated), Path(directory)
        )

    def _applied(self, calibrated: bool | None) -> Calibration | None:
        """The calibration to use: None asks for what the model has."""
        if calibrated and self._calibration is None:
            raise InputError("calibrated=True, but this model has no calibration.json; eval/calibrate.py fits one")
        return None if calibrated is False else self._calibration
