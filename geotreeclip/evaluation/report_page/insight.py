"""Sections that look into predictions: calibration, prediction sets, relatives, continents, the map of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.evaluation.area_adjusted import area_adjusted
from geotreeclip.evaluation.calibration import calibration_table
from geotreeclip.evaluation.comparison import system_name
from geotreeclip.evaluation.conformal import LEVEL, cross_conformal
from geotreeclip.evaluation.confusion import class_accuracy, confused_pairs, error_matrix, relatives
from geotreeclip.evaluation.metrics import calibration_error_interval
from geotreeclip.evaluation.predictions import Predictions
from geotreeclip.evaluation.report import RANK_ORDER
from geotreeclip.evaluation.report_page import plots
from geotreeclip.evaluation.report_page.parts import Cell, Figure, Part, Table, Value, of_interval
from geotreeclip.evaluation.report_page.runs import Run
from geotreeclip.evaluation.report_page.scenes import Scene
from geotreeclip.evaluation.strata import by_continent, countries_of, mean_over_blocks

if TYPE_CHECKING:
    import pandas as pd

CLASSES_SHOWN = 15
_RANKS = {"species": "right species", "genus": "right genus", "family": "right family", "leaf_type": "right leaf type",
          "none": "unrelated"}  # fmt: skip


def calibration_parts(scene: Scene, resamples: int) -> list[Part]:
    """Reliability by prior and candidate list, and prediction sets."""
    leading = scene.leading(6)
    if not leading:
        return []
    names = _names(leading)
    tables = {name: calibration_table(item) for name, (_, item) in zip(names, leading, strict=True)}
    body: list[list[Cell]] = []
    for name, (_, item) in zip(names, leading, strict=True):
        bootstrap = scene.bootstrap(item, resamples)
        table = tables[name]
        confidence = float(np.exp(item.top_log_prob[:, 0].astype(np.float64)).mean())
        body.append(
            [
                name, item.context.prior or "", f"{item.candidates:,}", Value(confidence),
                of_interval(bootstrap.mean(item.hits(1))), of_interval(calibration_error_interval(item, bootstrap)),
                Value(table.debiased),
            ]
        )  # fmt: skip
    head = ["system", "prior", "candidates", "mean confidence", "top-1", "calibration error", "debiased"]
    note = (
        "Calibration error: mean gap of 15 bins of equal mass, which chance alone keeps above 0. Debiased: root of the "
        "mean squared gap less its sampling variance; 0 where the gaps are no larger than chance makes them."
    )
    sources = _sources(leading)
    caption = (
        "Reliability: of the samples of a confidence, how many are right. On the diagonal a probability means what it "
        "says; below it the model is too sure. Bins of equal mass, 95 % intervals over blocks."
    )
    shown = dict(list(tables.items())[:4])
    return [
        Table("By prior and candidate list", head, body, 3, note, sources),
        Figure(f"{scene.key}-reliability", caption, partial(plots.reliability_plot, shown), sources),
        *_sets(scene, leading, names, resamples),
    ]


def _sets(scene: Scene, leading: Sequence[tuple[Run, Predictions]], names: Sequence[str], resamples: int) -> list[Part]:
    body: list[list[Cell]] = []
    for name, (_, item) in zip(names, leading, strict=True):
        if item.block is not None and len(np.unique(item.block)) < 4:
            continue
        for rank in RANK_ORDER:
            own = item if rank == item.rank else scene.at_rank(item, rank)
            if own is None:
                continue
            for by_block in (False, True) if own.block is not None else (False,):
                found = cross_conformal(own, by_block=by_block, resamples=resamples)
                size = of_interval(found.size, percent=False, digits=2)
                body.append(
                    [
                        name, rank.replace("_", " "), "a new block" if by_block else "a sample",
                        of_interval(found.coverage), size, of_interval(found.single), Value(found.empty),
                        Value(found.censored) if found.censored else "",
                    ]
                )  # fmt: skip
    if not body:
        return []
    head = ["system", "rank", "promised for", "holds the truth", "labels in a set", "exactly one", "none",
            "list too short"]  # fmt: skip
    if not any(line[-1] for line in body):
        head, body = head[:-1], [line[:-1] for line in body]
    note = (
        f"Split conformal sets at {LEVEL:.0%}: every label above one probability, which one half of the blocks sets "
        "for the other. \u201cA sample\u201d: the mean over samples is promised; \u201ca new block\u201d: the mean "
        "over blocks, as a region never seen needs. Sets can be empty: no label was probable enough. \u201cList too "
        "short\u201d: sets that may go on beyond the ten labels stored, so that their size is a lower bound."
    )
    note = note if head[-1] == "list too short" else note.split(" \u201cList too")[0]
    return [Table(f"Prediction sets at {LEVEL:.0%}", head, body, 3, note, _sources(leading))]


def relatives_parts(scene: Scene, resamples: int) -> list[Part]:
    """How far up the taxonomy errors land, which pairs are confused, and each class's accuracies."""
    leading = scene.leading(4)
    if not leading or leading[0][1].rank != "species":
        return []
    names = _names(leading)
    ladders = {
        name: relatives(item, scene.bootstrap(item, resamples)) for name, (_, item) in zip(names, leading, strict=True)
    }
    body: list[list[Cell]] = []
    for name, ladder in ladders.items():
        for step in ladder:
            chance: Cell = "" if step.by_chance is None else Value(step.by_chance)
            body.append([name, _RANKS[step.rank], of_interval(step.share), of_interval(step.of_errors), chance])
    sources = _sources(leading)
    head = ["system", "first label has", "of all samples", "of the errors", "of errors by chance"]
    note = (
        "The finest rank at which the first label and the truth agree. By chance: were every error a wrong candidate "
        "drawn at random."
    )
    shares = {name: [(_RANKS[step.rank], step.share.value) for step in ladder] for name, ladder in ladders.items()}
    first = leading[0][1]
    pairs: list[list[Cell]] = [
        [pair.truth, pair.predicted, f"{pair.n:,}", Value(pair.share)] for pair in confused_pairs(first, top=12)
    ]
    classes: list[list[Cell]] = [
        [row.name, f"{row.truths:,}", f"{row.predicted:,}", of_interval(row.users), of_interval(row.producers)]
        for row in class_accuracy(first, bootstrap=scene.bootstrap(first, resamples), top=CLASSES_SHOWN)
    ]
    parts: list[Part] = [
        Figure(
            f"{scene.key}-relatives", "How far up the taxonomy the first label is right, percent of all samples.",
            partial(plots.ladder, shares), sources,
        ),
        Table("Among relatives", head, body, 2, note, sources),
    ]  # fmt: skip
    if pairs:
        title = f"Confused most often, {names[0]}"
        parts.append(Table(title, ["truth", "said", "samples", "of the true species"], pairs, 2, "", sources[:1]))
    title = f"The {len(classes)} most frequent species, {names[0]}"
    head = ["species", "samples", "said", "user's accuracy", "producer's accuracy"]
    note = (
        "User's accuracy: of the samples given this name, the share that is right. Producer's: of the samples of this "
        "species, the share that was given its name. Shares of samples, not of area."
    )
    parts.append(Table(title, head, classes, 1, note, sources[:1]))
    return parts


