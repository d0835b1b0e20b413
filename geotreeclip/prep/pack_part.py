"""One part of a packing job: some of the joined samples, written as one shard of either format.

N samples of the part, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.licences import RIGHTS
from geotreeclip.data.packed import PackedWriter
from geotreeclip.data.published import PublishedSample, write_published
from geotreeclip.evaluation.metrics import rarity_of_column, rarity_of_counts
from geotreeclip.prep.imagery_store import ImageryStore
from geotreeclip.prep.occurrence_files import Table
from geotreeclip.prep.pack_join import MISSING_INTEGER, Inputs, Join
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ELSEWHERE", "EMPTY_ENVIRONMENT", "EMPTY_IMAGERY", "SHARD", "Part", "pack_part"]

SHARD = "shard-000000.tar"
EMPTY_IMAGERY = "imagery without a clear pixel"
EMPTY_ENVIRONMENT = "environment without a value"
ELSEWHERE = "environment of another place"
IMAGERY_ELSEWHERE = "imagery of another place"

_SPAN = 200_000  # rows of the occurrences read at a time, where few of them are packed
_SAME_PLACE = 1e-3  # degrees; coordinates of the environment are kept as float32
_SAME_PIXELS = 30.0  # metres between a point and the centre of its patch: the pixel that holds it is 10 m wide
_CARRIED = ("year", "country", "source", "month", "day", "uncertainty_m", "precision", "taxon_key", *RIGHTS)
_KINDS = {
    "year": "Int32", "country": "string", "source": "string", "month": "Int8", "day": "Int8",
    "uncertainty_m": "float32", "precision": "string", "taxon_key": "Int64",
}  # fmt: skip
_SCALED = np.array([variable.worldclim1_factor for variable in VARIABLES])


@dataclass(frozen=True)
class Part:
    """What a process needs to pack some samples.

    Attributes:
        inputs: The inputs of the job.
        table: Occurrences, as Parquet.
        join: Folder of the join.
        start: First sample of the part.
        stop: Behind its last.
        published: Whether to write the published format instead of the packed one.
        worldclim1: Whether published temperatures are in tenths of a degree, as in WorldClim 1.
        resolution: Of the environmental rasters, in words.
        source: Where the samples come from, in words.
    """

    inputs: Inputs
    table: str
    join: str
    start: int
    stop: int
    published: bool
    worldclim1: bool
    resolution: str
    source: str


class Rows(NamedTuple):
    """Samples of a part.

    Attributes:
        images: uint16 [N, T, C, H, W], 65535 missing, or None for a job without imagery.
        environment: float64 [N, 27], NaN where missing; coordinates in full precision.
        taxon: Rows of the taxonomy, [N].
        table: sample_id and the columns of samples.parquet.
        reason: Why a sample is left out after all, "" where it is packed, [N].
    """

    images: NDArray[np.uint16] | None
    environment: NDArray[np.float64]
    taxon: NDArray[np.int64]
    table: pd.DataFrame
    reason: NDArray[np.str_]


def pack_part(part: Part, folder: Path) -> dict[str, Any]:
    """Writes the shard of a part and its table of samples; returns the counts."""
    join = Join.open(Path(part.join))
    taxonomy = join.taxonomy()
    rows = _read(part, join)
    kept = np.flatnonzero(rows.reason == "")
    left_out = {
        str(why): int(count) for why, count in zip(*np.unique(rows.reason, return_counts=True), strict=True) if why
    }
    report: dict[str, Any] = {"samples": len(kept), "left_out": left_out}
    lost = np.flatnonzero(rows.reason != "")
    if len(lost):
        _write_left_out(rows, lost, join.array("row")[part.start + lost], folder)
    if not len(kept):
        return report
    table = rows.table.iloc[kept].reset_index(drop=True)
    environment = rows.environment[kept]
    images = rows.images if rows.images is None or len(kept) == len(rows.images) else rows.images[kept]
    if part.published:
        if images is None:
            images = np.full((len(kept), MONTHS, len(BANDS), PATCH, PATCH), MISSING_DN, np.uint16)
        count = write_published(
            folder / SHARD, _published(images, environment, rows.taxon[kept], table, taxonomy, part)
        )
        table.insert(1, "taxon", rows.taxon[kept].astype(np.int32))
        table.to_parquet(folder / "samples.parquet", index=False)
        return {**report, "samples": count}
    with PackedWriter(
        folder, taxonomy, has_images=images is not None, shard_samples=max(1, len(kept)), source=part.source,
        worldclim=join.worldclim or "2.1", resolution=part.resolution,
    ) as writer:  # fmt: skip
        writer.add(images, environment, rows.taxon[kept], table["sample_id"].tolist(), table.drop(columns="sample_id"))
    return report


def _read(part: Part, join: Join) -> Rows:
    """Reads the samples of a part from all inputs."""
    span = slice(part.start, part.stop)
    row = np.asarray(join.array("row")[span])
    table = _occurrences(part.table, row)
    environment = np.full((len(row), len(VARIABLES)), np.nan)
    reason = np.full(len(row), "", dtype="<U40")
    place = np.asarray(join.array("environment_row")[span])
    found = np.flatnonzero(place >= 0)
    if part.inputs.environment:
        values = join.array("environment")
        taken = np.asarray(values[place[found]], dtype=np.float64)
        environment[found] = taken[:, :-1]
        coast = np.zeros(len(row), np.float32)
        coast[found] = taken[:, -1]
        table["coast_km"] = coast
        moved = np.zeros(len(found), dtype=bool)
        for name in ("longitude", "latitude"):
            away = np.abs(taken[:, VARIABLE_INDEX[name]] - table[name].to_numpy(float)[found])
            moved |= ~(np.minimum(away, 360 - away) <= _SAME_PLACE)
        reason[found[moved]] = ELSEWHERE
        if part.inputs.without_environment == "leave-out":
            empty = np.isnan(environment[:, 2:]).all(axis=1)
            reason[empty & (reason == "")] = EMPTY_ENVIRONMENT
    for name in ("longitude", "latitude"):
        environment[:, VARIABLE_INDEX[name]] = table[name].to_numpy(float)
    table["rarity"] = _rarity(table, np.asarray(join.array("rarity")[span]))
    images = _imagery(part, join, table, reason) if part.inputs.imagery else None
    return Rows(images, environment, np.asarray(join.array("taxon")[span]).astype(np.int64), table, reason)


def _occurrences(path: str, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows of the occurrences, ascending, with types that do not depend on which rows they are."""
    import pandas as pd
    import pyarrow as pa

    source = Table(path)
    columns = ["sample_id", "longitude", "latitude", *(n for n in (*_CARRIED, "rarity") if n in source.columns)]
    parts = []
    start = 0
    while start < len(rows):
        stop = int(np.searchsorted(rows, rows[start] + _SPAN))
        first, last = int(rows[start]), int(rows[stop - 1]) + 1
        parts.append(source.read(first, last, columns).take(pa.array(rows[start:stop] - first)))
        start = stop
    table: Any = pa.concat_tables(parts)
    frame = pd.DataFrame({"sample_id": table["sample_id"].cast("string").to_pandas().astype("string")})
    for name in ("longitude", "latitude"):
        frame[name] = table[name].cast("float64").to_numpy()
    for name in columns[3:]:
        values = table[name].to_pandas()
        if _KINDS.get(name, "string") == "string":
            values = values.astype("string")
            frame[name] = values.mask(values == "")
        else:
            frame[name] = pd.to_numeric(values, errors="coerce").astype(_KINDS[name])
    return frame


