"""Stand-in weights of the published model: a formula in place of its 1.8 GB file, so that parity can be tested.

published/published_state_dict.json lists every entry with its shape; published/published_parity.npz holds what the
published code makes of these weights for six samples.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

LISTING = Path(__file__).parent / "published" / "published_state_dict.json"
PARITY = Path(__file__).parent / "published" / "published_parity.npz"
STEP, TURN = 0.7390851, 1.6180339
_COLUMNS = 4096


def wave(key: str, size: int, seed: int) -> np.ndarray:
    """sin(STEP k + phase) for k = 0 to size - 1, by the addition theorem: a sine for each row and column only."""
    phase = TURN * ((zlib.crc32(key.encode()) + seed) % 1000)
    rows = STEP * _COLUMNS * np.arange(-(-size // _COLUMNS), dtype=np.float64)[:, None] + phase
    columns = STEP * np.arange(_COLUMNS, dtype=np.float64)
    return (np.sin(rows) * np.cos(columns) + np.cos(rows) * np.sin(columns)).reshape(-1)[:size]


def entry(key: str, shape: list[int], seed: int = 1) -> torch.Tensor:
    """One entry: LayerNorm weights near 1, other vectors and embeddings small, matrices over the root of fan-in."""
    values = wave(key, int(np.prod(shape)), seed)
    if len(shape) == 1:
        values = (1.0 if key.endswith(".weight") else 0.0) + 0.02 * values
    elif "embedding.weight" in key and "patch" not in key:
        values = 0.02 * values
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def stand_in(seed: int = 1) -> dict[str, torch.Tensor]:
    """The whole state dict, position ids included."""
    listing = json.loads(LISTING.read_text())
    return {
        key: torch.arange(shape[-1]).reshape(shape) if dtype == "torch.int64" else entry(key, shape, seed)
        for key, (shape, dtype) in listing.items()
    }
