"""Adapt a model to a person's own labels and images: a model directory that `geotreeclip.classify` reads.

Shape letters: N samples, L labels, F features, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geotreeclip.candidates import label_priors
from geotreeclip.data.aside import folder_aside
from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.few_shot.episodes import BLOCK_KM
from geotreeclip.evaluation.few_shot.heads import Fit
from geotreeclip.evaluation.few_shot.methods import TUNED, Table, fit_method
from geotreeclip.evaluation.few_shot.tuning import TuneOptions, tune
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.models.directory import LoadedModel, encode_prompts, save_model
from geotreeclip.models.features import FEATURES, common_slots, has_tokens, read_features
from geotreeclip.models.head import HEAD_FILE, AdaptedHead, LinearHead
from geotreeclip.observations import ObservationBatch
from geotreeclip.taxonomy import Taxon, Taxonomy

_BATCH = 512


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapted model in memory.

    Attributes:
        loaded: the model, its weights tuned or as they were.
        head: over its features.
        labels: L taxa.
        counts: int64 [L], samples of each.
        fit: how the head was chosen.
        held_out: share of samples whose label was named right when they were held out; None with one shot.
    """

    loaded: LoadedModel
    head: AdaptedHead
    labels: Taxonomy
    counts: NDArray[np.int64]
    fit: Fit
    held_out: float | None


def feature_table(loaded: LoadedModel, batch: ObservationBatch, slots: torch.Tensor) -> Table:
    """Features of all places by name, those that the model has."""
    names = [name for name in FEATURES if name != "tokens" or has_tokens(loaded.model)]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    with torch.inference_mode():
        for start in range(0, batch.size, _BATCH):
            part = batch.select(slice(start, start + _BATCH))
            for name in names:
                parts[name].append(read_features(loaded.model, part, [name], slots).cpu().numpy())
    return Table({name: np.concatenate(found) for name, found in parts.items()})


def text_anchor(loaded: LoadedModel, labels: Taxonomy) -> LinearHead:
    """The head of zero-shot classification under a uniform prior: text embeddings times the logit scale.

    Where scores carry the prior of the training set, its logarithm is taken out of the biases; a label that was never
    seen there, whose prior nothing is known of, gets the mean of the others.
    """
    scale = float(loaded.model.logit_scale.detach())
    weight = encode_prompts(loaded.model, labels.prompts()).double().cpu().numpy() * scale
    bias = np.zeros(len(labels))
    if loaded.scores_carry_prior and len(loaded.taxonomy):
        prior = label_priors(labels, loaded.taxonomy, loaded.counts)
        seen = prior > 1.5 / (loaded.counts.sum() + len(loaded.counts))  # more than the pseudo-count alone
        bias = np.where(seen, -np.log(prior), -np.log(prior[seen]).mean() if seen.any() else 0.0)
        bias -= bias.mean()
    return LinearHead(weight, bias, np.zeros(weight.shape[1]))


def knows(loaded: LoadedModel, labels: Taxonomy) -> bool:
    """Whether the model was trained on every label, so that their texts tell it something."""
    return all(loaded.taxonomy.index_of(taxon) is not None for taxon in labels)


