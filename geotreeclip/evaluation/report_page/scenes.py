"""Runs sorted by what they scored: a scene is one set and split, with the rows and predictions of all runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from geotreeclip.evaluation.comparison import split_order, split_words
from geotreeclip.evaluation.intervals import BlockBootstrap, Interval
from geotreeclip.evaluation.metrics import bootstrap_of, score
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.report import CEILING, RANK_ORDER, Row, ceiling_of
from geotreeclip.evaluation.report_page.runs import Run

BLIND = ("majority", "country majority")
"""Baselines that see nothing of a sample; they are tabled, but not looked into."""


@dataclass(eq=False)
class Scene:
    """One set and split.

    Attributes:
        set: name of the set.
        split: of the split, or None.
        rows: of all runs, ceilings left out, folds and seeds joined.
        ceilings: rows of the Bayes ceiling.
        predictions: with the run that each comes from.
        runs: in order.
    """

    set: str
    split: str | None
    rows: list[Row] = field(default_factory=list)
    ceilings: list[Row] = field(default_factory=list)
    predictions: list[tuple[Run, Predictions]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _bootstraps: dict[int, BlockBootstrap] = field(default_factory=dict)
    _owners: dict[int, Run] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Set and split in words."""
        return " \u00b7 ".join([self.set or "set", *([split_words(self.split)] if self.split else [])])

    @property
    def key(self) -> str:
        """For file names."""
        text = "-".join(filter(None, [self.set or "set", self.split]))
        return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)

    def add(self, row: Row, run: Run) -> None:
        """A row, and the run that it is of."""
        self.rows.append(row)
        self._owners[id(row)] = run

    def sources(self, rows: Iterable[Row]) -> list[Run]:
        """The runs that rows are of, in the order of the report."""
        owners = {id(self._owners[id(row)]) for row in rows}
        return [run for run in self.runs if id(run) in owners]

    def bootstrap(self, item: Predictions, resamples: int) -> BlockBootstrap:
        """The resamples of some predictions, made once."""
        if id(item) not in self._bootstraps:
            self._bootstraps[id(item)] = bootstrap_of(item, resamples=resamples)
        return self._bootstraps[id(item)]

    def finest(self) -> list[tuple[Run, Predictions]]:
        """Predictions of the finest rank there is."""
        if not self.predictions:
            return []
        rank = min((item.rank for _, item in self.predictions), key=RANK_ORDER.index)
        return [(run, item) for run, item in self.predictions if item.rank == rank]

    def leading(self, most: int = 4) -> list[tuple[Run, Predictions]]:
        """The predictions to look into: all inputs, no blind baseline, the first seed and fold, no few-shot draws."""
        looked = [
            (run, item)
            for run, item in self.finest()
            if item.context.system not in BLIND and item.context.shots is None
        ]
        whole = {item.context.system for _, item in looked if item.context.inputs == "all"}
        chosen: dict[tuple[Any, ...], tuple[Run, Predictions]] = {}
        for run, item in looked:
            context = item.context
            if context.system in whole and context.inputs != "all":
                continue
            owner = run.name if context.system == "geotreeclip" else ""  # a baseline is the same in every run
            key = (owner, context.system, context.prior, context.candidates, context.inputs)
            chosen.setdefault(key, (run, item))
        # The model first: it is the one that reads the most
        order = sorted(chosen.values(), key=lambda pair: pair[1].context.system != "geotreeclip")
        return order[:most]

    def at_rank(self, item: Predictions, rank: str) -> Predictions | None:
        """The summed predictions of another rank that belong to these."""
        for _, other in self.predictions:
            if other.rank == rank and other.context == item.context and len(other) == len(item):
                return other
        return None

    def ceiling(self, row: Row) -> Row | None:
        """The ceiling of a row."""
        return ceiling_of(row, self.ceilings)


