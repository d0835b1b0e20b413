"""The distinct taxa of all records, judged once each: name, rank, key, backbone, tree, leaf type.

What refuses and what only warns. The records of a "species" were often fetched by its key, so a key of a higher taxon
means that the class holds everything beneath that taxon. These refuse: the record's own rank; a key that is a higher
one in the same record, or anywhere in the records, or in the backbone; a key that the backbone gives to another
species; a GBIF key below 100,000, where kingdoms to families are numbered; a key shared by species of several
families, or shared and rounded (a spreadsheet keeps too few digits, so it is the key of at most one of them). These
warn: a key shared within a family (they may be synonyms), a rounded key of one species alone (the records may be
right), several keys for one species, a name whose genus is not the stated one, a name that the backbone does not hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.prep.occurrences.backbone import SPECIES_RANKS, Backbone, Entry, read_backbone
from geotreeclip.prep.occurrences.fields import TAXON_FIELDS
from geotreeclip.prep.occurrences.names import binomial, name_key, why_no_species
from geotreeclip.prep.occurrences.normalise import SEPARATOR
from geotreeclip.prep.occurrences.rules import BITS, RuleOptions
from geotreeclip.prep.occurrences.trees import LeafTypes, Trees, read_leaf_types, read_trees

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HIGHER_KEYS_BELOW", "TAXON_RULES", "TaxonTables", "judge_taxa"]

HIGHER_KEYS_BELOW = 100_000
"""GBIF's backbone numbers kingdoms to families below, and genera and species above."""

ROUNDED_TO = 100_000
"""A key divisible by this lost its last digits: 1 in 100,000 is so by chance."""

_HIGHER = ("genus", "family", "order", "class", "phylum", "kingdom")
TAXON_RULES = ("kingdom", "rank", "name", "key", "backbone", "tree")


@dataclass(frozen=True, slots=True)
class TaxonTables:
    """Files about taxa."""

    backbone: Path | None = None
    trees: tuple[Path, ...] = ()
    growth: tuple[Path, ...] = ()
    leaf_types: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [*([self.backbone] if self.backbone else []), *self.trees, *self.growth, *self.leaf_types]


@dataclass(slots=True)
class _Taxon:
    """A distinct taxon of the records on its way to a verdict."""

    said: dict[str, str]
    rows: int
    given: str
    key: str
    name: str
    family: str
    genus: str
    leaf_type: str
    resolved_key: int | None = None
    resolution: str = ""
    failing: int = 0
    values: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    evidence: str = ""

    def refuse(self, rule: str, value: str, options: RuleOptions) -> None:
        if options.active(rule):
            self.failing |= BITS[rule]
            self.values.setdefault(rule, value)


def judge_taxa(texts: Sequence[str], rows: Sequence[int], tables: TaxonTables, options: RuleOptions) -> pd.DataFrame:
    """Judge the distinct taxa of all records.

    Args:
        texts: Their fields, joined as `normalise` does.
        rows: How many rows have each.
        tables: Files about taxa.
        options: Thresholds and switches.

    Returns:
        A table in the order given: `leaf_type, family, genus, species` as resolved, `taxon_key`, `given` (the name in
        the records), `rows`, `failing` (bits of rules), a column for what each rule saw, `resolution`, `evidence`
        for or against a tree, and `warnings`.

    Raises:
        DataError: A table is absent, damaged, or lacks a column.
    """
    import pandas as pd

    taxa = [_begin(text, count) for text, count in zip(texts, rows, strict=True)]
    for taxon in taxa:
        _judge_record(taxon, options)
    backbone = _backbone(tables, taxa)
    if backbone is not None:
        for taxon in taxa:
            _resolve(taxon, backbone, options)
    _judge_keys(taxa, options)

    def resolved(name: str) -> str:
        found = backbone.find(name)[0] if backbone is not None else None
        return found.name if found is not None else name

    _judge_trees(taxa, read_trees(tables.trees, tables.growth, resolved), backbone, options)
    _settle_leaf_types(taxa, read_leaf_types(tables.leaf_types, resolved))
    return pd.DataFrame(
        {
            "leaf_type": [taxon.leaf_type for taxon in taxa],
            "family": [taxon.family for taxon in taxa],
            "genus": [taxon.genus for taxon in taxa],
            "species": [taxon.name for taxon in taxa],
            "taxon_key": pd.array([taxon.resolved_key or _number(taxon.key) for taxon in taxa], dtype="Int64"),
            "given": [taxon.given for taxon in taxa],
            "given_key": [taxon.key for taxon in taxa],
            "rows": [taxon.rows for taxon in taxa],
            "failing": [taxon.failing for taxon in taxa],
            **{f"saw_{rule}": [taxon.values.get(rule, "") for taxon in taxa] for rule in TAXON_RULES},
            "resolution": [taxon.resolution for taxon in taxa],
            "evidence": [taxon.evidence for taxon in taxa],
            "warnings": ["; ".join(taxon.warnings) for taxon in taxa],
        }
    )


