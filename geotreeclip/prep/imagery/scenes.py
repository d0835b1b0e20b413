"""A STAC item of Sentinel-2 Level-2A as a Scene: what is needed to read it, with its radiometric offset decided.

Items of Earth Search, the Planetary Computer, the Copernicus Data Space, Digital Earth Africa and static catalogs
differ in the names of assets and properties; all of that is spelled here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from geotreeclip.prep.imagery.offsets import OffsetRules
from geotreeclip.prep.imagery.problems import NotAScene
from geotreeclip.schema import BANDS

__all__ = ["CLASSES", "FINE", "Asset", "Scene", "newest_baselines", "scene_of"]

CLASSES = "SCL"
"""Name of the scene classification among the assets of a scene."""

FINE = ("B2", "B3", "B4", "B8")
"""Bands of 10 m; the others have 20 m."""

_KEYS: dict[str, tuple[str, ...]] = {
    "B2": ("B02", "B2", "blue", "B02_10m"),
    "B3": ("B03", "B3", "green", "B03_10m"),
    "B4": ("B04", "B4", "red", "B04_10m"),
    "B8": ("B08", "B8", "nir", "B08_10m"),
    "B5": ("B05", "B5", "rededge1", "B05_20m"),
    "B6": ("B06", "B6", "rededge2", "B06_20m"),
    "B7": ("B07", "B7", "rededge3", "B07_20m"),
    "B8A": ("B8A", "nir08", "B8A_20m"),
    "B11": ("B11", "swir16", "B11_20m"),
    "B12": ("B12", "swir22", "B12_20m"),
    CLASSES: ("SCL", "SCL_20m"),
}
"""Keys of assets by band, in order of preference; compared without regard to case."""

_TILE = re.compile(r"(?<![0-9A-Z])T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?![0-9A-Z])")
_TAKE = re.compile(r"(S2[A-Z])_(?:MSIL2A_)?(\d{8}T\d{6})")
_BASELINE = re.compile(r"_N(\d{2})\.?(\d{2})(?=_|$|\.)")


@dataclass(frozen=True, slots=True)
class Asset:
    """One raster of a scene.

    Attributes:
        href: Where it lies, unsigned, absolute.
        epsg: Projection that the item states, 0 where it states none.
        transform: Affine transform that the item states, six numbers row by row, or empty.
        shape: Rows and columns that the transform is for, or empty.
    """

    href: str
    epsg: int = 0
    transform: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """One tile of one acquisition.

    Attributes:
        id: Of the item.
        time: When it was sensed, UTC, as ISO 8601.
        datatake: The acquisition, the same for all tiles and processing baselines of it.
        tile: Of the Military Grid Reference System, such as 33TWM, or empty.
        baseline: Processing baseline, 5.09 as (5, 9); (0, 0) where none is stated.
        made: When it was processed, as stated; tells copies of one baseline apart.
        bbox: West, south, east, north in degrees; west is greater than east across the antimeridian.
        cloud: Cloud cover in percent, NaN where not stated.
        offset: Added to its digital numbers, such as -1000.
        rule: Where the offset comes from, in words.
        assets: By band name of the schema, and `SCL`.
    """

    id: str
    time: str
    datatake: str
    tile: str
    baseline: tuple[int, int]
    made: str
    bbox: tuple[float, float, float, float]
    cloud: float
    offset: float
    rule: str
    assets: dict[str, Asset] = field(hash=False)

    @property
    def year(self) -> int:
        """Calendar year, UTC."""
        return int(self.time[:4])

    @property
    def month(self) -> int:
        """0 for January, UTC."""
        return int(self.time[5:7]) - 1

    @property
    def epsg(self) -> int:
        """Projection that its item states, 0 where it states none."""
        return next((asset.epsg for asset in self.assets.values() if asset.epsg), 0)

    def document(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Scene:
        """The scene that :meth:`document` gave."""
        values = dict(document)
        values["baseline"], values["bbox"] = tuple(values["baseline"]), tuple(values["bbox"])
        values["assets"] = {
            name: Asset(asset["href"], asset["epsg"], tuple(asset["transform"]), tuple(asset["shape"]))
            for name, asset in values["assets"].items()
        }
        return cls(**values)


def scene_of(item: Mapping[str, Any], rules: OffsetRules, bands: Iterable[str] = BANDS) -> Scene:
    """The scene of a STAC item whose asset links are absolute.

    Args:
        item: The item as JSON.
        rules: How the offset is found.
        bands: Bands that are wanted; others are not kept.

    Raises:
        NotAScene: It has no date, no extent, no scene classification, none of the bands, or an unknown scale.
    """
    name = str(item.get("id", ""))
    properties = item.get("properties") or {}
    time = _time(properties)
    found = {band: asset for band in (*bands, CLASSES) if (asset := _find(item, band)) is not None}
    if CLASSES not in found:
        raise NotAScene("has no scene classification (SCL)")
    if len(found) == 1:
        raise NotAScene("has none of the bands")
    baseline = _baseline(item)
    offset, rule = rules.decide(
        name, properties, baseline, {band: asset for band, asset in found.items() if band != CLASSES}
    )
    return Scene(
        id=name,
        time=time.isoformat(),
        datatake=_datatake(item, time),
        tile=_tile(item),
        baseline=baseline,
        made=str(next((properties[key] for key in _MADE if properties.get(key)), "")),
        bbox=_bbox(item),
        cloud=float(properties.get("eo:cloud_cover", "nan")),
        offset=offset,
        rule=rule,
        assets={band: _asset(asset, properties) for band, asset in found.items()},
    )


_MADE = ("s2:generation_time", "processing:datetime", "created", "updated")


def newest_baselines(scenes: Iterable[Scene]) -> tuple[list[Scene], int]:
    """Leave out scenes whose acquisition and tile exist with a newer processing baseline.

    Several items of one acquisition, tile and baseline are all kept, newest first: they may be the two data strips
    that make up the tile, and where they overlap the first decides.

    Returns:
        The rest, ordered by time, acquisition, tile, and the number left out.
    """
    groups: dict[tuple[str, str], list[Scene]] = {}
    every = list(scenes)
    for scene in every:
        groups.setdefault((scene.datatake, scene.tile or scene.id), []).append(scene)
    kept = []
    for group in groups.values():
        best = max(scene.baseline for scene in group)
        kept += sorted(
            (scene for scene in group if scene.baseline == best), key=lambda scene: (scene.made, scene.id), reverse=True
        )
    ordered = sorted(kept, key=lambda scene: (scene.time[:10], scene.datatake, scene.tile or scene.id))
    return ordered, len(every) - len(kept)


def _time(properties: Mapping[str, Any]) -> datetime:
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise NotAScene(f"has no date ({text!r})") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _find(item: Mapping[str, Any], band: str) -> Mapping[str, Any] | None:
    """The asset of a band: by its key, else by the name of its only band."""
    assets = {str(key).lower(): asset for key, asset in (item.get("assets") or {}).items() if asset.get("href")}
    for key in _KEYS[band]:
        if key.lower() in assets:
            return dict(assets[key.lower()])
    names = {key.lower() for key in _KEYS[band]}
    for asset in assets.values():
        described = asset.get("bands") or asset.get("eo:bands") or []
        if len(described) == 1 and str(described[0].get("name", "")).lower() in names:
            return dict(asset)
    return None


def _asset(asset: Mapping[str, Any], properties: Mapping[str, Any]) -> Asset:
    code = _first("proj:code", asset, properties)
    epsg = str(code).removeprefix("EPSG:") if code else _first("proj:epsg", asset, properties)
    transform = tuple(float(value) for value in _first("proj:transform", asset, properties) or ())[:6]
    shape = tuple(int(value) for value in _first("proj:shape", asset, properties) or ())
    number = int(epsg) if str(epsg or "").isdigit() else 0
    return Asset(str(asset["href"]), number, transform if len(transform) == 6 else (), shape if len(shape) == 2 else ())


def _first(key: str, *places: Mapping[str, Any]) -> Any:
    return next((place[key] for place in places if place.get(key) is not None), None)


def _bbox(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    box = [float(value) for value in item.get("bbox") or ()]
    if len(box) == 6:  # with heights
        box = [box[0], box[1], box[3], box[4]]
    if len(box) != 4 or not all(abs(value) <= 540 for value in box):
        raise NotAScene(f"has no usable bbox ({item.get('bbox')!r})")
    return (box[0], box[1], box[2], box[3])


def _names(item: Mapping[str, Any]) -> list[str]:
    """Texts that tell of product, acquisition and tile."""
    properties = item.get("properties") or {}
    keys = ("s2:product_uri", "s2:granule_id", "title", "sentinel:product_id")
    return [str(item.get("id", "")), *(str(properties[key]) for key in keys if properties.get(key))]


def _datatake(item: Mapping[str, Any], time: datetime) -> str:
    """Satellite and start of the acquisition: what the identifier of a datatake holds beside orbit and baseline."""
    properties = item.get("properties") or {}
    stated = [str(properties[key]) for key in ("s2:datatake_id", "eopf:datatake_id") if properties.get(key)]
    for text in (*stated, *_names(item)):
        if match := _TAKE.search(text):
            return f"{match.group(1)}_{match.group(2)}"
    # None stated: one satellite passes a place once a day.
    satellite = str(properties.get("platform") or item.get("id", ""))
    return f"{satellite}_{time:%Y%m%d}_R{properties.get('sat:relative_orbit', '')}"


def _tile(item: Mapping[str, Any]) -> str:
    properties = item.get("properties") or {}
    stated = [str(properties[key]) for key in ("s2:mgrs_tile", "grid:code") if properties.get(key)]
    for text in (*stated, *_names(item)):
        if match := _TILE.search(text.upper().replace("MGRS-", "").replace("_", " ")):
            return match.group(1).rjust(5, "0")
    return ""


def _baseline(item: Mapping[str, Any]) -> tuple[int, int]:
    properties = item.get("properties") or {}
    keys = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
    stated = str(next((properties[key] for key in keys if properties.get(key)), ""))
    if match := re.fullmatch(r"0?(\d{1,2})\.(\d{1,2})", stated):
        return int(match.group(1)), int(match.group(2))
    for text in (str(properties.get("s2:datatake_id", "")), *_names(item)):
        if match := _BASELINE.search(text):
            return int(match.group(1)), int(match.group(2))
    return 0, 0
