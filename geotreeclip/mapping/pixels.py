"""Every pixel asked as a place: its 5 x 5 patch, environment and position -> probabilities of the labels of a rank.

Shapes: N pixels, T months and C bands of the stack, H W pixels of a block, L candidates, G labels of the rank asked
for, V variables (27).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from geotreeclip.candidates import label_priors, read_labels
from geotreeclip.errors import ConfigError
from geotreeclip.inference import Classifier
from geotreeclip.inputs.common import listed
from geotreeclip.label_space import LabelList
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, GROUPS, MONTH_DAYS, MONTHS, PATCH, VARIABLES
from geotreeclip.taxonomy import Taxon

__all__ = ["MARGIN", "PixelClassifier"]

MARGIN = PATCH // 2
"""Pixels beyond a block that the patches of its edge reach."""

Floats = NDArray[np.float32]


class PixelClassifier:
    """Classifies the pixels of a block as `Classifier.classify` does single places.

    Args:
        classifier: The model.
        months: T calendar months of the stack.
        bands: C bands of the stack.
        labels: Candidates, as in `Classifier.classify`.
        rank: Rank of the answers.
        prior: How common the candidates are.

    Raises:
        InputError: If labels or prior cannot be right.
    """

    def __init__(
        self,
        classifier: Classifier,
        months: tuple[int, ...],
        bands: tuple[str, ...],
        labels: str | None = None,
        rank: str = "species",
        prior: str = "training",
    ) -> None:
        self.classifier = classifier
        self._slots = (np.array(months) - 1)[:, None], np.array([BANDS.index(band) for band in bands])[None, :]
        self._labels = read_labels(labels, classifier.taxonomy)
        self._prior = prior
        nothing = torch.empty(0)  # the text embeddings, which no grouping needs
        priors = label_priors(self._labels, self._labels, np.zeros(len(self._labels), dtype=np.int64))
        self.taxa: list[Taxon]
        self.taxa, self._groups = LabelList(self._labels, nothing, priors).at_rank(rank)

    def check_inputs(self, *, rasters: bool) -> None:
        """Refuse a stack of which the model reads nothing, or whose months mean nothing to it.

        Args:
            rasters: Whether environmental rasters are there.

        Raises:
            ConfigError: If so.
        """
        read = self.classifier.config.observation.inputs
        given = {"image", "location", *(["terrain", "soil", "climate"] if rasters else [])}
        if not given & set(read):
            raise ConfigError(f"this model reads {listed(read)} only; give --rasters")
        if "image" in read and self.classifier.config.observation.season == "phase":
            raise ConfigError(
                "this model counts days from the greenup of each place (model.observation.season: phase), which a "
                "stack of months does not tell; map with a model of the calendar or the hemisphere"
            )

    def probabilities(
        self, values: Floats, valid: NDArray[np.bool_], environment: Floats, wanted: NDArray[np.bool_], stride: int = 1
    ) -> Floats:
        """Probability of each label at the pixels wanted.

        Args:
            values: [T, C, h, w] digital numbers, of all pixels that the patches touch: for H x W pixels `stride` apart,
                h = (H - 1) stride + 5, and so w.
            valid: Same shape.
            environment: [N, V] of the pixels wanted, NaN where missing.
            wanted: [H, W].
            stride: Pixels from one to the next.

        Returns:
            [N, G], pixels in the order of rows.
        """
        batch = self._batch(values, valid, environment, wanted, stride)
        calibrated = self.classifier.calibration is not None
        scores = self.classifier.log_probabilities(
            batch, self._labels, self._prior, batch_size=max(1, batch.size), calibrated=calibrated
        )
        probability = torch.from_numpy(scores).exp()
        if self._groups is not None:
            summed = probability.new_zeros(len(probability), len(self.taxa))
            probability = summed.index_add_(1, self._groups, probability)
        return probability.numpy()

    def _batch(
        self, values: Floats, valid: NDArray[np.bool_], environment: Floats, wanted: NDArray[np.bool_], stride: int
    ) -> ObservationBatch:
        count = len(environment)
        shape = (count, MONTHS, len(BANDS), PATCH, PATCH)
        images, images_valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for source, target in ((values, images), (valid, images_valid)):
            windows = np.lib.stride_tricks.sliding_window_view(source, (PATCH, PATCH), axis=(2, 3))
            patches = windows[:, :, ::stride, ::stride][:, :, wanted]  # [T, C, N, 5, 5]; the only copy
            target[(slice(None), *self._slots)] = np.moveaxis(patches, 2, 0)
        known = np.isfinite(environment)
        location = list(GROUPS["location"])
        if environment.shape != (count, len(VARIABLES)) or not known[:, location].all():
            raise ValueError("every pixel needs its place")
        days = torch.from_numpy(MONTH_DAYS).expand(count, MONTHS, 2)
        return ObservationBatch(
            torch.from_numpy(images),
            torch.from_numpy(images_valid),
            days[..., 0],
            days[..., 1],
            torch.from_numpy(np.where(known, environment, np.float32(0))),
            torch.from_numpy(known),
        )
