"""Licences of occurrence records in one spelling, and what they allow.

GBIF states CC0_1_0, CC_BY_4_0 or CC_BY_NC_4_0 (https://techdocs.gbif.org/en/data-use/download-formats); archives of
single data sets hold addresses or words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DATASETS",
    "NOT_STATED",
    "RIGHTS",
    "count_rights",
    "is_commercial",
    "licence_code",
    "sum_counts",
    "write_datasets",
]

RIGHTS: tuple[str, ...] = ("license", "dataset_key", "rights_holder")
"""Columns of occurrences and samples that say what may be done with a record, and whom to cite."""

DATASETS = "datasets.csv"
"""Data sets of the records kept, with their numbers."""

NOT_STATED = "not stated"
"""How records without a licence are counted."""

_ZERO = re.compile(r"publicdomain/zero|\bcc[\s_-]?(0|zero)(?!\d)|creative commons zero", re.IGNORECASE)
_MARK = re.compile(r"publicdomain/mark|\bpdm\b|^public[\s_-]?domain$", re.IGNORECASE)
_CC = re.compile(r"(?:licenses/|\bcc[\s_-]?)(by(?:[\s_-](?:nc|sa|nd))*)(?:[\s_/-]*(\d)[._](\d))?", re.IGNORECASE)
_UNKNOWN = ("", "UNSPECIFIED", "UNSUPPORTED", "NONE", "NULL")
_OPEN = re.compile(r"CC0_1_0|PDM_1_0|CC_BY(_SA|_ND)*(_\d_\d)?")
_LONGEST = 60


def licence_code(text: str) -> str:
    """A licence in GBIF's spelling: CC0_1_0, CC_BY_4_0, CC_BY_NC_4_0, CC_BY_SA_3_0, ...

    Args:
        text: An address, a name, or GBIF's own code.

    Returns:
        The code, without a version where none is stated; what is no Creative Commons licence in capitals, cut to 60
        letters; "" where nothing is stated.
    """
    if text.strip().upper() in _UNKNOWN:
        return ""
    if _ZERO.search(text):
        return "CC0_1_0"
    if found := _CC.search(text):
        kind = re.sub(r"[\s_-]+", "_", found[1].upper())
        return f"CC_{kind}_{found[2]}_{found[3]}" if found[2] else f"CC_{kind}"
    if _MARK.search(text):
        return "PDM_1_0"
    return re.sub(r"\W+", "_", text.strip()).strip("_").upper()[:_LONGEST]


def is_commercial(code: str) -> bool:
    """Whether a licence, as `licence_code` gives it, is known to allow commercial use."""
    return _OPEN.fullmatch(code) is not None


def count_rights(table: pd.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """Records of each licence and of each data set, the most frequent first; missing texts as `NOT_STATED`.

    Args:
        table: Of samples; a column that it does not have gives nothing.
    """
    found = []
    for name in RIGHTS[:2]:
        counts: dict[str, int] = {}
        if name in table.columns:
            texts = table[name].astype("string").fillna("").replace("", NOT_STATED)
            counts = {str(text): int(count) for text, count in texts.value_counts().items()}
        found.append(sum_counts([counts]))
    return found[0], found[1]


def sum_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts of several parts in one, the most frequent first."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def write_datasets(path: Path, counts: Mapping[str, int]) -> None:
    """Write data set keys and their numbers of records as the CSV that GBIF's form for derived data sets takes."""
    from geotreeclip.data.shardfile import write_atomically

    lines = [f"{key},{count}\n" for key, count in counts.items() if key != NOT_STATED]
    write_atomically(
        path, lambda partial: partial.write_text("".join(["datasetKey,count\n", *lines]), encoding="utf-8")
    )
