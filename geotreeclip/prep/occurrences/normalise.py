"""Rows of a source in one form: numbers as numbers, few repeated texts as codes, and the distinct taxa beside them.

N rows, T distinct taxa of a chunk. Nothing is refused here: what cannot be understood is kept as text for the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.licences import licence_code
from geotreeclip.prep.occurrences.fields import TAXON_FIELDS
from geotreeclip.prep.occurrences.tables import SUBSTITUTE, Batch

__all__ = ["SEPARATOR", "normalise"]

SEPARATOR = "\x1f"
"""Between the fields of a taxon where they are joined to one text (ASCII unit separator)."""

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_DATE = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?![\d])")
_NO_TEXT = f"[\\x00{SUBSTITUTE}]"
_SHOWN = 80


def normalise(batches: Sequence[Batch], defaults: Mapping[str, str]) -> tuple[Any, Any]:
    """One chunk of rows from batches of a source.

    Args:
        batches: As they were read.
        defaults: Values of fields that have no column, or where it is empty.

    Returns:
        A `pyarrow.Table` of rows in the order of the source and one of distinct taxa (the fields of a taxon joined,
        and how many rows have it). Columns of the rows: row, unreadable (why, or null), id, longitude, latitude (NaN
        where there is none), place (the text of coordinates that are no numbers), uncertainty (m, NaN), year, month,
        day, and the texts issue, geospatial_issue, basis, status, withheld, country, source, license (see
        `licence_code`), dataset_key, rights_holder, which are null throughout where the source has no such column,
        and taxon, the row in the second table.
    """
    import pyarrow as pa

    rows = np.concatenate([batch.rows for batch in batches])
    damage = _Damage(len(rows))
    fields = _Fields(batches, defaults, damage)
    columns: dict[str, Any] = {"row": rows}
    columns["id"] = fields.plain("id")
    columns["longitude"], wrong_x = fields.number("longitude")
    columns["latitude"], wrong_y = fields.number("latitude")
    columns["place"] = _place(fields, wrong_x | wrong_y)
    uncertainty, _ = fields.number("uncertainty")
    with np.errstate(over="ignore"):
        columns["uncertainty"] = uncertainty.astype(np.float32)
    columns |= _dates(fields)
    for name in ("issue", "geospatial_issue", "status", "source", "dataset_key", "rights_holder"):
        columns[name] = fields.text(name)
    columns["basis"] = fields.text("basis", _upper_words)
    columns["country"] = fields.text("country", lambda text: text.upper() if re.fullmatch("[A-Za-z]{2}", text) else "")
    columns["license"] = fields.text("license", licence_code)
    columns["withheld"] = _withheld(fields)
    columns["taxon"], taxa = _taxa(fields)
    columns["unreadable"] = damage.texts()
    table = pa.table(
        {name: pa.array(values) if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    )
    lost = [entry for batch in batches for entry in batch.unreadable]
    return _with_unreadable(table, taxa, lost)


class _Damage:
    """Rows that hold bytes which are no text."""

    def __init__(self, count: int) -> None:
        self.of_row: dict[int, str] = {}
        self.count = count

    def note(self, rows: NDArray[np.int64], name: str, value: str) -> None:
        kind = "a NUL byte" if "\0" in value else "bytes that are not UTF-8"
        shown = value[:_SHOWN].replace("\0", "\ufffd").replace(SUBSTITUTE, "\ufffd")
        for row in rows.tolist():
            self.of_row.setdefault(row, f"{kind} in {name}: {shown!r}")

    def texts(self) -> Any:
        import pyarrow as pa

        texts: list[str | None] = [None] * self.count
        for row, text in self.of_row.items():
            texts[row] = text
        return pa.array(texts, pa.string())


class _Fields:
    """The columns of a chunk by field, several columns of one field joined to one."""

    def __init__(self, batches: Sequence[Batch], defaults: Mapping[str, str], damage: _Damage) -> None:
        self.batches = [batch for batch in batches if len(batch.rows)]
        self.defaults = defaults
        self.damage = damage
        self.count = damage.count
        names = batches[0].columns if batches else {}
        self.depth = {
            name: len(places) for name, places in (self.batches[0].columns if self.batches else names).items()
        }

    def has(self, name: str) -> bool:
        return name in self.depth or name in self.defaults

    def plain(self, name: str) -> Any:
        """Stripped strings [N], empty where missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.depth.get(name, 0) == 0:
            return pa.array([self.defaults.get(name, "")] * self.count, pa.string())
        joined = None
        for depth in range(self.depth[name]):
            column = pa.concat_arrays([batch.columns[name][depth] for batch in self.batches])
            column = pc.utf8_trim_whitespace(self._decoded(column, name, None))
            joined = column if joined is None else pc.if_else(pc.equal(joined, ""), column, joined)
        if self.defaults.get(name):
            joined = pc.if_else(pc.equal(joined, ""), self.defaults[name], joined)
        return joined

    def codes(self, name: str, change: Callable[[str], str] | None = None) -> tuple[NDArray[np.int32], list[str]]:
        """Codes [N] into a list of distinct strings, stripped and changed."""
        found: dict[str, int] = {}
        code_of: dict[str, int] = {}  # of texts as they were read: batches repeat them
        total = np.zeros(self.count, np.int32)
        if not self.has(name):
            return total, [""]
        empty = found.setdefault(self._changed("", name, change), 0)
        for depth in range(self.depth.get(name, 0)):
            position = 0
            for batch in self.batches:
                column = batch.columns[name][depth]
                span = slice(position, position + len(column))
                position += len(column)
                missing = total[span] == empty
                if depth and not missing.any():
                    continue
                indices = column.indices.to_numpy(zero_copy_only=False)
                values = self._decoded(column.dictionary, name, (indices, span.start)).to_pylist()
                for value in values:
                    if value not in code_of:
                        code_of[value] = found.setdefault(self._changed(value, name, change), len(found))
                mapped = np.array([code_of[value] for value in values] or [empty], dtype=np.int32)
                total[span] = np.where(missing, mapped[indices], total[span]) if depth else mapped[indices]
        return total, list(found)

    def _changed(self, text: str, name: str, change: Callable[[str], str] | None) -> str:
        text = text.strip() or self.defaults.get(name, "")
        return change(text) if change else text

    def text(self, name: str, change: Callable[[str], str] | None = None) -> Any:
        """A dictionary array [N], null throughout where the source has no such field."""
        import pyarrow as pa

        if not self.has(name):
            return pa.DictionaryArray.from_arrays(pa.nulls(self.count, pa.int32()), pa.array([], pa.string()))
        codes, values = self.codes(name, change)
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(values, pa.string()))

    def number(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Numbers [N], NaN where there is none, and where the text is none."""
        text = self.plain(name)
        return parse_numbers(text)

    def _decoded(self, column: Any, name: str, of_codes: tuple[NDArray[np.int32], int] | None) -> Any:
        """Bytes as strings; what is no text becomes empty and its rows are noted."""
        import pyarrow as pa
        import pyarrow.compute as pc

        text = column.cast(pa.string())  # the reader has marked what is no text
        wrong = pc.match_substring_regex(text, _NO_TEXT)
        if not pc.any(wrong).as_py():
            return text
        for place in pc.indices_nonzero(wrong).to_pylist():
            rows = np.array([place]) if of_codes is None else np.flatnonzero(of_codes[0] == place) + of_codes[1]
            self.damage.note(rows, name, text[place].as_py())
        return pc.if_else(wrong, "", text)


def parse_numbers(text: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers of stripped strings [N], NaN where there is none, and where a text is no finite number [N]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    try:
        values = filled.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        fit = pc.fill_null(pc.match_substring_regex(filled, _NUMBER), False)
        filled = pc.if_else(fit, filled, pa.scalar(None, pa.string()))
        values = filled.cast(pa.float64()).to_numpy(zero_copy_only=False)
    stated = pc.not_equal(text, "").to_numpy(zero_copy_only=False)
    values = np.where(np.isfinite(values), values, np.nan)
    return values, stated & np.isnan(values)


def _place(fields: _Fields, wrong: NDArray[np.bool_]) -> Any:
    """The text of coordinates that are no numbers, null elsewhere."""
    import pyarrow as pa

    if not wrong.any():
        return pa.nulls(len(wrong), pa.string())
    texts = np.full(len(wrong), None, dtype=object)
    places = np.flatnonzero(wrong)
    x, y = (fields.plain(name).take(pa.array(places)).to_pylist() for name in ("longitude", "latitude"))
    texts[places] = [f"{a[:40]}, {b[:40]}" for a, b in zip(x, y, strict=True)]
    return pa.array(texts.tolist(), pa.string())


def _dates(fields: _Fields) -> dict[str, Any]:
    """Year, month and day: as stated, otherwise from the date of the event (ISO 8601, the first of a range)."""
    import pyarrow as pa

    parts: dict[str, NDArray[np.int32]] = {}
    for name, low, high in (("year", 1, 9999), ("month", 1, 12), ("day", 1, 31)):
        codes, texts = fields.codes(name)
        numbers, _ = parse_numbers(pa.array(texts, pa.string()))
        whole = np.where((numbers >= low) & (numbers <= high) & (numbers == np.round(numbers)), numbers, 0)
        parts[name] = whole.astype(np.int32)[codes]
    if fields.has("event_date"):
        open_rows = np.flatnonzero(parts["year"] == 0)
        dates = fields.plain("event_date").take(pa.array(open_rows)).to_pylist()
        for row, date in zip(open_rows.tolist(), dates, strict=True):
            if match := _DATE.match(date):
                for name, text in zip(parts, match.groups(), strict=True):
                    parts[name][row] = int(text or 0)
    types = {"year": pa.int32(), "month": pa.int8(), "day": pa.int8()}
    columns = {name: pa.array(values, mask=values == 0).cast(types[name]) for name, values in parts.items()}
    columns["dated"] = pa.array(np.full(fields.count, fields.has("year") or fields.has("event_date")))
    return columns


def _withheld(fields: _Fields) -> Any:
    """What is said of hidden or coarsened information, from two fields."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stated = [fields.text(name) for name in ("withheld", "generalised") if fields.has(name)]
    if not stated:
        return fields.text("withheld")
    if len(stated) == 2:
        texts = [column.dictionary_decode() for column in stated]
        stated = [pc.utf8_trim(pc.binary_join_element_wise(*texts, "; "), "; ").dictionary_encode()]
    return pa.DictionaryArray.from_arrays(stated[0].indices.cast(pa.int32()), stated[0].dictionary)


def _upper_words(text: str) -> str:
    """HumanObservation and "human observation" as HUMAN_OBSERVATION."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", text).upper()


def _taxa(fields: _Fields) -> tuple[Any, Any]:
    """The distinct taxa of a chunk and which each row has."""
    import pandas as pd
    import pyarrow as pa

    combined = np.zeros(fields.count, np.int64)
    distinct = 1
    parts = {name: fields.codes(name, _one_line) for name in TAXON_FIELDS}
    for codes, values in parts.values():
        if len(values) == 1:
            continue
        if distinct * len(values) > 1 << 62:
            combined, found = pd.factorize(combined)
            distinct = len(found)
        combined = combined * len(values) + codes
        distinct *= len(values)
    taxon, _ = pd.factorize(combined)
    count = int(taxon.max()) + 1 if len(taxon) else 0
    first = np.full(count, -1, np.int64)
    first[taxon[::-1]] = np.arange(fields.count)[::-1]
    texts = [[values[code] for code in codes[first].tolist()] for codes, values in parts.values()]
    joined = [SEPARATOR.join(parts) for parts in zip(*texts, strict=True)]
    counts = np.bincount(taxon, minlength=count).astype(np.int64)
    return pa.array(taxon.astype(np.int32)), pa.table(
        {"taxon": pa.array(joined, pa.string()), "rows": pa.array(counts)}
    )


def _one_line(text: str) -> str:
    return " ".join(text.replace(SEPARATOR, " ").split())


def _with_unreadable(table: Any, taxa: Any, lost: Sequence[tuple[int, str]]) -> tuple[Any, Any]:
    """Rows that could not be split take their place among the others, without a taxon."""
    import pyarrow as pa

    if not lost:
        return table, taxa
    nothing = len(taxa)
    taxa = pa.concat_tables(
        [taxa, pa.table({"taxon": pa.array([SEPARATOR * (len(TAXON_FIELDS) - 1)]), "rows": pa.array([len(lost)])})]
    )
    columns = {
        "row": pa.array([number for number, _ in lost], pa.int64()),
        "unreadable": pa.array([text for _, text in lost], pa.string()),
        "id": pa.array([""] * len(lost), pa.string()),
        "taxon": pa.array([nothing] * len(lost), pa.int32()),
        **{name: pa.array(np.full(len(lost), np.nan, np.float64)) for name in ("longitude", "latitude")},
        "uncertainty": pa.array(np.full(len(lost), np.nan, np.float32)),
        "dated": pa.array([False] * len(lost)),
    }
    more = pa.table(
        [
            columns[name] if name in columns else pa.nulls(len(lost), table.schema.field(name).type)
            for name in table.column_names
        ],
        names=table.column_names,
    )
    return pa.concat_tables([table, more]).unify_dictionaries().sort_by("row"), taxa
