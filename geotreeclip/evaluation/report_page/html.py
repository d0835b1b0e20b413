"""The report as one page that needs nothing but itself: no script, no font, no request; images are in the text.

Light and dark follow the reader's setting; printed, it is light. Tables scroll by themselves on a narrow screen.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from geotreeclip.evaluation.report_page.parts import Cell, Figure, Part, RunList, Section, Table, Text, Value
from geotreeclip.evaluation.report_page.runs import Run

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1d2320;--soft:#66706a;--line:#e1e5e2;--wash:#f6f8f6;--accent:#1f6f4a}
@media (prefers-color-scheme:dark){:root{--ground:#161a18;--ink:#e6eae7;--soft:#98a29c;--line:#2c3330;--wash:#1c211f;
--accent:#5fbf8f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:1.9rem;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 .4rem}
h2{font-size:1.35rem;font-weight:640;letter-spacing:-.01em;margin:3.4rem 0 .9rem;padding-top:1.1rem;
border-top:1px solid var(--line)}
h3{font-size:1.05rem;font-weight:640;margin:2.4rem 0 .6rem}
p,li{max-width:46rem}
p{margin:.5rem 0 1rem}
.lead{color:var(--soft);margin-bottom:1.4rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.9rem;margin:0 0 1rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
.table{margin:1.5rem 0 2rem}
.table>p.title{font-weight:600;margin:0 0 .45rem;font-size:.95rem}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.86rem;line-height:1.35;font-variant-numeric:tabular-nums;min-width:100%}
th{font-weight:500;color:var(--soft);text-align:right;vertical-align:bottom;padding:.3rem .55rem .45rem;
border-bottom:1px solid var(--line);max-width:9.5rem}
td{text-align:right;padding:.42rem .55rem;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
th.w,td.w{text-align:left}
td.w{white-space:normal;min-width:4.6rem;max-width:22rem}
td.w:first-child{min-width:8rem}
th:first-child,td:first-child{padding-left:0}
th:last-child,td:last-child{padding-right:0}
tr.quiet td{color:var(--soft)}
td small{display:block;color:var(--soft);font-size:.76rem}
.note{color:var(--soft);font-size:.85rem;margin:.55rem 0 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.6rem 2rem;
margin:1.8rem 0 2rem;align-items:start}
figure{margin:0;max-width:31rem}
figure.wide{grid-column:1/-1;max-width:none}
img{display:block;width:100%;height:auto}
figcaption{color:var(--soft);font-size:.85rem;line-height:1.45;margin-top:.5rem}
.source{color:var(--soft);font-size:.72rem;line-height:1.4;margin:.35rem 0 0;overflow-wrap:anywhere;max-width:none}
.source code{font-size:.95em}
.source a{color:inherit;text-decoration:underline;text-decoration-color:var(--line);text-underline-offset:2px}
.run{margin:0 0 1.1rem}
.run p{margin:0 0 .25rem;max-width:none}
.run span{color:var(--soft);font-size:.88rem;margin-left:.4rem}
.run pre{margin:0;padding:.55rem .75rem;background:var(--wash);border-radius:5px;font-size:.78rem;line-height:1.5;
white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (max-width:34rem){body{font-size:15px}main{padding:1.5rem 1rem 3rem}h1{font-size:1.55rem}h2{margin-top:2.6rem}
td.w{max-width:9rem}th:first-child,td:first-child{position:sticky;left:0;background:var(--ground)}}
@media print{:root{color-scheme:light;--ground:#fff;--ink:#000;--soft:#444;--line:#ccc;--accent:#000}
@page{margin:16mm}body{font-size:10pt}main{max-width:none;padding:0}nav{display:none}
h2{page-break-after:avoid}.scroll{overflow:visible}table{font-size:7.6pt}th,td{padding:.2rem .3rem}
figure,tr{page-break-inside:avoid}.figures{grid-template-columns:1fr 1fr;gap:1rem}}
"""


def html_page(title: str, lead: str, sections: Sequence[Section], images: Mapping[str, tuple[bytes, bytes]]) -> str:
    """The whole page.

    Args:
        title: heading and name of the page.
        lead: below it.
        sections: in order.
        images: name of a figure -> its PNG in light and in dark.
    """
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
        if section.level == 2
    )
    body = "".join(_section(section, number, images) for number, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n<nav>{links}</nav>\n'
        f"{body}</main>\n</body>\n</html>\n"
    )


