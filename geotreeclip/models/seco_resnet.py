"""The published SeCo-Eco ResNet-50 as a frozen embedding of places, to hold others against.

It was trained by SSL4Eco (arXiv 2504.18256) on single Sentinel-2 images of 9 channels: B2, B3, B4, B5, B6, B7, B8, B8A
and NDVI, clipped at 0 and times 10,000, all divided by 255 on the way in (the ToTensor of its transforms does that to
any value above 1, so the network saw 0 to about 39, not reflectance). That scale is stated here, and can be changed for
weights that were trained otherwise.

Its input here is one step of a series: the one nearest to 15 July in the north and 15 January in the south, as in its
own evaluation. A patch of 5 x 5 pixels is enlarged; the network was made for 224, so this is a floor of what it can do.

Shapes: B batch, T steps, C bands, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.published_checkpoint import read_state
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, VARIABLE_INDEX

__all__ = ["CHANNELS", "SCALE", "SecoEco", "load_seco_eco"]

CHANNELS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "NDVI")
"""In the order that the network reads them."""

SCALE = 255.0
"""Digital numbers are divided by this."""

_STAGES = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
"""Places of a ResNet's parts in the nn.Sequential that its trainer made of them (2 and 3 have no weights)."""

_DAY = {"north": 196.0, "south": 15.0}
_ENOUGH = 0.5  # share of valid values that a step needs


class SecoEco(nn.Module):
    """ResNet-50 of 9 channels; embeddings of 2,048 numbers.

    Args:
        scale: What digital numbers are divided by.
        size: Pixels along each side of the enlarged patch.
    """

    def __init__(self, scale: float = SCALE, size: int = 64) -> None:
        super().__init__()
        if not scale > 0 or size < 32:
            raise ConfigError(f"scale {scale}, size {size}: give a positive number, and 32 pixels or more")
        import timm

        self.scale, self.size = float(scale), size
        self.network = timm.create_model("resnet50", pretrained=False, in_chans=len(CHANNELS), num_classes=0)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> SecoEco:
        """Stays in evaluation mode: its batch statistics are those of its training."""
        return super().train(False)

    def channels(self, batch: ObservationBatch) -> Tensor:
        """What the network reads, [B, 9, H, W]; NaN where a place has no step that is seen well enough."""
        south = batch.environment_valid[:, VARIABLE_INDEX["latitude"]] & (
            batch.environment[:, VARIABLE_INDEX["latitude"]] < 0
        )
        wanted = torch.where(south, _DAY["south"], _DAY["north"]).unsqueeze(1)
        middle = (batch.first_day - 1 + batch.last_day) / 2
        away = ((middle - wanted + 182.5) % 365 - 182.5).abs()
        well = batch.image_valid.flatten(2).float().mean(-1) >= _ENOUGH
        step = away.masked_fill(~well, torch.inf).argmin(1)
        rows = torch.arange(batch.size, device=step.device)
        values, valid = batch.images[rows, step], batch.image_valid[rows, step]
        # What is missing takes the mean of its band.
        count = valid.sum((-1, -2), keepdim=True)
        mean = (values * valid).sum((-1, -2), keepdim=True) / count.clamp(min=1)
        values = torch.where(valid, values, mean)
        band = {name: values[:, index] for index, name in enumerate(BANDS)}
        band["NDVI"] = 10_000 * ((band["B8"] - band["B4"]) / (band["B8"] + band["B4"] + 1e-5)).clamp(min=0)
        seen = well.any(1)[:, None, None, None]
        return torch.where(seen, torch.stack([band[name] for name in CHANNELS], dim=1) / self.scale, torch.nan)

    def forward(self, batch: ObservationBatch) -> Tensor:
        """Embed places: [B, 2048]; NaN where a place has no step that is seen well enough."""
        patch = functional.interpolate(self.channels(batch), size=(self.size, self.size), mode="bilinear")
        embedding: Tensor = self.network(patch)
        return embedding


def load_seco_eco(path: str | Path, scale: float = SCALE, size: int = 64) -> SecoEco:
    """Read the published weights from a local file: the checkpoint of its trainer, or a plain state dict of a ResNet.

    Args:
        path: The file; only tensors and plain containers in it are accepted.
        scale: What digital numbers are divided by; 255 as it was trained.
        size: Pixels along each side of the enlarged patch.

    Raises:
        DataError: The file cannot be read, or holds other weights.
    """
    model = SecoEco(scale, size)
    state = _renamed(read_state(path))
    expected = model.network.state_dict()
    if "conv1.weight" in state and state["conv1.weight"].shape != expected["conv1.weight"].shape:
        raise DataError(
            f"{path}: its first layer reads {state['conv1.weight'].shape[1]} channels; the one with "
            f"{len(CHANNELS)} ({', '.join(CHANNELS)}) is wanted"
        )
    absent = sorted(set(expected) - set(state))
    surplus = sorted(set(state) - set(expected))
    shapes = sorted(name for name in expected if name in state and state[name].shape != expected[name].shape)
    if absent or surplus or shapes:
        raise DataError(
            f"{path}: is no ResNet-50: {len(absent)} weights absent {absent[:3]}, {len(surplus)} unknown "
            f"{surplus[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DataError(f"{path}: {broken[0]} holds values that are not finite; the file is damaged")
    model.network.load_state_dict(state)
    return model


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of queries of a checkpoint, by the names of a ResNet; the classifier of a plain one is left out."""
    queries = {name.removeprefix("encoder_q."): value for name, value in state.items() if name.startswith("encoder_q.")}
    named: dict[str, Tensor] = {}
    for name, value in (queries or state).items():
        match = re.match(r"(\d+)\.(.+)", name)
        stage = _STAGES.get(int(match[1])) if match else None
        plain = f"{stage}.{match[2]}" if match and stage else name
        if not plain.startswith("fc."):
            named[plain] = value
    return named
