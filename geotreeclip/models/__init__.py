"""Encoders of places and of taxonomic text, the registry of sizes, and model directories."""
