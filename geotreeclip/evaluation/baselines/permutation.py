"""What images add to a model: its scores with the images of the test samples exchanged among like places.

Images go from sample to sample within a spatial block and a climate bin, so the exchanged image still fits place and
climate, and all that is lost is what it says beyond them. Shuffling over the whole set would also count what an image
says of the place. A wrong image also misleads a model that trusts images, so this loss can exceed what images add (on
a set with a known ceiling: its ceiling with images minus that without); the model with images masked stands beside it.

Shape letters: N test samples, B of a batch, L candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.collect import Collector, Scored, Truth, batch_size_for
from geotreeclip.evaluation.inputs import mask_inputs
from geotreeclip.evaluation.metrics import bootstrap_of, difference, difference_row
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.predictions import Context, Predictions
from geotreeclip.evaluation.report import Row
from geotreeclip.schema import VARIABLE_INDEX
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedBatch, PackedDataset
    from geotreeclip.evaluation.scoring import Scorer

__all__ = ["PERMUTED", "Exchange", "climate_bins", "exchange_images", "what_images_add"]

PERMUTED = "images permuted"
"""Column `inputs` of the scores with exchanged images."""

CLIMATE = ("bio01", "bio12")
"""Mean annual temperature and annual precipitation make the bins."""

BINS = 4
"""Quantile bins of each of the two."""


def climate_bins(environment: NDArray[np.floating[Any]], bins: int = BINS) -> NDArray[np.int64]:
    """Bin of each sample: quantiles of temperature by quantiles of precipitation; what is unknown is a bin of its own.

    Args:
        environment: [N, 27] in schema order.
        bins: of each variable.

    Returns:
        int64 [N].
    """
    code = np.zeros(len(environment), dtype=np.int64)
    for name in CLIMATE:
        values = np.asarray(environment[:, VARIABLE_INDEX[name]], dtype=np.float64)
        known = np.isfinite(values)
        place = np.full(len(values), bins)
        if known.any():
            edges = np.quantile(values[known], np.arange(1, bins) / bins)
            place[known] = np.searchsorted(edges, values[known], side="right")
        code = code * (bins + 1) + place
    return code


def exchange_images(block: ArrayLike, climate: ArrayLike, seed: int) -> NDArray[np.int64]:
    """Whose images each sample gets: everyone of a group of two and more gets those of another member, each used once.

    A group is turned round by one after it was shuffled, so nobody keeps its own. Who is alone keeps its images.

    Args:
        block: [N] spatial blocks.
        climate: [N] climate bins.
        seed: Of the shuffle.

    Returns:
        int64 [N], a permutation.
    """
    pair = np.stack([np.asarray(block), np.asarray(climate)], axis=1)
    group = np.unique(pair, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng([seed, 0x1A6E]).permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    starts = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 1))
    following = np.arange(1, len(order) + 1)
    ends = np.append(starts[1:], len(order)) - 1
    following[ends] = starts
    donor = np.empty(len(order), dtype=np.int64)
    donor[order] = order[following]
    return donor


@dataclass(frozen=True, eq=False, slots=True)
class Exchange:
    """What the model scores with its own images and with others'.

    Attributes:
        intact: With the images as they are.
        masked: Without any.
        permuted: One for each repeat.
        moved: bool [N], samples that could be given other images.
        rows: Rows of a report: scores, and paired differences intact minus permuted and intact minus
            masked.
    """

    intact: Scored
    masked: Scored
    permuted: list[Scored]
    moved: NDArray[np.bool_]
    rows: list[Row]


def what_images_add(
    classifier: Scorer,
    dataset: PackedDataset,
    indices: NDArray[np.int64],
    candidates: Taxonomy,
    truth: Truth,
    context: Context,
    *,
    repeats: int = 3,
    seed: int = 0,
    prior: str = "training",
    resamples: int = RESAMPLES,
    device: Any = "cpu",
    progress: bool = False,
) -> Exchange:
    """Score a model with intact and with exchanged images, and the difference by paired block bootstrap.

    Rows: all metrics of the intact and of each permuted scoring; ``top1_difference`` over all samples (hits averaged
    over the repeats) at every rank, and over those alone that could be given other images (set "..., images
    exchanged"), which is what images add where the question could be asked.

    Args:
        classifier: The model.
        dataset: The set; it needs imagery and places.
        indices: int64 [N], samples to score.
        candidates: L labels.
        truth: Of the samples.
        context: What is scored, and how.
        repeats: Exchanges.
        seed: Of the first; the others count on.
        prior: Over the labels.
        resamples: Of the bootstrap.
        device: Where the tensors go.
        progress: Whether to show a bar.

    Raises:
        ConfigError: The set has no imagery.
        InputError: No sample shares block and climate with another.
    """
    from geotreeclip.observations import from_packed

    if not dataset.has_images:
        raise ConfigError(f"{dataset.directory}: has no imagery; there is nothing to permute")
    block = np.arange(len(truth)) if truth.block is None else truth.block
    climate = climate_bins(dataset.read(indices).environment)
    donors = [exchange_images(block, climate, seed + number) for number in range(repeats)]
    moved = donors[0] != np.arange(len(truth))
    if not moved.any():
        raise InputError(
            "no two test samples share a block and a climate bin, so no images can be exchanged; take larger blocks "
            "(--block-km)"
        )
    context = replace(context, prior=prior)
    headings = [replace(context, inputs="all"), replace(context, inputs="environment")]
    headings += [replace(context, inputs=PERMUTED, seed=seed + number) for number in range(repeats)]
    collectors = [Collector(candidates, truth, heading) for heading in headings]
    for rows, packed in _batches(dataset, indices, batch_size_for(len(candidates)), progress):
        batch = from_packed(packed, device)
        given = [batch, mask_inputs(batch, "environment")]
        given += [from_packed(_with_images_of(packed, dataset, indices[donor[rows]]), device) for donor in donors]
        for collector, observations in zip(collectors, given, strict=True):
            size = observations.size
            collector.add(classifier.log_probabilities(observations, labels=candidates, prior=prior, batch_size=size))
    intact, masked, *permuted = [collector.finish() for collector in collectors]
    return Exchange(intact, masked, permuted, moved, _rows(intact, masked, permuted, moved, resamples))


def _batches(dataset: PackedDataset, indices: NDArray[np.int64], size: int, progress: bool) -> Any:
    from tqdm import tqdm

    for start in tqdm(range(0, len(indices), size), unit=" batches", desc="permuting", disable=not progress):
        rows = slice(start, min(start + size, len(indices)))
        yield rows, dataset.read(indices[rows])


def _with_images_of(packed: PackedBatch, dataset: PackedDataset, donors: NDArray[np.int64]) -> PackedBatch:
    """The batch with the images of other samples, and the days on which those were taken."""
    other = dataset.read(donors)
    return packed._replace(images=other.images, days=other.days)


def _rows(
    intact: Scored, masked: Scored, permuted: Sequence[Scored], moved: NDArray[np.bool_], resamples: int
) -> list[Row]:
    bootstrap = bootstrap_of(intact.listed, resamples=resamples)
    rows = [row for scored in (intact, masked, *permuted) for row in scored.rows(bootstrap)]
    for where, mask in (("", np.ones(len(moved), dtype=bool)), (", images exchanged", moved)):
        first = _named(intact.listed.take(mask), where)
        others = [_named(scored.listed.take(mask), where) for scored in permuted]
        without = _named(masked.listed.take(mask), where)
        for rank in intact.ranks:
            for second in (others, [without]):
                between = difference(first, second, rank=rank, resamples=resamples)
                pair = [item.with_context(seed=None) for item in (first, second[0])]
                rows.append(difference_row(pair[0], pair[1], between, rank=rank))
    return rows


def _named(item: Predictions, where: str) -> Predictions:
    return item.with_context(set=item.context.set + where) if where else item
