"""Which WorldClim units do values have? Version 1 stores temperatures in tenths of a degree, version 2.1 in degrees.

Shape letters: N samples, V environmental variables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

__all__ = ["decide", "votes"]

_SCALED = np.array([variable.worldclim1_factor != 1 for variable in VARIABLES])
_LOW = np.array([variable.low for variable in VARIABLES])
_HIGH = np.array([variable.high for variable in VARIABLES])
# No land has a smaller diurnal or annual range of temperature, in degrees (WorldClim 1 over land: 0.9 and 5.3).
_LEAST = {"bio02": 0.8, "bio07": 4.5}
_MOST_DISSENT = 0.05


def votes(environment: NDArray[np.floating[Any]]) -> tuple[int, int, int]:
    """How many samples can only be version 1, only be version 2.1, and how many have temperatures at all.

    A sample can only be version 1 where a temperature is impossible in degrees, and only version 2.1 where its diurnal
    or annual range would be impossibly small in tenths.

    Args:
        environment: [N, 27] as read.
    """
    with np.errstate(invalid="ignore"):
        outside = (((environment < _LOW) | (environment > _HIGH)) & _SCALED).any(axis=1)
        small = np.zeros(len(environment), dtype=bool)
        for name, least in _LEAST.items():
            small |= environment[:, VARIABLE_INDEX[name]] / 10 < least
    present = (~np.isnan(environment) & _SCALED).any(axis=1)
    return int((outside & ~small).sum()), int((small & ~outside).sum()), int(present.sum())


def decide(environment: NDArray[np.floating[Any]], where: str) -> str | None:
    """The version whose units the values have, or None where there is no temperature to tell by.

    Raises:
        DataError: the values contradict each other or fit both versions; states the counts.
    """
    first, second, present = votes(environment)
    if present == 0:
        return None
    if first + second == 0 or min(first, second) > _MOST_DISSENT * (first + second):
        raise DataError(
            f"{where}: cannot tell the WorldClim units: of {present} samples {first} fit only version 1 (tenths of a "
            f"degree), {second} only version 2.1 (degrees); state --worldclim 1 or --worldclim 2.1"
        )
    return "1" if first > second else "2.1"
