"""Protocol `published-exact`: what the published test script counts, so that its table can be repeated.

Facts of MUYang99/GlobalGeoTree, eval/geotreeclip.py and dataloader.py: the stream passes a shuffle buffer of 1,000, is
cut into batches of 512, and the last, partial batch is dropped; inputs are scaled by the extremes of each batch;
species are ranked by cosine similarity, and genus and family are right where one of the first k species bears the name;
five runs, whose mean and standard deviation (divisor n) are reported. The buffer of the script is seeded by process id
and time, not by its seeds 42 to 46, so runs agree with its table within that noise only.

Shape letters: N samples, B of a batch, S candidates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.ranking import rank_codes, rank_labels
from geotreeclip.evaluation.report import Row, make_row
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["BATCH", "SEEDS", "ExactRun", "count_exactly", "exact_rows", "stream_order"]

PROTOCOL = "published-exact"
BATCH = 512
BUFFER, INITIAL = 1000, 100
SEEDS = (42, 43, 44, 45, 46)
RANKS = ("species", "genus", "family")
Scores = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]


class ExactRun(NamedTuple):
    """One run.

    Attributes:
        seed: of the shuffle buffer.
        counted: samples of whole batches.
        top: share of right answers by (rank, k), of the samples counted.
    """

    seed: int
    counted: int
    top: dict[tuple[str, int], float]


def stream_order(size: int, seed: int, buffer: int = BUFFER, initial: int = INITIAL) -> NDArray[np.int64]:
    """Order in which samples leave a shuffle buffer of the kind that WebDataset has, int64 [size].

    The buffer takes two samples for each that it gives until it is full, starts to give when `initial` are in it, and
    gives one at random.
    """
    rng = random.Random(seed)  # noqa: S311 - an order, no secret
    held: list[int] = []
    order = []
    stream = iter(range(size))

    def give() -> None:
        place = rng.randrange(len(held))
        held[place], held[-1] = held[-1], held[place]
        order.append(held.pop())

    for sample in stream:
        held.append(sample)
        if len(held) < buffer and (following := next(stream, None)) is not None:
            held.append(following)
        if len(held) >= initial:
            give()
    while held:
        give()
    return np.array(order, dtype=np.int64)


def count_exactly(
    scores: Scores,
    candidates: Taxonomy,
    truth: Sequence[Taxon],
    *,
    seeds: Sequence[int] = SEEDS,
    batch_size: int = BATCH,
    progress: bool = False,
) -> list[ExactRun]:
    """Run the protocol.

    Args:
        scores: gives scores [B, S] of the samples int64 [B], one batch at a time.
        candidates: S taxa.
        truth: N taxa.
        seeds: one run each.
        batch_size: samples of a batch.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: the set is smaller than a batch, so that the script counts nothing.
    """
    from tqdm import tqdm

    whole = len(truth) // batch_size
    if not whole:
        raise ConfigError(
            f"protocol {PROTOCOL}: the set has {len(truth)} samples, fewer than a batch of {batch_size}, and the "
            "published script drops partial batches: it would count nothing"
        )
    codes = {}
    for rank in RANKS:
        both = rank_codes([*candidates, *truth], rank)
        codes[rank] = both[: len(candidates)], both[len(candidates) :]
    runs = []
    with tqdm(total=len(seeds) * whole, unit=" batches", desc=PROTOCOL, disable=not progress) as bar:
        for seed in seeds:
            order = stream_order(len(truth), seed)[: whole * batch_size]
            hits = dict.fromkeys([(rank, k) for rank in RANKS for k in (1, 5)], 0)
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                top, _ = rank_labels(np.asarray(scores(rows)), [str(row) for row in rows], k=5)
                for rank, k in hits:
                    labels, names = codes[rank]
                    right = (labels[top[:, :k]] == names[rows, None]).any(axis=1) & (names[rows] >= 0)
                    hits[rank, k] += int(right.sum())
                bar.update()
            runs.append(ExactRun(seed, len(order), {key: count / len(order) for key, count in hits.items()}))
    return runs


def exact_rows(runs: Sequence[ExactRun], context: Context) -> list[Row]:
    """Report rows: the mean over runs of each figure, and its deviation as the script prints it (divisor n)."""
    seeds = [run.seed for run in runs]
    method = f"mean of {len(runs)} runs, seeds {seeds[0]} to {seeds[-1]}" if len(runs) > 1 else f"run {seeds[0]}"
    rows = []
    for rank, k in runs[0].top:
        values = np.array([run.top[rank, k] for run in runs])
        for metric, value in ((f"top{k}", values.mean()), (f"top{k}_deviation", values.std())):
            row = {**asdict(replace(context, method=method, seed=None)), "protocol": PROTOCOL, "rank": rank}
            rows.append(make_row(**row, group="all", metric=metric, value=float(value), n=runs[0].counted))
    return rows


def in_words(runs: Sequence[ExactRun], total: int) -> str:
    """The figures as the published table prints them."""
    parts = []
    for rank, k in runs[0].top:
        values = 100 * np.array([run.top[rank, k] for run in runs])
        parts.append(f"{rank} top-{k} {values.mean():.2f} ± {values.std():.2f} %")
    return f"{'; '.join(parts)}; {runs[0].counted:,} of {total:,} samples counted, {len(runs)} runs"


def scorer(classifier: Any, dataset: PackedDataset, indices: NDArray[np.int64], candidates: Taxonomy) -> Scores:
    """Scores of a classifier, a batch being normalised as one where the classifier does so; without any prior added."""
    from geotreeclip.observations import from_packed

    prior = "training" if classifier.scores_carry_prior else "uniform"

    def scores(rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        batch = from_packed(dataset.read(indices[rows]), classifier.device)
        result: NDArray[np.floating[Any]] = classifier.log_probabilities(
            batch, labels=candidates, prior=prior, batch_size=len(rows)
        )
        return result

    return scores
