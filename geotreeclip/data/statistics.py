"""Statistics per band and per environmental variable: streamed, mergeable, stored beside the data and the weights.

Means and sums of squared deviations are merged by the pairwise formula of Chan, Golub and LeVeque (1983), so that
neither the number of samples nor the order of the chunks costs precision. Missing values (65535 in imagery, NaN in
the environment) are counted, and enter nothing else.

Shape letters: N samples, T time steps, C bands, H W pixels, V environmental variables, K bands or variables.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_NAMES

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["Moments", "Statistics", "compute_statistics"]

FORMAT = "geotreeclip-statistics"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Moments:
    """Count, mean, spread and range of K quantities.

    Attributes:
        count: valid values, int64 [K].
        missing: missing values, int64 [K].
        mean: float64 [K], 0 where nothing was valid.
        squares: sum of squared deviations from the mean, float64 [K].
        minimum: float64 [K], +inf where nothing was valid.
        maximum: float64 [K], -inf where nothing was valid.
    """

    count: NDArray[np.int64]
    missing: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> Self:
        """Moments of nothing, for ``size`` quantities."""
        return cls(
            np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size), np.zeros(size),
            np.full(size, np.inf), np.full(size, -np.inf),
        )  # fmt: skip

    @classmethod
    def of(cls, columns: Iterable[NDArray[Any]], missing: Sequence[int]) -> Self:
        """Moments of one 1-d array of valid values per quantity, with the counts of what was missing."""
        rows = []
        for values in columns:
            exact = values.astype(np.float64)
            if exact.size == 0:
                rows.append((0, 0.0, 0.0, np.inf, -np.inf))
                continue
            mean = float(exact.mean())
            low, high = float(exact.min()), float(exact.max())
            exact -= mean
            rows.append((exact.size, mean, float(np.dot(exact, exact)), low, high))
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
        return cls(
            table[:, 0].astype(np.int64), np.asarray(missing, np.int64), table[:, 1].copy(), table[:, 2].copy(),
            table[:, 3].copy(), table[:, 4].copy(),
        )  # fmt: skip

    def __add__(self, other: Moments) -> Moments:
        """The moments of both together."""
        count = self.count + other.count
        safe = np.maximum(count, 1)
        shift = np.where((self.count > 0) & (other.count > 0), other.mean - self.mean, 0.0)
        # Where one side is empty its mean is 0 and must not pull: take the other's mean as it is.
        mean = np.where(
            self.count == 0, other.mean, np.where(other.count == 0, self.mean, self.mean + shift * other.count / safe)
        )
        squares = self.squares + other.squares + shift**2 * (self.count / safe) * other.count
        return Moments(
            count, self.missing + other.missing, mean, squares,
            np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum),
        )  # fmt: skip

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Population standard deviation, float64 [K]; 0 where nothing was valid."""
        deviation: NDArray[np.float64] = np.sqrt(self.squares / np.maximum(self.count, 1))
        return deviation

    @property
    def missing_rate(self) -> NDArray[np.float64]:
        """Missing values over all values, float64 [K]; 1 where no value was ever seen."""
        total = self.count + self.missing
        rate: NDArray[np.float64] = np.where(total > 0, self.missing / np.maximum(total, 1), 1.0)
        return rate


