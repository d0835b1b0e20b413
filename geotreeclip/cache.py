"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from geotreeclip.data.aside import folder_aside

__all__ = ["cache_directory", "demo_model_directory", "keep_demo_model"]


def cache_directory() -> Path:
    """`$GEOTREECLIP_CACHE`, else `~/.cache/geotreeclip`; it need not exist yet."""
    return Path(os.environ.get("GEOTREECLIP_CACHE") or Path.home() / ".cache" / "geotreeclip").expanduser()


def demo_model_directory() -> Path:
    """Where the model of the demo world is kept, which `model="demo"` loads."""
    return cache_directory() / "demo-model"


def keep_demo_model(directory: str | Path) -> Path:
    """Copy a model directory to where `model="demo"` looks for it, whole or not at all.

    Args:
        directory: The model that was trained on the demo world; an older demo model is replaced.

    Returns:
        The copy.

    Raises:
        DataError: If it cannot be written.
    """
    target = demo_model_directory()
    with folder_aside(target) as aside:
        shutil.copytree(directory, aside, dirs_exist_ok=True)
    return target


if __name__ == "__main__":  # python -m geotreeclip.cache MODEL: keep a model as the one that model="demo" loads
    print(f"kept as model='demo': {keep_demo_model(sys.argv[1])}")
