"""Which samples train and which are held out: the published recipe, and places, species and years never seen.

Every sample goes to exactly one set. Rules are asked in this order, and the first that wants a sample has it:

1. ``unseen-species``: all records of species that pretraining never sees (it does see a relative in their genus);
2. ``spatial-test``: whole blocks of the Earth;
3. ``unseen-years``: years that pretraining never sees (``unknown-year``: records that might be of such a year);
4. ``buffer``: records closer to a ``spatial-test`` sample than the buffer;
5. the evaluation sets of the published recipe, drawn from what would otherwise be pretrained on;
6. ``same-place``: records at (or within a patch of) the place of a held-out sample;
7. ``pretraining``: all others.

Every draw orders its candidates by a keyed hash of their names (sample id, species, genus), so the result depends on
the seed and the records, not on the order of rows. Shape letters: N samples, S species.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.metrics import RARITY_BOUNDS, RARITY_GROUPS
from geotreeclip.evaluation.splits import assign_folds, nearest_km, places, spatial_blocks

__all__ = [
    "EVALUATED",
    "NO_SPECIES",
    "NO_YEAR",
    "PUBLISHED_SETS",
    "Assignment",
    "Draw",
    "EvaluationSet",
    "PartitionConfig",
    "Records",
    "assign",
    "priorities",
    "rarity_of_species",
]

NO_SPECIES = -1
NO_YEAR = -(2**15)

EVALUATED = ("rare", "common", "frequent")
"""Rarity classes that evaluation sets draw from; `RARITY_BOUNDS` has the record counts (21-100, 101-1,499, 1,500+)."""

PATCH_KM = 0.05
"""Width of a published patch, 5 pixels of 10 m: two samples this close can share pixels."""

FIXED_SETS = ("pretraining", "unseen-species", "spatial-test", "unseen-years", "unknown-year", "buffer", "same-place")
IDLE_SETS = ("unknown-year", "buffer", "same-place")
"""Sets that neither train nor test: put aside so that the others keep their promise."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """An evaluation set of the published kind.

    Attributes:
        name: Of the set and of its file.
        species: Species of each rarity class.
        samples: Records per rare, common and frequent species.
    """

    name: str
    species: int
    samples: tuple[int, int, int]


PUBLISHED_SETS = (
    EvaluationSet("eval-90", 30, (40, 110, 181)),
    EvaluationSet("eval-300", 100, (12, 33, 55)),
    EvaluationSet("eval-900", 300, (4, 11, 19)),
)
"""Sizes of the published sets, GlobalGeoTree (Mu et al. 2026, doi 10.5194/essd-18-1379-2026), counted in its tables."""


@dataclass(frozen=True)
class PartitionConfig:
    """Options of a partition.

    Attributes:
        seed: Of every draw.
        evaluation: Sets by the published recipe, drawn in this order.
        keep: Records that an evaluated species must have left for pretraining when it is chosen.
        place_km: Records this close to a held-out sample leave pretraining; 0 takes only those at the very same place.
        allow_shared_places: Held-out sets whose places pretraining may hold all the same.
        spatial_share: Share of the records in ``spatial-test`` blocks, 0 for none; 1 / a whole number is reached best.
        block_km: Edge of a block.
        buffer_km: Distance that pretraining keeps from ``spatial-test``.
        unseen_share: Share of the species of each genus with several that is never seen, 0 for none.
        unseen_species: Species never seen, by name, beside those drawn.
        unseen_min_records: Species with fewer records are neither drawn nor count as a relative.
        unseen_from: Records of this year and later are never seen, or None.
        unseen_years: Further years never seen.
    """

    seed: int = 0
    evaluation: tuple[EvaluationSet, ...] = PUBLISHED_SETS
    keep: int = 5
    place_km: float = PATCH_KM
    allow_shared_places: tuple[str, ...] = ()
    spatial_share: float = 0.05
    block_km: float = 100.0
    buffer_km: float = 10.0
    unseen_share: float = 0.05
    unseen_species: tuple[str, ...] = ()
    unseen_min_records: int = RARITY_BOUNDS[1]
    unseen_from: int | None = None
    unseen_years: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names = [each.name for each in self.evaluation]
        for name in names:
            if not name or not all(sign.isalnum() or sign in "-_." for sign in name) or name.startswith("."):
                raise ConfigError(f"evaluation set name {name!r}: use letters, digits, '-', '_' and '.'")
        if len({*names, *FIXED_SETS}) < len(names) + len(FIXED_SETS):
            raise ConfigError(
                f"evaluation sets {', '.join(names)}: names must differ, and not be {', '.join(FIXED_SETS)}"
            )
        for each in self.evaluation:
            if each.species < 1 or len(each.samples) != 3 or min(each.samples) < 1:
                raise ConfigError(
                    f"evaluation set {each.name!r}: {each.species} species a class with {each.samples} records each; "
                    "give whole numbers from 1 on, three record counts"
                )
        for name, share, most in (("spatial", self.spatial_share, 0.5), ("unseen", self.unseen_share, 1.0)):
            if not 0 <= share <= most:
                raise ConfigError(f"{name} share is {share}; give a number from 0 to {most:g}")
        for name, value in (("buffer", self.buffer_km), ("place", self.place_km), ("keep", self.keep)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; give 0 or a positive number")
        if not (math.isfinite(self.block_km) and self.block_km > 0):
            raise ConfigError(f"block size is {self.block_km} km; give a positive number")
        if unknown := sorted(set(self.allow_shared_places) - set(self.tests)):
            raise ConfigError(f"sets {', '.join(unknown)} are unknown; held-out sets are {', '.join(self.tests)}")

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets; the place of a set is its code."""
        return (*FIXED_SETS[:-1], *(each.name for each in self.evaluation), FIXED_SETS[-1])

    @property
    def tests(self) -> tuple[str, ...]:
        """The sets that are scored."""
        return tuple(name for name in self.sets if name not in ("pretraining", *IDLE_SETS))


