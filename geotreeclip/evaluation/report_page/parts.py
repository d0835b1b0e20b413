"""What a report is made of, whatever it is printed as: sections of text, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geotreeclip.evaluation.intervals import Interval
from geotreeclip.evaluation.report import Row

if TYPE_CHECKING:
    from geotreeclip.evaluation.report_page.runs import Run
    from geotreeclip.evaluation.report_page.style import Theme


@dataclass(frozen=True)
class Value:
    """A number with its interval, as a cell of a table.

    Attributes:
        value: as a fraction, or in its own unit.
        low: lower end, or None.
        high: upper end, or None.
        percent: whether to show it as percent.
        digits: after the point.
        sign: whether to show a plus.
    """

    value: float
    low: float | None = None
    high: float | None = None
    percent: bool = True
    digits: int = 1
    sign: bool = False

    @property
    def text(self) -> str:
        """The number."""
        return self._show(self.value)

    @property
    def span(self) -> str:
        """The interval, "" where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self._show(self.low)} to {self._show(self.high)}"

    def _show(self, number: float) -> str:
        shown = number * (100 if self.percent else 1)
        text = format(shown, f"{'+' if self.sign else ''},.{self.digits}f")
        return text.replace("-", "\u2212")


Cell = Value | str


@dataclass(frozen=True)
class Table:
    """A table; the first `text` columns are words, the others numbers.

    Attributes:
        title: a few words above it.
        head: column names.
        rows: cells.
        text: how many columns are words.
        note: below it.
        sources: runs that it is made from.
        quiet: rows that stand back (baselines, ceilings).
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: int = 1
    note: str = ""
    sources: Sequence[Run] = ()
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A plot, drawn once for each theme.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows and how to read it.
        draw: PNG bytes of a theme.
        sources: runs that it is made from.
        wide: whether it takes the whole width of the page.
    """

    name: str
    caption: str
    draw: Callable[[Theme], bytes]
    sources: Sequence[Run] = ()
    wide: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph, or a list."""

    text: str = ""
    items: Sequence[str] = ()


@dataclass(frozen=True)
class RunList:
    """The runs of the report, each with what it scored; sources of tables and figures point here."""

    runs: Sequence[Run]
    scored: Sequence[str]


Part = Text | Table | Figure | RunList


@dataclass(frozen=True)
class Section:
    """A heading and what is under it.

    Attributes:
        title: heading.
        parts: in order; figures that follow one another stand side by side where there is room.
        level: 2 or 3.
    """

    title: str
    parts: list[Part] = field(default_factory=list)
    level: int = 2


def of_row(row: Row | None) -> Cell:
    """The cell of a report row."""
    if row is None or row["value"] is None:
        return ""
    if row["metric"] == "log_loss":
        return Value(row["value"], row["low"], row["high"], percent=False, digits=3)
    return Value(row["value"], row["low"], row["high"])


def of_interval(interval: Interval | None, *, percent: bool = True, digits: int = 1, sign: bool = False) -> Cell:
    """The cell of an interval."""
    if interval is None or interval.value != interval.value:  # NaN
        return ""
    return Value(*interval, percent=percent, digits=digits, sign=sign)
