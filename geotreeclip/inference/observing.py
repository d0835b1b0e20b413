"""Observations for a model: built from whatever was given, and checked to hold something that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import sample_number, warn
from geotreeclip.inputs.gathering import PlaceOptions, gather
from geotreeclip.models.config import INPUTS
from geotreeclip.observation_builder import build_observations
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import GROUPS

__all__ = ["observe"]


def observe(
    images: Any, environment: Any, longitude: Any, latitude: Any, options: PlaceOptions, read: Sequence[str]
) -> ObservationBatch:
    """Build observations and make sure that the model reads something of each.

    Args:
        images: As in `Classifier.classify`, and so the next three.
        environment: Environmental variables.
        longitude: Degrees east.
        latitude: Degrees north.
        options: The further arguments of `Classifier.classify`.
        read: The inputs that the model reads, of `geotreeclip.models.config.INPUTS`.

    Returns:
        N observations.

    Raises:
        InputError: If an argument cannot be right, or a place has nothing that the model reads.

    Warns:
        InputWarning: If something is given that the model does not read.
    """
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