def _begin(text: str, rows: int) -> _Taxon:
    said = dict(zip(TAXON_FIELDS, text.split(SEPARATOR), strict=True))
    rank = said["rank"].upper()
    name = said["species"]
    if not name and said["epithet"]:  # GBIF's archives of 2013 put the whole binomial there
        name = said["epithet"] if " " in said["epithet"] else f"{said['genus']} {said['epithet']}".strip()
    if not name and rank in (*SPECIES_RANKS, ""):
        name = binomial(said["scientific_name"])
    # A name that cannot be one ("Albizia sp") stays what it is for the reports, and is refused by its rule.
    key = key_of(said["species_key"])
    if not key and rank in (*SPECIES_RANKS, ""):
        key = key_of(said["taxon_key"])
    genus = said["genus"] or (name.split()[0] if name else "")
    return _Taxon(said, rows, name or said["scientific_name"], key, name, said["family"], genus, said["leaf_type"])


def key_of(text: str) -> str:
    """A taxon key without what spreadsheets add (2777855.0), "" where there is none.

    Numbers are those of the GBIF backbone; the Catalogue of Life, GBIF's taxonomy since, has letters among the digits.
    """
    whole, _, part = text.partition(".")
    text = whole if whole.isdigit() and not part.strip("0") else text
    return text.lstrip("0") if text.isdigit() else text


def _number(key: str) -> int | None:
    return int(key) if key.isdigit() and len(key) < 16 else None


def _judge_record(taxon: _Taxon, options: RuleOptions) -> None:
    """What a record says about itself."""
    said = taxon.said
    if not any(said.values()):
        return  # a row that could not be read
    if options.kingdom and said["kingdom"] not in ("", options.kingdom):
        taxon.refuse("kingdom", said["kingdom"], options)
    rank = said["rank"].upper()
    if why := why_no_species(taxon.name):
        taxon.refuse("name", f"{taxon.given or 'no name'}: {why}", options)
        taxon.warnings += [] if options.active("name") else [why]
    if rank and rank not in SPECIES_RANKS:
        taxon.refuse("rank", f"rank {rank}", options)
    own = {key_of(said[f"{higher}_key"]): higher for higher in reversed(_HIGHER)}
    if taxon.key and taxon.key in own:
        taxon.refuse("rank", f"key {taxon.key} is its own {own[taxon.key]} key", options)


def _backbone(tables: TaxonTables, taxa: Sequence[_Taxon]) -> Backbone | None:
    """What the backbone knows of the records' names and keys, and of the names of lists."""
    if tables.backbone is None:
        return None
    names = {taxon.name for taxon in taxa} | {binomial(taxon.said["scientific_name"]) for taxon in taxa}
    names |= set(_names_in((*tables.trees, *tables.growth, *tables.leaf_types)))
    return read_backbone(tables.backbone, names, {taxon.key for taxon in taxa if taxon.key})


def _names_in(paths: Iterable[Path]) -> Iterable[str]:
    from geotreeclip.prep.occurrences.names import NAME_COLUMNS, column_of, read_table

    for path in paths:
        frame = read_table(path)
        if column := column_of(frame, NAME_COLUMNS):
            yield from frame[column]


def _resolve(taxon: _Taxon, backbone: Backbone, options: RuleOptions) -> None:
    """Takes the accepted name of a taxon; judges its key by the backbone."""
    if not taxon.name and not taxon.key:
        return
    found, taxon.resolution = (
        backbone.find(taxon.name, options.kingdom, taxon.family) if taxon.name else (None, "unknown")
    )
    entry = backbone.by_id.get(taxon.key)
    by_key = backbone.species_of(entry) if entry is not None else None
    if entry is not None and entry.rank not in SPECIES_RANKS:
        taxon.refuse("key", f"key {taxon.key} is the {entry.rank.lower()} {entry.name} in the backbone", options)
    elif by_key is not None:
        if found is None:
            found, taxon.resolution = by_key, "by key"
        elif name_key(found.name) != name_key(by_key.name):
            taxon.refuse("key", f"key {taxon.key} is {by_key.name} in the backbone, not {found.name}", options)
    elif taxon.key and backbone.has_keys:
        taxon.warnings.append("key not in the backbone")
    if found is None:
        taxon.warnings.append(f"name {taxon.resolution} in the backbone")
        if taxon.resolution == "unknown":
            taxon.refuse("backbone", taxon.name, options)
        return
    _accept(taxon, found)


def _accept(taxon: _Taxon, entry: Entry) -> None:
    taxon.name = entry.name
    taxon.genus = entry.genus or entry.name.split()[0]
    taxon.family = entry.family or taxon.family
    taxon.resolved_key = entry.key
    taxon.leaf_type = entry.leaf_type or taxon.leaf_type


