"""`geotreeclip train`: the same as train/clip.py, on one device; several are started with `accelerate launch`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["delegate"]


def delegate(arguments: Sequence[str]) -> int:
    """Run the command with its own reader of arguments; returns the exit code."""
    from geotreeclip.training.cli import main

    return main(arguments, prog="geotreeclip train")
