"""A linear head over features of places, stored beside a model's weights: how an adapted model knows its own labels.

The file `head.safetensors` of a model directory holds it; the rows are those of the directory's taxonomy.

Shapes: N or B places, F features, L labels, S slots.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError, InputError
from geotreeclip.models.features import FEATURES, feature_widths, read_features

if TYPE_CHECKING:
    from geotreeclip.models.clip import GeoTreeCLIP
    from geotreeclip.observations import ObservationBatch

__all__ = ["HEAD_FILE", "AdaptedHead", "LinearHead", "read_head"]

HEAD_FILE = "head.safetensors"
_FORMAT = "geotreeclip-head"
_VERSION = "1"
_TENSORS = ("weight", "bias", "fill", "slots")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Scores of L labels that are linear in F features.

    Attributes:
        weight: float64 [L, F].
        bias: float64 [L].
        fill: float64 [F], what stands for a missing feature (NaN).
    """

    weight: Floats
    bias: Floats
    fill: Floats

    def logits(self, features: NDArray[Any]) -> Floats:
        """Scores [N, L] of features [N, F]; NaN is filled."""
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.fill):
            raise InputError(f"the head reads {len(self.fill)} features of each sample, got an array {values.shape}")
        return np.asarray(np.where(np.isnan(values), self.fill, values) @ self.weight.T + self.bias)

    def scaled(self, factor: float) -> LinearHead:
        """The head with its scores multiplied."""
        return replace(self, weight=self.weight * factor, bias=self.bias * factor)

    def placed(self, columns: NDArray[Any], count: int) -> LinearHead:
        """The same head over `count` features, of which it reads `columns`."""
        weight, fill = np.zeros((len(self.bias), count)), np.zeros(count)
        weight[:, columns], fill[columns] = self.weight, self.fill
        return LinearHead(weight, self.bias, fill)


@dataclass(frozen=True, eq=False)
class AdaptedHead:
    """A head with the names of what it reads.

    Attributes:
        head: The numbers.
        features: Of `geotreeclip.models.features.FEATURES`, in order.
        slots: float32 [S, 2], first and last day of the periods of `inputs`.
    """

    head: LinearHead
    features: tuple[str, ...]
    slots: Tensor

    def scores(self, model: GeoTreeCLIP, batch: ObservationBatch) -> Tensor:
        """Scores of places, float32 [B, L]; softmax gives probabilities under the prior of the support."""
        values = read_features(model, batch, self.features, self.slots).double()
        weight, bias, fill = (
            torch.from_numpy(array).to(values.device) for array in (self.head.weight, self.head.bias, self.head.fill)
        )
        return (torch.where(values.isnan(), fill, values) @ weight.T + bias).float()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {
            "weight": torch.from_numpy(np.ascontiguousarray(self.head.weight)),
            "bias": torch.from_numpy(self.head.bias),
            "fill": torch.from_numpy(self.head.fill),
            "slots": self.slots.float(),
        }
        about = {"format": _FORMAT, "version": _VERSION, "features": json.dumps(self.features)}
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata=about))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `write`.

        Raises:
            DataError: If it is damaged, or no head.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                missing = [name for name in _TENSORS if name not in file.keys()]  # noqa: SIM118 - no mapping
                if about.get("format") != _FORMAT or about.get("version") != _VERSION or missing:
                    raise DataError(
                        f"{path}: format {about.get('format')!r} version {about.get('version')!r}, lacks "
                        f"{', '.join(missing) or 'nothing'}; expected a {_FORMAT} of version {_VERSION}"
                    )
                found: dict[str, Tensor] = {name: file.get_tensor(name) for name in _TENSORS}
                features = json.loads(about.get("features", "[]"))
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); adapt the model again") from error
        if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
            raise DataError(f"{path}: holds values that are not finite; the file is damaged")
        weight, bias, fill = (found[name].double().numpy() for name in ("weight", "bias", "fill"))
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1] and fill.shape == weight.shape[1:]
        slots = found["slots"]
        if not fits or slots.ndim != 2 or slots.shape[1] != 2 or not set(features) <= set(FEATURES):
            raise DataError(
                f"{path}: weights {weight.shape}, biases {bias.shape}, fills {fill.shape}, slots {tuple(slots.shape)} "
                f"and features {features} do not go together; adapt the model again"
            )
        return cls(LinearHead(weight, bias, fill), tuple(features), slots)


def read_head(directory: Path, model: GeoTreeCLIP, labels: int) -> AdaptedHead | None:
    """The head of a model directory, or None where there is none.

    Args:
        directory: The model directory.
        model: Its model.
        labels: Rows of its taxonomy.

    Raises:
        DataError: If the head is damaged or does not fit the model.
    """
    path = directory / HEAD_FILE
    if not path.is_file():
        return None
    head = AdaptedHead.read(path)
    width = sum(feature_widths(head.features, model, len(head.slots)).values())
    if head.head.weight.shape != (labels, width):
        raise DataError(
            f"{path}: weights {head.head.weight.shape} do not fit {labels} taxa and {width} features "
            f"({', '.join(head.features)}) of this model; the files are from different models"
        )
    return head
