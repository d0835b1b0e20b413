"""CLIP, RemoteCLIP and their like on true-colour composites: any open_clip model, by name or from a local checkpoint.

Reflectance 0 to 0.3 of B4, B3, B2 becomes 0 to 1, the patch is enlarged to the model's image size and normalised as the
model was trained; probabilities over the candidates are averaged over the months that were seen. (Passing digital
numbers or raw reflectance to an 8-bit image instead shows the model the low-order bytes of the numbers.)

Shape letters: B batch, T time steps, C bands, H W pixels, I image size, S taxa, P prompts, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, first_line
from geotreeclip.schema import BANDS, MISSING_DN, REFLECTANCE_SCALE
from geotreeclip.taxonomy import Taxon, Taxonomy

if TYPE_CHECKING:
    from torch import Tensor

    from geotreeclip.data.packed import PackedDataset

__all__ = ["PROMPTS", "ClipModel", "clip_log_prob", "describe", "load_clip", "parse_clip", "true_colour"]

WHITE = 0.3
"""Reflectance that is shown as white; the usual stretch of Sentinel-2 true-colour images."""

PROMPTS = (
    "a satellite image of {name} trees.",
    "an aerial photo of a forest of {name}.",
    "a true-colour Sentinel-2 image of {name}, {kind}.",
)
"""Templates; embeddings of a taxon's prompts are averaged, as CLIP's zero-shot protocol does."""

_BATCH_IMAGES = 256


def true_colour(images: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """True-colour composites.

    Args:
        images: uint16 [B, T, C, H, W], digital numbers with the offset removed, 65535 where missing.

    Returns:
        float32 [B, T, 3, H, W] in 0 to 1, red, green, blue; a missing pixel has the mean of its band in the patch. And
        bool [B, T], which steps have a valid pixel in each of the three.
    """
    bands = images[:, :, [BANDS.index(name) for name in ("B4", "B3", "B2")]]
    valid = bands != MISSING_DN
    count = valid.sum(axis=(3, 4), keepdims=True)
    reflectance = np.where(valid, bands, 0).astype(np.float32) / REFLECTANCE_SCALE
    mean = reflectance.sum(axis=(3, 4), keepdims=True) / np.maximum(count, 1)
    shown = np.clip(np.where(valid, reflectance, mean) / WHITE, 0, 1)
    return shown.astype(np.float32), np.asarray((count > 0).all(axis=(2, 3, 4)))


def describe(taxon: Taxon) -> list[str]:
    """The prompts of a taxon: its finest name, and its genus, family or leaf type as the kind where they are stated."""
    name = taxon.name(taxon.rank)
    coarser = [part for part in (taxon.leaf_type.lower(), f"family {taxon.family}" if taxon.family else "") if part]
    kind = f"a tree, {', '.join(coarser)}" if coarser else "a tree"
    return [template.format(name=name, kind=kind) for template in PROMPTS]


def parse_clip(text: str) -> tuple[str, str]:
    """Name and weights of "NAME" or "NAME@WEIGHTS"; the weights are a tag of open_clip or a local file."""
    name, _, weights = text.partition("@")
    return name, weights


@dataclass(frozen=True, eq=False)
class ClipModel:
    """An open_clip model, ready to score.

    Attributes:
        name: As open_clip knows it, and where its weights are from.
        model: In evaluation mode.
        tokenizer: Of its text tower.
        size: I, pixels along an image.
        mean: [3, 1, 1].
        deviation: [3, 1, 1].
        device: Where it computes.
    """

    name: str
    model: Any
    tokenizer: Any
    size: int
    mean: Tensor
    deviation: Tensor
    device: Any

    def encode_taxa(self, taxa: Sequence[Taxon]) -> Tensor:
        """Embeddings of taxa, the mean over their prompts, [S, D] of unit length."""
        import torch
        from torch.nn.functional import normalize

        prompts = [prompt for taxon in taxa for prompt in describe(taxon)]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), 512):
                tokens = self.tokenizer(prompts[start : start + 512]).to(self.device)
                parts.append(normalize(self.model.encode_text(tokens).float(), dim=-1))
        return normalize(torch.cat(parts).reshape(len(taxa), len(PROMPTS), -1).mean(dim=1), dim=-1)

    def encode_images(self, shown: NDArray[np.float32]) -> Tensor:
        """Embeddings of composites [B, 3, H, W] in 0 to 1, [B, D] of unit length."""
        import torch
        from torch.nn.functional import interpolate, normalize

        parts = []
        with torch.inference_mode():
            for start in range(0, len(shown), _BATCH_IMAGES):
                small = torch.from_numpy(shown[start : start + _BATCH_IMAGES]).to(self.device)
                large = interpolate(small, size=(self.size, self.size), mode="bicubic", align_corners=False).clamp(0, 1)
                parts.append(normalize(self.model.encode_image((large - self.mean) / self.deviation).float(), dim=-1))
        return torch.cat(parts)


def load_clip(text: str, device: str | None = None) -> ClipModel:
    """Load an open_clip model.

    Args:
        text: "NAME" (random weights), "NAME@TAG" (pretrained weights that open_clip fetches) or "NAME@FILE" (a local
            checkpoint, such as RemoteCLIP's); NAME may be "hf-hub:owner/name" or "local-dir:PATH".
        device: torch device; a GPU where there is one by default.

    Raises:
        ConfigError: open_clip does not know the model, or its weights cannot be had.
    """
    import open_clip
    import torch

    name, weights = parse_clip(text)
    known = name.startswith(("hf-hub:", "local-dir:")) or name in open_clip.list_models()
    if not known:
        raise ConfigError(f"--clip {text}: open_clip has no model {name!r}; open_clip.list_models() lists them")
    is_file = "/" in weights or weights.endswith((".pt", ".bin", ".safetensors"))
    if is_file and not Path(weights).is_file():
        raise ConfigError(f"--clip {text}: {weights} is no file")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        model = open_clip.create_model(name, pretrained=weights or None, device=where)
        tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"--clip {text}: {first_line(error)}") from error
    visual: Any = model.visual
    size = visual.image_size
    mean, deviation = (
        torch.tensor(values, device=where).reshape(3, 1, 1) for values in (visual.image_mean, visual.image_std)
    )
    source = Path(weights).name if weights else "its own weights" if ":" in name else "random weights"
    side = size[0] if isinstance(size, tuple) else int(size)
    return ClipModel(f"{name} ({source})", model.eval(), tokenizer, side, mean, deviation, where)


def clip_log_prob(
    clip: ClipModel, dataset: PackedDataset, rows: NDArray[np.int64], candidates: Taxonomy, *, progress: bool = False
) -> NDArray[np.float32]:
    """Log of the probabilities over the candidates, averaged over the months seen; even where no month was.

    Args:
        clip: The model.
        dataset: A set with imagery.
        rows: int64 [N], samples.
        candidates: S taxa.
        progress: Whether to show a bar.

    Returns:
        float32 [N, S].

    Raises:
        DataError: The set has no imagery.
    """
    import torch
    from tqdm import tqdm

    if not dataset.has_images:
        raise DataError(f"{dataset.directory}: has no imagery for true-colour composites")
    texts = clip.encode_taxa(list(candidates))
    scale = clip.model.logit_scale.exp().float()
    result = np.full((len(rows), len(candidates)), -np.log(len(candidates)), dtype=np.float32)
    step = max(1, _BATCH_IMAGES // max(1, dataset.steps))
    for start in tqdm(range(0, len(rows), step), unit=" batches", desc=clip.name, disable=not progress):
        shown, seen = true_colour(dataset.read(rows[start : start + step]).images)
        if not seen.any():
            continue
        with torch.inference_mode():
            share = torch.softmax(scale * clip.encode_images(shown[seen]) @ texts.t(), dim=1).double().cpu().numpy()
        total = np.zeros((len(seen), len(candidates)))
        np.add.at(total, np.nonzero(seen)[0], share)
        known = seen.any(axis=1)
        mean = total[known] / seen[known].sum(axis=1, keepdims=True)
        result[start : start + len(seen)][known] = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    return result