def place_parts(scene: Scene, resamples: int, samples: pd.DataFrame | None = None) -> list[Part]:
    """By continent, and the map of errors."""
    leading = [pair for pair in scene.leading(4) if pair[1].longitude is not None]
    if not leading:
        return []
    names = _names(leading)
    parts: list[Part] = []
    body: list[list[Cell]] = []
    by_code = False
    for name, (_, item) in zip(names, leading, strict=True):
        countries = _countries(item, samples)
        by_code = by_code or countries is not None
        bootstrap = scene.bootstrap(item, resamples)
        body += [
            [name, part.name, f"{part.n:,}", f"{part.classes:,}", of_interval(part.top1), of_interval(part.macro_top1)]
            for part in by_continent(item, countries, bootstrap)
        ]
        body.append([name, "mean over blocks", f"{len(item):,}", "", of_interval(mean_over_blocks(item)), ""])
    how = "the country code, else coarse boxes" if by_code else "coarse boxes of longitude and latitude"
    note = f"Continents by {how}. Mean over blocks: every spatial block counts alike, however many records crowd in it."
    head = ["system", "where", "samples", "species", "top-1", "macro top-1"]
    sources = _sources(leading)
    parts.append(Table("By continent", head, body, 2, note, sources))
    first = leading[0][1]
    if first.latitude is not None and first.longitude is not None:
        caption = (
            f"Where {names[0]} is right: share of the samples of each two-degree cell, larger dots for more samples. "
            "Coordinates are rounded to a tenth of a degree."
        )
        draw = partial(plots.error_map, first.longitude, first.latitude, first.hits(1))
        parts.append(Figure(f"{scene.key}-map", caption, draw, sources[:1], wide=True))
    return parts


