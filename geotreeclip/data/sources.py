"""Opens the shards that a user names: a path, `https://...` or `hf://datasets/...`, and nothing else.

No other scheme is accepted, so that a list of sources from elsewhere can neither start a program (`pipe:`) nor reach
into the network in ways that nobody asked for.
"""

from __future__ import annotations

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from geotreeclip.errors import DataError

__all__ = ["OpenSource", "expand_sources", "hub_faults", "open_source", "source_name"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_RETRIES = 5
_TIMEOUT = 60.0


@dataclass(frozen=True)
class OpenSource:
    """A source being read: a stream, its length where that is known, and what tells one version of it from another."""

    stream: BinaryIO
    size: int | None
    version: str


def source_name(source: str | Path) -> str:
    """The file name of a source, for reports."""
    return re.split(r"[?#]", str(source), maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]


def expand_sources(sources: Iterable[str | Path]) -> list[str]:
    """Shards in a stated order: files as given, directories and `hf://` folders or patterns as their sorted tars.

    Raises:
        DataError: a source has another scheme, does not exist, or holds no tar.
    """
    result: list[str] = []
    for source in sources:
        text = str(source)
        scheme = _scheme(text)
        if scheme == "hf" and ("*" in text or not text.endswith(".tar")):
            pattern = text.removeprefix("hf://").rstrip("/") + ("" if "*" in text else "/**/*.tar")
            try:
                found = _hub().glob(pattern)
            except hub_faults() as error:
                raise DataError(f"{text}: the hub cannot list it: {_first_line(error)}") from error
            shards = sorted(f"hf://{path}" for path in found)
        elif scheme or Path(text).is_file():
            shards = [text]
        elif Path(text).is_dir():
            shards = sorted(str(path) for path in Path(text).glob("*.tar"))
        else:
            raise DataError(f"{text}: no such file or directory")
        if not shards:
            raise DataError(f"{text}: holds no .tar")
        result += shards
    repeated = {shard for shard in result if result.count(shard) > 1} if len(set(result)) < len(result) else set()
    if repeated:
        raise DataError(f"{min(repeated)}: is named twice; name every shard once")
    return result


@contextmanager
def open_source(source: str | Path) -> Iterator[OpenSource]:
    """Opens a shard for reading forward.

    Raises:
        DataError: the scheme is refused, or the shard cannot be opened.
    """
    text = str(source)
    scheme = _scheme(text)
    if scheme == "https":
        with _HttpsFile(text) as stream:
            yield OpenSource(cast("BinaryIO", io.BufferedReader(stream, 1 << 20)), stream.size, stream.version)
    elif scheme == "hf":
        try:
            info: dict[str, Any] = _hub().info(text.removeprefix("hf://"))
            remote = _hub().open(text.removeprefix("hf://"), "rb", block_size=8 << 20)
        except hub_faults() as error:
            raise DataError(f"{text}: cannot be opened: {_first_line(error)}") from error
        with remote, io.BufferedReader(_HubFile(text, remote), 1 << 20) as stream:
            version = str(info.get("blob_id") or info.get("size"))
            yield OpenSource(cast("BinaryIO", stream), info.get("size"), version)
    else:
        try:
            local = Path(text).open("rb")  # noqa: SIM115 - closed below; only opening may fail here
        except OSError as error:
            raise DataError(f"{text}: cannot be opened: {error.strerror}") from error
        with local as stream:
            stat = Path(text).stat()
            yield OpenSource(stream, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def _scheme(text: str) -> str:
    """The scheme, https or hf, or an empty string for a path; anything else is refused."""
    found = _SCHEME.match(text)
    if found is None:
        return ""
    scheme = found[1].lower()
    if scheme not in ("https", "hf") or not text[len(scheme) :].startswith("://"):
        raise DataError(
            f"{text}: sources are paths, https:// or hf://datasets/..., not {found[0]!r}; download it first"
        )
    return scheme


def _hub() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def hub_faults() -> tuple[type[Exception], ...]:
    """What the client of the hub raises; errors of its transport are no OSErrors, but kin of its own errors."""
    from huggingface_hub.errors import HfHubHTTPError

    kin = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return OSError, ValueError, kin


def _first_line(error: Exception) -> str:
    """What went wrong, without the advice that the client of the hub adds below."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _HubFile(io.RawIOBase):
    """A file of the hub read forward; the client tries again by itself, and what it gives up on is a DataError."""

    def __init__(self, address: str, remote: Any) -> None:
        super().__init__()
        self._address, self._remote = address, remote

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._remote.read(len(buffer))
        except hub_faults() as error:
            raise DataError(f"{self._address}: {_first_line(error)}; run the command again") from error
        buffer[: len(data)] = data
        return len(data)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise DataError(f"{req.full_url}: redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _HttpsFile(io.RawIOBase):
    """A remote file read forward; a broken connection is taken up again where it broke."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self._opener = urllib.request.build_opener(_NoDowngrade)
        self._position = 0
        self._tries = 0
        self._response: Any = self._connect()
        length = self._response.headers.get("Content-Length")
        self.size = int(length) if length and length.isdigit() else None
        self.version = str(self._response.headers.get("ETag") or self._response.headers.get("Last-Modified") or length)
        self._tag = self._response.headers.get("ETag")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                data = self._response.read(len(buffer))
            except (OSError, http.client.HTTPException) as error:
                self._again(error)
                continue
            if not data and self.size is not None and self._position < self.size:
                self._again(EOFError(f"connection closed at byte {self._position} of {self.size}"))
                continue
            buffer[: len(data)] = data
            self._position += len(data)
            if data:
                self._tries = 0
            return len(data)

    def close(self) -> None:
        response = getattr(self, "_response", None)
        if response is not None:
            response.close()
        super().close()

    def _again(self, error: Exception) -> None:
        self._tries += 1
        if self._tries > _RETRIES:
            raise DataError(f"{self.url}: {error} after {_RETRIES} new attempts; run the command again") from error
        time.sleep(min(2.0**self._tries, 30.0))
        self._response.close()
        self._response = self._connect()

    def _connect(self) -> Any:
        request = urllib.request.Request(self.url, headers={"User-Agent": "geotreeclip"})  # noqa: S310 - https only
        if self._position:
            request.add_header("Range", f"bytes={self._position}-")
            if self._tag and not self._tag.startswith("W/"):
                request.add_header("If-Range", self._tag)
        try:
            response = self._opener.open(request, timeout=_TIMEOUT)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{self.url}: cannot be read: {error}") from error
        if self._position and response.status != http.client.PARTIAL_CONTENT:
            raise DataError(f"{self.url}: has changed, or cannot be resumed at byte {self._position}; start it again")
        if "html" in (response.headers.get("Content-Type") or ""):
            raise DataError(
                f"{self.url}: is a web page, not a tar; on the hub use /resolve/ in place of /tree/ or /blob/"
            )
        return response
