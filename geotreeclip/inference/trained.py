"""A trained model in memory: what it is, what it knows of its training set, how it is kept and shared.

Shapes: L labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from geotreeclip.errors import InputError
from geotreeclip.hub import copy_model, find_pretrained, upload_model
from geotreeclip.inference.devices import choose_device
from geotreeclip.models.calibration import Calibration, read_calibration
from geotreeclip.models.config import ModelConfig
from geotreeclip.models.directory import LoadedModel, load_model
from geotreeclip.ranges import Ranges, read_ranges
from geotreeclip.taxonomy import Taxonomy

__all__ = ["TrainedModel"]


class TrainedModel:
    """A model on a device, with what was stored beside its weights.

    Args:
        loaded: A model directory in memory.
        device: Where to compute, "cpu" or "cuda"; by default a GPU if there is one.

    Raises:
        InputError: If there is no such device.
        ConfigError: If it is a GPU and there is none.
        DataError: If calibration.json cannot be read.
    """

    def __init__(self, loaded: LoadedModel, device: str | torch.device | None = None) -> None:
        self.device = choose_device(device)
        loaded.model.to(self.device).eval()
        self._loaded = loaded
        directory = loaded.directory
        self._calibration = None if directory is None else read_calibration(directory, loaded.fingerprint)
        self._ranges: Ranges | None = None
        self._ranges_read = False

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        fingerprint: str | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Load a model of the hub, or of a path.

        Args:
            name: As `model` in `geotreeclip.load`.
            revision: Commit, tag or branch of the hub.
            fingerprint: SHA-256 that the weights must have, or its first 12 digits or more.
            device: "cpu" or "cuda"; by default a GPU if there is one.

        Raises:
            InputError: If there is no such model or device.
            DataError: If its files are damaged or absent, or its weights have another fingerprint.
        """
        return cls(load_model(find_pretrained(name, revision, fingerprint)), device)

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
    def scores_carry_prior(self) -> bool:
        """Whether the model's scores hold the prior of the training set; those of the published model do not."""
        return self._loaded.scores_carry_prior

    @property
    def calibration(self) -> Calibration | None:
        """What makes probabilities out of its scores, or None where nothing was fitted."""
        return self._calibration

    @property
    def ranges(self) -> Ranges | None:
        """Where training saw each label, or None where that is not known; read when first asked for.

        Raises:
            DataError: If ranges.parquet is damaged, or of another version.
        """
        if not self._ranges_read:
            self._ranges = None if self._loaded.directory is None else read_ranges(self._loaded.directory)
            self._ranges_read = True
        return self._ranges

    def known_in(self, west: float, south: float, east: float, north: float) -> Taxonomy:
        """The taxa that training saw in a box, as `labels=` takes them.

        Args:
            west: Degrees east, -180 to 180; a box from 170 to -170 crosses the antimeridian.
            south: Degrees north, -90 to 90.
            east: As west.
            north: As south.

        Raises:
            InputError: If the model keeps no ranges, the corners are no box, or it knows nothing there.
        """
        if self.ranges is None:
            raise InputError("this model has no ranges.parquet, so it does not know which taxa grow where; give a list")
        rows = [self.taxonomy.index_of(self.ranges.taxa[row]) for row in self.ranges.known_in(west, south, east, north)]
        return self.taxonomy.take([row for row in rows if row is not None])

    def counts_of(self, labels: Taxonomy) -> npt.NDArray[np.int64]:
        """Training samples of each label, [L]; 0 for one that is no taxon of training."""
        counts, known = self._loaded.counts, [self.taxonomy.index_of(taxon) for taxon in labels]
        return np.array([0 if row is None else int(counts[row]) for row in known], dtype=np.int64)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.config.name}, {len(self.taxonomy)} taxa, "
            f"inputs {', '.join(self.config.observation.inputs)}, {self.device}, weights {self.fingerprint[:12]})"
        )

    def save_pretrained(self, directory: str | Path) -> Path:
        """Copy the model directory, whole or not at all; see `geotreeclip.hub.copy_model`.

        Raises:
            InputError: If something is there already, or the model has no directory of its own.
            DataError: If it cannot be written.
        """
        return copy_model(self._loaded.directory, directory)

    def push_to_hub(
        self, repository: str, *, private: bool = False, message: str = "", token: str | None = None
    ) -> str:
        """Put the model on the hub and return the commit; see `geotreeclip.hub.upload_model`.

        Raises:
            InputError: If the name is none, there is no card, or the hub refuses.
        """
        return upload_model(self._loaded.directory, repository, private=private, message=message, token=token)
