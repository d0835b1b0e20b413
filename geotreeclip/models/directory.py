"""Model directories: weights, configuration, statistics, taxonomy, label embeddings and card, written and read whole.

Nothing in a directory is executed: weights are safetensors, the rest JSON and Parquet, names come from registries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from geotreeclip.data.aside import folder_aside
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.label_cache import label_key, write_embeddings
from geotreeclip.models.clip import GeoTreeCLIP, create_model
from geotreeclip.models.config import ModelConfig, config_from_dict
from geotreeclip.models.head import AdaptedHead, read_head
from geotreeclip.models.place_centres import PlaceCentres
from geotreeclip.models.published_checkpoint import model_from_state, read_state
from geotreeclip.models.published_ranges import BatchRanges
from geotreeclip.schema import BANDS, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxonomy

__all__ = [
    "FILES",
    "LoadedModel",
    "load_model",
    "load_published",
    "save_model",
    "weights_fingerprint",
]

FILES: tuple[str, ...] = (
    "model.safetensors",
    "config.json",
    "statistics.json",
    "taxonomy.parquet",
    "training.json",
)
"""What a model directory must hold; label embeddings, calibration, ranges, place centres and the card are optional."""

_BATCH = 1024


class LoadedModel(NamedTuple):
    """A model with everything that travels with its weights.

    Attributes:
        model: In evaluation mode, on the CPU.
        config: Its configuration.
        taxonomy: The taxa of training, S rows.
        counts: [S] int64 training samples of each.
        statistics: Means and deviations used for standardisation.
        training: Configuration, data fingerprint and scores of the training run.
        fingerprint: SHA-256 of the weights.
        directory: Where it was read from, or None.
        head: Of a model that was adapted to labels of its own, which are then its taxonomy; None for others.
        places: Where the places of training lie in the space, or None where that is not known.
    """

    model: GeoTreeCLIP
    config: ModelConfig
    taxonomy: Taxonomy
    counts: npt.NDArray[np.int64]
    statistics: Statistics
    training: dict[str, Any]
    fingerprint: str
    directory: Path | None = None
    head: AdaptedHead | None = None
    places: PlaceCentres | None = None

    @property
    def scores_carry_prior(self) -> bool:
        """Whether scores hold the prior of the training set, as those of our losses do.

        Those of a loss over pairs without correction, such as the published one, approach log p(place | taxon) /
        p(place), which is free of it; training.json then says `"prior": "uniform"`.
        """
        return bool(self.training.get("prior", "training") == "training")


def weights_fingerprint(path: str | Path) -> str:
    """SHA-256 of a weights file, as hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_prompts(model: GeoTreeCLIP, prompts: list[str], *, progress: bool = False) -> torch.Tensor:
    """Embeddings of prompts in chunks, [L, D] of unit length on the CPU."""
    device = model.log_scale.device
    starts = range(0, len(prompts), _BATCH)
    with torch.inference_mode():
        parts = [
            model.encode_text(model.tokenize(prompts[start : start + _BATCH]).to(device)).cpu()
            for start in tqdm(starts, desc="labels", unit=f" x {_BATCH}", disable=None if progress else True)
        ]
    return torch.cat(parts) if parts else torch.zeros(0, model.config.embed_dim)


def save_model(
    directory: str | Path,
    model: GeoTreeCLIP,
    taxonomy: Taxonomy,
    counts: npt.ArrayLike,
    statistics: Statistics,
    training: dict[str, Any],
    card: str = "",
    *,
    places: PlaceCentres | None = None,
    label_embeddings: bool = True,
    progress: bool = False,
) -> Path:
    """Write a model directory, aside first and then renamed, so that it is there whole or not at all.

    Args:
        directory: Where to; an older directory of that name is replaced.
        model: The weights; they are written as they are.
        taxonomy: The taxa of training.
        counts: [S] training samples of each taxon.
        statistics: What the model standardises by.
        training: JSON-able account of the training run.
        card: Text of README.md, the model card.
        places: Where the places of training lie in the space.
        label_embeddings: False leaves the taxa unencoded; whoever asks first encodes them.
        progress: Whether to show how far the encoding of taxa is.

    Returns:
        The directory.

    Raises:
        DataError: If it cannot be written.
    """
    directory = Path(directory)
    with folder_aside(directory) as aside:
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, aside / "model.safetensors")
        (aside / "config.json").write_text(json.dumps(dataclasses.asdict(model.config), indent=1) + "\n")
        statistics.write(aside / "statistics.json")
        taxonomy.write(aside / "taxonomy.parquet")
        account = {**training, "label_counts": np.asarray(counts, dtype=np.int64).tolist()}
        (aside / "training.json").write_text(json.dumps(account, indent=1) + "\n")
        if label_embeddings:
            was_training = model.training
            model.eval()
            prompts = taxonomy.prompts()
            key = label_key(
                weights_fingerprint(aside / "model.safetensors"), prompts, model.text_encoder.context_length
            )
            embeddings = encode_prompts(model, prompts, progress=progress)
            write_embeddings(aside / "label_embeddings.safetensors", embeddings, key)
            model.train(was_training)
        if places is not None:
            places.write(aside)
        if card:
            (aside / "README.md").write_text(card)
    return directory


