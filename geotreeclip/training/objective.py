"""Loss and gradient of a step: over the batch of all processes, in one pass or in several that fit in memory.

With `micro_batch`, features of the whole batch are computed part by part without keeping activations, the loss gives
the gradient of every feature, and a second pass over the parts, with the same dropout, carries it to the weights
(gradient caching, Gao et al. 2021, arXiv:2101.06983). Each place so has the negatives of the whole batch.

Shapes: B places of the global batch, b of this process, L candidate labels, D embedding, W processes.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from geotreeclip.losses import contrastive_loss, gather_with_gradient
from geotreeclip.models.clip import GeoTreeCLIP
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import Rank
from geotreeclip.training.config import RunConfig
from geotreeclip.training.labels import Candidates, TrainingLabels
from geotreeclip.training.text_cache import TextCache
from geotreeclip.training.text_work import TextWork, divide_text

__all__ = ["Objective"]


class Objective:
    """The loss of a run.

    Args:
        accelerator: The processes.
        model: The model as `accelerator.prepare` gives it.
        labels: Labels of the training set.
        config: The run.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, labels: TrainingLabels, config: RunConfig) -> None:
        self.accelerator = accelerator
        self.model = model
        self.plain: GeoTreeCLIP = accelerator.unwrap_model(model, keep_torch_compile=False)
        self.labels = labels
        self.config = config
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.cache: TextCache | None = None
        if labels.mode == "cached":
            self.cache = TextCache(labels.known_tokens, config.loss.refresh, self.rank, self.world)

    def backward(self, batch: ObservationBatch, taxon: npt.NDArray[np.int64], position: int) -> Tensor:
        """Add the gradient of the loss to the weights.

        Args:
            batch: [b] places of this process.
            taxon: [B] taxon rows of the global batch.
            position: Offset of the batch in the stream of samples, from which all draws follow.

        Returns:
            This process's share of the loss, detached; the shares add up to the loss.
        """
        if self.cache is not None:
            self.cache.refresh(self.plain, position // self.config.batch_size)
        terms = self._terms(taxon, position)
        parts = -(-batch.size // self.config.micro_batch) if self.config.micro_batch else 1
        tokens = torch.cat([candidates.tokens for _, candidates in terms])
        lengths = self.plain.text_encoder.lengths(tokens)
        shared = self.world if self.config.loss.share_text else 1
        work = divide_text(
            tokens, lengths, self.rank if shared > 1 else 0, shared, parts if self.config.micro_batch else 0
        ).to(self.accelerator.device)
        ready = [(weight, candidates.to(self.accelerator.device)) for weight, candidates in terms]
        if parts > 1:
            return self._in_parts(batch, work, ready, position, parts)
        self.seed(position)
        with self.accelerator.autocast():
            places, texts, scale = self.model(batch, *work.parts)
        loss = self._loss(places.float(), texts.float(), scale.float(), work, ready)
        self.accelerator.backward(loss * self.world)
        return loss.detach()

    def seed(self, position: int, part: int = 0) -> None:
        """Set torch's own generator, which dropout draws from: it too must follow from the position alone."""
        state = np.random.SeedSequence([self.config.seed, position, self.rank, part]).generate_state(1)
        torch.manual_seed(int(state[0]))

    def _terms(self, taxon: npt.NDArray[np.int64], position: int) -> list[tuple[float, Candidates]]:
        """The softmaxes of a step and their weights."""
        terms = [(1.0, self.labels.candidates(taxon, Rank.SPECIES.value))]
        coarse = self.labels.coarse_rank(position)
        if coarse is not None:
            terms.append((self.config.loss.coarse_weight, self.labels.candidates(taxon, coarse)))
        return terms

    def _loss(
        self, own: Tensor, own_texts: Tensor, scale: Tensor, work: TextWork, terms: list[tuple[float, Candidates]]
    ) -> Tensor:
        """This process's share of the loss of the global batch."""
        config = self.config.loss
        places = gather_with_gradient(own)
        joined = work.joined(own_texts)
        total = torch.zeros((), dtype=own.dtype, device=own.device)
        for (weight, candidates), live in zip(
            terms, joined.split([len(candidates.tokens) for _, candidates in terms]), strict=True
        ):
            texts = live
            if candidates.columns is not None and self.cache is not None:
                texts = self.cache.merged(candidates.columns, live)
            parts = contrastive_loss(
                places, texts, candidates.targets, scale, candidates.log_q, config.label_smoothing,
                rank=self.rank, world=self.world, both=config.text_weight > 0,
            )  # fmt: skip
            total = total + weight * (parts.place_to_text + config.text_weight * parts.text_to_place)
        return total / (1 + config.text_weight)

    def _in_parts(
        self, batch: ObservationBatch, work: TextWork, terms: list[tuple[float, Candidates]], position: int, parts: int
    ) -> Tensor:
        """The gradient of the whole batch, with the activations of one part at a time."""
        edges = [batch.size * part // parts for part in range(parts + 1)]
        pieces = [batch.select(slice(low, high)) for low, high in itertools.pairwise(edges)]

        def encode(part: int) -> tuple[Tensor, Tensor, Tensor]:
            self.seed(position, part)
            with self.accelerator.autocast():
                places, texts, scale = self.model(pieces[part], work.parts[part])
            return places.float(), texts.float(), scale.float()

        with torch.no_grad():
            encoded = [encode(part) for part in range(parts)]
        leaves = [torch.cat(rows).requires_grad_() for rows in list(zip(*encoded, strict=True))[:2]]
        scale = encoded[0][2].clone().requires_grad_()
        loss = self._loss(leaves[0], leaves[1], scale, work, terms)
        (loss * self.world).backward()  # type: ignore[no-untyped-call]
        of_places = _gradient(leaves[0]).split([piece.size for piece in pieces])
        of_texts = _gradient(leaves[1]).split([len(part) for part in work.parts])
        for part in range(parts):
            last = part == parts - 1
            # Processes exchange gradients once, with the last part.
            quiet: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(self.model)
            with quiet:
                places, texts, live_scale = encode(part)
                carried = (places * of_places[part]).sum() + (texts * of_texts[part]).sum()
                # Every weight takes part in every pass, as the distributed wrapper expects.
                self.accelerator.backward(carried + live_scale * (_gradient(scale) if last else 0.0))
        return loss.detach()


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
