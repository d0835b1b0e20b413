"""Which species are trees, by lists and traits, and which leaves they bear, by table.

A list such as GlobalTreeSearch (https://tools.bgci.org/global_tree_search.php) holds what is a tree; tables of growth
form and woodiness say what is none. Codes of the growth form table of traitecoevo: F free-standing, C climber,
E epiphyte, H hemi-epiphyte (strangler figs among them), P parasite, A aquatic, M mycoheterotroph; W woody, H herb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geotreeclip.errors import DataError
from geotreeclip.prep.occurrences.names import NAME_COLUMNS, column_of, name_key, need_column, read_table

__all__ = ["LeafTypes", "Trees", "read_leaf_types", "read_trees"]

CONGENERS = 3
"""Species of a genus with known growth that are needed to speak of the genus."""

AGREEMENT = 0.9
"""Share of them that must be alike."""

_SUPPORT = {"C": "climber", "E": "epiphyte", "P": "parasite", "A": "aquatic", "M": "mycoheterotroph"}
_WORDS = (
    ("tree", "tree"), ("shrub", "shrub"), ("liana", "climber"), ("climb", "climber"), ("vine", "climber"),
    ("herb", "herb"), ("gramin", "herb"), ("forb", "herb"), ("fern", "herb"), ("epiphyte", "epiphyte"),
    ("aquatic", "aquatic"), ("parasit", "parasite"),
)  # fmt: skip
_NO_TREES = {"herb", "climber", "epiphyte", "parasite", "aquatic", "mycoheterotroph"}
_WOODINESS = ("woodiness", "woody")
_GROWTH = ("growth_form", "growthform", "growth form", "habit", "life_form", "lifeform")


@dataclass(slots=True)
class Trees:
    """What lists and tables say; names are keys of resolved names.

    Attributes:
        listed: Species that a list holds; None where no list was given.
        growth: Of species: tree, shrub, woody, herb, climber, ...
        genera: Of genera: the growth of their known species, counted.
    """

    listed: set[str] | None = None
    growth: dict[str, str] = field(default_factory=dict)
    genera: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether anything is known at all."""
        return self.listed is not None or bool(self.growth)

    def evidence(self, names: Sequence[str]) -> str:
        """What is known of a species under any of its names, in words that begin with the class of evidence."""
        keys = [name_key(name) for name in names if name]
        if self.listed is not None and any(key in self.listed for key in keys):
            return "listed as a tree"
        growth = next((self.growth[key] for key in keys if key in self.growth), "")
        if growth:
            return growth if self.listed is None else f"{growth}, not listed as a tree"
        of_genus = self.genera.get(keys[0].split()[0], Counter()) if keys else Counter()
        absent = "" if self.listed is None else ", not listed as a tree"
        if sum(of_genus.values()) >= CONGENERS:
            common, count = of_genus.most_common(1)[0]
            if count >= AGREEMENT * sum(of_genus.values()) and common in _NO_TREES:
                return f"genus of {common}s{absent}"
        return f"growth unknown{absent}"

    def refuses(self, evidence: str, how: str) -> bool:
        """Whether evidence speaks against a tree: "listed" asks for the list, "excluded" for evidence against."""
        if evidence == "listed as a tree":
            return False
        if how == "listed" and self.listed is not None:
            return True
        words = evidence.partition(",")[0].removeprefix("genus of ")
        return words in _NO_TREES or words.removesuffix("s") in _NO_TREES


def read_trees(lists: Sequence[Path], growth: Sequence[Path], resolved: Callable[[str], str]) -> Trees:
    """Read lists of trees and tables of growth form and woodiness.

    Args:
        lists: Tables whose names are trees.
        growth: Tables with a name and `support`, `woodiness`, `growth_form` or `habit`.
        resolved: Turns a name into the accepted one.

    Raises:
        DataError: A table is unreadable or lacks the columns.
    """
    trees = Trees()
    for path in lists:
        frame = read_table(path)
        names = frame[need_column(frame, NAME_COLUMNS, path, "names")]
        trees.listed = trees.listed or set()
        for name in names:
            trees.listed |= {name_key(name), name_key(resolved(name))}
        trees.listed.discard("")
    for path in growth:
        frame = read_table(path)
        column = need_column(frame, NAME_COLUMNS, path, "names")
        support = column_of(frame, ("support",))
        wood, form = column_of(frame, _WOODINESS), column_of(frame, _GROWTH)
        if not (support or wood or form):
            raise DataError(f"{path}: has no column of growth (support, woodiness, growth_form or habit)")
        empty = [""] * len(frame)
        for name, *traits in zip(
            frame[column], *(frame[name] if name else empty for name in (support, wood, form)), strict=True
        ):
            if word := _growth(*traits):
                for key in {name_key(name), name_key(resolved(name))}:
                    if key not in trees.growth:
                        trees.growth[key] = word
                        trees.genera.setdefault(key.split()[0], Counter())[word] += 1
    return trees


def _growth(support: str, wood: str, form: str) -> str:
    """One word for the traits of a species, "" where nothing is known."""
    support, wood, form = support.strip(), wood.strip().lower(), form.strip().lower()
    for part, word in _WORDS:
        if part in form:
            return word
    if wood in ("h", "herbaceous", "non-woody", "herb"):
        return "herb"
    if support in _SUPPORT:
        return _SUPPORT[support]
    return "woody" if wood in ("w", "woody") else ""


@dataclass(slots=True)
class LeafTypes:
    """Leaf types by name of species, genus or family."""

    of_name: dict[str, str] = field(default_factory=dict)

    def find(self, species: Sequence[str], genus: str, family: str) -> tuple[str, str]:
        """Leaf type and the rank at which it was found, or two empty strings."""
        for rank, names in (("species", species), ("genus", (genus,)), ("family", (family,))):
            for name in names:
                if name and (found := self.of_name.get(name_key(name))):
                    return found, rank
        return "", ""


def read_leaf_types(paths: Sequence[Path], resolved: Callable[[str], str]) -> LeafTypes:
    """Read tables with a leaf type for species, or, where the name of the species is empty, genera or families.

    Raises:
        DataError: A table is unreadable or lacks the columns.
    """
    types = LeafTypes()
    for path in paths:
        frame = read_table(path)
        leaf = need_column(frame, ("leaf_type", "level0", "leaftype", "leaf type"), path, "leaf types")
        columns = [
            column_of(frame, names) for names in (NAME_COLUMNS, ("genus", "level2_genus"), ("family", "level1_family"))
        ]
        if not any(columns):
            raise DataError(f"{path}: has no column of names (species, genus or family)")
        for row in frame.to_dict("records"):
            name = next((str(row[column]).strip() for column in columns if column and str(row[column]).strip()), "")
            value = " ".join(str(row[leaf]).split())
            if name and value:
                for key in {name_key(name), name_key(resolved(name))}:
                    types.of_name.setdefault(key, value)
    return types
