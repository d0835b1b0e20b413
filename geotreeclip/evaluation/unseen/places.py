"""Places with a species and a climate, from tables of records or from a packed set, and which species are held out.

Shape letters: N samples, V variables, S species.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.splits import assign_folds, spatial_blocks
from geotreeclip.schema import BANDS, PATCH, PUBLISHED_RANK_FIELDS, RANKS, VARIABLE_INDEX, VARIABLE_NAMES
from geotreeclip.schema import worldclim1_to_2 as to_version_2
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.data.statistics import Statistics
    from geotreeclip.observations import ObservationBatch

__all__ = ["Held", "Places", "hold_out", "places_of_packed", "places_of_tables", "read_table"]

_BINOMIAL = re.compile(r"[A-Z][\w-]+ [a-z][\w-]+")
_VARIABLE = re.compile(r"bio0?(\d{1,2})")


@dataclass(frozen=True, eq=False)
class Places:
    """Samples to learn from and to ask about.

    Attributes:
        taxonomy: S species.
        taxon: int64 [N], rows of it.
        environment: [N, 27] in schema units, NaN where missing.
        sample_id: [N] text, unique.
        packed: Where the images are, and the row of each sample in it; None without.
        rows: int64 [N], or None.
        notes: What was left out.
    """

    taxonomy: Taxonomy
    taxon: NDArray[np.int64]
    environment: NDArray[np.floating[Any]]
    sample_id: NDArray[np.str_]
    packed: PackedDataset | None = None
    rows: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.taxon)

    def block(self, size_km: float) -> NDArray[np.int64]:
        """Spatial block of each sample, [N]."""
        longitude, latitude = self.environment[:, 0], self.environment[:, 1]
        return spatial_blocks(longitude, latitude, size_km)

    def batch(self, index: NDArray[np.int64]) -> ObservationBatch:
        """Observations of some samples; images stay with the packed set that has them."""
        from geotreeclip.data.packed import PackedBatch
        from geotreeclip.observations import from_packed

        if self.packed is not None and self.rows is not None:
            return from_packed(self.packed.read(self.rows[index]))
        images = np.zeros((len(index), 0, len(BANDS), PATCH, PATCH), np.uint16)
        environment = self.environment[index].astype(np.float32)
        return from_packed(PackedBatch(images, environment, self.taxon[index], index, None))

    def statistics(self, index: NDArray[np.int64]) -> Statistics:
        """Means and deviations of some samples, for the model's standardisation."""
        from geotreeclip.data.statistics import Statistics, compute_statistics

        if self.packed is not None and self.rows is not None:
            return compute_statistics(self.packed, self.rows[index])
        return Statistics.empty().updated(None, self.environment[index].astype(np.float32))

    def thinned(self, most: int, seed: int) -> Places:
        """At most so many samples of each species, drawn by seed."""
        order = np.random.default_rng([seed, 0x7E1]).permutation(len(self))
        order = order[np.argsort(self.taxon[order], kind="stable")]
        within = np.arange(len(order)) - np.searchsorted(self.taxon[order], self.taxon[order])
        return self._take(np.sort(order[within < most]))

    def _take(self, index: NDArray[np.int64]) -> Places:
        used, taxon = np.unique(self.taxon[index], return_inverse=True)
        return replace(
            self,
            taxonomy=self.taxonomy.take(used.tolist()),
            taxon=taxon.reshape(-1).astype(np.int64),
            environment=self.environment[index],
            sample_id=self.sample_id[index],
            rows=None if self.rows is None else self.rows[index],
        )


def places_of_packed(dataset: PackedDataset) -> Places:
    """The samples of a packed set that have coordinates and a species name."""
    from geotreeclip.evaluation.baselines.features import read_environment

    environment = read_environment(dataset)
    named = np.array([bool(taxon.species and taxon.genus) for taxon in dataset.taxonomy])
    known = np.isfinite(environment[:, :2]).all(axis=1) & named[dataset.taxa]
    ids = np.asarray(dataset.samples()["sample_id"].astype(str).tolist(), dtype=str)
    everything = np.arange(len(dataset))
    notes = (f"{int((~known).sum())} samples without coordinates or species name left out",) if not known.all() else ()
    places = Places(dataset.taxonomy, dataset.taxa, environment, ids, dataset, everything, notes)
    return places._take(everything[known])


