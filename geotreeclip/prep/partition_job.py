"""Occurrences to a partition on disk (`data_prep/partition.py`).

The table is read twice in batches: once for what the rules look at (about 35 bytes a sample), once to write the sets.
Texts are never held whole. The output folder appears when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import sync_directory
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.metrics import RARITY_GROUPS
from geotreeclip.prep.partition import (
    NO_SPECIES,
    NO_YEAR,
    PUBLISHED_SETS,
    Assignment,
    EvaluationSet,
    PartitionConfig,
    Records,
    assign,
    priorities,
)
from geotreeclip.prep.partition_report import markdown, summary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["main", "partition_occurrences", "read_records"]

BATCH = 200_000

COLUMNS = {
    "sample_id": "sample_id",
    "country_code": "country",
    "level0": "leaf_type",
    "level1_family": "family",
    "level2_genus": "genus",
    "level3_species": "species",
    "location": "location",
    "source": "source",
    "species_key": "taxon_key",
    "year": "year",
    "longitude": "longitude",
    "latitude": "latitude",
}
"""Columns of the published tables in their order, and our names; `Category` follows in evaluation tables."""

_NEEDED = ("sample_id", "species", "longitude", "latitude")


def batches(path: Path, rows: int = BATCH) -> Iterator[pd.DataFrame]:
    """A table of occurrences in batches, under our column names, unknown columns left out.

    Raises:
        DataError: The file is absent, no table, or lacks a column that a partition needs.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such file of occurrences")
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                names = _chosen(file.schema_arrow.names, path)
                for batch in file.iter_batches(rows, columns=list(names)):
                    yield batch.to_pandas().rename(columns=names)
        else:
            # As text and without guesses at missing values: NA is the country code of Namibia.
            with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=rows) as chunks:
                for frame in chunks:
                    names = _chosen(list(frame.columns), path)
                    yield frame[list(names)].rename(columns=names)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table of occurrences: {error}") from error


def read_records(path: Path, seed: int, rows: int = BATCH) -> Records:
    """What the rules look at, of a Parquet or CSV table with our columns or the published ones.

    Raises:
        DataError: The table cannot be read, is empty, repeats a sample id, or holds a value that is no number.
    """
    import pandas as pd

    number: dict[str, int] = {}
    genus_of: dict[str, str] = {}
    parts: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("identity", "species", "longitude", "latitude", "year")
    }
    start = 0
    for frame in batches(path, rows):
        species = _text(frame, "species")
        codes, names = pd.factorize(species)
        for name in names:
            number.setdefault(name, len(number))
        genus = _text(frame, "genus")
        stated = genus != ""
        first_genus = pd.Series(genus[stated]).groupby(species[stated]).min()  # the same whatever the order of rows
        for name, first in first_genus.items():
            genus_of[str(name)] = min(genus_of.get(str(name), first), first)
        parts["species"].append(np.array([number[name] for name in names], dtype=np.int32)[codes])
        ids = _text(frame, "sample_id")
        if (ids == "").any():
            raise DataError(f"{path}: row {start + int(np.argmax(ids == ''))}: has no sample id; give each sample one")
        parts["identity"].append(priorities(ids, seed, "sample"))
        for name in ("longitude", "latitude"):
            parts[name].append(_numbers(frame, name, start, path))
        years = _numbers(frame, "year", start, path) if "year" in frame else np.full(len(frame), np.nan)
        parts["year"].append(
            np.where(np.isnan(years), NO_YEAR, np.clip(np.nan_to_num(years), -9999, 9999)).astype(np.int16)
        )
        start += len(frame)
    if start == 0:
        raise DataError(f"{path}: has a header and no rows")
    whole = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    species_names = list(number)
    if "" in number:  # unknown is no species: its number goes, and the higher ones move down
        gone = number[""]
        codes = whole["species"]
        whole["species"] = np.where(codes == gone, NO_SPECIES, codes - (codes > gone)).astype(np.int32)
        species_names.remove("")
    _check_ids(path, whole["identity"], rows)
    return Records(**whole, species_names=species_names, genus_names=[genus_of.get(name, "") for name in species_names])


