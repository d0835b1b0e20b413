"""Packed sets elsewhere: fetched once into a cache, every file checked against the hash that the manifest states.

A file is fetched aside and renamed when its hash is right, so what lies in the cache under its own name is whole. A
broken transfer goes on where it broke; a file whose hash is wrong is fetched once more from the start. Processes of one
machine take turns: the first fetches, the others find everything there.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from geotreeclip.cache import cache_directory
from geotreeclip.data.manifest import MANIFEST, Manifest, sha256_file
from geotreeclip.data.shardfile import sync_directory, write_atomically
from geotreeclip.data.sources import hub_faults
from geotreeclip.errors import DataError, run_main

__all__ = ["fetch_set", "is_remote", "turn"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PIECE = 1 << 20
_TRIES = 5
_TIMEOUT = 60.0
_MAX_MANIFEST = 1 << 30
_FAULTS = (OSError, http.client.HTTPException)


class _Absent(Exception):
    """There is no such remote file."""


def is_remote(source: str | Path) -> bool:
    """Whether a packed set is named by an address rather than a path."""
    return _SCHEME.match(str(source)) is not None


def fetch_set(
    source: str | Path,
    cache: Path | None = None,
    *,
    splits: Iterable[str] = ("default",),
    shards: int | None = None,
    verify: bool = False,
    tell: Callable[[str], None] = print,
) -> Path:
    """Bring a packed set to this machine, unless it is here.

    Args:
        source: `https://HOST/DIR`, `hf://datasets/OWNER/NAME/DIR` or `file:///DIR`; a path is given back as it is.
        cache: Where to keep it; by default `packed` in `geotreeclip.cache.cache_directory()`.
        splits: Splits to bring along where the set has them.
        shards: How many shards to fetch, from the first; None for all.
        verify: Hash again what is here already, and fetch anew what has changed.
        tell: Receives what is done, in words.

    Returns:
        The local directory. It is named after the contents of the manifest: another version has another directory.

    Raises:
        DataError: The set cannot be read, its manifest is damaged, or a file stays wrong after a second fetch.
    """
    if not is_remote(source):
        return Path(source)
    remote = _Remote(str(source).rstrip("/"))
    root = cache or cache_directory() / "packed"
    root.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", remote.address.rsplit("/", 1)[-1]) or "set"
    text = remote.text(MANIFEST)
    folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    manifest = Manifest.parse(text, f"{remote.address}/{MANIFEST}")
    wanted = {file: entry["sha256"] for file, entry in manifest.files.items()}
    sizes = {file: entry["bytes"] for file, entry in manifest.files.items()}
    for shard in manifest.shards[:shards]:
        wanted[shard.name], sizes[shard.name] = shard.sha256, shard.bytes
    folder.mkdir(exist_ok=True)
    with turn(folder):
        missing = [file for file in wanted if not _is_here(folder / file, sizes[file], wanted[file], verify)]
        if missing:
            size = sum(sizes[file] for file in missing)
            _check_room(folder, size)
            tell(f"fetching {len(missing)} files, {size / 1e6:,.1f} MB, from {remote.address} to {folder}")
            with tqdm(total=size, unit="B", unit_scale=True, desc="fetching", disable=None) as bar:
                for file in missing:
                    _fetch(remote, file, folder / file, wanted[file], sizes[file], bar, tell)
        for split in splits:
            _fetch_split(remote, split, folder)
        if not (folder / MANIFEST).exists():  # last: where there is one, all that was asked for is there
            write_atomically(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def _is_here(path: Path, size: int, digest: str, verify: bool) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    return not verify or sha256_file(path) == digest


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: {size / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} are free; name another place with --cache, "
            "or train with --stream"
        )


def _fetch(
    remote: _Remote, file: str, path: Path, digest: str, size: int, bar: Any, tell: Callable[[str], None]
) -> None:
    """Fetch a file and check it; a wrong one once more from the start."""
    partial = path.with_name(f".partial-{path.name}")
    for attempt in (1, 2):
        remote.download(file, partial, size, bar)
        found = sha256_file(partial)
        if found == digest:
            partial.replace(path)
            sync_directory(path.parent)
            return
        partial.unlink()
        if attempt == 1:
            tell(
                f"{remote.address}/{file}: has SHA-256 {found[:16]}, the manifest states {digest[:16]}; fetching again"
            )
            bar.update(-size)
    raise DataError(
        f"{remote.address}/{file}: has SHA-256 {found}, the manifest states {digest}, also when fetched again; the set "
        "was changed or damaged where it is kept"
    )


def _fetch_split(remote: _Remote, split: str, folder: Path) -> None:
    """A split, where the set has it; splits are no part of the manifest and are small."""
    path = folder / "splits" / f"{split}.parquet"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", split) or path.exists():
        return
    try:
        data = remote.bytes(f"splits/{split}.parquet")
    except _Absent:
        return
    except _FAULTS as error:
        raise DataError(f"{remote.address}/splits/{split}.parquet: cannot be read: {error}") from error
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda aside: aside.write_bytes(data))


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however that ends."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Remote:
    """A folder behind an address, read file by file from any byte on."""

    def __init__(self, address: str) -> None:
        self.address = address
        found = _SCHEME.match(address)
        self.scheme = found[1].lower() if found else ""
        host = urllib.parse.urlsplit(address).hostname
        if self.scheme not in ("https", "hf", "file") and not (self.scheme == "http" and host in _LOOPBACK):
            raise DataError(
                f"{address}: packed sets are paths, https://, hf://datasets/... or file://; download it first"
            )

    def text(self, file: str) -> str:
        """A small file as text."""
        try:
            return self.bytes(file).decode("utf-8")
        except _Absent as error:
            raise DataError(f"{self.address}: has no {file}, so it is no packed set; {error}") from error
        except _FAULTS as error:
            raise DataError(f"{self.address}/{file}: cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.address}/{file}: is no text ({error})") from error

    def bytes(self, file: str) -> bytes:
        """A small file whole."""
        with self._open(file, 0) as stream:
            data = stream.read(_MAX_MANIFEST + 1)
        if len(data) > _MAX_MANIFEST:
            raise DataError(f"{self.address}/{file}: is larger than {_MAX_MANIFEST} bytes")
        return data

    def download(self, file: str, partial: Path, size: int, bar: Any) -> None:
        """Bring `partial` to `size` bytes, from where an earlier transfer broke."""
        have = partial.stat().st_size if partial.exists() else 0
        if have > size:
            partial.unlink()
            have = 0
        bar.update(have)
        tries = 0
        while have < size:
            try:
                with self._open(file, have) as stream, partial.open("ab") as out:
                    while have < size and (data := stream.read(min(_PIECE, size - have))):
                        out.write(data)
                        have += len(data)
                        bar.update(len(data))
                        tries = 0
                fault: Exception = EOFError(f"it ends at byte {have} of {size}")
            except _Absent as error:
                raise DataError(f"{self.address}/{file}: named in the manifest, but {error}") from error
            except _FAULTS as error:
                fault = error
            if have < size:
                tries += 1
                if tries >= _TRIES:
                    raise DataError(
                        f"{self.address}/{file}: {fault}, {_TRIES} times in a row; the same command goes on from there"
                    ) from fault
                time.sleep(min(0.25 * 2.0**tries, 30.0))

    @contextmanager
    def _open(self, file: str, start: int) -> Iterator[BinaryIO]:
        address = f"{self.address}/{file}"
        if self.scheme == "file":
            path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
            if not path.is_file():
                raise _Absent("there is no such file")
            with path.open("rb") as local:
                local.seek(start)
                yield local
        elif self.scheme == "hf":
            from huggingface_hub import HfFileSystem

            try:
                with HfFileSystem().open(address.removeprefix("hf://"), "rb", block_size=8 << 20) as stream:
                    stream.seek(start)
                    yield cast("BinaryIO", stream)
            except FileNotFoundError as error:
                raise _Absent("the hub has no such file") from error
            except hub_faults() as error:
                raise ConnectionError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
        else:
            yield from _http(address, start)


def _http(address: str, start: int) -> Iterator[BinaryIO]:
    request = urllib.request.Request(address, headers={"User-Agent": "geotreeclip"})  # noqa: S310 - https or loopback
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.build_opener(_SameScheme).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):
            raise _Absent(f"the server answers {error.code} {error.reason}") from error
        raise
    with response:
        if start and response.status != http.client.PARTIAL_CONTENT:  # no ranges here: pass over what is there already
            while start and (data := response.read(min(_PIECE, start))):
                start -= len(data)
        yield response


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme != urllib.parse.urlsplit(req.full_url).scheme:
            raise DataError(f"{req.full_url}: redirects to {newurl}, which is not of the same scheme")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def main() -> None:
    """Fetch a set before a job of many machines starts: `python -m geotreeclip.data.remote ADDRESS [CACHE]`."""
    if not 2 <= len(sys.argv) <= 3:
        raise DataError("usage: python -m geotreeclip.data.remote ADDRESS [CACHE]")
    folder = fetch_set(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else None, verify=True)
    print(f"complete and verified: {folder}")


if __name__ == "__main__":
    sys.exit(run_main(main))