def _rarity(table: pd.DataFrame, counts: NDArray[np.int64]) -> pd.Series[str]:
    """The rarity that the occurrences state, else that of the number of usable records of the species."""
    import pandas as pd

    counted = np.where(counts > 0, rarity_of_counts(counts), "")
    if "rarity" in table.columns:
        stated = rarity_of_column(table["rarity"].fillna("").to_numpy(object))
        counted = np.where(stated == "", counted, stated)
    values = pd.Series(counted, dtype="string")
    return values.mask(values == "")


def _imagery(part: Part, join: Join, table: pd.DataFrame, reason: NDArray[np.str_]) -> NDArray[np.uint16]:
    """Pixels of the samples, and what is known of them as columns of the table; marks what cannot be used."""
    import pandas as pd

    place = np.asarray(join.array("imagery_row")[part.start : part.stop])
    found = np.flatnonzero(place >= 0)
    images = np.full((len(place), MONTHS, len(BANDS), PATCH, PATCH), MISSING_DN, np.uint16)
    images[found] = ImageryStore(part.inputs.imagery).read(place[found])
    about = np.asarray(join.array("imagery")[place[found]])
    for name in ("year_used", "year_difference"):
        values = np.full(len(place), MISSING_INTEGER, np.int32)
        values[found] = about[name]
        table[name] = pd.array(values, dtype="Int32")
        table.loc[values == MISSING_INTEGER, name] = pd.NA
    scenes = np.full((len(place), MONTHS), -1, np.int16)
    scenes[found] = about["scenes"]
    table["scenes"] = pd.Series([row if row[0] >= 0 else None for row in scenes], dtype=object)
    away = _metres_away(about, table["longitude"].to_numpy(float)[found], table["latitude"].to_numpy(float)[found])
    reason[found[away > _SAME_PIXELS]] = IMAGERY_ELSEWHERE
    if part.inputs.without_imagery == "leave-out":
        empty = (images == MISSING_DN).reshape(len(images), -1).all(axis=1)
        reason[empty & (reason == "")] = EMPTY_IMAGERY
    return images


