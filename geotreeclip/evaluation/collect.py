"""Batches of log-probabilities over a candidate list -> predictions at every rank, in bounded memory.

Shape letters: N samples of the set, B of a batch, S candidates, G names of a coarser rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import InputError
from geotreeclip.evaluation.metrics import rarity_of_column, rarity_of_counts, score
from geotreeclip.evaluation.predictions import Context, Predictions, concatenate, from_rows
from geotreeclip.evaluation.ranking import locate
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.schema import RANKS
from geotreeclip.taxonomy import Taxon, Taxonomy, log_sum_groups

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.intervals import BlockBootstrap
    from geotreeclip.evaluation.report import Row

BATCH_ENTRIES = 8_000_000  # log-probabilities held at a time: 64 MB in double precision
BATCH_SAMPLES = 1024


def batch_size_for(candidates: int) -> int:
    """Samples to score at a time, so that a batch of scores stays small with any candidate list."""
    return max(1, min(BATCH_SAMPLES, BATCH_ENTRIES // max(1, candidates)))


def named_ranks(candidates: Taxonomy) -> list[str]:
    """The ranks at which some candidate has a name, finest first. Raises InputError for an empty list."""
    ranks = [rank for rank in reversed(RANKS) if any(taxon.name(rank) for taxon in candidates)]
    if not ranks:
        raise InputError("the candidate list is empty; give at least one taxon")
    return ranks


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of the samples to score; aligned on N.

    Attributes:
        sample_id: [N] text.
        taxa: N taxa.
        block: int64 [N], or None where no coordinates are known.
        rarity: [N] text, or None.
        longitude: [N] degrees, or None.
        latitude: [N] degrees, or None.
    """

    sample_id: NDArray[np.str_]
    taxa: list[Taxon]
    block: NDArray[np.int64] | None = None
    rarity: NDArray[np.str_] | None = None
    longitude: NDArray[np.float64] | None = None
    latitude: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.taxa)

    def take(self, samples: NDArray[np.bool_]) -> Truth:
        """The truth of some samples, by a mask [N]."""
        if samples.all():
            return self
        arrays = ("block", "rarity", "longitude", "latitude")
        return Truth(
            self.sample_id[samples],
            [self.taxa[row] for row in np.flatnonzero(samples).tolist()],
            **{name: None if getattr(self, name) is None else getattr(self, name)[samples] for name in arrays},
        )

    def columns(self, rows: slice) -> dict[str, Any]:
        """The optional columns of some samples, as `from_log_prob` takes them."""
        arrays = {name: getattr(self, name) for name in ("block", "rarity", "longitude", "latitude")}
        return {name: None if array is None else array[rows] for name, array in arrays.items()}


def truth_of(
    dataset: PackedDataset, indices: NDArray[np.int64], *, block_km: float, counts: dict[Taxon, int] | None = None
) -> Truth:
    """The truth of some rows of a packed set.

    Args:
        dataset: the set.
        indices: int64 [N], rows of it.
        block_km: edge of the spatial blocks. Samples without coordinates are blocks of their own.
        counts: training records of each taxon; they give the rarity groups where the set states none.
    """
    table = dataset.samples().iloc[indices]
    taxonomy = dataset.taxonomy
    taxa = [taxonomy[int(row)] for row in dataset.taxa[indices]]
    longitude, latitude = (
        table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("longitude", "latitude")
    )
    known = np.isfinite(longitude) & np.isfinite(latitude)
    block: NDArray[np.int64] | None = None
    if known.any():
        block = -1 - np.arange(len(taxa), dtype=np.int64)
        block[known] = spatial_blocks(longitude[known], latitude[known], block_km)
    rarity = None
    if "rarity" in table.columns and (stated := rarity_of_column(table["rarity"])).any():
        rarity = stated
    elif counts:
        rarity = rarity_of_counts([counts.get(taxon, 0) for taxon in taxa])
    return Truth(
        sample_id=np.asarray(table["sample_id"].astype(str).tolist(), dtype=str),
        taxa=taxa,
        block=block,
        rarity=rarity,
        longitude=longitude if known.any() else None,
        latitude=latitude if known.any() else None,
    )


class Collector:
    """Takes scores batch by batch and keeps predictions at every rank.

    Args:
        candidates: the S labels that are scored.
        truth: of all samples, in the order in which the batches come.
        context: what is scored, and how.

    Attributes:
        ranks: the ranks that can be scored, finest first: those at which some candidate has a name.
    """

    def __init__(self, candidates: Taxonomy, truth: Truth, context: Context) -> None:
        self.candidates = candidates
        self.truth = truth
        self.context = context
        self.ranks = named = named_ranks(candidates)
        names = [taxon.name(named[0]) for taxon in candidates]
        # Names that stand for one candidate each need no summing at the finest rank
        summed = [rank for rank in named if rank != named[0] or len(set(names)) < len(names) or "" in names]
        self._listed: list[Predictions] = []
        self._summed: dict[str, list[Predictions]] = {rank: [] for rank in summed}
        self._groups = {rank: candidates.names(rank) for rank in summed}
        self._located = {rank: locate(taxa, truth.taxa, rank) for rank, (taxa, _) in self._groups.items()}
        self._located[""] = locate(tuple(candidates), truth.taxa, named[0])
        self.collected = 0

    def add(self, log_prob: NDArray[np.floating[Any]]) -> None:
        """Scores [B, S] of the next B samples."""
        if not len(log_prob):
            return
        rows = slice(self.collected, self.collected + len(log_prob))
        self._listed.append(self._ranked(log_prob, rows, "", self.ranks[0], len(self.candidates)))
        for rank, parts in self._summed.items():
            taxa, groups = self._groups[rank]
            sums = log_sum_groups(np.asarray(log_prob, dtype=np.float64), groups, len(taxa))
            parts.append(self._ranked(sums, rows, rank, rank, len(taxa)))
        self.collected += len(log_prob)

    def _ranked(self, log_prob: NDArray[Any], rows: slice, key: str, rank: str, count: int) -> Predictions:
        classes, index = self._located[key]
        ids = self.truth.sample_id[rows]
        columns = self.truth.columns(rows)
        return from_rows(log_prob, classes, count, index[rows], ids, context=self.context, rank=rank, **columns)

    def finish(self) -> Scored:
        """The predictions. Raises InputError unless every sample has been scored exactly once."""
        if self.collected != len(self.truth):
            raise InputError(f"{self.collected} samples were scored, {len(self.truth)} were to be; none may be lost")
        summed = {rank: concatenate(parts) for rank, parts in self._summed.items()}
        return Scored(self.ranks, concatenate(self._listed), summed)


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions of one system: over the candidates as listed, and summed to each rank where that differs."""

    ranks: Sequence[str]
    listed: Predictions
    summed: dict[str, Predictions]

    def rolled_up(self, rank: str) -> Predictions:
        """The predictions of summed probabilities at a rank."""
        return self.summed.get(rank, self.listed)

    def all(self) -> list[Predictions]:
        """Every distinct prediction, for the file."""
        return [self.listed, *self.summed.values()]

    def rows(self, bootstrap: BlockBootstrap) -> list[Row]:
        """Report rows of both protocols at every rank."""
        rows: list[Row] = []
        for rank in self.ranks:
            rows += score(self.listed, protocol="published", rank=rank, bootstrap=bootstrap)
            rows += score(self.rolled_up(rank), protocol="rolled-up", rank=rank, bootstrap=bootstrap)
        return rows
