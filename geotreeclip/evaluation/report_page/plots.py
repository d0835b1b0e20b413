"""The plots: each takes plain numbers and a theme, and gives PNG bytes.

Shape letters: N samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.calibration import CalibrationTable
from geotreeclip.evaluation.intervals import Interval
from geotreeclip.evaluation.report_page.style import (
    MARKERS,
    NARROW,
    WIDE,
    Theme,
    canvas,
    color_of,
    legend,
    places_of,
    png,
)

Series = Mapping[str, Mapping[str, Interval]]
"""System -> category -> value."""


def dots(
    series: Series,
    categories: Sequence[str],
    theme: Theme,
    *,
    xlabel: str = "",
    ylabel: str = "top-1, %",
    limits: Mapping[str, Mapping[str, float]] | None = None,
    connect: bool = False,
) -> bytes:
    """Values with intervals over categories, systems side by side; `limits` are ceilings, drawn as short bars."""
    figure, axes = canvas(theme, NARROW)
    count = len(series)
    spread = min(0.16, 0.7 / max(1, count))
    looks = places_of(series)
    for number, (system, values) in enumerate(series.items()):
        shift = 0.0 if connect else (number - (count - 1) / 2) * spread
        shown = [name for name in categories if name in values]
        places = np.array([categories.index(name) + shift for name in shown])
        middle = np.array([100 * values[name].value for name in shown])
        bars = np.array([_reach(values[name]) for name in shown]).reshape(-1, 2).T * 100
        color = color_of(theme, looks[system])
        axes.errorbar(
            places, middle, yerr=bars, color=color, marker=MARKERS[looks[system]], markersize=4.5,
            linestyle="-" if connect else "", linewidth=1.2, elinewidth=1.1, capsize=0, label=system,
        )  # fmt: skip
        for name in shown:
            if limits and name in limits.get(system, {}):
                here = categories.index(name) + shift
                axes.hlines(100 * limits[system][name], here - 0.1, here + 0.1, color=color, linewidth=1.4)
    if limits:
        axes.plot([], [], color=theme.soft, linewidth=1.4, label="Bayes ceiling")
    axes.set_xticks(range(len(categories)), [fill(name, 15) for name in categories])
    axes.set_xlim(-0.5, len(categories) - 0.5)
    axes.set_ylim(0, 104)
    axes.set_ylabel(ylabel)
    axes.set_xlabel(xlabel)
    legend(axes, theme, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return png(figure)


def lines(
    series: Mapping[str, Mapping[float, Interval]], theme: Theme, *, xlabel: str, ylabel: str = "top-1, %"
) -> bytes:
    """Values over a number (shots, block size), at equal steps."""
    names = sorted({place for values in series.values() for place in values})
    text = {name: f"{name:g}" for name in names}
    asked = {system: {text[k]: v for k, v in values.items()} for system, values in series.items()}
    return dots(asked, [text[name] for name in names], theme, xlabel=xlabel, ylabel=ylabel, connect=True)


def reliability_plot(tables: Mapping[str, CalibrationTable], theme: Theme) -> bytes:
    """Accuracy over confidence with the diagonal, and how many samples each bin holds by where the dots lie."""
    figure, axes = canvas(theme, (4.7, 4.0))
    axes.plot([0, 100], [0, 100], color=theme.soft, linewidth=0.8, linestyle=(0, (4, 3)))
    looks = places_of(tables)
    for system, table in tables.items():
        color = color_of(theme, looks[system])
        x = [100 * row.confidence for row in table.bins]
        y = [100 * row.accuracy for row in table.bins]
        axes.plot(x, y, color=color, linewidth=1.1, marker=MARKERS[looks[system]], markersize=4, label=system)
        for row in table.bins:
            if row.low is not None and row.high is not None:
                axes.vlines(100 * row.confidence, 100 * row.low, 100 * row.high, color=color, linewidth=1, alpha=0.5)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence of the first label, %")
    axes.set_ylabel("right, %")
    legend(axes, theme, loc="upper left")
    return png(figure)


def ladder(shares: Mapping[str, Sequence[tuple[str, float]]], theme: Theme) -> bytes:
    """Stacked bars: how far up the taxonomy the first label is right."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = canvas(theme, (NARROW[0], 0.75 + 0.58 * len(shares)))
    steps = [name for name, _ in next(iter(shares.values()))]
    ramp = LinearSegmentedColormap.from_list("ladder", [theme.good, theme.middle, theme.bad])
    colors = [ramp(place) for place in np.linspace(0, 1, len(steps))]
    for row, (system, values) in enumerate(shares.items()):
        start = 0.0
        axes.text(0, row - 0.3, system, ha="left", va="bottom", fontsize=8, color=theme.ink)
        for (name, share), color in zip(values, colors, strict=True):
            axes.barh(row, 100 * share, left=start, height=0.5, color=color, label=name if row == 0 else None,
                      edgecolor=theme.ground, linewidth=0.8)  # fmt: skip
            if share > 0.055:
                strong = name in (steps[0], steps[-1])  # the ends of the ramp are strong colours: ink of the ground
                axes.text(start + 50 * share, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5,
                          color=theme.ground if strong else theme.ink)  # fmt: skip
            start += 100 * share
    axes.set_yticks([])
    axes.set_ylim(len(shares) - 0.6, -0.75)
    axes.set_xlim(0, 100)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    legend(axes, theme, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    return png(figure)


def error_map(
    longitude: NDArray[np.floating[Any]],
    latitude: NDArray[np.floating[Any]],
    hits: NDArray[np.float64],
    theme: Theme,
    *,
    cell_degrees: float = 2.0,
) -> bytes:
    """Share right by cells of some degrees, on an equal-area world; the size of a dot grows with its samples."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    known = np.isfinite(longitude) & np.isfinite(latitude)
    lon, lat, right = (np.asarray(values, dtype=np.float64)[known] for values in (longitude, latitude, hits))
    row = np.floor((lat + 90) / cell_degrees).astype(int)
    # Cells keep their width in kilometres towards the poles
    wide = np.maximum(1, np.round(360 / cell_degrees * np.cos(np.radians((row + 0.5) * cell_degrees - 90)))).astype(int)
    column = np.minimum((lon + 180) / 360 * wide, wide - 1).astype(int)
    _, code = np.unique(row * 100_000 + column, return_inverse=True)
    code = code.reshape(-1)
    count = np.bincount(code)
    share, x, y = (np.bincount(code, values) / count for values in (right, lon, lat))
    size = min(9.6, WIDE[0])
    span = _frame(x, y)
    height = np.clip(size * (span[3] - span[2]) / max(1e-9, span[1] - span[0]), 2.6, 6.2) + 0.4
    figure, axes = canvas(theme, (size, float(height)))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for degree in range(-180, 181, 30):
        axes.plot(
            *equal_earth(np.full(91, degree), np.linspace(-90, 90, 91)), color=theme.line, linewidth=0.7, zorder=0
        )
    for degree in range(-60, 61, 30):
        axes.plot(
            *equal_earth(np.linspace(-180, 180, 91), np.full(91, degree)), color=theme.line, linewidth=0.7, zorder=0
        )
    ramp = LinearSegmentedColormap.from_list("right", [theme.bad, theme.middle, theme.good])
    order = np.argsort(count)
    shown = axes.scatter(
        *equal_earth(x[order], y[order]), c=100 * share[order], cmap=ramp, norm=Normalize(0, 100),
        s=7 + 70 * np.sqrt(count[order] / count.max()), edgecolors=theme.ground, linewidths=0.3, zorder=2,
    )  # fmt: skip
    axes.set_xlim(span[0], span[1])
    axes.set_ylim(span[2], span[3])
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.28, aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.soft, labelsize=8, length=0)
    bar.set_label("right, %", color=theme.soft, fontsize=8.5)
    return png(figure)


def equal_earth(longitude: Any, latitude: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The Equal Earth projection (Savric, Patterson and Jenny 2019, equations 7 and 10), unit sphere."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lam, phi = np.radians(np.asarray(longitude, float)), np.radians(np.asarray(latitude, float))
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(phi))
    square = theta**2
    slope = 9 * a4 * square**4 + 7 * a3 * square**3 + 3 * a2 * square + a1
    x = 2 * np.sqrt(3) * lam * np.cos(theta) / (3 * slope)
    return x, theta * (a4 * square**4 + a3 * square**3 + a2 * square + a1)


def projection(points: NDArray[np.float64], groups: Sequence[str], theme: Theme, *, most: int = 8) -> bytes:
    """Embeddings in the plane, coloured by the most frequent groups; the others are grey."""
    figure, axes = canvas(theme, (WIDE[0], 5.4))
    names, count = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    shown = [str(name) for name in names[np.argsort(-count, kind="stable")] if name][:most]
    colors = (*theme.series[:5], "#c05780", "#4aa5a5", "#7a6cd0")
    where = np.asarray(groups, dtype=str)
    other = ~np.isin(where, shown)
    axes.scatter(
        points[other, 0],
        points[other, 1],
        s=5,
        color=theme.line if theme.name == "light" else theme.middle,
        linewidths=0,
    )
    for name, color in zip(shown, colors, strict=False):
        mine = points[where == name]
        axes.scatter(mine[:, 0], mine[:, 1], s=7, color=color, linewidths=0, label=name, alpha=0.85)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    legend(axes, theme, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    return png(figure)


def _reach(interval: Interval) -> tuple[float, float]:
    if interval.low is None or interval.high is None:
        return (0.0, 0.0)
    return (max(0.0, interval.value - interval.low), max(0.0, interval.high - interval.value))


def _frame(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """The part of the world that the samples lie in, with a margin, in projected units."""
    x, y = equal_earth(longitude, latitude)
    margin = 0.06 * max(float(np.ptp(x)), float(np.ptp(y)), 0.3)
    return float(x.min() - margin), float(x.max() + margin), float(y.min() - margin), float(y.max() + margin)
