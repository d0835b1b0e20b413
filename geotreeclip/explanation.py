"""Which months, bands and variables moved an answer: hide one at a time and see what becomes of the probability.

Occlusion (Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks"), by the mask that the model
knows from training, where months and groups of inputs are hidden at random: nothing has to be made up in their place.
Bands and single variables are hidden by the same mask, though training hides them less often. Inputs that say the same
stand in for each other: hidden alone, neither seems to matter, so whole groups are hidden too.

Shapes: N places, T steps, C bands, V variables, G labels of a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, GROUPS, MONTH_DAYS, VARIABLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "explain"]

COLUMNS: tuple[str, ...] = (
    "sample", "label", "probability", "kind", "hidden", "probability_without", "change", "log_odds", "label_without",
)  # fmt: skip
"""Columns of the table."""

_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LEAST = 1e-6  # keeps log-odds finite


class _Part(NamedTuple):
    """Something to hide."""

    kind: str
    names: Sequence[str]  # one for each place
    images: Tensor  # [N, T, C] or broadcastable, True where hidden
    variables: Tensor  # [V], True where hidden


def explain(
    score: Callable[[ObservationBatch], npt.NDArray[np.float32]],
    batch: ObservationBatch,
    names: Sequence[str],
    reads: Sequence[str],
    *,
    samples: Sequence[object],
    target: int | None = None,
) -> pd.DataFrame:
    """Hide each part of every place in turn.

    Args:
        score: Probabilities [n, G] of observations.
        batch: N observations.
        names: G names of the labels.
        reads: Inputs that the model reads.
        samples: N identifiers.
        target: The label to explain; by default the likeliest of each place.

    Returns:
        Rows for each place and part that it has (see `COLUMNS`), the part that speaks most for the label first:
        probability of the label with everything and without the part, change (the first less the second), the same as
        log-odds, and the label that is likeliest without the part. kind is group, month, band or variable. A part that
        is all that a place has is not hidden.
    """
    import pandas as pd

    whole = score(batch)
    rows = np.arange(batch.size)
    label = whole.argmax(axis=1) if target is None else np.full(batch.size, target)
    before = whole[rows, label].astype(np.float64)
    found: list[dict[str, Any]] = []
    for part in _parts(batch, reads):
        hidden = _hide(batch, part)
        differs = (hidden.image_valid != batch.image_valid).flatten(1).any(1)
        differs |= (hidden.environment_valid != batch.environment_valid).any(1)
        some = torch.nonzero(differs & _readable(hidden, reads)).flatten()
        if not len(some):
            continue
        scores = score(hidden.select(some))
        for place, after in zip(some.tolist(), scores, strict=True):
            without = float(after[label[place]])
            found.append(
                {
                    "sample": samples[place],
                    "label": names[int(label[place])],
                    "probability": before[place],
                    "kind": part.kind,
                    "hidden": part.names[place],
                    "probability_without": without,
                    "change": before[place] - without,
                    "log_odds": _log_odds(before[place]) - _log_odds(without),
                    "label_without": names[int(after.argmax())],
                    "place": place,
                }
            )
    frame = pd.DataFrame(found, columns=[*COLUMNS, "place"])
    return (
        frame.sort_values(["place", "log_odds"], ascending=[True, False], kind="stable")
        .drop(columns="place")
        .reset_index(drop=True)
    )


def _parts(batch: ObservationBatch, reads: Sequence[str]) -> Iterator[_Part]:
    """Groups, steps, bands and variables, in this order."""
    size, steps, bands = batch.images.shape[:3]
    nothing, none = torch.zeros(1, 1, 1, dtype=torch.bool), torch.zeros(len(VARIABLES), dtype=torch.bool)
    images = "image" in reads and steps > 0
    if images:
        yield _Part("group", ["image"] * size, torch.ones(1, 1, 1, dtype=torch.bool), none)
    for group, columns in GROUPS.items():
        if group in reads:
            yield _Part("group", [group] * size, nothing, _chosen(len(VARIABLES), columns))
    if images:
        called = _step_names(batch)
        for step in range(steps):
            hidden = _chosen(steps, [step])[None, :, None]
            yield _Part("month", [names[step] for names in called], hidden, none)
        for band in range(bands):
            yield _Part("band", [BANDS[band]] * size, _chosen(bands, [band])[None, None, :], none)
    for group, columns in GROUPS.items():
        if group in reads and group != "location":  # a coordinate says nothing without the other
            for column in columns:
                yield _Part("variable", [VARIABLES[column].name] * size, nothing, _chosen(len(VARIABLES), [column]))


def _hide(batch: ObservationBatch, part: _Part) -> ObservationBatch:
    image_valid = batch.image_valid & ~part.images[..., None, None].to(batch.image_valid.device)
    environment_valid = batch.environment_valid & ~part.variables.to(batch.environment_valid.device)
    return batch._replace(
        images=batch.images * image_valid,
        image_valid=image_valid,
        environment=torch.where(environment_valid, batch.environment, 0.0),
        environment_valid=environment_valid,
    )


def _readable(batch: ObservationBatch, reads: Sequence[str]) -> Tensor:
    """Whether something that the model reads is left of each place, [N]."""
    left = torch.zeros(batch.size, dtype=torch.bool, device=batch.image_valid.device)
    if "image" in reads:
        left |= batch.image_valid.flatten(1).any(1)
    for group, columns in GROUPS.items():
        if group in reads:
            valid = batch.environment_valid[:, list(columns)]
            left |= valid.all(1) if group == "location" else valid.any(1)
    return left


def _chosen(length: int, indices: Sequence[int]) -> Tensor:
    mask = torch.zeros(length, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def _step_names(batch: ObservationBatch) -> list[list[str]]:
    """Months by name, other periods by their days; [N][T]."""
    first, last = batch.first_day.cpu().numpy(), batch.last_day.cpu().numpy()
    months = {(int(start), int(end)): _MONTH_NAMES[month] for month, (start, end) in enumerate(MONTH_DAYS)}
    return [
        [
            months.get((int(start), int(end)), f"days {start:.0f}-{end:.0f}")
            for start, end in zip(starts, ends, strict=True)
        ]
        for starts, ends in zip(first, last, strict=True)
    ]


def _log_odds(probability: float) -> float:
    kept = min(max(float(probability), _LEAST), 1 - _LEAST)
    return float(np.log(kept / (1 - kept)))
