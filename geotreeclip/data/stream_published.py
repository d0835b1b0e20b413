"""Published shards for streaming: an index of what they hold, made by reading them once, and their samples as stored.

Shape letters: N samples, T time steps, C bands, H W pixels, V variables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geotreeclip.data.packed import PackedBatch, PackedDataset
from geotreeclip.data.published import PublishedSample, Refusal, read_published
from geotreeclip.data.remote import turn
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.data.sources import expand_sources, open_source, source_name
from geotreeclip.data.statistics import Statistics
from geotreeclip.data.stream import Lost, StreamedSet, Tolerance
from geotreeclip.data.worldclim import decide
from geotreeclip.data.writer import PackedWriter
from geotreeclip.errors import DataError
from geotreeclip.schema import BANDS, MISSING_DN, worldclim1_to_2
from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = ["open_published_stream"]

_CHUNK = 512
_PROBE = 5000
_FORMAT = 1


def open_published_stream(
    source: str | Path, index: Path, tolerance: Tolerance | None = None, tell: Callable[[str], None] = print
) -> StreamedSet:
    """Published shards, read forward.

    Taxa, their counts and the statistics must be known before training begins: the first time, all shards are read once
    for that, and the result is kept in `index`.

    Args:
        source: A shard, a directory of shards, `https://....tar` or `hf://datasets/OWNER/NAME/PATTERN`.
        index: Folder of the index.
        tolerance: What happens to samples that cannot be read.
        tell: Receives what is done, in words.

    Raises:
        DataError: If a source cannot be read, has changed since it was indexed, or holds too much that is wrong.
    """
    sources = expand_sources([source])
    versions = []
    for shard in sources:
        with open_source(shard) as opened:
            versions.append(opened.version)
    path = index / "index.json"
    index.mkdir(parents=True, exist_ok=True)
    with turn(index):  # one process makes it, the others find it
        if not path.is_file():
            tell(f"reading {len(sources)} shards once, for taxa, counts and statistics, kept in {index}")
            _make_index(sources, versions, index, tolerance or Tolerance())
        account = json.loads(path.read_text(encoding="utf-8"))
    if (account.get("format"), account.get("sources"), account.get("versions")) != (_FORMAT, sources, versions):
        raise DataError(f"{path}: is the index of other shards, or they have changed; remove {index} to index anew")
    probe = PackedDataset(index / "probe")
    taxonomy = Taxonomy.read(index / "taxonomy.parquet")
    with np.load(index / "samples.npz", allow_pickle=False) as table:
        taxa, ids = table["taxon"].astype(np.int64), table["sample_id"]
    rows = {taxon: row for row, taxon in enumerate(taxonomy)}
    counts: list[int] = account["counts"]

    def expand(number: int) -> Iterator[PackedBatch | Lost]:
        read = 0
        for item in _chunks(sources[number], rows, account["units"]):
            if isinstance(item, PackedBatch):
                item = item._replace(index=item.index + read)
                read += len(item.index)
            yield item
        if read != counts[number]:
            name = source_name(sources[number])
            yield Lost(name, "", f"gives {read} samples, it gave {counts[number]} when it was indexed", 1)

    return StreamedSet(
        probe, len(probe), counts, expand, taxonomy, taxa, ids, Statistics.read(index / "statistics.json"),
        json.dumps([sources, versions]),
    )  # fmt: skip


def _make_index(sources: list[str], versions: list[str], index: Path, tolerance: Tolerance) -> None:
    rows: dict[Taxon, int] = {}
    taxa: list[NDArray[np.int64]] = []
    ids: list[str] = []
    counts: list[int] = []
    kept: list[PackedBatch] = []
    statistics: Statistics | None = None
    units: str | None = None
    for source in tqdm(sources, unit=" shards", desc="indexing", disable=None):
        before = len(ids)
        if units is None:
            units = _units(source)
        for item in _chunks(source, rows, units, ids, grow=True):
            if isinstance(item, Lost):
                tolerance.take(item)
                continue
            tolerance.met += len(item.index)
            if statistics is None:
                statistics = Statistics.empty(worldclim=units or "2.1")
            statistics = statistics.updated(item.images, item.environment)
            taxa.append(item.taxon)
            if sum(len(batch.index) for batch in kept) < _PROBE:
                kept.append(item)
        counts.append(len(ids) - before)
    if statistics is None:
        raise DataError(f"{sources[0]}: there is not one sample to train on in {len(sources)} shards")
    taxonomy = Taxonomy(list(rows))
    with PackedWriter(index / "probe", taxonomy, source="the first samples of a stream", overwrite=True) as writer:
        start = 0
        for batch in kept:
            stop = start + len(batch.index)
            writer.add(batch.images, batch.environment, batch.taxon, ids[start:stop])
            start = stop
    taxonomy.write(index / "taxonomy.parquet")
    statistics.write(index / "statistics.json")
    all_taxa, all_ids = np.concatenate(taxa).astype(np.int32), np.array(ids)

    def save(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez(file, taxon=all_taxa, sample_id=all_ids)

    write_atomically(index / "samples.npz", save)
    account = {"format": _FORMAT, "sources": sources, "versions": versions, "counts": counts, "units": units or "2.1"}
    write_atomically(index / "index.json", lambda aside: aside.write_text(json.dumps(account), encoding="utf-8"))


def _units(source: str) -> str | None:
    """WorldClim version of a shard's values, from its first samples."""
    first = []
    for item in read_published(source):
        if isinstance(item, PublishedSample):
            first.append(item.environment)
        if len(first) == _CHUNK:
            break
    return decide(np.stack(first), source_name(source)) if first else None


def _chunks(
    source: str, rows: dict[Taxon, int], units: str | None, ids: list[str] | None = None, *, grow: bool = False
) -> Iterator[PackedBatch | Lost]:
    """The samples of a shard as stored in packed sets, some hundred at a time; `index` counts within the chunk."""
    waiting: list[PublishedSample] = []

    def stored() -> PackedBatch:
        images = np.stack([sample.images for sample in waiting])
        images = np.where(np.isnan(images), MISSING_DN, np.rint(images)).astype(np.uint16)
        raw = np.stack([sample.environment for sample in waiting])
        environment = worldclim1_to_2(raw) if units == "1" else raw.astype(np.float32)
        if ids is not None:
            ids.extend(sample.sample_id for sample in waiting)
        taxon = np.array([rows[sample.taxon] for sample in waiting], dtype=np.int64)
        return PackedBatch(images, environment, taxon, np.arange(len(waiting), dtype=np.int64), None)

    for item in read_published(source):
        if isinstance(item, Refusal):
            yield Lost(item.shard, item.key, item.reason, int(item.is_sample))
            continue
        if grow:
            rows.setdefault(item.taxon, len(rows))
        with np.errstate(invalid="ignore"):
            outside = (np.rint(item.images) < 0) | (np.rint(item.images) >= MISSING_DN)
        if outside.any():
            place = tuple(np.argwhere(outside)[0])
            value, band = float(item.images[place]), BANDS[place[1]]
            reason = f"images.pth has {value!r} at month {place[0] + 1}, band {band}; digital numbers are 0 to 65534"
            yield Lost(item.shard, item.key, reason, 1)
        elif item.taxon not in rows:
            yield Lost(item.shard, item.key, f"taxon {' / '.join(item.taxon)} was not there when it was indexed", 1)
        else:
            waiting.append(item)
        if len(waiting) == _CHUNK:
            yield stored()
            waiting = []
    if waiting:
        yield stored()
