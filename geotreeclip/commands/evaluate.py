"""`geotreeclip evaluate`: the same as eval/zero_shot.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geotreeclip.evaluation.zero_shot_arguments import add_arguments

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        GeotreeclipError: If the model, the set or an argument is not right.
    """
    from geotreeclip.evaluation import zero_shot

    return zero_shot.run(args)
