"""The published shard format: a reader that trusts nothing, and a writer for exports and tests.

A sample is three members that follow each other: `KEY.images.pth` (float64 [12, 10, 5, 5], raw digital numbers, NaN
where missing), `KEY.text.json` (the four ranks) and `KEY.auxiliary.json` (sample id and the 27 variables). Only these
names are read, each up to a size limit; a sample that is not right is refused alone, with the reason.

Shape letters: T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.data.sources import OpenSource, open_source, source_name
from geotreeclip.data.tarstream import Damage, Member, read_members
from geotreeclip.data.tensorfile import MAX_TENSOR_BYTES, TensorDecoder, TensorError
from geotreeclip.schema import BANDS, MONTHS, PATCH, PUBLISHED_RANK_FIELDS, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon

__all__ = ["PublishedSample", "Refusal", "read_open_source", "read_published", "write_published"]

IMAGE_SHAPE = (MONTHS, len(BANDS), PATCH, PATCH)
IMAGES, TEXT, AUXILIARY = "images.pth", "text.json", "auxiliary.json"
_LIMITS = {IMAGES: MAX_TENSOR_BYTES, TEXT: 16 * 1024, AUXILIARY: 64 * 1024}
_MAX_NAME = 200
_BOUNDS = {"longitude": 180.0, "latitude": 90.0}


class PublishedSample(NamedTuple):
    """One sample as published.

    Attributes:
        key: name of its members.
        images: float [12, 10, 5, 5], digital numbers, NaN where missing.
        environment: float64 [27] in the units of the file (WorldClim 1 in the published set), NaN where missing.
        taxon: its exact level0 to species tuple.
        sample_id: from the auxiliary member; the key where it has none.
        shard: file name of its shard.
    """

    key: str
    images: NDArray[np.floating[Any]]
    environment: NDArray[np.float64]
    taxon: Taxon
    sample_id: str
    shard: str


class Refusal(NamedTuple):
    """Something that was not read.

    Attributes:
        shard: file name of the shard.
        key: the sample, or the one before the damage; "" at the start of a shard.
        reason: what is wrong, with the value seen.
        is_sample: True where a sample was lost, False for a member outside the format or damage between samples.
    """

    shard: str
    key: str
    reason: str
    is_sample: bool = True

    def __str__(self) -> str:
        return f"{self.shard}, {self.key or 'before the first sample'}: {self.reason}"


def read_published(source: str | Path) -> Iterator[PublishedSample | Refusal]:
    """Streams a published shard.

    Args:
        source: a path, `https://...` or `hf://datasets/...`.

    Yields:
        Samples in order, and a refusal for each that is not right; the stream always goes on to the end.

    Raises:
        DataError: the source cannot be opened, or its scheme is refused.
    """
    with open_source(source) as opened:
        yield from read_open_source(opened, source_name(source))


def read_open_source(opened: OpenSource, shard: str) -> Iterator[PublishedSample | Refusal]:
    """As `read_published`, from a stream that is already open."""
    decoder = TensorDecoder(IMAGE_SHAPE)
    outcome: dict[str, bool] = {}
    group: _Group | None = None
    for item in read_members(opened.stream, _limit, opened.size):
        key, suffix = _split(item.name)
        if suffix not in _LIMITS:
            # Damage, or a member outside the format: reported, never decoded, and no reason to lose a sample.
            reason = item.reason if isinstance(item, Damage) else f"member {item.name!r:.120} is not part of the format"
            yield Refusal(shard, key or (group.key if group else ""), reason, is_sample=False)
            continue
        if group is None or group.key != key or group.again(suffix):
            if group is not None:
                yield from _finish(group, shard, outcome, decoder)
            group = _Group(key)
        group.take(suffix, item)
    if group is not None:
        yield from _finish(group, shard, outcome, decoder)


@dataclass
class _Group:
    """Members of one sample as they come."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""

    def again(self, suffix: str) -> bool:
        """Whether this member begins the same key anew behind a whole sample."""
        return suffix in self.members and len(self.members) == len(_LIMITS) and not self.fault

    def take(self, suffix: str, item: Member | Damage) -> None:
        if isinstance(item, Damage):
            self.fault = self.fault or f"{suffix}: {item.reason}"
        elif item.data is None:
            self.fault = self.fault or f"{suffix} {item.fault}"
        elif suffix in self.members:
            self.fault = self.fault or f"{suffix} comes twice"
        else:
            self.members[suffix] = item.data


class _Wrong(Exception):
    """A member is not what the format says; the message says why."""


