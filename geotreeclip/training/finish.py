"""The end of a run: the model directory and its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geotreeclip.data.licences import NOT_STATED, count_rights
from geotreeclip.data.loader import sequential
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.model_card import model_card
from geotreeclip.models.directory import load_model, save_model
from geotreeclip.models.place_centres import PlaceCentres
from geotreeclip.observations import from_packed
from geotreeclip.ranges import read_ranges, write_training_ranges
from geotreeclip.schema import RANKS

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["write_final_model"]

_PLACES = 8192  # of training, whose groups are kept
_BATCH = 512


def write_final_model(directory: Path, trainer: Trainer) -> None:
    """Write the model directory of a finished run.

    Args:
        directory: Where to.
        trainer: The run, its model holding the weights to keep.
    """
    best = trainer.best
    training: dict[str, Any] = {
        "config": trainer.config.to_dict(),
        "steps": trainer.steps,
        "kept_step": best["step"],
        "validation": best["validation"],
        "history": trainer.history,
        "data_fingerprint": trainer.dataset.fingerprint(),
        "training_samples": len(trainer.samples.train),
        "split": trainer.samples.split,
        "fold": trainer.config.fold,
        "prompt": " / ".join(RANKS),
        "context_length": trainer.plain.text_encoder.context_length,
        "prior": "training",
    }
    if isinstance(trainer.dataset, PackedDataset):
        licences, datasets = count_rights(trainer.dataset.samples().iloc[trainer.samples.train])
        training |= {"licences": licences, "datasets": len(datasets.keys() - {NOT_STATED})}
    taxonomy, counts = trainer.dataset.taxonomy, trainer.counts
    save_model(directory, trainer.plain, taxonomy, counts, trainer.statistics, training, places=_place_centres(trainer))
    if isinstance(trainer.dataset, PackedDataset):  # a stream cannot be read once more for the ranges of its labels
        write_training_ranges(directory, trainer.dataset, trainer.samples.train)
    loaded = load_model(directory)
    text = model_card(loaded, None, read_ranges(directory))
    write_atomically(directory / "README.md", lambda partial: partial.write_text(text, encoding="utf-8"))


@torch.no_grad()
def _place_centres(trainer: Trainer) -> PlaceCentres | None:
    """Groups of training places in the space; None for a stream, which cannot be read once more."""
    if not isinstance(trainer.dataset, PackedDataset):
        return None
    rows, seed = trainer.samples.train, trainer.config.seed
    chosen = np.sort(np.random.default_rng([seed, 0xCE]).permutation(rows)[:_PLACES])
    trainer.plain.eval()
    parts = [
        trainer.plain.encode_observations(from_packed(packed, trainer.accelerator.device)).cpu()
        for packed in sequential(trainer.dataset, chosen, _BATCH)
    ]
    return PlaceCentres.fit(torch.cat(parts), seed) if parts else None