def area_parts(scene: Scene, areas: Mapping[str, float], unit: str) -> list[Part]:
    """Area-adjusted accuracy (Olofsson et al. 2014) of the leading system; nothing where no class of it has an area.

    Raises:
        DataError: some class of the predictions has an area, another has none.
    """
    leading = scene.leading(1)
    if not leading:
        return []
    run, item = leading[0]
    for rank in RANK_ORDER[RANK_ORDER.index(item.rank) :]:
        if set(areas) & {getattr(taxon, rank) for taxon in item.classes}:
            break
    else:
        return []
    names, matrix = error_matrix(scene.at_rank(item, rank) or item, rank)
    lacking = [name for name, said in zip(names, matrix.sum(axis=1), strict=True) if name not in areas and said]
    if lacking:
        raise DataError(
            f"areas: {len(lacking)} classes that {run.name} gave have no area, such as {', '.join(lacking[:4])}; give "
            "the mapped area of every class, 0 where the map has none"
        )
    found = area_adjusted(matrix, [areas.get(name, 0.0) for name in names], names)
    body: list[list[Cell]] = []
    order = np.argsort(-found.mapped, kind="stable")
    body += [
        [
            found.classes[k],
            f"{found.mapped[k]:,.0f}",
            _with_error(found.area[k], found.area_se[k], percent=False),
            _with_error(found.users[k], found.users_se[k]),
            _with_error(found.producers[k], found.producers_se[k]),
        ]
        for k in order.tolist()
    ]
    body.append(
        ["overall accuracy", f"{found.mapped.sum():,.0f}", "", _with_error(found.overall, found.overall_se), ""]
    )
    head = [rank.replace("_", " "), f"mapped, {unit}", f"adjusted, {unit}", "user's accuracy", "producer's accuracy"]
    note = (
        "Stratified estimators of Olofsson et al. (2014), 95 % intervals from their standard errors. They hold for a "
        "probability sample within the mapped classes; occurrence records are none."
    )
    return [Table("Area-adjusted accuracy", head, body, 1, note, [run])]


def _with_error(value: float, error: float, *, percent: bool = True) -> Cell:
    if not np.isfinite(value):
        return ""
    reach = 1.96 * error
    top = 1.0 if percent else float("inf")
    digits = 1 if percent else 0
    return Value(value, max(0.0, value - reach), min(top, value + reach), percent=percent, digits=digits)


def _countries(item: Predictions, samples: pd.DataFrame | None) -> NDArray[np.str_] | None:
    if samples is None or "country" not in samples.columns:
        return None
    if not np.isin(item.sample_id, samples["sample_id"].astype(str).to_numpy(dtype=str)).any():
        return None
    return countries_of(item, samples)


def _names(pairs: Sequence[tuple[Run, Predictions]]) -> list[str]:
    """Names that tell the predictions apart."""
    names = [system_name(item) for _, item in pairs]
    if len(set(names)) < len(names):
        names = [f"{name}, {item.context.candidates}" for name, (_, item) in zip(names, pairs, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}, {run.name}" for name, (run, _) in zip(names, pairs, strict=True)]
    return names


def _sources(pairs: Sequence[tuple[Run, Predictions]]) -> list[Run]:
    return list({id(run): run for run, _ in pairs}.values())