def load_model(directory: str | Path) -> LoadedModel:
    """Read a model directory, or the published checkpoint (GGT_6M.pth) as it is.

    Raises:
        DataError: If a file is absent, damaged, or does not belong to the others.
        ConfigError: If the configuration names something unknown.
    """
    directory = Path(directory)
    if directory.is_file():
        return load_published(directory)
    absent = [name for name in FILES if not (directory / name).is_file()]
    if absent:
        raise DataError(f"{directory}: not a model directory, {', '.join(absent)} absent; `train/clip.py` writes one")
    config = config_from_dict(ModelConfig, _json(directory / "config.json"), str(directory / "config.json"))
    path = directory / "model.safetensors"
    held = path.stat().st_size
    if 2 * config.least_parameters > held:  # two bytes each at least; before memory is taken for what is not there
        raise DataError(
            f"{path}: damaged, or of another model: config.json describes a model of more than "
            f"{config.least_parameters:,} weights, but model.safetensors has {held:,} bytes; fetch or train it again"
        )
    # The weights lie beside the configuration: a pretrained tower need not be fetched again.
    offline = dataclasses.replace(config, text=dataclasses.replace(config.text, pretrained=""))
    statistics = Statistics.read(directory / "statistics.json")
    if (statistics.bands, statistics.variables) != (tuple(BANDS), tuple(VARIABLE_NAMES)):
        raise DataError(
            f"{directory / 'statistics.json'}: is of the bands {', '.join(statistics.bands)} and "
            f"{len(statistics.variables)} variables; models read {', '.join(BANDS)} and {len(VARIABLE_NAMES)}"
        )
    # The published architecture keeps nothing outside its weights, so it needs no memory before they come.
    published = config.architecture == "published"
    with torch.device("meta") if published else nullcontext():
        model = create_model(offline, statistics)
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: damaged ({error}); fetch or train the model again") from error
    _load_state(model, state, path, assign=published)
    model.eval()
    taxonomy = Taxonomy.read(directory / "taxonomy.parquet")
    training = _json(directory / "training.json")
    counts = _counts(training.pop("label_counts", []), directory / "training.json")
    if len(counts) != len(taxonomy):
        raise DataError(
            f"{directory}: training.json counts {len(counts)} labels but taxonomy.parquet has {len(taxonomy)} taxa; "
            "the files are from different models"
        )
    head = read_head(directory, model, len(taxonomy))
    fingerprint = weights_fingerprint(path)
    places = PlaceCentres.read(directory, config.embed_dim)
    return LoadedModel(model, config, taxonomy, counts, statistics, training, fingerprint, directory, head, places)


def load_published(path: str | Path, ranges: BatchRanges | None = None) -> LoadedModel:
    """Read a checkpoint of the published model (see `geotreeclip.models.published_checkpoint.read_state`).

    It carries no list of taxa, and its loss leaves the prior of the training set out of the scores.

    Args:
        path: The file.
        ranges: Fixed ranges of its inputs; by default `geotreeclip.models.published_ranges.default_ranges`.

    Raises:
        DataError: If it is damaged, or holds other weights.
    """
    path = Path(path)
    model = model_from_state(read_state(path), path, ranges=ranges)
    training = {"source": path.name, "prior": "uniform"}
    counts = np.zeros(0, dtype=np.int64)
    fingerprint = weights_fingerprint(path)
    return LoadedModel(model, model.config, Taxonomy([]), counts, Statistics.empty(), training, fingerprint)


def _counts(values: Any, path: Path) -> npt.NDArray[np.int64]:
    if not isinstance(values, list) or any(type(value) is not int or not 0 <= value < 2**53 for value in values):
        raise DataError(f"{path}: label_counts is {values!r:.80}, expected a list of counts; train the model again")
    return np.array(values, dtype=np.int64)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _load_state(model: GeoTreeCLIP, state: dict[str, torch.Tensor], path: Path, *, assign: bool) -> None:
    """Load weights strictly, naming the first entries that do not fit, and refuse values that are not finite."""
    expected = model.state_dict()
    missing, surplus = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shapes = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    if missing or surplus or shapes:
        raise ConfigError(
            f"{path}: weights do not fit config.json: {len(missing)} missing {missing[:3]}, {len(surplus)} unknown "
            f"{surplus[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    others = [name for name, value in expected.items() if state[name].is_floating_point() != value.is_floating_point()]
    if others:
        raise DataError(f"{path}: {others[0]} has dtype {state[others[0]].dtype}; the weights of a model are floats")
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DataError(f"{path}: {broken[0]} holds values that are not finite; the file is damaged")
    model.load_state_dict(state, assign=assign)
