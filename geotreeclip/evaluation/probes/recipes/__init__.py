"""Recipes of downstream tasks: which file, which columns, which labels, which score, and what is known of the task.

    recipe     what a recipe says, and how one is written for a task of your own (a TOML file, no code)
    tasks      the recipes: biomes, arctic, eu-forest, treesatai, chelsa, land-cover
    labels     the files as their authors publish them, read into one table of samples
    features   what stands in for an embedding, or is embedded: rasters at points, patches of one date, monthly series

`eval/probe.py --recipes` lists them. A recipe names the sources; nothing is fetched. Imagery for the points of a task
comes from the data preparation: `eval/probe.py --recipe NAME --table FILE --points points.csv` writes them for
`data_prep/sentinel2.py`, and the packed set is probed with `--recipe NAME --table FILE --model RUN --data DIR`, joined
by sample id.
"""
