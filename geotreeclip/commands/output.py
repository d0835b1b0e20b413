"""Tables of any length, written batch by batch: an interrupted command goes on where it stopped.

Each batch is a file in `OUT.parts` beside the output, there whole or not at all; the last step joins them into CSV,
Parquet, GeoParquet (version 1.1, points as WKB) or GeoJSON (RFC 7946), and memory stays that of one batch.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

__all__ = ["FORMATS", "BatchedTable", "check_format"]

FORMATS = (".csv", ".parquet", ".geoparquet", ".geojson")
"""Endings of files that can be written."""

_GEO = ".geoparquet"
_DECIMALS = 9  # of numbers in CSV: probabilities of rare labels, and far below a millimetre in degrees


def check_format(out: Path | None, option: str = "--out") -> None:
    """Refuse a name whose ending says no format, or that is a folder.

    Raises:
        InputError: It is one of these.
    """
    if out is not None and out.is_dir():
        raise InputError(f"{option} {out}: is a folder; name a file in it")
    if out is not None and out.suffix.lower() not in FORMATS:
        raise InputError(f"{option} {out}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


class BatchedTable:
    """A table that is written batch by batch.

    Args:
        out: The file; None for CSV on standard output, which cannot go on.
        plan: What the rows depend on; batches of another plan are thrown away.
    """

    def __init__(self, out: Path | None, plan: Mapping[str, Any]) -> None:
        self.out = out
        self.done = 0
        self.rows = 0
        self._header = True
        if out is None:
            return
        self._parts = out.with_name(out.name + ".parts")
        text = json.dumps(plan, sort_keys=True, default=str)
        path = self._parts / "plan.json"
        try:
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                while self._part(self.done).is_file():
                    self.done += 1
                return
            if self._parts.exists():
                print(f"note: {self._parts} is of another command or input; it is begun anew", file=sys.stderr)
                shutil.rmtree(self._parts)
            self._parts.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(out, error) from error

    def write(self, frame: pd.DataFrame) -> None:
        """Keep the next batch.

        Raises:
            DataError: If it cannot be written.
        """
        self.rows += len(frame)
        if self.out is None:
            import pyarrow as pa

            sys.stdout.write(_csv(pa.Table.from_pandas(frame, preserve_index=False), header=self._header).decode())
            self._header = False
            return
        from geotreeclip.data.shardfile import write_atomically

        try:
            write_atomically(self._part(self.done), lambda partial: frame.to_parquet(partial, index=False))
        except OSError as error:
            raise _unwritable(self.out, error) from error
        self.done += 1

    def finish(self) -> None:
        """Join the batches into the file.

        Raises:
            DataError: If it cannot be written.
            InputError: If the format needs coordinates, and no place has any.
        """
        if self.out is None:
            return
        suffix = self.out.suffix.lower()
        aside = self.out.with_name(f".{self.out.name}.partial")
        write = {".csv": self._write_csv, ".geojson": self._write_geojson}.get(suffix, self._write_parquet)
        try:
            write(aside)
            aside.replace(self.out)
            shutil.rmtree(self._parts)
        except OSError as error:
            raise _unwritable(self.out, error) from error
        finally:
            aside.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw the batches away."""
        if self.out is not None:
            shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.parquet"

    def _frames(self) -> Iterator[pd.DataFrame]:
        import pandas as pd

        for number in range(self.done):
            yield pd.read_parquet(self._part(number))

    def _write_csv(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        with path.open("wb") as file:
            for number in range(self.done):
                file.write(_csv(parquet.read_table(self._part(number)), header=number == 0))

    def _write_geojson(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            first = True
            for frame in self._frames():
                _located(frame, self.out)
                for row in frame.to_dict("records"):
                    longitude, latitude = row.pop("longitude"), row.pop("latitude")
                    point = {"type": "Point", "coordinates": [longitude, latitude]}
                    known = math.isfinite(longitude) and math.isfinite(latitude)
                    feature = {
                        "type": "Feature",
                        "geometry": point if known else None,
                        "properties": {name: _plain(value) for name, value in row.items()},
                    }
                    file.write(("\n" if first else ",\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
                    first = False
            file.write("\n]}\n")

    def _write_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        schemas = [parquet.read_schema(self._part(number)) for number in range(self.done)]
        schema = pa.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
        geo = path.name.removesuffix(".partial").lower().endswith(_GEO)
        if geo:
            schema = schema.append(pa.field("geometry", pa.binary()))
            schema = schema.with_metadata({b"geo": json.dumps(self._geo()).encode()})
        with parquet.ParquetWriter(path, schema) as writer:
            for number in range(self.done):
                table = parquet.read_table(self._part(number)).replace_schema_metadata(None)
                if geo:
                    columns = (table[name].to_numpy() for name in ("longitude", "latitude"))
                    table = table.append_column("geometry", pa.array(_points(*columns), pa.binary()))
                writer.write_table(table.cast(schema))

    def _geo(self) -> dict[str, Any]:
        """Metadata of GeoParquet 1.1; without a CRS it is OGC:CRS84, longitude before latitude."""
        import numpy as np
        import pandas as pd

        ends: list[npt.NDArray[np.float64]] = []
        for number in range(self.done):
            frame = pd.read_parquet(self._part(number))
            _located(frame, self.out)
            places = frame[["longitude", "latitude"]].dropna().to_numpy(dtype=np.float64)
            if len(places):
                ends.append(np.concatenate([places.min(axis=0), -places.max(axis=0)]))
        low = np.min(ends, axis=0) if ends else np.full(4, np.nan)
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"]}
        if ends:
            column["bbox"] = [*low[:2].tolist(), *(-low[2:]).tolist()]
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _located(frame: pd.DataFrame, out: Path | None) -> None:
    if not {"longitude", "latitude"} <= set(frame.columns):
        raise InputError(f"--out {out}: the places have no coordinates, so write .csv or .parquet instead")


def _points(longitude: npt.NDArray[Any], latitude: npt.NDArray[Any]) -> list[bytes | None]:
    """Points as little-endian WKB; None without coordinates."""
    import numpy as np

    layout = np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])  # packed: 21 bytes
    points = np.empty(len(longitude), layout)
    points["order"], points["kind"], points["x"], points["y"] = 1, 1, longitude, latitude
    known = np.isfinite(points["x"]) & np.isfinite(points["y"])
    return [point.tobytes() if there else None for point, there in zip(points, known, strict=True)]


def _csv(table: pa.Table, *, header: bool) -> bytes:
    """Lists of names are joined by "; ", lists of numbers become columns, numbers have at most nine decimals."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.csv as csv

    columns: dict[str, Any] = {}
    quoted = False
    for name in table.column_names:
        column = table[name].combine_chunks()
        kind = column.type
        if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            numbers = np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float64).round(_DECIMALS)
            columns |= {f"{name}_{place}": numbers[:, place] for place in range(numbers.shape[1])}
            continue
        if pa.types.is_list(kind):
            column = compute.binary_join(column.cast(pa.list_(pa.string())), "; ")
        elif pa.types.is_floating(kind):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64).round(_DECIMALS)
            column = pa.array(values, mask=np.isnan(values))
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            quoted |= bool(compute.any(compute.match_substring_regex(column, r'[",\r\n]')).as_py())
        columns[name] = column
    # Quotes are all or none here: none wherever no text needs them
    style = csv.WriteOptions(include_header=False, quoting_style="needed" if quoted else "none")
    stream = pa.BufferOutputStream()
    csv.write_csv(pa.table(columns), stream, style)
    body: bytes = stream.getvalue().to_pybytes()
    return (",".join(columns) + "\n").encode() * header + body


def _plain(value: Any) -> Any:
    """A value as JSON has it; missing ones are null."""
    import numpy as np
    import pandas as pd

    if isinstance(value, list | np.ndarray):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}")
    return value.item() if isinstance(value, np.generic) else value


def _unwritable(out: Path, error: OSError) -> DataError:
    return DataError(f"{out}: cannot be written ({error.strerror or error})")
