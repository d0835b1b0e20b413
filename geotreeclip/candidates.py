"""Candidate labels in the forms people give them, and the prior of each.

Shapes: L labels, S taxa of training.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import listed, warn
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, RANKS
from geotreeclip.taxonomy import Taxon, Taxonomy, taxa_of_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Labels", "Prior", "label_priors", "read_labels", "read_prior_table"]

Labels: TypeAlias = "str | Path | Iterable[str] | Iterable[Taxon] | Mapping[str, Any] | pd.DataFrame | Taxonomy | None"
"""Candidate labels as `read_labels` takes them."""

Prior: TypeAlias = "str | Path | Mapping[str, float] | npt.ArrayLike | pd.Series"
"""Prior of the labels as `Classifier` takes it: "training", "uniform", or a table."""

_NAME_COLUMNS = ("label", "name", "scientific_name", "scientificname", "taxon")
_WEIGHT_COLUMNS = ("prior", "weight", "probability", "share", "abundance", "count")
_TABLES = (".csv", ".tsv", ".txt", ".parquet")


def read_labels(labels: Labels, known: Taxonomy) -> Taxonomy:
    """Turn what was given as labels into a table of taxa.

    Args:
        labels: One of
            - None: all taxa the model was trained on;
            - a Taxonomy, or a list of Taxon (or of its four names as a tuple, list or array): taken as it is;
            - a list of names at any rank, seen in training or not ("Quercus robur", "Fagaceae");
            - a restriction of the known taxa, "genus=Quercus" or {"family": ["Fagaceae", "Betulaceae"]};
            - a DataFrame, or the path of a CSV, TSV or Parquet table with columns named like the ranks (or one of
              names), or of a text file with one name on each line.
        known: The taxa of training.

    Returns:
        The candidate labels, in the order given.

    Raises:
        InputError: If a name is unknown as a word, given twice, or the restriction leaves nothing.
        DataError: If a file cannot be read.

    Warns:
        InputWarning: If a species is given whose genus the model never saw.
    """
    if labels is None:
        if not len(known):
            raise InputError(
                "labels: this model carries no list of taxa, so name the candidates: labels=[...] or a table of taxa; "
                "`geotreeclip convert --taxonomy TABLE` stores a list with the model"
            )
        return known
    if isinstance(labels, Taxonomy):
        chosen = labels
    elif isinstance(labels, Mapping):
        chosen = _restrict(known, labels)
    elif isinstance(labels, str | Path):
        chosen = _from_text(labels, known)
    elif hasattr(labels, "columns"):
        chosen = _from_frame(labels, known, "labels")
    else:
        items = [labels] if isinstance(labels, Taxon) else [_as_taxon(item) for item in labels]
        taxa = [item for item in items if isinstance(item, Taxon)]
        chosen = Taxonomy(taxa) if len(taxa) == len(items) else known.resolve([str(item) for item in items])
    if not len(chosen):
        raise InputError(
            "labels: the list is empty; name at least one, or leave labels out for all that the model knows"
        )
    _warn_of_strangers(chosen, known)
    return chosen


def _as_taxon(item: Any) -> Any:
    """Four names (leaf type, family, genus, species) as a Taxon; anything else as it is."""
    if isinstance(item, str | Taxon) or not hasattr(item, "__len__") or len(item) != len(RANKS):
        return item
    return Taxon(*(str(part).strip() for part in item))


def _from_text(text: str | Path, known: Taxonomy) -> Taxonomy:
    path = Path(text)
    if path.suffix.lower() in _TABLES:
        return _from_file(path, known)
    if "=" in str(text):
        pairs = [part.partition("=") for part in str(text).split(",")]
        restriction: dict[str, list[str]] = {}
        for rank, equals, name in pairs:
            if not equals or not name.strip():
                raise InputError(f'labels: {text!r} is no restriction; write it as "genus=Quercus"')
            restriction.setdefault(rank.strip(), []).append(name.strip())
        return _restrict(known, restriction)
    return known.resolve([str(text)])


def _from_file(path: Path, known: Taxonomy) -> Taxonomy:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"labels: {path}: no such file")
    try:
        if path.suffix.lower() == ".txt":
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            return known.resolve([line for line in lines if line])
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            frame = pd.read_csv(path, dtype=str, sep=separator, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(f"labels: {path}: cannot be read as a table ({error})") from error
    return _from_frame(frame, known, f"labels: {path}")


def _from_frame(frame: Any, known: Taxonomy, where: str) -> Taxonomy:
    """Labels of a table; ranks that it does not state are filled in from the known taxa."""
    if not len(frame):
        raise InputError(f"{where}: the table has no rows")
    if not any(column in frame.columns for column in (*RANKS, *PUBLISHED_RANK_FIELDS)):
        names = [column for column in frame.columns if str(column).strip().lower() in _NAME_COLUMNS]
        if not names and len(frame.columns) == 1:
            names = list(frame.columns)
        if not names:
            raise InputError(
                f"{where}: no column of {', '.join(RANKS)} or {', '.join(_NAME_COLUMNS)} (found: "
                f"{listed(frame.columns)})"
            )
        return known.resolve(frame[names[0]].fillna("").astype(str).tolist())
    given = list(dict.fromkeys(taxa_of_frame(frame, where)))
    partial = [taxon for taxon in given if any(taxon) and not all(taxon[: RANKS.index(taxon.rank)])]
    found = dict(zip(partial, known.resolve([taxon.name(taxon.rank) for taxon in partial]), strict=True))
    filled = (_fill(taxon, found[taxon]) if taxon in found else taxon for taxon in given)
    return Taxonomy(dict.fromkeys(filled))


def _fill(taxon: Taxon, found: Taxon) -> Taxon:
    """Empty parts from a known taxon, unless the stated ones contradict it (a name used twice)."""
    if any(mine and theirs and mine != theirs for mine, theirs in zip(taxon, found, strict=True)):
        return taxon
    return Taxon(*(mine or theirs for mine, theirs in zip(taxon, found, strict=True)))


def _restrict(known: Taxonomy, restriction: Mapping[str, Any]) -> Taxonomy:
    wanted: dict[str, set[str]] = {}
    for given, value in restriction.items():
        rank = PUBLISHED_RANK_FIELDS.get(str(given), str(given).lower())
        if rank not in RANKS:
            raise InputError(f"labels: {given!r} is no rank; restrict by {', '.join(RANKS)}")
        names = [value] if isinstance(value, str) else [str(name) for name in value]
        there = {taxon.name(rank).casefold(): taxon.name(rank) for taxon in known}
        absent = [name for name in names if name.casefold() not in there]
        if absent:
            close = difflib.get_close_matches(absent[0].casefold(), there, n=3)
            hint = f"; did you mean {' or '.join(there[name] for name in close)}?" if close else ""
            raise InputError(f"labels: the model knows no {rank} {absent[0]!r}{hint}")
        wanted[rank] = {name.casefold() for name in names}
    rows = [
        row
        for row, taxon in enumerate(known)
        if all(taxon.name(rank).casefold() in names for rank, names in wanted.items())
    ]
    if not rows:
        raise InputError(f"labels: no taxon of the model meets all of {dict(restriction)}")
    return known.take(rows)


def _warn_of_strangers(labels: Taxonomy, known: Taxonomy) -> None:
    if labels is known or not len(known):
        return
    genera = {taxon.genus for taxon in known}
    strangers = sorted({taxon.genus for taxon in labels if taxon.genus and taxon.genus not in genera})
    if strangers:
        warn(
            f"labels: the model never saw the genus {listed(strangers, 5)}; check the spelling. Answers about it rest "
            "on the text alone"
        )


# -- priors -----------------------------------------------------------------------------------------------------------


def label_priors(labels: Taxonomy, known: Taxonomy, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Prior of each label in the training set, smoothed by one sample for each taxon.

    p = (n + 1) / (N + S) for a taxon with n of the N training samples; a label above species, or one that leaves
    ranks unstated, sums those of the taxa it covers; a label that covers none has p = 1 / (N + S). For a model that
    knows no taxa, all labels have the same.

    Args:
        labels: The candidates.
        known: The taxa of training.
        counts: [S] training samples of each.

    Returns:
        float64 [L], all above 0.
    """
    if not len(known):  # nothing is known of how common they are
        return np.full(len(labels), 1 / max(1, len(labels)))
    weights = counts.astype(np.float64) + 1
    total = float(weights.sum())
    if labels is known:
        return np.asarray(weights / total)
    sums = _covered(labels, known, weights)
    return np.where(sums > 0, sums, 1.0) / total


