"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_directory", "demo_model_directory"]


def cache_directory() -> Path:
    """`$GEOTREECLIP_CACHE`, else `~/.cache/geotreeclip`; it need not exist yet."""
    return Path(os.environ.get("GEOTREECLIP_CACHE") or Path.home() / ".cache" / "geotreeclip").expanduser()


def demo_model_directory() -> Path:
    """Where the model of the demo world is kept, which `model="demo"` loads."""
    return cache_directory() / "demo-model"
