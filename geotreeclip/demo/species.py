"""The species of the planted forest: real names in their real genera, families and leaf types.

Continents and thermal optima are rounded facts of natural history; everything else about a species (spectra, timing,
moisture, abundance) is drawn from a seed, so nothing learnt here says anything about the real tree.
"""

from __future__ import annotations

from typing import NamedTuple

from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = ["REGIONS", "SPECIES", "Region", "Species", "demo_taxonomy"]


class Region(NamedTuple):
    """An ellipse on the map, degrees."""

    name: str
    longitude: float
    latitude: float
    half_width: float
    half_height: float


REGIONS: dict[str, Region] = {
    "E": Region("Europe", 14, 48, 24, 12),
    "N": Region("eastern North America", -82, 40, 15, 12),
    "W": Region("western North America", -115, 45, 10, 14),
    "A": Region("East Asia", 120, 38, 20, 16),
    "S": Region("South America", -60, -26, 14, 20),
    "F": Region("southern Africa", 28, -18, 13, 16),
    "O": Region("Australia", 142, -27, 12, 13),
}
"""Continents of the world by letter. All lie between 56 S and 60 N, where every published source has data."""


class Species(NamedTuple):
    """One species: its taxon, the letters of its continents and the annual mean temperature it likes best (degC)."""

    taxon: Taxon
    regions: str
    temperature: float


_TABLE = """
Deciduous Broadleaf | Fagaceae | Quercus robur E 9.5, Quercus petraea E 9, Quercus pubescens E 12.5, Quercus alba N 12
Deciduous Broadleaf | Fagaceae | Quercus rubra NE 9.5, Fagus sylvatica E 8, Castanea sativa E 12
Deciduous Broadleaf | Betulaceae | Betula pendula E 6, Betula pubescens E 4, Betula papyrifera NW 4
Deciduous Broadleaf | Betulaceae | Alnus glutinosa E 9, Alnus incana E 5, Carpinus betulus E 9.5
Deciduous Broadleaf | Sapindaceae | Acer pseudoplatanus E 8.5, Acer platanoides EN 8, Acer rubrum N 12
Deciduous Broadleaf | Sapindaceae | Acer saccharum N 8, Acer palmatum A 13
Deciduous Broadleaf | Salicaceae | Populus tremula E 6, Populus tremuloides NW 4, Salix alba E 10
Deciduous Broadleaf | Oleaceae | Fraxinus excelsior E 9, Fraxinus americana N 12
Deciduous Broadleaf | Rosaceae | Prunus avium E 9.5, Prunus serotina NE 10.5
Deciduous Broadleaf | Fabaceae | Robinia pseudoacacia NEA 12
Deciduous Broadleaf | Nothofagaceae | Nothofagus obliqua S 11
Deciduous Broadleaf | Bignoniaceae | Jacaranda mimosifolia SFO 18
Evergreen Broadleaf | Fagaceae | Quercus ilex E 14.5, Quercus suber E 15.5
Evergreen Broadleaf | Myrtaceae | Eucalyptus globulus OSE 14, Eucalyptus camaldulensis OFE 18
Evergreen Broadleaf | Myrtaceae | Eucalyptus grandis OSF 19, Corymbia maculata O 17
Evergreen Broadleaf | Fabaceae | Acacia melanoxylon OES 13.5, Acacia mearnsii OF 15
Evergreen Broadleaf | Oleaceae | Olea europaea EF 16
Evergreen Broadleaf | Lauraceae | Cinnamomum camphora AO 17
Evergreen Broadleaf | Nothofagaceae | Nothofagus dombeyi S 9
Evergreen Broadleaf | Proteaceae | Grevillea robusta OF 19
Evergreen Needleleaf | Pinaceae | Pinus sylvestris E 5.5, Pinus nigra E 10.5, Pinus pinaster E 13.5
Evergreen Needleleaf | Pinaceae | Pinus radiata WOSE 13, Pinus strobus N 7.5, Pinus taeda NS 16, Pinus ponderosa W 8
Evergreen Needleleaf | Pinaceae | Picea abies E 5, Picea sitchensis WE 7.5, Picea glauca NW 2.5
Evergreen Needleleaf | Pinaceae | Abies alba E 7.5, Abies balsamea N 3.5, Pseudotsuga menziesii WE 8.5
Evergreen Needleleaf | Cupressaceae | Thuja plicata W 7.5, Cryptomeria japonica A 12.5
Evergreen Needleleaf | Araucariaceae | Araucaria araucana S 8.5, Araucaria angustifolia S 16
Deciduous Needleleaf | Pinaceae | Larix decidua E 5, Larix kaempferi AE 8
Deciduous Needleleaf | Cupressaceae | Metasequoia glyptostroboides A 14
"""


def _read_table() -> tuple[Species, ...]:
    found = []
    for line in _TABLE.strip().splitlines():
        leaf_type, family, entries = (part.strip() for part in line.split("|"))
        for entry in entries.split(","):
            genus, epithet, regions, temperature = entry.split()
            taxon = Taxon(leaf_type, family, genus, f"{genus} {epithet}")
            found.append(Species(taxon, regions, float(temperature)))
    return tuple(found)


SPECIES: tuple[Species, ...] = _read_table()
"""All species, in the order of the taxonomy of the demo sets."""


def demo_taxonomy() -> Taxonomy:
    """The species as a taxonomy, one row each."""
    return Taxonomy(species.taxon for species in SPECIES)
