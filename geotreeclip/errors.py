"""Errors that speak to people: what is wrong, where, the value seen, how to mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["EXTRAS", "ConfigError", "DataError", "GeotreeclipError", "InputError", "first_line", "run_main"]

EXTRAS: dict[str, str] = {
    "dask": "prep", "distributed": "prep", "ee": "earthengine", "geopandas": "map", "matplotlib": "eval",
    "netCDF4": "map", "pyogrio": "map", "pyproj": "prep", "pystac": "prep", "pystac_client": "prep",
    "rasterio": "prep", "scipy": "eval", "sklearn": "eval", "tensorboard": "train", "xarray": "map",
}  # fmt: skip
"""Modules that a minimal install lacks -> the smallest extra of pyproject.toml that brings them."""


class GeotreeclipError(Exception):
    """Base of all errors that a user can mend; command lines print them as one line."""


class DataError(GeotreeclipError):
    """A file or a stored data set is not what it should be."""


class ConfigError(GeotreeclipError):
    """A configuration names something unknown, or values that do not go together."""


class InputError(GeotreeclipError):
    """Values given by the caller (arrays, coordinates, labels) cannot be right."""


def first_line(error: BaseException) -> str:
    """First line of the message of another library's error that says anything, or the kind of the error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command, print a user's error as one line on standard error, and return the exit code.

    What the system refuses (a full disk, no permission, a folder in place of a file) is a user's error too, and so is
    a library that comes with an extra of the package and is not installed.

    Args:
        main: The command; returns None or an exit code.

    Returns:
        0 after success, the command's own code if it gave one, 2 for a user's error, 130 when interrupted, 1 where
        nobody reads the output any more, as behind `head`.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except GeotreeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        print(f"error: this needs {name}: pip install 'geotreeclip[{EXTRAS[name]}]'", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror or first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code
