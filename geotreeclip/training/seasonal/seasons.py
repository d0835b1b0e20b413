"""Seasons of the samples of a set: from fitted cycles, from the calendar, or from the steps themselves.

Shapes: N samples of the set, B samples of a batch, T steps.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phase import counts_from_greenup
from geotreeclip.prep.phenology import DATES, SEASONS, Cycles, calendar_dates, season_weights
from geotreeclip.schema import MONTH_DAYS

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["CALENDAR", "STEPS", "SampleSeasons"]

CALENDAR, STEPS = "calendar", "steps"

_TROPICS = 10.0
"""Degrees from the equator within which the calendar tells no seasons (as in `geotreeclip.prep.phenology`)."""


class SampleSeasons:
    """How much of each step of each sample lies in each season.

    Args:
        dates: float32 [N, 5], dates of the cycle of each sample, NaN where it has none; None where the steps of the set
            are the four seasons.
        seasonal: bool [N], whether the seasons of a place mean anything.
        source: In words.
    """

    def __init__(self, dates: NDArray[np.float32] | None, seasonal: NDArray[np.bool_], source: str) -> None:
        self.dates, self.seasonal, self.source = dates, seasonal, source
        digest = hashlib.sha256(seasonal.tobytes())
        digest.update(b"" if dates is None else dates.tobytes())
        self.digest = digest.hexdigest()[:16]

    @classmethod
    def of(cls, dataset: PackedDataset, phenology: str) -> SampleSeasons:
        """Seasons of a packed set.

        Args:
            dataset: The set.
            phenology: "calendar", "steps", or a table of `data_prep/phenology.py`.

        Raises:
            ConfigError: The set has no imagery, or not four steps where they are to be the seasons.
            DataError: The table cannot be read, or lacks samples of the set.
        """
        if not dataset.has_images:
            raise ConfigError(f"{dataset.directory}: has no imagery, so there are no seasons to learn from")
        if counts_from_greenup(dataset.directory) and phenology != STEPS:
            raise ConfigError(
                f"{dataset.directory}: its days count from greenup, which cycles do not; pretrain on the set that it "
                "was made from (with --model.observation.season phase, days are counted so on the way in)"
            )
        if phenology == STEPS:
            if dataset.steps != len(SEASONS):
                raise ConfigError(
                    f"{dataset.directory}: has {dataset.steps} steps, so they cannot be the four seasons; give "
                    "--phenology calendar, or a table of data_prep/phenology.py"
                )
            return cls(None, np.ones(len(dataset), bool), "the four steps of the data")
        table = dataset.samples()
        if phenology == CALENDAR:
            latitude = table["latitude"].to_numpy(dtype=float, na_value=np.nan)
            dates = calendar_dates(latitude).astype(np.float32)
            return cls(dates, np.abs(np.nan_to_num(latitude)) >= _TROPICS, "the calendar of the hemisphere")
        return cls(*_joined(Path(phenology), table["sample_id"].astype(str).to_numpy()), f"{Path(phenology).name}")

    def weights(self, rows: NDArray[np.int64], days: NDArray[np.float32] | None, steps: int) -> NDArray[np.float64]:
        """Share of each step in each season, [B, T, 4]; 0 where the sample has no cycle.

        Args:
            rows: [B], rows of the set.
            days: [B, T, 2], first and last day of each step; None for calendar months.
            steps: T.
        """
        if self.dates is None:
            return np.broadcast_to(np.eye(steps), (len(rows), steps, steps)).copy()
        cycles = Cycles.empty(len(rows))
        cycles.dates[:] = self.dates[rows]
        share = season_weights(cycles, MONTH_DAYS if days is None else days)
        return np.nan_to_num(share, nan=0.0)


def _joined(path: Path, ids: NDArray[np.object_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Dates [N, 5] of samples by id, and which have seasons [N]."""
    import pandas as pd
    import pyarrow as pa

    if not path.is_file():
        raise DataError(
            f"{path}: no such table of cycles; write one with data_prep/phenology.py, or give --phenology calendar"
        )
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    absent = [name for name in ("sample_id", "source", *DATES) if name not in table]
    if absent:
        raise DataError(f"{path}: lacks the columns {', '.join(absent)}; write it with data_prep/phenology.py")
    names = pd.Index(table["sample_id"].astype(str))
    if names.has_duplicates:
        raise DataError(f"{path}: sample {names[names.duplicated()][0]!r} comes twice; ids must be unique")
    at = names.get_indexer(pd.Index(ids))
    if (at < 0).any():
        raise DataError(
            f"{path}: {int((at < 0).sum())} of {len(ids)} samples of the data are not in it, first "
            f"{ids[int(np.argmax(at < 0))]!r}; fit the cycles of this very set"
        )
    dates = table[list(DATES)].to_numpy(dtype=np.float32)[at]
    aseasonal = table["source"].astype(str).to_numpy()[at] == "aseasonal"
    return dates, ~aseasonal & ~np.isnan(dates).any(axis=1)
