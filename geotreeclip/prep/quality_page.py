"""The quality report of a set as a page that needs nothing but itself, and as JSON."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.prep.quality import measure_quality
from geotreeclip.prep.quality_plots import draw_plots

__all__ = ["write_quality"]

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1020px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em;margin-bottom:.2em} h2{font-size:1.1em;margin:2em 0 .4em;border-bottom:1px solid #ddd}
img{max-width:100%;height:auto;display:block} table{border-collapse:collapse;margin:.4em 0;font-size:.9em}
td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top;font-weight:normal}
th{color:#666;border-bottom:1px solid #ccc} td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.warning{background:#fdf0ed;border-left:4px solid #b2182b;padding:.4em .8em;margin:.3em 0}
.good{background:#eef6ef;border-left:4px solid #1b7837;padding:.4em .8em}
.side{display:flex;flex-wrap:wrap;gap:.8em 3em;align-items:flex-start}
.side td:first-child{max-width:26em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.wrong td{color:#b2182b} p.small{color:#666;font-size:.85em}
"""


def write_quality(directory: str | Path, *, progress: bool = False) -> dict[str, Any]:
    """Describes a finished set in ``quality.html`` and ``quality.json`` beside its shards.

    Args:
        directory: A packed set, or a folder of published shards that packing wrote.
        progress: Whether to draw a progress bar.

    Returns:
        What ``quality.json`` holds.

    Raises:
        DataError: The set cannot be read, or the page not written.
        ConfigError: Matplotlib is not installed.
    """
    out = Path(directory)
    report, arrays = measure_quality(out, progress=progress)
    page = render(report, draw_plots(report, arrays))
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(out / "quality.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(out / "quality.html", lambda path: path.write_text(page, encoding="utf-8"))
    return report


def render(report: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """The page of a report."""
    title = html.escape(Path(str(report["directory"])).name)
    taxa = report["taxa"]
    parts = [
        f"<h1>Quality of {title}</h1>",
        f"<p>{report['samples']:,} samples of {taxa['species']:,} species, {taxa['genera']:,} genera and "
        f"{taxa['families']:,} families, {html.escape(report['format'])} format.</p>",
    ]
    if report["warnings"]:
        parts += [f'<p class="warning">{html.escape(text)}</p>' for text in report["warnings"]]
    else:
        parts.append('<p class="good">Nothing stands out.</p>')
    parts += _packing(report["packing"])
    for name, image in plots.items():
        data = base64.b64encode(image).decode("ascii")
        parts.append(f'<h2>{html.escape(name)}</h2><img alt="{html.escape(name)}" src="data:image/png;base64,{data}">')
    parts += _samples(report)
    parts += _values(report)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Quality of {title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _packing(packing: Mapping[str, Any] | None) -> list[str]:
    """Occurrences read, packed and left out."""
    if not packing or "left_out" not in packing:
        return []
    rows = [("read", packing["read"]), ("packed", packing["packed"])]
    rows += [(f"left out: {why}", count) for why, count in packing["left_out"].items()]
    return ["<h2>From occurrences to samples</h2>", _table(("", "occurrences"), rows)]


def _samples(report: Mapping[str, Any]) -> list[str]:
    taxa, places, same = report["taxa"], report["places"], report["duplicates"]
    tables = [
        _table(
            ("rarity by the counts of this set", "species", "samples"),
            [(name, entry["species"], entry["samples"]) for name, entry in taxa["rarity_in_this_set"].items()],
        ),
        _listed("rarity as stated", taxa["rarity_stated"]),
        _listed("most frequent species", taxa["most_frequent"]),
        _listed("leaf type", taxa["leaf_types"]),
        _listed(f"country ({places['number_of_countries']} in all)", places["countries"]),
        _listed("source", places["sources"]),
        _listed("precision of the place", places["precision"]),
        _table(
            ("duplicates", "samples"),
            [
                ("sample id again", same["sample_ids"]),
                ("place and taxon again", same["same_place_and_taxon"]),
                ("place again, other taxon", same["same_place_other_taxon"]),
            ],
        ),
    ]
    moved = places["moved_to_land"]
    note = ""
    if moved and moved["samples"]:
        note = (
            f'<p class="small">{moved["samples"]:,} samples took environment from the nearest cell with a value, at '
            f"most {moved['farthest_km']:.1f} km away.</p>"
        )
    return ["<h2>Samples</h2>", f'<div class="side">{"".join(tables)}</div>', note]


def _values(report: Mapping[str, Any]) -> list[str]:
    """Tables of variables and bands."""
    rows = []
    for name, entry in report["environment"].items():
        low, high = entry["plausible"]
        wrong = entry["below"] + entry["above"]
        rows.append(
            (name, entry["unit"], f"{entry['missing_rate']:.2%}", *_numbers(entry), f"{low:g} to {high:g}", wrong or "")
        )
    header = ("variable", "unit", "missing", "minimum", "1 %", "median", "99 %", "maximum", "plausible", "outside")
    parts = ["<h2>Variables</h2>", _table(header, rows, marked=[bool(row[-1]) for row in rows])]
    if report["imagery"] is not None:
        bands = [
            (name, f"{entry['missing_rate']:.2%}", *_numbers(entry), f"{entry.get('above_1_reflectance', 0):.3%}")
            for name, entry in report["imagery"]["bands"].items()
        ]
        names = ("band", "missing", "minimum", "1 %", "median", "99 %", "maximum", "above reflectance 1")
        parts += ["<h2>Bands, digital numbers</h2>", _table(names, bands)]
    return parts


def _numbers(entry: Mapping[str, Any]) -> list[str]:
    keys = ("minimum", "p1", "p50", "p99", "maximum")
    if "p50" not in entry:
        return [""] * len(keys)
    return [f"{entry[key]:,.0f}" if abs(entry[key]) >= 1000 else f"{entry[key]:.4g}" for key in keys]


def _listed(title: str, counts: Mapping[str, int]) -> str:
    return _table((title, "samples"), list(counts.items())) if counts else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], marked: Sequence[bool] = ()) -> str:
    """A table; every column but the first text ones is of numbers."""
    listed = list(rows)
    numeric = [
        all(
            isinstance(row[k], int | float) or (k and str(row[k])[:1] in "-0123456789") or row[k] == ""
            for row in listed
        )
        for k in range(len(header))
    ]
    classes = [' class="n"' if number and k else "" for k, number in enumerate(numeric)]
    head = "".join(f"<th{css}>{html.escape(name)}</th>" for css, name in zip(classes, header, strict=True))
    lines = []
    for number, row in enumerate(listed):
        cells = "".join(f"<td{css}>{_cell(value)}</td>" for css, value in zip(classes, row, strict=True))
        lines.append(f"<tr{' class=wrong' if marked and marked[number] else ''}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))