def seen_in_training(labels: Taxonomy, known: Taxonomy, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a model learnt from samples of each label, or of taxa that the label covers.

    Args:
        labels: The candidates.
        known: The taxa of the model.
        counts: [S] training samples of each.

    Returns:
        bool [L].
    """
    if labels is known:
        return np.asarray(counts > 0)
    return np.asarray(_covered(labels, known, counts.astype(np.float64)) > 0)


def _covered(labels: Taxonomy, known: Taxonomy, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weight of each label: that of the taxon it is, else the sum over the taxa that it covers, 0 for none."""
    sums: dict[tuple[int, ...], dict[tuple[str, ...], float]] = {}
    result = np.empty(len(labels))
    for row, label in enumerate(labels):
        exact = known.index_of(label)
        if exact is not None and all(label):
            result[row] = weights[exact]
            continue
        stated = tuple(index for index, part in enumerate(label) if part)
        if stated not in sums:  # one pass over the known taxa for each pattern of stated ranks
            sums[stated] = defaultdict(float)
            for taxon, weight in zip(known, weights, strict=True):
                sums[stated][tuple(taxon[index] for index in stated)] += weight
        result[row] = sums[stated].get(tuple(label[index] for index in stated), 0.0)
    return result


def read_prior_table(table: Any, labels: Taxonomy) -> npt.NDArray[np.float64]:
    """Weights that a caller gives to the labels.

    Args:
        table: Mapping (or pandas Series) of label names to weights, array of L weights in the order of the labels, or
            path of a CSV with a column of names (`label` or `species`) and one of weights (`prior` or `weight`).
        labels: The candidates.

    Returns:
        float64 [L], at least 0, sum 1.

    Raises:
        InputError: If a label has no weight, or weights are negative, not finite or all 0.
        DataError: If a file cannot be read.
    """
    if isinstance(table, str | Path):
        table = _prior_file(Path(table))
    if hasattr(table, "to_dict"):
        table = table.to_dict()
    if isinstance(table, Mapping):
        by_name = {str(name).casefold(): value for name, value in table.items()}
        names = [taxon.name(taxon.rank) for taxon in labels]
        absent = [name for name in names if name.casefold() not in by_name]
        if absent:
            raise InputError(f"prior: no weight for {listed(absent, 5)}; give every label one (0 excludes it)")
        table = [by_name[name.casefold()] for name in names]
    try:
        weights = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"prior: weights must be numbers: {error}") from error
    if weights.shape != (len(labels),):
        raise InputError(f"prior has shape {list(weights.shape)}, but there are {len(labels)} labels")
    if not bool(np.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InputError("prior: weights must be finite, none of them negative, and not all 0")
    return np.asarray(weights / weights.sum())


def _prior_file(path: Path) -> dict[str, float]:
    import pandas as pd

    if not path.is_file():
        raise InputError(f'prior: {str(path)!r} is neither "training" nor "uniform" nor a CSV file')
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise DataError(f"prior: {path}: cannot be read as a table ({error})") from error
    names = [column for column in frame if str(column).lower() in (*_NAME_COLUMNS, *reversed(RANKS))]
    values = [column for column in frame if str(column).lower() in _WEIGHT_COLUMNS]
    if not names or not values:
        raise InputError(
            f"prior: {path}: needs a column of names (label or species) and one of weights (prior or weight), found "
            f"{listed(frame.columns)}"
        )
    labels = frame[names[0]].astype(str).str.strip()
    twice = labels[labels.str.casefold().duplicated()]
    if len(twice):
        raise InputError(f"prior: {path}: {twice.iloc[0]!r} has several weights; keep one row of each label")
    weights = pd.to_numeric(frame[values[0]], errors="coerce")
    if weights.isna().any():
        row = int(weights.isna().to_numpy().argmax())
        raise InputError(
            f"prior: {path}: row {row + 1}: {values[0]} of {labels.iloc[row]} is {frame[values[0]].iloc[row]!r}, not a "
            "number; 0 excludes a label"
        )
    return dict(zip(labels, weights.astype(float), strict=True))
