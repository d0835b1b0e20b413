"""The radiometric offset of a scene, by provider, and the audit that contradicts it where the values do.

From processing baseline 04.00 on (25 January 2022, older acquisitions as they are reprocessed), Level-2A digital
numbers hold 1,000 more than 10,000 times the reflectance, so that slightly negative reflectance can be stored; 0 stays
"no data" (ESA, Sentinel-2 products, BOA_ADD_OFFSET). What providers did of it:

- Earth Search version 1 subtracted it in part of its files; the property `earthsearch:boa_offset_applied` says in
  which, and overrides an offset of -0.1 in `raster:bands`, which is often there in spite of it. The property is wrong
  for some items (Element84/earth-search on GitHub, reports 66 and 71), which is what the audit is for.
- The Planetary Computer hosts what ESA delivers, and states no offset: 1000 is to be subtracted from baseline 04.00 on.
- Earth Engine's harmonised collection has it subtracted.
- Others state it as `raster:bands` or `raster:offset` and `raster:scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.prep.imagery.problems import NotAScene
from geotreeclip.schema import REFLECTANCE_SCALE

__all__ = [
    "ADDED",
    "GIVEN",
    "PROVIDERS",
    "WITH_OFFSET",
    "Audit",
    "OffsetContradiction",
    "OffsetRules",
    "Tally",
    "group_of",
]

ADDED = 1000
"""What baseline 04.00 and later ones add to digital numbers."""

WITH_OFFSET = (4, 0)
"""The first processing baseline that does."""

GIVEN = "given by --offset"
"""The rule of an offset that is not questioned."""

PROVIDERS = ("auto", "earth-search", "planetary-computer", "stated", "none")
"""Where the offset comes from; `auto` finds out item by item."""

_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


class OffsetContradiction(ConfigError):
    """The values of scenes contradict the offset that their metadata tell of."""


@dataclass(frozen=True, slots=True)
class OffsetRules:
    """How the offset of a scene is found.

    Attributes:
        provider: One of :data:`PROVIDERS`.
        given: Pairs of a pattern of scene ids (`*` and `?` as in file names) and the offset that they get whatever
            their metadata say; the last that fits counts.
    """

    provider: str = "auto"
    given: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, provider: str, given: Sequence[str]) -> OffsetRules:
        """Of command line options such as ``-1000`` and ``S2B_20HMD_*=0``.

        Raises:
            ConfigError: An unknown provider, or an offset that is none.
        """
        if provider not in PROVIDERS:
            raise ConfigError(f"--provider {provider!r} is unknown; known: {', '.join(PROVIDERS)}")
        pairs = []
        for text in given:
            pattern, equals, number = text.rpartition("=")
            try:
                pairs.append((pattern if equals else "*", float(number)))
            except ValueError:
                raise ConfigError(f"--offset {text!r}: give a number such as -1000, or SCENE=NUMBER") from None
            if abs(pairs[-1][1]) > REFLECTANCE_SCALE:
                raise ConfigError(f"--offset {text!r}: in digital numbers, such as -1000; beyond 10,000 is no offset")
        return cls(provider, tuple(pairs))

    def decide(
        self,
        name: str,
        properties: Mapping[str, Any],
        baseline: tuple[int, int],
        assets: Mapping[str, Mapping[str, Any]],
    ) -> tuple[float, str]:
        """The offset to add to the digital numbers of a scene, and the rule it comes from.

        Args:
            name: Id of the scene.
            properties: Of its item.
            baseline: Its processing baseline.
            assets: Its bands.

        Raises:
            NotAScene: Its bands state different offsets, or a scale other than 1/10,000.
        """
        for pattern, number in reversed(self.given):
            if fnmatchcase(name, pattern):
                return number, GIVEN
        applied = next((properties[key] for key in _APPLIED if properties.get(key) is not None), None)
        if self.provider == "none":
            return 0.0, "none, by --provider none"
        if self.provider in ("auto", "earth-search") and applied is not None:
            if applied is True or str(applied).lower() == "true":
                return 0.0, "boa_offset_applied is true"
            stated = _stated(assets)
            if stated is None:
                stated = -float(ADDED) if baseline >= WITH_OFFSET else 0.0
            return stated, "boa_offset_applied is false"
        if self.provider == "planetary-computer" or (self.provider == "auto" and _of_planetary_computer(assets)):
            late = baseline >= WITH_OFFSET
            return (
                -float(ADDED) if late else 0.0,
                "Planetary Computer",
            )
        stated = _stated(assets)
        return (0.0, "none stated") if stated is None else (stated, "stated by raster metadata")


def group_of(rule: str, baseline: tuple[int, int], offset: float) -> tuple[str, bool]:
    """The group of scenes in which a scene is audited, and whether it may hold the 1000: late, or unknown baseline."""
    late = baseline >= WITH_OFFSET or baseline == (0, 0)
    return f"{rule}{'' if late else ', baseline before 04.00'}, {offset:+g}", late


def _of_planetary_computer(assets: Mapping[str, Mapping[str, Any]]) -> bool:
    """The Planetary Computer keeps Sentinel-2 in the storage account `sentinel2l2a01` of Azure."""
    hrefs = [str(asset.get("href", "")).split("/") for asset in assets.values()]
    return any(len(parts) > 2 and parts[2] == "sentinel2l2a01.blob.core.windows.net" for parts in hrefs)


def _stated(assets: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Offset in digital numbers that the raster extension states, None where it states none."""
    found = set()
    for band, asset in assets.items():
        described = (asset.get("raster:bands") or asset.get("bands") or [{}])[0]
        scale, offset = (
            next(
                (
                    place[key]
                    for place, key in ((described, name), (described, f"raster:{name}"), (asset, f"raster:{name}"))
                    if place.get(key) is not None
                ),
                None,
            )
            for name in ("scale", "offset")
        )
        if scale is None and offset is None:
            continue
        scale = 1 / REFLECTANCE_SCALE if scale is None else float(scale)
        if not np.isclose(scale * REFLECTANCE_SCALE, 1):
            raise NotAScene(f"states a scale of {scale:g} for {band}; 0.0001 is that of Level-2A digital numbers")
        found.add(round(float(offset or 0) * REFLECTANCE_SCALE))
    if len(found) > 1:
        raise NotAScene(f"states different offsets for its bands: {sorted(found)}")
    return float(found.pop()) if found else None


