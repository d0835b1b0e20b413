"""`geotreeclip classify POINTS`: the likeliest taxa of each place of a table, batch by batch."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from geotreeclip.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_arguments", "run"]

_ROWS = 4096  # places read and answered at a time
_IDENTIFIERS = ("id", "sample_id", "sample")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "points",
        type=Path,
        help="CSV or Parquet table, one place a row: longitude and latitude in degrees (WGS 84), environmental "
        "variables under their usual names (elevation, bio01 or bio_1, ...), and an identifier if there is one",
    )
    parser.add_argument(
        "--model",
        help='model directory, "hf-hub:owner/name" or "demo"; by default $GEOTREECLIP_MODEL, else the default model',
    )
    parser.add_argument(
        "--labels",
        help='candidates: a table or text file of names, or a restriction such as "genus=Quercus"; by default all '
        "taxa of the model",
    )
    parser.add_argument(
        "--rank",
        default="species",
        choices=("species", "genus", "family", "leaf_type"),
        help="rank of the answers; probabilities of species are summed to it (default: %(default)s)",
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="answers a place (default: %(default)s)")
    parser.add_argument(
        "--prior",
        default="training",
        help='how common the candidates are: "training", "uniform", or a CSV with columns label and weight '
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--worldclim",
        default="2.1",
        choices=("2.1", "1"),
        help="version whose units the bio variables have; 1 stores temperatures x10 (default: %(default)s)",
    )
    parser.add_argument("--id", metavar="COLUMN", help=f"column of identifiers (default: {', '.join(_IDENTIFIERS)})")
    parser.add_argument("--out", type=Path, help="CSV or Parquet file to write; by default CSV on standard output")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the table, the model or an argument is not right.
    """
    if args.out is not None and args.out.suffix.lower() not in {".csv", ".parquet"}:
        raise InputError(f"--out {args.out}: the name must end in .csv or .parquet")
    if args.top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {args.top_k}")
    chunks = _read(args.points, [*_IDENTIFIERS, *filter(None, [args.id])])
    first = next(chunks, None)
    if first is None or not len(first):
        raise InputError(f"{args.points}: the table has no rows")
    inputs = _inputs(args.points, list(first.columns))
    identifier = _identifier(args.points, list(first.columns), args.id)

    from geotreeclip.inference import load

    classifier = load(args.model, args.device)
    started, done = time.monotonic(), 0
    with _writer(args.out) as write:
        chunk: pd.DataFrame | None = first
        while chunk is not None:
            numbers = _numbers(args.points, chunk, inputs, done)
            start = done  # bound below for messages about this chunk
            with warnings.catch_warnings():
                if done:  # what looks odd is said once, not for each chunk
                    warnings.simplefilter("ignore", UserWarning)
                predictions = classifier.classify(
                    environment=numbers,
                    labels=args.labels,
                    rank=args.rank,
                    top_k=args.top_k,
                    prior=args.prior,
                    worldclim=args.worldclim,
                    sample_ids=chunk[identifier].astype(str).tolist() if identifier else range(done, done + len(chunk)),
                    name_sample=lambda row, start=start: f"{args.points}: row {start + row + 1}",  # type: ignore[misc]
                )
            write(predictions.to_pandas())
            done += len(chunk)
            chunk = next(chunks, None)
    if args.out is not None:
        seconds = time.monotonic() - started
        print(f"{done:,} places in {seconds:.1f} s ({done / seconds:,.0f}/s): {args.out}", file=sys.stderr)


def _read(path: Path, texts: list[str]) -> Iterator[pd.DataFrame]:
    """The table in chunks; CSV with commas, semicolons or tabs. Identifiers stay as they are written (007)."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as parquet

            for batch in parquet.ParquetFile(path).iter_batches(_ROWS):
                yield batch.to_pandas()
            return
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        yield from pd.read_csv(
            path,
            chunksize=_ROWS,
            sep=separator,
            encoding="utf-8-sig",
            skipinitialspace=True,
            dtype=dict.fromkeys(texts, str),
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty") from error
    except (ValueError, OSError) as error:  # UnicodeDecodeError, ParserError and ArrowInvalid are ValueErrors
        raise DataError(f"{path}: cannot be read as a table ({error})") from error


def _inputs(path: Path, columns: list[str]) -> list[str]:
    """Columns that the model may read, with notes on what is not there and what is left out."""
    from geotreeclip.inputs.common import listed
    from geotreeclip.inputs.environment import variable_name

    known = {column: variable_name(column) for column in columns}
    inputs = [column for column in columns if known[column] is not None]
    names = {known[column] for column in inputs}
    missing = {"longitude", "latitude"} - names
    if missing and (not names or len(missing) == 1):
        raise InputError(
            f"{path}: no column of {' and '.join(sorted(missing, reverse=True))} (found: {listed(columns)}); "
            "give degrees, WGS 84"
        )
    if not names - {"longitude", "latitude"}:
        print(f"note: {path} has no environment columns: location alone is used", file=sys.stderr)
    others = [column for column in columns if known[column] is None and column not in _IDENTIFIERS]
    if others:
        print(f"note: {path}: columns not used: {listed(others)}", file=sys.stderr)
    return inputs


def _identifier(path: Path, columns: list[str], asked_for: str | None) -> str | None:
    if asked_for is not None and asked_for not in columns:
        raise InputError(f"{path}: no column {asked_for!r} to take identifiers from (found: {', '.join(columns)})")
    return asked_for or next((column for column in columns if column.lower() in _IDENTIFIERS), None)


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


class _Write(Protocol):
    def __call__(self, frame: pd.DataFrame) -> None: ...


@contextmanager
def _writer(out: Path | None) -> Iterator[_Write]:
    """Where tables go, one after the other; a file gets its name only when it is whole."""
    if out is None:
        header = True

        def to_screen(frame: pd.DataFrame) -> None:
            nonlocal header
            frame.to_csv(sys.stdout, index=False, header=header, float_format="%.6g")
            header = False

        yield to_screen
        return
    aside = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _parquet(aside) if out.suffix.lower() == ".parquet" else _csv(aside) as write:
            yield write
        aside.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8", newline="") as file:

        def write(frame: pd.DataFrame) -> None:
            frame.to_csv(file, index=False, header=file.tell() == 0, float_format="%.6g")

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[_Write]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    writer: Any = None

    def write(frame: pd.DataFrame) -> None:
        nonlocal writer
        table = pa.Table.from_pandas(frame, schema=None if writer is None else writer.schema, preserve_index=False)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
