"""What is scored: which samples of a set, and against which candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.views import checklist
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset


@dataclass(frozen=True)
class Selection:
    """Which samples of a set are scored.

    Attributes:
        indices: int64 [N], rows of the set.
        split: name of the split, or None for all samples.
        fold: its fold.
        words: the choice in words.
    """

    indices: NDArray[np.int64]
    split: str | None
    fold: int | None
    words: str


def select(
    dataset: PackedDataset,
    split: str | None = None,
    fold: int | None = None,
    trained: tuple[str, int] | None = None,
) -> Selection:
    """The samples to score.

    Args:
        dataset: the set.
        split: whose test samples are scored. By default the split that the model was trained with on this very set,
            else the split "default", else none: all samples.
        fold: of the split; by default that of the training, or the only one.
        trained: split and fold that the model was trained with, where it was trained on this set.

    Raises:
        ConfigError: several folds and none chosen, or no test samples.
    """
    found = sorted(path.stem for path in (dataset.directory / "splits").glob("*.parquet"))
    others = f"; the set has splits {', '.join(found)}, choose one with --split" if found else ""
    chosen, why = split, ""
    if chosen is None and trained and trained[0] in found:
        chosen, why = trained[0], ", with which the model was trained"
    elif chosen is None and "default" in found:
        chosen, why = "default", ", taken because none was named"
    if chosen is None:
        return Selection(np.arange(len(dataset), dtype=np.int64), None, None, f"all samples{others}")
    folds = _folds(dataset, chosen)
    if fold is None and trained and chosen == trained[0]:
        fold = trained[1]
    if fold is None and len(folds) > 1:
        raise ConfigError(f"split {chosen} has the folds {', '.join(map(str, folds))}; choose one with --fold")
    fold = folds[0] if fold is None else fold
    indices = dataset.split(chosen, fold, "test")
    if len(indices):
        return Selection(indices, chosen, fold, f"the test samples of split {chosen}, fold {fold}{why}")
    if split is None and not (trained and trained[0] == chosen):
        words = f"all samples, because split {chosen} has no test samples"
        return Selection(np.arange(len(dataset), dtype=np.int64), None, None, words)
    raise ConfigError(f"split {chosen}, fold {fold}: no test samples; choose another split or fold")


def candidate_list(
    dataset: PackedDataset, labels: Path | str | None = None, known: Taxonomy | None = None
) -> tuple[Taxonomy, str]:
    """The candidates and a few words about them.

    Args:
        dataset: the set.
        labels: a table of taxa (see `Taxonomy.read`), "model" for all that the model knows; by default, and for "set",
            the taxa of all samples of the set, scored or not, so that the list does not tell which taxa are in a test
            part.
        known: the taxa of the model; a row of the table that states a species alone takes its higher ranks from the
            set or from here.

    Raises:
        ConfigError: the model knows no taxa.
    """
    if labels is None or str(labels) == "set":
        taxonomy = dataset.taxonomy.take(np.unique(dataset.taxa).tolist())
        return taxonomy, f"{len(taxonomy)} taxa of the set"
    if str(labels) == "model":
        if not known:
            raise ConfigError("--labels model: this model carries no list of taxa; name a table of taxa")
        return known, f"{len(known)} taxa of the model"
    taxonomy = _completed(Taxonomy.read(labels), dataset, known)
    return taxonomy, f"{len(taxonomy)} taxa of {Path(labels).name}"


def country_list(
    dataset: PackedDataset, country: str, checklist_path: Path | None = None, known: Taxonomy | None = None
) -> tuple[Taxonomy, NDArray[np.bool_], str]:
    """The species of a country: candidates, which rows of the set lie in it (bool [len(dataset)]), and words.

    Args:
        dataset: the set; its table of samples must state countries.
        country: as the table has it, ISO 3166 alpha-2 in the published sets.
        checklist_path: a table of the country's species (see `views.checklist`); by default the taxa of the set's
            samples of the country, which is the closest list that a set can give.
        known: the taxa of the model, to complete names that stand alone.

    Raises:
        ConfigError: the set states no countries, or has no sample of this one.
    """
    table = dataset.samples()
    stated = table["country"].fillna("").astype(str).str.casefold() if "country" in table.columns else None
    if stated is None or not stated.any():
        raise ConfigError(
            f"--country {country}: the samples of {dataset.directory} state no country; give published shards with "
            "--samples TABLE, or pack with it"
        )
    here = stated.eq(country.casefold()).to_numpy(dtype=bool)
    if not here.any():
        found = ", ".join(sorted({text.upper() for text in stated.unique() if text})[:12])
        raise ConfigError(f"--country {country}: no sample of it; the set has {found}, ...")
    if checklist_path is None:
        taxonomy = dataset.taxonomy.take(np.unique(dataset.taxa[here]).tolist())
        return taxonomy, here, f"{len(taxonomy)} taxa of the set's samples of {country}"
    names = [Taxon(species=" ".join(name.split())) for name in checklist(checklist_path, country)]
    taxonomy = _completed(names, dataset, known)
    return taxonomy, here, f"{len(taxonomy)} taxa of {checklist_path.name}, {country}"


def _completed(taxa: Iterable[Taxon], dataset: PackedDataset, known: Taxonomy | None) -> Taxonomy:
    """Taxa that state a species alone get their higher ranks from the set or the model; genera from a relative."""
    sources = [source for source in (dataset.taxonomy, known) if source is not None]
    by_species = {taxon.species: taxon for source in reversed(sources) for taxon in source if taxon.species}
    by_genus: dict[str, set[Taxon]] = {}
    for source in sources:
        for taxon in source:
            by_genus.setdefault(taxon.genus, set()).add(taxon.at("genus"))
    found = []
    for taxon in taxa:
        if taxon.species and not (taxon.genus or taxon.family or taxon.leaf_type):
            genus = taxon.species.split()[0]
            relatives = by_genus.get(genus, set())
            # Where all known species of the genus agree, an unknown one shares their higher ranks
            relative = next(iter(relatives)) if len(relatives) == 1 else Taxon(genus=genus)
            found.append(by_species.get(taxon.species, relative._replace(species=taxon.species)))
        else:
            found.append(taxon)
    return Taxonomy(dict.fromkeys(found))


def trained_with(training: dict[str, Any], dataset: PackedDataset) -> tuple[str, int] | None:
    """Split and fold of the training, where the model was trained on a split of this very set."""
    if training.get("data_fingerprint") != dataset.fingerprint() or not training.get("split"):
        return None
    return str(training["split"]), int(training.get("fold") or 0)


def trained_on(training: dict[str, Any], dataset: PackedDataset, indices: NDArray[np.int64]) -> int:
    """How many of the rows of a set the training saw, validation included; 0 where it was on another set."""
    if training.get("data_fingerprint") != dataset.fingerprint():
        return 0
    where = trained_with(training, dataset)
    if where is None:
        return len(indices)
    seen = [dataset.split(*where, role) for role in ("train", "validation")]
    return int(np.isin(indices, np.concatenate(seen)).sum())


def _folds(dataset: PackedDataset, split: str) -> list[int]:
    import pandas as pd

    path = dataset.directory / "splits" / f"{split}.parquet"
    if not path.is_file():
        dataset.split(split)  # says which splits there are
    table = pd.read_parquet(path)
    if "fold" not in table.columns:
        raise DataError(f"{path}: lacks the column fold; it has {', '.join(map(str, table.columns))}")
    return sorted(int(fold) for fold in table["fold"].unique())
