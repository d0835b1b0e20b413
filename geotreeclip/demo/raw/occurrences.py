"""The records of the raw files as a SIMPLE_CSV download of GBIF: the samples, and rows that cleaning must refuse."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geotreeclip.demo.raw.backbone import HERB, ORDERS, SYNONYMS, names
from geotreeclip.demo.raw.layout import Place
from geotreeclip.demo.world import World

__all__ = ["COLUMNS", "DIRTY", "Dirt", "sample_records", "spoil", "write_records"]

Record = dict[str, str]

COLUMNS = (
    "gbifID", "datasetKey", "occurrenceID", "kingdom", "phylum", "class", "order", "family", "genus", "species",
    "infraspecificEpithet", "taxonRank", "scientificName", "verbatimScientificName",
    "verbatimScientificNameAuthorship", "countryCode", "locality", "stateProvince", "occurrenceStatus",
    "individualCount", "publishingOrgKey", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters",
    "coordinatePrecision", "elevation", "elevationAccuracy", "depth", "depthAccuracy", "eventDate", "day", "month",
    "year", "taxonKey", "speciesKey", "basisOfRecord", "institutionCode", "collectionCode", "catalogNumber",
    "recordNumber", "identifiedBy", "dateIdentified", "license", "rightsHolder", "recordedBy", "typeStatus",
    "establishmentMeans", "lastInterpreted", "mediaType", "issue",
)  # fmt: skip
"""Columns of a SIMPLE_CSV download, in its order."""

_FIRST_ID, _FIRST_DIRTY_ID = 4_100_000_001, 4_200_000_001
_SYNONYM = 3  # every third sample of the species that have a synonym is recorded under it
_OTHER_YEAR = 0.08  # share of the samples recorded in a year without imagery, next to the one that has it
_UNKNOWN = 0.1  # share of the samples that do not state their uncertainty
_LOCALITIES = ("", "", "forest edge", 'old oak, called "the King', "Forsthaus, 300 m N", '"Am Wald"', "bosque húmedo")
_LICENCES = ("CC_BY_NC_4_0", "CC_BY_4_0", "CC0_1_0")


def sample_records(world: World, recorded: Any, place: Place, rng: np.random.Generator) -> list[Record]:
    """One record for each sample of an area.

    Args:
        world: The world.
        recorded: [N] recorded species of all samples.
        place: The samples of the area.
        rng: Random numbers.
    """
    backbone, synonyms = names(), {accepted: name for name, accepted in SYNONYMS.items()}
    found: list[Record] = []
    renamed = 0
    for i, row in enumerate(place.rows):
        accepted = world.taxonomy[int(recorded[row])].species
        stated = accepted
        if accepted in synonyms:
            stated = accepted if renamed % _SYNONYM else synonyms[accepted]
            renamed += 1
        name = backbone[stated]
        higher, order = ORDERS[name.taxon.family]
        year = place.area.year + (int(rng.choice([-1, 1])) if rng.random() < _OTHER_YEAR else 0)
        month, day = int(rng.integers(1, 13)), int(rng.integers(1, 29))
        number = str(_FIRST_ID + int(row))
        found.append(dict.fromkeys(COLUMNS, "") | {
            "gbifID": number, "datasetKey": "planted-forest", "occurrenceID": f"urn:planted-forest:{number}",
            "kingdom": "Plantae", "phylum": "Tracheophyta", "class": higher, "order": order,
            "family": name.taxon.family, "genus": stated.split()[0], "species": stated, "taxonRank": "SPECIES",
            "scientificName": stated, "verbatimScientificName": stated, "countryCode": place.area.country,
            "locality": str(rng.choice(_LOCALITIES)), "occurrenceStatus": "PRESENT",
            "decimalLatitude": f"{place.latitude[i]:.7f}", "decimalLongitude": f"{place.longitude[i]:.7f}",
            "coordinateUncertaintyInMeters": "" if rng.random() < _UNKNOWN else f"{int(rng.integers(3, 31))}.0",
            "eventDate": f"{year}-{month:02d}-{day:02d}", "day": str(day), "month": str(month), "year": str(year),
            "taxonKey": str(name.taxon_key), "speciesKey": str(name.taxon_key), "basisOfRecord": "HUMAN_OBSERVATION",
            "institutionCode": "planted", "collectionCode": "Observations", "catalogNumber": number,
            "license": str(rng.choice(_LICENCES)), "rightsHolder": "nobody", "recordedBy": "Förster, O'Neill",
            "lastInterpreted": "2024-03-01T00:00:00.000Z",
            "issue": str(rng.choice(["", "GEODETIC_DATUM_ASSUMED_WGS84;CONTINENT_DERIVED_FROM_COORDINATES"])),
        })  # fmt: skip
    return found


class Dirt(NamedTuple):
    """A way to spoil a record: its name, the rule that refuses it, how many rows get it, and what it does."""

    name: str
    rule: str
    rows: int
    change: Callable[[Record], Record]


def _named(name: str, **more: str) -> Callable[[Record], Record]:
    """Another name; further fields win."""
    first = {"species": name, "scientificName": name, "verbatimScientificName": name, "genus": name.split()[0]}
    return lambda record: record | first | more


def _with(**more: str) -> Callable[[Record], Record]:
    return lambda record: record | more


def _genus_key(record: Record) -> Record:
    """A species by name whose key is that of its genus: the published set has whole families under such names."""
    key = str(names()[names()[record["species"]].taxon.genus].taxon_key)
    return record | {"taxonKey": key, "speciesKey": key}


def _genus_rank(record: Record) -> Record:
    genus = names()[record["species"]].taxon.genus
    key = str(names()[genus].taxon_key)
    return record | {"taxonRank": "GENUS", "species": "", "speciesKey": "", "taxonKey": key, "scientificName": genus}


def _equal(record: Record) -> Record:
    return record | {"decimalLongitude": record["decimalLatitude"]}


def _rounded(record: Record) -> Record:
    return record | {name: f"{float(record[name]):.1f}" for name in ("decimalLatitude", "decimalLongitude")}


def _again(record: Record) -> Record:
    """The same species at the same place, by its accepted name, less exactly and a year before: the first is better."""
    name = names()[record["species"]]
    stated = {"species": name.accepted_name, "taxonKey": str(name.accepted_key), "speciesKey": str(name.accepted_key)}
    year = str(int(record["year"]) - 1)
    less = {"year": year, "eventDate": year + record["eventDate"][4:]}
    if record["coordinateUncertaintyInMeters"]:
        less["coordinateUncertaintyInMeters"] = "500.0"
    return record | stated | less


_HERB_KEY = str(names()[HERB.species].taxon_key)

DIRTY: tuple[Dirt, ...] = (
    Dirt("zero coordinates", "zero", 2, _with(decimalLatitude="0.0", decimalLongitude="0.0")),
    Dirt("no coordinates", "coordinates", 1, _with(decimalLatitude="", decimalLongitude="")),
    Dirt("equal coordinates", "equal", 1, _equal),
    Dirt("latitude beyond the pole", "range", 1, _with(decimalLatitude="95.1234567")),
    Dirt("rounded coordinates", "rounded", 2, _rounded),
    Dirt("obscured", "obscured", 2, _with(coordinateUncertaintyInMeters="27894.0")),
    Dirt("uncertain", "uncertainty", 1, _with(coordinateUncertaintyInMeters="5000.0")),
    Dirt("GBIF issue", "issue", 1, _with(issue="COUNTRY_COORDINATE_MISMATCH;GEODETIC_DATUM_ASSUMED_WGS84")),
    Dirt("fossil", "basis", 1, _with(basisOfRecord="FOSSIL_SPECIMEN")),
    Dirt("absent", "presence", 1, _with(occurrenceStatus="ABSENT")),
    Dirt("long ago", "year", 1, _with(year="1987", eventDate="1987-05-04")),
    Dirt("fungus", "kingdom", 1, _named("Amanita muscaria", kingdom="Fungi", taxonKey="", speciesKey="")),
    Dirt("rank of genus", "rank", 2, _genus_rank),
    Dirt("key of a genus", "key", 2, _genus_key),
    Dirt("unknown name", "backbone", 1, _named("Quercus imaginaria", taxonKey="9999999", speciesKey="9999999")),
    Dirt(
        "herb", "tree", 2,
        _named(HERB.species, family=HERB.family, order="Fabales", taxonKey=_HERB_KEY, speciesKey=_HERB_KEY),
    ),
    Dirt("id twice", "repeated", 1, _with()),
    Dirt("duplicate", "duplicate", 3, _again),
)  # fmt: skip
"""What is wrong with the dirty rows. `rule` is the reason that `data_prep/occurrences.py` gives."""


def spoil(records: list[Record], rng: np.random.Generator) -> list[tuple[Record, Dirt]]:
    """Dirty copies of records, with ids above all others but for one whose id comes twice."""
    found: list[tuple[Record, Dirt]] = []
    for dirt in DIRTY:
        for _ in range(dirt.rows):
            number = str(_FIRST_DIRTY_ID + len(found))
            own = {} if dirt.rule == "repeated" else {"gbifID": number, "occurrenceID": f"urn:planted-forest:{number}"}
            found.append((dirt.change(records[int(rng.integers(len(records)))]) | own, dirt))
    return found


def write_records(path: Path, records: list[Record], member: str) -> None:
    """Write records as a zip with one tab-separated file: no quoting, as GBIF writes it."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([record[column] for column in COLUMNS] for record in records)
    entry = zipfile.ZipInfo(member, date_time=(2024, 3, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, text.getvalue())
