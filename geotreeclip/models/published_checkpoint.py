"""GGT_6M.pth and files like it: read without trusting them, checked entry by entry, made into a model.

Shapes: C bands, V variables.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import DataError, first_line
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.models.config import ModelConfig, model_config
from geotreeclip.models.published_ranges import BatchRanges, default_ranges

__all__ = ["model_from_state", "read_state"]

# Published prefix -> ours; names behind it agree.
_PREFIXES = (
    ("temporal_extractor.clip_vit.model.vision_model.", "observation_encoder.month_encoder."),
    ("temporal_extractor.temporal_attention.", "observation_encoder.month_attention."),
    ("auxiliary_encoder.", "observation_encoder.environment_encoder."),
    ("image_projection.", "observation_encoder.image_projection."),
    ("aux_projection.", "observation_encoder.aux_projection."),
    ("fusion.", "observation_encoder.fusion."),
    ("text_encoder.text_encoder.text_model.", "text_encoder.tower."),
)
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_OWN = frozenset({"log_scale", "observation_encoder.band_range", "observation_encoder.variable_range"})
"""Entries of our model that a published file has not: the temperature and the fixed ranges."""
_NO_WEIGHT = "position_ids"  # a count from 0, which older releases of transformers stored


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a published checkpoint, whatever it is wrapped in.

    Only tensors and plain containers are read (`weights_only`), memory-mapped, so that the optimizer's share of the
    file is never touched.

    Args:
        path: A plain state dict, or a checkpoint that holds one as model_state_dict, state_dict or model.

    Returns:
        Published names and tensors; "module." and "_orig_mod." prefixes are taken off, position ids left out.

    Raises:
        DataError: If the file is damaged, holds anything but tensors and plain values, or no state dict.
    """
    path = Path(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        # What torch says of other contents is advice to run them.
        other = isinstance(error, pickle.UnpicklingError)
        reason = "it is no PyTorch file, or it holds more than tensors" if other else first_line(error)
        raise DataError(
            f"{path}: cannot be read as weights ({reason:.300}); only tensors are accepted, nothing in the file is run"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: holds {_kind(content)}, expected a state dict or a checkpoint with model_state_dict")
    state: dict[str, Tensor] = {}
    for given, value in content.items():
        name = re.sub(r"^(?:module\.|_orig_mod\.)+", "", str(given))
        if not isinstance(value, Tensor):
            raise DataError(f"{path}: entry {given!r:.100} is {_kind(value)}, expected a tensor; is this a state dict?")
        if name in state:
            raise DataError(f"{path}: entry {name} comes twice, with and without a prefix")
        if name.rsplit(".", 1)[-1] != _NO_WEIGHT:
            state[name] = value
    return state


def model_from_state(
    state: Mapping[str, Tensor],
    where: str | Path,
    *,
    ranges: BatchRanges | None = None,
    config: ModelConfig | None = None,
) -> GeoTreeCLIP:
    """Build the published model around its weights.

    Args:
        state: As `read_state` gives it.
        where: What to call the file in an error.
        ranges: Fixed ranges for normalisation="statistics"; by default `published_ranges.default_ranges`.
        config: Sizes; by default those of the published model.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        DataError: If entries are missing, unknown, of another shape or not finite; the message names them.
    """
    config = config or model_config("published")
    with torch.device("meta"):  # shapes without memory: the weights come from the file
        model = GeoTreeCLIP(config, Statistics.empty())
    expected = {_published(name): value.shape for name, value in model.state_dict().items() if name not in _OWN}
    _check(state, expected, where)
    weights = {_ours(name): value.float() for name, value in state.items()}
    bands, variables = ranges or default_ranges()
    weights["observation_encoder.band_range"] = torch.tensor(bands, dtype=torch.float32)
    weights["observation_encoder.variable_range"] = torch.tensor(variables, dtype=torch.float32)
    weights["log_scale"] = torch.tensor(-math.log(config.initial_temperature))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _check(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], where: str | Path) -> None:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for what, names in (("missing", missing), ("unexpected", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise DataError(
            f"{where}: not the weights of the published GeoTreeCLIP: of {len(expected)} entries {'; '.join(faults)}"
        )
    for name, value in state.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise DataError(f"{where}: {name} ({value.dtype}) holds values that are no finite numbers")


def _ours(name: str) -> str:
    theirs, ours = next(pair for pair in _PREFIXES if name.startswith(pair[0]))
    return ours + name.removeprefix(theirs)


def _published(name: str) -> str:
    theirs, ours = next(pair for pair in _PREFIXES if name.startswith(pair[1]))
    return theirs + name.removeprefix(ours)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "nothing"
