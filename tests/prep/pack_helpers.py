"""Small inputs of the packing job, as the earlier steps write them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyproj import Transformer

from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, VARIABLES

SPECIES = (("Quercus", "robur"), ("Quercus", "petraea"), ("Acer", "rubrum"), ("Pinus", "mugo"))


def occurrences(path: Path, count: int, seed: int = 0) -> pd.DataFrame:
    """Clean occurrences around 15 degrees east, 48 north; the first species is common."""
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(count) < 0.6, 0, rng.integers(0, 4, count))
    frame = pd.DataFrame(
        {
            "sample_id": [f"{900_000_000 + 7 * row}" for row in range(count)],
            "leaf_type": ["Evergreen Needleleaf" if k == 3 else "Deciduous Broadleaf" for k in kind],
            "family": [("Fagaceae", "Fagaceae", "Sapindaceae", "Pinaceae")[k] for k in kind],
            "genus": [SPECIES[k][0] for k in kind],
            "species": [" ".join(SPECIES[k]) for k in kind],
            "taxon_key": pd.array(rng.integers(1, 10**9, count), dtype="Int64"),
            "longitude": 15 + rng.uniform(-2, 2, count),
            "latitude": 48 + rng.uniform(-2, 2, count),
            "year": pd.array(rng.integers(2015, 2025, count), dtype="Int32"),
            "month": pd.array(rng.integers(1, 13, count), dtype="Int8"),
            "day": pd.array([pd.NA] * count, dtype="Int8"),
            "country": rng.choice(["AT", "CZ", ""], count),
            "source": "iNaturalist",
            "uncertainty_m": rng.uniform(1, 900, count).astype(np.float32),
            "precision": rng.choice(["imagery", "environment", "unknown"], count),
        }
    )
    frame.to_parquet(path, index=False, row_group_size=max(1, count // 3))
    return frame


def imagery(
    directory: Path, frame: pd.DataFrame, parts: int = 3, seed: int = 1, shuffled: bool = True
) -> dict[str, np.ndarray]:
    """An imagery store of some samples in an order of its own; returns the pixels by sample id."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame)) if shuffled else np.arange(len(frame))
    images = rng.integers(1, 9000, (len(frame), MONTHS, len(BANDS), PATCH, PATCH)).astype(np.uint16)
    images[rng.random((len(frame), MONTHS)) < 0.3] = MISSING_DN
    images[rng.random(images.shape) < 0.02] = MISSING_DN
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    listed = []
    for number, rows in enumerate(np.array_split(order, parts)):
        folder = directory / "parts" / f"part-{number}"
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images[rows])
        x, y = to_utm.transform(frame["longitude"].to_numpy()[rows], frame["latitude"].to_numpy()[rows])
        snap = [np.floor(np.array(v) / 10) * 10 + 5 for v in (x, y)]
        year = frame["year"].to_numpy(dtype=np.int32)[rows]
        scenes = rng.integers(0, 6, (len(rows), MONTHS))
        pq.write_table(
            pa.table(
                {
                    "sample_id": frame["sample_id"].to_numpy(object)[rows],
                    "epsg": pa.array(np.full(len(rows), 32633), pa.int32()), "x": snap[0], "y": snap[1],
                    "year_used": pa.array(np.maximum(year, 2017), pa.int32()),
                    "year_difference": pa.array(np.maximum(year, 2017) - year, pa.int32()),
                    "scenes": pa.array(scenes.tolist(), pa.list_(pa.int16())),
                    "snow": pa.array(np.zeros_like(scenes).tolist(), pa.list_(pa.float32())),
                    "clipped": pa.array(np.zeros(len(rows)), pa.int32()),
                }
            ),
            folder / "samples.parquet",
        )  # fmt: skip
        listed.append({"key": f"part-{number}", "rows": len(rows)})
    document = {"format": "geotreeclip imagery", "version": 1, "bands": list(BANDS), "steps": MONTHS, "size": PATCH}
    (directory / "imagery.json").write_text(json.dumps({**document, "parts": listed}))
    return {frame["sample_id"].iloc[row]: images[row] for row in range(len(frame))}


def environment(path: Path, frame: pd.DataFrame, seed: int = 2) -> pd.DataFrame:
    """A table of environment of some samples, in an order of its own, plausible, with gaps."""
    rng = np.random.default_rng(seed)
    chosen = frame.sample(frac=1, random_state=seed)
    table = pd.DataFrame({"sample_id": chosen["sample_id"].to_numpy()})
    for variable in VARIABLES:
        values = rng.uniform(variable.low, variable.high, len(chosen)).astype(np.float32)
        table[variable.name] = np.where(rng.random(len(chosen)) < 0.1, np.float32("nan"), values)
    for name in ("longitude", "latitude"):
        table[name] = chosen[name].to_numpy()
    table["coast_km"] = np.where(rng.random(len(chosen)) < 0.05, 2.5, 0).astype(np.float32)
    document = {"complete": True, "report": {"worldclim": "2.1", "resolution": "climate 10 arc-minutes"}}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata({b"geotreeclip": json.dumps(document).encode()}), path)
    return table.set_index("sample_id")
