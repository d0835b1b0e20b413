"""One call for a model or an answer: `load` and `classify`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from geotreeclip.candidates import Labels, Prior
from geotreeclip.inference.classifier import Classifier
from geotreeclip.inference.devices import choose_device
from geotreeclip.inputs.gathering import PlaceOptions
from geotreeclip.model_sources import find_model
from geotreeclip.models.calibration import FILE as CALIBRATION
from geotreeclip.models.directory import load_model
from geotreeclip.predictions import Predictions

if TYPE_CHECKING:
    import torch

__all__ = ["classify", "load"]

_KEPT_MODELS = 2


def load(
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    normalisation: str = "statistics",
) -> Classifier:
    """Load a model.

    Args:
        model: Path of a model directory; path of the published checkpoint, "GGT_6M.pth"; "hf-hub:owner/name" (with
            "@revision" to pin one); "demo" for the model that `make demo` trains; None for `$GEOTREECLIP_MODEL`, else
            the default model.
        device: "cpu" or "cuda"; by default a GPU if there is one.
        normalisation: "statistics" scales inputs by numbers stored with the model. "batch" is for the published model
            alone: it scales by the extremes of each batch, which repeats the published scores and makes every answer
            depend on the other places of the call.

    Returns:
        The model, ready for questions.

    Raises:
        InputError: If there is no such model, no such device, or the model cannot be normalised in this way.
        ConfigError: If the device is a GPU and there is none.
        DataError: If its files are damaged or absent.

    Warns:
        InputWarning: With normalisation="batch".
    """
    return Classifier(load_model(find_model(model)), device, normalisation=normalisation)


_kept: OrderedDict[Hashable, Classifier] = OrderedDict()


def classify(
    images: Any = None,
    environment: Any = None,
    longitude: Any = None,
    latitude: Any = None,
    labels: Labels = None,
    rank: str = "species",
    top_k: int | None = 5,
    prior: Prior = "training",
    *,
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    calibrated: bool | None = None,
    sample_ids: Sequence[object] | None = None,
    batch_size: int = 1024,
    **options: Unpack[PlaceOptions],
) -> Predictions:
    """Name the likeliest taxa of each place, in one call.

    The model is loaded at the first call and kept for the next ones.

    Args:
        images: As in `Classifier.classify`, and so all arguments but the next two.
        environment: Environmental variables.
        longitude: Degrees east.
        latitude: Degrees north.
        labels: Candidates.
        rank: Rank of the answers.
        top_k: Answers for each place.
        prior: How common the candidates are.
        model: As in `load`.
        device: As in `load`.
        calibrated: Whether to apply the model's calibration; by default where it has one.
        sample_ids: Identifiers of the places.
        batch_size: Places encoded at a time.
        **options: Further arguments of `Classifier.classify`: source, year, rasters, bands, months, days, scale, ...

    Returns:
        Predictions of N places.

    Raises:
        GeotreeclipError: As `load` and `Classifier.classify`.
    """
    directory = find_model(model)
    weights = directory if directory.is_file() else directory / "model.safetensors"
    # A model that was trained or calibrated anew at the same path is another one.
    changed = [path.stat().st_mtime_ns if path.is_file() else 0 for path in (weights, directory / CALIBRATION)]
    key = (directory.resolve(), *changed, str(choose_device(device)))
    if key not in _kept:
        _kept[key] = Classifier(load_model(directory), device)
        if len(_kept) > _KEPT_MODELS:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key].classify(
        images,
        environment,
        longitude,
        latitude,
        labels,
        rank,
        top_k,
        prior,
        calibrated=calibrated,
        sample_ids=sample_ids,
        batch_size=batch_size,
        **options,
    )