def places_of_tables(
    tables: Sequence[Path], rasters: Sequence[str | Path] = (), *, taxonomy: Path | None = None, worldclim: str = "2.1"
) -> Places:
    """Records of one or several tables, with climate off rasters or from the tables' own columns.

    Args:
        tables: CSV or Parquet with longitude, latitude and a species column, and genus, family and leaf type where they
            have them. Records without a binomial are left out and counted.
        rasters: Folders or files of variables; every table is read off the same ones, so that no column can tell which
            table a record is from. Without, the variables (bio1 ... bio19, elevation, slope) that all tables have.
        taxonomy: Table with genus and family, for tables that state none.
        worldclim: Version of the tables' own variables, "1" or "2.1".

    Raises:
        DataError: A table cannot be read or has no species, or nothing is left.
        ConfigError: Neither rasters nor variables in common.
    """
    import pandas as pd

    families = _families(taxonomy) if taxonomy else {}
    frames, notes = [], []
    for path in tables:
        frame, said = read_table(path, families)
        frames.append(frame)
        notes += said
    whole = pd.concat(frames, ignore_index=True)
    # Only ranks that every record states: else their mere presence would tell the table, and so the genus
    stated = [rank for rank in RANKS if (whole[rank] != "").all()]
    notes.append(f"words: {' / '.join(stated)}")
    parts = [Taxon(**dict(zip(stated, row, strict=True))) for row in whole[stated].itertuples(index=False, name=None)]
    table = Taxonomy(dict.fromkeys(parts))
    taxon = np.array([table.index_of(part) for part in parts], dtype=np.int64)
    lon, lat = (whole[name].to_numpy(dtype=np.float64) for name in ("longitude", "latitude"))
    if rasters:
        environment, said_of = _sampled(lon, lat, rasters)
    else:
        environment, said_of = _own(frames, tables, worldclim)
    environment[:, 0], environment[:, 1] = lon, lat
    notes.append(said_of)
    known = np.isfinite(environment[:, 2:]).any(axis=1)
    if not known.all():
        notes.append(f"{int((~known).sum())} records without any variable left out")
    places = Places(table, taxon, environment, np.asarray(whole["sample_id"].tolist(), dtype=str), notes=tuple(notes))
    return places._take(np.flatnonzero(known))


