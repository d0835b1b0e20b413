"""Occurrences of trees: from GBIF downloads and other tables to one clean table, nothing dropped silently."""

from geotreeclip.prep.occurrences.command import main

__all__ = ["main"]
