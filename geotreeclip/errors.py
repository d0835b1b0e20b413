"""Errors that speak to people: what is wrong, where, the value seen, how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["ConfigError", "DataError", "GeotreeclipError", "InputError", "run_main"]


class GeotreeclipError(Exception):
    """Base of all errors that a user can mend; command lines print them as one line."""


class DataError(GeotreeclipError):
    """A file or a stored data set is not what it should be."""


class ConfigError(GeotreeclipError):
    """A configuration names something unknown, or values that do not go together."""


class InputError(GeotreeclipError):
    """Values given by the caller (arrays, coordinates, labels) cannot be right."""


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command, print a user's error as one line on standard error, and return the exit code.

    Args:
        main: The command; returns None or an exit code.

    Returns:
        0 after success, the command's own code if it gave one, 2 for a user's error, 130 when interrupted.
    """
    try:
        return main() or 0
    except GeotreeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
