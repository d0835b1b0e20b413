"""Cycles of locations, from a table of cycles at other places or from the calendar; the source is always said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.prep.phenology import DATES, Cycles, Reason, Source, fill_missing

__all__ = ["cycles_at"]


def cycles_at(longitude: NDArray[np.float64], latitude: NDArray[np.float64], table: Path | None) -> Cycles:
    """Cycles of places: of the nearest within 250 km in a table of `data_prep/phenology.py`, else of the calendar.

    Args:
        longitude: [N].
        latitude: [N].
        table: The table; None takes the calendar everywhere.

    Raises:
        DataError: The table cannot be read or lacks a column.
    """
    here = Cycles.empty(len(longitude), Reason.NO_PRODUCT)
    if table is None:
        return fill_missing(here, longitude, latitude)
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(table)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{table}: cannot be read as a table of cycles: {error}") from error
    lacking = [name for name in ("longitude", "latitude", "source", *DATES) if name not in frame]
    if lacking:
        raise DataError(f"{table}: lacks the columns {', '.join(lacking)}; write it with data_prep/phenology.py")
    own = frame["source"].astype(str).isin(["observed", "product"]).to_numpy()
    frame = frame[own & frame[list(DATES)].notna().all(axis=1).to_numpy()]
    known = Cycles.empty(len(frame))
    known.dates[:] = frame[list(DATES)].to_numpy(dtype=np.float64)
    known.source[:] = Source.OBSERVED
    for name in ("amplitude", "quality"):
        if name in frame:
            getattr(known, name)[:] = frame[name].to_numpy(dtype=np.float64)
    filled = fill_missing(
        Cycles.joined([known, here]),
        np.concatenate([frame["longitude"].to_numpy(dtype=float), longitude]),
        np.concatenate([frame["latitude"].to_numpy(dtype=float), latitude]),
    )
    rows = slice(len(frame), None)
    return Cycles(**{name: getattr(filled, name)[rows] for name in Cycles.__dataclass_fields__})
