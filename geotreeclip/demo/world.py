"""The planted forest: a world with known truth, and samples drawn from it.

Letters: N samples, S species, M sites, T months (12), C bands (10), R rings (2), P pixels (25), Q zones, F phases.

A record comes about so:

    species s ~ prior                          site m ~ p(m | s)                 (ranges)
    phase f ~ p(f | zone of m)                 mixture k ~ p(k)                  (spectra)
    log digital numbers ~ normal given s, f, k, lost months and pixels at random  (spectra)
    environment ~ normal about the values of m, missing values at random          (climate)
    reported position = position of m + scatter + error
    recorded species = s, or with probability `wrong_labels` any species, each alike.

Environmental variables are those of the true site; an error of the reported position does not touch them. What is lost
or missing depends on nothing else, so its absence tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.climate import KM_PER_DEGREE, LOGARITHMIC, NOISE, Sites, draw_sites
from geotreeclip.demo.config import WorldConfig
from geotreeclip.demo.ranges import log_ranges, training_counts
from geotreeclip.demo.species import demo_taxonomy
from geotreeclip.demo.spectra import RING, ImageModel, image_model, phase_probability
from geotreeclip.demo.traits import draw_traits
from geotreeclip.errors import ConfigError
from geotreeclip.schema import BANDS, GROUPS, MISSING_DN, MONTHS, PATCH, VARIABLE_INDEX
from geotreeclip.taxonomy import Taxonomy

__all__ = ["Records", "World", "build_world", "draw_environment", "draw_images", "draw_records", "draw_visible"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PARTLY = 0.15  # share of the months left that lose some of their pixels
_GROUP_MISSING = {"terrain": 0.02, "soil": 0.05, "climate": 0.02}
_VALUE_MISSING = 0.01
_ASPECT = VARIABLE_INDEX["aspect"]


@dataclass(frozen=True)
class World:
    """All that is true of a world.

    Attributes:
        config: Its knobs.
        taxonomy: The species, S rows.
        sites: The places, M.
        log_range: [S, M] log p(site | species).
        image: Means and covariance of images.
        phase: [Q, F] p(phase | zone).
        counts: [S] training records of each true species; exact.
    """

    config: WorldConfig
    taxonomy: Taxonomy
    sites: Sites
    log_range: FloatArray
    image: ImageModel
    phase: FloatArray
    counts: IntArray

    @property
    def prior(self) -> FloatArray:
        """[S] share of each true species in training, validation and test."""
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)

    @property
    def recorded_prior(self) -> FloatArray:
        """[S] share of each species among the recorded labels, wrong ones included."""
        wrong = self.config.wrong_labels
        return np.asarray((1 - wrong) * self.prior + wrong / len(self.counts), dtype=np.float64)


class Records(NamedTuple):
    """Hidden state of samples, each [N]: what the records say is `recorded`, all else is the truth behind them."""

    recorded: IntArray
    species: IntArray
    site: IntArray
    phase: IntArray
    mixture: IntArray


def build_world(config: WorldConfig, samples: int | None = None) -> World:
    """Draw a world.

    Args:
        config: Its knobs and seed.
        samples: Training samples, the sum of `World.counts`; None for the full size.

    Raises:
        ConfigError: Fewer training samples than species.
    """
    taxonomy = demo_taxonomy()
    if samples is not None and samples < len(taxonomy):
        raise ConfigError(f"world: {samples} training samples cannot hold {len(taxonomy)} species; give more samples")
    traits, places, ranges, counts = (np.random.default_rng([config.seed, stream]) for stream in range(4))
    sites = draw_sites(config.sites, places)
    return World(
        config=config,
        taxonomy=taxonomy,
        sites=sites,
        log_range=log_ranges(sites, config, ranges),
        image=image_model(draw_traits(taxonomy, config, traits), config),
        phase=phase_probability(config.year_shift),
        counts=training_counts(samples, counts),
    )


def draw_records(
    world: World, rng: np.random.Generator, *, species: IntArray | None = None, recorded: IntArray | None = None
) -> Records:
    """Draw the hidden state of samples.

    Args:
        world: The world.
        rng: Random numbers.
        species: [N] true species; the recorded one follows from it.
        recorded: [N] recorded species instead, as for a set that holds the same number of records of each; the true one
            is drawn from p(species | recorded).

    Returns:
        One row a sample.
    """
    wrong, count = world.config.wrong_labels, len(world.counts)
    if species is not None and recorded is None:
        replaced = rng.random(len(species)) < wrong
        recorded = np.where(replaced, rng.integers(0, count, len(species)), species)
    elif recorded is not None and species is None:
        right = (1 - wrong) * world.prior / world.recorded_prior
        other = rng.choice(count, size=len(recorded), p=world.prior)
        species = np.where(rng.random(len(recorded)) < right[recorded], recorded, other)
    else:
        raise TypeError("give either the true or the recorded species")
    site = _draw_rows(np.exp(world.log_range), species, rng)
    return Records(
        recorded=recorded,
        species=species,
        site=site,
        phase=_draw_rows(world.phase, world.sites.zone[site], rng),
        mixture=rng.choice(len(world.image.mixture), size=len(site), p=world.image.mixture),
    )


def _draw_rows(table: FloatArray, row: IntArray, rng: np.random.Generator) -> IntArray:
    """A column for each sample, with the probabilities of its row of a table."""
    result = np.empty(len(row), dtype=np.int64)
    chance = rng.random(len(row))
    for value in np.unique(row):
        here = row == value
        edges = np.cumsum(table[value])
        result[here] = np.searchsorted(edges / edges[-1], chance[here], side="right")
    return result


def draw_environment(world: World, records: Records, rng: np.random.Generator) -> NDArray[np.float32]:
    """The 27 variables of samples, NaN where missing; [N, 27].

    Position is never missing. Terrain, soil and climate can be missing as a whole, any other value by itself.
    """
    config, sites, site = world.config, world.sites, records.site
    count = len(site)
    values = sites.environment[site]
    spread = np.hypot(config.scatter_km, config.coordinate_error_km) / KM_PER_DEGREE
    offset = spread * rng.standard_normal((count, 2))
    offset[:, 0] /= np.cos(np.radians(sites.latitude[site]))
    noise = np.where(np.isfinite(NOISE), NOISE, 0) * rng.standard_normal(values.shape)
    for column in LOGARITHMIC:
        noise[:, column] = values[:, column] * np.expm1(noise[:, column])
    noise[:, :2] = offset
    values = values + noise
    values[:, _ASPECT] = 360 * rng.random(count)
    missing = rng.random(values.shape) < _VALUE_MISSING * config.missing
    for group, share in _GROUP_MISSING.items():
        missing[:, GROUPS[group]] |= rng.random((count, 1)) < share * config.missing
    missing[:, GROUPS["location"]] = False
    return np.where(missing, np.nan, values).astype(np.float32)


def draw_visible(world: World, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which pixels are seen in which month, [N, T, P]: some samples are cloudier than others, some months partly."""
    mean = world.config.cloud
    share = rng.beta(4 * mean, 4 * (1 - mean), (count, 1)) if mean > 0 else np.zeros((count, 1))
    lost = rng.random((count, MONTHS)) < share
    part = np.where(rng.random((count, MONTHS)) < _PARTLY * (mean > 0), rng.uniform(0.2, 0.8, (count, MONTHS)), 0)
    return (rng.random((count, MONTHS, PATCH * PATCH)) >= part[..., None]) & ~lost[..., None]


