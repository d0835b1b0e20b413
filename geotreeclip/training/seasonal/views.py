"""Views of places: single steps of distinct seasons without their date, and two halves of a year.

A step is shown without its date: all have the same one, so the season is to be seen in the pixels alone. Halves of a
year keep their dates. Which steps fall into which half is the same for all samples of a batch: if it were not, two
halves that share a step could not be of one place, which can be told without pixels.

All draws are functions of (seed, position); every process makes those of the whole batch and takes its own rows.

Shapes: B places of this process, G of the global batch, T steps, C bands, H W pixels, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import REFLECTANCE_SCALE
from geotreeclip.training.seasonal.config import DisturbConfig

__all__ = ["MIN_HALF", "Halves", "SeasonDraw", "Share", "disturb", "draw_halves", "draw_seasons", "frames", "halves"]

MIN_HALF = 3
"""Valid steps that each half of a year needs."""

_NO_DATE = (25.0, 54.0)
"""First and last day that stand for any month. (Days drawn at random tell as little, but slow learning down a lot.)
No sine or cosine of its first four harmonics is near 0, so that what reads them is trained."""


class Share(NamedTuple):
    """What this process has of the global batch.

    Attributes:
        seed: Of the run.
        position: Offset of the batch in the stream of samples.
        rows: Rows of this process.
        total: G.
    """

    seed: int
    position: int
    rows: slice
    total: int

    def numbers(self, *purpose: int) -> np.random.Generator:
        """Random numbers for a purpose."""
        return np.random.default_rng([self.seed, self.position, *purpose])

    def torch_numbers(self, device: torch.device, *purpose: int) -> torch.Generator:
        """The same on a device."""
        high, low = np.random.SeedSequence([self.seed, self.position, *purpose]).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(high) << 32 | int(low))


class SeasonDraw(NamedTuple):
    """Steps of distinct seasons.

    Attributes:
        step: int64 [B, S]; where a place has fewer seasons, its last one is repeated (0 where it has none).
        season: int64 [B, S], 0 spring to 3 winter, of the same places.
        seasons: int64 [B], how many distinct ones were found, at most S.
    """

    step: NDArray[np.int64]
    season: NDArray[np.int64]
    seasons: NDArray[np.int64]


class Halves(NamedTuple):
    """Steps of two halves of a year, [T // 2] each, and which places have enough of both, bool [B]."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    usable: NDArray[np.bool_]


def draw_seasons(weights: NDArray[np.float64], seen: NDArray[np.bool_], slots: int, share: Share) -> SeasonDraw:
    """Draw a step of each of some distinct seasons; the chance of a step is its share in the season.

    No step is drawn twice, not even for two seasons that share it.

    Args:
        weights: [B, T, 4], share of each step in each season.
        seen: [B, T], whether a step holds any value.
        slots: S.
        share: Of the global batch.
    """
    size, steps, kinds = weights.shape
    numbers = share.numbers(0x5EA)
    order = numbers.random((share.total, kinds)).argsort(axis=1)[share.rows]
    # The largest log weight + Gumbel noise is a draw by weight.
    noise = numbers.gumbel(size=(share.total, kinds, steps))[share.rows]
    rows = np.arange(size)
    free = seen.copy()
    found, step = np.zeros((2, size, kinds), np.int64)
    for place in range(kinds):
        weight = np.where(free, weights[rows, :, order[:, place]], 0.0)
        with np.errstate(divide="ignore"):
            score = np.log(weight) + noise[:, place]
        best = score.argmax(axis=1)
        found[:, place] = score[rows, best] > -np.inf
        step[:, place] = best
        free[rows, best] &= found[:, place] == 0
    front = np.argsort(1 - found, axis=1, kind="stable")  # those that were found, in the order drawn
    count = np.minimum(found.sum(axis=1), slots)
    chosen = np.minimum(np.arange(slots)[None, :], np.maximum(count - 1, 0)[:, None])
    picked = np.take_along_axis(front, chosen, axis=1)
    return SeasonDraw(np.take_along_axis(step, picked, axis=1), np.take_along_axis(order, picked, axis=1), count)


def draw_halves(weights: NDArray[np.float64], seen: NDArray[np.bool_], share: Share) -> Halves:
    """Draw which steps make which half; a half needs 3 valid steps of at least 2 seasons.

    Args:
        weights: [B, T, 4].
        seen: [B, T].
        share: Of the global batch.
    """
    steps = seen.shape[1]
    mixed = share.numbers(0x4A1F).permutation(steps)
    parts = np.sort(mixed[: steps // 2]), np.sort(mixed[steps // 2 : steps // 2 * 2])
    season = weights.argmax(axis=2)
    usable = np.ones(len(seen), bool)
    for part in parts:
        valid = seen[:, part] & (weights[:, part].sum(axis=2) > 0)
        kinds = sum((valid & (season[:, part] == number)).any(axis=1).astype(int) for number in range(weights.shape[2]))
        usable &= (valid.sum(axis=1) >= MIN_HALF) & (kinds >= 2)
    return Halves(*parts, usable)


def frames(
    batch: ObservationBatch, step: NDArray[np.int64], view: int, noisy: bool, config: DisturbConfig, share: Share
) -> ObservationBatch:
    """One step of each place, [B, 1, C, H, W], without date and environment.

    Args:
        batch: B places.
        step: [B].
        view: Number of the view, so that each is disturbed in its own way.
        noisy: Whether gain, noise and lost bands are drawn.
        config: How views are disturbed.
        share: Of the global batch.
    """
    rows = torch.arange(batch.size, device=batch.images.device)
    at = torch.from_numpy(step).to(batch.images.device)
    first, last = (torch.full((batch.size, 1), day, device=batch.images.device) for day in _NO_DATE)
    shown = _bare(batch, batch.images[rows, at].unsqueeze(1), batch.image_valid[rows, at].unsqueeze(1), first, last)
    return disturb(shown, config, view, noisy, share)


def halves(
    batch: ObservationBatch, steps: NDArray[np.int64], view: int, config: DisturbConfig, share: Share
) -> ObservationBatch:
    """Some steps of each place, with their dates and without environment; disturbed."""
    at = torch.from_numpy(steps).to(batch.images.device)
    parts = (part.index_select(1, at) for part in batch[:4])
    return disturb(_bare(batch, *parts), config, view, True, share)


def disturb(batch: ObservationBatch, config: DisturbConfig, view: int, noisy: bool, share: Share) -> ObservationBatch:
    """Turn patches, and where `noisy` also change brightness, add noise and hide bands.

    Indices such as NDVI are never stored: whoever needs one computes it from bands that share their gain.
    """
    images, valid = batch.images, batch.image_valid
    _, steps, bands, height, width = images.shape
    generator = share.torch_numbers(images.device, 0xD15, view)

    def uniform(*shape: int) -> Tensor:
        drawn = torch.rand(share.total, *shape, generator=generator, device=images.device)
        return drawn[share.rows]

    turn, gain, lost = uniform(3), uniform(1), uniform(bands)
    if config.turn:
        images, valid = (_turned(values, turn < 0.5) for values in (images, valid))
    if noisy:
        factor = 1 + config.gain * (2 * gain - 1)
        images = images * factor[..., None, None, None]
        if config.noise:
            noise = torch.randn(share.total, steps, bands, height, width, generator=generator, device=images.device)
            images = images + config.noise * REFLECTANCE_SCALE * noise[share.rows]
        keep = (lost >= config.drop_band)[:, None, :, None, None]
        left = (valid & keep).flatten(1).any(1)[:, None, None, None, None]
        valid = valid & (keep | ~left)  # something of every view stays
        images = images * valid
    return batch._replace(images=images, image_valid=valid)


def _turned(values: Tensor, chosen: Tensor) -> Tensor:
    """Mirror and transpose patches [B, T, C, H, W] where chosen [B, 3]: the eight symmetries of a square."""
    for index in range(3):
        if index == 2 and values.shape[-1] != values.shape[-2]:
            continue
        turned = values.transpose(-1, -2) if index == 2 else values.flip(-1 - index)
        values = torch.where(chosen[:, index, None, None, None, None], turned, values)
    return values


def _bare(batch: ObservationBatch, images: Tensor, valid: Tensor, first: Tensor, last: Tensor) -> ObservationBatch:
    """Images without environment or place."""
    nothing = torch.zeros_like(batch.environment)
    return ObservationBatch(images, valid, first, last, nothing, torch.zeros_like(batch.environment_valid))
