"""A set for pretraining from the whole land: locations on an equal-area grid, one scene in each season of each.

    grid      locations            seasons   their cycles        picking   scenes of the seasons, read
    ssl4eco   published folders    packing   shards and weights  job       the command (`data_prep/world.py`)

Steps are spring, summer, autumn and winter of the place, with their real dates (arXiv 2504.18256, whose own code of
the choice of dates is not public).
"""
