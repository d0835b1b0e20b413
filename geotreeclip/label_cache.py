"""Embeddings of label lists on disk, so that a list is encoded once for a model.

A file is found by its key, the hash of everything that the embeddings depend on; a list, a prompt or a weight that
changes gives another key, so nothing ever has to be invalidated.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from geotreeclip.cache import cache_directory

__all__ = ["LabelCache", "label_key", "read_embeddings", "write_embeddings"]

_NAME = "embeddings"


def label_key(fingerprint: str, prompts: Sequence[str], tokens: int) -> str:
    """Hash of what label embeddings depend on.

    Args:
        fingerprint: SHA-256 of the model's weights.
        prompts: Text of each label, in order.
        tokens: Length that prompts are cut or padded to.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps([fingerprint, tokens, *prompts]).encode()).hexdigest()


def write_embeddings(path: str | Path, embeddings: torch.Tensor, key: str) -> None:
    """Write label embeddings [L, D] under their key: aside first, then renamed, so that no reader sees half a file.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        save_file({_NAME: embeddings.detach().cpu().contiguous()}, aside, metadata={"key": key})
        os.replace(aside, path)
    except SafetensorError as error:  # safetensors wraps a full disk in its own error
        raise OSError(str(error)) from error
    finally:
        Path(aside).unlink(missing_ok=True)


def read_embeddings(path: str | Path, key: str, shape: tuple[int, int]) -> torch.Tensor | None:
    """Read label embeddings if the file holds those of `key`.

    Args:
        path: The file; it may be absent.
        key: As `label_key` gives it.
        shape: (L, D) that they must have.

    Returns:
        float32 [L, D] on the CPU, or None if the file is absent or holds others.

    Warns:
        UserWarning: If the file is damaged; it is then treated as absent.
    """
    if not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            embeddings: torch.Tensor = file.get_tensor(_NAME)
    except (SafetensorError, OSError) as error:
        warnings.warn(f"{path}: damaged label embeddings are ignored and made again ({error})", stacklevel=2)
        return None
    if tuple(embeddings.shape) != shape or not bool(torch.isfinite(embeddings).all()):
        warnings.warn(
            f"{path}: label embeddings of shape {tuple(embeddings.shape)} do not fit {shape} or are not finite; "
            "they are made again",
            stacklevel=2,
        )
        return None
    return embeddings.float()


class LabelCache:
    """A folder of label embeddings, one file for each key.

    Args:
        directory: The folder, by default `label-embeddings` in the user's cache; made when first written to.
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        self._directory = None if directory is None else Path(directory)

    @property
    def directory(self) -> Path:
        """The folder."""
        return self._directory or cache_directory() / "label-embeddings"

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.directory / f"{key}.safetensors"

    def get(self, key: str, shape: tuple[int, int]) -> torch.Tensor | None:
        """Embeddings [L, D] of a key, or None (see `read_embeddings`)."""
        return read_embeddings(self.path(key), key, shape)

    def put(self, key: str, embeddings: torch.Tensor) -> None:
        """Keep embeddings; where the folder cannot be written to, a warning says so and work goes on."""
        try:
            write_embeddings(self.path(key), embeddings, key)
        except OSError as error:
            warnings.warn(
                f"{self.directory}: label embeddings cannot be kept ({error}); set GEOTREECLIP_CACHE to a folder that "
                "can be written to",
                stacklevel=2,
            )