def _metres_away(about: NDArray[Any], lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres between points and the centres of their patches, 0 where a store does not say, [N]."""
    away = np.zeros(len(about))
    stated = np.isfinite(about["x"]) & np.isfinite(about["y"]) & (about["epsg"] > 0)
    if not stated.any():
        return away
    from pyproj import Transformer

    for epsg in np.unique(about["epsg"][stated]):
        members = np.flatnonzero(stated & (about["epsg"] == epsg))
        x, y = Transformer.from_crs(4326, int(epsg), always_xy=True).transform(lon[members], lat[members])
        away[members] = np.hypot(x - about["x"][members], y - about["y"][members])
    return away


def _published(
    images: NDArray[np.uint16], environment: NDArray[np.float64], taxon: NDArray[np.int64], table: pd.DataFrame,
    taxonomy: Taxonomy, part: Part,
) -> Iterator[PublishedSample]:  # fmt: skip
    """Samples in the published form: float64 tensors with NaN."""
    values = environment * _SCALED if part.worldclim1 else environment
    for number, name in enumerate(table["sample_id"].tolist()):
        pixels = images[number].astype(np.float64)
        pixels[images[number] == MISSING_DN] = np.nan
        yield PublishedSample(
            _key(name, part.start + number), pixels, values[number], taxonomy[int(taxon[number])], name, ""
        )


def _key(name: str, number: int) -> str:
    """The name of a sample's members: its id where that can be a file name without a dot, else a number."""
    plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 80
    return name if plain else f"sample-{number:012d}"


def _write_left_out(rows: Rows, lost: NDArray[np.int64], row: NDArray[np.int64], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pa.array(rows.table["sample_id"].to_numpy(object)[lost], pa.string())
    reasons = pa.array(rows.reason[lost].tolist(), pa.string())
    table = pa.table({"sample_id": ids, "row": pa.array(np.asarray(row), pa.int64()), "reason": reasons})
    pq.write_table(table, folder / "left_out.parquet")
