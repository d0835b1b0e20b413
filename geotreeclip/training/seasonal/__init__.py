"""Season-contrastive pretraining of the encoder of places, without labels.

    config      options of a run                 seasons     seasons of samples: phenology, calendar or stored steps
    objectives  season2, seco_eco, moco          views       what is seen of a place: single steps, halves of the year
    queue       keys of earlier batches          sampling    how often a place is drawn
    loop        the run                          output      the folder that `train/clip.py --init` starts from

The objectives are those of SeCo (Manas et al. 2021) and SSL4Eco (arXiv 2504.18256) for series of patches of 5 x 5
pixels, with a term for whole series, so that what reads a year is trained too.
"""
