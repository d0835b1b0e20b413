"""Arguments that cannot be right, told before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geotreeclip.errors import InputError
from geotreeclip.schema import RANKS

__all__ = ["check_count", "check_rank", "identifiers"]


def check_rank(rank: str) -> None:
    """Refuse what is no rank.

    Raises:
        InputError: If it is none.
    """
    if rank not in RANKS:
        raise InputError(f"rank must be one of {', '.join(reversed(RANKS))}, got {rank!r}")


def check_count(name: str, value: object, otherwise: str = "") -> None:
    """Refuse what is no whole number from 1 on.

    Args:
        name: Of the argument.
        value: What was given for it.
        otherwise: What else may be given, for the message.

    Raises:
        InputError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a whole number from 1{otherwise}, got {value!r}")


def identifiers(sample_ids: Sequence[object] | None, count: int) -> Sequence[object]:
    """Identifiers of places: those given, else their row numbers.

    Raises:
        InputError: If there are more or fewer than places.
    """
    samples: Sequence[object] = range(count) if sample_ids is None else list(sample_ids)
    if len(samples) != count:
        raise InputError(f"sample_ids has {len(samples)} identifiers for {count} places")
    return samples
