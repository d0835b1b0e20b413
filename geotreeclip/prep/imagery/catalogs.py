"""Scenes by place and time: of a static STAC catalog, indexed once, or of a STAC API, asked part by part.

S scenes, N points.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery.offsets import OffsetRules
from geotreeclip.prep.imagery.problems import NotAScene, SceneLost, Unreachable
from geotreeclip.prep.imagery.scenes import CLASSES, Scene, newest_baselines, scene_of

__all__ = [
    "Findings",
    "SceneIndex",
    "absolute",
    "ask_api",
    "covers",
    "host_of",
    "is_api",
    "load_index",
    "read_json",
    "usable",
    "walk",
    "write_index",
]

_TOLERANCE = 0.002
"""Degrees by which the extent of an item is widened: about 200 m, for it is drawn around the pixels roughly."""


@dataclass(slots=True)
class Findings:
    """What became of the items of a catalog.

    Attributes:
        scenes: Those that can be read.
        items: Items read.
        dead: Links that lead nowhere.
        refused: Reason to the ids of items that are no scenes.
    """

    scenes: list[Scene] = field(default_factory=list)
    items: int = 0
    dead: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)

    def add(self, item: Mapping[str, Any], rules: OffsetRules, bands: Sequence[str]) -> None:
        """Take up an item as a scene, or note why it is none."""
        self.items += 1
        try:
            self.scenes.append(scene_of(item, rules, bands))
        except NotAScene as reason:
            self.refused.setdefault(str(reason), []).append(str(item.get("id", "")))
        except (TypeError, ValueError, AttributeError, IndexError) as error:  # fields of another kind than STAC's
            self.refused.setdefault(f"is malformed ({error})", []).append(str(item.get("id", "")))


@dataclass(frozen=True, slots=True)
class SceneIndex:
    """Scenes that can be asked by place and time."""

    scenes: list[Scene]
    boxes: NDArray[np.float64]
    years: NDArray[np.int64]

    @classmethod
    def of(cls, scenes: Iterable[Scene]) -> SceneIndex:
        """Index scenes; order is kept."""
        kept = list(scenes)
        boxes = np.array([scene.bbox for scene in kept], np.float64).reshape(-1, 4)
        return cls(kept, boxes, np.array([scene.year for scene in kept], np.int64))

    def search(self, longitude: NDArray[Any], latitude: NDArray[Any], year: int) -> list[Scene]:
        """Scenes of a year that may cover one of the points at least."""
        at = np.flatnonzero(self.years == year)
        # The extent of all points first, then point by point: few scenes are near.
        if not len(at) or not len(longitude):
            return []
        low, high = float(np.min(latitude)), float(np.max(latitude))
        at = at[(self.boxes[at, 1] <= high + _TOLERANCE) & (self.boxes[at, 3] >= low - _TOLERANCE)]
        return [self.scenes[n] for n in at if covers(self.scenes[n], longitude, latitude).any()]


def covers(scene: Scene, longitude: NDArray[Any], latitude: NDArray[Any]) -> NDArray[np.bool_]:
    """Which points lie in the extent of a scene, [N]. Extents may cross the antimeridian."""
    west, south, east, north = scene.bbox
    if west > east:
        east += 360
    within = (latitude >= south - _TOLERANCE) & (latitude <= north + _TOLERANCE)
    turned = [
        (longitude + turn >= west - _TOLERANCE) & (longitude + turn <= east + _TOLERANCE) for turn in (-360, 0, 360)
    ]
    covered: NDArray[np.bool_] = within & np.logical_or.reduce(turned)
    return covered


def is_api(document: Mapping[str, Any]) -> bool:
    """Whether the landing page of a catalog is that of a STAC API with a search."""
    return any(link.get("rel") == "search" for link in document.get("links") or ())


def walk(location: str, rules: OffsetRules, bands: Sequence[str], collection: str = "") -> Findings:
    """Read every item of a static catalog, a collection, or a collection of items (GeoJSON).

    Links to items that lead nowhere are noted; a server that does not answer stops the walk, for its items would be
    missing from all that follows.

    Args:
        location: Path or URL of its JSON.
        rules: How offsets are found.
        bands: Bands that are wanted.
        collection: Only items of this collection, where given.

    Raises:
        DataError: The catalog cannot be read, or a catalog below it.
        Unreachable: A server does not answer.
    """
    found = Findings()
    with ThreadPoolExecutor(16) as pool:
        for item in _items(location, found, pool):
            if not collection or item.get("collection") == collection:
                found.add(item, rules, bands)
    return found


def _items(location: str, found: Findings, pool: ThreadPoolExecutor) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    waiting = [absolute(location)]
    while waiting:
        href = waiting.pop()
        if href in seen:
            continue
        seen.add(href)
        try:
            document = read_json(href)
        except SceneLost as reason:
            if len(seen) == 1:
                raise DataError(f"{reason}; it is to be a STAC catalog") from None
            found.dead.append(href)
            continue
        kind = document.get("type")
        if kind == "FeatureCollection":
            yield from (_located(feature, href) for feature in document.get("features") or ())
        elif kind == "Feature":
            yield _located(document, href)
        elif "links" not in document:
            raise DataError(f"{href}: is no STAC catalog, collection or item: it has no links")
        links = [(str(link.get("rel")), link.get("href")) for link in document.get("links") or ()]
        if kind != "Feature":
            below = [absolute(str(to), href) for rel, to in links if rel in ("child", "items", "next") and to]
            waiting += reversed(below)
            items = [absolute(str(to), href) for rel, to in links if rel == "item" and to]
            fresh = [to for to in dict.fromkeys(items) if to not in seen]
            seen.update(fresh)
            for to, answer in zip(fresh, pool.map(_read_or_dead, fresh), strict=True):
                if answer is None:
                    found.dead.append(to)
                else:
                    yield _located(answer, to)


def _read_or_dead(href: str) -> dict[str, Any] | None:
    try:
        return read_json(href)
    except SceneLost:
        return None


def read_json(href: str, attempts: int = 4) -> dict[str, Any]:
    """A JSON object of a file or a web page.

    Raises:
        SceneLost: It is not there, or holds something else.
        Unreachable: Its server does not answer, several times over.
    """
    if not href.startswith(("http://", "https://")):
        try:
            return _parsed(Path(href.removeprefix("file://")).read_bytes(), href)
        except OSError as error:
            raise SceneLost(f"{href}: cannot be read: {error.strerror or error}") from None
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.5 * 4 ** (attempt - 1))
        try:
            request = urllib.request.Request(href, headers={"Accept": "application/json, application/geo+json"})  # noqa: S310
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # http, as just checked
                return _parsed(answer.read(), href)
        except urllib.error.HTTPError as error:
            if error.code in (403, 404, 410):
                raise SceneLost(f"{href}: the server answers {error.code}") from None
            reason = f"the server answers {error.code}"
        except OSError as error:
            reason = f"its server cannot be reached: {error}"
    raise Unreachable(f"{href}: {reason}")


def _parsed(data: bytes, href: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise SceneLost(f"{href}: is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise SceneLost(f"{href}: is no JSON object")
    return document


def _located(item: dict[str, Any], href: str) -> dict[str, Any]:
    """An item with absolute links to its assets.

    Those of an item from the network may not lead to files of this machine: they become links that cannot be read.
    """
    for asset in (item.get("assets") or {}).values():
        if isinstance(asset, dict) and isinstance(asset.get("href"), str):
            link = absolute(asset["href"], href)
            if href.startswith(("http://", "https://")) and (link.startswith("file:") or "://" not in link):
                link = f"<local file named by a remote item: {link}"
            asset["href"] = link
    return item


def absolute(href: str, base: str = "") -> str:
    """A link that stands for itself, for one that stands beside `base`."""
    try:
        from pystac.utils import make_absolute_href
    except ImportError as error:
        raise ConfigError("reading STAC catalogs needs pystac: pip install 'geotreeclip[prep]'") from error
    if href.startswith(("/vsi", "<")):
        return href
    return str(make_absolute_href(href, base or None, start_is_dir=False))


def write_index(path: Path, scenes: Iterable[Scene]) -> str:
    """Keep the scenes of a catalog beside the results, in their order, and say what they are.

    Returns:
        SHA-256 of the file.
    """
    lines = [json.dumps(scene.document(), sort_keys=True) for scene in scenes]
    data = ("\n".join(lines) + "\n").encode()
    write_atomically(path, lambda target: target.write_bytes(data))
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=2)
def load_index(path: str, digest: str) -> SceneIndex:
    """The index that :func:`write_index` wrote, read once by each process for what it was when it was written."""
    del digest  # tells an index from another one that lay at the same place
    try:
        with Path(path).open(encoding="utf-8") as stream:
            return SceneIndex.of(Scene.of_document(json.loads(line)) for line in stream if line.strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no index of scenes: {error!r}; delete it to have it made again") from error


def ask_api(
    url: str,
    collection: str,
    rules: OffsetRules,
    bands: Sequence[str],
    longitude: NDArray[Any],
    latitude: NDArray[Any],
    year: int,
) -> Findings:
    """Scenes of a year around points, of a STAC API.

    Raises:
        ConfigError: pystac-client is not installed.
        Unreachable: The API does not answer, or answers with an error.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.stac_api_io import StacApiIO
    except ImportError as error:
        raise ConfigError("asking a STAC API needs pystac-client: pip install 'geotreeclip[prep]'") from error
    box = [
        max(-180.0, float(np.min(longitude)) - _TOLERANCE),
        max(-90.0, float(np.min(latitude)) - _TOLERANCE),
        min(180.0, float(np.max(longitude)) + _TOLERANCE),
        min(90.0, float(np.max(latitude)) + _TOLERANCE),
    ]
    found = Findings()
    try:
        client = Client.open(url, stac_io=StacApiIO(timeout=60, max_retries=5))
        search = client.search(
            collections=[collection],
            bbox=box,
            datetime=f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59.999Z",
            limit=250,
        )
        for item in search.items_as_dicts():
            found.add(item, rules, bands)
    except (APIError, OSError) as error:  # errors of requests are OSErrors
        raise Unreachable(f"{url}: the search fails: {str(error)[:300]}") from error
    return found


