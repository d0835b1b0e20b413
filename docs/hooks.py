"""What the site shows beside the pages of docs/: notebooks, the list of commands, and how to contribute.

MkDocs calls the functions named `on_...`.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Put generated pages in the place of notebooks, and add those that have no file in docs/."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            files.append(File.generated(config, f"{file.src_uri[:-6]}.md", content=notebook(Path(file.abs_src_path))))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=contributing))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_config(config: Any) -> Any:
    """Notebooks stand in the navigation under their own names; their pages end in .md."""
    config["nav"] = _pages(config["nav"])
    return config


def _pages(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_pages(part) for part in entry]
    if isinstance(entry, dict):
        return {title: _pages(part) for title, part in entry.items()}
    return re.sub(r"\.ipynb$", ".md", entry)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Commands stand without a prompt, so they are coloured as a script; in a session they would pass for output."""
    return markdown.replace("```console", "```bash")


def notebook(path: Path) -> str:
    """A notebook as Markdown: text, code, and what is kept of its outputs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if not source:
            continue
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any]) -> str:
    """One output: a picture, else its text."""
    data = output.get("data", {})
    if "image/png" in data:
        encoded = "".join(data["image/png"]).replace("\n", "")
        return f"![what the cell draws](data:image/png;base64,{encoded})"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f'<div class="output" markdown>\n\n```text\n{text}\n```\n\n</div>' if text else ""


def commands() -> str:
    """The help of every command, as it is printed."""
    from geotreeclip.cli import COMMANDS

    parts = ["# Commands\n\n`geotreeclip COMMAND --help` prints these; scripts take `--help` likewise."]
    for name, (module, summary) in COMMANDS.items():
        found = import_module(module)
        if not hasattr(found, "add_arguments"):  # it reads its arguments itself
            parts.append(f"## geotreeclip {name}\n\n{summary[0].upper() + summary[1:]}: see [Training](training.md).")
            continue
        parser = argparse.ArgumentParser(
            prog=f"geotreeclip {name}",
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
        )
        found.add_arguments(parser)
        parts.append(f"## geotreeclip {name}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
