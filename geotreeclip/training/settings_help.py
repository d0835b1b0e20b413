"""Help of the training commands, from the dataclasses of their settings.

The reader of arguments (jsonargparse) takes longer to load than a person waits for help, so help does without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

__all__ = ["USAGE", "Option", "show_help", "wants_help"]

USAGE = "%(prog)s [--config FILE] [--SETTING VALUE ...]"
"""In help and above errors; all settings would fill a screen."""

Option = tuple[tuple[str, ...], dict[str, Any]]
"""Flags and keywords of an option beside the settings, as `add_argument` takes them."""

_METAVARS = {"bool": "{true,false}", "int": "N", "float": "X", "str": "TEXT"}


def wants_help(argv: Sequence[str]) -> bool:
    """Whether help is asked for."""
    return "-h" in argv or "--help" in argv


def show_help(prog: str, description: str, settings: type, options: Sequence[Option] = ()) -> NoReturn:
    """Print the help and exit.

    Args:
        prog: How the program is called.
        description: What it does.
        settings: Dataclass of the settings; its docstring and those of the dataclasses within tell of each.
        options: Options that are no settings.
    """
    parser = argparse.ArgumentParser(prog=prog, usage=USAGE, description=description)
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; later options override it")
    parser.add_argument("--print_config", action="store_true", help="print the settings that result, as YAML, and exit")
    for flags, keywords in options:
        parser.add_argument(*flags, **{"metavar": "N", **keywords} if "type" in keywords else keywords)
    _add(parser, settings, "")
    parser.print_help()
    parser.exit()


def _add(parser: argparse.ArgumentParser, settings: type, prefix: str) -> None:
    title = (inspect.getdoc(settings) or "").partition("\n")[0].rstrip(".")
    group = parser.add_argument_group(title)
    told = dict(_attributes(settings))
    for field in dataclasses.fields(settings):
        make = field.default_factory
        default = field.default if make is dataclasses.MISSING else make()
        if dataclasses.is_dataclass(default):
            _add(parser, type(default), f"{prefix}{field.name}.")
            continue
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        text = told.get(field.name, "") + (f" (default: {shown})" if shown else "")
        group.add_argument(f"--{prefix}{field.name}", metavar=_metavar(str(field.type)), help=text.replace("%", "%%"))


def _metavar(kind: str) -> str:
    choices = re.findall(r"[\"']([^\"']+)[\"']", kind)
    if choices:
        return f"{{{','.join(choices)}}}"
    if kind.startswith("tuple"):
        return "[ITEM,...]"
    return _METAVARS.get(kind, "{NAME: VALUE}")


def _attributes(settings: type) -> Iterator[tuple[str, str]]:
    """Name and words of each attribute that a docstring tells of."""
    lines = (inspect.getdoc(settings) or "").partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?=    \w+: )", f"\n{lines}"):
        name, _, words = entry.strip().partition(": ")
        yield name, " ".join(words.split())