@dataclass(frozen=True, slots=True)
class Records:
    """What the rules look at, about 35 bytes a sample.

    Attributes:
        identity: uint64 [N], hash of the sample ids (:func:`priorities` of the seed): distinct, and the order of draws.
        species: int32 [N], number of the species or `NO_SPECIES`.
        longitude: float64 [N], degrees.
        latitude: float64 [N].
        year: int16 [N], or `NO_YEAR`.
        species_names: [S].
        genus_names: [S], genus of each species, "" where unknown.
    """

    identity: NDArray[np.uint64]
    species: NDArray[np.int32]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    year: NDArray[np.int16]
    species_names: list[str]
    genus_names: list[str]

    def __len__(self) -> int:
        return len(self.species)


@dataclass(frozen=True, slots=True)
class Draw:
    """What an evaluation set found in a rarity class."""

    set: str
    rarity: str
    asked: int
    eligible: int
    taken: int
    samples_each: int


@dataclass(slots=True)
class Assignment:
    """The sets of the samples.

    Attributes:
        code: int8 [N], place of the sample's set in ``sets``.
        also: uint32 [N], bit k is set where rule k wanted a sample that an earlier rule had.
        place: int64 [N], number of the place.
        rarity: int8 [S], rarity group of each species by all its records, place in `RARITY_GROUPS`.
        draws: What the evaluation sets found.
        notes: What a reader must know: shortages, shares not reached.
    """

    sets: tuple[str, ...]
    code: NDArray[np.int8]
    also: NDArray[np.uint32]
    place: NDArray[np.int64]
    rarity: NDArray[np.int8]
    draws: list[Draw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def claim(self, name: str, wanted: NDArray[np.bool_]) -> None:
        """Gives a set the wanted samples that no earlier rule had."""
        code = self.sets.index(name)
        free = self.code == 0
        self.also[wanted & ~free] |= np.uint32(1 << code)
        self.code[wanted & free] = code

    def of(self, name: str) -> NDArray[np.bool_]:
        """Samples of a set, [N]."""
        return np.asarray(self.code == self.sets.index(name))


def priorities(names: Sequence[str] | NDArray[np.object_], seed: int, purpose: str) -> NDArray[np.uint64]:
    """Order of drawing, uint64 of the shape of the names: SipHash of each name under a key of seed and purpose."""
    import pandas as pd

    key = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).hexdigest()
    values = np.asarray(names, dtype=object)
    return np.asarray(pd.util.hash_array(values, hash_key=key, categorize=False), dtype=np.uint64)


