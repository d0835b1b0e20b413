"""Where scenes come from: a static STAC catalog, a STAC API or Earth Engine, and what is read of them.

N points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery import catalogs
from geotreeclip.prep.imagery.composite import Composites
from geotreeclip.prep.imagery.grid import Points
from geotreeclip.prep.imagery.offsets import Audit, OffsetRules
from geotreeclip.prep.imagery.problems import SceneLost
from geotreeclip.prep.imagery.sampling import StacSampler
from geotreeclip.prep.imagery.scenes import Scene
from geotreeclip.prep.imagery.signing import signer, signer_of
from geotreeclip.schema import BANDS

__all__ = ["EARTH_ENGINE", "FIRST_YEAR", "ImageryOptions", "Sampler", "Source", "open_source"]

EARTH_ENGINE = "earthengine"
"""The catalog that is no STAC catalog."""

FIRST_YEAR = 2015
"""Sentinel-2 was launched on 23 June of it."""

_LAST_YEAR = 2100


class Sampler(Protocol):
    """A source of composites."""

    def composites(self, points: Points, year: int) -> Composites:
        """A year of some points of one zone."""

    def audit(self) -> Audit:
        """Dark pixels of all that was read; raises where they contradict the offsets."""

    def scene_table(self) -> list[dict[str, Any]]:
        """What each scene gave."""


@dataclass(frozen=True, slots=True)
class ImageryOptions:
    """What the result depends on.

    Attributes:
        catalog: Path or URL of a static STAC catalog or a STAC API, or `earthengine`.
        collection: Collection of the API; for a static catalog all, where empty.
        provider: Where offsets come from, see :data:`geotreeclip.prep.imagery.offsets.PROVIDERS`.
        offsets: Offsets given by hand, `NUMBER` or `SCENE=NUMBER`.
        sign: Name of a signer, `module:function`, or `auto`.
        bands: Bands that are read, the others stay missing.
        allow_missing_bands: Whether scenes that lack some are used.
        max_cloud: Scenes cloudier than this, in percent, are left out.
        year: `own` (the year of the observation), `nearest` (to it with a clear look), or a number.
        reach: Years that `nearest` goes in either direction.
        audit: Whether dark pixels that contradict the offset stop the work.
        precision: Strata of coordinate precision that are taken, where the table has a column `precision`.
    """

    catalog: str
    collection: str = ""
    provider: str = "auto"
    offsets: tuple[str, ...] = ()
    sign: str = "auto"
    bands: tuple[str, ...] = BANDS
    allow_missing_bands: bool = False
    max_cloud: float = 100.0
    year: str = "own"
    reach: int = 5
    audit: bool = True
    precision: tuple[str, ...] = ("imagery", "unknown")

    def checked(self) -> ImageryOptions:
        """The options, with bands in schema order.

        Raises:
            ConfigError: One cannot be.
        """
        unknown = [band for band in self.bands if band not in BANDS]
        if unknown or not self.bands:
            raise ConfigError(f"--bands {' '.join(self.bands)}: known are {' '.join(BANDS)}")
        if self.year not in ("own", "nearest") and not (self.year.isdigit() and int(self.year) >= FIRST_YEAR):
            raise ConfigError(f"--year {self.year!r}: give own, nearest, or a year from {FIRST_YEAR} on")
        if self.reach < 0 or not 0 <= self.max_cloud <= 100:
            raise ConfigError(f"--reach {self.reach}, --max-cloud {self.max_cloud}: at least 0; 0 to 100 percent")
        OffsetRules.parse(self.provider, self.offsets)
        return replace(self, bands=tuple(band for band in BANDS if band in self.bands))


@dataclass(frozen=True, slots=True)
class Source:
    """Where scenes come from, small enough to go to every process that reads them.

    Attributes:
        kind: `index` (a static catalog, listed once), `api` or `earthengine`.
        span: First and last year that it may have.
        index: Path and digest of the list of scenes, of a static catalog.
    """

    kind: str
    span: tuple[int, int]
    index: tuple[str, str] = ("", "")

    def sampler(self, options: ImageryOptions, left: dict[str, int]) -> Sampler:
        """What samples composites of it.

        Args:
            options: What is read and how.
            left: Gets the number of scenes that an API offers and that are not used, by reason.
        """
        if self.kind == EARTH_ENGINE:
            from geotreeclip.prep.imagery.earthengine import EarthEngineSampler

            return EarthEngineSampler.connected(options.bands, options.max_cloud)
        return self.stac_sampler(options, left)

    def stac_sampler(self, options: ImageryOptions, left: dict[str, int]) -> StacSampler:
        """The same of a STAC catalog or API."""
        if self.kind == "index":
            return StacSampler(catalogs.load_index(*self.index).search, signer(options.sign), options.bands)
        rules = OffsetRules.parse(options.provider, options.offsets)

        def ask(longitude: NDArray[Any], latitude: NDArray[Any], year: int) -> list[Scene]:
            found = catalogs.ask_api(
                options.catalog, options.collection, rules, options.bands, longitude, latitude, year
            )
            scenes, out = catalogs.usable(
                found, options.bands,
                allow_missing=options.allow_missing_bands, max_cloud=options.max_cloud,
            )  # fmt: skip
            for reason, count in out.items():
                left[reason] = left.get(reason, 0) + count
            return scenes

        return StacSampler(ask, signer(options.sign), options.bands)


def open_source(out: Path, options: ImageryOptions) -> tuple[Source, dict[str, Any], ImageryOptions]:
    """Find out what the catalog is, and index it where it is static.

    Args:
        out: Folder that gets `scenes.jsonl`, the index of a static catalog.
        options: What is read and how.

    Returns:
        The source; an account of it (`text` to print, `digest` of its index, scenes `left` out by reason); and the
        options with what was automatic made plain.

    Raises:
        ConfigError: An offset or a signer that cannot be.
        DataError: It is no catalog, or holds no scene that can be read.
    """
    span = (FIRST_YEAR, _LAST_YEAR)
    if options.catalog == EARTH_ENGINE:
        return Source(EARTH_ENGINE, span), {"text": "source: Earth Engine", "digest": "", "left": {}}, options
    rules = OffsetRules.parse(options.provider, options.offsets)
    if options.sign == "auto":
        options = replace(options, sign=signer_of(catalogs.host_of(options.catalog)))
    signer(options.sign)  # fails now rather than in every part
    kept = out / "scenes.jsonl"
    try:
        landing = catalogs.read_json(catalogs.absolute(options.catalog))
    except SceneLost as reason:
        raise DataError(f"{reason}; --catalog is to be a STAC catalog or API") from None
    if catalogs.is_api(landing):
        options = replace(options, collection=options.collection or "sentinel-2-l2a")
        text = f"source: STAC API {options.catalog}, collection {options.collection}"
        return Source("api", span), {"text": text, "digest": "", "left": {}}, options
    found = catalogs.walk(options.catalog, rules, options.bands, options.collection)
    scenes, left = catalogs.usable(
        found, options.bands,
        allow_missing=options.allow_missing_bands, max_cloud=options.max_cloud, catalog=options.catalog,
    )  # fmt: skip
    digest = catalogs.write_index(kept, scenes)
    years = [scene.year for scene in scenes]
    source = Source("index", (min(years), max(years)), (str(kept), digest))
    return source, _catalog(options, found, scenes, left, digest), options


def _catalog(
    options: ImageryOptions, found: catalogs.Findings, scenes: list[Scene], left: dict[str, int], digest: str
) -> dict[str, Any]:
    tiles = {scene.tile for scene in scenes}
    days = sorted(scene.time[:10] for scene in scenes)
    lines = [
        f"source: static catalog {options.catalog}: {len(scenes)} scenes of {len(tiles)} tiles, {days[0]} to {days[-1]}"
    ]
    if found.dead:
        lines.append(f"warning: {len(found.dead)} links lead nowhere and are skipped, first {found.dead[0]}")
    lines += [f"left out: {count} {reason}" for reason, count in left.items()]
    lacking = sorted({band for scene in scenes for band in options.bands if band not in scene.assets}, key=BANDS.index)
    absent = [band for band in BANDS if band not in options.bands]
    if absent or lacking:
        lines.append(
            "warning: "
            + "; ".join(
                [f"{' '.join(absent)} are not asked for and stay missing"] * bool(absent)
                + [f"{' '.join(lacking)} are missing in some scenes or all"] * bool(lacking)
            )
        )
    return {"text": "\n".join(lines), "digest": digest, "left": left, "dead": found.dead, "scenes": len(scenes)}
