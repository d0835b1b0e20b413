"""Where each label was seen in training, coarsely: is an answer plausible at a place, or far from all that is known?

``ranges.parquet`` of a model directory has a row for each taxon of training: its cells of about 100 km
(`geotreeclip.cells`; never coordinates) and its climate envelope. ``applicability.parquet`` holds the climates that
training covered (`geotreeclip.applicability`).

Shapes: N places, K answers for each, S taxa, V climate variables (19).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.applicability import Applicability, read_applicability, write_applicability
from geotreeclip.cells import cell_centres, cells_of
from geotreeclip.data.described import read_described, write_described
from geotreeclip.errors import DataError, InputError
from geotreeclip.schema import GROUPS, RANKS, VARIABLE_NAMES
from geotreeclip.sphere import EARTH_RADIUS_KM, unit_vectors
from geotreeclip.taxonomy import Taxon, Taxonomy, taxa_of_frame

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["CLIMATE", "FILE", "MILD", "NEAR_KM", "Plausibility", "Ranges", "read_ranges", "write_training_ranges"]

FILE = "ranges.parquet"
VERSION = 1

NEAR_KM = 300.0
"""A place this near to the centre of an occupied cell counts as known ground: about three cells.

Chosen with `MILD` on real occurrences of 90 species (`benchmarks/ranges.py`, docs/experiments.md): of places left out
at random 96 % are in the range of their true label, of places in unseen blocks of 100 km 92 %, against 8 % and 7 % for
other labels and 22 % and 20 % for others of the same genus. Two cells lose 4 % more of the true labels there.
"""

MILD = 0.8
"""Share of the known climate variables that must lie inside: each variable leaves 2 % of a label's samples out."""

CLIMATE: tuple[int, ...] = GROUPS["climate"]
"""Columns of the environment that envelopes are made of, bio01 to bio19."""

_LOW, _HIGH = 0.01, 0.99
_STEP = 0.25  # envelopes are rounded outwards to quarters of the deviation of the training set
_ROWS = 200_000  # samples whose climate is read, at most
_PAIRS = 4_000_000  # distances held at once


class Plausibility(NamedTuple):
    """What is known of labels at places; all [N, K].

    Attributes:
        distance_km: From the place to the nearest cell where the label was seen: 0 within such a cell, else to its
            centre; NaN without coordinates, or for a label that training never saw.
        climate_inside: Share of the known climate variables that lie inside the label's envelope; NaN without any.
        in_range: 1 if the place is near (`NEAR_KM`) and `MILD` of the climate variables are inside; 0 if not; NaN where
            neither is known.
    """

    distance_km: npt.NDArray[np.float32]
    climate_inside: npt.NDArray[np.float32]
    in_range: npt.NDArray[np.float32]


class _Label(NamedTuple):
    cells: npt.NDArray[np.int32]
    points: npt.NDArray[np.float64]  # [M, 3]
    low: npt.NDArray[np.float32]  # [V], NaN where unknown
    high: npt.NDArray[np.float32]


