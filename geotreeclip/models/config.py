"""Configuration of the models: frozen dataclasses that need no torch, and the registry of named sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from geotreeclip.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "INPUTS",
    "SEASON_ENCODINGS",
    "ModelConfig",
    "ObservationConfig",
    "TextConfig",
    "config_from_dict",
    "model_config",
    "model_names",
    "register_model",
]

INPUTS: tuple[str, ...] = ("image", "terrain", "soil", "climate", "location")
"""What a model can read; the last four are the groups of `geotreeclip.schema.GROUPS`."""

SEASON_ENCODINGS: tuple[str, ...] = ("calendar", "hemisphere", "phase")
"""What the days of steps mean to a model, see `ObservationConfig`."""

ARCHITECTURES: tuple[str, ...] = ("tokens", "published")
"""Ours, and that of the published checkpoint."""

_RANGES: dict[str, tuple[float, float]] = {
    "width": (1, 2**14),
    "embed_dim": (1, 2**14),
    "depth": (0, 256),
    "layers": (0, 256),
    "heads": (1, 1024),
    "mlp_ratio": (0.125, 64),
    "dropout": (0, 0.99),
    "drop_path": (0, 0.99),
    "day_harmonics": (1, 183),  # of a year of days
    "location_octaves": (0, 64),
    "context_length": (0, 2**12),
    "initial_temperature": (1e-4, 1e4),
}
"""What numbers may be; far wider than what is of use, so that a mistake or a hostile file is told from a choice."""


def _check_values(config: Any, where: str) -> None:
    """Refuse values of another type than the field has, and numbers out of range: files come from anyone."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "int": int, "float": (int, float), "str": str, "bool": bool, "tuple[str, ...]": tuple
    }  # fmt: skip
    for item in dataclasses.fields(config):
        kind, value = kinds.get(str(item.type)), getattr(config, item.name)
        if kind is None:
            continue
        names = value if isinstance(value, tuple) else ()
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{where}.{item.name} is {value!r:.80}, expected {item.type}")
        if not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{where}.{item.name} is {value!r:.80}, expected names")
        if item.name in _RANGES:
            low, high = _RANGES[item.name]
            if not low <= float(getattr(config, item.name)) <= high:
                raise ConfigError(f"{where}.{item.name} is {value!r:.80}; give {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class ObservationConfig:
    """The encoder of places.

    Attributes:
        inputs: The parts of an observation that the encoder reads, a subset of `INPUTS`.
        width: Channels of a token.
        depth: Transformer blocks.
        heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden channels of a block's MLP over `width`.
        dropout: Dropout after attention and MLP projections.
        drop_path: Share of samples that skip the branches of the last block (less in earlier ones; stochastic depth).
        day_harmonics: Harmonics of the year in the position of a step.
        season: What days mean. "hemisphere" turns the year by half south of the equator, so that a step has the
            position of its season; needs "location" among the inputs, and samples of unknown place keep the calendar.
            "calendar" takes days as they are, and so does "phase", for data whose days count from greenup
            (`data_prep/phase.py`). Stored configurations may have `local_season`: true is "hemisphere", false
            "calendar".
        location_octaves: Octaves of the location encoding; octave k has waves of 2**(1 - k) Earth radii, so 6 reach
            down to about 400 km.
        pixel_layout: True reads the place of every pixel in the patch, not only band means and deviations.
    """

    inputs: tuple[str, ...] = INPUTS
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    day_harmonics: int = 4
    season: str = "hemisphere"
    location_octaves: int = 6
    pixel_layout: bool = True

    def __post_init__(self) -> None:
        _check_values(self, "model.observation")
        if self.season not in SEASON_ENCODINGS:
            raise ConfigError(f"model.observation.season {self.season!r}: choose from {', '.join(SEASON_ENCODINGS)}")
        unknown = set(self.inputs) - set(INPUTS)
        if unknown or not self.inputs or len(set(self.inputs)) < len(self.inputs):
            raise ConfigError(
                f"model.observation.inputs: {sorted(unknown) or self.inputs or 'empty'}; choose from "
                f"{', '.join(INPUTS)}, each once"
            )
        if self.width % self.heads:
            raise ConfigError(f"model.observation: {self.heads} heads do not divide a width of {self.width}")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The encoder of taxonomic text, an open_clip tower.

    Attributes:
        tower: "scratch", or the name of an open_clip model ("ViT-B-16") or hub model ("hf-hub:owner/name").
        pretrained: open_clip tag of pretrained weights for a named tower, or "" for random weights.
        width: Channels (from scratch only).
        layers: Blocks (from scratch only).
        heads: Attention heads (from scratch only).
        context_length: Tokens of a prompt; the longest published taxon has 31. 0 takes that of a named tower.
        frozen: True keeps the tower's weights as they are.
    """

    tower: str = "scratch"
    pretrained: str = ""
    width: int = 256
    layers: int = 4
    heads: int = 4
    context_length: int = 32
    frozen: bool = False

    def __post_init__(self) -> None:
        _check_values(self, "model.text")
        if self.width % self.heads:
            raise ConfigError(f"model.text: {self.heads} heads do not divide a width of {self.width}")
        if self.tower == "scratch" and (self.pretrained or self.frozen):
            raise ConfigError("model.text: a tower from scratch has no pretrained weights and cannot be frozen")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model.

    Attributes:
        name: Name in the registry that the configuration started from.
        architecture: "tokens" (`geotreeclip.models.observation_encoder`), or "published", that of GGT_6M.pth
            (`geotreeclip.models.published`), which uses width, depth, heads and context length only.
        embed_dim: Dimension D of the shared space.
        observation: The encoder of places.
        text: The encoder of text.
        initial_temperature: Temperature at the start of training; 0.07 as CLIP (Radford et al. 2021).
    """

    name: str = "small"
    architecture: str = "tokens"
    embed_dim: int = 256
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    text: TextConfig = field(default_factory=TextConfig)
    initial_temperature: float = 0.07

    def __post_init__(self) -> None:
        _check_values(self, "model")
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(f"model.architecture {self.architecture!r}: choose from {', '.join(ARCHITECTURES)}")

    @property
    def least_parameters(self) -> int:
        """Numbers in the matrices of the transformers: fewer than any weights of this configuration hold."""
        places, text = self.observation, self.text
        count = places.depth * places.width**2 * (4 + 2 * places.mlp_ratio)
        if text.tower == "scratch":
            count += text.layers * text.width**2 * 12
        return int(count)


_Config = TypeVar("_Config")
_REGISTRY: dict[str, Callable[[], ModelConfig]] = {}


def register_model(build: Callable[[], ModelConfig]) -> Callable[[], ModelConfig]:
    """Register a function as the source of the configuration that bears its name."""
    _REGISTRY[build.__name__] = build
    return build


def model_names() -> list[str]:
    """Names of all registered models."""
    return sorted(_REGISTRY)


def model_config(name: str) -> ModelConfig:
    """The configuration of a registered model.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"model {name!r} is not registered; choose from {', '.join(model_names())}")
    return _REGISTRY[name]()


@register_model
def tiny() -> ModelConfig:
    """For laptops: minutes on two cores."""
    return ModelConfig(
        name="tiny",
        embed_dim=128,
        observation=ObservationConfig(width=128, depth=2, heads=4, mlp_ratio=2.0, drop_path=0.1),
        text=TextConfig(width=64, layers=2, heads=2),
    )


@register_model
def small() -> ModelConfig:
    """The default."""
    return ModelConfig(name="small")


@register_model
def base() -> ModelConfig:
    """For GPUs."""
    return ModelConfig(
        name="base",
        embed_dim=512,
        observation=ObservationConfig(width=512, depth=8, heads=8),
        text=TextConfig(width=512, layers=8, heads=8),
    )


@register_model
def published() -> ModelConfig:
    """The architecture of GGT_6M.pth: two towers of CLIP ViT-B/16, months in one attention layer."""
    return ModelConfig(
        name="published",
        architecture="published",
        embed_dim=512,
        observation=ObservationConfig(width=768, depth=12, heads=12),
        text=TextConfig(width=512, layers=12, heads=8, context_length=77),
    )


def config_from_dict(cls: type[_Config], values: dict[str, Any], where: str) -> _Config:
    """Build a frozen configuration from plain values, refusing what it does not know.

    Args:
        cls: A configuration dataclass.
        values: As `dataclasses.asdict` gives them; lists become tuples.
        where: What to call the source in an error.

    Raises:
        ConfigError: If a key is unknown or a value is refused.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: is {values!r:.80}, expected settings by name")
    if cls is ObservationConfig and isinstance(values.get("local_season"), bool):  # of models before `season`
        values = {"season": "hemisphere" if values["local_season"] else "calendar", **values}
        values.pop("local_season")
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(fields)}")
    nested: dict[str, type[Any]] = {"observation": ObservationConfig, "text": TextConfig}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if cls is ModelConfig and key in nested:
            given[key] = config_from_dict(nested[key], value, f"{where}: {key}")
        else:
            given[key] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**given)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error