def _judge_keys(taxa: Sequence[_Taxon], options: RuleOptions) -> None:
    """What the keys of all records together say."""
    higher: dict[str, str] = {}
    for taxon in taxa:
        for rank in _HIGHER:
            if key := key_of(taxon.said[f"{rank}_key"]):
                higher.setdefault(key, f"{rank} {taxon.said.get(rank, '')}".strip())
    species_of: defaultdict[str, dict[str, str]] = defaultdict(dict)
    keys_of: defaultdict[str, set[str]] = defaultdict(set)
    for taxon in taxa:
        if taxon.key and taxon.name:
            species_of[taxon.key].setdefault(taxon.name, taxon.family)
            if taxon.resolved_key is None:  # synonyms have keys of their own, which the backbone knows
                keys_of[taxon.name].add(taxon.key)
    for taxon in taxa:
        if not taxon.key:
            continue
        number = _number(taxon.key)
        if taxon.key in higher and "rank" not in taxon.values:
            taxon.refuse("key", f"key {taxon.key} is the {higher[taxon.key]} elsewhere in the records", options)
        if number is not None and number < HIGHER_KEYS_BELOW:
            why = f"key {taxon.key} is below {HIGHER_KEYS_BELOW:,}, where GBIF numbers kingdoms to families"
            taxon.refuse("key", why, options)
        sharing = species_of.get(taxon.key, {})
        rounded = number is not None and number % ROUNDED_TO == 0
        if len(sharing) > 1:
            words = f"key {taxon.key} is shared by {', '.join(sorted(sharing)[:4])}"
            families = {family for family in sharing.values() if family}
            if rounded or len(families) > 1:
                taxon.refuse("key", words + (" and rounded" if rounded else " of several families"), options)
            else:
                taxon.warnings.append(words)
        elif rounded:
            taxon.warnings.append(f"key {taxon.key} is rounded: a spreadsheet lost its last digits")
        if len(keys_of.get(taxon.name, ())) > 1:
            taxon.warnings.append(f"has keys {', '.join(sorted(keys_of[taxon.name]))}")
        stated = taxon.said["genus"]
        if stated and taxon.said["species"] and name_key(stated) != name_key(taxon.said["species"]).partition(" ")[0]:
            taxon.warnings.append(f"the name {taxon.said['species']} is not of its genus {stated}")


def _judge_trees(taxa: Sequence[_Taxon], trees: Trees, backbone: Backbone | None, options: RuleOptions) -> None:
    if not trees.known:
        return
    for taxon in taxa:
        if not taxon.name:
            continue
        taxon.evidence = trees.evidence([taxon.name, taxon.said["species"], binomial(taxon.said["scientific_name"])])
        if trees.refuses(taxon.evidence, options.tree_evidence):
            taxon.refuse("tree", taxon.evidence, options)


def _settle_leaf_types(taxa: Sequence[_Taxon], table: LeafTypes) -> None:
    """One leaf type for a species: by the table, otherwise that of most rows."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for taxon in taxa:
        found, _ = table.find([taxon.name, taxon.said["species"]], taxon.genus, taxon.family)
        if found:
            if taxon.said["leaf_type"] and taxon.said["leaf_type"] != found:
                taxon.warnings.append(f"leaf type {taxon.said['leaf_type']!r} in the records, {found!r} in the table")
            taxon.leaf_type = found
        if taxon.leaf_type and taxon.name:
            votes[taxon.name][taxon.leaf_type] += taxon.rows
    for taxon in taxa:
        if counts := votes.get(taxon.name):
            taxon.leaf_type = min(counts, key=lambda name: (-counts[name], name))
            if len(counts) > 1:
                shares = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
                taxon.warnings.append(f"several leaf types: {shares}")


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each resolved species, or given name where there is none; rows added up, texts joined."""
    import pandas as pd

    first = ["leaf_type", "family", "genus", "species", "taxon_key", "evidence"]
    joined = [*(f"saw_{rule}" for rule in TAXON_RULES), "resolution", "warnings", "given"]
    found: dict[str, dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        name = row["species"] or row["given"]
        if not name and not row["failing"]:
            continue
        start = {column: row[column] for column in first} | {column: {} for column in joined} | {"rows": 0, "kept": 0}
        held = found.setdefault(name, start)
        held["rows"] += row["rows"]
        held["kept"] += row["kept"]
        for column in joined:
            held[column].update(dict.fromkeys(row[column].split("; ") if row[column] else ()))
    texts = {name: held | {column: "; ".join(held[column]) for column in joined} for name, held in found.items()}
    table = pd.DataFrame([{"name": name, **texts[name]} for name in sorted(texts)])
    table = table if len(table) else pd.DataFrame(columns=["name", *first, *joined, "rows", "kept"])
    return table.astype({"taxon_key": "Int64", "rows": "int64", "kept": "int64"})
