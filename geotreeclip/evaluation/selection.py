"""What is scored: which samples of a set, and against which candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.taxonomy import Taxonomy

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
    dataset: PackedDataset, labels: Path | None = None, known: Taxonomy | None = None
) -> tuple[Taxonomy, str]:
    """The candidates and a few words about them.

    Args:
        dataset: the set.
        labels: a table of taxa (see `Taxonomy.read`); by default the taxa of all samples of the set, scored or not, so
            that the list does not tell which taxa are in a test part.
        known: the taxa of the model; a row of the table that states a species alone takes its higher ranks from the
            set or from here.
    """
    if labels is None:
        taxonomy = dataset.taxonomy.take(np.unique(dataset.taxa).tolist())
        return taxonomy, f"{len(taxonomy)} taxa of the set"
    sources = [source for source in (dataset.taxonomy, known) if source is not None]
    by_species = {taxon.species: taxon for source in reversed(sources) for taxon in source if taxon.species}
    taxa = []
    for taxon in Taxonomy.read(labels):
        alone = taxon.species and not (taxon.genus or taxon.family or taxon.leaf_type)
        taxa.append(by_species.get(taxon.species, taxon) if alone else taxon)
    taxonomy = Taxonomy(dict.fromkeys(taxa))
    return taxonomy, f"{len(taxonomy)} taxa of {labels.name}"


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
