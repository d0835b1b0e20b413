"""The plot of the spatial benchmark: top-1 over block size, a line for each system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.errors import ConfigError

if TYPE_CHECKING:
    from geotreeclip.evaluation.report import Row
    from geotreeclip.evaluation.spatial import Benchmark

_STYLE = {
    "geotreeclip": ("#1b7837", "o"),
    "random forest": ("#8c510a", "s"),
    "location neighbours": ("#2166ac", "^"),
    "majority": ("#777777", "v"),
}


def curve(rows: Sequence[Row], benchmark: Benchmark) -> dict[str, dict[str, Row]]:
    """Top-1 of each system on each split, pooled over folds: the mean over seeds where there are several."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["metric"] != "top1" or row["fold"] is not None or row["rank"] != "species" or row["group"] != "all":
            continue
        known = found.setdefault(row["system"], {})
        if row["split"] not in known or row["method"] == "mean of seeds":
            known[row["split"]] = row
    names = [geometry.name for geometry in benchmark.geometries]
    return {
        system: {name: parts[name] for name in names if name in parts}
        for system, parts in sorted(found.items(), key=lambda item: _rank(item[0]))
    }


def plot_curve(rows: Sequence[Row], benchmark: Benchmark, path: Path) -> Path:
    """Write the plot as PNG.

    The sizes stand at equal steps, because 0 has no place on a logarithmic axis and the large ones crush the small
    on a linear one. Bars are 95 % intervals over spatial blocks; the main figure stands apart on the right.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the plot needs matplotlib: pip install 'geotreeclip[eval]'") from error
    geometries = [geometry for geometry in benchmark.geometries if geometry != benchmark.main]
    places = {geometry.name: float(number) for number, geometry in enumerate(geometries)}
    words = ["random\n(by place)" if not geometry.size_km else f"{geometry.size_km:g}" for geometry in geometries]
    if benchmark.main.name not in places:
        places[benchmark.main.name] = len(geometries) + 0.4
        words.append(f"{benchmark.main.size_km:g} with\n{benchmark.main.buffer_km:g} km buffer")
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    systems = curve(rows, benchmark)
    for number, (system, parts) in enumerate(systems.items()):
        color, marker = _STYLE.get(system, ("#762a83", "D"))
        shift = (number - (len(systems) - 1) / 2) * 0.06  # bars of two systems side by side, not on each other
        for names, line in (([geometry.name for geometry in geometries], "-"), ([benchmark.main.name], "")):
            shown = [name for name in names if name in parts]
            if not shown or (line == "" and benchmark.main in geometries):
                continue
            values = [100 * parts[name]["value"] for name in shown]
            bars = [
                [
                    abs(100 * (parts[name][end] if parts[name][end] is not None else parts[name]["value"]) - value)
                    for name, value in zip(shown, values, strict=True)
                ]
                for end in ("low", "high")
            ]
            axes.errorbar(
                [places[name] + shift for name in shown],
                values,
                yerr=bars,
                color=color,
                marker=marker,
                linestyle=line,
                markersize=5,
                capsize=2.5,
                elinewidth=1,
                label=system if line else None,
            )
    if benchmark.main not in geometries:
        axes.axvline(len(geometries) - 0.3, color="#cccccc", linewidth=1)
    axes.set_xticks(list(places.values()), words)
    axes.set_xlabel("edge of the spatial blocks, km")
    axes.set_ylabel("species top-1, %")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _rank(system: str) -> int:
    return list(_STYLE).index(system) if system in _STYLE else -1
