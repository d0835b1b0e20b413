"""Packed shards: the memory-mapped reader. The writer is in `writer.py`, and importable from here.

A packed shard is an uncompressed tar that WebDataset opens; its members are the columns of chunks of 512 samples. A
read gathers rows straight from the mapped files, in file order, and puts them into the order asked for.

Shape letters: B rows of a read, N samples of the set, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

import hashlib
import mmap
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.data.manifest import COLUMN_DTYPES, MANIFEST, Manifest, Shard, sha256_file
from geotreeclip.data.statistics import Statistics
from geotreeclip.data.writer import PackedWriter, to_digital_numbers
from geotreeclip.errors import DataError
from geotreeclip.schema import VARIABLE_NAMES
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PackedBatch", "PackedDataset", "PackedWriter", "to_digital_numbers"]

# Rows gathered at a time: their copy stays in the cache of the core while it is put in order.
_BLOCK_BYTES = 1 << 18


class PackedBatch(NamedTuple):
    """Rows of a packed set as they are stored.

    Attributes:
        images: uint16 [B, T, C, H, W], digital numbers, 65535 where missing; T = 0 without imagery.
        environment: float32 [B, 27], WorldClim 2.1 units, NaN where missing.
        taxon: int64 [B], rows of the taxonomy.
        index: int64 [B], rows of the packed set.
        days: float32 [B, T, 2], first and last day of each step, or None for calendar months.
    """

    images: NDArray[np.uint16]
    environment: NDArray[np.float32]
    taxon: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]  # the name is that of tuple's method, which nobody needs here
    days: NDArray[np.float32] | None


class PackedDataset:
    """A packed directory, opened for reading.

    Opening checks the manifest and the sizes of all files, `verify` their hashes. Reads are thread-safe. A set can be
    sent to another process: it is opened again there.

    Args:
        directory: the packed directory.
        shards: how many shards are there, from the first, if the others are read from elsewhere; None for all.

    Raises:
        DataError: it is no packed directory, was not finished, or a file is missing or of the wrong size.

    Attributes:
        directory: where it lies.
        manifest: what it holds.
    """

    def __init__(self, directory: Path | str, shards: int | None = None) -> None:
        self.directory = Path(directory)
        self._shards = shards
        path = self.directory / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(_missing(self.directory)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        self.manifest = Manifest.from_json(text, self.directory, shards)
        self._text = text
        self._taxonomy: Taxonomy | None = None
        self._statistics: Statistics | None = None
        self._samples: pd.DataFrame | None = None
        self._taxa: NDArray[np.int64] | None = None
        self._maps: dict[int, NDArray[np.uint8]] = {}
        chunks = [(number, chunk) for number, shard in enumerate(self.manifest.shards) for chunk in shard.chunks]
        self._first_row = np.cumsum([0, *(chunk.samples for _, chunk in chunks)], dtype=np.int64)
        self._chunk_shard = np.array([number for number, _ in chunks], dtype=np.int64)
        self._offsets = {
            name: np.array([chunk.columns[name].offset for _, chunk in chunks], dtype=np.int64)
            for name in self.manifest.columns
        }

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[Path, int | None]]:
        return PackedDataset, (self.directory, self._shards)

    def __len__(self) -> int:
        return int(self._first_row[-1])

    @property
    def has_images(self) -> bool:
        """Whether the set has imagery."""
        return self.manifest.has_images

    @property
    def steps(self) -> int:
        """T, the number of time steps; 0 without imagery."""
        return self.manifest.steps

    @property
    def taxonomy(self) -> Taxonomy:
        """The table that `taxon` points into."""
        if self._taxonomy is None:
            self._taxonomy = Taxonomy.read(self.directory / "taxonomy.parquet")
        return self._taxonomy

    @property
    def statistics(self) -> Statistics:
        """Statistics of all samples of the set."""
        if self._statistics is None:
            self._statistics = Statistics.read(self.directory / "statistics.json")
        return self._statistics

    @property
    def taxa(self) -> NDArray[np.int64]:
        """Taxon of every sample, int64 [N]; read-only."""
        if self._taxa is None:
            if self._shards is not None:  # those of the other shards stand in the table of samples alone
                return self.samples()["taxon"].to_numpy(dtype=np.int64)
            parts = [
                self._map(shard)[offset : offset + 4 * count].view("<i4")
                for shard, offset, count in zip(
                    self._chunk_shard, self._offsets["taxon"], np.diff(self._first_row), strict=True
                )
            ]
            taxa = np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
            if taxa.size and (taxa.min() < 0 or taxa.max() >= len(self.taxonomy)):
                row = int(np.flatnonzero((taxa < 0) | (taxa >= len(self.taxonomy)))[0])
                raise DataError(
                    f"{self.directory}: sample {row} has taxon {taxa[row]}, the taxonomy has {len(self.taxonomy)} "
                    "rows; the shards and taxonomy.parquet do not belong together, copy the set again"
                )
            taxa.flags.writeable = False
            self._taxa = taxa
        return self._taxa

    def samples(self) -> pd.DataFrame:
        """The table of samples, one row per sample in index order.

        Columns: sample_id, taxon, longitude, latitude, year, country, source, rarity and what else packing was given.
        """
        if self._samples is None:
            self._samples = _read_parquet(self.directory / "samples.parquet")
            if len(self._samples) != len(self):
                raise DataError(
                    f"{self.directory}/samples.parquet has {len(self._samples)} rows for {len(self)} samples; "
                    "copy the set again"
                )
        return self._samples

    def read(self, indices: ArrayLike) -> PackedBatch:
        """Gathers samples.

        Args:
            indices: int64 [B], rows of the set in any order, repeats allowed.

        Returns:
            The rows in the order asked for, in memory of their own.

        Raises:
            DataError: an index is outside the set, or a variable is infinite.
        """
        index = np.ascontiguousarray(indices, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            wrong = int(index[(index < 0) | (index >= len(self))][0])
            raise DataError(f"{self.directory}: sample {wrong} asked for, the set has {len(self)}; check the split")
        order = np.argsort(index, kind="stable")
        rows = index[order]
        chunk = np.searchsorted(self._first_row, rows, side="right") - 1
        place = _Place(order, chunk, rows - self._first_row[chunk], self._chunk_shard[chunk])
        shape = self.manifest.image_shape
        images = (
            self._gather("images", place).view("<u2").reshape(-1, *shape)
            if self.has_images
            else np.empty((len(index), *shape), np.uint16)
        )
        days = self._gather("days", place).view("<f4").reshape(-1, self.steps, 2) if self.manifest.has_days else None
        environment = self._gather("environment", place).view("<f4").reshape(-1, len(VARIABLE_NAMES))
        if np.isinf(environment).any():
            row, column = np.argwhere(np.isinf(environment))[0]
            raise DataError(
                f"{self.directory}: sample {self.sample_ids(index[row])[0]!r} (row {index[row]}) has an infinite "
                f"{VARIABLE_NAMES[column]}; missing values are NaN; pack the set again"
            )
        return PackedBatch(images, environment, self.taxa[index], index, days)

    def sample_ids(self, indices: ArrayLike) -> list[str]:
        """Sample ids of some rows, from the shards."""
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        chunks = [chunk for shard in self.manifest.shards for chunk in shard.chunks]
        result = []
        for row in rows:
            if not 0 <= row < len(self):
                raise DataError(f"{self.directory}: sample {row} asked for, the set has {len(self)}; check the split")
            number = int(np.searchsorted(self._first_row, row, side="right")) - 1
            column = chunks[number].columns["sample_id"]
            start = column.offset + int(row - self._first_row[number]) * column.row_bytes
            stored = self._map(int(self._chunk_shard[number]))[start : start + column.row_bytes]
            result.append(stored.tobytes().rstrip(b"\0").decode("utf-8", errors="replace"))
        return result

    def split(self, name: str, fold: int = 0, role: str = "train") -> NDArray[np.int64]:
        """Rows of the set that have a role in a fold of a split, ascending.

        Args:
            name: the split is `splits/NAME.parquet` with columns sample_id, fold, role.
            fold: the fold.
            role: "train", "validation", "test" or "buffer".

        Raises:
            DataError: no such split or fold, or a sample id that the set does not have.
        """
        import pandas as pd

        path = self.directory / "splits" / f"{name}.parquet"
        if not path.is_file():
            found = sorted(entry.stem for entry in path.parent.glob("*.parquet"))
            raise DataError(f"{path}: no such split; this set has {', '.join(found) or 'none'}")
        table = _read_parquet(path)
        absent = {"sample_id", "fold", "role"} - set(table.columns)
        if absent:
            raise DataError(f"{path}: lacks the columns {sorted(absent)}; it has {list(table.columns)}")
        if not (table["fold"] == fold).any():
            raise DataError(f"{path}: has no fold {fold}, only {sorted(table['fold'].unique().tolist())}")
        chosen = table.loc[(table["fold"] == fold) & (table["role"] == role), "sample_id"].astype(str)
        rows = pd.Index(self.samples()["sample_id"].astype(str)).get_indexer(pd.Index(chosen))
        if (rows < 0).any():
            raise DataError(
                f"{path}: {int((rows < 0).sum())} of {len(rows)} sample ids are not in the set, first "
                f"{chosen.iloc[int(np.argmax(rows < 0))]!r}; make the split from this set"
            )
        if len(np.unique(rows)) != len(rows):
            raise DataError(f"{path}: fold {fold} names a {role} sample twice; make the split again")
        return np.sort(rows).astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds the hashes of all shards and tables: the identity of the set."""
        return hashlib.sha256(self._text.encode("utf-8")).hexdigest()

    def verify(self) -> None:
        """Hashes every file, and checks that the mapped columns are the members of the tars.

        Raises:
            DataError: a file differs from what the manifest states; names it.
        """
        expected = {shard.name: shard.sha256 for shard in self.manifest.shards}
        expected |= {name: entry["sha256"] for name, entry in self.manifest.files.items()}
        for name, digest in expected.items():
            if sha256_file(self.directory / name) != digest:
                raise DataError(f"{self.directory / name}: its contents have changed since packing; copy it again")
        for shard in self.manifest.shards:
            _check_members(self.directory / shard.name, shard)
        _ = self.taxa
        _ = self.samples()
        _ = self.statistics

    def _map(self, number: int) -> NDArray[np.uint8]:
        mapped = self._maps.get(number)
        if mapped is None:
            shard = self.manifest.shards[number]
            with (self.directory / shard.name).open("rb") as stream:
                mapped = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
            if mapped.size != shard.bytes:
                raise DataError(f"{self.directory / shard.name}: has changed while it was open; open the set again")
            self._maps[number] = mapped
        return mapped

    def _gather(self, name: str, place: _Place) -> NDArray[Any]:
        """Bytes of a column, [B, bytes of a row], in the order asked for."""
        width = _row_bytes(self.manifest, name)
        out = np.empty((len(place.order), width), dtype=np.uint8)
        starts = self._offsets[name][place.chunk] + place.within * width
        edges = np.flatnonzero(np.diff(place.shard)) + 1
        step = max(1, _BLOCK_BYTES // width)
        for low, high in zip([0, *edges], [*edges, len(starts)], strict=True):
            if low == high:
                continue
            mapped = self._map(int(place.shard[low]))
            # Every window of `width` bytes of the file, as a view: indexing it by byte offset copies whole rows, and
            # an offset outside the file is an IndexError, never a wild read.
            windows = np.lib.stride_tricks.as_strided(
                mapped, shape=(mapped.size - width + 1, width), strides=(1, 1), writeable=False
            )
            for first in range(low, high, step):
                last = min(first + step, high)
                out[place.order[first:last]] = windows[starts[first:last]]
        return out


class _Place(NamedTuple):
    """Where the rows of a read lie, in file order."""

    order: NDArray[np.int64]
    chunk: NDArray[np.int64]
    within: NDArray[np.int64]
    shard: NDArray[np.int64]


def _row_bytes(manifest: Manifest, name: str) -> int:
    size = int(COLUMN_DTYPES[name][2:])
    for length in manifest.columns[name]:
        size *= length
    return size


def _missing(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory}: no such directory; give a packed directory (`geotreeclip pack` makes one)"
    if any(directory.glob("*.tar*")) or any(directory.glob(".pa*")):
        return (
            f"{directory}: is incomplete, it has shards but no {MANIFEST}: packing was interrupted; run the same "
            "command again to finish it, or delete the directory"
        )
    return f"{directory}: has no {MANIFEST}, so it is no packed set; `geotreeclip pack` makes one"


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); copy it again") from error


def _check_members(path: Path, shard: Shard) -> None:
    """Compares the columns that the manifest maps with the members of the tar."""
    members: dict[int, tuple[str, tuple[int, ...]]] = {}
    with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            stream.seek(member.offset_data)
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise DataError(f"{path}: member {member.name!r} has .npy version {version}; pack again")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            members[stream.tell()] = (dtype.str, shape) if not fortran else ("column-major", shape)
    for chunk in shard.chunks:
        for name, column in chunk.columns.items():
            if members.get(column.offset) != (column.dtype, column.shape):
                raise DataError(
                    f"{path}: column {name} at byte {column.offset} is {members.get(column.offset)} in the tar, "
                    f"{(column.dtype, column.shape)} in the manifest; pack again"
                )
