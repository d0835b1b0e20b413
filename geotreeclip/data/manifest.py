"""The manifest of a packed set: what the shards hold and where, and the checks that make it safe to map them.

A manifest may come from anywhere, so nothing in it is believed: names, sizes, types, shapes and offsets are checked
against the schema and the files before a single byte is mapped.

Shape letters: N samples of a chunk, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from geotreeclip.errors import DataError
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH, REFLECTANCE_SCALE, VARIABLE_NAMES, VARIABLES

__all__ = [
    "COLUMN_DTYPES",
    "MANIFEST",
    "Chunk",
    "Column",
    "Manifest",
    "Shard",
    "check_size",
    "sha256_file",
    "shard_from_json",
]

MANIFEST = "manifest.json"
FORMAT = "geotreeclip-packed"
FORMAT_VERSION = 1

COLUMN_DTYPES: Mapping[str, str] = {"images": "<u2", "environment": "<f4", "taxon": "<i4", "days": "<f4"}
"""Storage type of each column but sample_id, whose width varies (fixed-width UTF-8 bytes)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")
_ID_DTYPE = re.compile(r"\|S([1-9][0-9]{0,3})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_STEPS, _MAX_SIDE, _MAX_BANDS = 512, 1024, 512


@dataclass(frozen=True, slots=True)
class Column:
    """One column of one chunk: raw little-endian values, row-major, ``offset`` bytes into the shard."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        size = int(self.dtype[2:])
        for length in self.shape[1:]:
            size *= length
        return size


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to 512 samples of a shard, column by column."""

    samples: int
    columns: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file."""

    name: str
    samples: int
    bytes: int
    sha256: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Manifest:
    """What a packed set holds.

    Attributes:
        shards: the tar files in row order.
        has_images: whether there is imagery; without it T, H and W are 0 here.
        steps: T.
        bands: names of the bands, C of them.
        height: H.
        width: W.
        has_days: whether each sample carries the first and last day of its steps; else steps are calendar months.
        worldclim: WorldClim version that the values come from; their units are always those of version 2.1.
        resolution: resolution of the environmental rasters, in words.
        source: where the samples come from, in words.
        licences: samples of each licence, "not stated" among them; empty for sets packed without licences.
        datasets: data sets that the samples come from, 0 where unknown; `samples.parquet` has their keys.
        files: the tables beside the shards, name to {"bytes", "sha256"}.
    """

    shards: tuple[Shard, ...]
    has_images: bool = True
    steps: int = MONTHS
    bands: tuple[str, ...] = BANDS
    height: int = PATCH
    width: int = PATCH
    has_days: bool = False
    worldclim: str = "2.1"
    resolution: str = ""
    source: str = ""
    licences: dict[str, int] = field(default_factory=dict)
    datasets: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """T, C, H, W of one sample (T = 0 without imagery)."""
        return self.steps, len(self.bands), self.height, self.width

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Columns of every chunk and the shape of one sample in each."""
        columns: dict[str, tuple[int, ...]] = {}
        if self.has_images:
            columns["images"] = self.image_shape
        columns |= {"environment": (len(VARIABLE_NAMES),), "taxon": (), "sample_id": ()}
        if self.has_days:
            columns["days"] = (self.steps, 2)
        return columns

    def to_json(self) -> str:
        """The manifest as JSON text."""
        images = {
            "dtype": "uint16",
            "missing": MISSING_DN,
            "unit": "Sentinel-2 Level-2A digital number",
            "per_reflectance": REFLECTANCE_SCALE,
            "offset": 0,
            "rounding": "to the nearest integer, half to even: at most 0.5 digital numbers",
            "steps": self.steps,
            "bands": list(self.bands),
            "height": self.height,
            "width": self.width,
            "days": "per sample, column days: first and last day of each step, days of a 365-day year from 1"
            if self.has_days
            else "calendar months",
        }
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "samples": self.samples,
            "source": self.source,
            "images": images if self.has_images else None,
            "environment": {
                "dtype": "float32",
                "missing": "NaN",
                "variables": list(VARIABLE_NAMES),
                "units": [variable.unit for variable in VARIABLES],
                "worldclim": self.worldclim,
                "resolution": self.resolution,
            },
            "has_days": self.has_days,
            **({"licences": self.licences} if self.licences else {}),
            **({"datasets": self.datasets} if self.datasets else {}),
            "files": self.files,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, directory: Path, shards: int | None = None) -> Manifest:
        """Reads and checks a manifest against the files of its directory.

        Args:
            text: the manifest.
            directory: where its files are.
            shards: how many of the shards must be there, from the first; None for all.

        Raises:
            DataError: it is no manifest, or it contradicts the schema, itself or the files.
        """
        manifest = cls.parse(text, directory / MANIFEST)
        for shard in manifest.shards[:shards]:
            check_size(directory / shard.name, shard.bytes)
        for name, entry in manifest.files.items():
            check_size(directory / name, entry["bytes"])
        return manifest

    @classmethod
    def parse(cls, text: str, where: Path | str) -> Manifest:
        """Reads a manifest whose files may be elsewhere; `where` is named in errors.

        Raises:
            DataError: it is no manifest, or it contradicts the schema or itself.
        """
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where}: is no JSON ({error}); pack the set again") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise DataError(f"{where}: is no manifest of a packed set (no format {FORMAT!r}); give a packed directory")
        if document.get("version") != FORMAT_VERSION:
            raise DataError(
                f"{where}: has format version {document.get('version')!r}, this release reads {FORMAT_VERSION}; "
                "install a newer geotreeclip, or pack the set again"
            )
        return _Reader(where).manifest(document)


