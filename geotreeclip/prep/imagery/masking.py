"""Which pixels of a look are clear, which are snow, which were not seen: by the scene classification (SCL).

N points, K = 5 + 2 x MARGIN pixels along each side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.schema import PATCH

__all__ = ["MARGIN", "NOT_CLEAR", "SNOW", "UNSEEN", "WIDENED", "WIDENING", "Sight", "sight"]

UNSEEN = 0
"""No data: beyond the swath, or beyond the raster."""

SNOW = 11

NOT_CLEAR = (0, 1, 3, 8, 9, 10)
"""No data, saturated or defective, cloud shadow, cloud of medium and of high probability, thin cirrus.

Classes of the Sentinel-2 Level-2A scene classification (Sen2Cor). Kept: 2 dark or topographic shadow, 4 vegetation,
5 not vegetated, 6 water, 7 unclassified. 11, snow, is neither: it leaves the composite and is counted.
"""

WIDENED = (3, 8, 9)
"""Cloud shadow and clouds, whose edges the classification misses."""

WIDENING = 40.0
"""Metres by which these are widened."""

MARGIN = 4
"""Pixels of 10 m around the patch that the widening looks at."""

_LAST = 11  # larger numbers are no class; a lossy compression makes them

_STEPS = np.arange(-MARGIN, MARGIN + 1)
_DISK: NDArray[np.bool_] = (_STEPS[:, None] ** 2 + _STEPS[None, :] ** 2) * 100 <= WIDENING**2


class Sight(NamedTuple):
    """What was seen of the patches: seen at all, seen clear, seen as snow (each excludes the next), bool [N, 5, 5]."""

    seen: NDArray[np.bool_]
    clear: NDArray[np.bool_]
    snow: NDArray[np.bool_]


def sight(classes: NDArray[Any]) -> Sight:
    """Masks of patches by their scene classification.

    A pixel is hidden by cloud or shadow where the centre of a pixel of such a class lies within 40 m of its own.

    Args:
        classes: Class of each pixel of 10 m of the patch and its margin, [N, K, K].
    """
    inner = classes[:, MARGIN : MARGIN + PATCH, MARGIN : MARGIN + PATCH]
    cloud = np.isin(classes, WIDENED)
    hidden: NDArray[np.bool_] = np.zeros(inner.shape, bool)
    if cloud.any():
        around = np.lib.stride_tricks.sliding_window_view(cloud, _DISK.shape, axis=(1, 2))
        hidden = np.any(around & _DISK, axis=(3, 4))
    seen = inner != UNSEEN
    open_sky = seen & ~hidden & ~np.isin(inner, NOT_CLEAR) & (inner <= _LAST)
    return Sight(seen, open_sky & (inner != SNOW), open_sky & (inner == SNOW))
