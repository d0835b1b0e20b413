"""Names and defaults that command lines show in their help; light to import."""

from __future__ import annotations

__all__ = ["BLOCK_KM", "RESAMPLES", "VARIANTS"]

BLOCK_KM = 100.0
"""Edge of the blocks of intervals, kilometres."""

RESAMPLES = 1000
"""Resamples of a bootstrap."""

VARIANTS = ("original", "rank-cleaned", "trees", "unseen-species")
"""What of a set is scored, see `geotreeclip.evaluation.views`."""
