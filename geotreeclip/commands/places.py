"""Places for the commands: a table, a table with imagery beside it, or a packed set, batch by batch.

N places of a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import DataError, InputError, first_line

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from geotreeclip.inference import Classifier
    from geotreeclip.observations import ObservationBatch

__all__ = ["IDENTIFIERS", "ROWS", "PlaceBatch", "add_arguments", "open_places", "read_table"]

ROWS = 4096
"""Places read and answered at a time; bounds the memory."""

IDENTIFIERS = ("id", "sample_id", "sample")
"""Columns that identifiers are looked for in."""


@dataclass(frozen=True)
class PlaceBatch:
    """Places ready for a classifier.

    Attributes:
        samples: N identifiers.
        longitude: [N] degrees, NaN where unknown.
        latitude: [N].
        build: Makes observations of them; complains about what cannot be.
    """

    samples: Sequence[object]
    longitude: npt.NDArray[np.float64]
    latitude: npt.NDArray[np.float64]
    build: Callable[[Classifier], ObservationBatch]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say where places come from."""
    parser.add_argument(
        "points",
        type=Path,
        help="CSV, TSV or Parquet table, one place a row: longitude and latitude in degrees (WGS 84), environmental "
        "variables under their usual names (elevation, bio01 or bio_1, ...), and an identifier if there is one; or a "
        "packed set",
    )
    parser.add_argument(
        "--imagery", type=Path, metavar="DIR",
        help="composites of the places by sample_id, as data_prep/sentinel2.py writes them",
    )  # fmt: skip
    parser.add_argument(
        "--source", metavar="stac:URL",
        help="fetch the imagery of the places from this STAC API or static catalog; the year is that of the column "
        "year, or --year",
    )  # fmt: skip
    parser.add_argument("--year", type=int, help="year of the imagery to fetch, for all places")
    parser.add_argument(
        "--nearest-year", action="store_true",
        help="with --source: where a place was never seen clear in its year, take the nearest year in which it was",
    )  # fmt: skip
    parser.add_argument(
        "--rasters", type=Path, metavar="DIR", help="read the environment of the places off these rasters"
    )
    parser.add_argument(
        "--worldclim",
        default="2.1",
        choices=("2.1", "1"),
        help="version whose units the bio variables have; 1 stores temperatures x10 (default: %(default)s)",
    )
    parser.add_argument("--id", metavar="COLUMN", help=f"column of identifiers (default: {', '.join(IDENTIFIERS)})")


def open_places(args: argparse.Namespace, first: int = 0) -> Iterator[PlaceBatch]:
    """Batches of `ROWS` places from batch number `first` on.

    Raises:
        DataError: If the table or the set cannot be read.
        InputError: If it is empty, or a cell is no number.
    """
    if args.points.is_dir():
        return _of_packed(args.points, first)
    return _of_table(args, first)


def _of_packed(path: Path, first: int) -> Iterator[PlaceBatch]:
    import numpy as np

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.observations import from_packed
    from geotreeclip.prep.phase import check_days

    dataset = PackedDataset(path)
    if not len(dataset):
        raise InputError(f"{path}: the set is empty")
    table = dataset.samples()
    for start in range(first * ROWS, len(dataset), ROWS):
        rows = np.arange(start, min(start + ROWS, len(dataset)))
        part = table.iloc[rows]
        longitude, latitude = (
            part[name].to_numpy(dtype=np.float64, na_value=np.nan) if name in part else np.full(len(rows), np.nan)
            for name in ("longitude", "latitude")
        )

        def build(classifier: Classifier, rows: npt.NDArray[np.int64] = rows) -> ObservationBatch:
            check_days(path, classifier.config)
            return from_packed(dataset.read(rows))

        yield PlaceBatch(part["sample_id"].astype(str).tolist(), longitude, latitude, build)


def _of_table(args: argparse.Namespace, first: int) -> Iterator[PlaceBatch]:
    from itertools import chain

    path: Path = args.points
    chunks = read_table(path, [*IDENTIFIERS, *filter(None, [args.id])])
    head = next(chunks, None)
    if head is None or not len(head):
        raise InputError(f"{path}: the table has no rows")
    if args.imagery is not None and args.source is not None:
        raise InputError("--imagery and --source both give imagery; leave one out")
    if args.source is None and args.year is not None:
        raise InputError("--year says which imagery to fetch: name where from too, with --source stac:URL")
    if args.source is not None and args.year is None and "year" not in head.columns:
        raise InputError(f"{path}: --source needs the year of the imagery: a column year, or --year")
    images = args.imagery is not None or args.source is not None
    inputs = _inputs(path, list(head.columns), images=images, rasters=args.rasters is not None)
    if args.source is not None:
        inputs = [column for column in inputs if column != "year"]
    identifier = _identifier(path, list(head.columns), args.id)
    read_images = None if args.imagery is None else _imagery(args.imagery, path, identifier)

    def batches() -> Iterator[PlaceBatch]:
        done = 0
        for number, chunk in enumerate(chain([head], chunks)):
            if number >= first:
                yield _batch(args, chunk, inputs, identifier, done, read_images)
            done += len(chunk)

    return batches()