def adapt(
    loaded: LoadedModel,
    batch: ObservationBatch,
    taxa: list[Taxon],
    *,
    method: str = "combined",
    longitude: NDArray[np.float64] | None = None,
    latitude: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Adapted:
    """Fit a head, or tune the tower too, on labelled samples.

    Args:
        loaded: the model; it is not changed.
        batch: N places.
        taxa: N labels.
        method: of `geotreeclip.evaluation.few_shot.methods`.
        longitude: [N] degrees where known: settings are then chosen on 10 km blocks kept whole.
        latitude: [N] degrees.
        seed: of tuning.

    Raises:
        InputError: fewer than two labels.
    """
    labels = Taxonomy(sorted(set(taxa)))
    if len(labels) < 2:
        raise InputError(f"adapt: {len(labels)} label in {len(taxa)} samples; give two or more")
    codes = np.array([labels.index_of(taxon) for taxon in taxa], dtype=np.int64)
    groups = None
    if longitude is not None and latitude is not None and np.isfinite(longitude + latitude).all():
        groups = spatial_blocks(longitude, latitude, BLOCK_KM)
    anchor = text_anchor(loaded, labels)
    slots = common_slots(batch)
    if method in TUNED:
        tuned = tune(loaded.model, batch, codes, anchor, TuneOptions(kind=method, seed=seed), groups)
        loaded = loaded._replace(model=tuned.model)
        names: tuple[str, ...] = ("embedding",)
        fit, head = Fit(tuned.head, tuned.setting, tuned.loss), tuned.head
    else:
        table = feature_table(loaded, batch, slots)
        told = anchor if method == "text" or knows(loaded, labels) else None
        fit = fit_method(method, table, np.arange(batch.size), codes, len(labels), anchor=told, groups=groups)
        names, head = _used(table, fit.head)
    held_out = None
    if fit.held_out is not None and fit.scored is not None:
        held_out = float((fit.held_out.argmax(axis=1) == codes)[fit.scored].mean())
    counts = np.bincount(codes, minlength=len(labels))
    return Adapted(loaded, AdaptedHead(head, names, slots), labels, counts, fit, held_out)


def _used(table: Table, head: LinearHead) -> tuple[tuple[str, ...], LinearHead]:
    """The features that a head has weights on, and the head over these alone."""
    names = tuple(name for name in table.names if head.weight[:, table.columns([name])].any())
    names = names or table.names[:1]
    columns = table.columns(names)
    return names, LinearHead(head.weight[:, columns], head.bias, head.fill[columns])


def save_adapted(directory: Path, adapted: Adapted, account: dict[str, Any]) -> Path:
    """Write the model directory, whole or not at all.

    Args:
        directory: where to; an adapted model of that name is replaced, anything else refused.
        adapted: the model.
        account: JSON-able words about it: source, options, samples.

    Raises:
        DataError: the directory holds something else, or cannot be written.
    """
    if directory.exists() and not (directory / HEAD_FILE).is_file():
        raise DataError(f"{directory}: is there already and is no adapted model; choose another --out, or remove it")
    loaded = adapted.loaded
    training = {
        "prior": "uniform",  # the head is fitted to labels that weigh the same
        "adapted": {
            "base_fingerprint": loaded.fingerprint,
            "labels": len(adapted.labels),
            "samples": int(adapted.counts.sum()),
            "features": list(adapted.head.features),
            "setting": adapted.fit.setting,
            "held_out_log_loss": None if np.isnan(adapted.fit.loss) else adapted.fit.loss,
            "held_out_top1": adapted.held_out,
            **account,
        },
        "base": loaded.training,
    }
    with folder_aside(directory) as aside:
        save_model(
            aside, loaded.model, adapted.labels, adapted.counts, loaded.statistics, training, card(adapted, account)
        )
        adapted.head.write(aside / HEAD_FILE)
    return directory


def card(adapted: Adapted, account: dict[str, Any]) -> str:
    """The model card of an adapted model."""
    lines = [
        "# Adapted model",
        "",
        f"A linear head over {', '.join(adapted.head.features)} of a geotreeclip model "
        f"(weights {adapted.loaded.fingerprint[:12]}), fitted to {int(adapted.counts.sum())} samples of "
        f"{len(adapted.labels)} labels. It answers for these labels only.",
        "",
        *(f"- {key}: {value}" for key, value in account.items()),
        f"- setting, chosen on the samples: {adapted.fit.setting}",
    ]
    if adapted.held_out is not None:
        lines.append(
            f"- right when held out: {adapted.held_out:.1%} (the setting was chosen on the same folds, so rather high)"
        )
    lines += ["", "| label | samples |", "|---|---:|"]
    lines += [
        f"| {taxon.name(taxon.rank)} | {count} |" for taxon, count in zip(adapted.labels, adapted.counts, strict=True)
    ]
    return "\n".join([*lines, ""])
