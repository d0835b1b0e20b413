"""The same composites from Earth Engine, whose harmonised collection has the offset removed.

Masks and medians are computed here, by the same code as for scenes read from files: Earth Engine only hands over, for
each point and year, the pixels of every image, in the UTM grid of the point and with the margin that the widening of
clouds needs. That is one request for the names of the images and one for the pixels of every 90 of them.
Needs `pip install 'geotreeclip[earthengine]'`, credentials (`earthengine authenticate`) and a project
(environment variable EARTHENGINE_PROJECT).

I images, N points, K = 13 pixels along each side of patch and margin.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.composite import Composites
from geotreeclip.prep.imagery.grid import PIXEL, Points
from geotreeclip.prep.imagery.masking import MARGIN
from geotreeclip.prep.imagery.problems import SceneLost, Unreachable
from geotreeclip.prep.imagery.sampling import SceneSampler
from geotreeclip.prep.imagery.scenes import CLASSES, FINE, Scene, newest_baselines
from geotreeclip.schema import BANDS, PATCH

__all__ = ["COLLECTION", "EarthEngineSampler", "images_of", "pixel_request", "scene_of_row"]

COLLECTION = "COPERNICUS/S2_SR_HARMONIZED"
RULE = "Earth Engine, harmonised"

PROPERTIES = (
    "system:index",
    "system:time_start",
    "DATATAKE_IDENTIFIER",
    "MGRS_TILE",
    "PROCESSING_BASELINE",
    "CLOUDY_PIXEL_PERCENTAGE",
)
"""Of an image, in the order of a row of the first request."""

_SIDE = PATCH + 2 * MARGIN
_IMAGES_PER_REQUEST = 90  # x 11 bands: a request holds at most 1,024 bands


def images_of(ee: Any, longitude: float, latitude: float, year: int) -> Any:
    """The images of a place and a year (server-side)."""
    return (
        ee.ImageCollection(COLLECTION)
        .filterBounds(ee.Geometry.Point([longitude, latitude]))
        .filterDate(f"{year}-01-01", f"{year + 1}-01-01")
    )


def pixel_request(
    ee: Any, images: Any, names: Sequence[str], bands: Sequence[str], epsg: int, x: float, y: float
) -> dict[str, Any]:
    """The request for the pixels of some images around a place, for `ee.data.computePixels`.

    Bands of 20 m are resampled bilinearly, those of 10 m and the scene classification to the nearest (the default of
    Earth Engine); no data is 0. The bands of the answer are named `IMAGE_BAND`.

    Args:
        ee: Module of Earth Engine.
        images: Collection that holds them.
        names: Their `system:index`.
        bands: Bands of the schema.
        epsg: UTM zone.
        x: Easting of the centre of the central pixel.
        y: Northing of it.
    """
    plain = [band for band in bands if band in FINE] + [CLASSES]
    smooth = [band for band in bands if band not in FINE]

    def prepared(image: Any) -> Any:
        chosen = image.select(plain)
        if smooth:
            chosen = chosen.addBands(image.select(smooth).resample("bilinear"))
        return chosen.toFloat().unmask(0, False)

    expression = images.filter(ee.Filter.inList("system:index", list(names))).map(prepared).toBands()
    reach = _SIDE * PIXEL / 2
    return {
        "expression": expression,
        "fileFormat": "NUMPY_NDARRAY",
        "grid": {
            "dimensions": {"width": _SIDE, "height": _SIDE},
            "affineTransform": {
                "scaleX": PIXEL,
                "shearX": 0,
                "translateX": x - reach,
                "shearY": 0,
                "scaleY": -PIXEL,
                "translateY": y + reach,
            },
            "crsCode": f"EPSG:{epsg}",
        },
    }


def scene_of_row(row: Sequence[Any]) -> Scene:
    """The scene of a row of :data:`PROPERTIES`."""
    index, start, take, tile, baseline, cloud = row
    first, _, second = str(baseline).partition(".")
    return Scene(
        id=str(index),
        time=datetime.fromtimestamp(float(start) / 1000, UTC).isoformat(),
        datatake=str(take).rpartition("_N")[0] or str(take),
        tile=str(tile),
        baseline=(int(first), int(second or 0)),
        made=str(index),
        bbox=(-180.0, -90.0, 180.0, 90.0),
        cloud=float(cloud),
        offset=0.0,
        rule=RULE,
        assets={},
    )


class EarthEngineSampler(SceneSampler):
    """Composites of points, one point at a time.

    Args:
        ee: Module of Earth Engine, initialised.
        bands: Bands that are read.
        max_cloud: Images cloudier than this, in percent, are left out.
    """

    def __init__(self, ee: Any, bands: Sequence[str] = BANDS, max_cloud: float = 100.0) -> None:
        super().__init__(bands)
        self._ee, self._max_cloud = ee, max_cloud
        self._pixels: dict[str, NDArray[Any]] = {}

    @classmethod
    def connected(cls, bands: Sequence[str], max_cloud: float) -> EarthEngineSampler:
        """A sampler with the user's credentials.

        Raises:
            ConfigError: Earth Engine is not installed, or does not let the user in.
        """
        try:
            ee: Any = importlib.import_module("ee")
        except ImportError as error:
            raise ConfigError("Earth Engine needs: pip install 'geotreeclip[earthengine]'") from error
        try:
            ee.Initialize(project=os.environ.get("EARTHENGINE_PROJECT"))
        except (ee.EEException, OSError) as error:
            raise ConfigError(
                f"Earth Engine cannot be entered: {error}; run `earthengine authenticate` and set EARTHENGINE_PROJECT"
            ) from error
        return cls(ee, bands, max_cloud)

    def composites(self, points: Points, year: int) -> Composites:
        """The twelve months of a year.

        Raises:
            Unreachable: Earth Engine does not answer, or refuses.
        """
        result = Composites.empty(len(points))
        for row in range(len(points)):
            one = np.array([row])
            point = points.take(one)
            try:
                scenes = self._fetch(point, year)
            except (self._ee.EEException, OSError) as error:
                raise Unreachable(f"Earth Engine does not answer: {str(error)[:300]}") from error
            result.put(one, self._months(scenes, point))
        return result

    def _fetch(self, point: Points, year: int) -> list[Scene]:
        """Scenes of a point, their pixels kept for the time being."""
        ee = self._ee
        images = images_of(ee, float(point.longitude[0]), float(point.latitude[0]), year)
        with self.clock():
            rows = images.reduceColumns(ee.Reducer.toList(len(PROPERTIES)), list(PROPERTIES)).get("list").getInfo()
        scenes, _ = newest_baselines(scene_of_row(row) for row in rows)
        scenes = [scene for scene in scenes if not scene.cloud > self._max_cloud]
        self._pixels = {}
        for start in range(0, len(scenes), _IMAGES_PER_REQUEST):
            names = [scene.id for scene in scenes[start : start + _IMAGES_PER_REQUEST]]
            request = pixel_request(ee, images, names, self._bands, point.epsg, float(point.x[0]), float(point.y[0]))
            with self.clock():
                answer = ee.data.computePixels(request)
                self.clock.opened += 1
            for name in names:
                self._pixels[name] = answer
        return scenes

    def _field(self, scene: Scene, band: str) -> NDArray[np.float32]:
        try:
            return np.asarray(self._pixels[scene.id][f"{scene.id}_{band}"], np.float32)
        except ValueError as error:
            raise SceneLost(f"{scene.id}: Earth Engine gave no {band}") from error

    def _classes_of(self, scene: Scene, points: Points) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        classes = self._field(scene, CLASSES)[None]
        return classes, np.ones(classes.shape, bool)

    def _bands_of(self, scene: Scene, points: Points) -> NDArray[np.float32]:
        raw = np.zeros((1, len(BANDS), PATCH, PATCH), np.float32)
        inner = slice(MARGIN, MARGIN + PATCH)
        for band in self._bands:
            raw[0, BANDS.index(band)] = self._field(scene, band)[inner, inner]
        return raw