class Ranges:
    """Occupied cells and climate envelope of each taxon.

    Args:
        taxa: The S taxa.
        cells: Sorted cells of each.
        low: [S, V] lower end of the envelopes, NaN where unknown.
        high: [S, V] upper end.
        applicability: What climates training covered, or None.
    """

    def __init__(
        self,
        taxa: Sequence[Taxon],
        cells: Sequence[npt.NDArray[np.int32]],
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
        applicability: Applicability | None = None,
    ) -> None:
        self.taxa, self.cells, self.low, self.high = list(taxa), list(cells), low, high
        self.applicability = applicability
        self._rows: dict[str, dict[str, list[int]]] = {rank: {} for rank in RANKS}
        for row, taxon in enumerate(self.taxa):
            for rank in RANKS:
                if taxon.name(rank):
                    self._rows[rank].setdefault(taxon.name(rank), []).append(row)
        self._kept: dict[Taxon, _Label | None] = {}

    def plausibility(
        self, taxa: Sequence[Taxon], index: npt.NDArray[np.int64], environment: npt.NDArray[np.float32]
    ) -> Plausibility:
        """How well labels fit places.

        Args:
            taxa: Labels.
            index: [N, K] positions in `taxa`.
            environment: [N, 27] in schema order, NaN where missing.
        """
        distance = np.full(index.shape, np.nan, np.float32)
        inside = np.full(index.shape, np.nan, np.float32)
        longitude, latitude = environment[:, 0].astype(np.float64), environment[:, 1].astype(np.float64)
        located = np.isfinite(longitude) & np.isfinite(latitude)
        own, points = cells_of(longitude, latitude), unit_vectors(longitude, latitude)
        climate = environment[:, list(CLIMATE)]
        order = np.argsort(index, axis=None, kind="stable")
        labels, starts = np.unique(index.reshape(-1)[order], return_index=True)
        for label, places in zip(labels, np.split(order, starts[1:]), strict=True):
            known = self._label(taxa[int(label)])
            if known is None:
                continue
            rows, columns = np.unravel_index(places, index.shape)
            here = located[rows]
            if len(known.cells) and here.any():
                distance[rows[here], columns[here]] = _distance(known, own[rows[here]], points[rows[here]])
            values = climate[rows]
            usable = np.isfinite(values) & np.isfinite(known.low)
            with np.errstate(invalid="ignore"):
                within = usable & (values >= known.low) & (values <= known.high)
            counted = usable.sum(axis=1)
            inside[rows, columns] = np.where(counted > 0, within.sum(axis=1) / np.maximum(counted, 1), np.nan)
        near, mild = distance <= NEAR_KM, inside >= MILD
        unknown = np.isnan(distance) & np.isnan(inside)
        in_range = (np.isnan(distance) | near) & (np.isnan(inside) | mild)
        return Plausibility(distance, inside, np.where(unknown, np.nan, in_range).astype(np.float32))

    def known_in(self, west: float, south: float, east: float, north: float) -> list[int]:
        """Rows of the taxa with an occupied cell whose centre lies in a box of degrees; west > east crosses 180.

        Raises:
            InputError: If the corners are no box, or nothing is known there.
        """
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
            raise InputError(f"region {west:g},{south:g},{east:g},{north:g}: give west,south,east,north in degrees")

        def within(cells: npt.NDArray[np.int32]) -> bool:
            longitude, latitude = cell_centres(cells)
            column = (longitude >= west) & (longitude <= east)
            if west > east:
                column = (longitude >= west) | (longitude <= east)
            return bool((column & (latitude >= south) & (latitude <= north)).any())

        rows = [row for row, cells in enumerate(self.cells) if within(cells)]
        if not rows:
            raise InputError(f"region {west:g},{south:g},{east:g},{north:g}: no taxon of the model was seen there")
        return rows

    def _label(self, taxon: Taxon) -> _Label | None:
        """Union over the taxa that bear the label's name at its rank."""
        if taxon not in self._kept:
            rows = self._rows[taxon.rank].get(taxon.name(taxon.rank), [])
            self._kept[taxon] = self._union(rows) if rows else None
        return self._kept[taxon]

    def _union(self, rows: list[int]) -> _Label:
        cells = np.unique(np.concatenate([self.cells[row] for row in rows]))
        ends = [
            np.where(np.isnan(part), other, part)
            for part, other in ((self.low[rows], np.inf), (self.high[rows], -np.inf))
        ]
        low, high = ends[0].min(axis=0), ends[1].max(axis=0)
        unknown = low > high
        low[unknown] = high[unknown] = np.nan
        return _Label(cells.astype(np.int32), unit_vectors(*cell_centres(cells)), low, high)

    def write(self, directory: str | Path) -> Path:
        """Write ``ranges.parquet`` (and ``applicability.parquet``) into a model directory."""
        import pyarrow as pa

        variables = [VARIABLE_NAMES[index] for index in CLIMATE]
        about = {
            "format": "geotreeclip-ranges",
            "version": VERSION,
            "grid": "equal-area 0.9 degrees",
            "climate": variables,
        }
        columns: dict[str, Any] = {rank: [taxon.name(rank) for taxon in self.taxa] for rank in RANKS}
        columns["cells"] = pa.array([cells.tolist() for cells in self.cells], pa.list_(pa.int32()))
        columns["climate_low"] = pa.array(self.low.tolist(), pa.list_(pa.float32()))
        columns["climate_high"] = pa.array(self.high.tolist(), pa.list_(pa.float32()))
        path = write_described(Path(directory) / FILE, columns, about)
        if self.applicability is not None:
            write_applicability(directory, self.applicability)
        return path


