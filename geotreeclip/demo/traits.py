"""Traits of the species: what a canopy looks like with and without leaves, and when it turns.

Letters: S species, C bands (10).

Every trait is the value of the leaf type plus normal effects of family, genus and species,

    trait_s = base(leaf type) + scale x (sqrt(.25) e_family + sqrt(.35) e_genus + sqrt(.40) e_species),

so relatives look alike: two species of a genus share 60 % of the variance within a leaf type, two of a family 25 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.config import WorldConfig
from geotreeclip.taxonomy import Taxonomy

__all__ = ["Traits", "draw_traits", "taxonomic_effects"]

FloatArray = NDArray[np.float64]

_SHARES = {"family": 0.25, "genus": 0.35, "species": 0.40}

# Reflectance of closed canopies, rounded from what Sentinel-2 shows in temperate forest; bands in stored order.
#                            B2     B3     B4     B8     B5     B6     B7     B8A    B11    B12
_LEAFY = {
    "Deciduous Broadleaf": (0.030, 0.060, 0.032, 0.400, 0.100, 0.280, 0.360, 0.420, 0.200, 0.090),
    "Evergreen Broadleaf": (0.030, 0.055, 0.033, 0.320, 0.085, 0.220, 0.285, 0.335, 0.170, 0.080),
    "Evergreen Needleleaf": (0.022, 0.038, 0.024, 0.220, 0.055, 0.150, 0.190, 0.230, 0.095, 0.045),
    "Deciduous Needleleaf": (0.027, 0.052, 0.029, 0.300, 0.080, 0.210, 0.265, 0.315, 0.140, 0.065),
}
_BARE = {
    "Deciduous Broadleaf": (0.050, 0.070, 0.080, 0.200, 0.110, 0.150, 0.170, 0.210, 0.240, 0.165),
    "Evergreen Broadleaf": (0.034, 0.058, 0.045, 0.270, 0.090, 0.190, 0.240, 0.280, 0.190, 0.105),
    "Evergreen Needleleaf": (0.024, 0.038, 0.030, 0.180, 0.055, 0.125, 0.155, 0.185, 0.105, 0.055),
    "Deciduous Needleleaf": (0.042, 0.058, 0.066, 0.170, 0.090, 0.125, 0.140, 0.175, 0.190, 0.125),
}
#         middle of the leafy season (month of the north, January starts at 0), its length in months, depth of the turn
_SEASON = {
    "Deciduous Broadleaf": (7.0, 5.6, 1.0),
    "Evergreen Broadleaf": (6.6, 5.5, 0.5),
    "Evergreen Needleleaf": (6.8, 5.2, 0.6),
    "Deciduous Needleleaf": (7.1, 5.2, 0.95),
}
_MODES = np.array(
    [
        (0.8, 1.2, 1.0, 0.0, 0.9, 0.2, 0.0, 0.0, 0.1, 0.2),  # pigment: visible and red edge
        (0.0, 0.3, 0.0, 1.0, 0.3, 0.9, 1.0, 1.0, 0.4, 0.2),  # scattering of leaves: near infrared
        (0.0, 0.0, 0.2, 0.0, 0.1, 0.0, 0.0, 0.1, 1.0, 1.4),  # water: short-wave infrared
        (-0.2, 0.6, -0.4, 0.0, 1.0, 0.6, 0.2, 0.0, 0.0, 0.0),  # position of the red edge
    ]
)
_OWN = 0.15  # effect of a single band, relative to that of the modes


@dataclass(frozen=True)
class Traits:
    """Traits of all species.

    Attributes:
        leafy: [S, C] log reflectance in full leaf.
        bare: [S, C] log reflectance out of season.
        middle: [S] middle of the leafy season in the north, months from 1 January.
        length: [S] months between green-up and leaf fall.
        speed: [S] how sharply the season begins and ends.
        depth: [S] share of the way to `bare` that the canopy goes out of season, 0 to 1.
        flush: [S] strength of the spring flush.
        autumn: [S] strength of the autumn colours.
    """

    leafy: FloatArray
    bare: FloatArray
    middle: FloatArray
    length: FloatArray
    speed: FloatArray
    depth: FloatArray
    flush: FloatArray
    autumn: FloatArray


def taxonomic_effects(taxonomy: Taxonomy, size: int, rng: np.random.Generator) -> FloatArray:
    """Normal effects of unit variance within a leaf type, shared by relatives as far as they are related; [S, size].

    Effects belong to names, so a family with two leaf types looks alike in both.
    """
    total = np.zeros((len(taxonomy), size))
    for rank, share in _SHARES.items():
        taxa, rows = taxonomy.names(rank)
        total += np.sqrt(share) * rng.standard_normal((len(taxa), size))[rows]
    return total


def draw_traits(taxonomy: Taxonomy, config: WorldConfig, rng: np.random.Generator) -> Traits:
    """Draw the traits of every species of a taxonomy with the four published leaf types."""
    types = [taxon.leaf_type for taxon in taxonomy]
    modes, bands = _MODES.shape

    def spectra(base: Mapping[str, tuple[float, ...]], scale: float) -> FloatArray:
        effects = taxonomic_effects(taxonomy, modes + bands, rng)
        change = effects[:, :modes] @ _MODES + _OWN * effects[:, modes:]
        return np.asarray(np.log([base[name] for name in types]) + scale * change, dtype=np.float64)

    leafy, bare = spectra(_LEAFY, config.contrast), spectra(_BARE, config.contrast)
    middle, length, depth = np.array([_SEASON[name] for name in types]).T
    effect = config.timing * taxonomic_effects(taxonomy, 6, rng).T
    return Traits(
        leafy=leafy,
        bare=bare,
        middle=middle + 0.8 * effect[0],
        length=np.clip(length + 1.2 * effect[1], 2.5, 9.0),
        speed=np.exp(np.log(6.0) + 0.5 * effect[2]),
        depth=np.clip(depth * np.exp(0.3 * effect[3]), 0.1, 1.0),
        flush=0.25 * np.exp(0.8 * effect[4]),
        autumn=0.35 * np.exp(0.8 * effect[5]),
    )
