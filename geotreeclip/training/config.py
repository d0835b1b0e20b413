"""Configuration of a training run: frozen dataclasses, read from YAML with command-line overrides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from geotreeclip.errors import ConfigError
from geotreeclip.models.config import ModelConfig, ObservationConfig, TextConfig, model_config

__all__ = [
    "AugmentConfig",
    "LossConfig",
    "ModelChoice",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "resolve_model",
]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model to train: a registered size, with single settings changed.

    Attributes:
        name: Registered size: tiny, small or base.
        embed_dim: Dimension of the shared space; 0 keeps that of the size.
        inputs: Parts of an observation to read; empty keeps all that the data has.
        observation: Changed settings of the encoder of places, for example {depth: 3, dropout: 0.2}.
        text: Changed settings of the text tower, for example {tower: ViT-B-16, pretrained: openai}.
    """

    name: str = "small"
    embed_dim: int = 0
    inputs: tuple[str, ...] = ()
    observation: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and the averaging of its weights.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: Decoupled decay of matrices; vectors (biases, norms, embeddings of position) have none.
        beta2: Decay of the second moment.
        clip_norm: Largest norm of the gradient.
        average: Decay of the exponential moving average of the weights, which is what is validated and kept; 0 for
            none. It grows from 0 over the first steps: min(average, (1 + step) / (10 + step)).
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    beta2: float = 0.98
    clip_norm: float = 1.0
    average: float = 0.998


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run, and what happens on the way.

    Attributes:
        warmup: Share of the steps with rising learning rate.
        final: Learning rate at the end over the peak (cosine in between).
        validations: How many times to validate.
        checkpoints: How many times to write a checkpoint on the way.
        keep: How many of the newest checkpoints stay; 0 keeps all.
    """

    warmup: float = 0.05
    final: float = 0.01
    validations: int = 10
    checkpoints: int = 4
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective.

    Attributes:
        candidates: What a place's label stands against: "batch" the distinct taxa of the global batch, "all" the taxa
            of the training set, all encoded at every step, "cached" the same with the embeddings of absent taxa kept
            from earlier steps, "auto" all if there are at most `all_up_to`, else batch.
        all_up_to: See `candidates`.
        refresh: Steps after which kept embeddings are made anew.
        share_text: Each process encodes its share of the prompts and gets the others' embeddings; False lets each
            encode all of them.
        prior_correction: Subtract log q_y from the training logits (see `geotreeclip.losses`).
        text_weight: Weight of the direction text -> place beside place -> text (1 is plain CLIP).
        label_smoothing: Of the direction place -> text.
        coarse_weight: Weight of a second softmax over prompts cut at a coarser rank.
        coarse_share: Share of the steps that have it, drawn by seed.
        coarse_ranks: The ranks that it takes, one a step, drawn by seed.
    """

    candidates: Literal["auto", "batch", "all", "cached"] = "auto"
    all_up_to: int = 2000
    refresh: int = 200
    share_text: bool = True
    prior_correction: bool = True
    text_weight: float = 0.2
    label_smoothing: float = 0.0
    coarse_weight: float = 0.5
    coarse_share: float = 0.3
    coarse_ranks: tuple[str, ...] = ("genus", "family", "leaf_type")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is hidden or disturbed in training; every draw is a function of seed, position and sample.

    Attributes:
        drop_image: Probability that a sample loses its whole series.
        drop_groups: The same for each of the environment groups, location included.
        keep_one_image: Probability that a sample loses everything but its images.
        drop_step: Share of the time steps that are hidden, drawn for each sample between 0 and twice this.
        gain: Deviation of a factor common to all values of a sample (log-normal).
        band_noise: Deviation of a factor for each step and band (log-normal).
        pixel_flip: Turn and mirror the patches.
        variable_noise: Deviation of noise on environmental variables, in their deviations.
        location_noise_km: Deviation of noise on the place.
    """

    drop_image: float = 0.05
    drop_groups: float = 0.05
    keep_one_image: float = 0.05
    drop_step: float = 0.1
    gain: float = 0.1
    band_noise: float = 0.1
    pixel_flip: bool = True
    variable_noise: float = 0.0
    location_noise_km: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run of `train/clip.py`.

    Attributes:
        data: Directory of packed shards, or its address: https://HOST/DIR, hf://datasets/OWNER/NAME/DIR, file:///DIR.
        cache: Where data from elsewhere is kept; by default `packed` in the cache of the package.
        verify: Hash all files of the data first, and fetch again what is damaged.
        stream: Read shards forward from where they are, packed or published ones, if they fit in no cache; the order is
            approximate and resumed by the epoch.
        stream_buffer: Samples of the shuffle buffer of a stream, in each process.
        lenient: Skip samples of a stream that cannot be read, and count them, instead of stopping at the first.
        lenient_share: Share of skipped samples that is an error all the same.
        out: Directory of the run: configuration, logs, checkpoints and the final model.
        init: Run of `train/seasonal.py` whose encoder of places to start from; empty for random weights.
        split: Name of a split of the data; empty takes "default" where there is one, else all samples.
        fold: Fold of the split.
        validation: Share of the training samples held out where the split names no validation samples.
        validation_samples: At most so many samples are used for validation during training.
        select: What the kept weights are best in on validation: "log_loss", or "top1".
        minutes: Budget of wall time; it wins over steps and epochs. Some steps are timed, then their number is fixed
            and stored, so that schedule and resume depend on steps alone.
        most_epochs: A budget in minutes is cut at so many passes over the training samples, after which small sets are
            learnt by heart; 0 for no limit.
        steps: Optimizer steps; they win over epochs.
        epochs: Passes over the training samples.
        batch_size: Samples in a step over all processes.
        micro_batch: Samples of a process that are encoded at a time, to save memory; the loss still stands over the
            whole batch. 0 encodes all at once.
        seed: Of weights, order and augmentation.
        precision: "auto" is bf16 where the device has it, else no.
        prefetch: Batches read ahead.
        threads: Threads of each process on the CPU; 0 shares the cores evenly among the processes. (Launchers set
            OMP_NUM_THREADS to 1 where nobody asks, which would leave cores idle.)
        compile: Compile the encoders with `torch.compile`; worth its minutes on GPUs, in long runs.
        resume: "auto" goes on from the newest checkpoint of `out` if the result can be exactly that of the run that was
            never stopped, "elastic" also with another number of processes or on another device, "never" starts anew.
        trackers: Accelerate trackers to log to, for example tensorboard or wandb.
        model: The model.
        optimizer: The optimizer.
        schedule: The length of the run and the learning rate.
        loss: The objective.
        augment: Augmentation.
    """

    data: str = ""
    cache: str = ""
    verify: bool = False
    stream: bool = False
    stream_buffer: int = 8192
    lenient: bool = False
    lenient_share: float = 0.01
    out: str = ""
    init: str = ""
    split: str = ""
    fold: int = 0
    validation: float = 0.05
    validation_samples: int = 5000
    select: Literal["log_loss", "top1"] = "log_loss"
    minutes: float = 0.0
    most_epochs: float = 0.0
    steps: int = 0
    epochs: float = 10.0
    batch_size: int = 256
    micro_batch: int = 0
    seed: int = 0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    prefetch: int = 2
    threads: int = 0
    compile: bool = False
    resume: Literal["auto", "elastic", "never"] = "auto"
    trackers: tuple[str, ...] = ("tensorboard",)
    model: ModelChoice = field(default_factory=ModelChoice)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        at_least_0 = (
            "fold", "validation_samples", "minutes", "most_epochs", "steps", "epochs", "micro_batch", "prefetch",
            "threads", "lenient_share",
        )  # fmt: skip
        for name in at_least_0:
            if not getattr(self, name) >= 0:  # also false for NaN
                raise ConfigError(f"--{name} {getattr(self, name)}: give 0 or more")
        if not 0 <= self.validation < 1:
            raise ConfigError(f"--validation {self.validation}: give a share from 0 up to, not including, 1")

    def to_dict(self) -> dict[str, Any]:
        """As plain, JSON-able values."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        return plain


def resolve_model(choice: ModelChoice, *, has_images: bool) -> ModelConfig:
    """The full model configuration of a choice, reading only what the data has.

    Args:
        choice: Size and changed settings.
        has_images: Whether the data holds imagery.

    Raises:
        ConfigError: If a setting is unknown or refused.
    """
    config = model_config(choice.name)
    inputs = choice.inputs or config.observation.inputs
    if not has_images:
        inputs = tuple(name for name in inputs if name != "image")
    if not inputs:
        raise ConfigError("model.inputs: only image is named, but the data holds no imagery")
    changed = {**choice.observation, "inputs": inputs}
    return dataclasses.replace(
        config,
        embed_dim=choice.embed_dim or config.embed_dim,
        observation=_changed(config.observation, changed, "model.observation"),
        text=_changed(config.text, choice.text, "model.text"),
    )


_Part = TypeVar("_Part", ObservationConfig, TextConfig)


def _changed(config: _Part, values: dict[str, Any], where: str) -> _Part:
    known = {f.name for f in dataclasses.fields(config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return dataclasses.replace(config, **values)
