"""The exact posterior of the planted forest: p(species | the tensors given), all else summed or integrated out.

Letters: N samples, S species, M sites, F phases, K mixtures, X = S F K states, T months, R rings, C bands, J effects of
a sample on an axis (3), V variables.

**Images.** Pixels of a ring differ by independent noise alone, so the mean of the pixels seen of each month, ring and
band says all that the pixels say about the species. Rings are independent given the state, and so are bands on the axes
of the variation V. Take one ring and one axis, and stack its monthly means into y [T] and those of a state into m_x.
Given the state, y ~ N(m_x, D + B B'), where the diagonal D holds month variance + pixel_noise^2 / n for n pixels seen,
and B [T, 3] the effects of the sample. A month of which nothing is seen has no precision, so it drops out. Then

    (D + B B')^-1 = P - A' A,   P = D^-1,   A = G^-1 B' P,   G G' = 1 + B' P B,

and as the covariance is the same for every state,

    log p(images | x) = sum_rc { -1/2 m_x' P m_x + 1/2 |A m_x|^2 + (P y - A' A y)' m_x } + const,

which is a few matrix products for all samples and states at once.

**Environment.** Given the site, variables are independent and normal (or log-normal), missing ones drop out, and the
position is normal about the site with the scatter and the coordinate error together; the sum over sites is exact.

**Together.** p(s | all) ~ prior_s sum_f p(images | s, f) sum_m p(f | zone of m) p(environment | m) p(m | s). The true
position, mixture, phase, effects and missing values are thus integrated out. Left out is only the rounding to whole
digital numbers, a few thousandths of the pixel noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.climate import KM_PER_DEGREE, LOGARITHMIC, NOISE, ZONES
from geotreeclip.demo.spectra import RING, ImageModel
from geotreeclip.demo.world import Records, World, draw_visible, shared_effects
from geotreeclip.schema import GROUPS, MISSING_DN, VARIABLES

__all__ = ["INPUTS", "RingMeans", "draw_ring_means", "image_log_likelihood", "posterior", "ring_means", "zone_table"]

FloatArray = NDArray[np.float64]

_RINGS = 2

INPUTS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "all": (True, ("location", "terrain", "soil", "climate")),
    "no-location": (True, ("terrain", "soil", "climate")),
    "image": (True, ()),
    "environment": (False, ("location", "terrain", "soil", "climate")),
}
"""Name of a choice of inputs -> whether images are given, and which groups of variables."""


class RingMeans(NamedTuple):
    """What images say about their species.

    Attributes:
        mean: [N, T, R, C] mean log digital number of the pixels seen, 0 where none is.
        pixels: [N, T, R] number of pixels seen.
    """

    mean: FloatArray
    pixels: FloatArray


def ring_means(images: NDArray[np.uint16]) -> RingMeans:
    """Reduce digital numbers [N, T, C, 5, 5]; a pixel is seen in all bands or in none, as worlds have it."""
    flat = images.reshape(*images.shape[:3], -1)
    seen = flat[:, :, 0] != MISSING_DN
    rings = np.stack([RING.ravel() == ring for ring in range(_RINGS)], axis=1).astype(np.float64)
    count = seen @ rings
    log = np.where(seen[:, :, None], np.log(np.maximum(flat, 1).astype(np.float64)), 0.0)
    total = (log @ rings).swapaxes(2, 3)
    return RingMeans(total / np.maximum(count, 1)[..., None], count)


def draw_ring_means(world: World, records: Records, rng: np.random.Generator) -> RingMeans:
    """Draw what `ring_means` would give for fresh images, without drawing their pixels."""
    model, size = world.image, len(records.site)
    visible = draw_visible(world, size, rng)
    count = np.stack([visible[..., RING.ravel() == ring].sum(axis=-1) for ring in range(_RINGS)], axis=-1)
    mean = model.mean[records.species, records.phase, records.mixture] + shared_effects(model, size, rng)
    noise = model.pixel_noise / np.sqrt(np.maximum(count, 1))
    mean = mean + noise[..., None] * rng.standard_normal(mean.shape)
    return RingMeans(np.where(count[..., None] > 0, mean, 0.0), count.astype(np.float64))


def image_log_likelihood(model: ImageModel, seen: RingMeans, dtype: type[np.floating] = np.float32) -> FloatArray:
    """Log of p(images | species, phase), mixtures summed, up to a constant of each sample; [N, S, F].

    Args:
        model: Means and covariance.
        seen: What the images say.
        dtype: Precision of the products of samples and states. In float32, four times as fast, a log-likelihood is off
            by a thousandth, a probability by less than 0.001 and a ceiling by nothing that shows.
    """
    species, phases, mixtures = model.mean.shape[:3]
    size = len(seen.pixels)
    centre = model.mean.mean(axis=(0, 1, 2))  # makes the numbers small; the same shift on both sides
    state = ((model.mean - centre) @ model.axes).reshape(-1, *centre.shape)  # [X, T, R, C]
    y = (seen.mean - centre) @ model.axes
    pixels = seen.pixels[..., None]
    precision = pixels / (pixels * model.month_variance + model.pixel_noise**2)  # P, [N, T, R, C]
    effects = model.waves[:, :, None] * np.sqrt(model.sample_variance)  # B, [J, T, C]
    shared = precision[:, None] * effects[:, :, None]  # B' P, [N, J, T, R, C]
    inner = np.eye(len(effects)) + np.einsum("njtrc,itc->nrcji", shared, effects)
    lower = np.linalg.inv(np.linalg.cholesky(inner))
    projected = np.einsum("nrcij,njtrc->rcint", lower, shared)  # A
    state, y, precision, projected = (values.astype(dtype) for values in (state, y, precision, projected))
    score = _flat(precision * y) @ _flat(state).T - 0.5 * _flat(precision) @ _flat(state**2).T
    for r, c in np.ndindex(projected.shape[:2]):
        for a in projected[r, c]:
            on_state = a @ state[:, :, r, c].T
            score += on_state * (0.5 * on_state - (a * y[:, :, r, c]).sum(axis=1, keepdims=True))
    table = score.reshape(size, species, phases, mixtures).astype(np.float64)
    peak = table.max(axis=3, keepdims=True)
    return np.asarray(np.log(np.exp(table - peak) @ model.mixture) + peak[..., 0], dtype=np.float64)


def _flat(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return values.reshape(len(values), -1)


def site_log_likelihood(world: World, environment: NDArray[np.floating], groups: tuple[str, ...]) -> FloatArray:
    """Log of p(variables of the groups | site), missing ones left out, up to a constant of each sample; [N, M]."""
    config, sites = world.config, world.sites
    used = [v for group in groups for v in GROUPS[group] if not np.isinf(NOISE[v])]
    spread = np.broadcast_to(NOISE, sites.environment.shape).copy()
    spread[:, :2] = np.hypot(config.scatter_km, config.coordinate_error_km) / KM_PER_DEGREE
    spread[:, 0] /= np.cos(np.radians(sites.latitude))
    logarithmic = np.isin(np.arange(len(VARIABLES)), LOGARITHMIC)

    def axes(values: FloatArray) -> FloatArray:
        return np.where(logarithmic, np.log(np.where(logarithmic, values, 1.0)), values)[:, used]

    at_site = axes(sites.environment)
    middle = at_site.mean(axis=0)
    at_site = at_site - middle
    observed = axes(np.asarray(environment, dtype=np.float64)) - middle
    given = np.isfinite(observed)
    observed = np.where(given, observed, 0.0)
    precision = 1 / spread[:, used] ** 2
    quadratic = observed**2 @ precision.T - 2 * observed @ (at_site * precision).T
    quadratic += given @ (at_site**2 * precision - np.log(precision)).T
    return np.asarray(-0.5 * quadratic, dtype=np.float64)


def zone_table(world: World, environment: NDArray[np.floating] | None, groups: tuple[str, ...]) -> FloatArray:
    """p(variables of the groups, zone | species) up to a constant of each sample, [N, S, Q]; N = 1 without groups."""
    sites, ranges = world.sites, np.exp(world.log_range)  # [S, M]
    zones = [np.flatnonzero(sites.zone == zone) for zone in range(ZONES)]
    if not groups or environment is None:
        return np.stack([ranges[:, zone].sum(axis=1) for zone in zones], axis=-1)[None]
    at_site = site_log_likelihood(world, environment, groups)
    at_site = np.exp(at_site - at_site.max(axis=1, keepdims=True), dtype=np.float32).astype(np.float64)
    return np.stack([at_site[:, zone] @ ranges[:, zone].T for zone in zones], axis=-1)


def posterior(world: World, images: FloatArray | None, zones: FloatArray) -> FloatArray:
    """p(true species | what is given) under the training prior, [N, S].

    Args:
        world: The world.
        images: [N, S, F] from `image_log_likelihood`, or None for none.
        zones: [N or 1, S, Q] from `zone_table`.
    """
    if images is None:
        joint = zones.sum(axis=-1)
    else:
        peak = images.max(axis=(1, 2), keepdims=True)
        joint = (np.exp(images - peak) * (zones @ world.phase)).sum(axis=-1)
    joint = joint * world.prior
    return np.asarray(joint / joint.sum(axis=1, keepdims=True), dtype=np.float64)