def scenes_of(runs: Sequence[Run], resamples: int) -> list[Scene]:
    """All scenes, in the order of the runs; splits of a set go from random to ever larger blocks."""
    found: dict[tuple[str, str | None], Scene] = {}

    def scene(name: Any, split: Any, run: Run) -> Scene:
        here = found.setdefault((str(name or ""), split), Scene(str(name or ""), split))
        if run not in here.runs:
            here.runs.append(run)
        return here

    for run in runs:
        for row in [*rows_of(run.rows), *_missing(run, resamples)]:
            scene(row["set"], row["split"], run).add(row, run)
        for item in run.predictions:
            scene(item.context.set, item.context.split, run).predictions.append((run, item))
    ceilings = [row for run in runs for row in run.rows if row["system"] == CEILING]
    names = list(dict.fromkeys(name for name, _ in found))
    for here in found.values():
        mine = [row for row in ceilings if row["set"] in (here.set, None) and row["split"] in (here.split, None)]
        here.ceilings = list({tuple(row.items()): row for row in mine}.values())
    return sorted(found.values(), key=lambda here: (names.index(here.set), split_order(here.split or "")))


def rows_of(rows: Iterable[Row]) -> list[Row]:
    """Rows without ceilings, without single folds where they were pooled, and one row where there are several seeds.

    Where a report holds no row for the mean of its seeds, the mean is taken here and has no interval.
    """
    kept = [row for row in rows if row["system"] != CEILING]
    pooled = {_key(row, "candidates", "method", "fold") for row in kept if row["fold"] is None}
    kept = [row for row in kept if row["fold"] is None or _key(row, "candidates", "method", "fold") not in pooled]
    methods: dict[tuple[Any, ...], set[Any]] = {}
    for row in kept:
        methods.setdefault(_system(row), set()).add(row["method"])
    # Settings that differ between the folds and seeds of one system do not make it several
    kept = [row if len(methods[_system(row)]) == 1 or row["shots"] else {**row, "method": None} for row in kept]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in kept:
        loose = () if row["shots"] is not None else ("method",)
        groups.setdefault(_key(row, "seed", "fold", *loose), []).append(row)
    result: list[Row] = []
    for group in groups.values():
        means = [row for row in group if row["seed"] is None]
        seeds = {row["seed"] for row in group}
        folds = {row["fold"] for row in group}
        if means and len(seeds) > 1:
            result.append({**means[0], "method": _method(means[0])})
        elif len(seeds) > 1 and len(folds) == 1:
            values = [row["value"] for row in group if row["value"] is not None]
            mean = sum(values) / len(values) if values else None
            result.append(
                {**group[0], "value": mean, "low": None, "high": None, "seed": None, "method": _method(group[0])}
            )
        else:
            result += group
    return result


def interval_of(row: Row) -> Interval:
    """The numbers of a row."""
    return Interval(float("nan") if row["value"] is None else row["value"], row["low"], row["high"])


def _method(row: Row) -> str | None:
    """The method of the row of several seeds: what tells few-shot heads apart, a remark elsewhere."""
    return None if row["shots"] is None else row["method"]


def _system(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("set", "split", "system", "inputs", "prior", "shots"))


def _key(row: Row, *without: str) -> tuple[Any, ...]:
    left = {"value", "low", "high", "n", *without}
    return tuple(value for name, value in row.items() if name not in left)


def _missing(run: Run, resamples: int) -> list[Row]:
    """Rows of predictions that no report speaks of."""
    stated = {(row["split"], row["system"], row["fold"] is None) for row in run.rows}
    rows: list[Row] = []
    for item in run.predictions:
        context = item.context
        if (context.split, context.system, context.fold is None) in stated:
            continue
        bootstrap = bootstrap_of(item, resamples=resamples)
        rows += score(item, protocol="rolled-up", bootstrap=bootstrap)
        if item.rank == "species":
            for rank in RANK_ORDER:
                if any(getattr(taxon, rank) for taxon in item.classes):
                    rows += score(item, protocol="published", rank=rank, bootstrap=bootstrap)
    return rows_of(rows)
