"""Tables that packing joins: what is known of a sample by its id, and what must stay out.

Shape letters: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PLACE_DECIMALS", "Exclusion", "SampleTable"]

PLACE_DECIMALS = 4
"""Places are the same where longitude and latitude agree to this many decimals (0.0001 degrees: 11 m or less)."""

# Name in the published tables, and ours.
_JOINED = {"year": "year", "country_code": "country", "source": "source", "Category": "rarity"}


class SampleTable:
    """Year, country, source and rarity by sample id, from tables such as GlobalGeoTree.csv.

    Args:
        paths: CSV files with a sample_id column; the first row of an id counts.

    Raises:
        DataError: a file cannot be read or has no sample_id.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        import pandas as pd

        parts = [_read_csv(path, ("sample_id",), (*_JOINED, *_JOINED.values())) for path in paths]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"sample_id": []}, dtype="string")
        self.rows = len(table)
        table = table.drop_duplicates("sample_id").set_index("sample_id")
        for theirs, ours in _JOINED.items():
            if ours not in table.columns:
                table[ours] = table.pop(theirs) if theirs in table.columns else pd.Series(pd.NA, table.index, "string")
        if "year" in table.columns:
            table["year"] = pd.to_numeric(table["year"], errors="coerce").round().astype("Int32")
        self._table = table[list(_JOINED.values())]

    def rows_of(self, sample_ids: Sequence[str]) -> tuple[pd.DataFrame, int]:
        """The columns for some samples, N rows with NA where an id is unknown, and how many were known."""
        import pandas as pd

        places = self._table.index.get_indexer(pd.Index(list(sample_ids)))
        found = self._table.reindex(list(sample_ids)).reset_index(drop=True)
        return found, int((places >= 0).sum())


class Exclusion:
    """Samples that must stay out: those of evaluation sets, by id and by place.

    Args:
        paths: CSV files with sample_id or longitude and latitude, or all.
        decimals: decimals of a degree to which a place is rounded.

    Raises:
        DataError: a file cannot be read or has none of the columns.
    """

    def __init__(self, paths: Sequence[str | Path], decimals: int = PLACE_DECIMALS) -> None:
        import pandas as pd

        self.decimals = decimals
        self.ids: dict[str, str] = {}
        self.places: dict[tuple[float, float], str] = {}
        for path in paths:
            name = Path(path).name
            table = _read_csv(path, (), ("sample_id", "longitude", "latitude"))
            located = {"longitude", "latitude"} <= set(table.columns)
            if "sample_id" not in table.columns and not located:
                raise DataError(f"{path}: has neither sample_id nor longitude and latitude, so it excludes nothing")
            if "sample_id" in table.columns:
                self.ids |= dict.fromkeys(table["sample_id"].dropna().tolist(), name)
            if located:
                pairs: Iterable[tuple[float, float]] = zip(
                    pd.to_numeric(table["longitude"], errors="coerce").tolist(),
                    pd.to_numeric(table["latitude"], errors="coerce").tolist(),
                    strict=True,
                )
                self.places |= {place: name for pair in pairs if (place := self._place(*pair)) is not None}

    def by_id(self, sample_id: str) -> str:
        """The file that excludes a sample id, or ""."""
        return self.ids.get(sample_id, "")

    def by_place(self, longitude: float, latitude: float) -> str:
        """The file that excludes a place, or ""."""
        place = self._place(longitude, latitude) if self.places else None
        return self.places.get(place, "") if place is not None else ""

    def _place(self, longitude: float, latitude: float) -> tuple[float, float] | None:
        if math.isnan(longitude) or math.isnan(latitude):
            return None
        return round(longitude, self.decimals), round(latitude, self.decimals)


def _read_csv(path: str | Path, required: Sequence[str], wanted: Sequence[str]) -> pd.DataFrame:
    """Some columns of a CSV as text, in the order of the file."""
    import pandas as pd

    try:
        keep = {*required, *wanted}
        # Only an empty field is missing: NA is the country code of Namibia.
        table = pd.read_csv(
            path, usecols=lambda name: name in keep, dtype="string", encoding="utf-8-sig", keep_default_na=False,
            na_values=[""],
        )  # fmt: skip
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: is no CSV table ({error})") from error
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise DataError(f"{path}: has no column {', '.join(absent)}; is it the table of samples?")
    return table
