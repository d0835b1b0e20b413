import numpy as np
import pytest

from geotreeclip.demo.ceiling import bayes_probabilities
from geotreeclip.demo.climate import LOGARITHMIC, NOISE
from geotreeclip.demo.config import world_config
from geotreeclip.demo.posterior import (
    INPUTS,
    draw_ring_means,
    image_log_likelihood,
    posterior,
    ring_means,
    site_log_likelihood,
    zone_table,
)
from geotreeclip.demo.spectra import RING
from geotreeclip.demo.world import build_world, draw_environment, draw_images, draw_records
from geotreeclip.schema import GROUPS, MISSING_DN


@pytest.fixture(scope="module")
def world():
    return build_world(world_config(seed=3, sites=300, coordinate_error_km=20, contrast=0.05), 200)


@pytest.fixture(scope="module")
def drawn(world):
    rng = np.random.default_rng(1)
    records = draw_records(world, rng, species=rng.integers(0, 60, 4))
    images, environment = draw_images(world, records, rng), draw_environment(world, records, rng)
    images[:, [0, 2, 3, 5, 6, 8, 9, 11]] = MISSING_DN  # few months and pixels, so that the dense matrix stays small
    images[0, :, :, 1:4, 1:4] = MISSING_DN  # no pixel of the centre
    images[1, 4, :, 0] = MISSING_DN  # a part of the border
    environment[2, list(GROUPS["climate"])] = np.nan
    environment[3, [2, 6, 20]] = np.nan
    return images, environment


def dense_image_likelihood(world, image):
    """Log-likelihood of every state from the covariance of all pixels seen, without any reduction; [S, F, K]."""
    model = world.image
    month, pixel = np.nonzero(image[:, 0].reshape(12, 25) != MISSING_DN)
    y = np.log(image.reshape(12, 10, 25)[month, :, pixel].astype(float)).ravel()  # (month, pixel), band
    sample = model.axes @ np.diag(model.sample_variance) @ model.axes.T
    own = model.axes @ np.diag(model.month_variance) @ model.axes.T
    waves = model.waves[:, month].T @ model.waves[:, month]
    ring = RING.ravel()[pixel]
    together = ring[:, None] == ring
    covariance = np.kron(waves * together, sample) + np.kron((month[:, None] == month) & together, own)
    covariance += model.pixel_noise**2 * np.eye(len(y))
    lower = np.linalg.cholesky(covariance)
    means = model.mean[..., month, RING.ravel()[pixel], :].reshape(*model.mean.shape[:3], -1)
    white = np.linalg.solve(lower, (y - means).reshape(-1, len(y)).T)
    return -0.5 * (white**2).sum(axis=0).reshape(model.mean.shape[:3])


def dense_site_likelihood(world, row, groups):
    """The same for the environment of one sample, one variable at a time; [M]."""
    sites, config = world.sites, world.config
    total = np.zeros(len(sites))
    for v in (v for group in groups for v in GROUPS[group]):
        if np.isnan(row[v]) or np.isinf(NOISE[v]):
            continue
        spread, value, centre = np.full(len(sites), NOISE[v]), float(row[v]), sites.environment[:, v]
        if v < 2:
            spread[:] = np.hypot(config.scatter_km, config.coordinate_error_km) / 111.2
            spread /= np.cos(np.radians(sites.latitude)) if v == 0 else 1
        elif v in LOGARITHMIC:
            value, centre = np.log(value), np.log(centre)
        total += -0.5 * ((value - centre) / spread) ** 2 - np.log(spread)
    return total


def test_images_as_a_dense_normal_distribution(world, drawn):
    fast = image_log_likelihood(world.image, ring_means(drawn[0]), np.float64)
    for row, image in zip(fast, drawn[0], strict=True):
        dense = dense_image_likelihood(world, image)
        summed = np.log((np.exp(dense - dense.max()) * world.image.mixture).sum(axis=-1))
        np.testing.assert_allclose(row - row.max(), summed - summed.max(), atol=1e-6)


