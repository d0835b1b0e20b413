"""From the name of a model to a directory on disk: a path, the hub, the demo model or the default."""

from __future__ import annotations

import os
from pathlib import Path

from geotreeclip.cache import demo_model_directory
from geotreeclip.errors import DataError, InputError, first_line

__all__ = ["CHECKPOINT_SUFFIXES", "DEFAULT_MODEL", "HUB_FILES", "HUB_PREFIX", "MODEL_VARIABLE", "find_model"]

DEFAULT_MODEL = "hf-hub:geotreeclip/geotreeclip-small"
"""What is used where nobody names a model."""

MODEL_VARIABLE = "GEOTREECLIP_MODEL"
"""Environment variable that names another default."""

HUB_PREFIX = "hf-hub:"

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
"""Endings of files that are read as the published checkpoint."""

HUB_FILES = ("*.json", "*.safetensors", "*.parquet", "README.md")
"""What is fetched from the hub: the files of a model directory, none of which holds code."""


def find_model(model: str | Path | None = None) -> Path:
    """The directory of a model, or the file of the published one.

    Args:
        model: Path of a model directory or of a training run, whose model it is then; path of the published
            checkpoint (GGT_6M.pth); "hf-hub:owner/name", with "@revision" to pin one; "demo"; or None for
            `$GEOTREECLIP_MODEL`, else the default model.

    Returns:
        An existing directory, or an existing file that ends as checkpoints do.

    Raises:
        InputError: If there is no such model, or it cannot be fetched; the message says what can be given instead.
        DataError: If the path is a file.
    """
    if model is None:
        named = os.environ.get(MODEL_VARIABLE)
        if named:
            return _find(named, f"${MODEL_VARIABLE} names {named!r}: ")
        try:
            return _find(DEFAULT_MODEL, "")
        except InputError as error:
            raise InputError(
                f"no model was given, ${MODEL_VARIABLE} is not set, and the default cannot be had ({error}); pass "
                f'model=PATH, set ${MODEL_VARIABLE}, or try model="demo"'
            ) from error
    return _find(str(model), "")


def _find(model: str, prefix: str) -> Path:
    if model == "demo":
        directory = demo_model_directory()
        if not (directory / "config.json").is_file():
            raise InputError(
                f"{prefix}there is no demo model at {directory}; `make demo` in the source tree trains it in minutes"
            )
        return directory
    if model.startswith(HUB_PREFIX):
        return _fetch(model.removeprefix(HUB_PREFIX), prefix)
    if not model.strip():
        raise InputError(f'{prefix}the name of the model is empty; give a path, "{HUB_PREFIX}owner/name" or "demo"')
    path = Path(model).expanduser()
    if (path / "model" / "config.json").is_file():  # a training run
        return path / "model"
    if path.is_dir():
        return path
    if path.is_file() and path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return path
    if path.is_file():
        raise DataError(
            f"{prefix}{path} is a file; give the model directory that holds model.safetensors, or the published "
            f"checkpoint ({', '.join(CHECKPOINT_SUFFIXES)})"
        )
    raise InputError(
        f'{prefix}no model at {path}; give a model directory, the published GGT_6M.pth, "{HUB_PREFIX}owner/name", or '
        '"demo" for the demo model'
    )


def _fetch(name: str, prefix: str) -> Path:
    """Download a model from the hub, or find it among those downloaded before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        # The library's messages run over many lines; the first says what happened.
        reason = first_line(error)
        raise InputError(f"{prefix}{HUB_PREFIX}{name} cannot be fetched: {reason}") from error
