"""What a linear head may read of a place: a model's frozen embedding, and plain summaries of the observation itself.

A few labelled places are seldom enough to say which of them is better; heads are fitted to several and weighed on the
support (`geotreeclip.evaluation.few_shot`).

Shapes: B batch, T time steps, C bands, H W pixels, S slots (periods of the year), V variables, D embedding, E width,
F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geotreeclip.errors import ConfigError
from geotreeclip.schema import BANDS, GROUPS, MONTH_DAYS, MONTHS, VARIABLE_INDEX, VARIABLES

if TYPE_CHECKING:
    from geotreeclip.models.clip import GeoTreeCLIP
    from geotreeclip.observations import ObservationBatch

__all__ = ["FEATURES", "common_slots", "feature_widths", "read_features"]

FEATURES: tuple[str, ...] = ("embedding", "tokens", "levels", "inputs", "environment")
"""`embedding`: of unit length. `tokens`: mean of the month tokens before the transformer. `levels`: mean and deviation
over the year of each band's log reflectance. `inputs`: log reflectance of each band in each slot. `environment`: the
variables but for the place, aspect as sine and cosine."""

_YEAR = 365.0
_VARIABLES = [i for i, variable in enumerate(VARIABLES) if i not in (*GROUPS["location"], VARIABLE_INDEX["aspect"])]


def common_slots(batch: ObservationBatch) -> Tensor:
    """First and last day of the periods that `inputs` are told by, [S, 2].

    The steps themselves where all places share them, else the calendar months.
    """
    days = torch.stack([batch.first_day, batch.last_day], dim=-1)
    shared = 0 < days.shape[1] <= 2 * MONTHS and bool((days == days[:1]).all())
    return days[0].clone() if shared else torch.from_numpy(MONTH_DAYS.copy())


def feature_widths(names: Sequence[str], model: GeoTreeCLIP, slots: int) -> dict[str, int]:
    """Number of features of each name, in order.

    Raises:
        ConfigError: If a name is unknown, or the model has nothing of the kind.
    """
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise ConfigError(f"features {', '.join(unknown) or '(none)'}: choose from {', '.join(FEATURES)}")
    if "tokens" in names and not has_tokens(model):
        raise ConfigError("features tokens: this model has no month tokens; leave them out")
    width = {
        "embedding": model.config.embed_dim,
        "tokens": model.config.observation.width,
        "levels": 2 * len(BANDS),
        "inputs": slots * len(BANDS),
        "environment": len(_VARIABLES) + 2,
    }
    return {name: width[name] for name in names}


def has_tokens(model: GeoTreeCLIP) -> bool:
    """Whether the model makes a token of each time step."""
    return "image" in getattr(model.observation_encoder, "readers", {})


def read_features(model: GeoTreeCLIP, batch: ObservationBatch, names: Sequence[str], slots: Tensor) -> Tensor:
    """Features of places, one name after the other.

    Args:
        model: In evaluation mode, on the batch's device.
        batch: B places.
        names: Of `FEATURES`.
        slots: [S, 2], see `common_slots`.

    Returns:
        float32 [B, F]; NaN where missing. A place's features never depend on the other places.
    """
    feature_widths(names, model, len(slots))
    mean_log, seen = _mean_log(batch)
    parts = []
    for name in names:
        if name == "embedding":
            parts.append(model.encode_observations(batch))
        elif name == "tokens":
            parts.append(_tokens(model, batch))
        elif name == "levels":
            parts.append(_levels(mean_log, seen))
        elif name == "inputs":
            parts.append(_in_slots(batch, mean_log, seen, slots.to(mean_log.device)))
        else:
            parts.append(_environment(batch))
    return torch.cat([part.float() for part in parts], dim=1)


def _mean_log(batch: ObservationBatch) -> tuple[Tensor, Tensor]:
    """Mean over valid pixels of the logarithm of digital numbers, [B, T, C], and where there is any."""
    valid = batch.image_valid.flatten(3)
    count = valid.sum(-1)
    logarithm = torch.where(valid, batch.images.flatten(3).clamp(min=1.0).log(), 0.0)
    return logarithm.sum(-1) / count.clamp(min=1), count > 0


def _levels(mean_log: Tensor, seen: Tensor) -> Tensor:
    """Mean and deviation over the steps, [B, 2 C]; a deviation takes two steps."""
    count = seen.sum(1)
    mean = torch.where(seen, mean_log, 0.0).sum(1) / count.clamp(min=1)
    squares = torch.where(seen, (mean_log - mean.unsqueeze(1)).square(), 0.0).sum(1)
    deviation = (squares / count.clamp(min=1)).sqrt()
    return torch.cat([mean.masked_fill(count < 1, torch.nan), deviation.masked_fill(count < 2, torch.nan)], dim=1)


def _in_slots(batch: ObservationBatch, mean_log: Tensor, seen: Tensor, slots: Tensor) -> Tensor:
    """Mean of the steps in each slot, weighted by the days they share, [B, S C]."""
    start, end = batch.first_day - 1, batch.last_day  # half-open, in days since the new year
    overlap = torch.zeros(*start.shape, len(slots), device=start.device)
    for year in (-_YEAR, 0.0, _YEAR):
        low, high = slots[:, 0] - 1 + year, slots[:, 1] + year
        shared = torch.minimum(end.unsqueeze(-1), high) - torch.maximum(start.unsqueeze(-1), low)
        overlap += shared.clamp(min=0.0)
    weight = torch.einsum("bts,btc->bsc", overlap, seen.float())
    total = torch.einsum("bts,btc->bsc", overlap, torch.where(seen, mean_log, 0.0))
    value = torch.where(weight > 0, total / weight.clamp(min=1e-6), torch.nan)
    return value.flatten(1)


def _tokens(model: GeoTreeCLIP, batch: ObservationBatch) -> Tensor:
    """Mean of the tokens of the steps that were seen, [B, E]."""
    encoder = model.observation_encoder
    if batch.images.shape[1] == 0:
        return torch.full((batch.size, model.config.observation.width), torch.nan, device=batch.environment.device)
    token, valid = encoder.readers["image"](batch)[:2]  # type: ignore[union-attr, operator, index]
    count = valid.sum(1, keepdim=True)
    mean = torch.where(valid.unsqueeze(-1), token, 0.0).sum(1) / count.clamp(min=1)
    masked: Tensor = mean.masked_fill(count < 1, torch.nan)
    return masked


def _environment(batch: ObservationBatch) -> Tensor:
    """Variables but for the place, [B, V - 3 + 2]."""
    values = torch.where(batch.environment_valid, batch.environment, torch.nan)
    angle = torch.deg2rad(values[:, VARIABLE_INDEX["aspect"]])
    return torch.cat([values[:, _VARIABLES], torch.stack([angle.sin(), angle.cos()], dim=1)], dim=1)
