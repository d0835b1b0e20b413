"""Locations as a packed set of four steps, with weights by sample id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.data.writer import PackedWriter
from geotreeclip.prep.phenology import SEASONS, Cycles
from geotreeclip.prep.world_sampling.grid import Locations, on_land
from geotreeclip.prep.world_sampling.picking import Picked
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = ["UNLABELLED", "pack_world", "sampling_weights"]

UNLABELLED = Taxon("unlabelled")
"""The taxon of samples that nobody looked at."""

_BARE_NDVI = 0.1


def pack_world(
    parts: Iterable[tuple[Locations, Cycles, Picked]],
    out: Path,
    *,
    mountains: Path | None = None,
    source: str = "",
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write parts as shards, with `weights.parquet`, `phenology.parquet` and `refused.parquet` beside them.

    Args:
        parts: Locations, their cycles, and what was found there.
        out: Folder to write.
        mountains: Raster in degrees with data in mountains alone.
        source: Where the imagery comes from, in words.
        overwrite: Whether a finished set there may be replaced.

    Returns:
        Samples written, and locations left out.
    """
    import pandas as pd

    weights, cycles_kept, refused = [], [], []
    with PackedWriter(
        out, Taxonomy([UNLABELLED]), steps=len(SEASONS), has_days=True, source=source, overwrite=overwrite
    ) as writer:
        for places, cycles, picked in parts:
            kept = np.flatnonzero(picked.reason == "")
            lost = np.flatnonzero(picked.reason != "")
            here = {"longitude": places.longitude, "latitude": places.latitude}
            refused.append(pd.DataFrame({"sample_id": places.sample_id, **here, "reason": picked.reason}).iloc[lost])
            if not len(kept):
                continue
            environment = np.full((len(kept), len(VARIABLES)), np.nan, np.float32)
            for name, values in here.items():
                environment[:, VARIABLE_INDEX[name]] = values[kept]
            columns: dict[str, object] = {"source": ["world"] * len(kept)}
            for number, season in enumerate(SEASONS):
                columns[f"date_{season}"] = picked.date[kept, number].astype(str)
                columns[f"scene_{season}"] = picked.scene[kept, number].astype(str)
                columns[f"cloud_{season}"] = picked.cloud[kept, number]
            ids = places.sample_id[kept].astype(str).tolist()
            writer.add(
                picked.images[kept], environment, np.zeros(len(kept), np.int64), ids, pd.DataFrame(columns),
                picked.days[kept],
            )  # fmt: skip
            high = None if mountains is None else on_land(mountains, places.longitude[kept], places.latitude[kept])
            weights.append(pd.DataFrame({"sample_id": ids, "weight": sampling_weights(picked.images[kept], high)}))
            frame = cycles.frame().iloc[kept].reset_index(drop=True)
            frame.insert(0, "sample_id", ids)
            cycles_kept.append(frame)
    for name, frames in (("weights", weights), ("phenology", cycles_kept), ("refused", refused)):
        table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"sample_id": []})
        write_atomically(out / f"{name}.parquet", lambda path, table=table: table.to_parquet(path, index=False))  # type: ignore[misc]
    return sum(len(frame) for frame in weights), sum(len(frame) for frame in refused)


def sampling_weights(images: NDArray[np.uint16], mountains: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """How often to draw samples: a quarter where it is bare in all seasons, twice in mountains (SSL4Eco), [N].

    Args:
        images: uint16 [N, S, C, H, W]; bare is a mean NDVI below 0.1 in every season that was seen.
        mountains: bool [N].
    """
    red, nir = (images[:, :, BANDS.index(name)].astype(np.float64) for name in ("B4", "B8"))
    known = (images[:, :, BANDS.index("B4")] != MISSING_DN) & (images[:, :, BANDS.index("B8")] != MISSING_DN)
    ndvi = np.where(known, (nir - red) / np.maximum(nir + red, 1), 0.0)
    count = known.sum(axis=(2, 3))
    mean = ndvi.sum(axis=(2, 3)) / np.maximum(count, 1)
    bare = ((mean < _BARE_NDVI) | (count == 0)).all(axis=1) & (count > 0).any(axis=1)
    weight = np.where(bare, 0.25, 1.0)
    return weight if mountains is None else weight * np.where(mountains, 2.0, 1.0)
