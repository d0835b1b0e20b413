"""What is read of an occurrence record, and the column names under which sources hold it.

Names are compared in lower case: GBIF writes `decimalLongitude` in text and `decimallongitude` in Parquet. The names
are Darwin Core terms (https://dwc.tdwg.org/terms), GBIF's own (https://techdocs.gbif.org/en/data-use/download-formats),
those of GBIF's downloads of 2013, and those of the published GlobalGeoTree table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["COLUMN_NAMES", "PLAIN_FIELDS", "TAXON_FIELDS", "columns_of", "holds_occurrences"]

PLAIN_FIELDS: tuple[str, ...] = ("id", "longitude", "latitude", "uncertainty", "event_date")
"""Fields with nearly as many values as rows; all others are few values repeated and read as codes."""

TAXON_FIELDS: tuple[str, ...] = (
    "kingdom", "family", "genus", "species", "epithet", "scientific_name", "rank", "leaf_type",
    "taxon_key", "species_key", "genus_key", "family_key", "order_key", "class_key", "phylum_key", "kingdom_key",
)  # fmt: skip
"""What a record says about its taxon; records that agree in all of it are judged once."""

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("gbifid", "sample_id", "occurrenceid", "id"),
    "longitude": ("decimallongitude", "longitude", "lon"),
    "latitude": ("decimallatitude", "latitude", "lat"),
    "uncertainty": ("coordinateuncertaintyinmeters", "uncertainty_m"),
    "event_date": ("eventdate",),
    "year": ("year",),
    "month": ("month",),
    "day": ("day",),
    "issue": ("issue",),
    "geospatial_issue": ("hasgeospatialissues",),
    "basis": ("basisofrecord",),
    "status": ("occurrencestatus",),
    "withheld": ("informationwithheld",),
    "generalised": ("datageneralizations",),
    "country": ("countrycode", "country_code", "country"),
    "source": ("datasetname", "datasetkey", "datasetid", "source"),
    "license": ("license", "licence", "rights"),
    "dataset_key": ("datasetkey", "dataset_key", "datasetdoi"),
    "rights_holder": ("rightsholder", "rights_holder"),
    "kingdom": ("kingdom",),
    "family": ("family", "level1_family"),
    "genus": ("genus", "level2_genus"),
    "species": ("species", "level3_species"),
    "epithet": ("specificepithet",),
    "scientific_name": ("scientificname", "name"),
    "rank": ("taxonrank",),
    "leaf_type": ("leaf_type", "level0"),
    "taxon_key": ("taxonkey", "taxon_key"),  # not taxonID: outside GBIF it numbers other lists
    "species_key": ("specieskey", "species_key", "speciesid"),
    "genus_key": ("genuskey", "genusid"),
    "family_key": ("familykey", "familyid"),
    "order_key": ("orderkey", "orderid"),
    "class_key": ("classkey", "classid"),
    "phylum_key": ("phylumkey", "phylumid"),
    "kingdom_key": ("kingdomkey", "kingdomid"),
}
"""Column names of each field; where a source has several, the first that is not empty in a row counts."""

_SINGLE = {"id"}  # identifiers of two kinds must not be mixed


def columns_of(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Positions of the columns of each field that a header names."""
    place: dict[str, int] = {}
    for position, name in enumerate(names):
        place.setdefault(name.strip().casefold(), position)
    found = {field: tuple(place[name] for name in wanted if name in place) for field, wanted in COLUMN_NAMES.items()}
    return {field: positions[:1] if field in _SINGLE else positions for field, positions in found.items() if positions}


def holds_occurrences(columns: Mapping[str, object]) -> str:
    """What a table lacks to be one of occurrences, in words, or "" where it has all that is needed."""
    lacking = [
        f"{field} ({' or '.join(COLUMN_NAMES[field])})" for field in ("longitude", "latitude") if field not in columns
    ]
    if not any(field in columns for field in ("species", "scientific_name", "epithet")):
        lacking.append("a species name (species, level3_species, scientificName or specificEpithet)")
    return " and ".join(lacking)
