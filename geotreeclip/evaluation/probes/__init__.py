"""Probes: what a frozen embedding tells of any table with coordinates, at random and in spatial blocks."""
