"""Scores on validation samples during training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.stream import StreamedSet
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.observations import from_packed
from geotreeclip.training.labels import RankLabels

__all__ = ["ValidationScore", "validate"]

_BATCH = 512


class ValidationScore(NamedTuple):
    """Means over the validation samples, against all taxa of the training set, under the training prior.

    Attributes:
        log_loss: Mean of -log p(true taxon).
        top1: Share whose first answer is right; 0 for a taxon that training never saw.
        uniform_top1: The same under the uniform prior, averaged over taxa (macro).
        samples: How many were scored.
    """

    log_loss: float
    top1: float
    uniform_top1: float
    samples: int


@torch.no_grad()
def validate(
    model: GeoTreeCLIP,
    dataset: PackedDataset | StreamedSet,
    rows: npt.NDArray[np.int64],
    labels: RankLabels,
    device: torch.device,
) -> ValidationScore:
    """Score a model on some rows; samples of taxa that training never saw count as wrong at log p = log(1 / L)."""
    was_training = model.training
    model.eval()
    known = torch.from_numpy(np.flatnonzero(labels.occurs))
    column = np.full(len(labels.occurs), -1)
    column[known.numpy()] = np.arange(len(known))
    tokens = labels.tokens[known]
    texts = torch.cat([model.encode_text(part.to(device)) for part in tokens.split(_BATCH)])
    log_p = torch.from_numpy(labels.log_p[known.numpy()]).float().to(device)
    losses, hits, uniform_hits, truths = [], [], [], []
    for packed in sequential(dataset, rows, _BATCH):
        places = model.encode_observations(from_packed(packed, device))
        logits = model.logit_scale * places @ texts.t()
        truth = torch.from_numpy(column[labels.label[packed.taxon]]).to(device)
        loss = functional.cross_entropy(logits, truth.clamp(min=0), reduction="none")
        losses.append(torch.where(truth >= 0, loss, float(np.log(len(known)))).cpu())
        hits.append((logits.argmax(1) == truth).cpu())
        uniform_hits.append(((logits - log_p).argmax(1) == truth).cpu())
        truths.append(labels.label[packed.taxon])
    model.train(was_training)
    taxon = np.concatenate(truths)
    uniform = torch.cat(uniform_hits).numpy()
    by_taxon = np.bincount(taxon, weights=uniform)[np.unique(taxon)] / np.unique(taxon, return_counts=True)[1]
    return ValidationScore(
        float(torch.cat(losses).mean()),
        float(torch.cat(hits).float().mean()),
        float(by_taxon.mean()),
        len(rows),
    )