def partition_occurrences(
    occurrences: str | Path,
    out: str | Path,
    config: PartitionConfig,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Divide a table of occurrences and write ``partition.parquet``, a CSV a held-out set, and the report.

    Args:
        occurrences: Clean occurrences (Parquet), or a table in the published layout (CSV).
        out: Folder to write; it appears when it is complete.
        config: The options.
        overwrite: Replace the folder where it is a partition.
        progress: Show how far writing is.

    Returns:
        The report, as `report.json` holds it.

    Raises:
        ConfigError: Options and records do not go together.
        DataError: The table cannot be used, or the folder cannot be written.
    """
    path, out = Path(occurrences), Path(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: is there already; give another folder, or --overwrite to replace it")
    if out.exists() and not (out / "partition.parquet").is_file():
        raise ConfigError(f"{out}: is not a partition and is not replaced; give another folder")
    records = read_records(path, config.seed)
    assignment = assign(records, config)
    report = summary(records, assignment, config, path.name)
    with _aside(out) as folder:
        _write_sets(path, folder, records, assignment, config, progress)
        (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    return report


def _write_sets(
    path: Path, folder: Path, records: Records, assignment: Assignment, config: PartitionConfig, progress: bool
) -> None:
    """Writes ``partition.parquet`` (sample_id, set, also) and the CSV tables, reading the occurrences again."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tqdm import tqdm

    sets = np.asarray(assignment.sets, dtype=object)
    wanted, also_of = np.unique(assignment.also, return_inverse=True)
    also_of = also_of.reshape(-1)
    also_names = [",".join(name for bit, name in enumerate(sets) if int(mask) >> bit & 1) for mask in wanted]
    labels = np.asarray([*(name.capitalize() for name in RARITY_GROUPS), ""], dtype=object)
    category = np.append(assignment.rarity, len(RARITY_GROUPS))
    layout = pa.schema([(name, pa.string()) for name in ("sample_id", "set", "also")])
    for name in config.tests:  # header first: a set without samples is a table without rows
        (folder / f"{name}.csv").write_text(",".join([*COLUMNS, "Category"]) + "\n", encoding="utf-8")
    start = 0
    bar = tqdm(total=len(records), desc="sets", unit=" samples", disable=not progress)
    with bar, pq.ParquetWriter(folder / "partition.parquet", layout) as writer:
        for frame in batches(path):
            rows = slice(start, start + len(frame))
            start += len(frame)
            if start > len(records):
                break
            code = assignment.code[rows]
            columns = [
                pa.array(_text(frame, "sample_id"), pa.string()),
                pa.array(sets, pa.string()).take(pa.array(code)),
                pa.array(also_names, pa.string()).take(pa.array(also_of[rows])),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=layout))
            for name in config.tests:
                member = np.flatnonzero(code == assignment.sets.index(name))
                if len(member):
                    table = pd.DataFrame({theirs: _cells(frame.iloc[member], ours) for theirs, ours in COLUMNS.items()})
                    table["Category"] = labels[category[records.species[rows][member]]]
                    table.to_csv(folder / f"{name}.csv", mode="a", header=False, index=False, lineterminator="\n")
            bar.update(len(frame))
    if start != len(records):
        raise DataError(f"{path}: changed while it was read ({len(records)} rows, then {start}); run this again")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out` that takes its place when all is written."""
    partial, old = out.with_name(f".partial-{out.name}"), out.with_name(f".old-{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if out.exists():
            out.replace(old)
        partial.replace(out)
        sync_directory(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error


def _chosen(found: Sequence[str], path: Path) -> dict[str, str]:
    """Columns of a file that are of use, and our names for them; our own name wins where both are there."""
    names = {column: COLUMNS.get(column, column) for column in found if column in COLUMNS or column in COLUMNS.values()}
    names = {column: ours for column, ours in names.items() if column == ours or ours not in found}
    missing = [ours for ours in _NEEDED if ours not in names.values()]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)} (found: {', '.join(map(str, found))})")
    return names


def _text(frame: pd.DataFrame, name: str) -> NDArray[np.object_]:
    if name not in frame:
        return np.full(len(frame), "", dtype=object)
    return frame[name].astype(object).where(frame[name].notna(), "").astype(str).str.strip().to_numpy(dtype=object)


def _numbers(frame: pd.DataFrame, name: str, start: int, path: Path) -> NDArray[np.float64]:
    """A column of numbers; empty cells are missing."""
    import pandas as pd

    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = np.flatnonzero(np.isnan(values) & (_text(frame, name) != ""))
    if len(wrong):
        seen = frame[name].iloc[int(wrong[0])]
        raise DataError(f"{path}: row {start + int(wrong[0])}: {name} is {seen!r}, which is no number")
    return values


def _cells(frame: pd.DataFrame, name: str) -> Any:
    """Cells of a table in the published layout: whole numbers stay whole, missing ones are empty."""
    if name not in frame:
        return ""
    column = frame[name]
    if name in ("taxon_key", "year") and column.dtype.kind == "f":  # whole numbers, real ones only for want of missing
        column = column.astype("Int64")
    return column.to_numpy(dtype=object, na_value="")


def _check_ids(path: Path, identity: NDArray[np.uint64], rows: int) -> None:
    """Refuses a table whose sample ids are not one to a row (equal ids have equal hashes)."""
    order = np.argsort(identity, kind="stable")
    same = identity[order[1:]] == identity[order[:-1]]
    if not same.any():
        return
    repeated = int(order[1:][same].min())
    start = 0
    for frame in batches(path, rows):
        if repeated < start + len(frame):
            seen = _text(frame, "sample_id")[repeated - start]
            raise DataError(
                f"{path}: row {repeated}: sample id {seen!r} stands in an earlier row, too ({int(same.sum())} repeats "
                "in all); give each sample an id of its own"
            )
        start += len(frame)


def _evaluation_set(text: str) -> EvaluationSet:
    """Reads NAME=SPECIES:RARE,COMMON,FREQUENT."""
    try:
        name, numbers = text.split("=")
        species, samples = numbers.split(":")
        rare, common, frequent = (int(part) for part in samples.split(","))
        return EvaluationSet(name, int(species), (rare, common, frequent))
    except ValueError:
        raise ConfigError(
            f"evaluation set {text!r}: write NAME=SPECIES:RARE,COMMON,FREQUENT, such as eval-90=30:40,110,181"
        ) from None


def _parser() -> argparse.ArgumentParser:
    usual = PartitionConfig()
    published = " ".join(f"{each.name}={each.species}:{','.join(map(str, each.samples))}" for each in PUBLISHED_SETS)
    parser = argparse.ArgumentParser(
        prog="data_prep/partition.py", description="Divide occurrences into pretraining and held-out sets."
    )
    add = parser.add_argument
    add(
        "--occurrences",
        type=Path,
        required=True,
        metavar="FILE",
        help="occurrences.parquet, or a CSV table as published",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--overwrite", action="store_true", help="replace an earlier partition")
    add("--seed", type=int, default=usual.seed, help="of every draw (%(default)s)")
    group = parser.add_argument_group("evaluation sets by the published recipe")
    group.add_argument(
        "--evaluation", nargs="*", metavar="SET", help=f"NAME=SPECIES:RARE,COMMON,FREQUENT ({published}); none if empty"
    )
    group.add_argument("--keep", type=int, default=usual.keep, help="records each species keeps to train (%(default)s)")
    group = parser.add_argument_group("places")
    group.add_argument(
        "--place-km",
        type=float,
        default=usual.place_km,
        help="no pretraining so close to a held-out sample (%(default)g)",
    )
    group.add_argument(
        "--allow-shared-places", nargs="+", default=[], metavar="SET", help="held-out sets whose places may train, too"
    )
    group = parser.add_argument_group("blocks of the Earth never seen")
    group.add_argument("--spatial-share", type=float, default=usual.spatial_share, help="of the records (%(default)g)")
    group.add_argument("--block-km", type=float, default=usual.block_km, help="edge of a block (%(default)g)")
    group.add_argument("--buffer-km", type=float, default=usual.buffer_km, help="kept clear around them (%(default)g)")
    group = parser.add_argument_group("species never seen")
    group.add_argument(
        "--unseen-share",
        type=float,
        default=None,
        help=f"of each genus's species ({usual.unseen_share:g}; 0 with a list)",
    )
    group.add_argument("--unseen-species", nargs="+", default=[], metavar="NAME", help="these species")
    group.add_argument(
        "--unseen-min-records", type=int, default=usual.unseen_min_records, help="of a species drawn (%(default)s)"
    )
    group = parser.add_argument_group("years never seen")
    group.add_argument("--unseen-from", type=int, default=None, metavar="YEAR", help="this year and later")
    group.add_argument("--unseen-years", type=int, nargs="+", default=[], metavar="YEAR", help="these years")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `data_prep/partition.py`."""
    args = vars(_parser().parse_args(argv))
    occurrences, out, overwrite = (args.pop(name) for name in ("occurrences", "out", "overwrite"))
    stated = args.pop("evaluation")
    if args["unseen_share"] is None:
        args["unseen_share"] = 0.0 if args["unseen_species"] else PartitionConfig().unseen_share
    options: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in args.items()}
    config = PartitionConfig(
        evaluation=PUBLISHED_SETS if stated is None else tuple(_evaluation_set(text) for text in stated),
        **options,
    )
    print(f"dividing {occurrences} into {', '.join(config.sets)} -> {out}")
    report = partition_occurrences(occurrences, out, config, overwrite=overwrite, progress=True)
    for row in report["sets"]:
        print(f"{row['set']:<16}{row['samples']:>12,} samples {row['species']:>8,} species")
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"wrote {out / 'partition.parquet'}, a table a held-out set, and the report {out / 'report.md'}")
    return 0
