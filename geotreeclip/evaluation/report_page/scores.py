"""Sections of scores: tables by set and protocol, by rank, by shots, by rarity, splits side by side, differences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from geotreeclip.errors import InputError
from geotreeclip.evaluation.comparison import compare, side_by_side, split_words, system_name
from geotreeclip.evaluation.intervals import Interval
from geotreeclip.evaluation.metrics import RARITY_GROUPS
from geotreeclip.evaluation.report import METRIC_NAMES, RANK_ORDER, Row
from geotreeclip.evaluation.report_page import plots
from geotreeclip.evaluation.report_page.parts import (
    Cell,
    Figure,
    Part,
    Section,
    Table,
    Text,
    Value,
    of_interval,
    of_row,
)
from geotreeclip.evaluation.report_page.runs import Run
from geotreeclip.evaluation.report_page.scenes import BLIND, Scene, interval_of

SYSTEMS_PLOTTED = 6
MOST_COMPARED = 12
COLUMNS = ("top1", "macro_top1", "top5", "macro_top5", "macro_f1", "log_loss", "ece")
_TELLING = ("inputs", "prior", "candidates", "method", "shots")


def score_parts(scene: Scene) -> list[Part]:
    """Tables of a scene and the plots of them."""
    rows = [row for row in scene.rows if row["shots"] is None and row["group"] in (None, "all")]
    parts: list[Part] = []
    plotted: list[Part] = []
    protocols = sorted({str(row["protocol"]) for row in rows if row["rank"] is not None})
    if rows:
        parts.append(_main_table(scene, rows))
        for protocol in protocols:
            table = _rank_table(scene, [row for row in rows if row["protocol"] == protocol], protocol)
            if table:
                parts.append(table)
        plotted += _rank_plot(scene, rows, protocols)
        plotted += _rarity_plot(scene)
    few = [row for row in scene.rows if row["shots"] is not None and row["group"] in (None, "all")]
    if few:
        parts += _shots(scene, few)
    return [*parts, *plotted, *_rarity_table(scene)]


def _main_table(scene: Scene, rows: Sequence[Row]) -> Table:
    """The finest rank in full, with its ceiling."""
    rank = min((row["rank"] for row in rows if row["rank"]), key=_rank_place)
    protocol = min(str(row["protocol"]) for row in rows if row["rank"] == rank)
    own = [row for row in rows if row["rank"] == rank and str(row["protocol"]) == protocol]
    telling = _telling(own)
    systems = _by_system(own, telling)
    metrics = [name for name in COLUMNS if any(name in cells for cells in systems.values())]
    limits = {key: scene.ceiling(cells["top1"]) for key, cells in systems.items() if "top1" in cells}
    bounded = any(limits.values())
    head = [
        "system",
        *telling,
        *(METRIC_NAMES.get(name, name.replace("_f1", " F1").replace("_", " ")) for name in metrics),
    ]
    head += ["top-1 ceiling", "share of it"] if bounded else []
    body: list[list[Cell]] = []
    for key, cells in systems.items():
        line: list[Cell] = [*key, *(of_row(cells.get(name)) for name in metrics)]
        if bounded:
            limit = limits.get(key)
            share: Cell = ""
            if limit and limit["value"]:
                share = Value(cells["top1"]["value"] / limit["value"])
            line += [of_row(limit), share]
        body.append(line)
    sizes = sorted({row["n"] for row in own if row["metric"] == "top1" and row["n"]})
    lists = sorted({row["candidates"] for row in own if row["candidates"]})
    missing = max((row["value"] or 0 for row in rows if row["metric"] == "truth_not_candidate"), default=0)
    note = f"{' or '.join(f'{size:,}' for size in sizes)} samples"
    note += f"; candidates: {lists[0]}" if len(lists) == 1 else ""
    note += f"; up to {missing:.1%} of the truths are no candidates and count as wrong" if missing else ""
    quiet = frozenset(number for number, key in enumerate(systems) if key[0] in BLIND)
    return Table(f"{_title(rank)}, in full", head, body, 1 + len(telling), f"{note}.", scene.sources(own), quiet)


def _rank_table(scene: Scene, rows: Sequence[Row], protocol: str) -> Table | None:
    """Top-1 at every rank under one protocol."""
    first = [row for row in rows if row["metric"] == "top1"]
    ranks = sorted({row["rank"] for row in first if row["rank"]}, key=_rank_place)
    if len(ranks) < 2:
        return None
    telling = _telling(first)
    table: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in first:
        table.setdefault(_key(row, telling), {})[row["rank"]] = row
    words = {
        "published": "names read off the ranked species",
        "rolled-up": "probabilities of species summed to the rank",
        "published-exact": "as the published script counts",
    }
    body: list[list[Cell]] = [[*key, *(of_row(cells.get(rank)) for rank in ranks)] for key, cells in table.items()]
    limits = {rank: scene.ceiling(row) for cells in list(table.values())[:1] for rank, row in cells.items()}
    if any(limits.values()):
        body.append(["Bayes ceiling", *[""] * len(telling), *(of_row(limits.get(rank)) for rank in ranks)])
    quiet = frozenset(k for k, line in enumerate(body) if line[0] in (*BLIND, "Bayes ceiling"))
    title = f"Top-1 by rank, protocol {protocol}"
    note = f"{words.get(protocol, '')}.".capitalize() if protocol in words else ""
    head = ["system", *telling, *(_name(rank) for rank in ranks)]
    return Table(title, head, body, 1 + len(telling), note, scene.sources(first), quiet)


def _rank_plot(scene: Scene, rows: Sequence[Row], protocols: Sequence[str]) -> list[Part]:
    protocol = "rolled-up" if "rolled-up" in protocols else protocols[0] if protocols else ""
    first = [row for row in rows if row["metric"] == "top1" and str(row["protocol"]) == protocol]
    series, limits = _series(scene, first, "rank")
    ranks = sorted({rank for values in series.values() for rank in values}, key=_rank_place)
    if len(ranks) < 2:
        return []
    named = {system: {_name(rank): value for rank, value in values.items()} for system, values in series.items()}
    bounds = {system: {_name(rank): value for rank, value in values.items()} for system, values in limits.items()}
    draw = partial(_dots, named, [_name(rank) for rank in ranks], bounds, "")
    caption = f"Top-1 by rank, protocol {protocol}; bars are 95 % intervals"
    caption += ", ticks the Bayes ceiling." if any(limits.values()) else "."
    return [Figure(f"{scene.key}-ranks", caption, draw, scene.sources(first))]


def _rarity_plot(scene: Scene) -> list[Part]:
    rows = _rarity_rows(scene, "top1")
    series, _ = _series(scene, rows, "group")
    groups = sorted({group for values in series.values() for group in values}, key=_rarity_place)
    if len(groups) < 2:
        return []
    caption = "Top-1 by rarity of the true species in training; bars are 95 % intervals."
    return [Figure(f"{scene.key}-rarity", caption, partial(_dots, series, groups, {}, ""), scene.sources(rows))]


def _rarity_table(scene: Scene) -> list[Part]:
    rows = [row for metric in ("top1", "macro_top1") for row in _rarity_rows(scene, metric)]
    groups = sorted({row["group"] for row in rows}, key=_rarity_place)
    if not groups:
        return []
    telling = _telling(rows)
    table: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        table.setdefault(_key(row, telling), {})[(row["group"], row["metric"])] = row
    size = {row["group"]: row["n"] for row in rows}
    pairs = [(group, metric) for metric in ("top1", "macro_top1") for group in groups]
    words = {"top1": "top-1", "macro_top1": "macro"}
    head = ["system", *telling, *(f"{words[metric]}, {group} ({size[group]:,})" for group, metric in pairs)]
    body: list[list[Cell]] = [[*key, *(of_row(cells.get(pair)) for pair in pairs)] for key, cells in table.items()]
    quiet = frozenset(k for k, key in enumerate(table) if key[0] in BLIND)
    note = "In brackets the number of samples. Macro: mean over species, so that each counts alike."
    return [Table("By rarity of the species", head, body, 1 + len(telling), note, scene.sources(rows), quiet)]


def _shots(scene: Scene, rows: Sequence[Row]) -> list[Part]:
    """A table of methods by shots, and the plot."""
    parts: list[Part] = []
    rank = min((row["rank"] for row in rows if row["rank"]), key=_rank_place)
    shots = sorted({row["shots"] for row in rows})
    for metric in ("top1", "macro_f1", "macro_top1"):
        own = [row for row in rows if row["metric"] == metric and row["rank"] == rank]
        table: dict[tuple[str, str], dict[int, Row]] = {}
        for row in own:
            table.setdefault((str(row["system"]), str(row["method"] or "")), {})[row["shots"]] = row
        if not table:
            continue
        several = len({system for system, _ in table}) > 1
        head = [*(["system"] if several else []), "method", *(f"{count} shot{'s' * (count != 1)}" for count in shots)]
        body: list[list[Cell]] = [
            [*([system] if several else []), method, *(of_row(cells.get(count)) for count in shots)]
            for (system, method), cells in table.items()
        ]
        limit, note = scene.ceiling(own[0]), ""
        if limit is not None:
            body.append(["Bayes ceiling", *[""] * several, *(of_row(limit) for _ in shots)])
            note = "The ceiling is of the labels that take part and of their queries."
        quiet = frozenset({len(body) - 1} if limit is not None else ())
        words = METRIC_NAMES.get(metric, metric.replace("_f1", " F1"))
        title = f"Few-shot, {words}, {_name(rank)}"
        parts.append(Table(title, head, body, 1 + several, note, scene.sources(own), quiet))
        if metric == "top1":
            best = sorted(table.items(), key=lambda pair: -(pair[1][max(pair[1])]["value"] or 0))[:SYSTEMS_PLOTTED]
            series = {
                " ".join(filter(None, [system if several else "", method])): {
                    float(count): interval_of(row) for count, row in cells.items()
                }
                for (system, method), cells in best
            }
            draw = partial(_lines, series)
            caption = "Top-1 by labelled samples a species; bars are 95 % intervals over draws and places."
            parts.append(Figure(f"{scene.key}-shots", caption, draw, scene.sources(own)))
    return parts


def difference_parts(scene: Scene, resamples: int) -> list[Part]:
    """The leading system against each other one on the same samples."""
    leading = scene.leading(1)
    if not leading:
        return []
    run, first = leading[0]
    body: list[list[Cell]] = []
    used = [run]
    for other_run, other in scene.finest():
        if other is first or other.context.shots is not None or len(body) == MOST_COMPARED:
            continue
        try:
            found = {item.metric: item for item in compare(first, other, resamples=resamples)}
        except InputError:  # other samples: nothing to pair
            continue
        name = system_name(other) + (f", {other_run.name}" if other_run is not run else "")
        line: list[Cell] = [name]
        line += [of_interval(found[metric].interval, sign=True) for metric in ("top1", "top5", "macro_top1")]
        loss = found.get("log_loss")
        line.append(of_interval(loss.interval if loss else None, percent=False, digits=3, sign=True))
        body.append(line)
        used.append(other_run)
    if not body:
        return []
    head = [f"{system_name(first)} minus", "top-1, points", "top-5, points", "macro top-1, points", "log loss, nats"]
    note = "Paired over the same samples, whole spatial blocks drawn together; 95 % intervals. Less log loss is better."
    return [Table("Paired differences", head, body, 1, note, list(dict.fromkeys(used)))]


def splits_section(scenes: Sequence[Scene], runs: Sequence[Run]) -> Section | None:
    """Random and blocked splits of a set side by side, for every set that has several."""
    section = Section("Random beside blocked")
    for name in dict.fromkeys(scene.set for scene in scenes):
        mine = [scene for scene in scenes if scene.set == name]
        items = [item for scene in mine for _, item in scene.finest() if item.context.shots is None]
        items = [item for item in items if item.context.fold is None or len(mine) == 1] or items
        if len({item.context.split for item in items}) < 2:
            continue
        try:
            splits, rows = side_by_side(items)
        except InputError as error:
            section.parts.append(Text(f"{name}: {error}"))
            continue
        sources = [run for run in runs if any(run in scene.runs for scene in mine)]
        ordered = sorted(rows, key=lambda row: (row.system.split(" (")[0] in BLIND, -len(row.values)))
        body: list[list[Cell]] = [
            [row.system, *(of_interval(row.values.get(split)) for split in splits)] for row in ordered
        ]
        quiet = frozenset(k for k, row in enumerate(ordered) if row.system.split(" (")[0] in BLIND)
        head = ["system", *(split_words(split) for split in splits)]
        section.parts.append(
            Table(f"{name}: top-1 by split", head, body, 1, "Folds pooled; seeds averaged.", sources, quiet)
        )
        gaps = [row for row in ordered if any(row.gap.values())]
        if gaps:
            others = splits[1:]
            lost: list[list[Cell]] = [
                [row.system, *(of_interval(row.gap.get(split), sign=True) for split in others)] for row in gaps
            ]
            note = (
                f"Points of top-1 by which a score on \u201c{split_words(splits[0])}\u201d lies above that of the same "
                "samples on the split of the column; paired, 95 % intervals over the blocks of the latter."
            )
            head = ["system", *(split_words(split) for split in others)]
            section.parts.append(Table(f"{name}: what nearness is worth", head, lost, 1, note, sources))
        series = {
            row.system: {split_words(split): value for split, value in row.values.items()}
            for row in ordered[:SYSTEMS_PLOTTED]
        }
        draw = partial(_dots, series, [split_words(split) for split in splits], {}, "")
        section.parts.append(Figure(f"{mine[0].key}-splits", "Top-1 by split; bars are 95 % intervals.", draw, sources))
    return section if section.parts else None


def _series(
    scene: Scene, rows: Sequence[Row], column: str
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, float]]]:
    """System -> value of a column -> number, and its ceiling; the first systems that stand for the table."""
    telling = _telling(rows)
    found: dict[str, dict[str, Interval]] = {}
    limits: dict[str, dict[str, float]] = {}
    whole = [row for row in rows if row["inputs"] in ("all", "none", None) or row["system"] != "geotreeclip"]
    for row in whole or rows:
        if row["value"] is None:
            continue
        name = _label(row, telling)
        if name not in found and len(found) == SYSTEMS_PLOTTED:
            continue
        found.setdefault(name, {})[row[column]] = interval_of(row)
        limit = scene.ceiling(row)
        if limit and limit["value"] is not None and row["system"] not in BLIND:
            limits.setdefault(name, {})[row[column]] = limit["value"]
    return found, limits


def _rarity_rows(scene: Scene, metric: str) -> list[Row]:
    rows = [
        row
        for row in scene.rows
        if row["metric"] == metric and row["shots"] is None and row["group"] not in (None, "all")
    ]
    if not rows:
        return []
    rank = min((row["rank"] for row in rows), key=_rank_place)
    protocol = min(str(row["protocol"]) for row in rows if row["rank"] == rank)
    return [row for row in rows if row["rank"] == rank and str(row["protocol"]) == protocol]


def _dots(series: plots.Series, categories: Sequence[str], limits: object, xlabel: str, theme: object) -> bytes:
    return plots.dots(series, categories, theme, limits=limits or None, xlabel=xlabel)  # type: ignore[arg-type]


def _lines(series: dict[str, dict[float, Interval]], theme: object) -> bytes:
    return plots.lines(series, theme, xlabel="labelled samples a species")  # type: ignore[arg-type]


def _telling(rows: Sequence[Row]) -> list[str]:
    """Columns that tell systems apart, of those that a reader knows."""
    found = [name for name in _TELLING if len({row[name] for row in rows}) > 1]
    systems = {row["system"] for row in rows}
    if "method" in found and len({(row["system"], row["method"]) for row in rows}) == len(systems):
        found.remove("method")  # every system has one of its own
    return found


def _key(row: Row, telling: Sequence[str]) -> tuple[str, ...]:
    return (str(row["system"]), *("" if row[name] is None else str(row[name]) for name in telling))


def _label(row: Row, telling: Sequence[str]) -> str:
    extra = [str(row[name]) for name in telling if row[name] is not None and name not in ("candidates", "prior")]
    extra = [text for text in extra if text not in ("all", "none")]
    extra += [f"{row['prior']} prior"] if "prior" in telling and row["prior"] else []
    return f"{row['system']} ({', '.join(extra)})" if extra else str(row["system"])


def _by_system(rows: Sequence[Row], telling: Sequence[str]) -> dict[tuple[str, ...], dict[str, Row]]:
    systems: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        systems.setdefault(_key(row, telling), {})[row["metric"]] = row
    return {key: cells for key, cells in systems.items() if "top1" in cells}


def _rank_place(rank: str) -> int:
    return RANK_ORDER.index(rank) if rank in RANK_ORDER else len(RANK_ORDER)


def _rarity_place(group: str) -> tuple[int, str]:
    return (RARITY_GROUPS.index(group) if group in RARITY_GROUPS else len(RARITY_GROUPS), group)


def _name(rank: str) -> str:
    return rank.replace("_", " ")


def _title(rank: str) -> str:
    return _name(rank).capitalize()
