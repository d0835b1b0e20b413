"""Pictures of seasons: fitted cycles over their observations, a map of dates, embeddings by season.

N samples, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology import SEASONS, YEAR, Cycles
from geotreeclip.prep.phenology.cycles import PhenologyConfig, Reason, Source
from geotreeclip.prep.phenology.fit import fitted_curve
from geotreeclip.prep.phenology.seasons import windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SEASON_COLORS", "DrawnSeries", "draw_cycles", "draw_embeddings", "draw_map", "save_figure"]

SEASON_COLORS = {"spring": "#b8e186", "summer": "#4d9221", "autumn": "#fdae61", "winter": "#c6dbef"}
_STRONG = {"spring": "#7fbc41", "summer": "#276419", "autumn": "#e08214", "winter": "#4292c6"}  # for dots
_MONTHS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)
_WORDS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WHY = {
    Reason.TOO_FEW: "too few observations", Reason.GAP: "a gap too long", Reason.NO_CYCLE: "no peak of enough height",
    Reason.ORDER: "dates out of order", Reason.NO_DIRECTION: "years disagree", Reason.NO_PRODUCT: "not in the product",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class DrawnSeries:
    """One series to draw.

    Attributes:
        title: Of its panel.
        days: float64 [T], day of the year of each step.
        values: float64 [T], EVI2, NaN where missing; spikes are still there.
        screened: bool [T], steps that the fit left out as spikes.
        latitude: Degrees, or NaN.
    """

    title: str
    days: NDArray[np.float64]
    values: NDArray[np.float64]
    screened: NDArray[np.bool_]
    latitude: float


def draw_cycles(series: Sequence[DrawnSeries], cycles: Cycles, config: PhenologyConfig | None = None) -> Figure:
    """A panel for each series: observations, fitted curve, its dates, and the seasons shaded.

    Args:
        series: N series.
        cycles: Theirs.
        config: Of the fit.
    """
    if not len(series):
        raise DataError("no series to draw")
    columns = 1 if len(series) == 1 else 2
    rows = -(-len(series) // columns)
    figure = _figure((4.6 * columns, 2.5 * rows + 0.5))
    days = np.arange(0, YEAR + 0.5, 0.5)
    for number, one in enumerate(series):
        axes = figure.add_subplot(rows, columns, number + 1)
        used = np.where(one.screened, np.nan, one.values)
        latitude = None if np.isnan(one.latitude) else one.latitude
        line, filled = fitted_curve(used, one.days, latitude, days, config)
        _shade(axes, cycles, number)
        axes.plot(days, line, color="#333333", linewidth=1.4, label="fitted curve")
        axes.plot(one.days, used, "o", color="black", markersize=4.5, label="observed")
        if one.screened.any():
            axes.plot(one.days[one.screened], one.values[one.screened], "x", color="#b2182b", label="left out as spike")
        if filled.any():
            axes.plot(one.days[filled], np.interp(one.days[filled], days, line), "o", mfc="white", mec="#4292c6",
                      markersize=4.5, label="filled as winter")  # fmt: skip
        axes.set_title(f"{one.title}\n{_caption(cycles, number)}", fontsize=8.5, loc="left")
        axes.set_xticks(_MONTHS, labels=[])
        middles = [(first + following) / 2 for first, following in pairwise(_MONTHS)]
        axes.set_xticks(middles, [word[0] for word in _WORDS], minor=True)
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set_xlim(0, YEAR)
        known = one.values[~np.isnan(one.values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        room = max(0.05, 0.12 * (high - low))
        axes.set_ylim(min(low, float(np.nanmin(line, initial=low))) - room, high + room)
        if number % columns == 0:
            axes.set_ylabel("EVI2")
    _legend(figure)
    return figure


def _legend(figure: Figure, **options: Any) -> None:
    """One legend for all panels, below them: seasons in their order, then the rest."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    names = [name for name in SEASONS if name in found] + [name for name in found if name not in SEASONS]
    handles = [found[name] for name in names]
    figure.legend(
        handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9, handlelength=1.5, **options
    )


def _shade(axes: Any, cycles: Cycles, row: int) -> None:
    """Seasons as bands (in two pieces across New Year), dates as lines."""
    if np.isnan(cycles.dates[row]).any():
        return
    one = Cycles(**{name: getattr(cycles, name)[row : row + 1] for name in Cycles.__dataclass_fields__})
    start, length = windows(one)
    for season, first, span in zip(SEASONS, start[0], length[0], strict=True):
        pieces = [(first, min(first + span, YEAR)), (0.0, first + span - YEAR)]
        for number, (left, right) in enumerate(pieces):
            if right > left:
                axes.axvspan(left, right, color=SEASON_COLORS[season], alpha=0.55, linewidth=0,
                             label=season if number == 0 else None)  # fmt: skip
    for day in cycles.dates[row, [0, 1, 3, 4]]:
        axes.axvline(day, color="#555555", linewidth=0.7, linestyle=":")


