"""Checklists: which species are known from a country or a region, as candidates.

A checklist is a table (CSV, TSV or Parquet) with names as `geotreeclip.candidates.read_labels` takes them, and a column
`country` (ISO 3166 alpha-2, one code a row or several joined by ; or |) or `region` (any names, likewise).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["checklist"]

_COUNTRY = ("country", "country_code", "countrycode", "iso2", "iso_a2")
_REGION = ("region", "area", "locality", "state", "province")
_SEVERAL = re.compile(r"\s*[;|]\s*")


def checklist(path: str | Path, country: str | None = None, region: str | None = None) -> pd.DataFrame:
    """The rows of a checklist that belong to a country or region, ready for `labels=`.

    Args:
        path: The table.
        country: Code of the country; its case does not matter.
        region: Name of the region.

    Returns:
        The rows, each name once, without the columns of countries and regions.

    Raises:
        DataError: If the table cannot be read.
        InputError: If it lacks the column, or has no row of the country or region.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise DataError(f"checklist: {path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:  # NA is Namibia, not a missing value
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            frame = pd.read_csv(path, dtype=str, sep=separator, encoding="utf-8-sig", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"checklist: {path}: cannot be read as a table ({error})") from error
    for what, wanted, names in (("country", country, _COUNTRY), ("region", region, _REGION)):
        if wanted is None:
            continue
        column = next((column for column in frame.columns if str(column).strip().lower() in names), None)
        if column is None:
            raise InputError(f"checklist: {path}: no column {what} (found: {listed(frame.columns)})")
        stated = [_SEVERAL.split(str(cell).strip().casefold()) for cell in frame[column]]
        here = [wanted.strip().casefold() in cell for cell in stated]
        if not any(here):
            others = sorted({name.upper() if what == "country" else name for cell in stated for name in cell if name})
            raise InputError(f"checklist: {path}: no row of {what} {wanted!r}; it has {listed(others)}")
        frame = frame[here]
    places = [column for column in frame.columns if str(column).strip().lower() in (*_COUNTRY, *_REGION)]
    return frame.drop(columns=places).drop_duplicates().reset_index(drop=True)
