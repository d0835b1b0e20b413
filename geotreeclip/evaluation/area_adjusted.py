"""Accuracy and area of a map from a sample: the stratified estimators of Olofsson et al. (2014).

Shape letters: C classes. Rows of an error matrix are classes of the map, columns those of the reference.

Olofsson, Foody, Herold, Stehman, Woodcock and Wulder (2014), "Good practices for estimating area and assessing accuracy
of land change", Remote Sensing of Environment 148, 42-57; numbers of equations below are theirs. The map classes are
the strata: reference samples were drawn at random within each, n_i of class i, which covers the share W_i of the area.
They may well be drawn in other proportions than the areas (rare classes more densely), which is why raw counts mislead.
For samples drawn at random over the whole area the same estimators hold as post-stratification (section 4.3 there).

Occurrence records are no probability sample of a map: numbers made from them speak of the records. A forest inventory
is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import InputError

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, eq=False)
class AreaAdjusted:
    """Estimates with standard errors; arrays are [C], the matrix [C, C]. NaN where nothing can be said.

    Attributes:
        classes: names.
        proportion: p_ij, share of the area in each cell (eq. 4).
        overall: overall accuracy (eq. 1).
        overall_se: its standard error (eq. 5).
        users: user's accuracy (eq. 2): of the area mapped as a class, the share that is it.
        users_se: eq. 6.
        producers: producer's accuracy (eq. 3): of the area of a class, the share that is mapped as it.
        producers_se: eq. 7.
        mapped: area of each class on the map, in the unit given.
        area: area of each class as the reference has it (eq. 9).
        area_se: eq. 10 and 11.
    """

    classes: tuple[str, ...]
    proportion: NDArray[np.float64]
    overall: float
    overall_se: float
    users: NDArray[np.float64]
    users_se: NDArray[np.float64]
    producers: NDArray[np.float64]
    producers_se: NDArray[np.float64]
    mapped: NDArray[np.float64]
    area: NDArray[np.float64]
    area_se: NDArray[np.float64]

    def margin(self, standard_error: ArrayLike) -> NDArray[np.float64]:
        """Half the width of the 95 % interval (normal, as in the paper)."""
        return np.asarray(Z * np.asarray(standard_error, dtype=np.float64))


def area_adjusted(counts: ArrayLike, mapped_area: ArrayLike, classes: Sequence[str] = ()) -> AreaAdjusted:
    """Area-adjusted accuracy.

    Args:
        counts: [C, C] reference samples, rows by map class, columns by reference class.
        mapped_area: [C] area of each class on the whole map, in any unit.
        classes: names, for errors and tables.

    Raises:
        InputError: shapes that do not fit, negative numbers, or a mapped class with fewer than two samples (its
            variance is unknown: merge it with another, or sample it).
    """
    n = np.asarray(counts, dtype=np.float64)
    area = np.asarray(mapped_area, dtype=np.float64)
    if n.ndim != 2 or n.shape[0] != n.shape[1] or area.shape != (len(n),):
        raise InputError(f"area-adjusted accuracy: error matrix {n.shape} and {area.shape} areas; give [C, C] and [C]")
    names = tuple(classes) or tuple(str(row) for row in range(len(n)))
    if len(names) != len(n):
        raise InputError(f"area-adjusted accuracy: {len(names)} names for {len(n)} classes")
    if not (np.isfinite(n).all() and np.isfinite(area).all()) or n.min() < 0 or area.min() < 0 or not area.sum():
        raise InputError("area-adjusted accuracy: counts and areas must be 0 or more, and some area above 0")
    rows = n.sum(axis=1)
    for row in np.flatnonzero((area > 0) & (rows < 2)):
        raise InputError(
            f"area-adjusted accuracy: class {names[row]!r} covers {area[row] / area.sum():.2%} of the map but has "
            f"{rows[row]:g} reference samples; each mapped class needs two at least: sample it, or merge it"
        )
    weight = area / area.sum()
    sampled = np.maximum(rows, 1)
    share = n / sampled[:, None]  # n_ij / n_i.
    proportion = weight[:, None] * share
    column = proportion.sum(axis=0)
    diagonal = np.diag(proportion)
    with np.errstate(divide="ignore", invalid="ignore"):
        users = np.where(weight > 0, np.diag(share), np.nan)
        producers = np.where(column > 0, diagonal / column, np.nan)
    freedom = np.maximum(rows - 1, 1)
    spread = share * (1 - share) / freedom[:, None]  # variance of each n_ij / n_i.
    overall_se = np.sqrt((weight**2 * np.diag(spread)).sum())
    # Eq. 7 with N_i. in proportion to W_i, so that N_.j becomes the estimated p_.j
    own = weight**2 * (1 - producers) ** 2 * np.diag(spread)
    others = (weight[:, None] ** 2 * spread).sum(axis=0) - weight**2 * np.diag(spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        producers_se = np.sqrt((own + producers**2 * others) / column**2)
    area_se = np.sqrt((weight[:, None] ** 2 * spread).sum(axis=0))
    return AreaAdjusted(
        classes=names,
        proportion=proportion,
        overall=float(diagonal.sum()),
        overall_se=float(overall_se),
        users=users,
        users_se=np.where(weight > 0, np.sqrt(np.diag(spread)), np.nan),
        producers=producers,
        producers_se=producers_se,
        mapped=area,
        area=column * area.sum(),
        area_se=area_se * area.sum(),
    )
