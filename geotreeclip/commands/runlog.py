"""`--log run.json`: what a command read, with which model and versions, what it wrote, and how it ended."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import DataError, GeotreeclipError

if TYPE_CHECKING:
    import argparse

__all__ = ["add_argument", "describe_file", "sha256", "written_log"]

_PACKAGES = ("geotreeclip", "torch", "numpy", "pandas", "pyarrow")


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--log`."""
    parser.add_argument(
        "--log",
        type=Path,
        metavar="run.json",
        help="write versions, command, hashes, rows, seconds and exit code to it",
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    from geotreeclip.data.manifest import sha256_file

    return sha256_file(path)


def describe_file(path: Path) -> dict[str, Any]:
    """Path, size and hash of a file; of a packed set or imagery those of the file that tells of the rest.

    Of another folder its number of files and their size.
    """
    if path.is_dir():
        known = next((path / name for name in ("manifest.json", "imagery.json") if (path / name).is_file()), None)
        if known is None:
            sizes = [file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()]
            return {"path": str(path), "files": len(sizes), "bytes": sum(sizes)}
        return {"path": str(path), "bytes": known.stat().st_size, "sha256": sha256(known)}
    return (
        {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
        if path.is_file()
        else {"path": str(path)}
    )


@contextmanager
def written_log(path: Path | None, **more: Any) -> Iterator[dict[str, Any]]:
    """An account to add to; it is written when the block ends, however it ends.

    Raises:
        DataError: If the file cannot be written.
    """
    account: dict[str, Any] = {
        "command": shlex.join(["geotreeclip", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        **more,
    }
    if path is not None:
        _write(path, account)  # now rather than after hours, if it cannot be
    begin = time.monotonic()
    code, message = 0, ""
    try:
        yield account
    except GeotreeclipError as error:
        code, message = 2, str(error)
        raise
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
        raise
    finally:
        account |= {"seconds": round(time.monotonic() - begin, 3), "exit_code": code, "peak_memory_mb": _peak()}
        if message:
            account["error"] = message
        if path is not None:
            _write(path, account)


def _write(path: Path, account: dict[str, Any]) -> None:
    from geotreeclip.data.shardfile import write_atomically

    text = json.dumps(account, indent=1, default=str) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--log {path}: cannot be written ({error.strerror or error})") from error


def _version(name: str) -> str:
    from importlib import metadata  # slow to import, and not needed for help

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def _peak() -> float | None:
    """Largest memory of this process, MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
