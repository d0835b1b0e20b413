"""The end of a run: the model directory and its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.data.licences import NOT_STATED, count_rights
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.model_card import model_card
from geotreeclip.models.directory import load_model, save_model
from geotreeclip.ranges import read_ranges, write_training_ranges
from geotreeclip.schema import RANKS

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["write_final_model"]


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
    save_model(directory, trainer.plain, taxonomy, counts, trainer.statistics, training)
    if isinstance(trainer.dataset, PackedDataset):  # a stream cannot be read once more for the ranges of its labels
        write_training_ranges(directory, trainer.dataset, trainer.samples.train)
    loaded = load_model(directory)
    text = model_card(loaded, None, read_ranges(directory))
    write_atomically(directory / "README.md", lambda partial: partial.write_text(text, encoding="utf-8"))
