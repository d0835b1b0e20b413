"""A second family of planted worlds, in published shard format, with an exact ceiling.

    python benchmarks/planted_worlds.py --out WORLD --seed 0
    geotreeclip pack WORLD/train.tar --out WORLD/train --worldclim 2.1
    geotreeclip pack WORLD/test.tar --out WORLD/test --worldclim 2.1 && cp WORLD/ceiling.json WORLD/test/
    python train/clip.py --config train/configs/laptop.yaml --data WORLD/train --out WORLD/run
    python eval/zero_shot.py --model WORLD/run --data WORLD/test --out WORLD/run/report.json

It shares nothing with `geotreeclip.demo` but the format, so that a recipe that fits the demo world alone is found out.
Ninety species with a long tail. Given the species, log reflectance, climate and place are Gaussian (place: a mixture
of ranges on the sphere), so p(species | tensors) is computed exactly:

    log reflectance[t, c, pixel] = m[s, t + 6 (southern), c] + U a + W_t b_t + e[t, c] + n[t, c, pixel]

with sample effects a, month effects b_t, e independent between months and bands, and pixel noise n. The pixel mean is
sufficient for the species; whole months are lost at random.
Shapes: N samples, S species, T months, C bands, V variables.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from geotreeclip.data.published import PublishedSample, write_published
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxon

SPECIES, GENERA, FAMILIES, MONTHS, BANDS = 90, 36, 14, 12, 10
LEAF_TYPES = ("Deciduous Broadleaf", "Evergreen Broadleaf", "Evergreen Needleleaf", "Deciduous Needleleaf")
ASPECT = VARIABLE_INDEX["aspect"] - 2
# log of typical vegetation reflectance x 10,000 in stored band order (B2 B3 B4 B8 B5 B6 B7 B8A B11 B12)
LEVEL = np.log([400, 650, 500, 2800, 1000, 2200, 2700, 2900, 1800, 900])


class World:
    """Truth of one world, drawn by seed."""

    def __init__(self, seed: int, contrast: float) -> None:
        rng = np.random.default_rng([seed, 90])
        genus = np.sort(np.concatenate([np.arange(GENERA), rng.integers(0, GENERA, SPECIES - GENERA)]))
        family = np.sort(rng.integers(0, FAMILIES, GENERA))
        leaf = rng.integers(0, len(LEAF_TYPES), FAMILIES)
        self.taxa = [
            Taxon(
                LEAF_TYPES[leaf[family[g]]], f"Family{family[g]:02d}aceae", f"Genus{g:02d}", f"Genus{g:02d} sp{s:02d}"
            )
            for s, g in enumerate(genus)
        ]
        share = rng.lognormal(0, 1.3, SPECIES)
        self.prior = np.maximum(share / share.sum(), 1.5e-3)
        self.prior /= self.prior.sum()

        def inherit(*shape: int) -> np.ndarray:
            """A trait: a third of its variance by family, a third by genus, a third by species."""
            parts = rng.normal(size=(FAMILIES, *shape))[family[genus]], rng.normal(size=(GENERA, *shape))[genus]
            return (sum(parts) + rng.normal(size=(SPECIES, *shape))) / np.sqrt(3)

        phase = 2 * np.pi * np.arange(MONTHS) / MONTHS
        season = np.stack([np.ones(MONTHS), np.cos(phase), np.sin(phase), np.cos(2 * phase), np.sin(2 * phase)])
        season *= np.array([1, 0.8, 0.8, 0.4, 0.4])[:, None]
        colours = rng.normal(size=(6, BANDS)) * 0.8
        self.mean = contrast * np.einsum("skj,kt,jc->stc", inherit(5, 6), season, colours)
        green = -0.25 * np.cos(phase)[:, None] * np.array([-0.5, 0, -0.8, 1, 0, 0.8, 1, 1, -0.3, -0.6])
        self.mean += LEVEL + green
        self.sample_effects = rng.normal(size=(6, BANDS)) * 0.12
        self.month_effects = rng.normal(size=(3, BANDS)) * 0.12
        self.noise, self.pixel_noise = 0.12, 0.15
        self.niche = 0.8 * inherit(5)
        self.loadings = rng.normal(size=(5, 25)) / np.sqrt(5)
        self.loadings[:, ASPECT] = 0  # an angle says nothing here; it is drawn evenly
        # A variable stays within a third of its plausible range about the middle, five deviations out.
        self.middle = np.array([(v.low + v.high) / 2 for v in VARIABLES[2:]])
        self.scale = np.array([(v.high - v.low) / 30 for v in VARIABLES[2:]])
        centre = rng.normal(size=(SPECIES, 3, 3))
        self.centre = centre / np.linalg.norm(centre, axis=-1, keepdims=True)
        self.range_share = rng.dirichlet(np.ones(3) * 0.7, SPECIES)
        self.range_width = 0.6

    def sample(self, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw observations: images [N,T,C,5,5] digital numbers with NaN, environment [N,27], label [N]."""
        label = rng.choice(SPECIES, count, p=self.prior)
        part = (rng.random(count)[:, None] > self.range_share[label].cumsum(1)).sum(1).clip(max=2)
        place = self.centre[label, part] + self.range_width * rng.normal(size=(count, 3))
        place /= np.linalg.norm(place, axis=1, keepdims=True)
        latitude, longitude = np.degrees(np.arcsin(place[:, 2])), np.degrees(np.arctan2(place[:, 1], place[:, 0]))
        climate = self.niche[label] + rng.normal(size=(count, 5))
        variables = (climate @ self.loadings + 0.3 * rng.normal(size=(count, 25))) * self.scale + self.middle
        variables[:, ASPECT] = rng.uniform(0, 360, count)
        variables[rng.random((count, 25)) < 0.05] = np.nan
        months = (np.arange(MONTHS) + 6 * (latitude < 0)[:, None]) % MONTHS
        mean = self.mean[label[:, None], months]
        mean = mean + (rng.normal(size=(count, 1, 6)) @ self.sample_effects[None])
        mean = (
            mean + rng.normal(size=(count, MONTHS, 3)) @ self.month_effects + self.noise * rng.normal(size=mean.shape)
        )
        pixels = mean[..., None, None] + self.pixel_noise * rng.normal(size=(*mean.shape, 5, 5))
        images = np.exp(pixels).clip(1, 12000)
        images[rng.random((count, MONTHS)) < 0.2] = np.nan
        environment = np.concatenate([longitude[:, None], latitude[:, None], variables], axis=1)
        return {"images": images, "environment": environment, "label": label}

    def log_posterior(self, data: dict[str, np.ndarray]) -> np.ndarray:
        """Log p(species | images, environment) up to rounding, [N, S]: Gaussian, the missing left out exactly."""
        longitude, latitude = np.radians(data["environment"][:, 0]), np.radians(data["environment"][:, 1])
        place = np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], 1
        )
        score = np.log(self.prior) + self._log_place(place)
        covariance = self.loadings.T @ self.loadings + 0.09 * np.eye(25)
        season_noise = self.noise**2 + self.pixel_noise**2 / 25
        block = self.month_effects.T @ self.month_effects + season_noise * np.eye(BANDS)
        image_cov = np.kron(np.eye(MONTHS), block) + np.kron(
            np.ones((MONTHS, MONTHS)), self.sample_effects.T @ self.sample_effects
        )
        expected = self.niche @ self.loadings
        for i in range(len(score)):
            value = (data["environment"][i, 2:] - self.middle) / self.scale
            value[ASPECT] = np.nan
            score[i] += _log_normal(value, expected, covariance)
            means = self.mean[:, (np.arange(MONTHS) + 6 * (latitude[i] < 0)) % MONTHS].reshape(SPECIES, -1)
            score[i] += _log_normal(np.log(data["images"][i]).mean((-1, -2)).ravel(), means, image_cov)
        return score - np.logaddexp.reduce(score, axis=1, keepdims=True)

    def _log_place(self, place: np.ndarray) -> np.ndarray:
        """Log density of a direction under the projected normal mixtures, up to a constant: integrate the radius."""
        radius = np.linspace(0.02, 4, 200)
        cosine = np.einsum("nd,skd->nsk", place, self.centre)
        density = np.zeros_like(cosine)
        for r in radius:
            density += r**2 * np.exp(-(r**2 - 2 * r * cosine + 1) / (2 * self.range_width**2))
        return np.log(np.einsum("nsk,sk->ns", density, self.range_share))


