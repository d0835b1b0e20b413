"""An uploaded CSV of points -> a table of answers; what is wrong with the file is said with its row and field.

N points.
"""

from __future__ import annotations

import csv
import io
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import InputWarning, listed
from geotreeclip.inputs.environment import variable_name
from geotreeclip.page.places import number
from geotreeclip.schema import VARIABLE_NAMES

if TYPE_CHECKING:
    from geotreeclip.inference import Classifier

__all__ = ["COLUMNS", "MAX_ROWS", "Points", "classify_points", "read_points"]

MAX_ROWS = 5000
"""Points that the page takes at once; `geotreeclip classify` takes any number."""

COLUMNS = (
    "sample", "longitude", "latitude", "label", "probability", "statement", "in_range", "distance_km", "genus",
    "family", "back_off_rank", "back_off_label", "back_off_probability",
)  # fmt: skip
"""Columns of the answer, a row for each point."""

_IDENTIFIERS = ("id", "sample_id", "sample")
_EMPTY = ("", "na", "nan", "null", "none")
_LONGEST = 200  # characters of a name or value that a message or table repeats


class Points(NamedTuple):
    """Points of a file.

    Attributes:
        samples: N identifiers, row numbers from 1 where the file has none.
        values: Variable -> [N], NaN where the cell is empty; holds longitude and latitude.
        lines: Line of the file where each row ends.
        unused: Columns that are neither variables nor identifiers.
    """

    samples: list[str]
    values: dict[str, npt.NDArray[np.float64]]
    lines: list[int]
    unused: list[str]


def read_points(content: bytes, name: str = "the file") -> Points:
    """Read a CSV with columns longitude and latitude and any of the other variables.

    Args:
        content: UTF-8; fields apart by commas, semicolons or tabs.
        name: What to call the file in messages.

    Raises:
        InputError: If it is no such table; the message names row and field.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is no text in UTF-8 (byte {error.start}); save the table as CSV, UTF-8") from error
    if "\0" in text:
        raise InputError(f"{name}: is no text but some other kind of file; save the table as CSV, UTF-8")
    if not text.strip():
        raise InputError(f"{name}: the file is empty; give a header with longitude and latitude, and a row a point")
    header_line = text.lstrip().splitlines()[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(rows) > MAX_ROWS:
                raise InputError(
                    f"{name}: has more than {MAX_ROWS:,} rows; use `geotreeclip classify FILE`, which takes any number"
                )
            rows.append([cell.strip() for cell in cells])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{name}: line {reader.line_num} cannot be read as CSV ({error})") from error
    header, rows, lines = rows[0], rows[1:], lines[1:]
    known = _columns(header, name)
    if not rows:
        raise InputError(f"{name}: has a header but no rows; give a row for each point")
    for row, (cells, line) in enumerate(zip(rows, lines, strict=True)):
        if len(cells) != len(header):
            raise InputError(f"{_where(name, row, line)}: {len(cells)} fields, the header has {len(header)}")
    values = {variable: np.empty(len(rows)) for variable in known}
    for row, (cells, line) in enumerate(zip(rows, lines, strict=True)):
        for variable, column in known.items():
            values[variable][row] = _number(cells[column], header[column], variable, _where(name, row, line))
    identifier = next((column for column, title in enumerate(header) if title.lower() in _IDENTIFIERS), None)
    samples = [str(row + 1) if identifier is None else cells[identifier][:_LONGEST] for row, cells in enumerate(rows)]
    used = {*known.values(), identifier}
    return Points(samples, values, lines, [title for column, title in enumerate(header) if column not in used])


def classify_points(classifier: Classifier, points: Points, name: str, worldclim: str = "2.1") -> dict[str, Any]:
    """Answers for all points, as JSON has them.

    Returns:
        columns: `COLUMNS`; rows: one list for each point; notes: what looked odd.

    Raises:
        InputError: If a value cannot be right.
    """
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", InputWarning)
        batch = classifier.build(
            environment=points.values, worldclim=worldclim,
            name_sample=lambda row: _where(name, row, points.lines[row]),
        )  # fmt: skip
    found = classifier.classify_batch(batch, top_k=1, sample_ids=points.samples)
    frame = found.to_pandas()
    frame["longitude"], frame["latitude"] = points.values["longitude"], points.values["latitude"]
    frame["distance_km"] = frame["distance_km"].round(1)
    frame["statement"] = found.back_off()["statement"]
    rows = [[_cell(value) for value in row] for row in frame[list(COLUMNS)].astype(object).itertuples(index=False)]
    notes = [str(warning.message) for warning in noted if issubclass(warning.category, InputWarning)]
    if points.unused:
        notes.insert(0, f"columns not used: {listed(points.unused)}")
    if set(points.values) == {"longitude", "latitude"}:
        notes.insert(0, "the file has no environment columns: location alone is used")
    return {"columns": list(COLUMNS), "rows": rows, "notes": notes}


def _columns(header: list[str], name: str) -> dict[str, int]:
    """Variable -> its column."""
    known: dict[str, int] = {}
    for column, title in enumerate(header):
        variable = variable_name(title)
        if variable is None:
            continue
        if variable in known:
            raise InputError(
                f"{name}: columns {header[known[variable]]!r} and {title!r} both hold {variable}; keep one"
            )
        known[variable] = column
    missing = [variable for variable in VARIABLE_NAMES[:2] if variable not in known]
    if missing:
        raise InputError(
            f"{name}: has no column {' and no column '.join(missing)} (found: {listed(header)[:_LONGEST]}); "
            "give degrees, WGS 84"
        )
    return known


def _number(text: str, title: str, variable: str, where: str) -> float:
    if text.lower() in _EMPTY:
        if variable in VARIABLE_NAMES[:2]:
            raise InputError(f"{where}: {title} is empty; give degrees, WGS 84")
        return float("nan")
    try:
        value = float(text)
    except ValueError as error:
        comma = "; write decimals with a point" if "," in text else ""
        raise InputError(f"{where}: {title} is {text[:_LONGEST]!r}, not a number{comma}") from error
    if not np.isfinite(value):
        raise InputError(f"{where}: {title} is {text!r}; leave the field empty where a value is missing")
    return value


def _where(name: str, row: int, line: int) -> str:
    return f"{name}: row {row + 1} (line {line})"


def _cell(value: Any) -> Any:
    """A cell of a table as JSON can hold it."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return number(float(value), 5)
    return str(value) if isinstance(value, str) else None
