"""Colours and type of the plots, in a light and a dark dress.

The colours of systems keep apart for the common kinds of colour blindness and in grey; the model is always the first.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 200
NARROW = (4.7, 3.1)
WIDE = (9.6, 4.6)


@dataclass(frozen=True)
class Theme:
    """One dress.

    Attributes:
        name: "light" or "dark".
        ground: behind the plot.
        ink: text.
        soft: secondary text and axes.
        line: grid.
        series: colours of systems, in order.
        good: end of the scale for right.
        bad: end of the scale for wrong.
        middle: between them.
    """

    name: str
    ground: str
    ink: str
    soft: str
    line: str
    series: tuple[str, ...]
    good: str
    bad: str
    middle: str


LIGHT = Theme(
    "light", "#ffffff", "#1d2320", "#66706a", "#e7eae7",
    ("#1f6f4a", "#b5651d", "#3d6fa5", "#8a5a9e", "#8b8f3a", "#9a9f9b"), "#1f6f4a", "#b5651d", "#d9d6cb",
)  # fmt: skip
DARK = Theme(
    "dark", "#161a18", "#e6eae7", "#98a29c", "#2a302d",
    ("#5fbf8f", "#dd9a52", "#7fb0e0", "#c39ad6", "#c2c76a", "#7d8580"), "#5fbf8f", "#dd9a52", "#55544c",
)  # fmt: skip
THEMES = (LIGHT, DARK)
MARKERS = ("o", "s", "^", "D", "v", "P")


def canvas(theme: Theme, size: tuple[float, float] = NARROW) -> tuple[Figure, Axes]:
    """A figure in a theme and its axes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'geotreeclip[eval]'") from error
    dpi = DPI if size[0] <= NARROW[0] else DPI * 3 // 4
    figure = Figure(figsize=size, dpi=dpi, layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dress(axes, theme)
    return figure, axes


def dress(axes: Axes, theme: Theme, grid: str = "y") -> None:
    """Thin axes, quiet grid, small type."""
    axes.set_facecolor(theme.ground)
    axes.set_axisbelow(True)
    axes.grid(visible=False)
    axes.grid(axis=grid, color=theme.line, linewidth=0.8)  # type: ignore[arg-type]
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.soft)
    axes.spines["bottom"].set_linewidth(0.6)
    axes.tick_params(colors=theme.soft, labelcolor=theme.soft, labelsize=8, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.soft)
        label.set_fontsize(8.5)
    axes.title.set_color(theme.ink)
    axes.title.set_fontsize(9)


def legend(axes: Axes, theme: Theme, **options: Any) -> None:
    """A legend without a box."""
    shown = axes.legend(frameon=False, fontsize=8, handlelength=1.4, labelcolor=theme.ink, **options)
    if shown.get_title():
        shown.get_title().set_color(theme.soft)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


_PLACES = {"geotreeclip": 0, "random forest": 1, "gradient boosting": 1, "location neighbours": 2, "majority": 5}


def places_of(names: Iterable[str]) -> dict[str, int]:
    """Which colour and marker each system gets, so that one system looks alike in all plots of a report."""
    found: dict[str, int] = {}
    waiting = []
    for name in names:
        wanted = _PLACES.get(name.split(" (")[0])
        if wanted is None or wanted in found.values():
            waiting.append(name)
        else:
            found[name] = wanted
    free = iter([place for place in range(6) if place not in found.values()] + list(range(6)) * (1 + len(waiting) // 6))
    return found | {name: next(free) for name in waiting}


def color_of(theme: Theme, place: int) -> str:
    """Colour of a place."""
    return theme.series[place % len(theme.series)]
