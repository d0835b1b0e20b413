"""What a classifier answers: for each place its likeliest labels, as rows, as a table, and readable as it stands.

Shapes: N samples, K answers for each, G labels of the rank asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.taxonomy import Taxon

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Prediction", "Predictions"]

_SHOWN = 20


class Prediction(NamedTuple):
    """One row: a place and one of its likeliest labels.

    Attributes:
        sample: Identifier of the place (its row number unless identifiers were given).
        rank: Rank of the label: that asked for, or the label's own where it is coarser.
        label: Name at that rank.
        genus: Genus of the label, "" above genus.
        family: Family of the label, "" above family or where unknown.
        probability: Over all candidates, 0 to 1.
        valid_months: Calendar months of which at least one pixel was seen.
        leaf_type: Leaf type of the label, "" where unknown or not the same for all it covers.
    """

    sample: object
    rank: str
    label: str
    genus: str
    family: str
    probability: float
    valid_months: int
    leaf_type: str


COLUMNS: tuple[str, ...] = Prediction._fields
"""Columns of the table."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The K likeliest labels of N places, best first: N x K rows, to count, index and loop over.

    Attributes:
        samples: N identifiers.
        taxa: G labels of the rank asked for.
        index: [N, K] int64, positions in `taxa`.
        probability: [N, K] float32.
        valid_months: [N] int64.
    """

    samples: Sequence[object]
    taxa: Sequence[Taxon]
    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    valid_months: npt.NDArray[np.int64]

    @property
    def top_k(self) -> int:
        """K, answers for each place."""
        return int(self.index.shape[1])

    def __len__(self) -> int:
        return int(self.index.size)

    def __getitem__(self, row: int) -> Prediction:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        sample, place = divmod(row % len(self), self.top_k)
        taxon = self.taxa[int(self.index[sample, place])]
        return Prediction(
            self.samples[sample],
            taxon.rank.value,
            taxon.name(taxon.rank),
            taxon.genus,
            taxon.family,
            float(self.probability[sample, place]),
            int(self.valid_months[sample]),
            taxon.leaf_type,
        )

    def __iter__(self) -> Iterator[Prediction]:
        return (self[row] for row in range(len(self)))

    def best(self) -> list[Prediction]:
        """The likeliest label of each place."""
        return [self[row * self.top_k] for row in range(len(self.samples))]

    def to_pandas(self) -> pd.DataFrame:
        """A table with the columns of `Prediction`, K rows for each place, best first."""
        import pandas as pd

        used, inverse = np.unique(self.index, return_inverse=True)  # names of the answers only, not of all labels
        taxa = [self.taxa[int(position)] for position in used]
        names = {
            "rank": [taxon.rank.value for taxon in taxa],
            "label": [taxon.name(taxon.rank) for taxon in taxa],
            "genus": [taxon.genus for taxon in taxa],
            "family": [taxon.family for taxon in taxa],
            "leaf_type": [taxon.leaf_type for taxon in taxa],
        }
        flat = inverse.reshape(-1)
        columns = {name: np.array(values, dtype=object)[flat] for name, values in names.items()}
        samples = np.array([*self.samples, None], dtype=object)[:-1]  # the None keeps numpy from guessing a type
        frame = pd.DataFrame(
            {
                "sample": np.repeat(samples, self.top_k),
                **columns,
                "probability": self.probability.reshape(-1),
                "valid_months": np.repeat(self.valid_months, self.top_k),
            }
        )
        frame["sample"] = frame["sample"].infer_objects()
        return frame[list(COLUMNS)]

    def __repr__(self) -> str:
        places = "1 place" if len(self.samples) == 1 else f"{len(self.samples)} places"
        head = f"Predictions: {places}, top {self.top_k} of {len(self.taxa)} labels"
        rows = [self[row] for row in range(min(len(self), _SHOWN))]
        if not rows:
            return head
        width = [
            max(len(text) for text in column) for column in zip(*((str(r.sample), r.label) for r in rows), strict=True)
        ]
        lines = [
            f"  {row.sample!s:>{width[0]}}  {row.label:<{width[1]}}  {row.rank:<9}  {row.probability:6.1%}"
            for row in rows
        ]
        more = [f"  ... {len(self) - _SHOWN} more rows"] if len(self) > _SHOWN else []
        return "\n".join([head, *lines, *more])

    def _repr_html_(self) -> str:
        return str(self.to_pandas().head(_SHOWN).to_html(index=False))

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """Put batches over the same labels behind one another."""
        return cls(
            [sample for part in parts for sample in part.samples],
            parts[0].taxa,
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.valid_months for part in parts]),
        )