def check_size(path: Path, expected: int) -> None:
    """Raises a DataError unless the file is there with the size that the manifest states."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: named in the manifest, but {error.strerror}; copy it again or pack again") from error
    if size != expected:
        fault = "is cut short" if size < expected else "is longer than it should be"
        raise DataError(f"{path}: {fault}: {size} bytes, the manifest states {expected}; copy it again or pack again")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shard_from_json(value: object, columns: Mapping[str, tuple[int, ...]], where: Path) -> Shard:
    """One entry of the list of shards, checked as in a manifest."""
    return _Reader(where).shard(value, "shard", columns)


class _Reader:
    """Takes typed values out of untrusted JSON; every refusal names the file and the field."""

    def __init__(self, where: Path | str) -> None:
        self.where = where

    def fail(self, what: str) -> DataError:
        return DataError(f"{self.where}: {what}; the manifest is damaged, copy it again or pack again")

    def integer(self, value: object, name: str, low: int, high: int = 2**62) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(f"{name} is {value!r}, expected an integer from {low} to {high}")
        return value

    def text(self, value: object, name: str, pattern: re.Pattern[str] | None = None) -> str:
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.fail(f"{name} is {value!r}, which is not allowed there")
        return value

    def items(self, value: object, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.fail(f"{name} is {value!r:.80}, expected a list")
        return value

    def record(self, value: object, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(f"{name} is {value!r:.80}, expected an object")
        return value

    def manifest(self, document: dict[str, Any]) -> Manifest:
        environment = self.record(document.get("environment"), "environment")
        if environment.get("variables") != list(VARIABLE_NAMES):
            raise self.fail(f"environment.variables is {environment.get('variables')!r:.80}, not those of the schema")
        files = {
            self.text(name, "files", re.compile(r"[a-z]+\.(parquet|json)")): {
                "bytes": self.integer(self.record(entry, f"files.{name}").get("bytes"), f"files.{name}.bytes", 0),
                "sha256": self.text(entry.get("sha256"), f"files.{name}.sha256", _SHA256),
            }
            for name, entry in self.record(document.get("files"), "files").items()
        }
        has_days = document.get("has_days")
        if not isinstance(has_days, bool):
            raise self.fail(f"has_days is {has_days!r}, expected true or false")
        described: dict[str, Any] = {"has_images": False, "steps": 0, "height": 0, "width": 0, "has_days": has_days}
        if document.get("images") is not None:
            images = self.record(document["images"], "images")
            if images.get("missing") != MISSING_DN or images.get("offset") != 0:
                raise self.fail(
                    f"images have missing value {images.get('missing')!r} and offset {images.get('offset')!r}, "
                    f"this release reads {MISSING_DN} and 0"
                )
            bands = tuple(self.text(band, "images.bands") for band in self.items(images.get("bands"), "images.bands"))
            if not 1 <= len(bands) <= _MAX_BANDS or len(set(bands)) != len(bands):
                raise self.fail(f"images.bands is {bands!r:.80}, expected distinct names")
            described |= {
                "has_images": True,
                "steps": self.integer(images.get("steps"), "images.steps", 1, _MAX_STEPS),
                "bands": bands,
                "height": self.integer(images.get("height"), "images.height", 1, _MAX_SIDE),
                "width": self.integer(images.get("width"), "images.width", 1, _MAX_SIDE),
            }
        elif has_days:
            raise self.fail("has_days is true, but there is no imagery")
        licences = {
            self.text(name, "licences"): self.integer(count, f"licences.{name:.60}", 0)
            for name, count in self.record(document.get("licences", {}), "licences").items()
        }
        empty = Manifest(
            shards=(), files=files, source=self.text(document.get("source"), "source"),
            worldclim=self.text(environment.get("worldclim"), "environment.worldclim"),
            resolution=self.text(environment.get("resolution"), "environment.resolution"),
            licences=licences, datasets=self.integer(document.get("datasets", 0), "datasets", 0), **described,
        )  # fmt: skip
        shards = tuple(
            self.shard(shard, f"shards[{number}]", empty.columns)
            for number, shard in enumerate(self.items(document.get("shards"), "shards"))
        )
        if len({shard.name for shard in shards}) != len(shards):
            raise self.fail("shards name the same file twice")
        stated = self.integer(document.get("samples"), "samples", 0)
        counted = sum(shard.samples for shard in shards)
        if stated != counted:
            raise self.fail(f"samples is {stated}, but the shards hold {counted}")
        return replace(empty, shards=shards)

    def shard(self, value: object, name: str, columns: Mapping[str, tuple[int, ...]]) -> Shard:
        entry = self.record(value, name)
        size = self.integer(entry.get("bytes"), f"{name}.bytes", 1)
        chunks = tuple(
            self.chunk(chunk, f"{name}.chunks[{number}]", columns, size)
            for number, chunk in enumerate(self.items(entry.get("chunks"), f"{name}.chunks"))
        )
        samples = self.integer(entry.get("samples"), f"{name}.samples", 1)
        if samples != sum(chunk.samples for chunk in chunks):
            raise self.fail(f"{name}.samples is {samples}, its chunks hold {sum(chunk.samples for chunk in chunks)}")
        return Shard(
            name=self.text(entry.get("name"), f"{name}.name", _NAME), samples=samples, bytes=size,
            sha256=self.text(entry.get("sha256"), f"{name}.sha256", _SHA256), chunks=chunks,
        )  # fmt: skip

    def chunk(self, value: object, name: str, columns: Mapping[str, tuple[int, ...]], size: int) -> Chunk:
        entry = self.record(value, name)
        samples = self.integer(entry.get("samples"), f"{name}.samples", 1, 2**31)
        stored = self.record(entry.get("columns"), f"{name}.columns")
        if set(stored) != set(columns):
            raise self.fail(f"{name}.columns are {sorted(stored)}, expected {sorted(columns)}")
        checked = {}
        for key, row_shape in columns.items():
            field_name = f"{name}.columns.{key}"
            column = self.record(stored[key], field_name)
            dtype, shape = column.get("dtype"), column.get("shape")
            if shape != [samples, *row_shape]:
                raise self.fail(f"{field_name}.shape is {shape!r:.80}, expected {[samples, *row_shape]}")
            if key == "sample_id":
                dtype = self.text(dtype, f"{field_name}.dtype", _ID_DTYPE)
            elif dtype != COLUMN_DTYPES[key]:
                raise self.fail(f"{field_name}.dtype is {dtype!r:.80}, expected {COLUMN_DTYPES[key]!r}")
            offset = self.integer(column.get("offset"), f"{field_name}.offset", 0)
            checked[key] = Column(offset, dtype, (samples, *row_shape))
            end = offset + samples * checked[key].row_bytes
            if end > size:
                raise self.fail(f"{field_name} reaches to byte {end} of a shard of {size} bytes")
        return Chunk(samples, checked)
