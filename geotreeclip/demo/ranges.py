"""Where the species of the planted forest grow, and how many of each are recorded.

Letters: S species, M sites.

The share of site m among the records of species s is, up to a constant for each species,

    log p(m | s) = log effort_m - 1/2 sum_d ((z_md - mu_sd) / w_sd)^2 + history x g_s(lon_m, lat_m)

on the continents of s and minus infinity elsewhere, with z the niche axes of the sites and g_s a smooth random field of
unit variance that climate does not explain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.climate import Sites
from geotreeclip.demo.config import WorldConfig
from geotreeclip.demo.species import REGIONS, SPECIES

__all__ = ["FULL_SIZE", "log_ranges", "training_counts"]

FloatArray = NDArray[np.float64]

_CURVE = ((1, 2300), (6, 1550), (7, 630), (30, 105), (31, 75), (60, 23))
# Knots (place in the order of abundance, records): 6 frequent species (1,500 and more), 24 common (101 to 1,499) and 30
# rare ones (21 to 100), the groups of the published evaluation sets.

_AXIS_WIDTH = np.array([1.0, 1.0, 1.6, 1.6, 2.0, 1.3])  # temperature and rain bound a range most tightly
_FIELD_DEGREES = 9.0  # length over which a range that history shaped changes
_FIELD_WAVES = 24


def training_counts(samples: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Training records of each species: one long-tailed curve, dealt out to the species by chance; [S].

    Args:
        samples: Their sum; None leaves the curve as it is (`FULL_SIZE`). Small sets keep at least one of each species.
        rng: Deals them out.
    """
    counts = _curve()
    if samples is not None and samples != counts.sum():
        exact = counts * (samples / counts.sum())
        counts = np.maximum(1, np.floor(exact)).astype(np.int64)
        while counts.sum() > samples:  # the smallest were lifted to one record
            counts[counts.argmax()] -= 1
        counts[np.argsort(np.floor(exact) - exact, kind="stable")[: samples - counts.sum()]] += 1
    return np.asarray(rng.permutation(counts), dtype=np.int64)


def _curve() -> NDArray[np.int64]:
    place, records = np.array(_CURVE, dtype=np.float64).T
    curve = np.exp(np.interp(np.arange(1, len(SPECIES) + 1), place, np.log(records)))
    return np.asarray(np.rint(curve), dtype=np.int64)


FULL_SIZE = int(_curve().sum())
"""Training samples of a full-size world."""


def log_ranges(sites: Sites, config: WorldConfig, rng: np.random.Generator) -> FloatArray:
    """Log of p(site | species), [S, M]; each row sums to one.

    The optimum of temperature comes from the table of species. On the other axes a species takes the values of a random
    site of that warmth on its continents, drawn a third of the way to the mean of its genus.
    """
    letters = list(REGIONS)
    allowed = np.array([[letters[r] in species.regions for r in sites.region] for species in SPECIES])
    mean, spread = sites.temperature_scale
    warmth = (np.array([species.temperature for species in SPECIES]) - mean) / spread
    near = np.where(allowed, -0.5 * ((sites.niche[:, 0] - warmth[:, None]) / 0.15) ** 2, -np.inf)
    anchor = (near + rng.gumbel(size=near.shape)).argmax(axis=1)  # a draw in proportion to exp(near)
    optimum = sites.niche[anchor]
    genera = np.array([species.taxon.genus for species in SPECIES])
    relatives = np.stack([optimum[genera == genus].mean(axis=0) for genus in genera])
    optimum = (2 * optimum + relatives) / 3
    optimum[:, 0] = sites.niche[anchor, 0]
    width = config.niche_width * _AXIS_WIDTH * np.exp(0.25 * rng.standard_normal(optimum.shape))
    log_effort = config.clustering * rng.standard_normal(len(sites))
    field = config.history * _smooth_fields(sites, len(SPECIES), rng)
    distance = (sites.niche - optimum[:, None]) / width[:, None]
    density = np.where(allowed, log_effort - 0.5 * (distance**2).sum(axis=2) + field, -np.inf)
    density -= density.max(axis=1, keepdims=True)
    return np.asarray(density - np.log(np.exp(density).sum(axis=1, keepdims=True)), dtype=np.float64)


def _smooth_fields(sites: Sites, count: int, rng: np.random.Generator) -> FloatArray:
    """Random fields of zero mean and unit variance, [count, M]: sums of plane waves (random Fourier features)."""
    place = np.column_stack([sites.longitude, sites.latitude]) / _FIELD_DEGREES
    wave = rng.standard_normal((count, _FIELD_WAVES, 2))
    phase = 2 * np.pi * rng.random((count, _FIELD_WAVES, 1))
    return np.asarray(np.sqrt(2 / _FIELD_WAVES) * np.cos(wave @ place.T + phase).sum(axis=1), dtype=np.float64)
