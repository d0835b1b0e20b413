"""Reports: tidy rows that every evaluator shares, as JSON for machines and Markdown for people.

``report.json`` holds ``{"meta": {...}, "rows": [...]}``; each row has all of `ROW_COLUMNS`, null where a column does
not apply. Values are fractions (0.25), not percent; the Markdown page beside it prints percent.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from geotreeclip.errors import DataError, InputError

Row = dict[str, Any]

ROW_COLUMNS = (
    "set", "split", "protocol", "rank", "group", "metric", "value", "low", "high", "n", "system", "inputs", "prior",
    "candidates", "method", "shots", "seed", "fold",
)  # fmt: skip
CEILING = "bayes ceiling"
RANK_ORDER = ("species", "genus", "family", "leaf_type")
METRIC_NAMES = {
    "top1": "top-1", "top5": "top-5", "macro_top1": "macro top-1", "macro_top5": "macro top-5", "ece": "calib. error",
    "log_loss": "log loss", "truth_not_candidate": "truth not a candidate",
}  # fmt: skip
_NUMBERS = ("value", "low", "high")
_INTEGERS = ("n", "shots", "seed", "fold")
_NOT_PERCENT = ("log_loss",)


def make_row(**values: Any) -> Row:
    """One row: the columns given, null for the others. Raises InputError for an unknown column or a wrong type."""
    return check_row(values)


def check_row(row: Mapping[str, Any], where: str = "report row") -> Row:
    """A row with every column in order, or InputError that says what is wrong with it. NaN and infinity become null."""
    unknown = sorted(set(row) - set(ROW_COLUMNS))
    if unknown:
        raise InputError(f"{where}: unknown column {', '.join(unknown)}; a row has {', '.join(ROW_COLUMNS)}")
    if row.get("metric") is None:
        raise InputError(f"{where}: no metric")
    checked: Row = {}
    for column in ROW_COLUMNS:
        value: Any = row.get(column)
        if hasattr(value, "item"):  # numpy scalars are not JSON
            value = value.item()
        if column in _NUMBERS and value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{where}: {column} is {value!r}, expected a number")
            value = float(value) if math.isfinite(value) else None
        elif column in _INTEGERS and value is not None:
            if isinstance(value, bool) or value != int(value):
                raise InputError(f"{where}: {column} is {value!r}, expected a whole number")
            value = int(value)
        elif column not in (*_NUMBERS, *_INTEGERS) and value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {column} is {value!r}, expected text")
        checked[column] = str(value) if isinstance(value, str) else value  # a StrEnum becomes plain text
    return checked


def describe_run(
    *, model_fingerprint: str | None = None, data_fingerprint: str | None = None, **more: Any
) -> dict[str, Any]:
    """The meta block of a report: versions, command, time, fingerprints, and whatever else is given."""
    versions = {"python": platform.python_version()}
    for name in ("geotreeclip", "numpy", "torch", "scikit-learn"):
        if name in ("geotreeclip", "numpy") or name.replace("scikit-learn", "sklearn") in sys.modules:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:  # run from a checkout that is not installed
                versions[name] = "not installed"
    return {
        "versions": versions,
        "command": _command(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_fingerprint": model_fingerprint,
        "data_fingerprint": data_fingerprint,
        **more,
    }


def _command() -> str:
    """The command line that runs now, as one would type it."""
    program = sys.argv[0]
    typed = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*typed, *sys.argv[1:]])


def write_report(
    rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], meta: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write ``report.json`` and the Markdown page of the same name beside it.

    Args:
        rows: see `ROW_COLUMNS`; missing columns become null, unknown ones are refused.
        path: of the JSON file; ends in ``.json``.
        meta: see `describe_run`, which is the default.

    Returns:
        The JSON file and the Markdown file.
    """
    target = Path(path)
    if target.suffix != ".json":
        raise InputError(f"{target}: a report is written to a file that ends in .json")
    checked = [check_row(row, f"report row {number}") for number, row in enumerate(rows)]
    about = dict(meta) if meta is not None else describe_run()
    target.parent.mkdir(parents=True, exist_ok=True)
    page = target.with_suffix(".md")
    text = json.dumps({"meta": about, "rows": checked}, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    _write(page, markdown(checked, about))
    _write(target, text + "\n")
    return target, page


def read_report(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Row]]:
    """Meta block and rows of a report. Raises DataError where the file is missing or no report."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a report: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise DataError(f'{path}: no report; it should hold {{"meta": ..., "rows": [...]}}')
    try:
        rows = [check_row(row, f"row {number}") for number, row in enumerate(content["rows"])]
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
    return dict(content.get("meta") or {}), rows


def read_ceiling(path: str | os.PathLike[str], set_name: str) -> list[Row]:
    """Rows of a ``ceiling.json`` that travels with a set of known truth, under this set's name; none without a file.

    The file is a list of rows, or an object with ``rows``.
    """
    source = Path(path)
    if not source.is_file():
        return []
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        rows = content["rows"] if isinstance(content, dict) else content
        return [check_row({**row, "set": set_name, "system": CEILING}, f"row {i}") for i, row in enumerate(rows)]
    except (OSError, json.JSONDecodeError, KeyError, TypeError, InputError) as error:
        raise DataError(f"{source}: not the rows of a ceiling: {error}") from error


def ceiling_of(row: Row, ceilings: Sequence[Row]) -> Row | None:
    """The ceiling that bounds a row: same metric, rank, inputs and prior; other columns where the ceiling states them.

    A row without a prior is bounded by the ceiling under the training prior, the highest there is on its own set. A
    few-shot row is bounded by few-shot ceilings of the same labels alone; one of the prior "query" holds for any prior.
    """
    few_shot = row["shots"] is not None
    for ceiling in ceilings:
        wanted = {**row, "prior": row["prior"] or "training"}
        if ceiling["prior"] == "query":
            wanted["prior"] = "query"
        strict = all(ceiling[key] == wanted[key] for key in ("metric", "inputs", "prior"))
        rank = (ceiling["rank"] or "species") == (row["rank"] or "species")
        loose = all(ceiling[key] in (None, row[key]) for key in ("set", "split", "protocol", "fold"))
        labels = (ceiling["shots"] is not None) == few_shot and not (
            few_shot and ceiling["candidates"] != row["candidates"]
        )
        if strict and rank and loose and labels and (ceiling["group"] or "all") == (row["group"] or "all"):
            return ceiling
    return None


def markdown(rows: Sequence[Row], meta: Mapping[str, Any] | None = None) -> str:
    """The page of a report: a section for each set, split and fold; systems as rows, metrics as columns.

    Each section shows the finest rank in full beside the ceiling where it is known, then top-1 at the other ranks and
    protocols, then top-1 by rarity. Percent, with 95 % intervals in brackets.
    """
    lines = ["# Report", ""]
    ceilings = [row for row in rows if row["system"] == CEILING]
    scored = [row for row in rows if row["system"] != CEILING]
    sections: dict[tuple[Any, ...], list[Row]] = {}
    for row in scored:
        sections.setdefault((row["set"], row["split"], row["fold"]), []).append(row)
    for (name, split, fold), part in sections.items():
        title = [str(name or "set"), split and f"split {split}", None if fold is None else f"fold {fold}"]
        lines += [f"## {', '.join(filter(None, title))}", "", *_section(part, ceilings)]
    if ceilings:
        lines += ["## Bayes ceiling", "", *_ceilings(ceilings)]
    lines += ["Percent; 95 % intervals in brackets. Log loss in nats. Calibration error: 15 bins of equal mass.", ""]
    if meta:
        lines += ["## About", ""]
        for key, value in meta.items():
            if value is not None:
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
                lines.append(f"- {key.replace('_', ' ')}: {text}")
        lines.append("")
    return "\n".join(lines)


def _section(rows: Sequence[Row], ceilings: Sequence[Row]) -> list[str]:
    rank, protocol = min(((row["rank"], row["protocol"]) for row in rows), key=_order)
    main = [row for row in rows if (row["rank"], row["protocol"]) == (rank, protocol)]
    everyone = [row for row in main if row["group"] in (None, "all")]
    metrics = [name for name in METRIC_NAMES if any(row["metric"] == name for row in everyone)]
    metrics += [name for name in dict.fromkeys(row["metric"] for row in everyone) if name not in metrics]
    if not any(row["value"] for row in everyone if row["metric"] == "truth_not_candidate"):
        metrics = [name for name in metrics if name != "truth_not_candidate"]
    varying = _varying(rows)
    sizes = sorted({row["n"] for row in everyone if row["n"] is not None and row["metric"] != "log_loss"})
    lists = sorted({row["candidates"] for row in rows if row["candidates"]})
    about = [f"{' or '.join(f'{size:,}' for size in sizes)} samples"] if sizes else []
    about += [f"candidates: {lists[0]}"] if len(lists) == 1 else []
    lines = [f"### {_title(rank, protocol)}", "", *([f"{'; '.join(about)}.", ""] if about else [])]

    def bound(row: Row | None) -> Row | None:
        return None if row is None else ceiling_of(row, ceilings)

    systems = _systems(everyone, varying)
    bounded = [name for name in ("top1", "macro_top1") if any(bound(cells.get(name)) for cells in systems.values())]
    header = [*varying, *(METRIC_NAMES.get(name, name.replace("_", " ")) for name in metrics)]
    for name in bounded:
        header += [f"{METRIC_NAMES[name]} ceiling", "share of it"]
    body = []
    for key, cells in systems.items():
        line = [*key, *(_cell(cells.get(name)) for name in metrics)]
        for name in bounded:
            limit = bound(cells.get(name))
            share = limit and limit["value"] and cells[name]["value"] / limit["value"]
            line += [_cell(limit), f"{100 * share:.1f} %" if share else ""]
        body.append(line)
    lines += _table(header, body, len(varying))
    lines += _ranks(rows, (rank, protocol), varying)
    return lines + _rarity(main, varying)


def _ranks(rows: Sequence[Row], main: tuple[Any, Any], varying: Sequence[str]) -> list[str]:
    """Top-1 at the other ranks and protocols."""
    first = [row for row in rows if row["metric"] == "top1" and row["group"] in (None, "all")]
    keys = sorted({(row["rank"], row["protocol"]) for row in first} - {main}, key=_order)
    tables: dict[tuple[str, ...], dict[Any, Row]] = {}
    for row in first:
        tables.setdefault(_key(row, varying), {})[(row["rank"], row["protocol"])] = row
    values = {key: [_cell(cells.get(key)) for cells in tables.values()] for key in {*keys, main}}
    keys = [key for key in keys if key[0] != main[0] or values[key] != values[main]]
    if not keys:
        return []
    header = [*varying, *(_title(*key) for key in keys)]
    body = [[*key, *(_cell(cells.get(column)) for column in keys)] for key, cells in tables.items()]
    return ["Top-1 at other ranks and protocols:", "", *_table(header, body, len(varying))]


def _rarity(main: Sequence[Row], varying: Sequence[str]) -> list[str]:
    """Top-1 by rarity group."""
    rows = [row for row in main if row["metric"] == "top1" and row["group"] not in (None, "all")]
    groups = {row["group"]: row["n"] for row in rows}
    if not groups:
        return []
    tables: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        tables.setdefault(_key(row, varying), {})[row["group"]] = row
    header = [*varying, *(f"{group} (n {size:,})" if size is not None else group for group, size in groups.items())]
    body = [[*key, *(_cell(cells.get(group)) for group in groups)] for key, cells in tables.items()]
    return ["Top-1 by rarity of the species:", "", *_table(header, body, len(varying))]


def _ceilings(ceilings: Sequence[Row]) -> list[str]:
    """Top-1 of the ceiling, ranks as columns."""
    ceilings = [row for row in ceilings if row["metric"] in ("top1", "macro_top1")]
    ranks = sorted({row["rank"] or "species" for row in ceilings}, key=lambda rank: _order((rank, None)))
    names = ["inputs", "prior", "metric", *(["split"] if any(row["split"] for row in ceilings) else [])]
    tables: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in ceilings:
        tables.setdefault(_key(row, names), {})[row["rank"] or "species"] = row
    body = [[*key, *(_cell(cells.get(rank)) for rank in ranks)] for key, cells in tables.items()]
    metric = names.index("metric")
    body = [[METRIC_NAMES[text] if column == metric else text for column, text in enumerate(line)] for line in body]
    return _table([*names, *(_title(rank, None) for rank in ranks)], body, len(names))


def _varying(rows: Sequence[Row]) -> list[str]:
    """Columns that tell systems apart."""
    always = ["system", "inputs", "prior"]
    return always + [name for name in ("candidates", "method", "shots", "seed") if len({row[name] for row in rows}) > 1]


def _key(row: Row, varying: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if row[name] is None else str(row[name]) for name in varying)


def _systems(rows: Sequence[Row], varying: Sequence[str]) -> dict[tuple[str, ...], dict[str, Row]]:
    systems: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        systems.setdefault(_key(row, varying), {})[row["metric"]] = row
    return systems


def _order(key: tuple[Any, Any]) -> tuple[int, str, str]:
    rank, protocol = key
    return (RANK_ORDER.index(rank) if rank in RANK_ORDER else len(RANK_ORDER), str(protocol or ""), str(rank or ""))


def _title(rank: str | None, protocol: str | None) -> str:
    name = (rank or "all ranks").replace("_", " ")
    return f"{name}, {protocol}" if protocol else name


def _cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return ""
    percent = row["metric"] not in _NOT_PERCENT
    value, low, high = (None if row[name] is None else row[name] * (100 if percent else 1) for name in _NUMBERS)
    digits = 1 if percent else 3
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _table(header: Sequence[str], body: Sequence[Sequence[str]], left: int) -> list[str]:
    """Aligned Markdown, so that it reads well in a terminal too; the first `left` columns are text."""
    cells = [[text.replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(header))]

    def joined(line: Sequence[str]) -> str:
        padded = (
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [joined(cells[0]), joined(rule), *(joined(line) for line in cells[1:]), ""]


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
