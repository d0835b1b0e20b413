"""The end of a run: the model directory and its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.data.packed import PackedDataset
from geotreeclip.models.directory import save_model
from geotreeclip.ranges import write_training_ranges
from geotreeclip.schema import BANDS, RANKS

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
    taxonomy, counts = trainer.dataset.taxonomy, trainer.counts
    save_model(directory, trainer.plain, taxonomy, counts, trainer.statistics, training, _card(trainer, training))
    if isinstance(trainer.dataset, PackedDataset):  # a stream cannot be read once more for the ranges of its labels
        write_training_ranges(directory, trainer.dataset, trainer.samples.train)


def _card(trainer: Trainer, training: dict[str, Any]) -> str:
    """The model card: what it reads, what it was trained on, how well it does on validation, and its limits."""
    config, model = trainer.config, trainer.model_config
    score = training["validation"]
    known = int((trainer.counts > 0).sum())
    validation = (
        f"On {score['samples']:,} held-out validation samples (split `{training['split'] or 'random'}`), candidates "
        f"all {known:,} training taxa: top-1 {score['top1']:.1%} under the training prior, macro top-1 "
        f"{score['uniform_top1']:.1%} under the uniform prior, log loss {score['log_loss']:.3f}. These samples chose "
        "the weights: they are no test."
        if score
        else "No validation samples were held out."
    )
    return f"""---
license: apache-2.0
library_name: geotreeclip
tags: [tree-species, sentinel-2, clip, ecology]
---
# geotreeclip {model.name}

Places and taxa in one embedding space of {model.embed_dim} dimensions. `geotreeclip.load("DIRECTORY")` reads it.

## Inputs
- Reads: {", ".join(model.observation.inputs)}; each may be missing.
- Sentinel-2 surface reflectance as digital numbers (reflectance x 10,000, offset removed), bands {", ".join(BANDS)},
  5 x 5 pixels of 10 m, up to 12 monthly medians or other dated steps.
- Environmental variables in the units of `geotreeclip.schema.VARIABLES` (WorldClim {trainer.statistics.worldclim}).

## Training
{training["training_samples"]:,} samples of {known:,} taxa, {training["steps"]:,} steps of {config.batch_size}, seed
{config.seed}; weights of step {training["kept_step"]} (moving average). Data fingerprint
`{training["data_fingerprint"][:16]}`.

## Scores
{validation}

## Limits
- Scores carry the training prior; ask for `prior="uniform"` where the species at hand are not distributed like the
  training samples. Probabilities are not calibrated.
- Location and climate alone explain much of an occurrence data set: compare with `inputs` switched off, and with
  spatially blocked scores, before trusting a map.
- Labels of occurrence records are weak: positions are uncertain, and a pixel holds more than one tree.
"""
