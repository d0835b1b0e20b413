"""What a system said about every sample: the one thing that metrics, intervals and comparisons are computed from.

Shape letters: N samples, S candidates, K labels kept for each sample (at most 10).

One `Predictions` is one ranking of one candidate list by one system with one set of inputs and one prior; a file
``predictions.parquet`` (`geotreeclip.evaluation.prediction_files`) holds any number of them.

Ties. A classifier that gives several candidates the same score has not chosen between them. The truth is therefore
counted with the *expected* outcome of a fair draw among its equals: with `better` candidates strictly ahead and `tied`
candidates level with the truth (itself included), the truth is among the first k with probability
``clip((k - better) / tied, 0, 1)``. A classifier that says the same of everything then scores exactly chance, whatever
the order of the list. The stored top-k list, which other ranks are read off, breaks ties by a draw keyed on the
sample's id: the same in every run and every batch size, and it favours no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.ranking import locate, rank_codes, rank_labels
from geotreeclip.taxonomy import Taxon

COARSE_DEGREES = 0.1  # coordinates are kept for maps of errors only, so coarse: reports get shared, places may not be


@dataclass(frozen=True)
class Context:
    """What was scored, and how: the columns that all report rows of one `Predictions` share.

    Attributes:
        set: name of the data set.
        split: name of the split, None where all samples were scored.
        fold: fold of the split, None where there is none or all were pooled.
        system: the model or the baseline.
        inputs: what the system was given: "all", "image", "environment", "no-location", ...
        prior: prior over the labels: "uniform", "training", ...
        candidates: which candidate list, in words.
        method: variant of the system (a few-shot head, a baseline's setting).
        shots: labelled samples a species, few-shot only.
        seed: seed of the run.
    """

    set: str = ""
    split: str | None = None
    fold: int | None = None
    system: str = "geotreeclip"
    inputs: str = "all"
    prior: str | None = None
    candidates: str | None = None
    method: str | None = None
    shots: int | None = None
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """The ranking of a candidate list for N samples. Arrays are aligned on N.

    Attributes:
        context: what was scored, and how.
        rank: rank of the ranked labels ("species", "genus", ...).
        classes: every taxon that `truth` and `top` point into; the candidates come first.
        candidates: how many of `classes` are candidates. The rest are truths that could not be predicted.
        sample_id: [N] text, unique.
        truth: int32 [N], row of `classes`.
        top: int32 [N, K], rows of `classes`, most probable first.
        top_log_prob: float32 [N, K].
        log_prob: float32 [N], of the truth; -inf where the truth is no candidate.
        better: int32 [N], candidates strictly more probable than the truth; S where it is no candidate.
        tied: int32 [N], candidates as probable as the truth, itself included; 0 where it is no candidate.
        block: [N] spatial block (int64), or None where unknown.
        rarity: [N] text ("rare", "common", "frequent", ...; "" unknown), or None.
        longitude: float32 [N] degrees, coarse, or None.
        latitude: float32 [N] degrees, coarse, or None.
    """

    context: Context
    rank: str
    classes: tuple[Taxon, ...]
    candidates: int
    sample_id: NDArray[np.str_]
    truth: NDArray[np.int32]
    top: NDArray[np.int32]
    top_log_prob: NDArray[np.float32]
    log_prob: NDArray[np.float32]
    better: NDArray[np.int32]
    tied: NDArray[np.int32]
    block: NDArray[np.int64] | None = None
    rarity: NDArray[np.str_] | None = None
    longitude: NDArray[np.float32] | None = None
    latitude: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name in ("truth", "top", "top_log_prob", "log_prob", "better", "tied", *OPTIONAL):
            array = getattr(self, name)
            if array is not None and len(array) != len(self.sample_id):
                raise InputError(f"predictions: {name} has {len(array)} rows, sample_id has {len(self.sample_id)}")
        ids, counts = np.unique(self.sample_id, return_counts=True)
        if len(ids) != len(self.sample_id):
            raise DataError(
                f"predictions of {self.context.system}: sample_id {str(ids[counts > 1][0])!r} occurs more than once; "
                "comparisons need unique ids"
            )

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def truth_is_candidate(self) -> NDArray[np.bool_]:
        """Bool [N]: whether the truth was among the candidates at all."""
        return self.tied > 0

    def hits(self, k: int) -> NDArray[np.float64]:
        """Float [N] in 0..1: expected to find the truth among the first k, a fair draw among ties."""
        tied = np.maximum(self.tied, 1)
        expected = np.clip((k - self.better) / tied, 0.0, 1.0)
        return np.where(self.tied > 0, expected, 0.0).astype(np.float64)

    def read_off(self, rank: str, k: int) -> NDArray[np.float64]:
        """Float [N], 0 or 1: whether one of the first k labels shares the truth's name at a rank (protocol published).

        A truth without a name at that rank is never right. Raises InputError for k above the K labels kept, unless
        all candidates are kept.
        """
        if k > self.top.shape[1] and self.top.shape[1] < self.candidates:
            raise InputError(f"top-{k} was asked for, the predictions keep {self.top.shape[1]} labels a sample")
        code = rank_codes(self.classes, rank)
        truth = code[self.truth]
        found = (code[self.top[:, :k]] == truth[:, None]).any(axis=1)
        return np.asarray(found & (truth >= 0), dtype=np.float64)

    def with_context(self, **changes: Any) -> Predictions:
        """The same predictions under another heading."""
        return replace(self, context=replace(self.context, **changes))

    def take(self, rows: ArrayLike) -> Predictions:
        """The predictions of some samples (integer rows or a mask)."""
        index = np.asarray(rows)
        changes = {name: getattr(self, name)[index] for name in _ARRAYS if getattr(self, name) is not None}
        return replace(self, **changes)


OPTIONAL = ("block", "rarity", "longitude", "latitude")
_ARRAYS = ("sample_id", "truth", "top", "top_log_prob", "log_prob", "better", "tied", *OPTIONAL)


def from_log_prob(
    log_prob: NDArray[np.floating[Any]],
    candidates: Sequence[Taxon],
    truth: Sequence[Taxon] | NDArray[np.integer[Any]],
    sample_id: Sequence[str] | NDArray[Any],
    *,
    context: Context | None = None,
    rank: str = "species",
    block: ArrayLike | None = None,
    rarity: ArrayLike | None = None,
    longitude: ArrayLike | None = None,
    latitude: ArrayLike | None = None,
) -> Predictions:
    """Predictions of scores.

    Args:
        log_prob: [N, S] log-probabilities (log-softmax over S); -inf is a probability of zero, NaN is refused.
        candidates: the S candidate taxa.
        truth: N taxa, or int [N] rows of `candidates`. A taxon that is no candidate is kept and counts as wrong; at a
            rank above species a truth is the candidate of the same name at that rank; a species that no candidate
            matches exactly is the one candidate of the same species name.
        sample_id: N unique ids.
        context: what was scored, and how.
        rank: rank of the candidates.
        block: [N] spatial blocks.
        rarity: [N] rarity groups.
        longitude: [N] degrees; rounded to a tenth.
        latitude: [N] degrees; rounded to a tenth.

    Raises:
        InputError: shapes that do not fit, NaN.
    """
    classes, index = locate(candidates, truth, rank)
    columns = {"block": block, "rarity": rarity, "longitude": longitude, "latitude": latitude}
    return from_rows(
        log_prob, classes, len(candidates), index, sample_id, context=context or Context(), rank=rank, **columns
    )


def from_rows(
    log_prob: NDArray[np.floating[Any]],
    classes: tuple[Taxon, ...],
    candidates: int,
    index: NDArray[np.integer[Any]],
    sample_id: Sequence[str] | NDArray[Any],
    *,
    context: Context,
    rank: str,
    **columns: ArrayLike | None,
) -> Predictions:
    """`from_log_prob` for truths that are located already, so that batches of one set share the work.

    Args:
        log_prob: [N, S].
        classes: the S candidates, then truths that are none (see `locate`).
        candidates: S.
        index: int [N], the row of each truth in `classes`.
        sample_id: N unique ids.
        context: what was scored, and how.
        rank: rank of the candidates.
        **columns: the optional columns of `from_log_prob`.
    """
    log_prob = np.asarray(log_prob)
    ids = np.asarray(list(sample_id), dtype=str)
    if log_prob.ndim != 2 or log_prob.shape != (len(ids), candidates) or len(index) != len(ids):
        raise InputError(
            f"predictions: log_prob has shape {log_prob.shape}, expected ({len(ids)} samples, {candidates} "
            f"candidates); truth has {len(index)} rows"
        )
    if np.isnan(log_prob).any():
        row = int(np.flatnonzero(np.isnan(log_prob).any(axis=1))[0])
        raise InputError(f"predictions: the log-probabilities of sample {str(ids[row])!r} (row {row}) hold NaN")
    known = index < candidates
    own = np.where(known, log_prob[np.arange(len(ids)), np.minimum(index, candidates - 1)], -np.inf)
    better = np.where(known, (log_prob > own[:, None]).sum(axis=1), candidates)
    tied = np.where(known, (log_prob == own[:, None]).sum(axis=1), 0)
    top, top_log_prob = rank_labels(log_prob, ids.tolist())
    block, rarity = columns.get("block"), columns.get("rarity")
    return Predictions(
        context=context,
        rank=str(rank),
        classes=classes,
        candidates=candidates,
        sample_id=ids,
        truth=index.astype(np.int32),
        top=top,
        top_log_prob=top_log_prob,
        log_prob=own.astype(np.float32),
        better=better.astype(np.int32),
        tied=tied.astype(np.int32),
        block=None if block is None else np.asarray(block, dtype=np.int64),
        rarity=None if rarity is None else np.asarray(rarity, dtype=str),
        longitude=_coarse(columns.get("longitude")),
        latitude=_coarse(columns.get("latitude")),
    )


def concatenate(parts: Sequence[Predictions], **context: Any) -> Predictions:
    """Predictions of different samples by one system (the batches of a run, the folds of a split) as one.

    Args:
        parts: at least one; all of one rank. Optional columns stay only where every part has them.
        context: changes to the context of the first part, such as ``fold=None``.

    Raises:
        InputError: nothing to join, or different ranks.
        DataError: a sample occurs in two parts.
    """
    if not parts:
        raise InputError("predictions: nothing to join")
    first = parts[0]
    if any(part.rank != first.rank for part in parts):
        raise InputError(f"predictions of different ranks cannot be joined: {sorted({part.rank for part in parts})}")
    classes: tuple[Taxon, ...] = first.classes[: first.candidates]
    if any(part.classes[: part.candidates] != classes for part in parts):
        seen = dict.fromkeys(taxon for part in parts for taxon in part.classes[: part.candidates])
        classes = tuple(seen)
    candidates = len(classes)
    rows = {taxon: row for row, taxon in enumerate(classes)}
    for part in parts:
        for taxon in part.classes[part.candidates :]:
            rows.setdefault(taxon, len(rows))
    width = min(part.top.shape[1] for part in parts)
    columns: dict[str, Any] = {}
    moved = [np.array([rows[taxon] for taxon in part.classes], dtype=np.int32) for part in parts]
    for name in _ARRAYS:
        arrays = [getattr(part, name) for part in parts]
        if any(array is None for array in arrays):
            columns[name] = None
            continue
        if name in ("truth", "top"):
            arrays = [move[array] for move, array in zip(moved, arrays, strict=True)]
        if name.startswith("top"):
            arrays = [array[:, :width] for array in arrays]
        columns[name] = np.concatenate(arrays)
    return Predictions(
        context=replace(first.context, **context),
        rank=first.rank,
        classes=tuple(rows),
        candidates=candidates,
        **columns,
    )


def _coarse(degrees: ArrayLike | None) -> NDArray[np.float32] | None:
    if degrees is None:
        return None
    values = np.asarray(degrees, dtype=np.float64)
    return (np.round(values / COARSE_DEGREES) * COARSE_DEGREES).astype(np.float32)
