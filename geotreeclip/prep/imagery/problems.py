"""What can be wrong with an item or a file without stopping the work: it is left out, counted and named."""

from __future__ import annotations

from geotreeclip.errors import DataError

__all__ = ["NotAScene", "SceneLost", "Unreachable"]


class NotAScene(Exception):
    """An item that cannot be used, with the reason."""


class SceneLost(Exception):
    """A file of a scene that is not there, or damaged: the scene is left out.

    Args:
        reason: Which file, and what is wrong.
        there: Whether the file exists, so that another try may help where the network is at fault.
    """

    def __init__(self, reason: str, *, there: bool = False) -> None:
        super().__init__(reason)
        self.there = there


class Unreachable(DataError):
    """A server that does not answer now: the part is tried again, and is never written without the scene."""
