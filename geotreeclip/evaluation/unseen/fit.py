"""A small model of places and species, fitted in a minute of one core: the package's encoders and loss in a short loop.

Shape letters: B batch, N samples, S species, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geotreeclip.errors import DataError
from geotreeclip.evaluation.unseen.places import Held, Places
from geotreeclip.evaluation.unseen.text import Labels
from geotreeclip.losses import contrastive_loss
from geotreeclip.models.clip import GeoTreeCLIP, create_model
from geotreeclip.models.config import model_config

__all__ = ["Recipe", "fit", "fit_and_score"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is fitted.

    Attributes:
        model: Registered size.
        inputs: Parts of an observation that the model reads. Location is not among them by default: that a congener
            grew next door says nothing of words.
        steps: Optimizer steps.
        batch_size: Places in a step, species drawn evenly, so that the scores carry a uniform prior.
        learning_rate: Peak of AdamW's, cosine to zero after a tenth of the steps of warm-up.
        weight_decay: Of matrices.
        coarse_weight: Weight of a second softmax over prompts cut at genus or family, in every other step; it teaches
            the words that unseen species share with seen ones.
        text_weight: Weight of the direction text -> place.
    """

    model: str = "tiny"
    inputs: tuple[str, ...] = ("climate", "terrain")
    steps: int = 200
    batch_size: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    coarse_weight: float = 1.0
    text_weight: float = 0.2


def fit_and_score(
    places: Places,
    held: Held,
    text: str,
    seed: int,
    recipe: Recipe,
    tick: Callable[[], object] = lambda: None,
) -> NDArray[np.float32]:
    """`fit`, then score all tested samples against all S species.

    Returns:
        float32 [N, S], logits of the samples ``concatenate(held.seen_test, held.unseen_test)``.

    Raises:
        DataError: The loss stops being finite.
    """
    model, labels = fit(places, held, text, seed, recipe, tick)
    return _scores(model, labels, places, np.concatenate([held.seen_test, held.unseen_test]))


def fit(
    places: Places,
    held: Held,
    text: str,
    seed: int,
    recipe: Recipe,
    tick: Callable[[], object] = lambda: None,
) -> tuple[GeoTreeCLIP, Labels]:
    """Fit on the training samples of seen species.

    Args:
        places: The samples.
        held: What is held out.
        text: One of `geotreeclip.evaluation.unseen.text.TEXTS`.
        seed: Of weights and order.
        recipe: How to fit.
        tick: Called after every step.

    Returns:
        The model, and what its text tower is asked.

    Raises:
        DataError: The loss stops being finite.
    """
    torch.manual_seed(seed)
    config = model_config(recipe.model)
    config = replace(config, observation=replace(config.observation, inputs=recipe.inputs))
    model = create_model(config, places.statistics(held.train))
    model.observation_encoder.fit(places.batch(held.train[:: max(1, len(held.train) // 4000)]))
    labels = Labels(text, places.taxonomy, model, seed)
    draw = _even_draws(places.taxon[held.train], seed)
    parameters = [*model.parameters(), *([labels.vectors] if labels.vectors is not None else [])]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    model.train()
    for step in range(recipe.steps):
        index = held.train[draw(recipe.batch_size)]
        taxon = places.taxon[index]
        own = model.encode_observations(places.batch(index))
        # Species are drawn evenly, so those of the batch stand for all without a correction of the prior
        present, target = np.unique(taxon, return_inverse=True)
        texts = labels(torch.from_numpy(present))
        loss = _loss(own, texts, torch.from_numpy(target.reshape(-1)), model.logit_scale, recipe)
        if labels.groups and step % 2:
            group = labels.groups[step // 2 % len(labels.groups)]
            present, target = np.unique(group.label[taxon], return_inverse=True)
            texts = labels.encode(group.tokens[torch.from_numpy(present)])
            coarse = _loss(own, texts, torch.from_numpy(target.reshape(-1)), model.logit_scale, recipe)
            loss = loss + recipe.coarse_weight * coarse
        for entry in optimizer.param_groups:
            entry["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        tick()
    if not math.isfinite(float(loss.detach())):
        raise DataError(f"the loss is {float(loss.detach())} after {recipe.steps} steps; lower the learning rate")
    return model, labels


def _loss(places: Tensor, texts: Tensor, targets: Tensor, scale: Tensor, recipe: Recipe) -> Tensor:
    terms = contrastive_loss(places, texts, targets, scale)
    return terms.place_to_text + recipe.text_weight * terms.text_to_place


@torch.no_grad()
def _scores(model: torch.nn.Module, labels: Labels, places: Places, index: NDArray[np.int64]) -> NDArray[np.float32]:
    model.eval()
    texts = labels(torch.arange(len(places.taxonomy)))
    parts = [
        model.logit_scale * model.encode_observations(places.batch(part)) @ texts.t()  # type: ignore[operator]
        for part in np.array_split(index, max(1, len(index) // 1024))
    ]
    return torch.cat(parts).float().numpy()


def _even_draws(taxon: NDArray[np.int64], seed: int) -> Callable[[int], NDArray[np.int64]]:
    """Draws samples by species: every species as often, each of its samples as often."""
    rng = np.random.default_rng([seed, 0xE7E])
    order = np.argsort(taxon, kind="stable")
    start, count = np.unique(taxon[order], return_index=True, return_counts=True)[1:]

    def draw(size: int) -> NDArray[np.int64]:
        species = rng.integers(0, len(start), size)
        return np.asarray(order[start[species] + rng.integers(0, count[species])])

    return draw


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
