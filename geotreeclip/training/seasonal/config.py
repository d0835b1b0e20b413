"""Options of season-contrastive pretraining."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from geotreeclip.errors import ConfigError
from geotreeclip.training.config import ModelChoice, OptimizerConfig, ScheduleConfig
from geotreeclip.training.seasonal.objectives import OBJECTIVES

__all__ = ["DisturbConfig", "SeasonalConfig"]

_SHORT_RUN = 5000


@dataclass(frozen=True, kw_only=True)
class DisturbConfig:
    """What tells two views of the same pixels apart.

    Attributes:
        gain: A factor common to all values of a view, drawn from 1 - gain to 1 + gain (illumination).
        noise: Deviation of noise on every value, reflectance.
        drop_band: Probability that a view lacks a band.
        turn: Turn and mirror the patches.
    """

    gain: float = 0.2
    noise: float = 0.01
    drop_band: float = 0.1
    turn: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.gain < 1 and self.noise >= 0 and 0 <= self.drop_band < 1):
            raise ConfigError(
                f"disturb: gain {self.gain}, noise {self.noise}, drop_band {self.drop_band}; give shares from 0 to "
                "below 1, and noise of 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class SeasonalConfig:
    """A whole run of `train/seasonal.py`.

    Attributes:
        data: Directory of packed shards with imagery.
        out: Directory of the run: configuration, logs, checkpoints, and `encoder`, which `train/clip.py --init` reads.
        split: Name of a split, whose training samples are used; empty takes "default" where there is one.
        fold: Fold of the split.
        objective: "season2" (what all seasons of a place share, and what tells them apart), "seco_eco" (the three
            sub-spaces of SeCo), or "moco" (what all seasons share).
        phenology: Table of `data_prep/phenology.py` with the cycle of every sample; "calendar" for the seasons of the
            hemisphere; "steps" where the four steps of the data are spring, summer, autumn and winter.
        weights: Table (sample_id, weight) of how often to draw each sample; empty weighs by density alone.
        density: Samples of a cell of 23 km that holds n are drawn n^-density as often as a lone one; 0 for all alike.
        series_weight: Weight of the term for halves of the year; 0 for none.
        temperature: Of all softmaxes.
        dim: Dimension of the projections.
        queue: Keys of earlier batches that serve as negatives; 0 takes the other samples of the batch.
        momentum: Of the encoder of keys; None takes 0.999, or 0.99 in runs of under 5,000 steps.
        exclusion_km: Samples closer than this are no negatives of each other.
        minutes: Budget of wall time; it wins over steps and epochs, see `train/clip.py`.
        steps: Optimizer steps; they win over epochs.
        epochs: Passes over the training samples.
        batch_size: Samples in a step over all processes.
        seed: Of weights, order, views and disturbance.
        precision: "auto" is bf16 where the device has it, else no.
        prefetch: Batches read ahead.
        threads: Threads of each process on the CPU; 0 shares the cores evenly.
        resume: "auto" goes on from the newest checkpoint of `out`, "never" starts anew.
        trackers: Accelerate trackers to log to.
        model: The model whose encoder of places is trained; it reads imagery alone.
        optimizer: The optimizer (`average` is not used: the weights of the last step are kept).
        schedule: The learning rate over the run (`validations` is not used).
        disturb: How views are disturbed.
    """

    data: str = ""
    out: str = ""
    split: str = ""
    fold: int = 0
    objective: Literal["season2", "seco_eco", "moco"] = "season2"
    phenology: str = "calendar"
    weights: str = ""
    density: float = 0.5
    series_weight: float = 1.0
    temperature: float = 0.2
    dim: int = 128
    queue: int = 65_536
    momentum: float | None = None
    exclusion_km: float = 1.0
    minutes: float = 0.0
    steps: int = 0
    epochs: float = 20.0
    batch_size: int = 256
    seed: int = 0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    prefetch: int = 2
    threads: int = 0
    resume: Literal["auto", "never"] = "auto"
    trackers: tuple[str, ...] = ("tensorboard",)
    model: ModelChoice = field(default_factory=ModelChoice)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    disturb: DisturbConfig = field(default_factory=DisturbConfig)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective {self.objective!r} is unknown; choose from {', '.join(OBJECTIVES)}")
        for name, least in (("temperature", 1e-6), ("dim", 1), ("queue", 0), ("exclusion_km", 0), ("series_weight", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give {least:g} or more")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; give 0 or more, below 1")
        if self.batch_size < 2:
            raise ConfigError(f"batch_size is {self.batch_size}: a contrast needs at least 2 samples")

    def momentum_of(self, steps: int) -> float:
        """Momentum of the encoder of keys in a run of so many steps."""
        if self.momentum is not None:
            return self.momentum
        return 0.99 if steps < _SHORT_RUN else 0.999

    def to_dict(self) -> dict[str, Any]:
        """As plain, JSON-able values."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        return plain
