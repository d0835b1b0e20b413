"""Model directories to and from the Hugging Face hub: whole, pinned by revision, checked by hash, nothing executed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from geotreeclip.data.aside import folder_aside
from geotreeclip.errors import DataError, InputError, first_line
from geotreeclip.model_sources import HUB_FILES, HUB_PREFIX, find_model
from geotreeclip.models.directory import FILES, weights_fingerprint

__all__ = ["check_fingerprint", "copy_model", "find_pretrained", "upload_model"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LEAST = 12  # digits of a hash that tell weights apart


def find_pretrained(name: str | Path, revision: str | None = None, fingerprint: str | None = None) -> Path:
    """The directory of a model by its name on the hub, or its path.

    Args:
        name: "owner/name" of the hub, with or without "hf-hub:"; or what `geotreeclip.load` takes.
        revision: Commit, tag or branch of the hub's repository; pin a commit for answers that do not change.
        fingerprint: SHA-256 of the weights, or its first 12 digits or more, that must be found.

    Raises:
        InputError: If there is no such model.
        DataError: If the weights are others.
    """
    text = str(name)
    if not Path(text).expanduser().exists() and _REPOSITORY.fullmatch(text):
        text = HUB_PREFIX + text
    if revision is not None:
        if not text.startswith(HUB_PREFIX):
            raise InputError(f"revision={revision!r} is for models of the hub, {name} is a path")
        text = f"{text.partition('@')[0]}@{revision}"
    directory = find_model(text)
    if fingerprint is not None:
        check_fingerprint(directory, fingerprint)
    return directory


def check_fingerprint(directory: Path, fingerprint: str) -> None:
    """Compare the weights with a hash.

    Raises:
        InputError: If the hash is too short to tell weights apart.
        DataError: If the weights are others.
    """
    wanted = fingerprint.strip().lower()
    if len(wanted) < _LEAST or not re.fullmatch(r"[0-9a-f]+", wanted):
        raise InputError(f"fingerprint {fingerprint!r}: give the SHA-256 of the weights, {_LEAST} digits or more of it")
    path = directory if directory.is_file() else directory / "model.safetensors"
    found = weights_fingerprint(path)
    if not found.startswith(wanted):
        raise DataError(f"{path}: SHA-256 is {found[:16]}..., expected {wanted[:16]}...; these are other weights")


def copy_model(source: Path | None, target: str | Path) -> Path:
    """Copy a model directory, whole or not at all.

    Args:
        source: The directory; None for a model that was read from a checkpoint file.
        target: Where to; it must not exist, or be empty.

    Raises:
        InputError: If there is no directory to copy, or something is at the target.
        DataError: If it cannot be written.
    """
    directory = _whole(source)
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already; name a new directory, or delete it first")
    with folder_aside(target) as aside:
        for path in _files(directory):
            shutil.copy2(path, aside / path.name)
    return target


def upload_model(
    source: Path | None, repository: str, *, private: bool = False, message: str = "", token: str | None = None
) -> str:
    """Put a model directory on the hub.

    Only the files of a model directory are sent. A model without a card is refused: who finds it must be told what it
    reads and what it was trained on.

    Args:
        source: The directory.
        repository: "owner/name"; it is made where it is not there.
        private: Whether a new repository is private.
        message: Of the commit.
        token: By default the one that `hf auth login` keeps.

    Returns:
        The commit, to be pinned as `hf-hub:owner/name@COMMIT`.

    Raises:
        InputError: If the name is none, there is no card, or the hub refuses.
    """
    directory = _whole(source)
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository!r} is no name of a repository; give owner/name")
    if not (directory / "README.md").is_file():
        raise InputError(f"{directory}: has no README.md, the model card; write one before others see the model")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, repo_type="model", exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            allow_patterns=list(HUB_FILES),
            commit_message=message or f"geotreeclip model {weights_fingerprint(directory / 'model.safetensors')[:12]}",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"{HUB_PREFIX}{repository} cannot be written: {reason}") from error
    return str(commit.oid)


def _whole(source: Path | None) -> Path:
    absent = (
        FILES if source is None or not source.is_dir() else [name for name in FILES if not (source / name).is_file()]
    )
    if source is None or absent:
        raise InputError("this model has no directory; `geotreeclip convert` makes one of a checkpoint")
    return source


def _files(directory: Path) -> list[Path]:
    return sorted({path for pattern in HUB_FILES for path in directory.glob(pattern) if path.is_file()})
