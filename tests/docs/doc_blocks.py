"""Fenced blocks of Markdown, and commands read by their own parsers."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)(?: +title=\"(?P<title>[^\"]+)\")?$")
_MARK = re.compile(r"^ *<!-- not run: (.+) -->$")
_HEADING = re.compile(r"^#+ +(.+)$")


@dataclass(frozen=True)
class Block:
    """One fenced block; `reason` says why it is not run, "" where it is."""

    page: str
    line: int
    section: str
    language: str
    title: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found: list[Block] = []
    section, before, opened, start, body = "", "", None, 0, [""]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None and line.strip() == "```":
            mark = _MARK.match(before)
            name = str(path.relative_to(ROOT))
            found.append(
                Block(
                    name, start, section, opened["language"], opened["title"] or "", "\n".join(body) + "\n",
                    mark[1] if mark else "",
                )
            )  # fmt: skip
            opened, before = None, ""
        elif opened is not None:
            body.append(line.removeprefix(opened["indent"]))
        elif fence:
            opened, start, body = fence, number, []
        elif line.strip():
            before = line
            if heading := _HEADING.match(line):
                section = heading[1]
    assert opened is None, f"{path}: the block of line {start} has no end"
    return found


def commands(block: Block) -> list[str]:
    """The commands of a console block, one a line; lines of comments are left out."""
    joined = block.text.replace("\\\n", " ").replace(" && ", "\n")
    return [line.strip() for line in joined.splitlines() if shlex.split(line, comments=True)]


class Read(BaseException):
    """A parser took all its arguments; nothing was run."""


@contextmanager
def only_parsing() -> Iterator[None]:
    """Every parser stops after reading its arguments; wrong ones still leave by SystemExit."""
    import jsonargparse

    with pytest.MonkeyPatch.context() as patch:
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            for name in ("parse_args", "parse_known_args"):
                patch.setattr(parser, name, _stopping(getattr(parser, name)))
        yield


def _stopping(parse: Any) -> Any:
    def stop(self: Any, *args: Any, **named: Any) -> Any:
        if _reading:  # asked by a parser, not by a command
            return parse(self, *args, **named)
        _reading.append(self)
        try:
            found = parse(self, *args, **named)
        finally:
            _reading.pop()
        unknown = found[1] if isinstance(found, tuple) else []
        assert not unknown, f"options that {self.prog} leaves to others: {unknown}"
        raise Read

    return stop


_reading: list[Any] = []
"""The parser that is at work."""


def check_command(line: str) -> None:
    """Have a command's own parser read it.

    Raises:
        SystemExit: An option does not exist, or a value is refused.
        AssertionError: Nothing is known of the command.
    """
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), line
        return
    if program == "pip":
        assert arguments[0] == "install", line
        _check_extras(line)
        return
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert arguments.pop(0) == "launch", line
        given = launch_command_parser().parse_args(arguments)
        program, arguments = "python", [given.training_script, *given.training_script_args]
    assert program in ("geotreeclip", "python"), f"{line}: not a command that this test knows"
    with only_parsing():
        try:
            _start(program, arguments)
        except Read:
            return
    raise AssertionError(f"{line}: ended without a parser")


def _start(program: str, arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if program == "geotreeclip":
            from geotreeclip.cli import main

            main(arguments)
        elif arguments[0] == "-m":
            patch.setattr(sys, "argv", arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            patch.setattr(sys, "argv", arguments)
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


def _check_extras(line: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for names in re.findall(r"\[([a-z,]+)\]", line):
        assert set(names.split(",")) <= set(project["optional-dependencies"]), line
