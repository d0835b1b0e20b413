"""What a classifier answers: for each place its likeliest labels, as rows, as a table, and readable as it stands.

Shapes: N samples, K answers for each, G labels of the rank asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import InputError
from geotreeclip.taxonomy import Taxon

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.answers import RankAnswers
    from geotreeclip.ranges import Plausibility

__all__ = ["BACK_OFF", "COLUMNS", "Prediction", "Predictions"]

BACK_OFF = 0.8
"""Probability that an answer must reach, by default, to be given at its rank."""

_SHOWN = 20
_LEVEL = 0.9  # of sets, for the name of the column where there are none


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
"""First columns of the table; `Predictions.to_pandas` names the others."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The K likeliest labels of N places, best first: N x K rows, to count, index and loop over.

    Attributes:
        samples: N identifiers.
        taxa: G labels of the rank asked for.
        index: [N, K] int64, positions in `taxa`.
        probability: [N, K] float32.
        valid_months: [N] int64.
        calibrated: Whether the model's calibration was applied.
        ranks: The likeliest label at every rank, or None where they were not kept.
        plausibility: Distance to known places and climate, or None where the model keeps no ranges.
        dissimilarity: [N] how unlike the climate is to those of training, NaN where unknown, or None.
        dissimilarity_limit: Beyond it a place is outside the area of applicability.
        sets: For each place the positions of the labels that hold the truth with probability `set_level`, or None
            where nothing can be promised: without calibration, or with another prior or candidate list than it had.
        set_level: Coverage that the sets promise.
    """

    samples: Sequence[object]
    taxa: Sequence[Taxon]
    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    valid_months: npt.NDArray[np.int64]
    calibrated: bool = False
    ranks: RankAnswers | None = None
    plausibility: Plausibility | None = None
    dissimilarity: npt.NDArray[np.float32] | None = None
    dissimilarity_limit: float = float("nan")
    sets: list[npt.NDArray[np.int64]] | None = None
    set_level: float | None = None

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

    def back_off(self, threshold: float = BACK_OFF) -> pd.DataFrame:
        """What can be said of each place with confidence: the finest rank whose likeliest label passes a threshold.

        Args:
            threshold: Probability that the label must reach. It means what it says only as far as probabilities are
                calibrated.

        Returns:
            One row for each place:
            - sample;
            - back_off_rank, back_off_label, back_off_probability: the answer; rank and label are "" and the
              probability that of the coarsest rank where no rank passes;
            - unknown: "" or why the place counts as unknown: no rank passes, or its climate is outside the area of
              applicability;
            - statement: the answer in words, "genus Quercus, 0.91; species unsure".

        Raises:
            InputError: If the threshold is no probability, or these predictions do not hold all ranks.
        """
        import pandas as pd

        if not 0 < threshold <= 1:
            raise InputError(f"threshold must lie above 0 and at most at 1, got {threshold!r}")
        if self.ranks is None:
            raise InputError("these predictions hold one rank only; ask a classifier for them to back off")
        passes = self.ranks.probability >= np.float32(threshold)
        some = np.asarray(passes.any(axis=1))
        chosen = np.where(some, passes.argmax(axis=1), len(self.ranks.ranks) - 1)
        probability = self.ranks.probability[np.arange(len(chosen)), chosen]
        outside = self.outside()
        rows: dict[str, list[Any]] = {name: [] for name in ("rank", "label", "unknown", "statement")}
        for place, (column, passed) in enumerate(zip(chosen, some, strict=True)):
            taxon = self.ranks.taxa[column][int(self.ranks.position[place, column])] if passed else Taxon()
            unknown = "" if passed else f"no rank reaches {threshold:g}"
            if outside[place] and self.dissimilarity is not None:
                far = (
                    f"climate unlike that of training (dissimilarity {self.dissimilarity[place]:.2f} is above "
                    f"{self.dissimilarity_limit:.2f})"
                )
                unknown = f"{unknown}; {far}" if unknown else far
            finer = "" if not passed or column == 0 or taxon.rank.value == self.ranks.ranks[0] else self.ranks.ranks[0]
            rows["rank"].append(taxon.rank.value if passed else "")
            rows["label"].append(taxon.name(taxon.rank) if passed else "")
            rows["unknown"].append(unknown)
            rows["statement"].append(_statement(taxon if passed else None, float(probability[place]), finer, unknown))
        frame = pd.DataFrame(
            {
                "sample": _objects(self.samples),
                "back_off_rank": rows["rank"],
                "back_off_label": rows["label"],
                "back_off_probability": probability,
                "unknown": rows["unknown"],
                "statement": rows["statement"],
            }
        )
        frame["sample"] = frame["sample"].infer_objects()
        return frame

    def outside(self) -> npt.NDArray[np.bool_]:
        """Which places lie outside the area of applicability, as far as their climate is known, [N]."""
        if self.dissimilarity is None:
            return np.zeros(len(self.samples), dtype=bool)
        return np.asarray(self.dissimilarity > self.dissimilarity_limit)

    def set_labels(self) -> list[list[str] | None]:
        """For each place the names of the labels in its set, likeliest first; None where nothing is promised."""
        if self.sets is None:
            return [None] * len(self.samples)
        names = [taxon.name(taxon.rank) for taxon in self.taxa]
        return [[names[int(position)] for position in members] for members in self.sets]

    def to_pandas(self, threshold: float = BACK_OFF) -> pd.DataFrame:
        """A table, K rows for each place, best first.

        Args:
            threshold: Of `back_off`.

        Returns:
            The columns of `Prediction`, then
            - calibrated: whether the probability is calibrated;
            - in_range, distance_km, climate_inside: see `geotreeclip.ranges.Plausibility`; missing where unknown.
              Nothing is left out because of them;
            - dissimilarity, applicable: how unlike the climate of the place is to those of training, and whether that
              still lies in the area of applicability (see `geotreeclip.applicability`); missing where unknown;
            - back_off_rank, back_off_label, back_off_probability, unknown: of the place, see `back_off`;
            - set_90 (or another level): the labels that hold the truth in 90 % of cases, of the place; None where
              nothing is promised.
        """
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
        frame = pd.DataFrame(
            {
                "sample": np.repeat(_objects(self.samples), self.top_k),
                **columns,
                "probability": self.probability.reshape(-1),
                "valid_months": np.repeat(self.valid_months, self.top_k),
            }
        )
        frame["sample"] = frame["sample"].infer_objects()
        frame = frame[list(COLUMNS)]
        frame["calibrated"] = self.calibrated
        known = self.plausibility
        empty = np.full(len(frame), np.nan, np.float32)
        in_range = empty if known is None else known.in_range.reshape(-1)
        frame["in_range"] = pd.arrays.BooleanArray(in_range > 0, np.isnan(in_range))
        frame["distance_km"] = empty if known is None else known.distance_km.reshape(-1)
        frame["climate_inside"] = empty if known is None else known.climate_inside.reshape(-1)
        far = np.full(len(self.samples), np.nan, np.float32) if self.dissimilarity is None else self.dissimilarity
        frame["dissimilarity"] = np.repeat(far, self.top_k)
        covered = pd.arrays.BooleanArray(~self.outside(), np.isnan(far) | np.isnan(self.dissimilarity_limit))
        frame["applicable"] = covered.repeat(self.top_k)
        if self.ranks is not None:
            places = self.back_off(threshold)
            for name in ("back_off_rank", "back_off_label", "back_off_probability", "unknown"):
                frame[name] = np.repeat(places[name].to_numpy(), self.top_k)
        sets = np.empty(len(self.samples), dtype=object)
        sets[:] = self.set_labels()
        frame[f"set_{100 * (self.set_level or _LEVEL):g}"] = np.repeat(sets, self.top_k)
        return frame

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
        first = parts[0]
        ranks, known = first.ranks, first.plausibility
        if ranks is not None:
            kept = [part.ranks for part in parts if part.ranks is not None]
            ranks = ranks._replace(
                position=np.concatenate([part.position for part in kept]),
                probability=np.concatenate([part.probability for part in kept]),
            )
        if known is not None:
            columns = zip(*(part.plausibility for part in parts if part.plausibility is not None), strict=True)
            known = type(known)(*(np.concatenate(column) for column in columns))
        far = [part.dissimilarity for part in parts if part.dissimilarity is not None]
        return cls(
            [sample for part in parts for sample in part.samples],
            first.taxa,
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.valid_months for part in parts]),
            first.calibrated,
            ranks,
            known,
            np.concatenate(far) if far else None,
            first.dissimilarity_limit,
            None if first.sets is None else [members for part in parts for members in part.sets or []],
            first.set_level,
        )


def _objects(samples: Sequence[object]) -> npt.NDArray[np.object_]:
    return np.array([*samples, None], dtype=object)[:-1]  # the None keeps numpy from guessing a type


def _statement(taxon: Taxon | None, probability: float, finer: str, unknown: str) -> str:
    """An answer in words."""
    said = "" if taxon is None else f"{taxon.rank.replace('_', ' ')} {taxon.name(taxon.rank)}, {probability:.2f}"
    if finer:
        said += f"; {finer.replace('_', ' ')} unsure"
    return f"unknown: {unknown}" + (f"; if known, {said}" if said else "") if unknown else said
