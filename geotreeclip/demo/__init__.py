"""The planted forest: a small, seeded world with known truth, and therefore a known Bayes ceiling.

`config` has the knobs; `species`, `traits`, `spectra`, `climate` and `ranges` are the parts of the generative model;
`world` joins them and draws samples; `posterior` and `ceiling` compute what the best of all classifiers could know;
`make` writes a packed set. Nothing here imports torch.
"""
