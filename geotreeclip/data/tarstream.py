"""Reads the members of an untrusted tar as a stream: nothing is extracted, nothing is believed.

The standard library reads headers of any size into memory, follows none of the damage it meets, and stops at the first
mark of the end. Here a header has a size limit, a member is only handed out when its type, name and size are
acceptable, and reading goes on behind damage at the next block that is a valid header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["Damage", "Member", "read_members"]

_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER = 64 * 1024
_SKIP = 1 << 20
_REGULAR = frozenset("0\0" + "7")
_KINDS = {"1": "a hard link", "2": "a symbolic link", "3": "a device", "4": "a device", "6": "a named pipe"}


@dataclass(frozen=True, slots=True)
class Member:
    """One member. ``data`` is None where ``fault`` says why it was not read.

    Attributes:
        name: its path in the archive, as written.
        data: its contents.
        fault: why it is refused, or "".
    """

    name: str
    data: bytes | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the archive itself is broken.

    Attributes:
        reason: what is wrong, and at which byte.
        name: the member it cuts, or "".
    """

    reason: str
    name: str = ""


def read_members(stream: BinaryIO, limit: Callable[[str], int], size: int | None = None) -> Iterator[Member | Damage]:
    """Streams the members of a tar.

    Args:
        stream: read forward only.
        limit: most bytes that a member of this name may have; 0 for names that must not be read at all.
        size: length of the stream where it is known, which unmasks headers that claim more.

    Yields:
        Members in order, directories left out, and damage where it is met.
    """
    position = 0
    ended = damaged = False
    override: dict[str, str] = {}

    def take(count: int) -> bytes:
        nonlocal position
        data = stream.read(count)
        # A stream over a network may give less than was asked for before its end.
        while len(data) < count:
            more = stream.read(count - len(data))
            if not more:
                break
            data += more
        position += len(data)
        return data

    def skip(count: int) -> bool:
        while count:
            step = min(count, _SKIP)
            if len(take(step)) < step:
                return False
            count -= step
        return True

    while True:
        start = position
        block = take(_BLOCK)
        if not block:
            if not ended and not damaged:
                yield Damage(f"the shard ends at byte {start} without its end mark: it is cut short")
            return
        if len(block) < _BLOCK:
            if not damaged:
                yield Damage(f"the shard ends at byte {position} inside a header: it is cut short")
            return
        if block.count(0) == _BLOCK:
            # Not the end for good: shards that were joined with `cat` go on behind it.
            ended = True
            continue
        header = _header(block)
        if header is None or (size is not None and header[1] > size - position and damaged):
            if not damaged:
                yield Damage(f"damaged header at byte {start}; going on at the next sound one")
            damaged, ended, override = True, False, {}
            continue
        name, length, kind = header
        padded = -(-length // _BLOCK) * _BLOCK
        if kind in "xgLK":
            if length > _MAX_HEADER:
                yield Damage(f"extended header of {length} bytes at byte {start}, the limit is {_MAX_HEADER}", name)
                override = {}
                if size is not None and length > size - position:
                    damaged, ended = True, False
                elif not skip(padded):
                    yield Damage(f"the shard ends at byte {position} inside an extended header: it is cut short")
                    return
                continue
            extended = take(padded)
            if len(extended) < padded:
                yield Damage(f"the shard ends at byte {position} inside an extended header: it is cut short")
                return
            if kind == "x":
                override = _pax(extended[:length])
            elif kind == "L":
                override = {"path": extended[:length].rstrip(b"\0").decode("utf-8", "surrogateescape")}
            continue
        damaged, ended = False, False
        name = override.get("path", name)
        if "size" in override:
            claimed = override["size"]
            length = int(claimed) if claimed.isascii() and claimed.isdigit() and len(claimed) < 19 else -1
            padded = -(-length // _BLOCK) * _BLOCK
        override = {}
        if length < 0 or (size is not None and length > size - position):
            left = "" if size is None else f" where {size - position} are left"
            what = f"at byte {start} this member claims {length} bytes{left}"
            yield Damage(f"the shard is cut short or damaged: {what}", name)
            damaged = True
            continue
        if kind == "5":
            continue
        most = limit(name)
        fault = _fault(name, kind) or (
            f"has {length} bytes, the limit is {most}" if 0 < most < length else "" if most else "is not known"
        )
        if fault:
            yield Member(name, None, fault)
            if not skip(0 if kind in _KINDS else padded):
                yield Damage(f"the shard ends at byte {position} inside this member: it is cut short", name)
                return
            continue
        data = take(padded)
        if len(data) < length:
            yield Damage(f"the shard ends at byte {position} inside this member: it is cut short", name)
            return
        yield Member(name, data[:length])


def _header(block: bytes) -> tuple[str, int, str] | None:
    """Name, size and type of a header block, or None where it is none. POSIX.1-1988 (ustar) and GNU fields."""
    try:
        stated = int(block[148:156].rstrip(b" \0") or b"0", 8)
    except ValueError:
        return None
    # The checksum counts its own field as blanks.
    if sum(block) - sum(block[148:156]) + 8 * 32 != stated:
        return None
    field = block[124:136]
    try:
        if field[0] & 0x80:  # base-256, for sizes of 8 GiB and more
            size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
        else:
            size = int(field.rstrip(b" \0") or b"0", 8)
    except ValueError:
        return None
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape"), size, chr(block[156])


def _pax(data: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE` of a pax header; what does not parse is left out."""
    records: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        if not digits.isdigit() or len(digits) > 6:
            break
        length = int(digits)
        record = data[len(digits) + 1 : length - 1]
        data = data[length:] if length else b""
        key, equals, value = record.partition(b"=")
        if equals and key in (b"path", b"size"):
            records[key.decode()] = value.decode("utf-8", "surrogateescape")
    return records


def _fault(name: str, kind: str) -> str:
    if kind not in _REGULAR:
        return f"is {_KINDS.get(kind, f'of the unknown type {kind!r}')}, not a file"
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "has an absolute path"
    if ".." in name.replace("\\", "/").split("/"):
        return "has a path that leaves the archive"
    if not name.isprintable():
        return "has a name with unprintable characters"
    return ""
