"""Runs as the evaluation scripts leave them: a report, predictions, embeddings.

A run is a folder, a ``report.json`` or a ``predictions.parquet``; what belongs to it is found by name beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geotreeclip.errors import DataError
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.predictions import Context, Predictions, concatenate
from geotreeclip.evaluation.report import Row, read_report

PREDICTIONS = ".predictions.parquet"
EMBEDDINGS = ".embeddings.npz"
WRITERS = "eval/zero_shot.py, eval/spatial.py or eval/few_shot.py"


@dataclass(frozen=True, eq=False)
class Run:
    """What one command of the evaluation left.

    Attributes:
        name: short and unique among the runs of a report.
        path: the report, or else the predictions.
        meta: command, versions, fingerprints (see `geotreeclip.evaluation.report.describe_run`).
        rows: of the report.
        predictions: folds joined where all were there.
        embeddings: file of embeddings, or None.
        notes: what a reader should know of the files.
    """

    name: str
    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    embeddings: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that made it, "" where it is not known."""
        return str(self.meta.get("command") or "")

    @property
    def model(self) -> str:
        """Fingerprint of the weights, "" where none or several."""
        return str(self.meta.get("model_fingerprint") or "")

    @property
    def data(self) -> str:
        """Fingerprint of the data, "" where unknown."""
        return str(self.meta.get("data_fingerprint") or "")


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read runs; each file counts once, names are made unique.

    Raises:
        DataError: a path is no run; the message names it and says what a run is.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        run = read_run(Path(path))
        runs.setdefault(run.path.resolve(), run)
    names: dict[str, int] = {}
    unique = []
    for run in runs.values():
        names[run.name] = names.get(run.name, 0) + 1
        again = names[run.name]
        unique.append(run if again == 1 else replace(run, name=f"{run.name} ({again})"))
    return unique


def read_run(path: Path) -> Run:
    """Read one run (see the module).

    Raises:
        DataError: there is nothing, or nothing that is a run.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give what {WRITERS} wrote")
    if path.suffix == ".json":
        return _report(path)
    if path.suffix == ".parquet":
        report = path.with_name(path.name.removesuffix(PREDICTIONS) + ".json")
        if path.name.endswith(PREDICTIONS) and report.is_file():
            return _report(report)
        return Run(path.name.removesuffix(PREDICTIONS).removesuffix(".parquet"), path, predictions=_joined(path))
    raise DataError(f"{path}: is no run; give a folder, a report.json or a predictions.parquet of {WRITERS}")


def _folder(path: Path) -> Run:
    report = path / "report.json"
    if report.is_file():
        return _report(report)
    alone = path / "predictions.parquet"
    if alone.is_file():
        return Run(path.resolve().name, alone, predictions=_joined(alone), embeddings=_beside(alone))
    reports = [one for one in sorted(path.glob("*.json")) if one.with_name(one.stem + PREDICTIONS).is_file()]
    if len(reports) == 1:
        return _report(reports[0])
    if reports:
        names = ", ".join(one.name for one in reports)
        raise DataError(f"{path}: holds several reports ({names}); name those that you mean")
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
    raise DataError(
        f"{path}: is no run; a run holds report.json or predictions.parquet as {WRITERS} write them, this folder has "
        f"{found}"
    )


def _report(path: Path) -> Run:
    meta, rows = read_report(path)
    name = path.stem if path.stem != "report" else path.resolve().parent.name
    stored = path.with_name(path.stem + PREDICTIONS)
    notes: tuple[str, ...] = ()
    predictions: list[Predictions] = []
    if stored.is_file():
        predictions = _joined(stored)
    elif (path.parent / "cells").is_dir():
        predictions, notes = _cells(path.parent / "cells", {(row["split"], row["system"], row["seed"]) for row in rows})
    return Run(name, path, meta, rows, predictions, _beside(path), notes)


def _beside(path: Path) -> Path | None:
    for candidate in (path.with_name(path.stem + EMBEDDINGS), path.parent / "embeddings.npz"):
        if candidate.is_file():
            return candidate
    return None


def _joined(path: Path) -> list[Predictions]:
    return join_folds(read_predictions(path))


def _cells(folder: Path, wanted: set[tuple[Any, Any, Any]]) -> tuple[list[Predictions], tuple[str, ...]]:
    """The cells of a spatial benchmark, folds joined; those that its report does not know were made after it."""
    parts = [part for path in sorted(folder.rglob("*.parquet")) for part in read_predictions(path)]
    known = [part for part in parts if (part.context.split, part.context.system, part.context.seed) in wanted]
    late = len(parts) - len(known)
    note = f"{late} files under {folder.name}/ are newer than the report and are left out" if late else ""
    return join_folds(known), (note,) if note else ()


def join_folds(items: Sequence[Predictions]) -> list[Predictions]:
    """Predictions that differ in their fold alone, and share no sample, as one; others stay as they are."""
    groups: dict[tuple[Context, str], list[Predictions]] = {}
    for item in items:
        about = replace(item.context, fold=None, candidates=None, method=None)
        if item.context.shots is not None:  # draws of a few-shot run are no folds
            about = item.context
        groups.setdefault((about, item.rank), []).append(item)
    result: list[Predictions] = []
    for parts in groups.values():
        folds = {part.context.fold for part in parts}
        if len(parts) == 1 or len(folds) < len(parts):
            result += parts
            continue
        lists = {part.context.candidates for part in parts}
        words = lists.pop() if len(lists) == 1 else "taxa of the training part of each fold"
        methods = {part.context.method for part in parts}
        method = methods.pop() if len(methods) == 1 else "settings chosen in each fold"
        result.append(concatenate(parts, fold=None, candidates=words, method=method))
    return result