def read_ranges(directory: str | Path) -> Ranges | None:
    """Read the ranges of a model directory, or None where it has none.

    Raises:
        DataError: If the file is damaged or of another version.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    mend = "remove it, and answers come without in_range; training writes it anew"
    table, about = read_described(path, mend)
    if about.get("version") != VERSION or about.get("climate") != [VARIABLE_NAMES[index] for index in CLIMATE]:
        raise DataError(f"{path}: no ranges of version {VERSION}; {mend}")
    try:
        taxa = taxa_of_frame(table.select(list(RANKS)).to_pandas(), str(path))
        cells = [np.asarray(item, np.int32) for item in table["cells"].to_pylist()]
        shape = (len(taxa), len(CLIMATE))
        low, high = (
            np.array(table[name].to_pylist(), dtype=np.float32).reshape(shape)
            for name in ("climate_low", "climate_high")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as ranges ({error}); {mend}") from error
    return Ranges(taxa, cells, low, high, read_applicability(directory))


def write_training_ranges(directory: str | Path, dataset: PackedDataset, rows: npt.NDArray[np.int64]) -> Path | None:
    """Write the ranges of training samples into a model directory; nothing where the set has no coordinates.

    Envelopes run from the 1st to the 99th percentile of a label's climate, widened by d / sqrt(n), where d is the
    deviation over the training set and n the number of samples (few samples say little of the ends), then outwards to
    the next quarter of d, so that no single record can be read off them.

    Args:
        directory: The model directory.
        dataset: The packed set.
        rows: Training samples.
    """
    table = dataset.samples()
    if not {"longitude", "latitude"} <= set(table.columns):
        return None
    places = table[["longitude", "latitude"]].to_numpy(dtype=np.float64, na_value=np.nan)[rows]
    ranges = training_ranges(
        dataset.taxonomy, dataset.taxa[rows], places, lambda chosen: _environment(dataset, rows[chosen])
    )
    return ranges.write(directory)


def training_ranges(
    taxonomy: Taxonomy, taxon: npt.NDArray[np.int64], places: npt.NDArray[np.float64], read: Any
) -> Ranges:
    """Ranges of samples: taxon [N], places [N, 2] (longitude, latitude), `read(rows)` their environment [n, 27]."""
    cells = cells_of(places[:, 0], places[:, 1])
    kept = cells >= 0
    pairs = np.unique(np.stack([taxon[kept], cells[kept]], axis=1), axis=0)
    bounds = np.searchsorted(pairs[:, 0], np.arange(len(taxonomy) + 1))
    occupied = [pairs[low:high, 1].astype(np.int32) for low, high in pairwise(bounds)]

    chosen = _balanced(taxon, _ROWS)
    climate = read(chosen)[:, list(CLIMATE)].astype(np.float64)
    shape = (len(taxonomy), len(CLIMATE))
    low, high = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    if not np.isfinite(climate).any():
        return Ranges(list(taxonomy), occupied, low, high)
    deviation = np.nanstd(climate, axis=0)
    step = np.where(deviation > 0, _STEP * deviation, np.nan)
    of_label = np.argsort(taxon[chosen], kind="stable")
    edges = np.searchsorted(taxon[chosen][of_label], np.arange(len(taxonomy) + 1))
    for label, (start, stop) in enumerate(pairwise(edges)):
        values = climate[of_label[start:stop]]
        known = np.isfinite(values).sum(axis=0)
        if not known.any():
            continue
        columns = known > 0
        ends = np.nanquantile(values[:, columns], [_LOW, _HIGH], axis=0)
        margin = (deviation / np.sqrt(np.maximum(known, 1)))[columns]
        low[label, columns] = np.floor((ends[0] - margin) / step[columns]) * step[columns]
        high[label, columns] = np.ceil((ends[1] + margin) / step[columns]) * step[columns]
    return Ranges(list(taxonomy), occupied, low, high, Applicability.fit(climate, cells[chosen]))


def _balanced(taxon: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` samples, the rare labels whole: the same cap for every label."""
    if len(taxon) <= limit:
        return np.arange(len(taxon))
    mixed = np.random.default_rng(0).permutation(len(taxon))
    order = mixed[np.argsort(taxon[mixed], kind="stable")]
    labels = taxon[order]
    place = np.arange(len(order)) - np.searchsorted(labels, labels)  # how many of its label come before
    counts = np.bincount(taxon)
    low, high = 1, int(counts.max())
    while low < high:  # the largest cap that keeps to the limit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= limit else (low, middle - 1)
    cap = low
    return np.sort(order[place < cap])


def _environment(dataset: PackedDataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    parts = [dataset.read(rows[start : start + 2048]).environment for start in range(0, len(rows), 2048)]
    return np.concatenate(parts) if parts else np.empty((0, len(VARIABLE_NAMES)), np.float32)


def _distance(label: _Label, own: npt.NDArray[np.int32], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Kilometres from places to the nearest centre of a cell of the label, 0 within one of its cells, [n]."""
    nearest = np.empty(len(points))
    step = max(1, _PAIRS // len(label.points))
    for start in range(0, len(points), step):
        nearest[start : start + step] = (points[start : start + step] @ label.points.T).max(axis=1)
    kilometres = EARTH_RADIUS_KM * np.arccos(np.clip(nearest, -1, 1))
    return np.where(np.isin(own, label.cells), 0, kilometres).astype(np.float32)
