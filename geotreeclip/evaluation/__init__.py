"""Evaluation: predictions on disk, metrics and intervals computed from them, reports that compare systems."""
