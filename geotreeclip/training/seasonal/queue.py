"""Keys of earlier batches, with where they are from, so that near places are no negatives of each other.

Shapes: H heads, K keys, D dimension of the projections, n new keys, B queries.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.sphere import EARTH_RADIUS_KM, km_to_chord, unit_vectors

__all__ = ["KeyQueue", "Origin", "fingerprints", "origins"]


class Origin(NamedTuple):
    """Where keys are from.

    Attributes:
        place: float32 [n, 3], kilometres from the centre of the Earth, NaN where unknown; good to a metre.
        patch: int64 [n], fingerprint of all pixels of the sample; 0 for none.
    """

    place: Tensor
    patch: Tensor

    def near(self, others: Origin, km: float) -> Tensor:
        """Which of others [N] lie within `km` of each [n], or show the very same pixels: bool [n, N]."""
        # Distances by matrix products would lose kilometres to rounding.
        gap = torch.cdist(self.place, others.place, compute_mode="donot_use_mm_for_euclid_dist")
        # The chord of so many kilometres; NaN, an unknown place, is near to none.
        reach = EARTH_RADIUS_KM * km_to_chord(km)
        known = (self.patch != 0)[:, None]
        return (gap < reach) | ((self.patch[:, None] == others.patch[None, :]) & known)


def origins(
    longitude: ArrayLike, latitude: ArrayLike, patches: NDArray[np.int64], device: torch.device | str = "cpu"
) -> Origin:
    """Origins of samples by degrees (NaN unknown) and fingerprints."""
    place = torch.from_numpy((EARTH_RADIUS_KM * unit_vectors(longitude, latitude)).astype(np.float32))
    return Origin(place.to(device), torch.from_numpy(patches).to(device))


def fingerprints(images: NDArray[np.uint16]) -> NDArray[np.int64]:
    """A number for each sample that is the same for the same pixels, int64 [n]."""
    digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


class KeyQueue(nn.Module):
    """The last K keys of each head; it starts with random directions from nowhere.

    Args:
        heads: H.
        size: K; 0 keeps none.
        dim: D.
        seed: Of the random directions.
    """

    keys: Tensor
    place: Tensor
    patch: Tensor
    pointer: Tensor

    def __init__(self, heads: int, size: int, dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = functional.normalize(torch.randn(heads, size, dim, generator=generator), dim=-1)
        self.register_buffer("keys", start)
        self.register_buffer("place", torch.full((size, 3), torch.nan))
        self.register_buffer("patch", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def size(self) -> int:
        """K."""
        return int(self.keys.shape[1])

    @property
    def origin(self) -> Origin:
        """Where the keys are from."""
        return Origin(self.place, self.patch)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, origin: Origin) -> None:
        """Put new keys in place of the oldest ones; call it after the backward pass, which needs the old ones.

        Args:
            keys: [H, n, D]; of more than K the last are kept.
            origin: Of the n samples.
        """
        if self.size == 0:
            return
        keys, place, patch = keys[:, -self.size :], origin.place[-self.size :], origin.patch[-self.size :]
        count = keys.shape[1]
        at = (int(self.pointer) + torch.arange(count, device=self.keys.device)) % self.size
        self.keys[:, at], self.place[at], self.patch[at] = keys.to(self.keys.dtype), place, patch
        self.pointer.fill_((int(self.pointer) + count) % self.size)
