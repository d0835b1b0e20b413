"""Unseen species: what taxonomic words carry over, beside permuted words and a learnt vector for each species."""
