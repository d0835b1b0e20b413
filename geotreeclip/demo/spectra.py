"""The image model of the planted forest: mean patches and the covariance about them.

Letters: N samples, S species, F phases (shifts of the season), K mixtures, T months (12), C bands (10), R rings (2: the
central 3 x 3 pixels and the 16 around them).

Log digital numbers of a pixel p in ring r(p) are, given species s, phase f and mixture k,

    y[t, c, p] = m_sfk[t, c, r] + sum_j W_j[t] a_j[c, r] + u[t, c, r] + e[t, c, p],   r = r(p),
    a_j ~ N(0, sample_noise^2 V)   u[t] ~ N(0, month_noise^2 V)   e ~ N(0, pixel_noise^2),

with a_j shared by a ring in all months (stand, soil, age), which move its level and its yearly wave,
W = (1, cos 2 pi t / 12, sin 2 pi t / 12), u by a ring in one month (light, haze, weather) and e by nobody. The two
rings vary on their own. V joins brightness, greenness, wetness, haze and a part of each band's own; its mean diagonal
is one. The mean of a mixture is that of the reflectances, share x canopy + (1 - share) x background, so it is no sum in
the log. A canopy goes between bare and leafy with the season,

    log canopy = bare + (1 - depth (1 - g)) (leafy - bare) + flush b(start) x FLUSH + autumn b(end) x AUTUMN
    g[t] = logistic(speed (cos(2 pi (t - middle) / 12) - cos(pi length / 12))),   b(x) = exp(-(t - x)^2 / (2 x 0.7^2)),

with middle moved by the phase: half a year in the south, earlier where it is warm, earlier or later by the year.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.climate import ZONES
from geotreeclip.demo.config import WorldConfig
from geotreeclip.demo.traits import Traits
from geotreeclip.schema import BANDS, MONTHS, PATCH, REFLECTANCE_SCALE

__all__ = ["RING", "ImageModel", "image_model", "phase_probability"]

FloatArray = NDArray[np.float64]

_SHIFTS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])  # months by which a season comes late
_ZONE_SHIFT = np.array([0.5, 0.0, -0.5])  # cold, mild, warm
PHASES = np.concatenate([_SHIFTS, _SHIFTS + 6])  # the south is half a year on

# Share of the target species in the centre and around it, kind of background (0 grass, 1 soil).
_MIXTURES = ((1.0, 1.0, 0), (1.0, 0.3, 0), (1.0, 0.3, 1), (0.9, 0.1, 0), (0.9, 0.1, 1))

RING = np.ones((PATCH, PATCH), dtype=np.int64)
RING[1:-1, 1:-1] = 0
"""[5, 5]: ring of each pixel, 0 in the central 3 x 3 and 1 around them."""

#            B2     B3     B4     B8     B5     B6     B7     B8A    B11    B12
_GRASS_ON = (0.040, 0.080, 0.050, 0.380, 0.120, 0.280, 0.330, 0.380, 0.240, 0.140)
_GRASS_OFF = (0.070, 0.090, 0.110, 0.240, 0.150, 0.180, 0.200, 0.250, 0.320, 0.240)
_SOIL = (0.080, 0.110, 0.140, 0.230, 0.180, 0.200, 0.210, 0.240, 0.320, 0.270)
_FLUSH = np.array([0.3, 0.8, 0.2, 0.3, 0.7, 0.4, 0.2, 0.2, -0.1, -0.2])
_AUTUMN = np.array([0.1, 0.3, 1.0, -0.3, 0.5, -0.1, -0.3, -0.3, 0.2, 0.4])
_VARIATION = np.array(
    [
        (0.6,) * 10,  # brightness
        (-0.3, 0.0, -0.6, 0.6, -0.1, 0.4, 0.5, 0.6, -0.1, -0.4),  # greenness
        (0.1, 0.1, 0.1, 0.0, 0.1, 0.0, 0.0, 0.0, 0.5, 0.7),  # wetness
        (0.5, 0.3, 0.3, 0.0, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0),  # haze
    ]
)
_OWN = 0.7  # standard deviation of a single band's own variation


@dataclass(frozen=True)
class ImageModel:
    """Means and covariance of log digital numbers.

    Attributes:
        mean: [S, F, K, T, R, C].
        mixture: [K] probability of each mixture.
        waves: [3, T] how the effects of a sample go through the year.
        axes: [C, C] orthonormal, the eigenvectors of V as columns: along each, variation is independent of the others.
        sample_variance: [C] variance between samples along the axes.
        month_variance: [C] variance between months of a sample along the axes.
        pixel_noise: Standard deviation between pixels.
    """

    mean: FloatArray
    mixture: FloatArray
    waves: FloatArray
    axes: FloatArray
    sample_variance: FloatArray
    month_variance: FloatArray
    pixel_noise: float


def phase_probability(year_shift: float) -> FloatArray:
    """p(phase | zone), [Q, F]: the half year of the hemisphere, a shift by warmth, and good and bad years."""
    weight = np.exp(-0.5 * ((_SHIFTS - _ZONE_SHIFT[:, None]) / year_shift) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    table = np.zeros((ZONES, len(PHASES)))
    table[:3, : len(_SHIFTS)] = weight
    table[3:, len(_SHIFTS) :] = weight
    return table


def season(middle: FloatArray, length: FloatArray, speed: FloatArray) -> FloatArray:
    """Share of the leafy state in the middle of each month, [..., 12]; arguments broadcast over leading axes."""
    month = np.arange(MONTHS) + 0.5
    height = np.cos(2 * np.pi * (month - middle[..., None]) / 12) - np.cos(np.pi * length / 12)[..., None]
    return np.asarray(1 / (1 + np.exp(-speed[..., None] * height)), dtype=np.float64)


def canopy(traits: Traits, phases: FloatArray = PHASES) -> FloatArray:
    """Reflectance of pure canopies, [S, F, T, C]."""
    middle = traits.middle[:, None] + phases
    green = season(middle, traits.length[:, None], traits.speed[:, None])
    state = 1 - traits.depth[:, None, None] * (1 - green)
    log = traits.bare[:, None, None] + state[..., None] * (traits.leafy - traits.bare)[:, None, None]
    start, end = middle - traits.length[:, None] / 2, middle + traits.length[:, None] / 2
    for strength, time, colours in ((traits.flush, start, _FLUSH), (traits.autumn, end, _AUTUMN)):
        size = (strength * traits.depth)[:, None, None] * _bump(time)
        log = log + size[..., None] * colours
    return np.asarray(np.exp(log), dtype=np.float64)


def _bump(time: FloatArray) -> FloatArray:
    """A bump of 0.7 months about a time of year, [..., 12]."""
    away = (np.arange(MONTHS) + 0.5 - time[..., None] + 6) % 12 - 6
    return np.asarray(np.exp(-0.5 * (away / 0.7) ** 2), dtype=np.float64)


def backgrounds(phases: FloatArray = PHASES) -> FloatArray:
    """Reflectance of grass, which has a season, and of bare soil, which has none; [2, F, T, C]."""
    green = season(6.0 + phases, np.array(6.5), np.array(4.0))[..., None]
    grass = np.exp(green * np.log(_GRASS_ON) + (1 - green) * np.log(_GRASS_OFF))
    return np.stack([grass, np.broadcast_to(np.array(_SOIL), grass.shape)])


def image_model(traits: Traits, config: WorldConfig) -> ImageModel:
    """The model of all species under a configuration."""
    target, other = canopy(traits)[:, :, None, :, None], backgrounds()
    share = np.array([mixture[:2] for mixture in _MIXTURES])[:, None, :, None]  # [K, 1, R, 1]
    kind = other[[mixture[2] for mixture in _MIXTURES]]  # [K, F, T, C]
    beside = kind.transpose(1, 0, 2, 3)[None, :, :, :, None]  # [1, F, K, T, 1, C]
    mean = np.log(share * target + (1 - share) * beside) + np.log(REFLECTANCE_SCALE)
    rest = (1 - config.pure) / (len(_MIXTURES) - 1)
    variation = _VARIATION.T @ _VARIATION + _OWN**2 * np.eye(len(BANDS))
    variance, axes = np.linalg.eigh(variation / np.diagonal(variation).mean())
    angle = 2 * np.pi * (np.arange(MONTHS) + 0.5) / 12
    return ImageModel(
        mean=mean,
        mixture=np.array([config.pure] + [rest] * (len(_MIXTURES) - 1)),
        waves=np.stack([np.ones(MONTHS), np.cos(angle), np.sin(angle)]),
        axes=axes,
        sample_variance=config.sample_noise**2 * variance,
        month_variance=config.month_noise**2 * variance,
        pixel_noise=config.pixel_noise,
    )
