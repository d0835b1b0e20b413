"""Ask a model: which taxa stand at a place, and where do places and taxa lie in the shared space.

Shapes: N samples, L candidate labels, G labels of the rank asked for, D embedding, K answers for each sample.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.answers import RankAnswers, best_at, promised_threshold, sets_above, sum_groups
from geotreeclip.candidates import Labels, Prior, read_labels, read_prior_table
from geotreeclip.errors import ConfigError, InputError
from geotreeclip.explanation import explain
from geotreeclip.hub import copy_model, find_pretrained, upload_model
from geotreeclip.inputs.common import sample_number, warn
from geotreeclip.inputs.gathering import PlaceOptions, gather
from geotreeclip.inputs.steps import valid_months
from geotreeclip.label_cache import LabelCache
from geotreeclip.label_space import LabelList, LabelSpace
from geotreeclip.model_sources import find_model
from geotreeclip.models.calibration import FILE as CALIBRATION
from geotreeclip.models.calibration import Calibration, read_calibration
from geotreeclip.models.config import INPUTS, ModelConfig
from geotreeclip.models.directory import LoadedModel, load_model
from geotreeclip.models.published import NORMALISATIONS, PublishedObservationEncoder
from geotreeclip.observation_builder import build_observations
from geotreeclip.observations import ObservationBatch
from geotreeclip.predictions import Predictions
from geotreeclip.ranges import CLIMATE, Ranges, read_ranges
from geotreeclip.schema import GROUPS, RANKS
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Classifier", "classify", "load"]

_KEPT_MODELS = 2
_LOGITS = 20_000_000  # scores held at once: 80 MB, whatever the number of labels


class Classifier:
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
        self.device = _device(device)
        self._loaded = loaded
        self._model = loaded.model.to(self.device).eval()
        self._labels = LabelSpace(loaded, self.device, cache)
        self._normalisation = _checked_normalisation(loaded, normalisation)
        directory = loaded.directory
        self._calibration = None if directory is None else read_calibration(directory, loaded.fingerprint)
        self._ranges: Ranges | None = None
        self._ranges_read = False

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxa of training."""
        return self._loaded.taxonomy

    @property
    def config(self) -> ModelConfig:
        """Sizes and towers of the model."""
        return self._loaded.config

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return self._loaded.fingerprint

    @property
    def normalisation(self) -> str:
        """How inputs are scaled, "statistics" or "batch"."""
        return self._normalisation

    @property
    def scores_carry_prior(self) -> bool:
        """Whether the model's scores hold the prior of the training set; those of the published model do not."""
        return self._loaded.scores_carry_prior

    @property
    def calibration(self) -> Calibration | None:
        """What makes probabilities out of its scores, or None where nothing was fitted."""
        return self._calibration

    @property
    def ranges(self) -> Ranges | None:
        """Where training saw each label, or None where that is not known; read when first asked for."""
        if not self._ranges_read:
            self._ranges = None if self._loaded.directory is None else read_ranges(self._loaded.directory)
            self._ranges_read = True
        return self._ranges

    def known_in(self, west: float, south: float, east: float, north: float) -> Taxonomy:
        """The taxa that training saw in a box of degrees, as `labels=` takes them.

        Raises:
            InputError: If the model keeps no ranges, or knows nothing there.
        """
        if self.ranges is None:
            raise InputError("this model has no ranges.parquet, so it does not know which taxa grow where; give a list")
        rows = [self.taxonomy.index_of(self.ranges.taxa[row]) for row in self.ranges.known_in(west, south, east, north)]
        return self.taxonomy.take([row for row in rows if row is not None])

    def __repr__(self) -> str:
        return (
            f"Classifier({self.config.name}, {len(self.taxonomy)} taxa, "
            f"inputs {', '.join(self.config.observation.inputs)}, {self.device}, weights {self.fingerprint[:12]})"
        )

    # -- keeping and sharing -----------------------------------------------------------------------------------------

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

    def save_pretrained(self, directory: str | Path) -> Path:
        """Copy the model directory; see `geotreeclip.hub.copy_model`."""
        return copy_model(self._loaded.directory, directory)

    def push_to_hub(
        self, repository: str, *, private: bool = False, message: str = "", token: str | None = None
    ) -> str:
        """Put the model on the hub and return the commit; see `geotreeclip.hub.upload_model`."""
        return upload_model(self._loaded.directory, repository, private=private, message=message, token=token)

    # -- questions ---------------------------------------------------------------------------------------------------

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
                Sentinel-2; rasters=DIR, environmental rasters known by their names.

        Returns:
            Predictions of N places.

        Raises:
            InputError: If an argument cannot be right; the message says which, where and how to mend it.
        """
        if sample_ids is not None:
            known = list(sample_ids)
            options.setdefault("name_sample", lambda row: f"sample {known[row] if row < len(known) else row!s}")
        batch = self._build(images, environment, longitude, latitude, options)
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
        ranks = RANKS[RANKS.index(rank) :: -1]  # the one asked for, then coarser ones
        by_rank = [candidates.at_rank(name) for name in ranks]
        taxa, count = by_rank[0][0], len(by_rank[0][0]) if top_k is None else min(int(top_k), len(by_rank[0][0]))
        calibration = self._applied(calibrated)
        promised = None
        if calibration is not None and prior == "training" and candidates.labels is self.taxonomy:
            promised = promised_threshold(calibration, rank)
        parts = []
        start = 0
        for log_probability in self._score(batch, candidates, prior, batch_size, calibration):
            finest = log_probability.exp()
            summed = [sum_groups(finest, groups, len(names)) for names, groups in by_rank]
            best = torch.topk(summed[0], count, dim=1)
            part = batch.select(slice(start, start + len(finest)))
            index = best.indices.cpu().numpy()
            environment = _environment(part)
            known = None if self.ranges is None else self.ranges.plausibility(taxa, index, environment)
            cover = None if self.ranges is None else self.ranges.applicability
            parts.append(
                Predictions(
                    samples[start : start + len(finest)],
                    taxa,
                    index,
                    best.values.cpu().numpy(),
                    _months(part),
                    calibrated=calibration is not None,
                    ranks=RankAnswers(ranks, [names for names, _ in by_rank], *best_at(summed)),
                    plausibility=known,
                    dissimilarity=None if cover is None else cover.dissimilarity(environment[:, list(CLIMATE)]),
                    dissimilarity_limit=float("nan") if cover is None else cover.threshold,
                    sets=None if promised is None else sets_above(summed[0], promised),
                    set_level=None if promised is None else promised.level,
                )
            )
            start += len(finest)
        return parts[0] if len(parts) == 1 else Predictions.join(parts)

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
        scored = self._score(batch, self._labels.ready(labels), prior, batch_size, calibration)
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
        batch = self._build(images, environment, longitude, latitude, options)
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
            parts = self._score(observations, candidates, prior, batch_size, calibration)
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
        batch = self._build(images, environment, longitude, latitude, options)
        return self.embed_batch(batch, normalize=normalize, batch_size=batch_size)

    def embed_batch(
        self, batch: ObservationBatch, *, normalize: bool = True, batch_size: int = 1024
    ) -> npt.NDArray[np.float32]:
        """`embed` for observations that are built already."""
        return np.concatenate([part.cpu().numpy() for part in self._encode(batch, batch_size, normalize=normalize)])

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

    def counts_of(self, labels: Taxonomy) -> npt.NDArray[np.int64]:
        """Training samples of each label, [L]; 0 for one that is no taxon of training."""
        counts, known = self._loaded.counts, [self.taxonomy.index_of(taxon) for taxon in labels]
        return np.array([0 if row is None else int(counts[row]) for row in known], dtype=np.int64)

    def build(
        self,
        images: Any = None,
        environment: Any = None,
        longitude: Any = None,
        latitude: Any = None,
        **options: Unpack[PlaceOptions],
    ) -> ObservationBatch:
        """Observations as `classify` builds them, for `classify_batch`, `embed_batch` and `explain_batch`."""
        return self._build(images, environment, longitude, latitude, options)

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _build(
        self, images: Any, environment: Any, longitude: Any, latitude: Any, options: PlaceOptions
    ) -> ObservationBatch:
        """Build observations and make sure that the model reads something of each."""
        if self._normalisation == "batch":  # only the place within the batch counts, so no unit is out of range
            options.setdefault("implausible", "warn")
        given = gather(images, environment, longitude, latitude, options)
        batch = build_observations(
            given.images,
            environment=given.environment,
            longitude=given.longitude,
            latitude=given.latitude,
            **given.options,
        )
        seen = {"image": batch.image_valid.flatten(1).any(dim=1)}
        for group, columns in GROUPS.items():
            valid = batch.environment_valid[:, list(columns)]
            seen[group] = valid.all(dim=1) if group == "location" else valid.any(dim=1)
        read = self.config.observation.inputs
        blind = ~torch.stack([seen[part] for part in read]).any(dim=0)
        if bool(blind.any()):
            name = options.get("name_sample", sample_number)
            raise InputError(
                f"{name(int(blind.nonzero()[0]))} has nothing that this model reads, which is {', '.join(read)}"
            )
        ignored = [part for part in INPUTS if part not in read and bool(seen[part].any())]
        if ignored:
            warn(f"this model reads {', '.join(read)} only; {', '.join(ignored)} given but not used")
        return batch

    def _applied(self, calibrated: bool | None) -> Calibration | None:
        """The calibration to use: None asks for what the model has."""
        if calibrated and self._calibration is None:
            raise InputError("calibrated=True, but this model has no calibration.json; eval/calibrate.py fits one")
        return None if calibrated is False else self._calibration

    def _score(
        self,
        batch: ObservationBatch,
        candidates: LabelList,
        prior: Prior,
        batch_size: int,
        calibration: Calibration | None = None,
    ) -> Iterator[Tensor]:
        """Log-probabilities [n, L] of one slice of the batch after the other, on the model's device.

        Scores that carry the prior p of the training set get log p' - log p for another prior p', others log p'. A
        calibration is of scores that carry it.
        """
        carried = self.scores_carry_prior or calibration is not None
        shift = _prior_shift(prior, candidates, carried=carried)
        log_prior = torch.from_numpy(np.log(candidates.prior)).float().to(self.device)
        correction = None if shift is None else torch.from_numpy(shift).float().to(self.device)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        rows = max(1, min(batch_size, _LOGITS // len(candidates.labels)))
        scored = self._text_scores if self._loaded.head is None else self._head_scores
        for scores in scored(batch, candidates, batch_size, rows):
            with torch.inference_mode():
                if calibration is not None:
                    if not self.scores_carry_prior:
                        scores = scores + log_prior
                    scores = calibration.apply(scores.log_softmax(dim=-1), log_prior)
                yield (scores if correction is None else scores + correction).log_softmax(dim=-1)

    def _text_scores(
        self, batch: ObservationBatch, candidates: LabelList, batch_size: int, rows: int
    ) -> Iterator[Tensor]:
        """Scaled cosines of places and labels, [n, L] for up to `rows` places at a time."""
        for encoded in self._encode(batch, batch_size, normalize=True):
            for embedding in encoded.split(rows):
                with torch.inference_mode():
                    yield self._model.logit_scale * (embedding @ candidates.embeddings.T)

    def _head_scores(
        self, batch: ObservationBatch, candidates: LabelList, batch_size: int, rows: int
    ) -> Iterator[Tensor]:
        """Scores of an adapted model's own head, likewise."""
        head = self._loaded.head
        known = [self.taxonomy.index_of(taxon) for taxon in candidates.labels]
        if head is None or None in known:
            stranger = candidates.labels[known.index(None)].prompt()
            raise InputError(
                f"labels: {stranger!r} is none of the {len(self.taxonomy)} labels that this model was adapted to; take "
                "some of these, or the model that it was adapted from"
            )
        columns = torch.tensor(known, device=self.device)
        size = min(batch_size, rows)
        for start in range(0, batch.size, size):
            part = batch.select(slice(start, start + size)).to(self.device)
            with torch.inference_mode():
                yield head.scores(self._model, part)[:, columns]

    def _encode(self, batch: ObservationBatch, batch_size: int, *, normalize: bool) -> Iterator[Tensor]:
        encode = self._model.encode_observations if normalize else self._model.observation_encoder
        if isinstance(self._model.observation_encoder, PublishedObservationEncoder):
            self._model.observation_encoder.normalisation = self._normalisation
        for start in range(0, batch.size, batch_size):
            part = batch.select(slice(start, start + batch_size)).to(self.device)
            with torch.inference_mode():
                embedding: Tensor = encode(part)
            yield embedding.float()