def _batch(
    args: argparse.Namespace,
    chunk: pd.DataFrame,
    inputs: list[str],
    identifier: str | None,
    done: int,
    images: Callable[[Sequence[str]], npt.NDArray[np.uint16]] | None,
) -> PlaceBatch:
    import numpy as np

    from geotreeclip.inputs.environment import variable_name

    samples = chunk[identifier].astype(str).tolist() if identifier else range(done, done + len(chunk))
    numbers = _numbers(args.points, chunk, inputs, done)
    coordinates = {variable_name(column): numbers[column].to_numpy(np.float64) for column in inputs}
    nowhere = np.full(len(chunk), np.nan)

    def build(classifier: Classifier) -> ObservationBatch:
        options: dict[str, Any] = {"worldclim": args.worldclim}
        if images is not None:
            from geotreeclip.schema import MISSING_DN

            options |= {"images": images([str(name) for name in samples]), "scale": "dn", "nodata": MISSING_DN}
        environment: Any = numbers if inputs else None
        if args.source is not None:
            options |= {"source": args.source, "year": args.year or _column(args.points, chunk, "year", done)}
            options["nearest_year"] = args.nearest_year
        if args.source is not None or args.rasters is not None:
            options |= {name: coordinates[name] for name in ("longitude", "latitude") if name in coordinates}
        if args.rasters is not None:
            options["rasters"], environment = args.rasters, None
        if classifier.config.observation.season == "phase" and "greenup" in chunk.columns:
            options["greenup"] = _column(args.points, chunk, "greenup", done)
        return classifier.build(
            environment=environment,
            name_sample=lambda row: f"{args.points}: row {done + row + 1}",
            **options,
        )

    return PlaceBatch(samples, coordinates.get("longitude", nowhere), coordinates.get("latitude", nowhere), build)


def read_table(path: Path, texts: Sequence[str] = (), rows: int | None = None) -> Iterator[pd.DataFrame]:
    """A table in chunks; CSV with commas, semicolons or tabs. Identifiers stay as they are written (007).

    Raises:
        DataError: If it cannot be read.
    """
    import pandas as pd

    rows = rows or ROWS
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            import pyarrow.parquet as parquet

            for batch in parquet.ParquetFile(path).iter_batches(rows):
                yield batch.to_pandas()
            return
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        yield from pd.read_csv(
            path,
            chunksize=rows,
            sep=separator,
            encoding="utf-8-sig",
            skipinitialspace=True,
            dtype=dict.fromkeys(texts, str),
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty") from error
    except (ValueError, OSError) as error:  # UnicodeDecodeError, ParserError and ArrowInvalid are ValueErrors
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from error


def _inputs(path: Path, columns: list[str], *, images: bool, rasters: bool) -> list[str]:
    """Columns that the model may read, with notes on what is not there and what is left out."""
    from geotreeclip.inputs.common import listed
    from geotreeclip.inputs.environment import variable_name

    known = {column: variable_name(column) for column in columns}
    inputs = [column for column in columns if known[column] is not None]
    names = {known[column] for column in inputs}
    missing = {"longitude", "latitude"} - names
    if rasters:  # they tell the environment
        inputs = [column for column in inputs if known[column] in ("longitude", "latitude")]
    if missing and (len(missing) == 1 or rasters or not (names or images)):
        raise InputError(
            f"{path}: no column of {' and '.join(sorted(missing, reverse=True))} (found: {listed(columns)}); "
            "give degrees, WGS 84"
        )
    if not rasters and not names - {"longitude", "latitude"}:
        used = "location and imagery are used" if images else "location alone is used"
        print(f"note: {path} has no environment columns: {used}", file=sys.stderr)
    others = [column for column in columns if column not in inputs and column not in (*IDENTIFIERS, "year", "greenup")]
    if others:
        print(f"note: {path}: columns not used: {listed(others)}", file=sys.stderr)
    return inputs


def _identifier(path: Path, columns: list[str], asked_for: str | None) -> str | None:
    if asked_for is not None and asked_for not in columns:
        raise InputError(f"{path}: no column {asked_for!r} to take identifiers from (found: {', '.join(columns)})")
    return asked_for or next((column for column in columns if column.lower() in IDENTIFIERS), None)


def _numbers(path: Path, chunk: pd.DataFrame, inputs: list[str], start: int) -> pd.DataFrame:
    """The input columns as numbers; the first cell that is none is named."""
    import pandas as pd

    numbers: pd.DataFrame = chunk[inputs].apply(pd.to_numeric, errors="coerce")
    wrong = (numbers.isna() & chunk[inputs].notna()).to_numpy()
    if wrong.any():
        row = int(wrong.any(axis=1).argmax())
        column = inputs[int(wrong[row].argmax())]
        raise InputError(f"{path}: row {start + row + 1}: {column} is {chunk[column].iloc[row]!r}, not a number")
    return numbers


def _column(path: Path, chunk: pd.DataFrame, name: str, start: int) -> npt.NDArray[np.float64]:
    """A column of numbers without gaps."""
    import numpy as np
    import pandas as pd

    values = pd.to_numeric(chunk[name], errors="coerce").to_numpy(np.float64)
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise InputError(f"{path}: row {start + row + 1}: {name} is {chunk[name].iloc[row]!r}, not a number")
    return np.asarray(values)


def _imagery(directory: Path, path: Path, identifier: str | None) -> Callable[[Sequence[str]], npt.NDArray[np.uint16]]:
    """Reads the composites of samples; those that have none are missing throughout."""
    import numpy as np

    from geotreeclip.prep.imagery import ImageryStore
    from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH

    if identifier is None:
        raise InputError(
            f"{path}: --imagery is joined by identifier, and no column of {', '.join(IDENTIFIERS)} is there"
        )
    store = ImageryStore(directory)
    places = {name: row for row, name in enumerate(store.sample_ids)}

    def read(samples: Sequence[str]) -> npt.NDArray[np.uint16]:
        result = np.full((len(samples), MONTHS, len(BANDS), PATCH, PATCH), MISSING_DN, np.uint16)
        rows = np.array([places.get(name, -1) for name in samples], np.int64)
        if (rows >= 0).any():
            result[rows >= 0] = store.read(rows[rows >= 0])
        return result

    return read
