"""Area of applicability: does the climate of a place resemble anything that training covered?

After Meyer and Pebesma 2021, "Predicting into unknown space? Estimating the area of applicability of spatial prediction
models" (Methods in Ecology and Evolution 12, 1620-1633): the dissimilarity index of a place is its distance to the
nearest training point in standardised predictors, divided by the mean distance between training points; places beyond
the largest index that the training points have among each other, outliers left out (75th percentile + 1.5 interquartile
ranges), are outside. Ours takes the 19 climate variables with equal weights, training points of other 100 km cells as
the folds, and keeps the points rounded to a quarter of a deviation, at most 4,096 of them.

Shapes: N places, R reference points, V climate variables (19).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geotreeclip.data.described import read_described, write_described
from geotreeclip.errors import DataError

__all__ = ["FILE", "Applicability", "read_applicability", "write_applicability"]

FILE = "applicability.parquet"
_POINTS = 4096
_STEP = 0.25
_DISTANCES = 4_000_000  # held at once
_ENOUGH = 0.5  # share of the variables that must be known


@dataclass(frozen=True, eq=False)
class Applicability:
    """Climates that training covered.

    Attributes:
        points: float32 [R, V], standardised.
        centre: float64 [V], means of the training set.
        scale: float64 [V], deviations; 0 for a variable that did not vary, which then is left out.
        mean_distance: Between training points.
        threshold: Largest index that counts as covered.
    """

    points: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    mean_distance: float
    threshold: float

    @classmethod
    def fit(cls, climate: npt.NDArray[np.float64], cells: npt.NDArray[np.int32]) -> Applicability | None:
        """From climates [N, V] and the cells of the same samples; None where fewer than ten cells are known."""
        whole = np.isfinite(climate).all(axis=1) & (cells >= 0)
        values, cells = climate[whole], cells[whole]
        if len(np.unique(cells)) < 10:
            return None
        centre, scale = values.mean(axis=0), values.std(axis=0)
        standard = np.where(scale > 0, (values - centre) / np.where(scale > 0, scale, 1), 0)
        coarse, first = np.unique(np.round(standard / _STEP) * _STEP, axis=0, return_index=True)
        chosen = np.sort(np.random.default_rng(0).permutation(len(coarse))[:_POINTS])
        points, own = coarse[chosen].astype(np.float32), cells[first[chosen]]
        probe = np.random.default_rng(1).permutation(len(points))[:1000]
        square = _squares(points[probe], points)
        mean = float(np.sqrt(square).mean())
        if mean == 0:
            return None
        square[own[probe][:, None] == own[None, :]] = np.inf
        index = np.sqrt(square.min(axis=1)) / mean
        low, high = np.quantile(index[np.isfinite(index)], [0.25, 0.75])
        fence = high + 1.5 * (high - low)
        return cls(points, centre, scale, mean, float(index[index <= fence].max()))

    def dissimilarity(self, climate: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Index of each place, float32 [N]; NaN where fewer than half of the variables are known.

        Missing variables are left out, and distances scaled up to the full number.

        Args:
            climate: [N, V] in schema units, NaN where missing.
        """
        varies = self.scale > 0
        standard = (climate - self.centre) / np.where(varies, self.scale, 1)
        known = np.isfinite(standard) & varies
        result = np.full(len(climate), np.nan, np.float32)
        patterns, group = np.unique(known, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            rows = np.flatnonzero(group.reshape(-1) == number)
            if pattern.sum() < _ENOUGH * varies.sum() or not pattern.any():
                continue
            factor = np.sqrt(varies.sum() / pattern.sum()) / self.mean_distance
            points = self.points[:, pattern]
            step = max(1, _DISTANCES // len(points))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                nearest = _squares(standard[part][:, pattern].astype(np.float32), points).min(axis=1)
                result[part] = factor * np.sqrt(nearest)
        return result


def _squares(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Squared distances, [n, m]."""
    square = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1)[None, :] - 2 * one @ two.T
    return np.asarray(np.maximum(square, 0), np.float32)


def write_applicability(directory: str | Path, applicability: Applicability) -> Path:
    """Write ``applicability.parquet`` into a model directory."""
    import pyarrow as pa

    about = {
        "format": "geotreeclip-applicability",
        "version": 1,
        "centre": applicability.centre.tolist(),
        "scale": applicability.scale.tolist(),
        "mean_distance": applicability.mean_distance,
        "threshold": applicability.threshold,
    }
    points = pa.array(applicability.points.tolist(), pa.list_(pa.float32()))
    return write_described(Path(directory) / FILE, {"point": points}, about)


def read_applicability(directory: str | Path) -> Applicability | None:
    """Read ``applicability.parquet``, or None where there is none.

    Raises:
        DataError: If the file is damaged or of another version.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    mend = "remove it, training writes it anew"
    table, about = read_described(path, mend)
    try:
        centre, scale = np.array(about["centre"], np.float64), np.array(about["scale"], np.float64)
        points = np.array(table["point"].to_pylist(), np.float32).reshape(-1, len(centre))
        return Applicability(points, centre, scale, float(about["mean_distance"]), float(about["threshold"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {mend}") from error
