"""Views of one scored set: other samples, other candidates, the same scores.

A model encodes every sample once, against the union of all candidate lists; a view then takes its samples and its
candidates, and normalises again. So the original set, the set without classes that are no species, its trees alone,
species that training never saw, and the species of one country stand side by side at the cost of one.

Shape letters: N samples, L candidates of the union, S candidates of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.options import VARIANTS
from geotreeclip.schema import PUBLISHED_RANK_FIELDS
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HIGHER_RANK_CLASSES", "View", "is_no_species", "read_names", "union_of", "variants_of"]

HIGHER_RANK_CLASSES: dict[str, str] = {
    "Acacia polyphylla": "key 5386, the family Fabaceae",
    "Cinnamomum cassia": "key 6688, of the rank of a family",
    "Citrus polyandra": "key 2396, of the rank of a family",
    "Kibara macrophylla": "key 2494, of the rank of a family",
    "Pereskia bleo": "key 2519, of the rank of a family",
    "Phyllanthus albus": "key 8807, of the rank of a family",
    "Pleroma pulchrum": "key 6683, of the rank of a family",
    "Rhamnus alpina": "key 2407, of the rank of a family",
    "Schefflera macrophylla": "key 8800, of the rank of a family",
    "Securidaca volubilis": "key 1370, the order Fabales",
    "Sorbus aria": "key 5015, the family Rosaceae",
    "Weinmannia minutiflora": "key 2405, of the rank of a family",
}
"""Classes of the published sets whose GBIF key (column species_key) is that of a higher taxon, so that they hold
records of anything beneath it. Names without an epithet are told by `is_no_species`."""

_NO_EPITHET = frozenset({"sp", "sp.", "spec", "spec.", "spp", "spp.", "species"})
_NAME_COLUMNS = ("species", "level3_species", "scientific_name", "scientificname", "taxon name", "taxonname",
                 "species_name", "label", "name", "taxon")  # fmt: skip
_COUNTRY_COLUMNS = ("country", "country_code", "countrycode", "iso2")


@dataclass(frozen=True, eq=False)
class View:
    """Some samples of a set against some of the candidates.

    Attributes:
        label: what tells it from the whole set, "" for the whole.
        samples: bool [N].
        candidates: int64 [S], rows of the union.
        words: the candidate list in words.
    """

    label: str
    samples: NDArray[np.bool_]
    candidates: NDArray[np.int64]
    words: str


def union_of(lists: Iterable[Taxonomy]) -> tuple[Taxonomy, list[NDArray[np.int64]]]:
    """All taxa of some lists, each once, and the rows of every list in them."""
    rows: dict[Taxon, int] = {}
    places = [np.array([rows.setdefault(taxon, len(rows)) for taxon in taxa], dtype=np.int64) for taxa in lists]
    return Taxonomy(rows), places


def is_no_species(taxon: Taxon, excluded: frozenset[str] = frozenset()) -> bool:
    """Whether a class stands for more than a species: it is on the list, or its name has no epithet.

    Args:
        taxon: the class; one that states no species is none.
        excluded: further names, as `read_names` gives them.
    """
    words = taxon.species.split()
    return len(words) < 2 or words[1].casefold() in _NO_EPITHET or binomial(taxon.species) in _HIGHER | excluded


def binomial(name: str) -> str:
    """Genus and epithet of a name in lower case, without hybrid signs, authors and ranks below."""
    words = [word for word in str(name).casefold().replace("\u00d7", " ").split() if word != "x"]
    return " ".join(words[:2])


_HIGHER = frozenset(binomial(name) for name in HIGHER_RANK_CLASSES)


def read_names(path: Path) -> frozenset[str]:
    """Species of a table (a list of trees, a report of classes to leave out), for comparison by `binomial`.

    Args:
        path: CSV (also compressed) or Parquet with a column such as species, scientific_name or "Taxon name".

    Raises:
        DataError: it cannot be read, or has no such column.
    """
    frame, column = _read(path)
    return frozenset(binomial(name) for name in frame[column].dropna().astype(str)) - {""}


def checklist(path: Path, country: str) -> list[str]:
    """Species of a table, those of one country where it has a column of countries.

    Raises:
        DataError: it cannot be read, or names nothing of the country.
    """
    frame, column = _read(path)
    where = [name for name in frame.columns if str(name).strip().casefold() in _COUNTRY_COLUMNS]
    if where:
        frame = frame[frame[where[0]].astype(str).str.strip().str.casefold() == country.casefold()]
    names = list(dict.fromkeys(frame[column].dropna().astype(str).str.strip()))
    if not names:
        raise DataError(f"{path}: names no species of country {country}")
    return names


def _read(path: Path) -> tuple[pd.DataFrame, Any]:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            try:
                frame = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
            except UnicodeDecodeError:  # GlobalTreeSearch is published in Latin-1
                frame = pd.read_csv(path, dtype=str, encoding="latin-1", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    by_name = {str(column).strip().casefold(): column for column in frame.columns}
    for name in (*_NAME_COLUMNS, *(given for given in PUBLISHED_RANK_FIELDS if given in _NAME_COLUMNS)):
        if name in by_name:
            return frame, by_name[name]
    if len(frame.columns) == 1:
        return frame, frame.columns[0]
    raise DataError(
        f"{path}: no column of species names ({', '.join(_NAME_COLUMNS)}); found {', '.join(map(str, frame.columns))}"
    )


def variants_of(
    view: View,
    union: Taxonomy,
    truth: Sequence[Taxon],
    *,
    wanted: Sequence[str] | None = None,
    excluded: frozenset[str] = frozenset(),
    trees: frozenset[str] | None = None,
    seen: frozenset[Taxon] | None = None,
) -> list[View]:
    """A view and its variants.

    Args:
        view: the original.
        union: the taxa that its candidates point into.
        truth: N taxa.
        wanted: of `VARIANTS`; by default the original and every variant that differs from it.
        excluded: names that are no species, beside those that are known.
        trees: names of trees; without them there is no variant of trees.
        seen: taxa that training saw; without them there is no variant of unseen species.

    Raises:
        ConfigError: a variant is unknown, lacks what it needs, or leaves nothing.
    """
    unknown = [name for name in wanted or () if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"--variants {unknown[0]}: choose from {', '.join(VARIANTS)}")
    keeps: dict[str, tuple[Callable[[Taxon], bool] | None, bool, str]] = {
        # which taxa stay, whether candidates are cut too, what it needs
        "original": (lambda taxon: True, False, ""),
        "rank-cleaned": (lambda taxon: not is_no_species(taxon, excluded), True, ""),
        "trees": (
            None if trees is None else lambda taxon: binomial(taxon.species) in trees,
            True,
            "a list of trees, --trees TABLE",
        ),
        "unseen-species": (
            None if seen is None else lambda taxon: taxon not in seen,
            False,
            "a model that knows how many samples of each taxon it saw",
        ),
    }
    views = []
    for name in wanted or VARIANTS:
        keep, cut, needs = keeps[name]
        if keep is None:
            if wanted:
                raise ConfigError(f"--variants {name} needs {needs}")
            continue
        kept = {taxon: keep(taxon) for taxon in {*truth, *(union[row] for row in view.candidates.tolist())}}
        samples = view.samples & np.array([kept[taxon] for taxon in truth], dtype=bool)
        rows = [row for row in view.candidates.tolist() if kept[union[row]] or not cut]
        if name != "original" and not wanted and (samples.sum() in (0, view.samples.sum()) or not rows):
            continue
        if not samples.any() or not rows:
            raise ConfigError(f"--variants {name}: no sample or no candidate is left")
        label = ", ".join(part for part in (view.label, "" if name == "original" else name) if part)
        removed = len(view.candidates) - len(rows)
        words = f"{view.words} but {removed}" if removed else view.words
        views.append(View(label, samples, np.array(rows, dtype=np.int64), words))
    return views