_LOW, _HIGH, _STEP = -2000, 6000, 20
_BINS = (_HIGH - _LOW) // _STEP
_DARK_BANDS = ("B2", "B4")


@dataclass(slots=True)
class Tally:
    """Clear values of one scene, or of a group of scenes with one offset, counted by size.

    Attributes:
        offset: What was added to the digital numbers.
        late: Whether the baseline is 04.00 or later, or unknown: whether 1000 may be in the values.
        counts: After the offset, blue and red in bins of 20, int64 [2, bins].
        names: Of some of the scenes.
        scenes: How many.
        rule: Where the offset comes from.
    """

    offset: float
    late: bool
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(_DARK_BANDS), _BINS), np.int64))
    names: list[str] = field(default_factory=list)
    scenes: int = 1
    rule: str = ""

    def add(self, band: str, values: NDArray[Any]) -> None:
        """Count clear values of a band, offset applied; bands that are not dark over plants are left out."""
        if band in _DARK_BANDS and values.size:
            bins = np.clip((values - _LOW) // _STEP, 0, _BINS - 1).astype(np.int64)
            self.counts[_DARK_BANDS.index(band)] += np.bincount(bins, minlength=_BINS)

    def percentile(self, share: float) -> dict[str, float]:
        """Value below which this share of the pixels lies, by band, to within 20; bands without values left out."""
        found = {}
        for band, counts in zip(_DARK_BANDS, self.counts, strict=True):
            if counts.sum():
                place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
                found[band] = float(_LOW + place * _STEP)
        return found

    @property
    def pixels(self) -> int:
        """Clear pixels counted."""
        return int(self.counts.sum(axis=1).max())


_ENOUGH = 100  # clear pixels: fewer say nothing of a percentile
_ENOUGH_SCENES = 3  # acquisitions: a single one may be hazy, and then all of it is bright
_OVERDONE = -300.0
_LEFT_IN = 900.0
_BRIGHT = 1300.0


def _names(tallies: Sequence[Tally]) -> str:
    names = [name for tally in tallies for name in tally.names]
    more = sum(tally.scenes for tally in tallies) - len(names[:3])
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _mend(tallies: Sequence[Tally], offset: int) -> str:
    return (
        f"Look at one of them; then give the offset yourself with --offset '{tallies[0].names[0]}={offset}' (`*` "
        f"stands for any characters; --offset {offset} is for all scenes), or go on with --no-audit"
    )


@dataclass(slots=True)
class Audit:
    """Dark pixels of scenes beside what their offset promises.

    Where 1000 was subtracted twice, the darkest tenth of the clear pixels is far below zero (surface reflectance is
    below zero by more than 0.03 nowhere). Where it was never subtracted, the darkest hundredth of blue and of red both
    lie just above 1000, where plants have 100 to 400; of bright deserts the red is far above that.
    The first is asked of each scene and group, the second of groups of scenes alone: one hazy scene looks alike.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)

    def check(self, *, scenes_alone: bool) -> None:
        """Compare.

        Args:
            scenes_alone: Whether the tallies are those of single scenes.

        Raises:
            OffsetContradiction: Names the scenes, the percentile seen, and what overrides.
        """
        twice, never = [], []
        for tally in self.tallies.values():
            if tally.pixels < _ENOUGH or tally.rule.startswith(GIVEN):
                continue
            dark = tally.percentile(0.01)
            if tally.offset < 0 and min(tally.percentile(0.10).values()) < _OVERDONE:
                twice.append(tally)
            if scenes_alone or tally.scenes < _ENOUGH_SCENES or not tally.late or tally.offset != 0:
                continue
            if min(dark.values()) >= _LEFT_IN and max(dark.values()) < _BRIGHT:
                never.append(tally)
        if twice:
            band, value = min(twice[0].percentile(0.10).items(), key=lambda pair: pair[1])
            raise OffsetContradiction(
                f"{_names(twice)}: {-twice[0].offset:g} was subtracted (rule: {twice[0].rule}), but then a tenth of "
                f"the {twice[0].pixels} clear pixels of {band} lies below {value:g}; the files seem to have it "
                f"subtracted already. {_mend(twice, 0)}"
            )
        if never:
            band, value = min(never[0].percentile(0.01).items(), key=lambda pair: pair[1])
            raise OffsetContradiction(
                f"{_names(never)}: nothing was subtracted (rule: {never[0].rule}), but the darkest hundredth of the "
                f"{never[0].pixels} clear pixels of {band} ends at {value:g}; the files seem to hold the offset of "
                f"1000. {_mend(never, -ADDED)}"
            )

    def document(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            rule: {
                "offset": tally.offset,
                "late": tally.late,
                "scenes": tally.scenes,
                "names": tally.names[:5],
                "counts": [{str(at): int(row[at]) for at in np.flatnonzero(row)} for row in tally.counts],
            }
            for rule, tally in self.tallies.items()
        }

    def merge(self, document: Mapping[str, Any]) -> None:
        """Add what :meth:`document` gave."""
        for rule, entry in document.items():
            tally = self.tallies.setdefault(rule, Tally(entry["offset"], entry["late"], scenes=0, rule=rule))
            tally.scenes += entry["scenes"]
            tally.names = sorted({*tally.names, *entry["names"]})[:5]
            for row, counts in zip(tally.counts, entry["counts"], strict=True):
                for at, count in counts.items():
                    row[int(at)] += count

    def summary(self) -> dict[str, Any]:
        """Offset, scenes, pixels and dark percentiles by rule."""
        return {
            rule: {
                "offset": tally.offset,
                "scenes": tally.scenes,
                "clear pixels": tally.pixels,
                "1st percentile": tally.percentile(0.01),
                "10th percentile": tally.percentile(0.10),
            }
            for rule, tally in sorted(self.tallies.items())
        }