def draw_images(world: World, records: Records, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Digital numbers of samples, `MISSING_DN` where a pixel is not seen; [N, T, C, 5, 5]."""
    count, model = len(records.site), world.image
    visible = draw_visible(world, count, rng)
    rings = model.mean[records.species, records.phase, records.mixture] + shared_effects(model, count, rng)
    log = rings[:, :, RING.ravel()].swapaxes(2, 3).astype(np.float32)  # [N, T, C, P]
    log += np.float32(model.pixel_noise) * rng.standard_normal(log.shape, dtype=np.float32)
    values = np.clip(np.rint(np.exp(log)), 1, 20_000)
    values = np.where(visible[:, :, None], values, MISSING_DN).astype(np.uint16)
    return values.reshape(count, MONTHS, len(BANDS), PATCH, PATCH)


def shared_effects(model: ImageModel, count: int, rng: np.random.Generator) -> FloatArray:
    """Effects that the pixels of a ring share: those of all months and those of one; [N, T, R, C]."""
    rings, bands = model.mean.shape[-2:]
    sample = np.einsum("nrcj,jt->ntrc", rng.standard_normal((count, rings, bands, len(model.waves))), model.waves)
    month = rng.standard_normal((count, MONTHS, rings, bands))
    effects = sample * np.sqrt(model.sample_variance) + month * np.sqrt(model.month_variance)
    return np.asarray(effects @ model.axes.T, dtype=np.float64)
