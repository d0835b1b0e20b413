"""The plots of the quality report, each as the bytes of a PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.metrics import RARITY_BOUNDS, RARITY_GROUPS
from geotreeclip.prep.quality import Arrays

__all__ = ["draw_plots"]

_GREEN, _GREY, _RED, _BLUE = "#1b7837", "#9a9a9a", "#b2182b", "#2166ac"
_FEW_POINTS = 3_000  # drawn one by one; more as a density
_STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "figure.dpi": 110, "axes.axisbelow": True, "svg.hashsalt": "geotreeclip",
}  # fmt: skip


def draw_plots(report: Mapping[str, Any], arrays: Arrays) -> dict[str, bytes]:
    """Draws the plots that a report has data for.

    Args:
        report: As :func:`geotreeclip.prep.quality.measure_quality` returns it.
        arrays: The same.

    Returns:
        Title of each plot to its PNG, in the order in which they are to be shown.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'geotreeclip[eval]'; or leave the report out") from error
    plots: dict[str, tuple[Callable[..., None], tuple[float, float]]] = {
        "Where the samples are": (_map, (9, _map_height(arrays)))
    }
    if len(arrays.places.species_counts):
        plots["Samples by species"] = (_long_tail, (9, 3.4))
    if report["imagery"] is not None:
        plots["Clear pixels by month and band"] = (_coverage, (9, 3.9))
        plots["Samples by month, and months by sample"] = (_months, (9, 2.8))
        plots["Digital numbers by band"] = (_bands, (9, 3.2))
    plots["Variables: range and gaps"] = (_variables, (9, 6.6))
    if report["years"]:
        plots["Years of the observations, and years between them and the imagery"] = (_years, (9, 2.8))
    drawn = {}
    with mpl.rc_context(_STYLE):
        for title, (draw, size) in plots.items():
            figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
            draw(figure, report, arrays)
            stream = io.BytesIO()
            figure.savefig(stream, format="png", metadata={"Software": None})  # the same plot gives the same bytes
            drawn[title] = stream.getvalue()
    return drawn


def _map_height(arrays: Arrays) -> float:
    """Inches that a map of the extent of the samples fills, if it is nine wide."""
    lon, lat = arrays.places.longitude, arrays.places.latitude
    wide, high = max(float(np.ptp(lon)), 0.1), max(float(np.ptp(lat)), 0.1)
    stretch = 1 / max(0.2, float(np.cos(np.deg2rad((lat.max() + lat.min()) / 2))))
    return float(np.clip(7.4 * 1.1 * high / wide * stretch + 0.6, 2.6, 7.0))


def _map(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    axes = figure.subplots()
    lon, lat = arrays.places.longitude, arrays.places.latitude
    if len(lon) <= _FEW_POINTS:
        axes.scatter(lon, lat, s=5, color=_GREEN, alpha=0.5, linewidths=0)
    else:
        span = max(float(np.ptp(lon)), 2 * float(np.ptp(lat)), 1e-3)
        cell = min(1.0, span / 240)
        columns = np.arange(lon.min() - cell / 2, lon.max() + cell, cell)
        rows = np.arange(lat.min() - cell / 2, lat.max() + cell, cell)
        counts, _, _ = np.histogram2d(lat, lon, bins=(rows, columns))
        from matplotlib.colors import LogNorm

        drawn = axes.pcolormesh(
            columns, rows, np.ma.masked_equal(counts, 0), cmap="viridis_r", norm=LogNorm(1, max(2, counts.max()))
        )
        figure.colorbar(drawn, ax=axes, label=f"samples in a cell of {cell:.2g} degrees", shrink=0.8)
    wide, high = max(float(np.ptp(lon)), 0.1), max(float(np.ptp(lat)), 0.1)
    left, right = max(-180.0, lon.min() - 0.05 * wide), min(180.0, lon.max() + 0.05 * wide)
    bottom, top = max(-90.0, lat.min() - 0.08 * high), min(90.0, lat.max() + 0.08 * high)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="longitude", ylabel="latitude")
    # A degree of longitude is shorter than one of latitude: drawn so for the middle of the map.
    middle = np.deg2rad((bottom + top) / 2)
    axes.set_aspect(1 / max(0.2, float(np.cos(middle))), adjustable="box")
    axes.grid(color="#dddddd", linewidth=0.5)
    for line in (0.0, -23.44, 23.44, 66.56, -66.56):
        if bottom < line < top:
            axes.axhline(line, color=_GREY, linewidth=0.6, linestyle="-" if line == 0 else ":")
            name = {0.0: "equator", 23.44: "tropic", -23.44: "tropic"}.get(line, "polar circle")
            axes.annotate(name, (1, line), xycoords=("axes fraction", "data"), fontsize=6, color="#666666",
                          ha="right", va="bottom")  # fmt: skip