def rarity_of_species(records: Records) -> NDArray[np.int8]:
    """Rarity group of each species from its number of records, int8 [S], place in `RARITY_GROUPS`."""
    return np.digitize(_count(records.species, len(records.species_names)), RARITY_BOUNDS).astype(np.int8)


def assign(records: Records, config: PartitionConfig) -> Assignment:
    """Put every sample into a set, by the rules of this module.

    Raises:
        ConfigError: A named species is unknown, no record is of a named year, there are too few blocks for the spatial
            share, or nothing is left for pretraining.
        DataError: Coordinates are missing or impossible.
    """
    result = Assignment(
        config.sets,
        np.zeros(len(records), np.int8),
        np.zeros(len(records), np.uint32),
        places(records.longitude, records.latitude),
        rarity_of_species(records),
    )
    unseen = _unseen_species(records, config, result.notes)
    result.claim("unseen-species", unseen[records.species] & (records.species != NO_SPECIES))
    if config.spatial_share > 0:
        result.claim("spatial-test", _test_blocks(records, config, result.notes))
    _claim_years(records, config, result)
    if config.buffer_km > 0 and (test := result.of("spatial-test")).any():
        result.claim("buffer", _near(records, ~test, test, config.buffer_km))
    for wanted in config.evaluation:
        result.claim(wanted.name, _draw(records, wanted, config, result))
    _claim_places(records, config, result)
    if not (result.code == 0).any():
        raise ConfigError(
            f"none of {len(records)} records is left for pretraining; hold out less, take a smaller buffer "
            f"({config.buffer_km:g} km) or place distance ({config.place_km:g} km), or allow shared places"
        )
    return result


def _unseen_species(records: Records, config: PartitionConfig, notes: list[str]) -> NDArray[np.bool_]:
    """Species that are never seen, [S] (one more, False, so that `NO_SPECIES` finds it)."""
    names, genera = np.asarray(records.species_names, object), np.asarray(records.genus_names, object)
    chosen = np.zeros(len(names) + 1, dtype=bool)
    number = {name: index for index, name in enumerate(records.species_names)}
    if unknown := [name for name in config.unseen_species if name not in number]:
        raise ConfigError(
            f"species to hold out are not among the records: {', '.join(unknown[:5])} ({len(unknown)} in all)"
        )
    chosen[[number[name] for name in config.unseen_species]] = True
    counts = _count(records.species, len(names))
    known = np.flatnonzero((counts >= config.unseen_min_records) & (genera != ""))
    if config.unseen_share > 0:
        order = known[np.lexsort((priorities(names[known], config.seed, "unseen-species"), genera[known]))]
        values, first, size = np.unique(genera[order], return_index=True, return_counts=True)
        several = np.flatnonzero(size > 1)
        several = several[np.argsort(priorities(values[several], config.seed, "unseen-genus"), kind="stable")]
        # Each genus gives the whole numbers that the running sum passes in it: small genera give their share, too.
        due = np.floor(np.cumsum(config.unseen_share * size[several]) + 0.5).astype(np.int64)
        take = np.zeros(len(values), dtype=np.int64)
        take[several] = np.minimum(np.diff(due, prepend=0), size[several] - 1)
        within = np.arange(len(order)) - np.repeat(first, size)
        chosen[order[within < np.repeat(take, size)]] = True
        if not take.any():
            notes.append(
                f"no species was drawn to be never seen: {len(several)} genera have two or more species of "
                f"{config.unseen_min_records} records and more, which is too few for a share of {config.unseen_share:g}"
            )
    with_relative = {genera[index] for index in known if not chosen[index]}
    alone = sorted(names[index] for index in np.flatnonzero(chosen[:-1]) if genera[index] not in with_relative)
    if alone:
        notes.append(f"unseen species without a relative in pretraining: {_some(alone)}")
    return chosen


