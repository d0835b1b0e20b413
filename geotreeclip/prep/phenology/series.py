"""EVI2 series of samples from packed shards or tables. n samples of a batch, T steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology.circular import day_of_year
from geotreeclip.prep.phenology.index import MONTH_MIDDLES, composite, evi2, evi2_of_patches, step_middles
from geotreeclip.schema import BANDS, MISSING_DN, REFLECTANCE_SCALE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Series", "packed_series", "sample_places", "table_series"]

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Series:
    """EVI2 of some samples.

    Attributes:
        sample_id: [n].
        longitude: float64 [n], NaN where unknown.
        latitude: float64 [n].
        values: float64 [n, T], EVI2.
        red: float64 [n, T], red reflectance, or all NaN where the table has none.
        days: float64 [n, T], middle of each step, day of the year.
    """

    sample_id: list[str]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    values: NDArray[np.float64]
    red: NDArray[np.float64]
    days: NDArray[np.float64]


def packed_series(directory: Path) -> tuple[int, Iterator[Series]]:
    """Number of samples of a packed set, and their series: the median over the pixels of each step.

    Raises:
        DataError: It is no packed set, or has no imagery.
    """
    from geotreeclip.data.packed import PackedDataset

    data = PackedDataset(directory)
    if not data.has_images:
        raise DataError(f"{directory}: has no imagery, so no seasons can be fitted")
    table = data.samples()

    def parts() -> Iterator[Series]:
        for start in range(0, len(data), BATCH):
            rows = np.arange(start, min(start + BATCH, len(data)))
            batch = data.read(rows)
            red, nir = (batch.images[:, :, BANDS.index(name)] for name in ("B4", "B8"))
            values, bright = evi2_of_patches(red, nir)
            days = np.broadcast_to(MONTH_MIDDLES if batch.days is None else step_middles(batch.days), values.shape)
            here = table.iloc[rows]
            longitude, latitude = _places(here)
            yield Series(here["sample_id"].astype(str).tolist(), longitude, latitude, values, bright, days)

    return len(data), parts()


def table_series(
    path: Path,
    *,
    red: str = "red",
    nir: str = "nir",
    index: str = "",
    start: str = "",
    scale: float = REFLECTANCE_SCALE,
) -> tuple[int, Iterator[Series]]:
    """Number of samples of a table (Parquet or CSV), and their series.

    A *wide* table has a row a sample and a column a month: ``{}`` in a name stands for the number of the month, as in
    ``B4_{}``. A *long* table has a row a look, with the columns ``sample_id`` and ``date``; looks of any dates and
    years are made one year of medians.

    Args:
        path: The table; ``sample_id`` (row numbers without, in a wide one), ``longitude`` or ``lon``, ``latitude`` or
            ``lat`` where known.
        red: Column of the red band, or names with ``{}``.
        nir: Of the near infrared band.
        index: Column or columns of EVI2 itself, instead of bands.
        start: Column of a wide table with the date or number of its first month; January without.
        scale: Digital numbers per unit of reflectance, 1 for reflectance; 65535 is missing.

    Raises:
        DataError: The table cannot be read or lacks a column.
        ConfigError: The columns are named in part.
    """
    if scale <= 0:
        raise ConfigError(f"scale is {scale}; give digital numbers per unit of reflectance, such as 10000")
    wide = {"{}" in name for name in ([index] if index else [red, nir])}
    if len(wide) > 1:
        raise ConfigError(f"columns {red!r} and {nir!r}: give '{{}}' for the month in both or in none")
    frame = _read(path)
    return (
        _wide(frame, path, red, nir, index, start, scale) if wide.pop() else _long(frame, path, red, nir, index, scale)
    )


def sample_places(path: Path, *, packed: bool) -> pd.DataFrame:
    """sample_id, longitude and latitude of a packed set or a table.

    Raises:
        DataError: It cannot be read, or holds no places.
    """
    import pandas as pd

    if packed:
        from geotreeclip.data.packed import PackedDataset

        frame = PackedDataset(path).samples()
    else:
        frame = _read(path)
    longitude, latitude = _places(frame)
    if np.isnan(longitude).all() or np.isnan(latitude).all():
        raise DataError(f"{path}: has no longitude and latitude, so nothing can be read there")
    ids = frame["sample_id"].astype(str).to_numpy() if "sample_id" in frame else np.arange(len(frame)).astype(str)
    return pd.DataFrame({"sample_id": ids, "longitude": longitude, "latitude": latitude})


def _wide(
    frame: pd.DataFrame, path: Path, red: str, nir: str, index: str, start: str, scale: float
) -> tuple[int, Iterator[Series]]:
    columns = {name: _months(frame, path, name) for name in ([index] if index else [red, nir])}
    first = np.zeros(len(frame), dtype=np.int64)
    if start:
        first = _first_month(frame, path, start)
    days = MONTH_MIDDLES[(first[:, None] + np.arange(12)) % 12]

    def parts() -> Iterator[Series]:
        for begin in range(0, len(frame), BATCH):
            rows = slice(begin, begin + BATCH)
            here = frame.iloc[rows]
            ids = here["sample_id"].astype(str).tolist() if "sample_id" in here else [str(i) for i in here.index]
            bands = [_number(here[names].to_numpy(dtype=float, na_value=np.nan)) for names in columns.values()]
            values, bright = _index(bands, scale)
            yield Series(ids, *_places(here), values, bright, days[rows])

    return len(frame), parts()


def _long(
    frame: pd.DataFrame, path: Path, red: str, nir: str, index: str, scale: float
) -> tuple[int, Iterator[Series]]:
    import pandas as pd

    wanted = ["sample_id", "date", *([index] if index else [red, nir])]
    _require(frame, path, wanted)
    dates = pd.to_datetime(frame["date"], errors="coerce")
    if dates.isna().any():
        row = int(np.argmax(dates.isna().to_numpy()))
        raise DataError(f"{path}: row {row}: date is {str(frame['date'].iloc[row])!r}; write dates as 2024-05-31")
    days = day_of_year(dates.to_numpy())
    bands = [_number(frame[name].to_numpy(dtype=float, na_value=np.nan)) for name in wanted[2:]]
    values, bright = _index(bands, scale)
    groups = sorted(frame.groupby("sample_id", sort=False).indices.items(), key=lambda item: int(item[1][0]))

    def parts() -> Iterator[Series]:
        for begin in range(0, len(groups), BATCH):
            some = groups[begin : begin + BATCH]
            made = [composite(values[rows], days[rows]) for _, rows in some]
            series, stamps = (np.stack([each[number] for each in made]) for number in (0, 1))
            reds = np.stack([composite(bright[rows], days[rows])[0] for _, rows in some])
            here = frame.iloc[[int(rows[0]) for _, rows in some]]
            yield Series([str(name) for name, _ in some], *_places(here), series, reds, stamps)

    return len(groups), parts()


def _index(bands: list[NDArray[np.float64]], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """EVI2 and red reflectance of the red and near infrared band; one band is EVI2 itself, red unknown."""
    if len(bands) == 1:
        return bands[0], np.full_like(bands[0], np.nan)
    red, nir = bands
    values = evi2(red / scale, nir / scale)
    return values, np.where(np.isnan(values), np.nan, red / scale)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such table of series")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"sample_id": str})
    except (OSError, ValueError) as error:  # pandas' and Arrow's errors of parsing are ValueErrors
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    if frame.empty:
        raise DataError(f"{path}: has no rows")
    return frame


def _require(frame: pd.DataFrame, path: Path, names: list[str]) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        shown = ", ".join(map(str, list(frame.columns)[:12]))
        raise DataError(f"{path}: lacks the columns {', '.join(missing)} (found: {shown} ...)")


def _months(frame: pd.DataFrame, path: Path, pattern: str) -> list[str]:
    """The twelve columns of a pattern in order of their numbers."""
    shape = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)") + "$")
    found = {int(match[1]): str(name) for name in frame.columns if (match := shape.match(str(name)))}
    if len(found) != 12:
        raise DataError(f"{path}: {len(found)} columns are named like {pattern!r}; twelve months are needed")
    return [found[number] for number in sorted(found)]


def _first_month(frame: pd.DataFrame, path: Path, name: str) -> NDArray[np.int64]:
    """First month of each row of a wide table, 0 for January."""
    import pandas as pd

    _require(frame, path, [name])
    column = frame[name]
    numbers = pd.api.types.is_numeric_dtype(column)
    stated = column if numbers else pd.to_datetime(column, errors="coerce").dt.month
    month = np.asarray(stated.to_numpy(dtype=float, na_value=np.nan), dtype=np.float64)
    wrong = ~((month >= 1) & (month <= 12))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{path}: row {row}: {name} is {str(column.iloc[row])!r}; give a date or a month from 1 to 12")
    return np.asarray(month.astype(np.int64) - 1)


def _places(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = []
    for names in (("longitude", "lon"), ("latitude", "lat")):
        name = next((name for name in names if name in frame), None)
        nothing = np.full(len(frame), np.nan)
        found.append(nothing if name is None else frame[name].to_numpy(dtype=float, na_value=np.nan))
    return found[0], found[1]


def _number(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values == MISSING_DN, np.nan, values)
