"""Few-shot scoring and adaptation: a few labelled places, a head fitted to them, honest queries."""