def _long_tail(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    axes = figure.subplots()
    counts = arrays.places.species_counts
    rank = np.arange(1, len(counts) + 1)
    highest = max(float(counts[0]) * 1.6, 30.0)
    edges = [0.8, *RARITY_BOUNDS[1:], max(highest, RARITY_BOUNDS[-1] * 2)]
    for number, name in enumerate(RARITY_GROUPS[1:]):
        if edges[number] > highest:
            continue
        low, high = edges[number], min(edges[number + 1], highest)
        if high < 1.5 * low:  # no room for words
            continue
        axes.axhspan(low, high, color=_GREEN, alpha=0.04 + 0.05 * number, linewidth=0)
        entry = report["taxa"]["rarity_in_this_set"][name]
        words = f"{name}: {entry['species']:,} species, {entry['samples']:,} samples"
        axes.annotate(words, (1, np.sqrt(low * high)), xycoords=("axes fraction", "data"), ha="right", va="center",
                      fontsize=8, xytext=(-6, 0), textcoords="offset points")  # fmt: skip
    axes.plot(rank, counts, color=_GREEN, linewidth=1.6, marker="o" if len(counts) < 60 else None, markersize=3)
    axes.set(yscale="log", ylim=(0.8, highest), xlabel="species, most frequent first", ylabel="samples of the species")
    if len(counts) > 300:
        axes.set_xscale("log")
    axes.set_xlim(0.8, max(2, len(counts)) * (1.3 if len(counts) <= 300 else 6))


def _coverage(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    axes = figure.subplots()
    share = 100 * np.asarray(arrays.valid).T  # [C, T]
    drawn = axes.imshow(share, cmap="YlGn", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(arrays.steps)), arrays.steps)
    axes.set_yticks(range(len(arrays.bands)), arrays.bands)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    if share.size <= 400:
        for band, step in np.ndindex(share.shape):
            axes.text(step, band, f"{share[band, step]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if share[band, step] > 60 else "#222222")  # fmt: skip
    figure.colorbar(drawn, ax=axes, label="% of pixels with a value")


def _months(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    left, right = figure.subplots(1, 2)
    steps = report["imagery"]["steps"]
    left.bar(range(len(steps)), [100 * entry["share"] for entry in steps.values()], color=_GREEN)
    left.set_xticks(range(len(steps)), [name[:3] for name in steps], rotation=0 if len(steps) <= 12 else 90, fontsize=8)
    left.set(ylim=(0, 100), ylabel="% of samples", title="samples with a clear pixel")
    counts = report["imagery"]["samples_by_number_of_steps"]
    right.bar(range(len(counts)), counts, color=_BLUE)
    right.set(xlabel="months with a clear pixel", ylabel="samples", title="months of a sample")
    if len(counts) <= 13:
        right.set_xticks(range(len(counts)))


def _bands(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    axes = figure.subplots()
    for row, (_, entry) in enumerate(report["imagery"]["bands"].items()):
        if "p50" not in entry:
            continue
        axes.plot([max(1, entry["minimum"]), entry["maximum"]], [row, row], color=_GREY, linewidth=1)
        axes.plot([max(1, entry["p1"]), entry["p99"]], [row, row], color=_GREEN, linewidth=6, solid_capstyle="butt")
        axes.plot(max(1, entry["p50"]), row, "|", color="white", markersize=8, markeredgewidth=2)
    axes.axvline(10_000, color=_RED, linewidth=0.8)
    axes.annotate("reflectance 1", (10_000, 1), xycoords=("data", "axes fraction"), color=_RED, fontsize=7,
                  ha="left", va="bottom", xytext=(2, 0), textcoords="offset points")  # fmt: skip
    axes.set_yticks(range(len(arrays.bands)), arrays.bands)
    axes.set(xscale="log", xlim=(0.8, 80_000), ylim=(len(arrays.bands) - 0.5, -0.5))
    axes.set_xlabel("digital number: smallest and largest (grey), 1st to 99th percentile (green), median (white)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)


def _variables(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    axes, gaps = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    entries = report["environment"]
    for row, entry in enumerate(entries.values()):
        low, high = entry["plausible"]
        if "p50" in entry:
            place = {key: (entry[key] - low) / (high - low) for key in ("minimum", "maximum", "p1", "p50", "p99")}
            ends = np.clip([place["minimum"], place["maximum"]], -0.06, 1.06)
            wrong = entry["below"] + entry["above"] > 0
            axes.plot(ends, [row, row], color=_RED if wrong else _GREY, linewidth=1)
            axes.plot([place["p1"], place["p99"]], [row, row], color=_GREEN, linewidth=6, solid_capstyle="butt")
            axes.plot(place["p50"], row, "|", color="white", markersize=8, markeredgewidth=2)
        axes.text(-0.09, row, f"{low:g}", fontsize=6, color="#666666", ha="right", va="center")
        axes.text(1.09, row, f"{high:g} {entry['unit'].removesuffix(' clockwise from north')}", fontsize=6,
                  color="#666666", va="center")  # fmt: skip
    axes.set_yticks(range(len(entries)), list(entries), fontsize=7)
    axes.tick_params(axis="y", pad=34, length=0)
    axes.set(xlim=(-0.08, 1.08), ylim=(len(entries) - 0.5, -0.5), xticks=[0, 1])
    axes.set_xticklabels(["lowest", "highest plausible"], fontsize=7)
    axes.set_title("values within the plausible range (red: some beyond it)", fontsize=9)
    for edge in (0, 1):
        axes.axvline(edge, color="#cccccc", linewidth=0.8, zorder=0)
    axes.spines["left"].set_visible(False)
    rates = [100 * entry["missing_rate"] for entry in entries.values()]
    gaps.barh(range(len(rates)), rates, color=_BLUE, height=0.7)
    for row, rate in enumerate(rates):
        if rate > 0:
            text = f"{rate:.1f}" if rate >= 0.1 else "<0.1"
            inside = rate > 75
            gaps.text(rate + (-2 if inside else 2), row, text, fontsize=6, va="center",
                      ha="right" if inside else "left", color="white" if inside else "#222222")  # fmt: skip
    gaps.set(xlim=(0, 100))
    gaps.set_title("% missing", fontsize=9)
    gaps.tick_params(axis="y", left=False, labelleft=False)


def _years(figure: Any, report: Mapping[str, Any], arrays: Arrays) -> None:
    differences = report["year_differences"]
    panels = figure.subplots(1, 2 if differences else 1, squeeze=False)[0]
    for axes, counts, title, colour in zip(
        panels, (report["years"], differences), ("year of the observation", "year of the imagery minus that year"),
        (_GREEN, _BLUE), strict=False,
    ):  # fmt: skip
        known = {int(year): count for year, count in counts.items() if year != "not stated"}
        axes.bar(list(known), list(known.values()), color=colour, width=0.8)
        axes.set(title=title, ylabel="samples")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if known and max(known) - min(known) < 4:
            middle = (max(known) + min(known)) / 2
            axes.set_xlim(middle - 3, middle + 3)
