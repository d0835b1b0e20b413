"""The samples of a set by what its tables say: taxa, places, years, duplicates.

N samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.metrics import RARITY_GROUPS, rarity_of_column, rarity_of_counts
from geotreeclip.prep.occurrence_files import Table
from geotreeclip.prep.pack_join import IdIndex, hash_ids
from geotreeclip.prep.quality_source import FinishedSet
from geotreeclip.taxonomy import Taxonomy

__all__ = ["Places", "describe_samples"]

_PLACE_DECIMALS = 4  # of a degree: places are the same within some 10 m
_LISTED = 15


class Places(NamedTuple):
    """What plots show of the samples.

    Attributes:
        longitude: [N].
        latitude: [N].
        species_counts: Samples of each species, descending.
    """

    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    species_counts: NDArray[np.int64]


def describe_samples(source: FinishedSet) -> tuple[dict[str, Any], Places]:
    """Taxa, places, years and duplicates of the table of samples."""
    table = source.table()
    table.expect("sample_id", "taxon", "longitude", "latitude")
    taxonomy = source.taxonomy()
    keys = [np.empty((0, 2), np.uint64)]
    lon, lat, taxon = [], [], []
    for batch in table.batches(["sample_id", "taxon", "longitude", "latitude"]):
        keys.append(hash_ids(batch["sample_id"]))
        taxon.append(batch["taxon"].to_numpy(zero_copy_only=False).astype(np.int64))
        lon.append(batch["longitude"].to_numpy(zero_copy_only=False))
        lat.append(batch["latitude"].to_numpy(zero_copy_only=False))
    longitude, latitude, taxa = np.concatenate(lon), np.concatenate(lat), np.concatenate(taxon)
    species = taxonomy.names("species")
    counts = np.bincount(species[1][taxa], minlength=len(species[0]))
    named = np.array([bool(entry.species) for entry in species[0]])
    ranked = np.argsort(-counts, kind="stable")
    ranked = ranked[named[ranked] & (counts[ranked] > 0)]
    groups = rarity_of_counts(counts[ranked])
    stated = _counts(table, "rarity")
    report: dict[str, Any] = {
        "taxa": {
            "species": _distinct(taxonomy, taxa, "species"), "genera": _distinct(taxonomy, taxa, "genus"),
            "families": _distinct(taxonomy, taxa, "family"),
            "rarity_in_this_set": {
                group: {"species": int((groups == group).sum()), "samples": int(counts[ranked][groups == group].sum())}
                for group in RARITY_GROUPS[1:]
            },
            "rarity_stated": {name: stated[name] for name in sorted(stated)},
            "without_species": int(counts[~named].sum()),
            "most_frequent": {species[0][row].species: int(counts[row]) for row in ranked[:_LISTED]},
            "leaf_types": _by_rank(taxonomy, taxa, "leaf_type"),
        },
        "places": {
            "longitude": _range(longitude), "latitude": _range(latitude),
            "countries": dict(list(_counts(table, "country").items())[:_LISTED]),
            "number_of_countries": len(_counts(table, "country")),
            "sources": dict(list(_counts(table, "source").items())[:_LISTED]),
            "precision": _counts(table, "precision"),
            "moved_to_land": _moved(table),
        },
        "years": _numbers(table, "year"),
        "years_of_imagery": _numbers(table, "year_used"),
        "year_differences": _numbers(table, "year_difference"),
        "duplicates": {
            "sample_ids": int(IdIndex(np.concatenate(keys)).repeated().sum()),
            **_same_places(longitude, latitude, taxa),
        },
    }  # fmt: skip
    return report, Places(longitude, latitude, counts[ranked])


def _distinct(taxonomy: Taxonomy, taxa: NDArray[np.int64], rank: str) -> int:
    names, rows = taxonomy.names(rank)
    present = np.unique(rows[np.unique(taxa)])
    return sum(bool(names[row].name(rank)) for row in present)


def _by_rank(taxonomy: Taxonomy, taxa: NDArray[np.int64], rank: str) -> dict[str, int]:
    names, rows = taxonomy.names(rank)
    counts = np.bincount(rows[taxa], minlength=len(names))
    return {names[row].name(rank) or "not stated": int(counts[row]) for row in np.argsort(-counts) if counts[row]}


def _counts(table: Table, column: str) -> dict[str, int]:
    """How often each text of a column stands there, most frequent first; nothing where there is no such column."""
    if column not in table.columns:
        return {}
    import pyarrow.compute as pc

    found: dict[str, int] = {}
    for batch in table.batches([column]):
        for entry in pc.value_counts(batch[column].cast("string")).to_pylist():
            name = str(entry["values"] or "not stated")
            if column == "rarity":
                name = str(rarity_of_column([name])[0])
            found[name] = found.get(name, 0) + int(entry["counts"])
    if set(found) == {"not stated"}:
        return {}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _numbers(table: Table, column: str) -> dict[str, int]:
    """How often each integer of a column stands there, ascending."""
    found = _counts(table, column)
    listed = sorted(int(float(name)) for name in found if name != "not stated")
    return {str(name): found[str(name)] for name in listed} | (
        {"not stated": found["not stated"]} if listed and "not stated" in found else {}
    )


def _moved(table: Table) -> dict[str, float]:
    """Samples whose environment was read at the nearest land, and how far the farthest was moved."""
    if "coast_km" not in table.columns:
        return {}
    count, farthest = 0, 0.0
    for batch in table.batches(["coast_km"]):
        values = np.nan_to_num(batch["coast_km"].to_numpy(zero_copy_only=False))
        count, farthest = count + int((values > 0).sum()), max(farthest, float(values.max(initial=0)))
    return {"samples": count, "farthest_km": farthest}


def _range(values: NDArray[np.float64]) -> list[float]:
    return [float(np.nanmin(values)), float(np.nanmax(values))] if len(values) else []


def _same_places(lon: NDArray[np.float64], lat: NDArray[np.float64], taxa: NDArray[np.int64]) -> dict[str, int]:
    """Samples at the place of an earlier one, of the same taxon and of another."""
    scale = 10**_PLACE_DECIMALS
    place = np.rint(lon * scale).astype(np.int64) * (400 * scale) + np.rint(lat * scale).astype(np.int64)
    order = np.lexsort((taxa, place))
    same_place = np.diff(place[order]) == 0
    same_taxon = np.diff(taxa[order]) == 0
    return {
        "same_place_and_taxon": int((same_place & same_taxon).sum()),
        "same_place_other_taxon": int((same_place & ~same_taxon).sum()),
    }