def test_environment_one_variable_at_a_time(world, drawn):
    for groups in (INPUTS["environment"][1], ("terrain", "soil")):
        fast = site_log_likelihood(world, drawn[1], groups)
        for row, values in zip(fast, drawn[1], strict=True):
            dense = dense_site_likelihood(world, values, groups)
            np.testing.assert_allclose(row - row.max(), dense - dense.max(), atol=1e-5)


@pytest.mark.parametrize("inputs", list(INPUTS))
def test_posterior_by_plain_sums(world, drawn, inputs):
    images, environment = drawn
    with_images, groups = INPUTS[inputs]
    fast = bayes_probabilities(world, images, environment, inputs=(inputs,))[inputs]
    for n in range(len(images)):
        state = np.exp((dense := dense_image_likelihood(world, images[n])) - dense.max()) @ world.image.mixture
        site = dense_site_likelihood(world, environment[n], groups)
        joint = np.zeros(60)
        for s in range(60):
            for f in range(world.phase.shape[1]):
                at_site = np.exp(site - site.max() + world.log_range[s]) * world.phase[world.sites.zone, f]
                joint[s] += world.prior[s] * at_site.sum() * (state[s, f] if with_images else 1)
        np.testing.assert_allclose(fast[n], joint / joint.sum(), atol=1e-3)


def test_single_precision_is_enough(world):
    rng = np.random.default_rng(8)
    seen = draw_ring_means(world, draw_records(world, rng, species=rng.integers(0, 60, 200)), rng)
    zones = zone_table(world, None, ())
    single, double = (
        posterior(world, image_log_likelihood(world.image, seen, dtype), zones) for dtype in (np.float32, np.float64)
    )
    assert np.abs(single - double).max() < 1e-3
    assert np.abs(single.max(axis=1).mean() - double.max(axis=1).mean()) < 1e-5


def test_nothing_seen_gives_the_prior(world):
    empty = ring_means(np.full((1, 12, 10, 5, 5), MISSING_DN, dtype=np.uint16))
    got = posterior(world, image_log_likelihood(world.image, empty), zone_table(world, None, ()))
    np.testing.assert_allclose(got[0], world.prior, atol=1e-12)


def test_ring_means_drawn_directly_are_those_of_drawn_images(world):
    records = draw_records(world, np.random.default_rng(0), species=np.full(400, 7))
    records = records._replace(phase=np.zeros(400, int), mixture=np.zeros(400, int))
    direct = draw_ring_means(world, records, np.random.default_rng(1))
    pixels = ring_means(draw_images(world, records, np.random.default_rng(2)))
    assert direct.pixels.mean() == pytest.approx(pixels.pixels.mean(), rel=0.06)
    deviations = []
    for means in (direct, pixels):
        seen = means.pixels[:, 6, 0] >= 1
        deviations.append(np.cov(means.mean[seen, 6, 0].T))
        error = np.sqrt(np.diagonal(deviations[-1]) / seen.sum())
        assert (np.abs(means.mean[seen, 6, 0].mean(axis=0) - world.image.mean[7, 0, 0, 6, 0]) < 4.5 * error).all()
    np.testing.assert_allclose(deviations[0], deviations[1], atol=0.25 * deviations[0].max())


def test_rounding_to_whole_digital_numbers_is_negligible(world):
    rng = np.random.default_rng(4)
    records = draw_records(world, rng, species=rng.integers(0, 60, 150))
    images = draw_images(world, records, rng)
    environment = draw_environment(world, records, rng)
    exact = ring_means(images)
    # Another rounding of the same size on top: uniform over half a digital number either way.
    values = np.where(images == MISSING_DN, 1, images) + rng.uniform(-0.5, 0.5, images.shape)
    seen = (images != MISSING_DN).reshape(*images.shape[:3], 25)
    log = np.where(seen, np.log(np.maximum(values, 0.5)).reshape(seen.shape), 0)
    rings = np.stack([RING.ravel() == ring for ring in range(2)], axis=1)
    other = exact._replace(mean=(log @ rings).swapaxes(2, 3) / np.maximum(exact.pixels, 1)[..., None])
    first, second = (bayes_probabilities(world, means, environment)["all"] for means in (exact, other))
    assert np.abs(first.max(axis=1).mean() - second.max(axis=1).mean()) < 5e-4
    assert np.abs(first - second).max() < 0.05
