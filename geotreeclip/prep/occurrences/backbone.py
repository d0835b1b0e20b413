"""A taxonomic backbone: which names are accepted, synonyms of which, at which rank, under which key.

Read from the layout of the GBIF backbone and other Darwin Core checklists (`Taxon.tsv`: taxonID, acceptedNameUsageID,
canonicalName or scientificName, taxonRank, taxonomicStatus, kingdom, family, genus), streamed, only the rows that
concern the names and keys at hand kept; or from a simple table (name, accepted_name, rank, key, family, genus,
leaf_type; all but the name may be absent, and a name without an accepted one is accepted).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geotreeclip.errors import DataError, first_line
from geotreeclip.prep.occurrences.archive import members
from geotreeclip.prep.occurrences.names import NAME_COLUMNS, binomial, column_of, name_key, need_column, read_table
from geotreeclip.prep.occurrences.streams import ZIPS, kind_of, open_binary

__all__ = ["BELOW_SPECIES", "SPECIES_RANKS", "Backbone", "Entry", "read_backbone"]

BELOW_SPECIES = frozenset(
    ["SUBSPECIES", "VARIETY", "SUBVARIETY", "FORM", "SUBFORM", "INFRASPECIFIC_NAME", "INFRASUBSPECIFIC_NAME",
     "CONVARIETY", "CULTIVAR"]
)  # fmt: skip
SPECIES_RANKS = BELOW_SPECIES | {"SPECIES"}
"""Ranks that name a species or a part of one (GBIF's vocabulary; https://rs.gbif.org/vocabulary/gbif/rank.xml)."""

_PASSES = 5
_BY_NAME = "="  # begins the ids of entries of tables that have none
_SPECIES_AND_MORE = r"^(\p{Lu}\p{Ll}+ (?:\x{D7} ?|x )?[\p{Ll}-]{2,})( \p{Lu}| \(| d[e\']).*$"
_STREAMED = {
    "id": "taxonid", "accepted": "acceptednameusageid", "name": "canonicalname", "full": "scientificname",
    "rank": "taxonrank", "status": "taxonomicstatus", "kingdom": "kingdom", "family": "family", "genus": "genus",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A name of the backbone; `accepted` is the id of the accepted one, "" if it is itself accepted."""

    id: str
    name: str
    accepted: str = ""
    rank: str = "SPECIES"
    status: str = ""
    kingdom: str = ""
    family: str = ""
    genus: str = ""
    leaf_type: str = ""

    @property
    def key(self) -> int | None:
        """Its number, where the backbone has numbers."""
        return int(self.id) if self.id.isdigit() else None


@dataclass(slots=True)
class Backbone:
    """The entries that concern the names at hand."""

    by_id: dict[str, Entry] = field(default_factory=dict)
    by_name: dict[str, list[Entry]] = field(default_factory=dict)
    damaged: int = 0
    has_keys: bool = False

    def add(self, entry: Entry) -> None:
        """Take an entry in, once."""
        if entry.id not in self.by_id:
            self.by_id[entry.id] = entry
            self.has_keys |= not entry.id.startswith(_BY_NAME)
            self.by_name.setdefault(name_key(entry.name), []).append(entry)

    def species_of(self, entry: Entry) -> Entry | None:
        """The accepted species that an entry stands for, or None where it stands for none."""
        for _ in range(_PASSES):
            if not entry.accepted or entry.accepted == entry.id:
                break
            following = self.by_id.get(entry.accepted)
            if following is None:
                return None
            entry = following
        if entry.rank in BELOW_SPECIES:
            entry = next(
                (parent for parent in self.by_name.get(name_key(binomial(entry.name)), ()) if parent.rank == "SPECIES"
                 and not parent.accepted), entry,
            )  # fmt: skip
        return entry if entry.rank in SPECIES_RANKS else None

    def find(self, name: str, kingdom: str = "", family: str = "") -> tuple[Entry | None, str]:
        """The accepted species of a name, and how it was found: accepted, synonym, ambiguous or unknown."""
        entries = [
            entry
            for entry in self.by_name.get(name_key(name), ())
            if entry.rank in SPECIES_RANKS
            and "misapplied" not in entry.status.lower()
            and (not kingdom or not entry.kingdom or entry.kingdom == kingdom)
        ]
        for how, group in (
            ("accepted", [entry for entry in entries if not entry.accepted]),
            ("synonym", [entry for entry in entries if entry.accepted]),
        ):
            species = {found.id: found for entry in group if (found := self.species_of(entry)) is not None}
            if len(species) > 1 and family:
                species = {key: found for key, found in species.items() if found.family == family} or species
            if len(species) > 1:
                stated = {key: found for key, found in species.items() if found.status.lower() == "accepted"}
                species = stated or species
            if len(species) == 1:
                return next(iter(species.values())), how
            if species:
                return None, "ambiguous"
        return None, "unknown"


def read_backbone(path: Path, names: Iterable[str], keys: Iterable[str]) -> Backbone:
    """Read of a backbone what concerns some names and keys.

    Args:
        path: `Taxon.tsv`, plain, gz, or in a zip archive; or a simple table.
        names: Names as written.
        keys: Keys as text.

    Raises:
        DataError: The file is absent, damaged, or has no column of names.
    """
    member = ""
    if kind_of(path) == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                inside = [name for name in members(archive) if name.rpartition("/")[2].lower() in _TAXON_FILES]
        except ZIPS as error:
            raise DataError(f"{path}: cannot be read as a zip archive: {error}") from error
        if len(inside) != 1:
            raise DataError(f"{path}: holds no Taxon.tsv; give the backbone archive, Taxon.tsv itself or a CSV")
        member = inside[0]
    if kind_of(path, member) != "parquet":
        with open_binary(path, member) as stream:
            header = stream.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")
        # The Catalogue of Life writes dwc:taxonID.
        columns = [name.strip().casefold().rpartition(":")[2] for name in header.split("\t")]
        if "taxonid" in columns and ("canonicalname" in columns or "scientificname" in columns):
            return _streamed(path, member, columns, set(map(name_key, names)), set(keys))
    if member:
        raise DataError(f"{path}!{member}: has no columns taxonID and scientificName, separated by tabs")
    return _simple(path)


_TAXON_FILES = ("taxon.tsv", "taxon.txt", "taxa.txt", "classification.txt", "classification.csv")


def _streamed(path: Path, member: str, columns: list[str], names: set[str], keys: set[str]) -> Backbone:
    """Passes over the file until every accepted name and every species of a lower taxon is there."""
    backbone = Backbone()
    names.discard("")
    for _ in range(_PASSES):
        for entry in _scan(path, member, columns, names, keys, backbone):
            backbone.add(entry)
        entries = list(backbone.by_id.values())
        names = {
            key for entry in entries if entry.rank in BELOW_SPECIES
            if (key := name_key(binomial(entry.name))) and key not in backbone.by_name
        }  # fmt: skip
        keys = {entry.accepted for entry in entries if entry.accepted and entry.accepted not in backbone.by_id}
        if not names and not keys:
            break
    return backbone


def _scan(
    path: Path, member: str, columns: list[str], names: set[str], keys: set[str], backbone: Backbone
) -> Iterator[Entry]:
    """Entries with one of the names or keys."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    backbone.damaged = 0

    def skip(_row: Any) -> str:
        backbone.damaged += 1
        return "skip"

    have = {name: str(columns.index(column)) for name, column in _STREAMED.items() if column in columns}
    wanted_names, wanted_keys = pa.array(sorted(names), pa.string()), pa.array(sorted(keys), pa.string())
    with open_binary(path, member) as stream:
        try:
            reader = csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                csv.ReadOptions(
                    use_threads=False, block_size=16 << 20, skip_rows=1,
                    column_names=[str(number) for number in range(len(columns))],
                ),
                csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
                csv.ConvertOptions(
                    include_columns=sorted(set(have.values()), key=int), strings_can_be_null=False, null_values=[],
                    column_types=dict.fromkeys(have.values(), pa.string()),
                ),
            )  # fmt: skip
            for batch in reader:
                name = batch.column(have.get("name", have.get("full", "0")))
                if "name" not in have:  # then it may bear the authors
                    name = pc.replace_substring_regex(name, _SPECIES_AND_MORE, "\\1")
                elif "full" in have:  # names that GBIF could not parse have no canonical form
                    name = pc.if_else(pc.equal(name, ""), batch.column(have["full"]), name)
                chosen = pc.or_(
                    pc.is_in(_keys(name), value_set=wanted_names),
                    pc.is_in(batch.column(have["id"]), value_set=wanted_keys),
                )
                part = batch.filter(chosen)
                if part.num_rows:
                    texts = {field: part.column(place).to_pylist() for field, place in have.items()}
                    texts["name"] = name.filter(chosen).to_pylist()
                    yield from map(_entry, *(texts.get(field, [""] * part.num_rows) for field in _STREAMED))
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: cannot be read as a backbone: {first_line(error)}") from error


def _keys(names: Any) -> Any:
    """`name_key` of an array of strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = pc.utf8_lower(names)
    odd = pc.or_(pc.invert(pc.string_is_ascii(keys)), pc.match_substring(keys, " x "))
    if pc.any(odd).as_py():
        places = pc.indices_nonzero(odd)
        mended = pa.array([name_key(name) for name in names.take(places).to_pylist()], pa.string())
        keys = pc.replace_with_mask(keys, odd, mended)
    return keys


def _entry(
    key: str, accepted: str, name: str, _full: str, rank: str, status: str, kingdom: str, family: str, genus: str
) -> Entry:
    return Entry(
        key, " ".join(name.split()), "" if accepted == key else accepted, rank.upper() or "SPECIES", status, kingdom,
        family, genus,
    )  # fmt: skip


def _simple(path: Path) -> Backbone:
    """A table with one row for a name. Accepted names are found as "=name", whatever their keys."""
    frame = read_table(path)
    name = need_column(frame, NAME_COLUMNS, path, "names")
    accepted = column_of(frame, ("accepted_name", "accepted", "acceptedname", "accepted_species"))
    key = column_of(frame, ("key", "taxon_key", "taxonkey", "species_key", "specieskey", "taxonid"))
    traits = {
        "rank": column_of(frame, ("rank", "taxonrank")),
        "kingdom": column_of(frame, ("kingdom",)),
        "family": column_of(frame, ("family", "level1_family")),
        "genus": column_of(frame, ("genus", "level2_genus")),
        "leaf_type": column_of(frame, ("leaf_type", "level0")),
    }
    backbone = Backbone()
    implied: list[Entry] = []
    for row in frame.to_dict("records"):
        text = {column: " ".join(str(value).split()) for column, value in row.items()}
        own, target = text[name], text.get(accepted, "") if accepted != name else ""
        if not own:
            continue
        said = {trait: text.get(column, "") for trait, column in traits.items()}
        said["rank"] = said["rank"].upper() or "SPECIES"
        number = text.get(key, "").removesuffix(".0")
        if not target or name_key(target) == name_key(own):
            backbone.add(Entry(number or f"{_BY_NAME}{name_key(own)}", own, **said))
            continue
        number = number or f"{_BY_NAME}synonym {name_key(own)}"
        backbone.add(Entry(number, own, f"{_BY_NAME}{name_key(target)}", said["rank"], kingdom=said["kingdom"]))
        if target.split()[0] != own.split()[0]:
            said["genus"] = ""
        implied.append(Entry(f"{_BY_NAME}{name_key(target)}", target, **said))
    stated = {f"{_BY_NAME}{name_key(entry.name)}": entry for entry in backbone.by_id.values() if not entry.accepted}
    for entry in implied:  # accepted names without a row of their own: what their synonyms say is all there is
        if entry.id not in stated:
            backbone.add(entry)
    for number, entry in stated.items():
        backbone.by_id.setdefault(number, entry)
    return backbone
