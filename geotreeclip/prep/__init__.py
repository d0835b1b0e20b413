"""Data preparation: occurrences, environment and splits."""