def _caption(cycles: Cycles, row: int) -> str:
    cycle = cycles[row]
    if np.isnan(cycle.greenup):
        return f"no cycle of its own: {_WHY.get(cycle.reason, 'no cycle')}"
    told = f"greenup {_date(cycle.greenup)}, dormancy {_date(cycle.dormancy)}"
    if cycle.source == Source.OBSERVED:
        more = f", {cycle.n_cycles} cycles" if cycle.n_cycles > 1 else ""
        return f"{told}, amplitude {cycle.amplitude:.2f}{more}"
    why = f" ({_WHY[cycle.reason]})" if cycle.reason in _WHY else ""
    return f"{told}, from {cycle.source.name.lower()}{why}"


def _date(day: float) -> str:
    """Day 0 to 365 as "3 May"."""
    month = int(np.searchsorted(_MONTHS, day, side="right")) - 1
    return f"{int(day - _MONTHS[month]) + 1} {_WORDS[month]}"


def draw_map(
    longitude: NDArray[np.float64], latitude: NDArray[np.float64], dates: NDArray[np.float64],
    source: Sequence[str], name: str = "greenup",
) -> Figure:  # fmt: skip
    """A map of one date of cycles, on a cyclic scale; dates that are not the place's own are pale and small.

    Args:
        longitude: [N] degrees.
        latitude: [N] degrees.
        dates: [N], day of the year, NaN where unknown.
        source: [N], words of `Source`; "observed" and "product" are the place's own.
        name: Of the date.
    """
    known = np.isfinite(dates) & np.isfinite(longitude) & np.isfinite(latitude)
    if not known.any():
        raise DataError(f"none of {len(dates)} places has a {name}; nothing to draw")
    own = known & np.isin(np.asarray(source, dtype=object), ("observed", "product"))
    span_x, span_y = (max(0.5, float(np.ptp(values[known]))) for values in (longitude, latitude))
    middle = float(latitude[known].mean())
    height = 8.0 * span_y / (span_x * np.cos(np.deg2rad(middle))) if span_x < 200 else 8.0 * span_y / span_x
    figure = _figure((9.2, float(np.clip(height, 2.8, 8.0)) + 0.8))
    axes = figure.add_subplot()
    size = float(np.clip(60_000 / known.sum(), 6, 30))
    edge = 0.25 if known.sum() < 2_000 else 0.0  # pale days need an edge; of many points the edges would hide the days
    for chosen, scale, alpha, label in ((known & ~own, 0.4, 0.35, "not its own"), (own, 1.0, 0.9, "its own")):
        if chosen.any():
            axes.scatter(
                longitude[chosen], latitude[chosen], c=dates[chosen], s=size * scale, cmap="twilight_shifted", vmin=0,
                vmax=YEAR, alpha=alpha, linewidths=edge, edgecolors="#444444",
                label=f"{name} {label} ({int(chosen.sum()):,})",
            )  # fmt: skip
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(0, YEAR), "twilight_shifted")
    bar = figure.colorbar(colors, ax=axes, pad=0.02, label=f"day of {name}")
    bar.set_ticks(list(_MONTHS[:-1]), labels=[f"1 {word}" for word in _WORDS])
    axes.set_xlabel("longitude")
    axes.set_ylabel("latitude")
    lost = f", {int((~known).sum()):,} without" if not known.all() else ""
    axes.set_title(f"{name} of {int(known.sum()):,} places{lost}", fontsize=10, loc="left")
    axes.set_aspect(1 / np.cos(np.deg2rad(middle)) if span_x < 200 else 1)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=1.5)
    return figure


def draw_embeddings(panels: Sequence[tuple[str, NDArray[np.float64], NDArray[np.int64]]]) -> Figure:
    """Points in the plane, a colour for each season, a panel for each (title, points [N, 2], season [N])."""
    figure = _figure((4.6 * len(panels), 4.9))
    for number, (title, points, season) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for code, name in enumerate(SEASONS):
            some = points[season == code]
            if len(some):
                axes.plot(some[:, 0], some[:, 1], ".", color=_STRONG[name], markersize=3.5, alpha=0.7, label=name)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    _legend(figure, markerscale=3)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'geotreeclip[eval]'") from error
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    from geotreeclip.data.shardfile import write_atomically

    if path.suffix.lower() != ".png":
        raise ConfigError(f"--out {path}: pictures are written to a file that ends in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: figure.savefig(partial, format="png"))
    return path
