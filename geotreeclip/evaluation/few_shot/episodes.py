"""Support and query of few-shot scoring: drawn by seed, disjoint, and never from the same spatial block.

Shape letters: N samples of the set, S support, Q query, L labels.

Neighbouring records are often the same tree seen twice, so a query sample never lies in a block that holds a support
sample of any label. Each label draws its support by itself, from as many blocks as it can, keyed on the seed and its
name: what is drawn for it does not depend on the other labels. Supports of fewer shots are the first of those of more,
and all shots of a seed share one query, so that shots can be compared on the same samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError, InputError
from geotreeclip.schema import RANKS
from geotreeclip.taxonomy import Taxon

Integers = NDArray[np.int64]

SHOTS = (1, 3, 5, 10)
SEEDS = (0, 1, 2, 3, 4)
BLOCK_KM = 10.0
MIN_QUERY = 10
SUPPORTS = ("labels", "union-of-ranks")
_TRIES = 20
_PUBLISHED_RANKS = ("species", "genus", "family")


@dataclass(frozen=True, eq=False)
class Episode:
    """One draw.

    Attributes:
        seed: of the draw.
        shots: samples a label in the support.
        support: int64 [S], rows of the set.
        query: int64 [Q], rows of the set.
    """

    seed: int
    shots: int
    support: Integers
    query: Integers


@dataclass(frozen=True, eq=False)
class Episodes:
    """All draws, and what was left out.

    Attributes:
        episodes: by seed, then by shots.
        labels: int64 [L], the labels that take part, rows of the taxonomy; the same in every episode.
        excluded: reason -> labels left out for it.
        rows: N.
        rows_excluded: samples of labels that were left out.
        withheld: seed -> samples of the labels that share a block with the support and are in neither part.
    """

    episodes: list[Episode]
    labels: Integers
    excluded: dict[str, list[int]]
    rows: int
    rows_excluded: int
    withheld: dict[int, int] = field(default_factory=dict)

    def words(self) -> str:
        """What takes part and what not, in words."""
        left_out = sum(map(len, self.excluded.values()))
        reasons = "; ".join(f"{len(labels)} {reason}" for reason, labels in self.excluded.items() if labels)
        withheld = sorted(self.withheld.values())
        text = f"{len(self.labels)} labels; {left_out} excluded with {self.rows_excluded:,} of {self.rows:,} samples"
        text += f" ({reasons})" if reasons else ""
        if withheld and withheld[-1]:
            text += f"; {withheld[0]:,} to {withheld[-1]:,} samples withheld because their block holds support"
        return text


def draw_episodes(
    labels: NDArray[np.integer],
    blocks: NDArray[np.integer] | None,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    min_query: int = MIN_QUERY,
    names: Sequence[str] | None = None,
    support: str = "labels",
    taxa: Sequence[Taxon] | None = None,
) -> Episodes:
    """Draw support and query.

    A label takes part if it has `min_query` samples beyond the largest shot, and if in every seed at least
    `min_query` of its samples lie outside the blocks of all supports. Labels that fail are excluded from all seeds, and
    counted, so that every episode asks for the same labels.

    Args:
        labels: int [N], label of each sample.
        blocks: int [N], spatial block of each sample; None where places are unknown, and then every sample is a block.
        shots: numbers of support samples a label.
        seeds: one draw each.
        min_query: see above.
        names: name of each label, by which draws are keyed; the numbers by default.
        support: "labels", or "union-of-ranks" as in the published scripts: the union of so many samples of each
            species, of each genus and of each family.
        taxa: taxon of each label, needed for "union-of-ranks".

    Raises:
        ConfigError: impossible shots, seeds or support.
        DataError: fewer than two labels are left.
    """
    label = np.asarray(labels, dtype=np.int64)
    block = (
        np.arange(len(label)) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1].reshape(-1)
    )
    if len(block) != len(label):
        raise InputError(f"few-shot: {len(block)} blocks for {len(label)} samples")
    sizes = sorted(set(shots))
    if not sizes or sizes[0] < 1 or not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(
            f"few-shot: shots {list(shots)} must be at least 1, and seeds {list(seeds)} differ, from 0 up"
        )
    if support not in SUPPORTS or (support == "union-of-ranks" and taxa is None):
        raise ConfigError(f"few-shot: support {support!r}: choose from {', '.join(SUPPORTS)}")
    present, count = np.unique(label, return_counts=True)
    reasons: dict[str, list[int]] = {
        f"have fewer than {sizes[-1] + min_query} samples": [],
        "lie in too few blocks": [],
    }
    few, clustered = reasons.values()
    few += present[count < sizes[-1] + min_query].tolist()
    kept = [int(row) for row in present if int(row) not in set(few)]
    keys = {row: zlib.crc32((names[row] if names else str(row)).encode()) for row in kept}
    drawn = {
        seed: {row: _draw(label, block, row, keys[row], seed, sizes[-1], min_query) for row in kept} for seed in seeds
    }
    while True:  # leaving a label out frees blocks for the others, so this ends
        kept = [row for row in kept if row not in clustered]
        if len(kept) < 2:
            raise DataError(
                f"few-shot: {len(kept)} of {len(present)} labels have {min_query} query samples beyond {sizes[-1]} "
                "shots in blocks of their own; take fewer shots or smaller blocks"
            )
        failing = {
            row
            for seed in seeds
            for row, left in zip(kept, _left(label, block, kept, drawn[seed]), strict=True)
            if left < min_query
        }
        if not failing:
            break
        # One at a time: the others may be saved by it. The one with the fewest samples goes first.
        clustered.append(min(failing, key=lambda row: (int((label == row).sum()), row)))
    episodes: list[Episode] = []
    withheld: dict[int, int] = {}
    taking_part = np.isin(label, kept)
    for seed in seeds:
        most = np.concatenate([drawn[seed][row] for row in kept])
        if support == "union-of-ranks":
            assert taxa is not None  # noqa: S101 - checked above
            most, parts = _union(label, block, drawn[seed], kept, taxa, sizes, seed, min_query)
        else:
            parts = {size: np.concatenate([drawn[seed][row][:size] for row in kept]) for size in sizes}
        query = np.flatnonzero(taking_part & ~np.isin(block, block[most]))
        withheld[seed] = int(taking_part.sum()) - len(query) - len(np.unique(most))
        episodes += [Episode(seed, size, np.sort(parts[size]), query) for size in sizes]
    excluded = int((~taking_part).sum())
    return Episodes(episodes, np.array(kept, dtype=np.int64), reasons, len(label), excluded, withheld)


def _draw(label: Integers, block: Integers, row: int, key: int, seed: int, shots: int, min_query: int) -> Integers:
    """The support of one label: `shots` samples in drawn order from many blocks, enough samples left elsewhere."""
    rng = np.random.default_rng([seed, key])
    samples = np.flatnonzero(label == row)
    unit = block[samples]
    best = samples[:0]
    most_left = -1
    for _ in range(_TRIES):
        order = rng.permutation(len(samples))
        # In turns: the first sample of each block in drawn order, then the second of each, ...
        _, first, inverse = np.unique(unit[order], return_index=True, return_inverse=True)
        blocks = np.argsort(first)
        chosen: list[int] = []
        # At most half of the blocks give support, unless they are too small for it.
        for allowed in range(min(shots, max(1, len(blocks) // 2)), len(blocks) + 1):
            open_blocks = np.isin(inverse.reshape(-1), blocks[:allowed])
            if open_blocks.sum() >= shots:
                turn = _turns(inverse.reshape(-1))
                ranked = np.lexsort((first[inverse.reshape(-1)], turn))
                chosen = [int(order[i]) for i in ranked if open_blocks[i]][:shots]
                break
        left = int((~np.isin(unit, unit[chosen])).sum())
        if left > most_left:
            best, most_left = samples[chosen], left
        if left >= min_query:
            break
    return best


def _turns(code: Integers) -> Integers:
    """How many equal values stand before each, [n]."""
    order = np.argsort(code, kind="stable")
    _, starts, counts = np.unique(code[order], return_index=True, return_counts=True)
    turn = np.empty(len(code), dtype=np.int64)
    turn[order] = np.arange(len(code)) - np.repeat(starts, counts)
    return turn


def _left(label: Integers, block: Integers, kept: Sequence[int], drawn: dict[int, Integers]) -> list[int]:
    """Samples of each label outside the blocks of all supports."""
    closed = np.isin(block, block[np.concatenate([drawn[row] for row in kept])])
    count = np.bincount(label[~closed], minlength=max(kept) + 1)
    return [int(count[row]) for row in kept]


def _union(
    label: Integers,
    block: Integers,
    drawn: dict[int, Integers],
    kept: Sequence[int],
    taxa: Sequence[Taxon],
    sizes: Sequence[int],
    seed: int,
    min_query: int,
) -> tuple[Integers, dict[int, Integers]]:
    """Union of so many samples of each species, genus and family; further samples only from blocks that hold support.

    Taking genus and family samples from blocks of the species supports keeps the query as it is.
    """
    most = np.concatenate([drawn[row] for row in kept])
    taking_part = np.isin(label, kept)
    pool = np.flatnonzero(taking_part & np.isin(block, block[most]))
    parts: dict[int, list[Integers]] = {size: [np.concatenate([drawn[row][:size] for row in kept])] for size in sizes}
    for rank in _PUBLISHED_RANKS[1:]:
        cut = RANKS.index(rank)
        names = {row: taxa[row][cut] for row in kept}
        for name in sorted(set(names.values()) - {""}):
            members = [row for row in kept if names[row] == name]
            rng = np.random.default_rng([seed, zlib.crc32(f"{rank} {name}".encode())])
            order = rng.permutation(pool[np.isin(label[pool], members)])
            for size in sizes:
                parts[size].append(order[:size])
    return most, {size: np.unique(np.concatenate(found)) for size, found in parts.items()}
