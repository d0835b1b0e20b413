"""Names of the raw files: accepted species, synonyms, genera, a herb; the list of trees; keys of the demo's own.

Synonyms are real ones. Keys are made up (GBIF's numbers would pretend that the records were GBIF's).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from geotreeclip.demo.species import SPECIES
from geotreeclip.taxonomy import Taxon

__all__ = ["HERB", "ORDERS", "SYNONYMS", "Name", "names", "write_taxonomy", "write_trees"]

ORDERS: dict[str, tuple[str, str]] = {
    "Fagaceae": ("Magnoliopsida", "Fagales"), "Betulaceae": ("Magnoliopsida", "Fagales"),
    "Nothofagaceae": ("Magnoliopsida", "Fagales"), "Sapindaceae": ("Magnoliopsida", "Sapindales"),
    "Salicaceae": ("Magnoliopsida", "Malpighiales"), "Oleaceae": ("Magnoliopsida", "Lamiales"),
    "Bignoniaceae": ("Magnoliopsida", "Lamiales"), "Rosaceae": ("Magnoliopsida", "Rosales"),
    "Fabaceae": ("Magnoliopsida", "Fabales"), "Myrtaceae": ("Magnoliopsida", "Myrtales"),
    "Lauraceae": ("Magnoliopsida", "Laurales"), "Proteaceae": ("Magnoliopsida", "Proteales"),
    "Pinaceae": ("Pinopsida", "Pinales"), "Cupressaceae": ("Pinopsida", "Pinales"),
    "Araucariaceae": ("Pinopsida", "Pinales"),
}  # fmt: skip
"""Class and order of each family of the world."""

SYNONYMS: dict[str, str] = {
    "Quercus pedunculata": "Quercus robur", "Quercus sessiliflora": "Quercus petraea",
    "Betula verrucosa": "Betula pendula", "Betula alba": "Betula pubescens", "Castanea vesca": "Castanea sativa",
    "Eucalyptus maculata": "Corymbia maculata", "Lophozonia obliqua": "Nothofagus obliqua",
    "Picea excelsa": "Picea abies", "Abies pectinata": "Abies alba", "Larix europaea": "Larix decidua",
    "Pinus laricio": "Pinus nigra", "Thuja gigantea": "Thuja plicata", "Larix leptolepis": "Larix kaempferi",
}  # fmt: skip
"""Synonym -> accepted name; two of them change the genus."""

HERB = Taxon("", "Fabaceae", "Medicago", "Medicago lupulina")
"""Known to the backbone, and no tree."""


class Name(NamedTuple):
    """One row of the backbone: a name, what it means and where it belongs."""

    name: str
    rank: str
    status: str
    accepted_name: str
    taxon_key: int
    accepted_key: int
    taxon: Taxon


def names() -> dict[str, Name]:
    """The backbone by name."""
    found: dict[str, Name] = {}
    for number, species in enumerate(SPECIES):
        key, name = 9_000_001 + number, species.taxon.species
        found[name] = Name(name, "SPECIES", "ACCEPTED", name, key, key, species.taxon)
    for number, (name, accepted) in enumerate(SYNONYMS.items()):
        meant = found[accepted]
        found[name] = Name(name, "SPECIES", "SYNONYM", accepted, 9_100_001 + number, meant.taxon_key, meant.taxon)
    found[HERB.species] = Name(HERB.species, "SPECIES", "ACCEPTED", HERB.species, 9_300_001, 9_300_001, HERB)
    genera = dict.fromkeys((species.taxon.genus, species.taxon.family) for species in SPECIES)
    for number, (genus, family) in enumerate(genera):
        key = 9_200_001 + number
        found[genus] = Name(genus, "GENUS", "ACCEPTED", genus, key, key, Taxon("", family, genus))
    return found


def write_taxonomy(path: Path) -> None:
    """Write the backbone as CSV, with the leaf type of each species."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([*Name._fields[:-1], "kingdom", "family", "genus", "leaf_type"])
        for name in names().values():
            taxon = name.taxon
            table.writerow([*name[:-1], "Plantae", taxon.family, taxon.genus, taxon.leaf_type])


def write_trees(path: Path) -> None:
    """Write the list of trees as CSV, in the columns of GlobalTreeSearch; accepted names only."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["Taxon name"])
        table.writerows([species.taxon.species] for species in SPECIES)
