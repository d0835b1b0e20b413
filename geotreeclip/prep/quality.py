"""What is in a packed set: counts, gaps, ranges, duplicates; computed in one pass, in bounded memory.

N samples, T time steps, C bands, H W pixels, V environmental variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.prep.quality_samples import Places, describe_samples
from geotreeclip.prep.quality_source import FinishedSet
from geotreeclip.schema import MISSING_DN, REFLECTANCE_SCALE, VARIABLES

__all__ = ["Arrays", "measure_quality"]

_BINS = 4096  # of the histogram of a variable over its plausible range: percentiles are right to 1/4096 of it
_PERCENTILES = (1, 50, 99)
_OFFSET = 1000  # digital numbers that processing baseline 04.00 adds


class Arrays(NamedTuple):
    """What the plots show, beside the numbers of the report.

    Attributes:
        places: Where the samples are, and how many each species has.
        valid: Share of valid pixels by step and band, [T, C], or None without imagery.
        steps: Names of the steps.
        bands: Names of the bands.
    """

    places: Places
    valid: NDArray[np.float64] | None
    steps: list[str]
    bands: list[str]


def measure_quality(directory: str | Path, *, progress: bool = False) -> tuple[dict[str, Any], Arrays]:
    """Reads a packed set, or a folder of published shards that packing wrote, and describes it.

    Args:
        directory: The set.
        progress: Whether to draw a progress bar.

    Returns:
        The report as an object of JSON, and what the plots need.

    Raises:
        DataError: It is no such set, or a file is damaged.
    """
    source = FinishedSet(Path(directory))
    values = _Values(source)
    with _bar(source.samples, progress) as bar:
        for images, environment in source.batches():
            values.add(images, environment)
            bar.update(len(environment))
    samples, places = describe_samples(source)
    report: dict[str, Any] = {
        "format": source.format,
        "directory": str(directory),
        "samples": source.samples,
        **samples,
        "environment": values.environment_report(source),
        "imagery": values.imagery_report(),
        "packing": source.packing(),
    }
    report["warnings"] = _warnings(report)
    return report, Arrays(places, values.valid_share(), values.step_names, source.bands)


class _Values:
    """Running counts of pixels and variables."""

    def __init__(self, source: FinishedSet) -> None:
        steps, bands, width = source.steps, len(source.bands), len(VARIABLES)
        self.bands = source.bands
        self.step_names = _step_names(source)
        self.samples = 0
        self.valid = np.zeros((steps, bands), np.int64)
        self.pixels = 0
        self.seen_steps = np.zeros(steps, np.int64)  # samples with a valid pixel in the step
        self.step_counts = np.zeros(steps + 1, np.int64)  # samples by the number of such steps
        self.numbers = np.zeros((bands, MISSING_DN + 1), np.int64) if source.has_images else None
        self.low = np.array([variable.low for variable in VARIABLES], np.float32)
        self.high = np.array([variable.high for variable in VARIABLES], np.float32)
        self.known = np.zeros(width, np.int64)
        self.outside = np.zeros((2, width), np.int64)
        self.first_outside = np.full(width, -1, np.int64)
        self.extremes = np.stack([np.full(width, np.inf), np.full(width, -np.inf)])
        self.histogram = np.zeros((width, _BINS), np.int64)

    def add(self, images: NDArray[np.uint16] | None, environment: NDArray[np.float32]) -> None:
        """Counts a batch."""
        with np.errstate(invalid="ignore"):
            wrong = (environment < self.low, environment > self.high)
        for side, rows in enumerate(wrong):
            self.outside[side] += rows.sum(axis=0)
        any_wrong = wrong[0] | wrong[1]
        for column in np.flatnonzero(any_wrong.any(axis=0) & (self.first_outside < 0)).tolist():
            self.first_outside[column] = self.samples + int(np.argmax(any_wrong[:, column]))
        for column in range(len(VARIABLES)):
            values = environment[:, column]
            values = values[~np.isnan(values)].astype(np.float64)
            if not len(values):
                continue
            self.known[column] += len(values)
            self.extremes[0, column] = min(self.extremes[0, column], values.min())
            self.extremes[1, column] = max(self.extremes[1, column], values.max())
            share = (values - self.low[column]) / (self.high[column] - self.low[column])
            bins = np.clip((share * _BINS).astype(np.int64), 0, _BINS - 1)
            self.histogram[column] += np.bincount(bins, minlength=_BINS)
        if images is not None and self.numbers is not None and len(images):
            present = (images != MISSING_DN).sum(axis=(3, 4))  # [B, T, C]
            self.valid += present.sum(axis=0)
            self.pixels += images.shape[0] * images.shape[3] * images.shape[4]
            some = present.any(axis=2)
            self.seen_steps += some.sum(axis=0)
            self.step_counts += np.bincount(some.sum(axis=1), minlength=len(self.step_counts))
            for band in range(images.shape[2]):
                self.numbers[band] += np.bincount(images[:, :, band].reshape(-1), minlength=MISSING_DN + 1)
        self.samples += len(environment)

    def valid_share(self) -> NDArray[np.float64] | None:
        """Share of valid pixels, [T, C]."""
        return None if self.numbers is None else self.valid / max(1, self.pixels)

    def environment_report(self, source: FinishedSet) -> dict[str, Any]:
        """One entry for each variable."""
        report = {}
        for column, variable in enumerate(VARIABLES):
            known = int(self.known[column])
            entry: dict[str, Any] = {
                "unit": variable.unit,
                "missing_rate": 1 - known / max(1, self.samples),
                "plausible": [variable.low, variable.high],
                "below": int(self.outside[0, column]),
                "above": int(self.outside[1, column]),
            }
            if known:
                width = (variable.high - variable.low) / _BINS
                entry["minimum"], entry["maximum"] = (float(value) for value in self.extremes[:, column])
                for percent, place in zip(_PERCENTILES, _percentiles(self.histogram[column]), strict=True):
                    middle = variable.low + (place + 0.5) * width
                    entry[f"p{percent}"] = float(np.clip(middle, entry["minimum"], entry["maximum"]))
            if self.first_outside[column] >= 0:
                row = int(self.first_outside[column])
                entry["first_outside"] = str(source.table().read(row, row + 1, ["sample_id"])["sample_id"][0])
            report[variable.name] = entry
        return report

    def imagery_report(self) -> dict[str, Any] | None:
        """Coverage of the steps and numbers of the bands."""
        if self.numbers is None:
            return None
        total = max(1, self.pixels * len(self.step_names))
        bands = {}
        for band, name in enumerate(self.bands):
            counts = self.numbers[band, :MISSING_DN]
            held = int(counts.sum())
            entry: dict[str, Any] = {"missing_rate": 1 - held / total}
            if held:
                entry |= dict(zip(("p1", "p50", "p99"), _percentiles(counts), strict=True))
                filled = np.flatnonzero(counts)
                entry |= {"minimum": int(filled[0]), "maximum": int(filled[-1]), "zeros": int(counts[0])}
                entry["above_1_reflectance"] = float(counts[REFLECTANCE_SCALE + 1 :].sum() / held)
            bands[name] = entry
        return {
            "steps": {
                name: {"samples": int(count), "share": float(count / max(1, self.samples))}
                for name, count in zip(self.step_names, self.seen_steps, strict=True)
            },
            "samples_by_number_of_steps": self.step_counts.tolist(),
            "bands": bands,
        }


def _percentiles(counts: NDArray[np.int64]) -> list[int]:
    """Bins that hold the 1st, 50th and 99th percentile of a histogram."""
    total = np.cumsum(counts)
    return [int(np.searchsorted(total, percent / 100 * total[-1])) for percent in _PERCENTILES]


def _step_names(source: FinishedSet) -> list[str]:
    if source.months:
        return ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    return [f"step {number + 1}" for number in range(source.steps)]


def _warnings(report: dict[str, Any]) -> list[str]:
    """What of the report should be looked at."""
    found = list((report["packing"] or {}).get("warnings", []))
    for name, entry in report["environment"].items():
        wrong = entry["below"] + entry["above"]
        if wrong:
            low, high = entry["plausible"]
            found.append(
                f"{name}: {wrong:,} values outside {low:g} to {high:g} {entry['unit']}, first at sample "
                f"{entry['first_outside']}"
            )
    absent = [name for name, entry in report["environment"].items() if entry["missing_rate"] == 1]
    if absent:
        found.append(f"no value at all: {', '.join(absent)}")
    imagery = report["imagery"]
    if imagery is not None:
        darkest = [entry["p1"] for entry in imagery["bands"].values() if "p1" in entry]
        if darkest and min(darkest) >= 0.9 * _OFFSET:
            found.append(
                f"no band has dark pixels (1st percentiles from {min(darkest)}): the radiometric offset of {_OFFSET} "
                "looks as if it had not been removed"
            )
        for name, entry in imagery["bands"].items():
            if entry["missing_rate"] == 1:
                found.append(f"band {name}: no value at all")
            if entry.get("zeros"):
                found.append(f"band {name}: {entry['zeros']:,} zeros, which Sentinel-2 uses for no data")
        empty = [name for name, entry in imagery["steps"].items() if not entry["samples"]]
        if empty and len(empty) < len(imagery["steps"]):
            found.append(f"no sample has a clear pixel in {', '.join(empty)}")
    same = report["duplicates"]
    if same["sample_ids"]:
        found.append(f"{same['sample_ids']:,} sample ids come again")
    if same["same_place_and_taxon"] > 0.01 * report["samples"]:
        found.append(f"{same['same_place_and_taxon']:,} samples repeat the place and the taxon of another")
    return found


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="quality", unit=" samples", unit_scale=True, disable=None if progress else True)
