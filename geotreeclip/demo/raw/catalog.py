"""A static STAC catalog in the words of Earth Search: catalog, collection, one item for each tile of each processing.

All links are relative, so that the folder can be moved or served.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.demo.raw.layout import Tile
from geotreeclip.demo.raw.planting import Datatake, Version
from geotreeclip.demo.raw.scenes import ASSETS, Scene

__all__ = ["COLLECTION", "item_id", "make_item", "write_catalog", "write_json"]

COLLECTION = "sentinel-2-l2a"

_STAC = "1.0.0"
_EXTENSIONS = "https://stac-extensions.github.io"
_ROOT, _PARENT = "../../catalog.json", "../collection.json"
_RUN = timedelta(hours=8)  # from sensing to product
_REPROCESSING = datetime(2024, 2, 1, tzinfo=UTC)
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_COMMON = dict(
    zip(
        ASSETS,
        ("blue", "green", "red", "nir", "rededge", "rededge", "rededge", "nir08", "swir16", "swir22", ""),
        strict=True,
    )
)


def item_id(tile: Tile, datatake: Datatake, number: int) -> str:
    """Id of the item of a tile of the processing `number` of a datatake."""
    return f"S2{datatake.platform.upper()}_{tile.square}_{datatake.time:%Y%m%d}_{number}_L2A"


def make_item(tile: Tile, scene: Scene, datatake: Datatake, number: int) -> dict[str, Any]:
    """The STAC item of one tile of one processing.

    Args:
        tile: Its grid.
        scene: What it holds.
        datatake: The datatake.
        number: Which of its processings.
    """
    version, square, classes = datatake.versions[number], tile.square, scene.scl
    name, footprint = item_id(tile, datatake, number), _footprint(tile)
    lon, lat = (np.array(footprint)[:, axis] for axis in (0, 1))
    made = datatake.time + _RUN if number == 0 else _REPROCESSING + (datatake.time - datetime(2021, 1, 1, tzinfo=UTC))
    modern = version.baseline >= "05.00"  # the projection extension changed its field between its versions 1 and 2
    projection = {"proj:code": f"EPSG:{tile.epsg}"} if modern else {"proj:epsg": tile.epsg}
    properties = {
        "datetime": _time(datatake.time),
        "created": _time(made + timedelta(hours=3)),
        "updated": _time(made + timedelta(hours=3)),
        "platform": f"sentinel-2{datatake.platform}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        **projection,
        "mgrs:utm_zone": tile.epsg % 100,
        "mgrs:latitude_band": square[2],
        "mgrs:grid_square": square[3:],
        "grid:code": f"MGRS-{square}",
        "eo:cloud_cover": _percent(np.isin(classes, (8, 9, 10))),
        "s2:cloud_shadow_percentage": _percent(classes == 3),
        "s2:snow_ice_percentage": _percent(classes == 11),
        "s2:nodata_pixel_percentage": _percent(classes == 0),
        "s2:processing_baseline": version.baseline,
        "s2:product_type": "S2MSI2A",
        "s2:datatake_id": _datatake_id(datatake, version),
        "s2:product_uri": (
            f"S2{datatake.platform.upper()}_MSIL2A_{datatake.time:%Y%m%dT%H%M%S}_N{version.baseline.replace('.', '')}"
            f"_R{datatake.orbit:03d}_T{square}_{made:%Y%m%dT%H%M%S}.SAFE"
        ),
        "s2:generation_time": _time(made),
        "s2:sequence": str(number),
        "earthsearch:boa_offset_applied": version.applied,
    }
    return {
        "type": "Feature",
        "stac_version": _STAC,
        "stac_extensions": [
            f"{_EXTENSIONS}/eo/v1.1.0/schema.json",
            f"{_EXTENSIONS}/raster/v1.1.0/schema.json",
            f"{_EXTENSIONS}/projection/{'v2.0.0' if modern else 'v1.1.0'}/schema.json",
            f"{_EXTENSIONS}/mgrs/v1.0.0/schema.json",
            f"{_EXTENSIONS}/grid/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [footprint]},
        "bbox": [lon.min(), lat.min(), lon.max(), lat.max()],
        "properties": properties,
        "assets": {asset: _asset(asset, tile, version) for asset in ASSETS},
        "links": [
            {"rel": "root", "href": _ROOT, "type": "application/json"},
            {"rel": "parent", "href": _PARENT, "type": "application/json"},
            {"rel": "collection", "href": _PARENT, "type": "application/json"},
        ],
    }


def _asset(asset: str, tile: Tile, version: Version) -> dict[str, Any]:
    step = 10 if ASSETS.index(asset) < 4 else 20
    raster: dict[str, Any] = {"nodata": 0, "data_type": "uint16", "spatial_resolution": step}
    if asset == "SCL":
        raster["data_type"] = "uint8"
    else:
        # Providers that have taken the offset out still state the product's own: the flag overrules it.
        raster |= {"scale": 0.0001, "offset": -0.1 if version.offset or version.applied else 0}
    found: dict[str, Any] = {
        "href": f"./{asset}.tif",
        "type": _COG,
        "roles": ["data"] if asset == "SCL" else ["data", "reflectance"],
        "gsd": step,
        "proj:shape": [tile.height * 10 // step, tile.width * 10 // step],
        "proj:transform": [step, 0, int(tile.west), 0, -step, int(tile.north)],
        "raster:bands": [raster],
    }
    if _COMMON[asset]:
        found["eo:bands"] = [{"name": asset, "common_name": _COMMON[asset]}]
    return found


def _footprint(tile: Tile) -> list[list[float]]:
    """Ring of the corners of a tile in degrees, counter-clockwise."""
    from pyproj import Transformer

    west, east = tile.west, tile.west + 10.0 * tile.width
    south = tile.north - 10.0 * tile.height
    back = Transformer.from_crs(tile.epsg, 4326, always_xy=True)
    ring = [(west, south), (east, south), (east, tile.north), (west, tile.north), (west, south)]
    return [[round(float(value), 7) for value in back.transform(x, y)] for x, y in ring]


def _datatake_id(datatake: Datatake, version: Version) -> str:
    """Sensing start, absolute orbit and baseline; the baseline differs between processings of one datatake."""
    days = (datatake.time - datetime(2015, 6, 23, tzinfo=UTC)).days
    start = datatake.time - timedelta(minutes=6)
    return f"GS2{datatake.platform.upper()}_{start:%Y%m%dT%H%M%S}_{days * 143 // 10:06d}_N{version.baseline}"


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.000000Z"


def _percent(mask: Any) -> float:
    return round(100 * float(mask.mean()), 6)


def write_catalog(folder: Path, items: list[dict[str, Any]]) -> None:
    """Write the catalog and its collection above the items, which lie in folders of their own names."""
    boxes = np.array([item["bbox"] for item in items])
    times = sorted(item["properties"]["datetime"] for item in items)
    whole = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    collection = {
        "type": "Collection",
        "stac_version": _STAC,
        "id": COLLECTION,
        "title": "Sentinel-2 Level 2A of the planted forest",
        "description": "Made scenes of a made world, with the properties that Earth Search gives to real ones.",
        "license": "Apache-2.0",
        "extent": {"spatial": {"bbox": [whole]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./{item['id']}/{item['id']}.json", "type": "application/geo+json"}
                for item in items
            ),
        ],
    }
    catalog = {
        "type": "Catalog",
        "stac_version": _STAC,
        "id": "planted-forest",
        "description": "The planted forest as raw files",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "child", "href": f"./{COLLECTION}/collection.json", "type": "application/json"},
        ],
    }
    write_json(folder / COLLECTION / "collection.json", collection)
    write_json(folder / "catalog.json", catalog)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as JSON with an end of line."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
