"""``predictions.parquet``: any number of `Predictions`, one after the other, contexts and classes in the metadata.

A report and all that was compared in it lie in one file, which any parquet reader opens as one long table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.evaluation.predictions import OPTIONAL, Context, Predictions
from geotreeclip.taxonomy import Taxon

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "geotreeclip-predictions"
VERSION = 1


def write_predictions(path: str | os.PathLike[str], predictions: Predictions | Sequence[Predictions]) -> Path:
    """Write predictions to one parquet file, whole or not at all.

    Columns: set, system, inputs, prior, rank (to filter by), sample_id, label and predicted (text, for people),
    label_index, top_index, top_log_prob, log_prob, rank_of_truth (1 is best; the best place among ties; null where the
    truth is no candidate), tied, block, rarity, longitude, latitude. Contexts and classes are in the file's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    target = Path(path)
    head = json.dumps({"format": FORMAT, "version": VERSION, "parts": _heads(items)}, ensure_ascii=False)
    schema = _schema().with_metadata({FORMAT.encode(): head.encode()})
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for item in items:
                table = pa.table(_columns(item), schema=schema)
                writer.write_table(table, row_group_size=max(1, len(item)))
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def read_predictions(path: str | os.PathLike[str]) -> list[Predictions]:
    """Read a file of `write_predictions`.

    Raises:
        DataError: the file is missing, or is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as predictions: {error}") from error
    stored = (table.schema.metadata or {}).get(FORMAT.encode())
    if stored is None:
        raise DataError(f"{path}: a parquet file, but none of predictions: its metadata lacks {FORMAT!r}")
    head = json.loads(stored)
    if head.get("version") != VERSION:
        raise DataError(f"{path}: predictions of version {head.get('version')}, this release reads {VERSION}")
    result, start = [], 0
    for part in head["parts"]:
        classes = tuple(Taxon(*names) for names in head["parts"][part["classes_of"]]["classes"])
        result.append(_restore(table.slice(start, part["rows"]), part, classes))
        start += part["rows"]
    return result


def _heads(items: Sequence[Predictions]) -> list[dict[str, Any]]:
    """What the metadata says of each part; equal lists of classes are stored once."""
    heads: list[dict[str, Any]] = []
    seen: dict[tuple[Taxon, ...], int] = {}
    for number, item in enumerate(items):
        owner = seen.setdefault(item.classes, number)
        heads.append(
            {
                "context": asdict(item.context),
                "rank": item.rank,
                "rows": len(item),
                "candidates": item.candidates,
                "width": int(item.top.shape[1]),
                "classes_of": owner,
                "classes": [list(taxon) for taxon in item.classes] if owner == number else [],
            }
        )
    return heads


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, integer, real = pa.string(), pa.int32(), pa.float32()
    return pa.schema([
        ("set", text), ("system", text), ("inputs", text), ("prior", text), ("rank", text), ("sample_id", text),
        ("label", text), ("predicted", text), ("label_index", integer), ("top_index", pa.list_(integer)),
        ("top_log_prob", pa.list_(real)), ("log_prob", real), ("rank_of_truth", integer), ("tied", integer),
        ("block", pa.int64()), ("rarity", text), ("longitude", real), ("latitude", real),
    ])  # fmt: skip


def _columns(item: Predictions) -> dict[str, Any]:
    import pyarrow as pa

    names = np.array([taxon.prompt() for taxon in item.classes], dtype=object)
    size, width = len(item), item.top.shape[1]
    offsets = pa.array(np.arange(size + 1, dtype=np.int32) * width)
    known = item.truth_is_candidate
    columns: dict[str, Any] = {
        **{key: [getattr(item.context, key)] * size for key in ("set", "system", "inputs", "prior")},
        "rank": [item.rank] * size,
        "sample_id": item.sample_id.astype(object),
        "label": names[item.truth],
        "predicted": names[item.top[:, 0]] if width else [None] * size,
        "label_index": item.truth,
        "top_index": pa.ListArray.from_arrays(offsets, pa.array(item.top.reshape(-1))),
        "top_log_prob": pa.ListArray.from_arrays(offsets, pa.array(item.top_log_prob.reshape(-1))),
        "log_prob": pa.array(item.log_prob, mask=~known),
        "rank_of_truth": pa.array(item.better + 1, mask=~known),
        "tied": item.tied,
    }
    for name in OPTIONAL:
        array = getattr(item, name)
        columns[name] = [None] * size if array is None else (array.astype(object) if name == "rarity" else array)
    return columns


def _restore(table: pa.Table, part: dict[str, Any], classes: tuple[Taxon, ...]) -> Predictions:
    def numbers(name: str, kind: Any, missing: float = 0) -> NDArray[Any]:
        return np.asarray(table[name].fill_null(missing).to_numpy(), dtype=kind)

    def listed(name: str, kind: Any) -> NDArray[Any]:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=kind).reshape(part["rows"], part["width"])

    known = {field.name for field in fields(Context)}
    candidates = int(part["candidates"])
    optional: dict[str, Any] = {}
    for name, kind in (("block", np.int64), ("longitude", np.float32), ("latitude", np.float32)):
        optional[name] = None if table[name].null_count == len(table) else numbers(name, kind)
    empty = table["rarity"].null_count == len(table)
    return Predictions(
        context=Context(**{key: value for key, value in part["context"].items() if key in known}),
        rank=part["rank"],
        classes=classes,
        candidates=candidates,
        sample_id=np.asarray(table["sample_id"].to_pylist(), dtype=str),
        truth=numbers("label_index", np.int32),
        top=listed("top_index", np.int32),
        top_log_prob=listed("top_log_prob", np.float32),
        log_prob=numbers("log_prob", np.float32, -np.inf),
        better=numbers("rank_of_truth", np.int32, candidates + 1) - 1,
        tied=numbers("tied", np.int32),
        rarity=None if empty else np.asarray(table["rarity"].to_pylist(), dtype=str),
        **optional,
    )
