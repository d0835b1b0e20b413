"""The Bayes ceiling of a planted forest: what the best of all classifiers scores, by Monte Carlo over fresh samples.

No rule beats the one that names the species of the highest posterior, and its accuracy is

    ceiling = E[ max_y p(recorded species = y | tensors given) ],

with the expectation over samples of the set. It is estimated by the mean of the maximum over samples drawn afresh,
which varies less than the share of hits; top-5 takes the five largest, and a coarser rank sums the posterior within its
groups first. Two kinds of sets are meant:

- prior `training`: species as frequent as in training, as in the validation and test roles of the default split;
- prior `uniform`: the same number of records of each species (a quota), as in the published evaluation sets. Its value
  is also the highest macro accuracy (mean over species of the share of hits) on any set of the world.

Wrong labels: with q the posterior of the true species, e the share of wrong ones and S species, the recorded one has
(1 - e) q + e / S; under the uniform prior that is divided by the recorded share of each species and made to sum to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.posterior import (
    INPUTS,
    RingMeans,
    draw_ring_means,
    image_log_likelihood,
    posterior,
    ring_means,
    zone_table,
)
from geotreeclip.demo.world import Records, World, draw_environment, draw_records
from geotreeclip.schema import RANKS
from geotreeclip.taxonomy import log_sum_groups

__all__ = ["CEILING_SAMPLES", "bayes_probabilities", "ceiling_rows", "fresh_posteriors", "recorded_posterior"]

FloatArray = NDArray[np.float64]

CEILING_SAMPLES = 16_000
"""Fresh samples for each prior: a standard error of about 0.2 points."""

_CHUNK = 256
_NORMAL_95 = 1.959964


def recorded_posterior(world: World, true: FloatArray, prior: str) -> FloatArray:
    """Posterior of the recorded species from that of the true one under the training prior, [N, S].

    Args:
        world: The world.
        true: [N, S].
        prior: `training` or `uniform`.
    """
    wrong = world.config.wrong_labels
    recorded = (1 - wrong) * true + wrong / true.shape[1]
    if prior == "uniform":
        recorded = recorded / world.recorded_prior
        recorded = recorded / recorded.sum(axis=1, keepdims=True)
    return np.asarray(recorded, dtype=np.float64)


def fresh_posteriors(
    world: World, prior: str, samples: int, seed: int, inputs: tuple[str, ...] = tuple(INPUTS)
) -> tuple[Records, dict[str, FloatArray]]:
    """Draw samples and the posterior of their recorded species for each choice of inputs.

    Species are spread over the samples as evenly as the prior allows (systematic sampling), which lowers the error.

    Args:
        world: The world.
        prior: `training` or `uniform`, both of the set drawn and of the posterior.
        samples: N.
        seed: Another seed draws other samples.
        inputs: Keys of `INPUTS`.

    Returns:
        Hidden state of the samples, and [N, S] for each choice.
    """
    rng = np.random.default_rng([world.config.seed, 100, seed, prior == "uniform"])
    share = np.cumsum(world.prior if prior == "training" else np.full(len(world.prior), 1 / len(world.prior)))
    places = (np.arange(samples) + rng.random()) / samples
    species = np.minimum(np.searchsorted(share, places, side="right"), len(share) - 1)
    if prior == "training":
        records = draw_records(world, rng, species=species)
    else:
        records = draw_records(world, rng, recorded=species)
    environment = draw_environment(world, records, rng)
    seen = draw_ring_means(world, records, rng)
    return records, bayes_probabilities(world, seen, environment, prior, inputs)


def bayes_probabilities(
    world: World,
    images: RingMeans | NDArray[np.uint16] | None,
    environment: NDArray[np.floating],
    prior: str = "training",
    inputs: tuple[str, ...] = tuple(INPUTS),
) -> dict[str, FloatArray]:
    """The posterior of the recorded species of samples of this world, [N, S] for each choice of inputs.

    Args:
        world: The world that the samples come from.
        images: Digital numbers [N, T, C, 5, 5] or their ring means; None if no choice uses images.
        environment: [N, 27], NaN where missing.
        prior: `training` or `uniform`.
        inputs: Keys of `INPUTS`.
    """
    found: dict[str, list[FloatArray]] = {name: [] for name in inputs}
    for part in _chunks(len(environment)):
        table = None
        if images is not None and any(INPUTS[name][0] for name in inputs):
            seen = RingMeans(*(a[part] for a in images)) if isinstance(images, RingMeans) else ring_means(images[part])
            table = image_log_likelihood(world.image, seen)
        choices = {INPUTS[name][1] for name in inputs}
        zones = {groups: zone_table(world, environment[part], groups) for groups in choices}
        for name in inputs:
            with_images, groups = INPUTS[name]
            true = posterior(world, table if with_images else None, zones[groups])
            found[name].append(recorded_posterior(world, true, prior))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _chunks(samples: int) -> Iterator[slice]:
    for start in range(0, samples, _CHUNK):
        yield slice(start, min(start + _CHUNK, samples))


def ceiling_rows(world: World, samples: int = CEILING_SAMPLES, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a report: top-1 and top-5 of each choice of inputs, rank and prior, with 95 % Monte-Carlo intervals.

    Under the uniform prior the value stands twice: as `top1` of the split `quota` and as `macro_top1` of any.

    Args:
        world: The world.
        samples: Fresh samples for each prior.
        seed: Of the fresh samples.
    """
    rows = []
    for prior in ("training", "uniform"):
        _, tables = fresh_posteriors(world, prior, samples, seed)
        for inputs, table in tables.items():
            for rank in reversed(RANKS):
                taxa, group = world.taxonomy.names(rank)
                with np.errstate(divide="ignore"):
                    sums = np.exp(log_sum_groups(np.log(table), group, len(taxa)))
                for k in (1, 5):
                    if k < len(taxa):
                        score = np.partition(sums, -k, axis=1)[:, -k:].sum(axis=1)
                        rows += _metric_rows(score, f"top{k}", rank, inputs, prior)
    return rows


def _metric_rows(score: FloatArray, metric: str, rank: str, inputs: str, prior: str) -> list[dict[str, Any]]:
    value = float(score.mean())
    error = _NORMAL_95 * float(score.std(ddof=1)) / np.sqrt(len(score))
    row = {
        "rank": rank, "group": "all", "metric": metric, "value": value, "low": max(0.0, value - error),
        "high": min(1.0, value + error), "n": len(score), "system": "bayes ceiling", "inputs": inputs, "prior": prior,
        "candidates": "all species of the world",
    }  # fmt: skip
    if prior == "training":
        return [row]
    both = [{**row, "split": "quota"}]
    if rank == "species":  # coarser ranks are macro over their own groups, which a quota of species does not balance
        both.append({**row, "metric": f"macro_{metric}"})
    return both