def usable(
    found: Findings, bands: Sequence[str], *, allow_missing: bool, max_cloud: float, catalog: str = ""
) -> tuple[list[Scene], dict[str, int]]:
    """Scenes that are read: with all bands, of the newest baseline, not too cloudy; and the others, counted by reason.

    Args:
        found: Scenes.
        bands: Bands that are wanted.
        allow_missing: Whether a scene may lack some.
        max_cloud: Greatest cloud cover, percent.
        catalog: Name of the catalog, if these are all its scenes: then it is an error if none is left.

    Raises:
        ConfigError: No scene of the catalog has all the bands that are wanted.
        DataError: The catalog holds no scene that can be read.
    """
    left: dict[str, int] = {reason: len(names) for reason, names in found.refused.items()}
    scenes = found.scenes
    if not allow_missing and scenes:
        whole = [scene for scene in scenes if set(bands) <= set(scene.assets)]
        if not whole and catalog:
            has = {band for scene in scenes for band in scene.assets} - {CLASSES}
            lacking = [band for band in bands if band not in has] or list(bands)
            raise ConfigError(
                f"no scene has {', '.join(lacking)} (first: {scenes[0].id}); give --bands with those that there are "
                f"({', '.join(band for band in bands if band in has)}), or --allow-missing-bands"
            )
        if len(whole) < len(scenes):
            left["lacks a band"] = len(scenes) - len(whole)
        scenes = whole
    newest, older = newest_baselines(scenes)
    if older:
        left["exists with a newer processing baseline"] = older
    clear = [scene for scene in newest if not scene.cloud > max_cloud]
    if len(clear) < len(newest):
        left[f"cloudier than {max_cloud:g} %"] = len(newest) - len(clear)
    if catalog and not clear:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left.items()) or "it has no items"
        raise DataError(f"{catalog}: no scene that can be read among {found.items} items: {reasons}")
    return clear, left


def host_of(location: str) -> str:
    """Server of a URL, empty for a path."""
    return urlsplit(location).hostname or "" if "://" in location else ""
