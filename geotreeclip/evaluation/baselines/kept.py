"""Fits kept as files in an output directory that belongs to one data set and one choice of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError

__all__ = ["KeptFits"]


class KeptFits:
    """Where the predictions of single fits lie.

    Args:
        out: Output directory.
        identity: JSON-able; what all fits of the directory share.

    Raises:
        ConfigError: The directory holds fits of another data set or other settings.
        DataError: Its record of them is damaged.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.folder = out / "fits"
        path = self.folder / "settings.json"
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read ({error}); remove {self.folder} to fit anew") from error
            changed = sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key))
            if changed:
                raise ConfigError(
                    f"{self.folder}: holds fits with another {', '.join(changed)}; give another --out, or remove it"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(identity), indent=1) + "\n"
        write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))

    def path(self, name: str) -> Path:
        """The file of a fit."""
        return self.folder / f"{name}.parquet"
