"""The knobs of the planted forest and their presets."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from geotreeclip.errors import ConfigError

__all__ = ["PRESETS", "WorldConfig", "world_config"]


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """What makes one world differ from another.

    Attributes:
        seed: Draws everything; the same configuration gives the same world and the same samples.
        sites: Number of places in the world; samples are scattered about them.
        contrast: Scale of the spectral differences between taxa (standard deviation of log reflectance).
        timing: Scale of the differences in season between taxa.
        sample_noise: Standard deviation of log reflectance between samples of a species, alike in all their months.
        month_noise: Standard deviation of log reflectance between months of a sample, alike in the pixels of a ring.
        pixel_noise: Standard deviation of log reflectance between pixels.
        pure: Probability that a patch holds the target species alone; the others are mixed with a background.
        year_shift: Standard deviation in months by which a season comes early or late.
        niche_width: Width of climatic niches in standard deviations of climate over the sites.
        clustering: Standard deviation of the log sampling effort of sites; large values gather samples in few places.
        scatter_km: Standard deviation in kilometres of a sample about its site, along each axis.
        coordinate_error_km: Standard deviation of the error of the reported position, along each axis.
        history: Strength of ranges that climate does not explain (standard deviation of log density).
        wrong_labels: Share of records whose species was replaced by one drawn from all, each alike.
        cloud: Mean share of months that are lost.
        missing: Scale of the share of missing environmental values; 1 is a few per cent.
    """

    seed: int = 0
    sites: int = 3000
    contrast: float = 0.1
    timing: float = 0.12
    sample_noise: float = 0.15
    month_noise: float = 0.2
    pixel_noise: float = 0.18
    pure: float = 0.1
    year_shift: float = 0.4
    niche_width: float = 1.0
    clustering: float = 0.5
    scatter_km: float = 15.0
    coordinate_error_km: float = 0.0
    history: float = 0.3
    wrong_labels: float = 0.0
    cloud: float = 0.2
    missing: float = 1.0

    def __post_init__(self) -> None:
        for name in ("wrong_labels", "cloud", "pure"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"world: {name} is {value}; it is a share, at least 0 and below 1")
        for name in ("sample_noise", "month_noise", "pixel_noise", "year_shift", "niche_width", "scatter_km"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"world: {name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.missing <= 5:
            raise ConfigError(f"world: missing is {self.missing}; it must lie between 0 and 5")
        if self.sites < 200 or self.seed < 0:
            raise ConfigError(f"world: {self.sites} sites, seed {self.seed}; needs 200 sites and a seed of at least 0")


PRESETS: dict[str, WorldConfig] = {
    "image-led": WorldConfig(),
    "location-led": WorldConfig(contrast=0.06, timing=0.08, niche_width=0.7, history=1.2, clustering=1.0),
}
"""`image-led`: the time series tells most. `location-led`: the place tells most, as in real occurrence data."""


def world_config(preset: str = "image-led", **knobs: float) -> WorldConfig:
    """A preset with some knobs turned.

    Raises:
        ConfigError: Unknown preset or knob, or a value that cannot be.
    """
    if preset not in PRESETS:
        raise ConfigError(f"world: unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    known = [field.name for field in fields(WorldConfig)]
    unknown = sorted(set(knobs) - set(known))
    if unknown:
        raise ConfigError(f"world: unknown knob {', '.join(unknown)}; known: {', '.join(known)}")
    return replace(PRESETS[preset], **knobs)  # type: ignore[arg-type]  # ints and floats, checked above
