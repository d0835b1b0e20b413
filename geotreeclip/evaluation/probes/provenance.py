"""Which questions an embedding cannot honestly be asked: those whose answer it was given.

An embedding of a model that read climate returns climate; a score of that says nothing. So a target of a group of
inputs is refused where the embedding saw that group, and marked where the person insists.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from geotreeclip.errors import ConfigError
from geotreeclip.inputs.environment import variable_name
from geotreeclip.models.config import INPUTS
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES

_CLIMATE = re.compile(
    r"temperature|rainfall|precip|climat|k(?:oe|o|ö)ppen|aridity|evapo|humidity|cloud_cover|solar|growing|degree_days|"
    r"\bbio_?\d|frost|snow|chelsa|worldclim",
    re.IGNORECASE,
)
_TERRAIN = re.compile(r"elevation|altitude|slope|aspect|topo_", re.IGNORECASE)


def group_of(target: str) -> str | None:
    """The group of inputs ("climate", "terrain", "soil", "location") that a quantity belongs to, or None."""
    known = variable_name(target)
    if known is not None:
        return VARIABLES[VARIABLE_INDEX[known]].group
    if re.search(r"soil_temperature", target, re.IGNORECASE) or _CLIMATE.search(target):
        return "climate"
    return "terrain" if _TERRAIN.search(target) else None


def check_targets(targets: Sequence[str], inputs: Collection[str] | None, *, force: bool = False) -> list[str]:
    """Refuse targets that the embedding was given; with `force`, say so instead.

    Args:
        targets: names of the target columns.
        inputs: what the embedding saw (of `geotreeclip.models.config.INPUTS`), or None where nobody knows.
        force: True to go on, marked.

    Returns:
        Marks for the report: one for each target that the embedding saw, or may have seen.

    Raises:
        ConfigError: a target that it saw or may have seen, and no `force`.
    """
    unknown = sorted(set(inputs or ()) - set(INPUTS))
    if unknown:
        raise ConfigError(f"inputs {', '.join(unknown)}: an embedding can see {', '.join(INPUTS)}")
    marks = []
    for target in targets:
        group = group_of(target)
        if group is None or (inputs is not None and group not in inputs):
            continue
        saw = f"the embedding saw {group}" if inputs is not None else f"nobody said whether the embedding saw {group}"
        marks.append(f"{target} is {group} and {saw}: the score says nothing of what the embedding has learnt")
    if marks and not force:
        remedy = "embed without it (--inputs image)" if inputs is not None else "say what it saw (--saw image,terrain)"
        raise ConfigError(f"probe: {marks[0]}; {remedy}, or pass --force to have it marked in the report")
    return marks
