"""The composites that the imagery job wrote, read by row.

    store = ImageryStore("data/imagery")
    store.sample_ids          # list of str, in row order
    store.table()             # pandas: sample_id, epsg, x, y, year_used, year_difference, scenes, snow, clipped
    store.read(rows)          # uint16 [N, 12, 10, 5, 5], 65535 where missing
    len(store)

Rows are in the order of the parts in `imagery.json`. Memory-mapped: nothing is held but what is asked for.
N rows, T 12 months, C 10 bands in schema order, H W 5 x 5 pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.schema import BANDS, MONTHS, PATCH

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMAT", "VERSION", "ImageryStore"]

FORMAT = "geotreeclip imagery"
VERSION = 1
"""Of `imagery.json`."""

_KEPT_OPEN = 64  # parts


class ImageryStore:
    """Composites on disk.

    Args:
        directory: Folder that holds `imagery.json`.

    Raises:
        DataError: There is none, it is of another format, or its parts are not whole.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        path = self.directory / "imagery.json"
        try:
            self.document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; is the imagery job finished? (the same command again goes on)"
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        if self.document.get("format") != FORMAT or self.document.get("version") != VERSION:
            raise DataError(
                f"{path}: is {self.document.get('format')!r} version {self.document.get('version')!r}, "
                f"{FORMAT!r} version {VERSION} is read"
            )
        if tuple(self.document.get("bands", ())) != BANDS:
            raise DataError(f"{path}: has the bands {self.document.get('bands')}, expected {list(BANDS)}")
        self._keys = [str(part["key"]) for part in self.document["parts"]]
        self._ends = np.cumsum([int(part["rows"]) for part in self.document["parts"]], dtype=np.int64)
        self._open: dict[int, NDArray[np.uint16]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the samples in row order."""
        import pyarrow.parquet as pq

        ids: list[str] = []
        for key in self._keys:
            ids += pq.read_table(self._part(key) / "samples.parquet", columns=["sample_id"])["sample_id"].to_pylist()
        return ids

    def table(self) -> pd.DataFrame:
        """What is known of each sample, in row order."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(self._part(key) / "samples.parquet") for key in self._keys]
        if not tables:
            return pd.DataFrame({"sample_id": []})
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas(types_mapper=_nullable)
        return frame

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Composites of rows, in the order given.

        Args:
            rows: int64 [N], each from 0 to the number of samples - 1.

        Returns:
            uint16 [N, T, C, H, W].

        Raises:
            InputError: A row does not exist.
            DataError: A part is damaged.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise InputError(f"rows from {rows.min()} to {rows.max()} are asked for; there are {len(self)}")
        images = np.empty((len(rows), MONTHS, len(BANDS), PATCH, PATCH), np.uint16)
        part = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(part):
            members = np.flatnonzero(part == number)
            start = int(self._ends[number - 1]) if number else 0
            images[members] = self._images(int(number))[rows[members] - start]
        return images

    def _part(self, key: str) -> Path:
        return self.directory / "parts" / key

    def _images(self, number: int) -> NDArray[np.uint16]:
        if number not in self._open:
            path = self._part(self._keys[number]) / "images.npy"
            rows = int(self.document["parts"][number]["rows"])
            try:
                images = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read: {error}") from error
            if images.shape != (rows, MONTHS, len(BANDS), PATCH, PATCH) or images.dtype != np.uint16:
                raise DataError(
                    f"{path}: holds {images.dtype} {images.shape}, but imagery.json tells of {rows} samples"
                )
            if len(self._open) >= _KEPT_OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = images
        return self._open[number]


def _nullable(kind: Any) -> Any:
    """Integers stay integers where some are missing."""
    import pandas as pd
    import pyarrow as pa

    return {pa.int32(): pd.Int32Dtype()}.get(kind)
