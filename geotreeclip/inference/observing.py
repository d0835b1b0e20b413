"""Observations for a model: built from whatever was given, and checked to hold something that it reads."""

from __future__ import annotations

from typing import Any

import torch

from geotreeclip.errors import InputError
from geotreeclip.inference.phase import count_from_greenup
from geotreeclip.inputs.common import sample_number, warn
from geotreeclip.inputs.gathering import PlaceOptions, gather
from geotreeclip.models.config import INPUTS, ObservationConfig
from geotreeclip.observation_builder import build_observations
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import GROUPS

__all__ = ["observe"]


def observe(
    images: Any, environment: Any, longitude: Any, latitude: Any, options: PlaceOptions, config: ObservationConfig
) -> ObservationBatch:
    """Build observations and make sure that the model reads something of each.

    Args:
        images: As in `Classifier.classify`, and so the next three.
        environment: Environmental variables.
        longitude: Degrees east.
        latitude: Degrees north.
        options: The further arguments of `Classifier.classify`.
        config: What the model reads, and what days mean to it.

    Returns:
        N observations.

    Raises:
        InputError: If an argument cannot be right, or a place has nothing that the model reads; or if the model counts
            days from greenup and none is given.

    Warns:
        InputWarning: If something is given that the model does not read.
    """
    read = config.inputs
    given = gather(images, environment, longitude, latitude, {k: v for k, v in options.items() if k != "greenup"})
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
    blind = ~torch.stack([seen[part] for part in read]).any(dim=0)
    if bool(blind.any()):
        name = options.get("name_sample", sample_number)
        raise InputError(
            f"{name(int(blind.nonzero()[0]))} has nothing that this model reads, which is {', '.join(read)}"
        )
    ignored = [part for part in INPUTS if part not in read and bool(seen[part].any())]
    if ignored:
        warn(f"this model reads {', '.join(read)} only; {', '.join(ignored)} given but not used")
    return count_from_greenup(batch, config, options.get("greenup"), options.get("name_sample", sample_number))
