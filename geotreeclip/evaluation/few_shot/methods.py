"""The few-shot heads by name, over features that are read once.

Shape letters: N samples of the set, S support, F features, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.few_shot.heads import (
    Fit,
    Folds,
    Solver,
    anchored_path,
    combine,
    fit_path,
    inner_folds,
    lda_path,
    logistic_path,
    prototype_path,
)
from geotreeclip.models.head import LinearHead

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TUNED = ("low-rank", "full")
"""Methods that change the weights of the tower (see `geotreeclip.evaluation.few_shot.tuning`)."""

PLAIN = ("embedding",)
LEVELS = ("levels", "environment")
MEMBERS: dict[str, tuple[str, ...]] = {
    "inputs": ("inputs",),
    "levels": LEVELS,
    "model and levels": ("embedding", "tokens", *LEVELS),
}
"""What `combined` weighs: shrinkage LDA on each of these, and the head held to its text where there is text."""


@dataclass(frozen=True, eq=False)
class Table:
    """Features of all samples, by name.

    Attributes:
        values: name -> [N, width]; NaN where missing.
    """

    values: Mapping[str, NDArray[np.floating]]

    @property
    def names(self) -> tuple[str, ...]:
        """The features, in order."""
        return tuple(self.values)

    @property
    def width(self) -> int:
        """F."""
        return sum(part.shape[1] for part in self.values.values())

    def columns(self, names: Sequence[str]) -> Integers:
        """Columns of some features in `all`, in the order of the table."""
        found, start = [], 0
        for name, part in self.values.items():
            if name in names:
                found.append(np.arange(start, start + part.shape[1]))
            start += part.shape[1]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def all(self) -> NDArray[np.floating]:
        """[N, F]."""
        return np.concatenate(list(self.values.values()), axis=1)


def fit_method(
    method: str,
    table: Table,
    rows: Integers,
    labels: Integers,
    count: int,
    *,
    anchor: LinearHead | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Fit:
    """Fit a head to the support.

    Args:
        method: of `METHODS`.
        table: features of the set. Only those of `rows` are looked at.
        rows: int64 [S], the support.
        labels: int64 [S], 0 to L - 1.
        count: L.
        anchor: the head of zero-shot classification, for "text"; for "combined" where the model knows the labels.
        groups: [S] blocks of the support; inner folds keep them whole.

    Returns:
        A head over all F features of the table.
    """
    if method not in METHODS:
        raise ConfigError(f"few-shot method {method!r}: choose from {', '.join((*METHODS, *TUNED))}")
    values = table.all()[rows].astype(np.float64)
    folds = inner_folds(labels, groups)
    return METHODS[method](table, values, labels, count, folds, anchor)


_Method = Callable[[Table, Floats, Integers, int, "Folds | None", "LinearHead | None"], Fit]


def _on(solver: Solver, names: Sequence[str], *, quick: bool = True) -> _Method:
    def fit(
        table: Table, values: Floats, labels: Integers, count: int, folds: Folds | None, anchor: LinearHead | None
    ) -> Fit:
        columns = table.columns(names)
        fold = None if folds is None else folds.many if quick else folds.few
        found = fit_path(solver, values[:, columns], labels, count, fold)
        return replace(found, head=found.head.placed(columns, table.width))

    return fit


def _text(
    table: Table, values: Floats, labels: Integers, count: int, folds: Folds | None, anchor: LinearHead | None
) -> Fit:
    if anchor is None:
        raise ConfigError("few-shot method text: the labels have no text embeddings; take another method")
    return _on(anchored_path(anchor), PLAIN, quick=False)(table, values, labels, count, folds, None)


def _combined(
    table: Table, values: Floats, labels: Integers, count: int, folds: Folds | None, anchor: LinearHead | None
) -> Fit:
    if folds is None and anchor is not None:  # one shot: nothing tells which to trust, and the text has seen more
        return _text(table, values, labels, count, folds, anchor)
    fits, names, seen = [], [], set()
    for name, wanted in MEMBERS.items():
        columns = table.columns(wanted)
        # Columns that nobody has tell nothing; members that then read the same are one.
        told = values[:, columns]
        known = (~np.isnan(told)).any(axis=0)
        key = np.round(told[:, known & (np.nan_to_num(told).std(axis=0) > 0)], 3).tobytes()
        if not key or key in seen or not set(wanted) & set(table.names):
            continue
        seen.add(key)
        fits.append(_on(lda_path, wanted)(table, values, labels, count, folds, None))
        names.append(name)
    if anchor is not None:
        fits.append(_text(table, values, labels, count, folds, anchor))
        names.append("text")
    return combine(fits, names, labels)


METHODS: dict[str, _Method] = {
    "prototype": _on(prototype_path, PLAIN),
    "text": _text,
    "logistic": _on(logistic_path, PLAIN, quick=False),
    "lda": _on(lda_path, PLAIN),
    "lda-inputs": _on(lda_path, ("inputs", "environment")),
    "combined": _combined,
}
"""Name -> how it is fitted. All but the last two read the frozen embedding alone."""
