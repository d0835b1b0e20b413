"""Which prompts a process encodes, in which parts, and how the embeddings of all come back into order.

Shapes: L prompts of a step, K tokens, W processes, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geotreeclip.losses import gather_with_gradient

__all__ = ["TextWork", "divide_text"]

_BUCKETS = 3
_WORTH_A_BUCKET = 64
"""Prompts in a part that outweigh the fixed cost of one more pass through the tower.

CPU time against one part, `tiny`, one thread: 720 prompts of 16 to 29 tokens 0.58, 0.56, 0.55 in two, three, four
parts; 90 prompts 1.01, 1.16, 1.12.
"""


@dataclass(frozen=True)
class TextWork:
    """The prompts of this process.

    Attributes:
        parts: Token tensors [L_i, K_i], each cut to its longest prompt.
        position: [L] row of every prompt of the step among the gathered rows.
        shared: Whether the processes divide the prompts; else each encodes all of them.
    """

    parts: tuple[Tensor, ...]
    position: Tensor
    shared: bool

    @property
    def rows(self) -> int:
        """Prompts that this process encodes, repeats that fill up included."""
        return sum(len(part) for part in self.parts)

    def to(self, device: torch.device) -> TextWork:
        """The work on another device."""
        parts = tuple(part.to(device, non_blocking=True) for part in self.parts)
        return TextWork(parts, self.position.to(device, non_blocking=True), self.shared)

    def joined(self, own: Tensor) -> Tensor:
        """All L embeddings [L, D] in their order, with gradient, from this process's own rows."""
        return (gather_with_gradient(own) if self.shared else own).index_select(0, self.position)


def divide_text(tokens: Tensor, lengths: Tensor, rank: int = 0, world: int = 1, parts: int = 0) -> TextWork:
    """Divide prompts among processes and into parts of similar length.

    Sorted by length and dealt out in turn, every process has the same work. Where the numbers do not go up, the longest
    prompts are encoded twice, so that every process has the same number of rows, and every part at least one.

    Args:
        tokens: [L, K] int64 on the CPU.
        lengths: [L] tokens that matter, of each prompt.
        rank: This process.
        world: Processes that share the work; 1 if each encodes all.
        parts: Into how many parts; 0 lets the number of prompts decide.
    """
    total = len(tokens)
    order = np.argsort(lengths.numpy(), kind="stable")
    rows = -(-total // world)
    if not parts:
        parts = min(_BUCKETS, max(1, rows // _WORTH_A_BUCKET))
    rows = max(rows, parts)
    # Row i of process r is the (i W + r)-th shortest prompt.
    dealt = np.minimum(np.arange(rows)[:, None] * world + np.arange(world), total - 1)  # [rows, W]
    mine = order[dealt[:, rank]]
    chosen = [torch.from_numpy(part) for part in np.array_split(mine, parts)]
    cut = tuple(tokens[part][:, : int(lengths[part].max())] for part in chosen)
    position = np.empty(total, dtype=np.int64)
    place = np.arange(total)
    position[order] = (place % world) * rows + place // world
    return TextWork(cut, torch.from_numpy(position), world > 1)
