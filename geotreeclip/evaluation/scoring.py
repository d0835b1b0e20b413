"""Scores of a classifier on a packed set, streamed in batches, beside the baselines that see nothing.

Shape letters: N samples, B of a batch, L candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.collect import Collector, Scored, Truth, batch_size_for, named_ranks
from geotreeclip.evaluation.inputs import mask_inputs
from geotreeclip.evaluation.intervals import BlockBootstrap
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.predictions import Context, Predictions
from geotreeclip.evaluation.ranking import locate
from geotreeclip.evaluation.report import Row
from geotreeclip.evaluation.views import View
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedBatch, PackedDataset
    from geotreeclip.observations import ObservationBatch

PRIORS = ("uniform", "training")


class Scorer(Protocol):
    """What zero-shot scoring needs of a classifier."""

    def log_probabilities(
        self, batch: ObservationBatch, labels: Taxonomy | None = None, prior: Any = "training", batch_size: int = 1024
    ) -> NDArray[np.float32]:
        """Log-softmax [N, L] over the labels."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """Rows of a report, the predictions that they are computed from, and how the intervals were made."""

    rows: list[Row]
    predictions: list[Predictions]
    intervals: str


def evaluate(
    classifier: Scorer,
    dataset: PackedDataset,
    indices: NDArray[np.int64],
    candidates: Taxonomy,
    truth: Truth,
    *,
    context: Context,
    views: Sequence[View] = (),
    inputs: Sequence[str] = ("all",),
    priors: Sequence[str] = PRIORS,
    counts: dict[Taxon, int] | None = None,
    label_prior: NDArray[np.float64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    batch_size: int | None = None,
    device: Any = "cpu",
    progress: bool = False,
) -> Result:
    """Score a classifier and the majority baselines.

    Args:
        classifier: gives log-probabilities over labels.
        dataset: the set.
        indices: int64 [N], the samples to score.
        candidates: the labels to choose from.
        truth: of the samples, in the order of `indices`.
        context: what is scored; inputs and prior are filled in here, set and candidates by views.
        views: samples and candidates to report on; by default all of both, once.
        inputs: named sets of inputs (`INPUT_SETS`).
        priors: priors over the labels.
        counts: training records of each taxon, for the majority of the training set.
        label_prior: [L] prior of each candidate in the training data. With it the uniform prior is computed from the
            scores under the training prior, so that every place is encoded once.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        batch_size: samples at a time; by default as many as the candidate list allows.
        device: where the tensors go.
        progress: whether to show a progress bar.

    Returns:
        Rows (uniform prior first), predictions, and a description of the intervals.
    """
    size = batch_size or batch_size_for(len(candidates))
    parts = [_Part(view, candidates, truth, context) for view in views or [_whole(candidates, truth)]]
    collectors = {
        (part, given, prior): Collector(part.candidates, part.truth, replace(part.context, inputs=given, prior=prior))
        for part in parts
        for prior in priors
        for given in inputs
    }
    start = 0
    for batch in _observations(dataset, indices, size, device, progress):
        rows = slice(start, start + batch.size)
        start = rows.stop
        for given in inputs:
            masked = mask_inputs(batch, given)
            for prior, scores in _scores(classifier, masked, candidates, priors, label_prior, size):
                for part in parts:
                    collectors[part, given, prior].add(part.cut(scores, rows))
    result = Result([], [], "")
    for part in parts:
        bootstrap = BlockBootstrap(part.truth.block, len(part.truth), resamples=resamples, seed=seed)
        scored = [collector.finish() for (owner, *_), collector in collectors.items() if owner is part]
        scored += majority(part.candidates, part.truth, part.context, counts=counts, batch_size=size)
        result.rows.extend(row for item in scored for row in item.rows(bootstrap))
        result.predictions.extend(found for item in scored for found in item.all())
        result = replace(result, intervals=result.intervals or bootstrap.describe())
    return result


def _whole(candidates: Taxonomy, truth: Truth) -> View:
    return View("", np.ones(len(truth), dtype=bool), np.arange(len(candidates)), "")


class _Part:
    """A view at work: its truth, its candidates, and how it is cut out of the scores of a batch."""

    def __init__(self, view: View, union: Taxonomy, truth: Truth, context: Context) -> None:
        self.view = view
        self.everything = len(view.candidates) == len(union)
        self.candidates = union if self.everything else union.take(view.candidates)
        self.truth = truth.take(view.samples)
        name = ", ".join(text for text in (context.set, view.label) if text)
        self.context = replace(context, set=name, candidates=view.words or context.candidates)

    def cut(self, scores: NDArray[np.floating[Any]], rows: slice) -> NDArray[np.floating[Any]]:
        """Log-probabilities [n, S] of the view's samples among `rows`, normalised over its candidates."""
        mine = scores[self.view.samples[rows]]
        return mine if self.everything or not len(mine) else _log_softmax(mine[:, self.view.candidates])


def majority(
    candidates: Taxonomy,
    truth: Truth,
    context: Context,
    *,
    counts: dict[Taxon, int] | None = None,
    batch_size: int = 1024,
) -> list[Scored]:
    """Baselines that see nothing: all samples get the shares of the candidates in the set, or in the training data."""
    _, row = locate(candidates, truth.taxa, named_ranks(candidates)[0])
    shares = {"set": np.bincount(row, minlength=len(candidates))[: len(candidates)].astype(np.float64)}
    if counts:
        # One record more for each, so that an unseen taxon is improbable, not impossible
        shares["training"] = np.array([counts.get(taxon, 0) + 1 for taxon in candidates], dtype=np.float64)
    result = []
    for prior, share in shares.items():
        if not share.sum():
            continue
        with np.errstate(divide="ignore"):
            log_prob = np.log(share / share.sum())
        collector = Collector(candidates, truth, replace(context, system="majority", inputs="none", prior=prior))
        for start in range(0, len(truth), batch_size):
            collector.add(np.broadcast_to(log_prob, (min(batch_size, len(truth) - start), len(candidates))))
        result.append(collector.finish())
    return result


def _observations(
    dataset: PackedDataset, indices: NDArray[np.int64], size: int, device: Any, progress: bool
) -> Iterator[ObservationBatch]:
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.observations import from_packed

    with tqdm(total=len(indices), unit=" samples", desc="scoring", disable=not progress) as bar:
        packed: PackedBatch
        for packed in sequential(dataset, indices, size):
            yield from_packed(packed, device)
            bar.update(len(packed.taxon))


def _scores(
    classifier: Scorer,
    batch: ObservationBatch,
    candidates: Taxonomy,
    priors: Sequence[str],
    label_prior: NDArray[np.float64] | None,
    size: int,
) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    """Log-probabilities [B, S] under each prior."""
    if label_prior is None or not set(priors) <= set(PRIORS):
        for prior in priors:
            yield prior, classifier.log_probabilities(batch, labels=candidates, prior=prior, batch_size=size)
        return
    scores = np.asarray(classifier.log_probabilities(batch, labels=candidates, prior="training", batch_size=size))
    for prior in priors:
        yield prior, scores if prior == "training" else _log_softmax(scores - np.log(label_prior))


def _log_softmax(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