def _section(section: Section, number: int, images: Mapping[str, tuple[bytes, bytes]]) -> str:
    lines = [f'<section>\n<h{section.level} id="s{number}">{escape(section.title)}</h{section.level}>\n']
    for figures, parts in groupby(section.parts, key=lambda part: isinstance(part, Figure)):
        shown = "".join(_part(part, images) for part in parts)
        lines.append(f'<div class="figures">\n{shown}</div>\n' if figures else shown)
    return "".join([*lines, "</section>\n"])


def _part(part: Part, images: Mapping[str, tuple[bytes, bytes]]) -> str:
    if isinstance(part, Text):
        text = f"<p>{escape(part.text)}</p>\n" if part.text else ""
        items = "".join(f"<li>{escape(item)}</li>" for item in part.items)
        return text + (f"<ul>{items}</ul>\n" if items else "")
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, RunList):
        return "".join(_run(run, scored) for run, scored in zip(part.runs, part.scored, strict=True))
    light, dark = (_inline(image) for image in images[part.name])
    wide = ' class="wide"' if part.wide else ""
    return (
        f'<figure{wide}><picture><source srcset="{dark}" media="screen and (prefers-color-scheme:dark)">'
        f'<img src="{light}" alt="{escape(part.caption, quote=True)}"></picture>'
        f"<figcaption>{escape(part.caption)}</figcaption>{_sources(part.sources, full=True)}</figure>\n"
    )


def _table(table: Table) -> str:
    def tag(kind: str, column: int, content: str) -> str:
        words = ' class="w"' if column < table.text else ""
        return f"<{kind}{words}>{content}</{kind}>"

    unbroken = (name.replace("-", "\u2011") for name in table.head)
    head = "".join(tag("th", column, escape(name)) for column, name in enumerate(unbroken))
    rows = []
    before: Sequence[Cell] = ()
    for number, row in enumerate(table.rows):
        cells = []
        for column, cell in enumerate(row):
            same = column == 0 and table.text > 1 and before and cell == before[0] and isinstance(cell, str)
            cells.append(tag("td", column, "" if same else _cell(cell)))
        quiet = ' class="quiet"' if number in table.quiet else ""
        rows.append(f"<tr{quiet}>{''.join(cells)}</tr>\n")
        before = row
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="table"><p class="title">{escape(table.title)}</p>\n<div class="scroll" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n{note}{_sources(table.sources)}"
        "</div>\n"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, Value):
        span = f"<small>{escape(cell.span)}</small>" if cell.span else ""
        return f"{escape(cell.text)}{span}"
    return escape(cell)


def _sources(runs: Sequence[Run], *, full: bool = False) -> str:
    """Run (a link to its command), hashes and, below plots, the command itself: those get cut out and passed on."""
    lines = []
    for run in runs:
        made = [f"<code>{escape(run.command)}</code>"] if run.command and full else []
        made += ["command not recorded"] if not run.command else []
        link = f'<a href="#{_anchor(run)}" title="{escape(run.command, quote=True)}">{escape(run.name)}</a>'
        lines.append(" \u00b7 ".join([link, *_hashes(run), *made]))
    return f'<p class="source">{"<br>".join(lines)}</p>' if lines else ""


def _run(run: Run, scored: str) -> str:
    created = str(run.meta.get("created") or "")[:16].replace("T", " ")
    about = " \u00b7 ".join(filter(None, [escape(scored), *_hashes(run), escape(created)]))
    made = f"<pre><code>{escape(run.command)}</code></pre>" if run.command else "<p>command not recorded</p>"
    return f'<div class="run" id="{_anchor(run)}"><p><b>{escape(run.name)}</b> <span>{about}</span></p>{made}</div>\n'


def _hashes(run: Run) -> list[str]:
    return [f"{kind} {escape(value[:12])}" for kind, value in (("model", run.model), ("data", run.data)) if value]


def _anchor(run: Run) -> str:
    return "run-" + "".join(letter if letter.isalnum() else "-" for letter in run.name)


def _inline(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"
