"""A finished set of either format, read in order: what the quality report looks at.

B samples of a batch, T time steps, C bands, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.manifest import MANIFEST
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.published import Refusal, read_published
from geotreeclip.errors import DataError
from geotreeclip.prep.occurrence_files import Table
from geotreeclip.prep.pack import PUBLISHED_INDEX
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, worldclim1_to_2
from geotreeclip.taxonomy import Taxonomy

__all__ = ["FinishedSet"]

_BATCH = 2048


class FinishedSet:
    """A packed set, or a folder of published shards that packing wrote.

    Args:
        directory: The set.

    Raises:
        DataError: It is neither, or not finished.

    Attributes:
        format: ``packed`` or ``published``.
        samples: How many it holds.
        has_images: Whether it has imagery.
        bands: Names of the bands.
        steps: T; 0 without imagery.
        months: Whether the steps are the calendar months.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._packed: PackedDataset | None = None
        if (directory / PUBLISHED_INDEX).exists():
            try:
                self._index = json.loads((directory / PUBLISHED_INDEX).read_text(encoding="utf-8"))
                self.samples = int(self._index["samples"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{directory / PUBLISHED_INDEX}: cannot be read ({error!r})") from error
            self.format, self.bands, self.steps, self.months = "published", list(BANDS), MONTHS, True
            self.has_images = True
            return
        if not (directory / MANIFEST).exists() and (directory / ".pack").is_dir():
            raise DataError(f"{directory}: packing is not finished; the same command again goes on")
        self._packed = PackedDataset(directory)
        manifest = self._packed.manifest
        self.format, self.samples, self.has_images = "packed", len(self._packed), manifest.has_images
        self.bands, self.steps = list(manifest.bands), manifest.steps
        self.months = manifest.has_images and not manifest.has_days and manifest.steps == MONTHS

    def batches(self) -> Iterator[tuple[NDArray[np.uint16] | None, NDArray[np.float32]]]:
        """Images [B, T, C, H, W] and environment [B, 27] in WorldClim 2.1 units, in order."""
        if self._packed is not None:
            for start in range(0, self.samples, _BATCH):
                batch = self._packed.read(np.arange(start, min(start + _BATCH, self.samples)))
                yield batch.images if self.has_images else None, batch.environment
            return
        tenths = str(self._index.get("temperatures", "")).startswith("tenths")
        images, environment = [], []
        for shard in self._index["shards"]:
            for item in read_published(self.directory / Path(str(shard["name"])).name):
                if isinstance(item, Refusal):
                    raise DataError(f"{item}; pack the set again")
                images.append(np.where(np.isnan(item.images), MISSING_DN, item.images).astype(np.uint16))
                environment.append(item.environment)
                if len(images) == 512:
                    yield np.stack(images), _degrees(np.stack(environment), tenths)
                    images, environment = [], []
        if images:
            yield np.stack(images), _degrees(np.stack(environment), tenths)

    def table(self) -> Table:
        """samples.parquet."""
        return Table(self.directory / "samples.parquet")

    def taxonomy(self) -> Taxonomy:
        """The taxa."""
        return Taxonomy.read(self.directory / "taxonomy.parquet")

    def packing(self) -> dict[str, Any] | None:
        """What the packing job reported, without its plan."""
        path = self.directory / "pack_report.json"
        if not path.exists():
            return None
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        document.pop("plan", None)
        return document


def _degrees(environment: NDArray[np.float64], tenths: bool) -> NDArray[np.float32]:
    return worldclim1_to_2(environment) if tenths else environment.astype(np.float32)
