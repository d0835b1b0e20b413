"""The report as Markdown, figures as files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from geotreeclip.evaluation.report_page.parts import Cell, Figure, RunList, Section, Table, Value
from geotreeclip.evaluation.report_page.runs import Run


def markdown_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    lines = [f"# {title}", "", lead, ""]
    for section in sections:
        lines += [f"{'#' * section.level} {section.title}", ""]
        for part in section.parts:
            if isinstance(part, Table):
                lines += _table(part)
            elif isinstance(part, Figure):
                lines += [f"![{_plain(part.caption)}]({part.name}.png)", "", part.caption, *_sources(part.sources), ""]
            elif isinstance(part, RunList):
                for run, scored in zip(part.runs, part.scored, strict=True):
                    lines.append(f"- {source_words(run)} \u00b7 {scored}")
                lines.append("")
            else:
                lines += [part.text, ""] if part.text else []
                lines += [*(f"- {item}" for item in part.items), ""] if part.items else []
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    head = "| " + " | ".join(_escape(name) for name in table.head) + " |"
    rule = "|" + "|".join([" --- "] * table.text + [" ---: "] * (len(table.head) - table.text)) + "|"
    body = ["| " + " | ".join(_escape(_cell(cell)) for cell in row) + " |" for row in table.rows]
    note = [table.note, ""] if table.note else []
    return [f"**{table.title}**", "", head, rule, *body, "", *note, *_sources(table.sources), ""]


def _sources(runs: Sequence[Run]) -> list[str]:
    return ["", *(f"<sub>{source_words(run)}</sub>  " for run in runs)] if runs else []


def source_words(run: Run) -> str:
    """Run, hashes and command in one line."""
    parts = [run.name]
    parts += [f"model {run.model[:12]}"] if run.model else []
    parts += [f"data {run.data[:12]}"] if run.data else []
    parts += [f"`{run.command}`" if run.command else "command not recorded"]
    return " \u00b7 ".join(parts)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Value):
        return f"{cell.text} [{cell.span}]" if cell.span else cell.text
    return cell


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")