def _log_normal(value: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Log density of a partly missing vector under Gaussians of common covariance, up to a constant, [S]."""
    seen = np.isfinite(value)
    if not seen.any():
        return np.zeros(len(means))
    whitened = np.linalg.solve(np.linalg.cholesky(covariance[np.ix_(seen, seen)]), (value - means)[:, seen].T)
    return -0.5 * (whitened**2).sum(0)


def main() -> None:
    """Write train.tar, test.tar and ceiling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=16_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--contrast", type=float, default=0.015)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    world = World(options.seed, options.contrast)
    for number, (name, count) in enumerate((("train", options.train), ("test", options.test))):
        data = world.sample(count, np.random.default_rng([options.seed, 91, number]))
        write_published(
            options.out / f"{name}.tar",
            (
                PublishedSample(
                    f"{name}{i}",
                    data["images"][i].round(),
                    data["environment"][i],
                    world.taxa[label],
                    f"{name}{i}",
                    name,
                )
                for i, label in enumerate(data["label"])
            ),
        )
        print(f"{name}: {count:,} samples, {len(np.unique(data['label']))} species")
        if name == "test":
            posterior = np.exp(world.log_posterior(data))
            ceiling = float(posterior.max(1).mean())
            reached = float((posterior.argmax(1) == data["label"]).mean())
            print(f"ceiling: top-1 {ceiling:.1%} expected, {reached:.1%} on these test samples")
            row = {
                "metric": "top1",
                "rank": "species",
                "inputs": "all",
                "prior": "training",
                "value": ceiling,
                "n": count,
            }
            (options.out / "ceiling.json").write_text(json.dumps([row], indent=1))


if __name__ == "__main__":
    main()
