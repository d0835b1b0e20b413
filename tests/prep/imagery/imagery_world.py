"""A small world of synthetic scenes: rasters of some 60 pixels, a static catalog, and what was planted in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from geotreeclip.schema import BANDS

rasterio = pytest.importorskip("rasterio")
from pyproj import Transformer  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

FINE = ("B2", "B3", "B4", "B8")
KEYS = {"B2": "B02", "B3": "B03", "B4": "B04", "B8": "B08", "B5": "B05", "B6": "B06", "B7": "B07"}


class World:
    """Writes scenes and their catalog."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items: list[dict[str, Any]] = []
        self.links: list[str] = []

    def scene(
        self,
        name: str,
        time: str,
        *,
        left: float = 500_000,
        top: float = 5_100_000,
        size: int = 60,
        epsg: int = 32633,
        degrees: tuple[float, float, float] | None = None,
        value: float | Callable[[str, np.ndarray], np.ndarray] = 1000,
        classes: Callable[[np.ndarray], np.ndarray] | int = 4,
        take: str = "",
        tile: str = "33TWM",
        baseline: str = "03.01",
        properties: dict[str, Any] | None = None,
        offset: float | None = None,
        bands: tuple[str, ...] = BANDS,
        georeferenced: bool = True,
        made: str = "",
        bbox: list[float] | None = None,
    ) -> dict[str, Any]:
        """A scene of `size` pixels of 10 m; bands of 20 m and SCL have half as many."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        assets = {}
        for band in (*bands, "SCL"):
            step = 10 if band in FINE else 20
            count = size * 10 // step
            base = np.zeros((count, count), np.uint16)
            if band == "SCL":
                data = (classes(base) if callable(classes) else base + classes).astype(np.uint8)
            else:
                data = (value(band, base) if callable(value) else base + value).astype(np.uint16)
            key = KEYS.get(band, band)
            path = folder / f"{key}.tif"
            transform = Affine(step, 0, left, 0, -step, top)
            where: dict[str, Any] = {"crs": f"EPSG:{epsg}", "transform": transform}
            if degrees:  # west, north, and a pixel of 10 m
                cell = degrees[2] * step / 10
                where = {"crs": "EPSG:4326", "transform": Affine(cell, 0, degrees[0], 0, -cell, degrees[1])}
            with rasterio.open(
                path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=1, dtype=data.dtype,
                tiled=True, blockxsize=32, blockysize=32, compress="deflate", nodata=0,
                **(where if georeferenced else {}),
            ) as sink:  # fmt: skip
                sink.write(data, 1)
            asset: dict[str, Any] = {"href": f"./{name}/{key}.tif"}
            if not georeferenced:
                asset |= {"proj:transform": list(transform)[:6], "proj:shape": list(data.shape)}
            if offset is not None and band != "SCL":
                asset["raster:bands"] = [{"scale": 0.0001, "offset": offset, "nodata": 0}]
            assets[key] = asset
        edge = size * 10
        lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(
            [left, left + edge, left, left + edge], [top, top, top - edge, top - edge]
        )
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": "sentinel-2-l2a",
            "bbox": bbox or [min(lon), min(lat), max(lon), max(lat)],
            "geometry": None,
            "properties": {
                "datetime": time,
                "proj:epsg": epsg,
                "s2:datatake_id": f"GS2A_{take or time[:10].replace('-', '') + 'T100000'}_000001_N{baseline}",
                "s2:mgrs_tile": tile,
                "s2:processing_baseline": baseline,
                **({"s2:generation_time": made} if made else {}),
                **(properties or {}),
            },
            "links": [],
            "assets": assets,
        }
        self.items.append(item)
        return item

    def catalog(self) -> Path:
        """Writes items and catalog; returns the catalog's path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in self.items]
        for item in self.items:
            (self.folder / f"{item['id']}.json").write_text(json.dumps(item))
        links += [{"rel": "item", "href": href} for href in self.links]
        document = {"type": "Catalog", "id": "world", "stac_version": "1.0.0", "description": "", "links": links}
        path = self.folder / "catalog.json"
        path.write_text(json.dumps(document))
        return path


def at(pixels: list[tuple[float, float]], *, left: float = 500_000, top: float = 5_100_000, epsg: int = 32633):
    """Longitudes and latitudes of the centres of pixels (column, row) of 10 m."""
    x = [left + 10 * column + 5 for column, _ in pixels]
    y = [top - 10 * row - 5 for _, row in pixels]
    return Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)


def occurrences(path: Path, lon: Any, lat: Any, year: Any = 2020, **columns: Any) -> Path:
    """A table of occurrences with ids p0, p1, ..."""
    frame = pd.DataFrame(
        {"sample_id": [f"p{n}" for n in range(len(lon))], "longitude": lon, "latitude": lat, **columns}
    )
    frame["year"] = pd.array([year] * len(lon) if np.isscalar(year) else year, dtype="Int32")
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    return path


class Server(ThreadingHTTPServer):
    """Serves a folder, or answers of a function, over loopback HTTP."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no failure."""


@contextmanager
def served(
    folder: Path | None = None, answer: Callable[[str], tuple[int, bytes]] | None = None, *, ranges: bool = True
):
    """A server; yields its address and the list of paths asked for.

    Args:
        folder: Files to serve.
        answer: Path and query to status and body; None of it falls back to the folder.
        ranges: Whether parts of files are given.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            asked.append(self.path)
            path = folder / urlsplit(self.path).path.lstrip("/") if folder else None
            if answer is not None:
                status, data = answer(self.path + ("?" + body if body else ""))
            elif path is not None and path.is_file():
                status, data = 200, path.read_bytes()
            else:
                status, data = 404, b""
            wanted = self.headers.get("Range")
            self.send_response(206 if wanted and ranges and status == 200 else status)
            if wanted and ranges and status == 200:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                end = min(int(last or len(data) - 1), len(data) - 1)
                self.send_header("Content-Range", f"bytes {first}-{end}/{len(data)}")
                data = data[int(first) : end + 1]
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