def load(
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    normalisation: str = "statistics",
) -> Classifier:
    """Load a model.

    Args:
        model: Path of a model directory; path of the published checkpoint, "GGT_6M.pth"; "hf-hub:owner/name" (with
            "@revision" to pin one); "demo" for the model that `make demo` trains; None for `$GEOTREECLIP_MODEL`, else
            the default model.
        device: "cpu" or "cuda"; by default a GPU if there is one.
        normalisation: "statistics" scales inputs by numbers stored with the model. "batch" is for the published model
            alone: it scales by the extremes of each batch, which repeats the published scores and makes every answer
            depend on the other places of the call.

    Returns:
        The model, ready for questions.

    Raises:
        InputError: If there is no such model, no such device, or the model cannot be normalised in this way.
        DataError: If its files are damaged or absent.

    Warns:
        InputWarning: With normalisation="batch".
    """
    return Classifier(load_model(find_model(model)), device, normalisation=normalisation)


_loaded: OrderedDict[Hashable, Classifier] = OrderedDict()


def classify(
    images: Any = None,
    environment: Any = None,
    longitude: Any = None,
    latitude: Any = None,
    labels: Labels = None,
    rank: str = "species",
    top_k: int | None = 5,
    prior: Prior = "training",
    *,
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    calibrated: bool | None = None,
    sample_ids: Sequence[object] | None = None,
    batch_size: int = 1024,
    **options: Unpack[PlaceOptions],
) -> Predictions:
    """Name the likeliest taxa of each place, in one call.

    The model is loaded at the first call and kept for the next ones.

    Args:
        images: As in `Classifier.classify`, and so all arguments but the next two.
        environment: Environmental variables.
        longitude: Degrees east.
        latitude: Degrees north.
        labels: Candidates.
        rank: Rank of the answers.
        top_k: Answers for each place.
        prior: How common the candidates are.
        model: As in `load`.
        device: As in `load`.
        calibrated: Whether to apply the model's calibration; by default where it has one.
        sample_ids: Identifiers of the places.
        batch_size: Places encoded at a time.
        **options: Further arguments of `Classifier.classify`: source, year, rasters, bands, months, days, scale, ...

    Returns:
        Predictions of N places.
    """
    directory = find_model(model)
    weights = directory if directory.is_file() else directory / "model.safetensors"
    # A model that was trained or calibrated anew at the same path is another one.
    changed = [path.stat().st_mtime_ns if path.is_file() else 0 for path in (weights, directory / CALIBRATION)]
    key = (directory.resolve(), *changed, str(_device(device)))
    if key not in _loaded:
        _loaded[key] = Classifier(load_model(directory), device)
        if len(_loaded) > _KEPT_MODELS:
            _loaded.popitem(last=False)
    _loaded.move_to_end(key)
    return _loaded[key].classify(
        images,
        environment,
        longitude,
        latitude,
        labels,
        rank,
        top_k,
        prior,
        calibrated=calibrated,
        sample_ids=sample_ids,
        batch_size=batch_size,
        **options,
    )


def _rank(rank: str) -> str:
    if rank not in RANKS:
        raise InputError(f"rank must be one of {', '.join(reversed(RANKS))}, got {rank!r}")
    return rank


def _samples(sample_ids: Sequence[object] | None, count: int) -> Sequence[object]:
    samples: Sequence[object] = range(count) if sample_ids is None else list(sample_ids)
    if len(samples) != count:
        raise InputError(f"sample_ids has {len(samples)} identifiers for {count} places")
    return samples


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch finds no GPU; use device=cpu")
    return chosen


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


def _environment(batch: ObservationBatch) -> npt.NDArray[np.float32]:
    """Environment [N, 27] with NaN where missing."""
    values = torch.where(batch.environment_valid, batch.environment, torch.nan)
    return np.asarray(values.cpu().numpy(), dtype=np.float32)


def _months(batch: ObservationBatch) -> npt.NDArray[np.int64]:
    seen = batch.image_valid.flatten(2).any(dim=-1)
    return valid_months(batch.first_day.cpu().numpy(), batch.last_day.cpu().numpy(), seen.cpu().numpy())
