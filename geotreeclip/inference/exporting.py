"""A model as one `torch.export` program: places in, embeddings and log-probabilities of labels out, run by plain torch.

Shapes: B places, T steps, C bands, H W pixels, V variables, F features, L labels, D embedding.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.models.features import read_features
from geotreeclip.models.published import PublishedObservationEncoder
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, MONTH_DAYS, MONTHS, PATCH, RANKS, VARIABLES
from geotreeclip.unseen_labels import UnseenLabels

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from geotreeclip.candidates import Prior
    from geotreeclip.inference.scoring import Scorer
    from geotreeclip.label_space import LabelList
    from geotreeclip.models.calibration import Calibration
    from geotreeclip.models.clip import GeoTreeCLIP
    from geotreeclip.models.directory import LoadedModel

__all__ = ["DESCRIPTION", "PROGRAM", "Exported", "PlaceInputs", "example_inputs", "export_model"]

PROGRAM = "model.pt2"
DESCRIPTION = "model.json"
_FORMAT = "geotreeclip-export"
_VERSION = 1
_TOLERANCE = 1e-4
_PLACES = 3  # of the example that is traced: neither 0 nor 1, which torch.export takes for constants
_STEPS = 5


class Exported(NamedTuple):
    """What was written.

    Attributes:
        directory: Where the two files lie.
        labels: L.
        difference: Largest difference of the program to the model, over embeddings and log-probabilities.
    """

    directory: Path
    labels: int
    difference: float


class PlaceInputs(NamedTuple):
    """What the program reads; NaN stands for whatever is missing.

    Attributes:
        images: [B, T, C, H, W] float32 digital numbers, offset removed.
        days: [B, T, 2] float32 first and last day of each step, see `ObservationBatch`.
        environment: [B, V] float32 in the units of `geotreeclip.schema.VARIABLES`.
    """

    images: Tensor
    days: Tensor
    environment: Tensor

    @classmethod
    def of(cls, batch: ObservationBatch) -> PlaceInputs:
        """The same observations with NaN instead of masks."""
        return cls(
            torch.where(batch.image_valid, batch.images, torch.nan),
            torch.stack([batch.first_day, batch.last_day], dim=-1),
            torch.where(batch.environment_valid, batch.environment, torch.nan),
        )

    def batch(self) -> ObservationBatch:
        """The masked batch that models read."""
        seen, known = self.images.isfinite(), self.environment.isfinite()
        return ObservationBatch(
            torch.where(seen, self.images, 0.0),
            seen,
            self.days[..., 0],
            self.days[..., 1],
            torch.where(known, self.environment, 0.0),
            known,
        )


class _Places(nn.Module):
    """The side of a model that reads places, without the weights of its text tower."""

    def __init__(self, model: GeoTreeCLIP) -> None:
        super().__init__()
        self.config = model.config
        # A copy, as weights that want no gradient give answers that numpy takes
        self.observation_encoder = copy.deepcopy(model.observation_encoder).requires_grad_(False)

    def encode_observations(self, batch: ObservationBatch) -> Tensor:
        """[B, D] of unit length."""
        return functional.normalize(self.observation_encoder(batch).float(), dim=-1)


class PlaceScorer(nn.Module):
    """Inputs to embeddings and log-probabilities of fixed labels; what `torch.export` traces.

    Args:
        loaded: The model.
        columns: Rows of the model's taxonomy that the labels are; read by adapted models alone.
        embeddings: [L, D] of the labels, of unit length; read by all others.
        factor: Log-probabilities are the log-softmax of `factor * scores + offset`.
        offset: [L].
        unseen: What scores of labels that training never saw go through, if there are any.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        columns: list[int],
        embeddings: Tensor,
        factor: float,
        offset: Tensor,
        unseen: UnseenLabels | None = None,
    ) -> None:
        super().__init__()
        self.unseen = unseen
        self.places = _Places(loaded.model)
        self.head = loaded.head
        self.factor = factor
        self.register_buffer("offset", offset)
        if self.head is None:
            self.register_buffer("labels", (loaded.model.logit_scale.detach() * embeddings).contiguous())
        else:
            self.register_buffer("labels", torch.from_numpy(self.head.head.weight[columns]))
            self.register_buffer("bias", torch.from_numpy(self.head.head.bias[columns]))
            self.register_buffer("fill", torch.from_numpy(self.head.head.fill))
            self.register_buffer("slots", self.head.slots)

    def forward(self, images: Tensor, days: Tensor, environment: Tensor) -> tuple[Tensor, Tensor]:
        """Score places.

        Returns:
            Embeddings [B, D] of unit length, and log-probabilities [B, L].
        """
        batch = PlaceInputs(images, days, environment).batch()
        embedding = self.places.encode_observations(batch)
        scores = embedding @ self._buffer("labels").T if self.head is None else self._head_scores(batch)
        if self.unseen is not None:
            scores = self.unseen(embedding, scores)
        return embedding, (scores * self.factor + self._buffer("offset")).log_softmax(dim=-1)

    def _head_scores(self, batch: ObservationBatch) -> Tensor:
        features = self.head.features if self.head is not None else ()
        values = read_features(cast("GeoTreeCLIP", self.places), batch, features, self._buffer("slots")).double()
        filled = torch.where(values.isnan(), self._buffer("fill"), values)
        return (filled @ self._buffer("labels").T + self._buffer("bias")).float()

    def _buffer(self, name: str) -> Tensor:
        return cast("Tensor", getattr(self, name))


