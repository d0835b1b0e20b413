"""The page's server: static files and a JSON API over HTTP, from the standard library.

Why not a framework: the page has six questions and three files. `http.server` and a page written by hand need no extra
to install, no build, no content delivery network and no telemetry, start at once, and work offline; keyboard, contrast,
layout and errors are in our hands. It is made for one person on one machine: bound to this machine alone by default,
without encryption and without users. It is no server for the open internet.

Nothing that is asked for becomes a path: static files are a fixed table. Every error is JSON, {"error": one line}, with
its status. Uploads are limited in bytes and rows and never touch the disk.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import sys
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from geotreeclip.errors import ConfigError, GeotreeclipError
from geotreeclip.page.api import Api

__all__ = ["MAX_TABLE_BYTES", "PageServer", "serve"]

MAX_TABLE_BYTES = 2_000_000
"""Largest table that can be uploaded."""

_MAX_JSON_BYTES = 10_000
_DRAINED = 16_000_000  # bytes of a refused upload that are read, so that the browser sees the answer

_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/map.js": ("map.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Refused(Exception):
    """A request that gets no answer, with its status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class PageServer(ThreadingHTTPServer):
    """Serves one `Api`.

    Args:
        api: What answers.
        host: Address to listen on.
        port: Port, 0 for any free one.

    Raises:
        ConfigError: If the address cannot be had.
    """

    daemon_threads = True

    def __init__(self, api: Api, host: str = "127.0.0.1", port: int = 7860) -> None:
        self.api = api
        if not 0 <= port <= 65535:
            raise ConfigError(f"--port is {port}; give a number from 1 to 65535, or 0 for any free one")
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            hint = "is taken; give another with --port" if taken else f"cannot be had ({error.strerror or error})"
            raise ConfigError(f"port {port} of {host} {hint}") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; a fault of ours is printed, and the server goes on."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host, port = self.server_address[:2]
        shown = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        return f"http://{'127.0.0.1' if shown == '0.0.0.0' else shown}:{port}/"  # noqa: S104  # compared, not bound

    @cached_property
    def local(self) -> bool:
        """Whether the server listens to this machine alone."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback


def serve(api: Api, host: str = "127.0.0.1", port: int = 7860, say: Callable[[str], None] = print) -> None:
    """Serve the page until interrupted."""
    with PageServer(api, host, port) as server:
        try:
            say(f"the page: {server.url}  (Ctrl+C ends it)")
            if not server.local:
                say(f"note: listening on {host}: everyone who reaches this machine can ask, without a password")
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "geotreeclip"
    sys_version = ""
    timeout = 60  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_HEAD(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself (other methods, malformed requests) is JSON too."""
        self.close_connection = True
        self._send_json({"error": message or HTTPStatus(code).phrase}, HTTPStatus(code))

    def _respond(self, answer: Callable[[str, dict[str, str]], None]) -> None:
        try:
            self._check_host()
            answer(*self._address())
        except _Refused as refused:
            self.close_connection = True
            self._send_json({"error": str(refused)}, refused.status)
        except GeotreeclipError as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path in _STATIC:
            name, kind = _STATIC[path]
            self._send(files("geotreeclip.page").joinpath("static", name).read_bytes(), kind)
        elif path == "/api/world":
            self._send_json(self.server.api.world())
        elif path == "/api/place":
            self._send_json(self.server.api.place(query))
        elif path == "/api/truth":
            self._send_json(self.server.api.truth(query))
        elif path == "/api/example.csv":
            self._send(self.server.api.example().encode(), "text/csv; charset=utf-8", attachment="example.csv")
        elif path in ("/api/classify", "/api/table"):
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes POST")
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str, query: dict[str, str]) -> None:
        # The kinds of content are such that a page of another site cannot send them without asking first.
        if path == "/api/classify":
            body = self._body(_MAX_JSON_BYTES, "application/json")
            try:
                question = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise _Refused(HTTPStatus.BAD_REQUEST, "the question is no JSON") from error
            self._send_json(self.server.api.classify(question))
        elif path == "/api/table":
            self._send_json(self.server.api.table(self._body(MAX_TABLE_BYTES, "text/csv"), query))
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _check_host(self) -> None:
        """A page of another site that makes its name point here is turned away (DNS rebinding)."""
        name = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]").lower()
        if self.server.local and name not in ("localhost", "127.0.0.1", "::1", str(self.server.server_address[0])):
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to localhost only")

    def _address(self) -> tuple[str, dict[str, str]]:
        """Path and query."""
        try:
            parts = urlsplit(self.path)
            return parts.path, dict(parse_qsl(parts.query, max_num_fields=10))
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the address cannot be read") from error

    def _body(self, limit: int, kind: str) -> bytes:
        given = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 15):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request must state its length")
        size = int(length)
        if size > limit:
            self._drain(min(size, _DRAINED))
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{size:,} bytes are too many, the page takes {limit:,}; `geotreeclip classify` takes any size",
            )
        body = self.rfile.read(size)
        if given != kind:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content is {given[:40]!r}; send {kind}")
        if len(body) < size:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the request broke off")
        return body

    def _drain(self, size: int) -> None:
        while size > 0 and (part := self.rfile.read(min(size, 1 << 16))):
            size -= len(part)

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content, allow_nan=False).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, attachment: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if attachment:
            self.send_header("Content-Disposition", f'attachment; filename="{attachment}"')
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
