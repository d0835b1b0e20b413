"""Augmentation of whole batches, as a function of (seed, position) and nothing else.

Every process draws the numbers of the whole global batch and takes those of its own rows: the draws of a sample do not
depend on the number of processes.

Shapes: B places of this process, T steps, C bands, H W pixels, V variables.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import GROUPS, VARIABLE_INDEX
from geotreeclip.training.config import AugmentConfig

__all__ = ["augment"]

_KM_PER_DEGREE = 111.195
"""Great-circle kilometres of one degree on a sphere of radius 6,371.0 km."""


def augment(
    batch: ObservationBatch,
    config: AugmentConfig,
    variable_deviation: Tensor,
    seed: int,
    position: int,
    rows: slice,
    global_size: int,
) -> ObservationBatch:
    """Hide and disturb parts of a batch.

    Something of every sample stays: where all would be hidden, the sample is left whole.

    Args:
        batch: The rows of this process.
        config: What to do, and how often.
        variable_deviation: [V] deviation of the variables, the unit of `config.variable_noise`.
        seed: Seed of the run.
        position: Offset of the batch in the stream of samples.
        rows: Which rows of the global batch these are.
        global_size: Samples of the global batch.

    Returns:
        A new batch.
    """
    entropy = np.random.SeedSequence([seed, position, 0xA6]).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(entropy[0]) << 32 | int(entropy[1]))
    device = batch.environment.device
    steps, bands = batch.images.shape[1:3]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(global_size, *shape, generator=generator)[rows].to(device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(global_size, *shape, generator=generator)[rows].to(device)

    # All draws happen whatever the configuration, so that changing one probability leaves the other draws alone.
    lose_image, only_image, share = uniform(1), uniform(1), uniform(1)
    lose_group, lose_step = uniform(len(GROUPS)), uniform(steps)
    turn, gain, band = uniform(3), normal(1), normal(steps, bands)
    variable, shift = normal(len(VARIABLE_INDEX)), normal(2)

    images, image_valid = batch.images, batch.image_valid
    environment, environment_valid = batch.environment, batch.environment_valid

    if steps:
        keep_step = (lose_step >= 2 * config.drop_step * share) & (lose_image >= config.drop_image)  # [B, T]
        image_valid = image_valid & keep_step[:, :, None, None, None]
        factor = torch.exp(config.gain * gain[:, None] + 0.0)  # [B, 1, 1]
        factor = factor * torch.exp(config.band_noise * band)  # [B, T, C]
        images = images * factor[..., None, None] * image_valid
        if config.pixel_flip:
            images, image_valid = _turn(images, turn), _turn(image_valid, turn)

    if config.variable_noise:
        noise = config.variable_noise * variable * variable_deviation
        noise[:, list(GROUPS["location"])] = 0
        noise[:, VARIABLE_INDEX["aspect"]] = 0
        environment = environment + noise * environment_valid
    if config.location_noise_km:
        environment = _move(environment, environment_valid, shift * config.location_noise_km)
    has_image = image_valid.flatten(1).any(1, keepdim=True)  # False for T = 0
    alone = (only_image < config.keep_one_image) & has_image
    hidden = torch.zeros_like(environment_valid)
    for index, columns in enumerate(GROUPS.values()):
        hidden[:, list(columns)] = (lose_group[:, index : index + 1] < config.drop_groups) | alone
    nothing_left = ~(environment_valid & ~hidden).any(1, keepdim=True) & ~has_image
    environment_valid = environment_valid & (~hidden | nothing_left)
    environment = environment * environment_valid
    return ObservationBatch(images, image_valid, batch.first_day, batch.last_day, environment, environment_valid)


def _turn(values: Tensor, draw: Tensor) -> Tensor:
    """Mirror and transpose patches [B, T, C, H, W] by three draws a sample [B, 3]: the eight symmetries of a square."""
    options = (
        lambda patch: patch.flip(-1),
        lambda patch: patch.flip(-2),
        lambda patch: patch.transpose(-1, -2),
    )
    for index, option in enumerate(options):
        if index == 2 and values.shape[-1] != values.shape[-2]:
            continue
        chosen = (draw[:, index] < 0.5)[:, None, None, None, None]
        values = torch.where(chosen, option(values), values)
    return values


def _move(environment: Tensor, valid: Tensor, shift_km: Tensor) -> Tensor:
    """Move places by [B, 2] kilometres east and north, staying on the sphere's map."""
    longitude, latitude = (VARIABLE_INDEX[name] for name in ("longitude", "latitude"))
    moved = environment.clone()
    north = (environment[:, latitude] + shift_km[:, 1] / _KM_PER_DEGREE).clamp(-90, 90)
    # Near the poles a kilometre east is many degrees; the cosine is kept off zero.
    stretch = torch.deg2rad(environment[:, latitude]).cos().clamp(min=0.01)
    east = environment[:, longitude] + shift_km[:, 0] / (_KM_PER_DEGREE * stretch)
    moved[:, longitude] = (east + 180).remainder(360) - 180
    moved[:, latitude] = north
    return torch.where(valid, moved, environment)