def example_inputs(places: int, steps: int, seed: int = 0) -> PlaceInputs:
    """Forest-like inputs of which a fifth is missing, whole steps and variables too.

    Args:
        places: B.
        steps: T; twelve are the calendar months.
        seed: Of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    images = 200 + 3800 * torch.rand(places, steps, len(BANDS), PATCH, PATCH, generator=generator)
    images[torch.rand(images.shape, generator=generator) < 0.1] = torch.nan
    images[torch.rand(places, steps, generator=generator) < 0.2] = torch.nan
    if steps == MONTHS:
        days = torch.from_numpy(MONTH_DAYS).expand(places, steps, 2).clone()
    else:
        first = (1 + 330 * torch.rand(places, steps, generator=generator)).floor()
        days = torch.stack([first, first + 9], dim=-1)
    low, high = (torch.tensor([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    environment = low + (high - low) * (0.3 + 0.4 * torch.rand(places, len(VARIABLES), generator=generator))
    environment[torch.rand(environment.shape, generator=generator) < 0.2] = torch.nan
    return PlaceInputs(images, days, environment)


def export_model(
    loaded: LoadedModel,
    scorer: Scorer,
    candidates: LabelList,
    prior: Prior,
    calibration: Calibration | None,
    directory: Path,
) -> Exported:
    """Trace a model with a list of labels, compare the program with it, and write both program and description.

    Args:
        loaded: The model, on the CPU.
        scorer: Of the model.
        candidates: L labels.
        prior: As in `Scorer.log_probabilities`, and so the calibration.
        calibration: What is applied, if anything.
        directory: Where to; see `Classifier.export`.

    Raises:
        GeotreeclipError: See `Classifier.export`.
    """
    check_free(directory)
    terms = scorer.terms(candidates, prior, calibration)
    columns = scorer.columns(candidates)
    program = export_program(PlaceScorer(loaded, columns, candidates.embeddings, *terms, candidates.unseen))

    def answers(inputs: PlaceInputs) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        batch = inputs.batch()
        embedded = list(scorer.embeddings(batch, batch.size, normalize=True))
        scored = list(scorer.log_probabilities(batch, candidates, prior, batch.size, calibration))
        return torch.cat(embedded).numpy(), torch.cat(scored).numpy()

    difference = largest_difference(program, answers)
    about = describe(loaded, candidates, prior=prior, calibrated=calibration is not None, difference=difference)
    return Exported(write(directory, program, about), len(candidates.labels), difference)


def export_program(scorer: PlaceScorer) -> ExportedProgram:
    """Trace a scorer for any number of places, and any number of steps from 1 on.

    The published architecture reads twelve steps, no other number.

    Raises:
        ConfigError: If the model holds something that `torch.export` cannot trace.
    """
    from torch.export import Dim, export

    fixed = isinstance(scorer.places.observation_encoder, PublishedObservationEncoder)
    inputs = example_inputs(_PLACES, MONTHS if fixed else _STEPS)
    places = Dim("places")
    series = {0: places} if fixed else {0: places, 1: Dim("steps")}
    shapes = {"images": series, "days": series, "environment": {0: places}}
    try:
        with torch.no_grad():
            return export(scorer.eval(), tuple(inputs), dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:
        raise ConfigError(f"torch.export {torch.__version__} cannot trace this model: {error}") from error


def largest_difference(
    program: ExportedProgram, answers: Callable[[PlaceInputs], tuple[npt.NDArray[Any], npt.NDArray[Any]]]
) -> float:
    """Compare a program with its model for one place and for several.

    Args:
        program: As `export_program` gives it.
        answers: Embeddings [B, D] and log-probabilities [B, L] of the model.

    Raises:
        ConfigError: If they differ by more than rounding.
    """
    run = program.module()
    largest = 0.0
    for places in (1, 7):
        inputs = example_inputs(places, MONTHS, seed=places)
        with torch.no_grad():
            found = run(*inputs)
        for ours, theirs in zip(found, answers(inputs), strict=True):
            same = ours.numpy() == theirs  # both may be -inf, where a prior excludes a label
            difference = np.abs(np.where(same, 0.0, ours.numpy() - np.where(same, 0.0, theirs)))
            largest = max(largest, float(difference.max()))
    if not largest <= _TOLERANCE:
        raise ConfigError(f"torch.export {torch.__version__}: the program differs from the model by {largest:.1e}")
    return largest


def describe(
    loaded: LoadedModel, candidates: LabelList, *, prior: Prior, calibrated: bool, difference: float
) -> dict[str, Any]:
    """What `model.json` says: everything that is needed to use the program without this package.

    Args:
        loaded: The model.
        candidates: The L labels, in the order of the program's output.
        prior: The prior that the log-probabilities are under.
        calibrated: Whether they are calibrated.
        difference: Largest difference of the program to the model, as measured.
    """
    from geotreeclip import __version__

    fixed = isinstance(loaded.model.observation_encoder, PublishedObservationEncoder)
    steps: int | str = MONTHS if fixed else "steps"
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "made_by": {"geotreeclip": __version__, "torch": str(torch.__version__)},
        "model": {"name": loaded.config.name, "weights_sha256": loaded.fingerprint},
        "program": PROGRAM,
        "reads": list(loaded.config.observation.inputs),
        "inputs": [
            {
                "name": "images", "dtype": "float32", "shape": ["places", steps, len(BANDS), PATCH, PATCH],
                "unit": "digital numbers of surface reflectance (reflectance x 10,000, offset removed)",
                "bands": list(BANDS), "pixel_size_m": 10, "missing": "NaN; a step without data is NaN throughout",
            },
            {
                "name": "days", "dtype": "float32", "shape": ["places", steps, 2],
                "unit": "first and last day of each step, day of a 365-day year from 1, inclusive",
                "calendar_months": MONTH_DAYS.astype(int).tolist(),
            },
            {
                "name": "environment", "dtype": "float32", "shape": ["places", len(VARIABLES)],
                "variables": [{"name": item.name, "unit": item.unit} for item in VARIABLES], "missing": "NaN",
            },
        ],
        "outputs": [
            {"name": "embedding", "shape": ["places", loaded.config.embed_dim], "unit": "unit length"},
            {
                "name": "log_probability", "shape": ["places", len(candidates.labels)],
                "prior": prior if isinstance(prior, str) else "given as a table", "calibrated": calibrated,
                "order": "labels",
            },
        ],
        "largest_difference": difference,
        "labels": [dict(zip(RANKS, taxon, strict=True)) for taxon in candidates.labels],
        "log_prior_of_training": np.log(candidates.prior).round(6).tolist(),
    }  # fmt: skip


def write(directory: Path, program: ExportedProgram, description: Mapping[str, Any]) -> Path:
    """Write program and description, both or neither; the description also travels inside the program.

    Raises:
        DataError: If it cannot be written.
    """
    aside = directory.with_name(f".{directory.name}.partial")
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        torch.export.save(program, aside / PROGRAM, extra_files={DESCRIPTION: text})
        (aside / DESCRIPTION).write_text(text, encoding="utf-8")
        if directory.is_dir():
            directory.rmdir()
        aside.rename(directory)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise DataError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return directory


def check_free(directory: Path) -> None:
    """Make sure that nothing is overwritten.

    Raises:
        InputError: If something is at the directory.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists already; name a new directory, or delete it first")
