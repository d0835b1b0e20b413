"""Where the places of training lie in the space, coarsely: centres of groups of them, never a place by itself.

They tell how high a label scores at places on the whole (`PlaceCentres.log_mean_score`), which puts labels that
training never saw on one scale with those that it saw (`geotreeclip.unseen_labels`). ``place_centres.safetensors`` of a
model directory holds them; it is optional.

Shapes: N places, K centres, D embedding, L labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geotreeclip.errors import DataError

__all__ = ["CENTRES_FILE", "LEAST_PLACES", "PlaceCentres"]

CENTRES_FILE = "place_centres.safetensors"

CENTRES = 256
"""At most so many. `log_mean_score` is a mean of exponentials, which centres underestimate: by 0.4 with 256, alike for
all labels to 0.2 (natural logarithms, demo world), which drops out as only differences between labels count."""

LEAST_PLACES = 5
"""A group of fewer places is left out, so that a centre never tells of a single one."""

_ROUNDS = 10  # of Lloyd's algorithm; the centres need not be the best, only representative
_SUM = 1e-3  # how far shares may be from a sum of 1
_LONG = 1 + 1e-3  # means of unit vectors are no longer than 1


class PlaceCentres(NamedTuple):
    """Groups of places.

    Attributes:
        centres: [K, D] float32 mean of the unit embeddings of each group.
        share: [K] float32 of all places that each group has; they sum to 1.
    """

    centres: Tensor
    share: Tensor

    @classmethod
    def fit(cls, embeddings: Tensor, seed: int = 0) -> Self | None:
        """Group places by k-means (Lloyd 1982, doi:10.1109/TIT.1982.1056489).

        Args:
            embeddings: [N, D] of unit length.
            seed: Of the first centres.

        Returns:
            Up to `CENTRES` groups, or None for fewer than `LEAST_PLACES` places.
        """
        places = embeddings.detach().float().cpu()
        if len(places) < LEAST_PLACES:
            return None
        count = min(CENTRES, max(1, len(places) // (4 * LEAST_PLACES)))
        generator = torch.Generator().manual_seed(seed)
        centres = places[torch.randperm(len(places), generator=generator)[:count]].clone()
        for _ in range(_ROUNDS):
            nearest = torch.cdist(places, centres).argmin(dim=1)
            size = torch.bincount(nearest, minlength=count)
            total = torch.zeros_like(centres).index_add_(0, nearest, places)
            centres = torch.where(size[:, None] > 0, total / size.clamp(min=1)[:, None], centres)
        kept = size >= LEAST_PLACES
        return cls(centres[kept], size[kept].float() / size[kept].sum())

    def log_mean_score(self, labels: Tensor, scale: Tensor | float) -> Tensor:
        """Log of the mean over places of exp(score), for each label.

        Args:
            labels: [L, D] of unit length.
            scale: Scores are scaled cosines.

        Returns:
            [L] on the device of the labels.
        """
        scores = scale * labels @ self.centres.to(labels.device).T
        return (scores + self.share.to(labels.device).log()).logsumexp(dim=-1)

    def write(self, directory: Path) -> Path:
        """Write the file into a model directory."""
        path = directory / CENTRES_FILE
        save_file({name: value.contiguous() for name, value in self._asdict().items()}, path)
        return path

    @classmethod
    def read(cls, directory: Path, embed_dim: int) -> Self | None:
        """Read the file of a model directory, or None where it has none.

        Raises:
            DataError: If it is damaged or of another model.
        """
        path = directory / CENTRES_FILE
        if not path.is_file():
            return None
        mend = "remove it, and labels never seen in training are compared by their text alone; training writes it anew"
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name).float() for name in cls._fields}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: damaged ({error}); {mend}") from error
        centres, share = found["centres"], found["share"]
        if centres.ndim != 2 or share.shape != centres.shape[:1] or centres.shape[1] != embed_dim or not len(share):
            raise DataError(
                f"{path}: centres {tuple(centres.shape)} and shares {tuple(share.shape)} do not fit embeddings of "
                f"{embed_dim}; {mend}"
            )
        fits = bool(centres.norm(dim=1).le(_LONG).all()) and bool(share.gt(0).all()) and abs(share.sum() - 1) <= _SUM
        if not fits:  # comparisons with NaN are false
            raise DataError(f"{path}: damaged, holds values that no centres of unit vectors can have; {mend}")
        return cls(centres, share)