def _finish(
    group: _Group, shard: str, outcome: dict[str, bool], decoder: TensorDecoder
) -> Iterator[PublishedSample | Refusal]:
    """Decodes a group; each key gives one sample or one refusal, and one more refusal if it comes again."""
    earlier = outcome.get(group.key)
    if earlier is False:
        return
    try:
        if earlier:
            raise _Wrong("comes again in this shard; the first one is kept")
        if group.fault:
            raise _Wrong(group.fault)
        absent = [suffix for suffix in _LIMITS if suffix not in group.members]
        if absent:
            raise _Wrong(f"lacks {', '.join(absent)}; the members of a sample must follow each other")
        sample = _decode(group, shard, decoder)
    except _Wrong as error:
        outcome[group.key] = False
        yield Refusal(shard, group.key, str(error))
    else:
        outcome[group.key] = True
        yield sample


def _decode(group: _Group, shard: str, decoder: TensorDecoder) -> PublishedSample:
    text = _record(group.members[TEXT], TEXT)
    auxiliary = _record(group.members[AUXILIARY], AUXILIARY)
    names = []
    for name in PUBLISHED_RANK_FIELDS:
        value = text.get(name)
        if value is None and name in text:
            value = ""
        if not isinstance(value, str) or len(value) > _MAX_NAME or not (value.isprintable()):
            raise _Wrong(f"{TEXT} field {name} is {value!r:.60}, expected a name")
        names.append(value.strip())
    if not any(names):
        raise _Wrong(f"{TEXT} names no taxon")
    environment = np.array([_number(auxiliary.get(name), name) for name in VARIABLE_NAMES])
    try:
        images = decoder.decode(group.members[IMAGES])
    except TensorError as error:
        raise _Wrong(f"{IMAGES} {error}") from error
    if np.isinf(images).any():
        place = tuple(int(index) for index in np.argwhere(np.isinf(images))[0])
        raise _Wrong(f"{IMAGES} has an infinite value at month {place[0] + 1}, band {BANDS[place[1]]}")
    return PublishedSample(
        group.key, images, environment, Taxon(*names), _sample_id(auxiliary.get("sample_id"), group.key), shard
    )


def _record(data: bytes, suffix: str) -> dict[str, Any]:
    """The JSON object of a member: an object, or a list that holds one."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _Wrong(f"{suffix} is no JSON ({str(error) or type(error).__name__:.100})") from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise _Wrong(f"{suffix} holds {type(value).__name__}, expected one object")
    return value


def _number(value: object, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{AUXILIARY} field {name} is {value!r:.60}, expected a number or null")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number) or abs(number) > _BOUNDS.get(name, 1e9):
        raise _Wrong(f"{AUXILIARY} field {name} is {number!r}, which is out of range")
    return number


def _sample_id(value: object, key: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool) or not isinstance(value, int | str):
        if value is not None:
            raise _Wrong(f"{AUXILIARY} field sample_id is {value!r:.60}, expected text or an integer")
        return key
    name = str(value)
    if not 0 < len(name.encode("utf-8", "replace")) <= _MAX_NAME or not name.isprintable():
        raise _Wrong(f"{AUXILIARY} field sample_id is {name!r:.60}, expected 1 to {_MAX_NAME} printable bytes")
    return name


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member, at the first dot of the file name, as WebDataset splits them."""
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return folder + slash + key, suffix


def _limit(name: str) -> int:
    return _LIMITS.get(_split(name)[1], 0)


def write_published(path: str | Path, samples: Iterable[PublishedSample]) -> int:
    """Writes a shard in the published format (float64 tensors, null where a variable is missing).

    Args:
        path: the tar; it appears when it is complete.
        samples: what to write, with the environment in the units that the file shall have.

    Returns:
        The number of samples written.
    """
    import torch

    written = 0

    def write(target: Path) -> None:
        nonlocal written
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples:
                tensor = io.BytesIO()
                # A copy: torch warns of read-only arrays.
                torch.save(torch.from_numpy(np.array(sample.images, dtype=np.float64)), tensor)
                values = [None if math.isnan(value) else float(value) for value in sample.environment]
                auxiliary = {"sample_id": sample.sample_id, **dict(zip(VARIABLE_NAMES, values, strict=True))}
                ranks = dict(zip(PUBLISHED_RANK_FIELDS, sample.taxon, strict=True))
                for suffix, data in (
                    (IMAGES, tensor.getvalue()),
                    (TEXT, json.dumps(ranks).encode()),
                    (AUXILIARY, json.dumps(auxiliary).encode()),
                ):
                    member = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                written += 1

    write_atomically(Path(path), write)
    return written
