"""What a baseline may see of a fold, and what it gives back.

Shape letters: N samples of the set, M test samples, S training taxa, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError
from geotreeclip.schema import VARIABLE_INDEX

__all__ = ["Fold", "Scores", "finish", "training_labels"]


def _no_rows() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Fold:
    """What a baseline may see of one fold.

    Attributes:
        environment: [N, 27] in schema order, NaN where missing; of all samples.
        taxon: int64 [N], rows of the taxonomy. Those of test samples are never read.
        block: int64 [N], spatial blocks.
        train: Rows of the training samples, those of `validation` among them.
        test: Rows of the test samples, [M].
        buffer_km: Distance that the fold keeps between the two; choices made within the training part keep it too.
        seed: Of everything random.
        jobs: Processes or threads a baseline may use.
        validation: Rows of `train` that settings are chosen on; where there are none, whole blocks of `train` are.
        series: float32 [N, 12, C], mean digital number of each calendar month and band, NaN where missing; None
            without imagery.
        country: text [N], "" where unknown; None where the set states none.
    """

    environment: NDArray[np.floating[Any]]
    taxon: NDArray[np.int64]
    block: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    buffer_km: float = 0.0
    seed: int = 0
    jobs: int = 1
    validation: NDArray[np.int64] = field(default_factory=_no_rows)
    series: NDArray[np.float32] | None = None
    country: NDArray[np.str_] | None = None

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Degrees, [N]."""
        return self.environment[:, VARIABLE_INDEX["longitude"]].astype(np.float64)

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Degrees, [N]."""
        return self.environment[:, VARIABLE_INDEX["latitude"]].astype(np.float64)


class Scores(NamedTuple):
    """What a baseline says of the test samples.

    Attributes:
        labels: int64 [S], the training taxa, rows of the taxonomy, ascending.
        log_prob: float32 [M, S], natural logarithms of probabilities that sum to one.
        method: Its settings in words.
    """

    labels: NDArray[np.int64]
    log_prob: NDArray[np.float32]
    method: str


def training_labels(fold: Fold) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Taxa of the training part, which of them each training sample is, and their shares.

    Raises:
        DataError: The fold has no training sample.
    """
    if len(fold.train) == 0:
        raise DataError("the fold has no training sample; check its split")
    labels, code, count = np.unique(fold.taxon[fold.train], return_inverse=True, return_counts=True)
    return labels.astype(np.int64), code.reshape(-1).astype(np.int64), count / count.sum()


def finish(
    labels: NDArray[np.int64],
    probability: NDArray[np.floating[Any]],
    prior: NDArray[np.float64],
    share: float | NDArray[np.float64],
    method: str,
) -> Scores:
    """Mix in a share of the prior: of one vote among those that were cast. `share` is a number, or [M, 1]."""
    mixed = (probability + share * prior) / (1 + share)
    return Scores(labels, np.log(mixed).astype(np.float32), method)
