"""What a system is given: named sets of inputs, and observations with the rest masked out.

A model that was trained with whole inputs dropped at random can be asked what it knows from each of them alone; the
other inputs are masked exactly as if they had never been measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from geotreeclip.errors import InputError
from geotreeclip.schema import GROUPS

if TYPE_CHECKING:
    from geotreeclip.observations import ObservationBatch

INPUT_SETS: dict[str, frozenset[str]] = {
    "all": frozenset({"image", *GROUPS}),
    "image": frozenset({"image"}),
    "environment": frozenset(GROUPS),
    "no-location": frozenset({"image", *GROUPS}) - {"location"},
}
"""Name in the column `inputs` -> the parts that are given. "environment" is terrain, soil, climate and location."""


def mask_inputs(batch: ObservationBatch, inputs: str) -> ObservationBatch:
    """The batch with everything masked that a named set of inputs does not hold.

    Raises:
        InputError: there is no set of that name.
    """
    if inputs not in INPUT_SETS:
        raise InputError(f"inputs {inputs!r} are unknown; there are {', '.join(INPUT_SETS)}")
    given = INPUT_SETS[inputs]
    if "image" not in given:
        batch = batch._replace(images=batch.images * 0, image_valid=batch.image_valid & False)
    hidden = [column for group, columns in GROUPS.items() if group not in given for column in columns]
    if hidden:
        environment, valid = batch.environment.clone(), batch.environment_valid.clone()
        environment[:, hidden] = 0
        valid[:, hidden] = False
        batch = batch._replace(environment=environment, environment_valid=valid)
    return batch


def distinct_inputs(model_inputs: Iterable[str], *, has_images: bool) -> list[str]:
    """The input sets that differ for a model and a data set, "all" first.

    A set is left out where nothing of it is there, or where it comes to the same as one before it: without imagery,
    "environment" is "all"; for a model that reads no location, "no-location" is "all".

    Args:
        model_inputs: the parts that the model reads.
        has_images: whether the data set has imagery.
    """
    there = frozenset(model_inputs) - (frozenset() if has_images else {"image"})
    seen: dict[frozenset[str], str] = {}
    for name, parts in INPUT_SETS.items():
        if parts & there:
            seen.setdefault(parts & there, name)
    return list(seen.values())