@dataclass(frozen=True)
class Statistics:
    """What a set of samples looks like, band by band and variable by variable.

    ``statistics + other`` joins two; ``statistics.updated(images, environment)`` adds samples. Aspect is an angle: its
    row describes the raw column in degrees, and models use its sine and cosine instead.

    Attributes:
        band: moments of valid pixels, in digital numbers, K = C.
        variable: moments of valid values, in the units of the schema, K = 27.
        bands: names of the bands.
        variables: names of the variables.
        samples: samples seen.
        worldclim: WorldClim version that the values come from ("1" or "2.1"; "" when unknown); units are those of 2.1.
        resolution: resolution of the environmental rasters, in words ("" when unknown).
    """

    band: Moments = field(default_factory=lambda: Moments.empty(len(BANDS)))
    variable: Moments = field(default_factory=lambda: Moments.empty(len(VARIABLE_NAMES)))
    bands: tuple[str, ...] = tuple(BANDS)
    variables: tuple[str, ...] = tuple(VARIABLE_NAMES)
    samples: int = 0
    worldclim: str = "2.1"
    resolution: str = ""

    @classmethod
    def empty(cls, bands: Sequence[str] = BANDS, worldclim: str = "2.1", resolution: str = "") -> Self:
        """Statistics of no samples."""
        return cls(band=Moments.empty(len(bands)), bands=tuple(bands), worldclim=worldclim, resolution=resolution)

    def updated(self, images: NDArray[np.uint16] | None, environment: NDArray[np.floating[Any]]) -> Statistics:
        """Statistics with more samples.

        Args:
            images: uint16 [N, T, C, H, W] with 65535 for missing, or None without imagery.
            environment: float [N, 27] with NaN for missing.
        """
        size = len(environment)
        columns = [environment[:, v] for v in range(environment.shape[1])]
        valid = [column[~np.isnan(column)] for column in columns]
        variable = Moments.of(valid, [size - len(values) for values in valid])
        band = Moments.empty(len(self.bands))
        if images is not None and images.size:
            pixels = [np.ascontiguousarray(images[:, :, c]).ravel() for c in range(images.shape[2])]
            kept = [values[values != MISSING_DN] for values in pixels]
            band = Moments.of(kept, [a.size - b.size for a, b in zip(pixels, kept, strict=True)])
        return replace(self, band=self.band + band, variable=self.variable + variable, samples=self.samples + size)

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of both sets; a difference in WorldClim version or resolution warns."""
        if self.bands != other.bands or self.variables != other.variables:
            raise DataError(
                f"statistics of different columns cannot be joined: bands {self.bands} and {other.bands}; "
                "pack both sets with the same bands"
            )
        worldclim, resolution = self.worldclim, self.resolution
        if self.samples and other.samples:
            for name, ours, theirs in (
                ("WorldClim version", self.worldclim, other.worldclim),
                ("raster resolution", self.resolution, other.resolution),
            ):
                if ours != theirs:
                    warnings.warn(
                        f"statistics join sets that differ in {name}: {ours or 'unknown'!r} and "
                        f"{theirs or 'unknown'!r}; their climate values are not comparable",
                        stacklevel=2,
                    )
            worldclim = worldclim if worldclim == other.worldclim else f"{worldclim}+{other.worldclim}"
            resolution = resolution if resolution == other.resolution else f"{resolution}+{other.resolution}"
        elif other.samples:
            worldclim, resolution = other.worldclim, other.resolution
        return replace(
            self, band=self.band + other.band, variable=self.variable + other.variable,
            samples=self.samples + other.samples, worldclim=worldclim, resolution=resolution,
        )  # fmt: skip

    @property
    def band_mean(self) -> NDArray[np.float32]:
        """Mean of each band in digital numbers, float32 [C]; 0 where a band has no data."""
        return self.band.mean.astype(np.float32)

    @property
    def band_deviation(self) -> NDArray[np.float32]:
        """Standard deviation of each band, float32 [C]; 1 where it is zero or unknown, so that one may divide by it."""
        return _divisor(self.band.deviation)

    @property
    def variable_mean(self) -> NDArray[np.float32]:
        """Mean of each variable in its unit, float32 [27]; 0 where a variable has no data."""
        return self.variable.mean.astype(np.float32)

    @property
    def variable_deviation(self) -> NDArray[np.float32]:
        """Standard deviation of each variable, float32 [27]; 1 where it is zero or unknown."""
        return _divisor(self.variable.deviation)

    def to_json(self) -> str:
        """The statistics as JSON text; ``from_json`` gives back the very same numbers."""
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "samples": self.samples,
            "worldclim": self.worldclim,
            "resolution": self.resolution,
            "bands": _rows(self.bands, self.band),
            "variables": _rows(self.variables, self.variable),
        }
        return json.dumps(document, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Self:
        """Statistics from JSON text or the object it holds.

        Raises:
            DataError: the text is no statistics document, or a value has the wrong type.
        """
        try:
            document = json.loads(text) if isinstance(text, str) else text
            if document["format"] != FORMAT or document["version"] != FORMAT_VERSION:
                raise DataError(
                    f"statistics have format {document['format']!r} version {document['version']!r}, "
                    f"this release reads {FORMAT!r} version {FORMAT_VERSION}; compute them again"
                )
            return cls(
                band=_moments(document["bands"]), variable=_moments(document["variables"]),
                bands=tuple(document["bands"]), variables=tuple(document["variables"]),
                samples=int(document["samples"]), worldclim=str(document["worldclim"]),
                resolution=str(document["resolution"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise DataError(f"statistics cannot be read ({error!r}); compute them again") from error

    def write(self, path: Path | str) -> None:
        """Writes the JSON text to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Statistics from a file; errors name it."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}") from error


def compute_statistics(dataset: PackedDataset, indices: NDArray[np.int64], batch_size: int = 4096) -> Statistics:
    """Statistics of some samples of a packed set (the training samples of a split, say).

    Args:
        dataset: the packed set.
        indices: int64 [N], rows of the set; each counts as often as it stands there.
        batch_size: rows held in memory at a time.
    """
    stored = dataset.statistics
    result = Statistics.empty(stored.bands, worldclim=stored.worldclim, resolution=stored.resolution)
    ordered = np.sort(np.asarray(indices, dtype=np.int64))
    for start in range(0, len(ordered), batch_size):
        batch = dataset.read(ordered[start : start + batch_size])
        result = result.updated(batch.images if dataset.has_images else None, batch.environment)
    return result


def _divisor(deviation: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def _rows(names: Sequence[str], moments: Moments) -> dict[str, dict[str, float | int | None]]:
    """One JSON object per quantity; a range of nothing is null, as JSON has no infinity."""

    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        name: {
            "count": int(moments.count[k]),
            "missing": int(moments.missing[k]),
            "missing_rate": float(moments.missing_rate[k]),
            "mean": float(moments.mean[k]),
            "deviation": float(moments.deviation[k]),
            "minimum": finite(moments.minimum[k]),
            "maximum": finite(moments.maximum[k]),
            "squares": float(moments.squares[k]),
        }
        for k, name in enumerate(names)
    }


def _moments(rows: Mapping[str, Mapping[str, Any]]) -> Moments:
    values = list(rows.values())
    low = [np.inf if row["minimum"] is None else float(row["minimum"]) for row in values]
    high = [-np.inf if row["maximum"] is None else float(row["maximum"]) for row in values]
    mean = np.array([float(row["mean"]) for row in values])
    squares = np.array([float(row["squares"]) for row in values])
    if not (np.isfinite(mean).all() and np.isfinite(squares).all() and (squares >= 0).all()):
        raise ValueError("a mean or a sum of squares is not finite, or below 0")
    return Moments(
        np.array([int(row["count"]) for row in values], np.int64),
        np.array([int(row["missing"]) for row in values], np.int64),
        mean,
        squares,
        np.array(low, np.float64),
        np.array(high, np.float64),
    )
