"""Keys, losses and queue of a step, for the whole batch on any number of processes.

Keys are gathered in the order of the batch, so that the queue is the same on any number of processes.

Shapes: B samples of the global batch, b of this process, H heads, D dimension of the projections.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from geotreeclip.models.seasonal_heads import SERIES, SeasonalModel
from geotreeclip.observations import ObservationBatch
from geotreeclip.training.seasonal.config import SeasonalConfig
from geotreeclip.training.seasonal.objectives import OBJECTIVES, contrast, expected_initial_loss
from geotreeclip.training.seasonal.queue import KeyQueue, Origin

__all__ = ["Contrasts", "Drawn"]


class Drawn(NamedTuple):
    """What one step shows the networks.

    Attributes:
        query: Views of single steps.
        keys: The same by name.
        series: Halves of the year, or None.
        origin: Where the samples are from.
        framed: bool [b], places with two seasons.
        seasonal: bool [b], those of them whose seasons mean anything.
        paired: bool [b], places with two halves.
    """

    query: ObservationBatch
    keys: dict[str, ObservationBatch]
    series: tuple[ObservationBatch, ObservationBatch] | None
    origin: Origin
    framed: Tensor
    seasonal: Tensor
    paired: Tensor


class Contrasts:
    """The encoder of keys, the queue, and what queries lose against them.

    Args:
        model: The queries' network at its start.
        config: The run.
        accelerator: Joins the processes.
        series: Whether halves of the year are contrasted.
    """

    def __init__(self, model: SeasonalModel, config: SeasonalConfig, accelerator: Accelerator, *, series: bool) -> None:
        self.config, self.accelerator, self.series = config, accelerator, series
        self.objective = OBJECTIVES[config.objective]
        self.key_model = copy.deepcopy(model).to(accelerator.device).eval().requires_grad_(False)
        self.queue = KeyQueue(len(self.objective.heads), config.queue, config.dim, config.seed).to(accelerator.device)

    def follow(self, model: SeasonalModel, momentum: float) -> None:
        """Move the encoder of keys towards that of queries."""
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.key_model.parameters()), [p.detach() for p in model.parameters()], 1 - momentum
            )

    def keys_of(self, drawn: Drawn) -> tuple[dict[tuple[str, str], Tensor], Tensor | None]:
        """Projections of the keys of this process, [b, D] by (head, view), and of the second halves [b, D]."""
        embedded = {name: self.key_model.encoder(view) for name, view in drawn.keys.items()}
        keys = {
            (head.name, view): self.key_model.project(head.name, embedded[view])
            for head in self.objective.heads
            for view in head.views
        }
        if drawn.series is None:
            return keys, None
        return keys, self.key_model.project(SERIES, self.key_model.encoder(drawn.series[1]))

    def _gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes in the order of the batch, without gradient."""
        gathered: Tensor = self.accelerator.gather(rows.contiguous())
        return gathered

    def losses(
        self,
        drawn: Drawn,
        queries: Tensor,
        keys: dict[tuple[str, str], Tensor],
        series_queries: Tensor | None,
        series_keys: Tensor | None,
    ) -> dict[str, Tensor]:
        """Loss of each head: the sum over this process's places, over the mean number of places of a process."""
        config, world = self.config, self.accelerator.num_processes
        everyone = Origin(*(self._gather(part) for part in drawn.origin))
        framed = self._gather(drawn.framed)
        near = drawn.origin.near(everyone, config.exclusion_km)
        rank, size = self.accelerator.process_index, len(drawn.framed)
        own = torch.arange(rank * size, (rank + 1) * size, device=self.accelerator.device)
        # Another view of the place itself is a negative where a head asks for it; those of its neighbours never are.
        apart = ~near & framed[None, :]
        apart_or_own = apart.clone()
        apart_or_own[torch.arange(size, device=self.accelerator.device), own] = drawn.framed
        old = ~drawn.origin.near(self.queue.origin, config.exclusion_km)
        losses: dict[str, Tensor] = {}
        for number, head in enumerate(self.objective.heads):
            negatives, allowed = [self.queue.keys[number]], [old]
            if config.queue == 0:
                negatives, allowed = [self._gather(keys[head.name, head.positive])], [apart]
            for view in head.against:
                negatives.append(self._gather(keys[head.name, view]))
                allowed.append(apart_or_own)
            each = contrast(
                queries[number],
                keys[head.name, head.positive],
                torch.cat(negatives).float(),
                torch.cat(allowed, dim=1),
                config.temperature,
            )
            counts = drawn.seasonal if head.seasonal else drawn.framed
            losses[head.name] = (each * counts).sum() * world / self._gather(counts).sum().clamp(min=1)
        if series_queries is not None and series_keys is not None:
            paired = self._gather(drawn.paired)
            # Keys of earlier batches are of other halves of the year, which would give them away.
            each = contrast(
                series_queries, series_keys, self._gather(series_keys), ~near & paired[None, :], config.temperature
            )
            mean = (each * drawn.paired).sum() * world / paired.sum().clamp(min=1)
            losses[SERIES] = config.series_weight * mean
        return losses

    def enqueue(self, drawn: Drawn, keys: dict[tuple[str, str], Tensor]) -> None:
        """Keep the positives of all processes; after the backward pass, which needs the queue as it was."""
        if self.config.queue == 0:
            return
        framed = self._gather(drawn.framed)
        new = torch.stack([self._gather(keys[head.name, head.positive])[framed] for head in self.objective.heads])
        self.queue.enqueue(new, Origin(*(self._gather(part)[framed] for part in drawn.origin)))

    def expected_losses(self) -> dict[str, float]:
        """What random directions give each head, to hold the first losses against."""
        config = self.config
        expected = {}
        for head in self.objective.heads:
            negatives = (config.queue or config.batch_size - 1) + len(head.against) * config.batch_size
            expected[head.name] = expected_initial_loss(negatives, config.dim, config.temperature)
        if self.series:
            expected[SERIES] = config.series_weight * expected_initial_loss(
                config.batch_size - 1, config.dim, config.temperature
            )
        return expected