def read_table(path: Path, families: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """Records of one table: sample_id, longitude, latitude, the ranks ("" where not stated) and its other columns."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file; give a CSV or Parquet table of records")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    frame = frame.rename(columns=PUBLISHED_RANK_FIELDS)
    absent = {"species", "longitude", "latitude"} - set(frame.columns)
    if absent:
        raise DataError(f"{path}: lacks {', '.join(sorted(absent))}; it has {', '.join(map(str, frame.columns))}")
    size = len(frame)
    frame["species"] = frame["species"].fillna("").astype(str).str.strip()
    binomial = frame["species"].str.fullmatch(_BINOMIAL.pattern)
    placed = np.isfinite(frame[["longitude", "latitude"]].to_numpy(dtype=np.float64)).all(axis=1)
    frame = frame[binomial & placed].reset_index()
    notes = [f"{path.name}: {size - len(frame)} of {size} records without binomial or place left out"]
    if not len(frame):
        raise DataError(f"{path}: no record has a binomial and a place; nothing to learn from")
    frame["genus"] = frame["species"].str.split().str[0]
    for rank in RANKS:
        frame[rank] = frame[rank].fillna("").astype(str) if rank in frame.columns else ""
    frame["family"] = frame["family"].where(
        frame["family"] != "", [families.get(genus, "") for genus in frame["genus"]]
    )
    frame["sample_id"] = path.stem + "-" + frame["index"].astype(str)
    return frame, notes


def _families(path: Path) -> dict[str, str]:
    import pandas as pd

    frame = pd.read_csv(path)
    if not {"genus", "family"} <= set(frame.columns):
        raise DataError(f"{path}: a taxonomy needs the columns genus and family; it has {', '.join(frame.columns)}")
    frame = frame.dropna(subset=["genus", "family"])
    return dict(zip(frame["genus"].astype(str), frame["family"].astype(str), strict=True))


def _sampled(
    lon: NDArray[np.float64], lat: NDArray[np.float64], rasters: Sequence[str | Path]
) -> tuple[NDArray[np.float64], str]:
    from geotreeclip.prep.environment import Options, sample_environment
    from geotreeclip.prep.raster_files import find_rasters

    found = sample_environment(lon, lat, find_rasters(rasters), Options(coast_km=20.0, terrain="off"))
    words = f"{len(found.report.variables)} variables off rasters, WorldClim {found.report.worldclim}"
    return np.asarray(found.values, dtype=np.float64), f"{words}, {found.report.resolution}"


def _own(frames: Sequence[pd.DataFrame], tables: Sequence[Path], worldclim: str) -> tuple[NDArray[np.float64], str]:
    """The variables that all tables have in common."""
    import pandas as pd

    columns: dict[str, list[str]] = {}
    for frame in frames:
        names = {}
        for column in map(str, frame.columns):
            match = _VARIABLE.fullmatch(column)
            name = f"bio{int(match[1]):02d}" if match else column
            if name in VARIABLE_NAMES[2:]:
                names[name] = column
        for name, column in names.items():
            columns.setdefault(name, []).append(column)
    shared = [name for name in VARIABLE_NAMES[2:] if len(columns.get(name, [])) == len(frames)]
    if not shared:
        raise ConfigError(
            f"{', '.join(path.name for path in tables)}: no variable in common (bio1 ... bio19, elevation, ...); "
            "give climate rasters with --rasters DIR"
        )
    values = np.full((sum(map(len, frames)), len(VARIABLE_NAMES)), np.nan)
    for name in shared:
        parts = [frame[column] for frame, column in zip(frames, columns[name], strict=True)]
        values[:, VARIABLE_INDEX[name]] = pd.concat(parts).to_numpy(dtype=np.float64)
    if worldclim == "1":
        values = to_version_2(values).astype(np.float64)
    return values, f"{len(shared)} variables of the tables' own, WorldClim {worldclim} units"


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept from the model.

    Attributes:
        unseen: int64, species that are held out whole; rows of the taxonomy.
        train: int64, samples to learn from.
        seen_test: int64, samples of seen species in blocks that training has not.
        unseen_test: int64, all samples of the unseen species.
    """

    unseen: NDArray[np.int64]
    train: NDArray[np.int64]
    seen_test: NDArray[np.int64]
    unseen_test: NDArray[np.int64]


def hold_out(places: Places, seed: int, *, share: float = 0.2, block_km: float = 100.0) -> Held:
    """Hold out a share of the species of every genus that has several, at least one and never all; by seed.

    Of the seen species a fifth of the blocks is tested. A species that would lose all its samples by that keeps them
    in training.

    Raises:
        DataError: No genus has two species.
    """
    genus = np.array([taxon.genus for taxon in places.taxonomy])
    rng = np.random.default_rng([seed, 0x0E1D])
    chosen = []
    for name in np.unique(genus):
        members = np.flatnonzero(genus == name)
        if len(members) > 1:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            chosen.append(rng.choice(members, count, replace=False))
    if not chosen:
        raise DataError("no genus has two species, so none can be held out with relatives that are seen")
    unseen = np.sort(np.concatenate(chosen))
    is_unseen = np.isin(places.taxon, unseen)
    block = places.block(block_km)
    in_test = ~is_unseen
    if len(np.unique(block)) >= 5:
        in_test &= assign_folds(block, 5, seed) == 0
    else:
        in_test &= False
    learnt = np.unique(places.taxon[~is_unseen & ~in_test])
    in_test &= np.isin(places.taxon, learnt)
    return Held(unseen, np.flatnonzero(~is_unseen & ~in_test), np.flatnonzero(in_test), np.flatnonzero(is_unseen))
