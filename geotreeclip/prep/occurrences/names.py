"""Scientific names, and tables that are looked up by name."""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NAME_COLUMNS", "binomial", "column_of", "name_key", "read_table", "why_no_species"]

NAME_COLUMNS: tuple[str, ...] = (
    "species", "level3_species", "canonicalname", "name", "taxon name", "taxon_name", "taxon", "binomial", "sp",
    "scientific_name", "scientificname", "accepted_name",
)  # fmt: skip
"""Columns under which tables keep names of species, in order of preference."""

_OPEN = {"sp", "spp", "spec", "species", "indet", "ind", "cf", "aff", "nr", "hybrid", "cultivar", "ssp", "subsp", "agg"}
_CROSS = "\u00d7"  # the sign of hybrids
_HYBRID = re.compile(rf"(?:^|\s)(?:{_CROSS}\s*|[xX]\s+)")
_EPITHET = re.compile(r"^[^\W\d_]{2,}(?:-[^\W\d_]+)*$")
_GENUS = re.compile(r"^[A-Z][^\W\d_A-Z]+(?:-[A-Za-z][^\W\d_]+)?$")


@lru_cache(maxsize=1 << 18)
def name_key(name: str) -> str:
    """A name as it is compared: lower case, without accents, hybrid signs and doubled spaces."""
    if not name.isascii():
        name = "".join(part for part in unicodedata.normalize("NFKD", name) if not unicodedata.combining(part))
    return " ".join(_HYBRID.sub(" ", name).lower().split())


def binomial(name: str) -> str:
    """Genus and epithet at the beginning of a scientific name, or "": "Acer rubrum var. rubrum L." is Acer rubrum."""
    words = _HYBRID.sub(f" {_CROSS}", " ".join(name.split())).split()
    pair = " ".join(words[:2])
    return pair.replace(_CROSS, f"{_CROSS} ") if len(words) >= 2 and not why_no_species(pair) else ""


def why_no_species(name: str) -> str:
    """Why a name is not that of one species ("only one word"), or "" if it may be.

    Hybrids with a name of their own ("Platanus x hispanica") are species here; names left open ("Albizia sp",
    "Quercus cf. robur") are not.
    """
    words = _HYBRID.sub(" ", name).split()
    if not words:
        return "no name of a species"
    if len(words) == 1:
        return "one word, not a binomial"
    open_word = next((word for word in words[1:] if word.strip(".").lower() in _OPEN), "")
    if (
        open_word
        and words.index(open_word) <= 2
        and (words[1] == open_word or open_word.strip(".") in ("cf", "aff", "nr"))
    ):
        return f"left open by {open_word!r}"
    if not _GENUS.match(words[0]) or not _EPITHET.match(words[1]) or words[1] != words[1].lower():
        return "no binomial"
    return ""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (comma, semicolon or tab; gz or not) or Parquet table as text.

    Text that is not UTF-8 is read as Windows-1252, as spreadsheets save it.

    Raises:
        DataError: The file is absent, empty or no table.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path).astype("string").fillna("").astype(object)
        else:
            frame = _read_text(path)
    except (OSError, ValueError, EOFError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    if frame.empty:
        raise DataError(f"{path}: holds no rows")
    return frame.rename(columns=lambda name: str(name).strip())


def _read_text(path: Path) -> pd.DataFrame:
    import pandas as pd

    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        header = stream.readline(1 << 20).decode("utf-8", "replace")
    separator = max("\t,;", key=header.count)

    def read(encoding: str, errors: str) -> pd.DataFrame:
        with opener(path, "rt", encoding=encoding, errors=errors, newline="") as stream:
            rows = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else 0)
            names = next(rows, [])
            # Lists carry remarks beyond their columns: rows are cut or filled to the header.
            texts = [[*row[: len(names)], *[""] * (len(names) - len(row))] for row in rows if row]
        return pd.DataFrame(texts, columns=names, dtype=object)

    try:
        return read("utf-8-sig", "strict")
    except UnicodeDecodeError:
        return read("cp1252", "replace")


def column_of(frame: pd.DataFrame, names: Iterable[str]) -> str:
    """The first of some columns that a table has, whatever the case, or ""."""
    have = {str(name).casefold(): str(name) for name in frame.columns}
    return next((have[name] for name in names if name in have), "")


def need_column(frame: pd.DataFrame, names: Sequence[str], path: Path, what: str) -> str:
    """Like `column_of`.

    Raises:
        DataError: There is none.
    """
    if column := column_of(frame, names):
        return column
    raise DataError(
        f"{path}: has no column of {what} ({', '.join(names)}); its columns are {', '.join(map(str, frame.columns))}"
    )
