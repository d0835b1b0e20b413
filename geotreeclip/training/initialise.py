"""Start a run from a pretrained encoder of places, strictly: whatever does not fit is an error that names it.

The statistics of bands come along, since the weights were trained on values standardised by them: the image part of
the model then gives the very numbers that it gave at the end of pretraining.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import BANDS, REFLECTANCE_SCALE
from geotreeclip.training.seasonal.output import PretrainedEncoder, read_encoder

if TYPE_CHECKING:
    from geotreeclip.data.statistics import Statistics
    from geotreeclip.models.clip import GeoTreeCLIP
    from geotreeclip.models.config import ModelConfig

__all__ = ["check_fit", "initial_statistics", "initialise"]

_MAY_DIFFER = frozenset({"inputs", "dropout", "drop_path", "location_octaves"})
"""Settings that neither change the weights of what was pretrained nor what they mean."""

_ALIKE = 5.0
"""Mean digital numbers of two sets of places differ by less; reflectance is smaller by 10,000."""


def initial_statistics(init: str, config: ModelConfig, statistics: Statistics) -> Statistics:
    """Statistics of the data, those of bands replaced by those of the encoder that a run starts from.

    Args:
        init: Run of `train/seasonal.py`, or its folder `encoder`; empty for none.
        config: The model that is to start from it.
        statistics: Of the data of the run.

    Raises:
        DataError: The encoder is absent or damaged, or the data is on another scale than it was trained on.
        ConfigError: It is of another architecture.
    """
    if not init:
        return statistics
    encoder = read_encoder(init)
    check_fit(encoder, config)
    known = (statistics.band.count > 0) & (encoder.statistics.band.count > 0)
    here, there = statistics.band_mean[known], encoder.statistics.band_mean[known]
    ratio = np.median(here / np.maximum(there, 1e-12)) if known.any() else 1.0
    if not 1 / _ALIKE < ratio < _ALIKE:
        raise DataError(
            f"the values of the data are {ratio:.3g} times those that {encoder.directory} was trained on (mean "
            f"{here.mean():.4g} against {there.mean():.4g}): it reads digital numbers, {REFLECTANCE_SCALE} for a "
            "reflectance of 1, offset removed; pack the data in that unit"
        )
    return replace(statistics, band=encoder.statistics.band)


def initialise(model: GeoTreeCLIP, init: str) -> list[str]:
    """Give a model the weights of a pretrained encoder.

    Args:
        model: Made with the statistics that `initial_statistics` gave.
        init: As there.

    Returns:
        The inputs that pretraining did not read, whose weights stay random.

    Raises:
        ConfigError: A weight is absent, surplus, or of another shape.
    """
    if not init:
        return []
    encoder = read_encoder(init)
    check_fit(encoder, model.config)
    mine, theirs = model.config.observation.inputs, encoder.config.observation.inputs
    fresh = [name for name in mine if name not in theirs]
    state: dict[str, Any] = model.observation_encoder.state_dict()
    given = dict(encoder.state)
    kinds = given.pop("kind", torch.empty(0, 0))
    expected = [name for name in state if name != "kind" and not name.startswith(tuple(f"readers.{n}." for n in fresh))]
    absent, surplus = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    shapes = [name for name in expected if name in given and given[name].shape != state[name].shape]
    if kinds.shape != (len(theirs), state["kind"].shape[1]):
        shapes.append("kind")
    if absent or surplus or shapes:
        raise ConfigError(
            f"{encoder.directory}: weights do not fit the model: {len(absent)} absent {absent[:3]}, {len(surplus)} "
            f"surplus {surplus[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    with torch.no_grad():
        for name, value in given.items():
            state[name].copy_(value)
        for row, name in enumerate(theirs):
            state["kind"][mine.index(name)].copy_(kinds[row])
    return fresh


def check_fit(encoder: PretrainedEncoder, config: ModelConfig) -> None:
    """Compare what an encoder was trained on and as with what it is to be used for.

    Raises:
        ConfigError: Names the first difference: bands, their order, scale, offset, or a setting of the architecture.
    """
    where, imagery = encoder.directory, encoder.account.get("imagery", {})
    bands = list(imagery.get("bands", ()))
    if bands != list(BANDS):
        if sorted(bands) == sorted(BANDS):
            first = next(i for i, band in enumerate(BANDS) if bands[i] != band)
            raise ConfigError(
                f"{where}: its bands are in another order: band {first + 1} is {bands[first]}, here {BANDS[first]}"
            )
        raise ConfigError(f"{where}: reads the bands {', '.join(map(str, bands))}; here they are {', '.join(BANDS)}")
    for name, here in (("per_reflectance", REFLECTANCE_SCALE), ("offset", 0)):
        if imagery.get(name) != here:
            raise ConfigError(f"{where}: its scale differs: {name} is {imagery.get(name)!r}, here {here}")
    theirs = encoder.config
    for name in ("architecture", "embed_dim"):
        if getattr(theirs, name) != getattr(config, name):
            raise ConfigError(
                f"{where}: its model has {name} {getattr(theirs, name)!r}, this one {getattr(config, name)!r}; give "
                "both runs the same model"
            )
    for field in fields(theirs.observation):
        then, now = getattr(theirs.observation, field.name), getattr(config.observation, field.name)
        if field.name not in _MAY_DIFFER and then != now:
            raise ConfigError(
                f"{where}: its encoder has {field.name} {then!r}, this one {now!r}; give both runs the same "
                "model.observation"
            )
    lost = [name for name in theirs.observation.inputs if name not in config.observation.inputs]
    if lost:
        raise ConfigError(f"{where}: reads {', '.join(lost)}, which this model does not; add it to model.inputs")
