"""Command line of `train/seasonal.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from geotreeclip.errors import run_main
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.settings_help import USAGE, show_help, wants_help

__all__ = ["main", "parse"]

_PROG = "train/seasonal.py"
_DESCRIPTION = "Pretrain the encoder of places by contrasts between seasons; start with `accelerate launch`."


def parse(argv: Sequence[str] | None = None) -> SeasonalConfig:
    """Read the configuration: defaults, then `--config` files, then single settings, the last one wins."""
    words = sys.argv[1:] if argv is None else list(argv)
    if wants_help(words):
        show_help(_PROG, _DESCRIPTION, SeasonalConfig)
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=_PROG, usage=USAGE, description=_DESCRIPTION)
    parser.add_argument("--config", action="config", help="YAML file of settings; later options override it")
    parser.add_class_arguments(SeasonalConfig, None)
    ready: Any = parser.instantiate(parser.parse_args(words))
    return SeasonalConfig(**{name: ready[name] for name in SeasonalConfig.__dataclass_fields__})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train/clip.py

    def job() -> None:
        config = parse(argv)
        from geotreeclip.training.seasonal.loop import pretrain

        pretrain(config)

    return run_main(job)
