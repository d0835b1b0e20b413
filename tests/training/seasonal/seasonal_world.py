"""A small world with known factors: place, season (half a year on in the south), and nothing else."""

import numpy as np

from geotreeclip.data.writer import PackedWriter
from geotreeclip.taxonomy import Taxon

YEAR = 2 * np.pi


def write_world(path, samples=320, seed=0, missing=0.0):
    """Twelve months of patches: a spectrum of the place, and two directions of the season."""
    generator = np.random.default_rng(seed)
    place = generator.normal(0, 400, (samples, 1, 10, 1, 1))
    latitude = generator.choice([-1, 1], samples) * generator.uniform(15, 60, samples)
    angle = season_angle(np.arange(12), latitude)
    first, second = generator.normal(0, 700, (2, 10))
    season = np.cos(angle)[..., None] * first + np.sin(angle)[..., None] * second
    images = 3500 + place + season[..., None, None] + generator.normal(0, 30, (samples, 12, 10, 5, 5))
    images = images.clip(1, 9000).astype(np.uint16)
    images[generator.random((samples, 12)) < missing] = 65535
    environment = np.full((samples, 27), np.nan, np.float32)
    environment[:, 0] = generator.uniform(-180, 180, samples)
    environment[:, 1] = latitude
    taxa = [Taxon("a", "F", "G", f"G s{i % 3}") for i in range(samples)]
    with PackedWriter(path, None, chunk_samples=64) as writer:
        writer.add(images, environment, taxa, [f"s{i}" for i in range(samples)])
    return path


def season_angle(month, latitude):
    """Angle of the season in the middle of months, [N, T]."""
    return (np.asarray(month) + 0.5) / 12 * YEAR + np.where(np.asarray(latitude) < 0, np.pi, 0.0)[:, None]