def _test_blocks(records: Records, config: PartitionConfig, notes: list[str]) -> NDArray[np.bool_]:
    folds = max(2, round(1 / config.spatial_share))
    block = spatial_blocks(records.longitude, records.latitude, config.block_km)
    test = np.asarray(assign_folds(block, folds, config.seed) == 0)
    if abs(test.mean() - config.spatial_share) > 0.2 * config.spatial_share:
        notes.append(
            f"spatial-test blocks hold {test.mean():.1%} of the records where {config.spatial_share:.1%} were asked "
            "for: blocks are whole, and some hold more than that share"
        )
    return test


def _claim_years(records: Records, config: PartitionConfig, result: Assignment) -> None:
    if config.unseen_from is None and not config.unseen_years:
        return
    unknown = records.year == NO_YEAR
    held = np.isin(records.year, config.unseen_years)
    if config.unseen_from is not None:
        held |= records.year >= config.unseen_from
    held &= ~unknown
    if not held.any():
        years = records.year[~unknown]
        seen = f"{years.min()} to {years.max()}" if len(years) else "none"
        raise ConfigError(f"no record is of a year to hold out; years of the records: {seen}")
    result.claim("unseen-years", held)
    result.claim("unknown-year", unknown)
    if unknown.any():
        result.notes.append(f"{int(unknown.sum())} records without a year may be of an unseen one; they do not train")


def _draw(records: Records, wanted: EvaluationSet, config: PartitionConfig, result: Assignment) -> NDArray[np.bool_]:
    """Samples of an evaluation set, [N]: the first records of the first species of each class, in hash order."""
    free = (result.code == 0) & (records.species != NO_SPECIES)
    left = _count(records.species[free], len(records.species_names))
    rank = priorities(records.species_names, config.seed, f"species/{wanted.name}")
    each = np.zeros(len(left) + 1, dtype=np.int64)  # the last is for NO_SPECIES
    for rarity, samples in zip(EVALUATED, wanted.samples, strict=True):
        able = np.flatnonzero((result.rarity == RARITY_GROUPS.index(rarity)) & (left >= samples + config.keep))
        taken = able[np.argsort(rank[able], kind="stable")[: wanted.species]]
        each[taken] = samples
        result.draws.append(Draw(wanted.name, rarity, wanted.species, len(able), len(taken), samples))
        if len(taken) < wanted.species:
            result.notes.append(
                f"{wanted.name}: {len(taken)} {rarity} species where {wanted.species} were asked for: no more have "
                f"{samples} records to give and {config.keep} to keep"
            )
    rows = np.flatnonzero(free & (each[records.species] > 0))
    species = records.species[rows]
    order = np.lexsort((records.identity[rows], species))
    _, first, size = np.unique(species[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(first, size)
    chosen = np.zeros(len(records), dtype=bool)
    chosen[rows[order[within < each[species[order]]]]] = True
    return chosen


def _claim_places(records: Records, config: PartitionConfig, result: Assignment) -> None:
    guarded = [result.sets.index(name) for name in config.tests if name not in config.allow_shared_places]
    held = np.isin(result.code, guarded)
    if not held.any():
        return
    close = np.isin(result.place, result.place[held]) & ~held
    if config.place_km > 0:
        rest = (result.code == 0) & ~close
        close |= _near(records, rest, held, config.place_km)
    result.claim("same-place", close)


def _near(records: Records, of: NDArray[np.bool_], to: NDArray[np.bool_], km: float) -> NDArray[np.bool_]:
    """Which of some samples lie within a distance of any of others, [N]."""
    lon, lat = records.longitude, records.latitude
    near = np.zeros(len(records), dtype=bool)
    near[of] = nearest_km(lon[of], lat[of], lon[to], lat[to]) <= km
    return near


def _count(species: NDArray[np.int32], number: int) -> NDArray[np.int64]:
    return np.bincount(species[species != NO_SPECIES], minlength=number)


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
