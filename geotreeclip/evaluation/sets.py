"""The set to score: a packed directory, published shards from disk or the hub, or one of the published names.

Published shards are packed once into the user's cache, so that everything that reads packed sets reads them; rounding
to whole digital numbers is all that changes. No row is lost unsaid: what cannot be read is counted and named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from geotreeclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["PUBLISHED_SETS", "OpenedSet", "open_set"]

_HUB = "hf://datasets/yann111/GlobalGeoTree/GlobalGeoTree-10kEval"

PUBLISHED_SETS: dict[str, str] = {f"10kEval-{size}": f"{_HUB}/GGT-10kEval-{size}.tar" for size in (90, 300, 900)}
"""Names of the published evaluation sets and where the hub has them."""


class OpenedSet(NamedTuple):
    """A set ready for reading.

    Attributes:
        dataset: the packed set.
        name: what to call it.
        notes: what a reader of its scores should know.
    """

    dataset: PackedDataset
    name: str
    notes: list[str]


def open_set(sources: Sequence[str | Path], samples: Sequence[str | Path] = (), *, progress: bool = False) -> OpenedSet:
    """Open a packed set, or pack published shards into the cache and open that.

    Args:
        sources: one packed directory; or published shards: tars, folders of them, https://, hf://datasets/..., or names
            of `PUBLISHED_SETS`.
        samples: CSV tables that give year, country, source and rarity by sample id, for published shards.
        progress: whether to show the packing.

    Raises:
        ConfigError: packed sets and shards together, or tables for a packed set.
        DataError: a source is absent or cannot be read.
    """
    from geotreeclip.data.manifest import MANIFEST
    from geotreeclip.data.packed import PackedDataset

    given = [PUBLISHED_SETS.get(str(source), str(source)) for source in sources]
    packed = [source for source in given if (Path(source) / MANIFEST).is_file()]
    if packed or (len(given) == 1 and Path(given[0]).is_dir() and not any(Path(given[0]).glob("*.tar"))):
        if len(given) > 1:
            raise ConfigError(f"--data: {packed[0]} is a packed set; give one packed set, or published shards only")
        if samples:
            raise ConfigError("--samples is for published shards; a packed set has its table of samples already")
        dataset = PackedDataset(given[0])
        return OpenedSet(dataset, dataset.directory.resolve().name, [])
    return _from_shards(given, samples, [str(source) for source in sources], progress)


def _from_shards(given: list[str], samples: Sequence[str | Path], names: list[str], progress: bool) -> OpenedSet:
    from geotreeclip.cache import cache_directory
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.data.packing import pack
    from geotreeclip.data.sources import expand_sources, open_source, source_name

    shards = expand_sources(given)
    identity = hashlib.sha256()
    for shard in shards:
        with open_source(shard) as opened:
            identity.update(f"{shard} {opened.version}\n".encode())
    for path in samples:
        try:
            identity.update(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    out = cache_directory() / "packed-sets" / identity.hexdigest()[:24]
    out.parent.mkdir(parents=True, exist_ok=True)
    report = pack(shards, out, samples=samples, progress=progress)
    notes = []
    if report.refused or report.duplicates:
        notes.append(
            f"of {report.read:,} samples in the shards {report.refused:,} could not be read and {report.duplicates:,} "
            f"bear an id that came before; they are not scored ({out / 'refused.parquet'} names each)"
        )
    stems = [name if name in PUBLISHED_SETS else Path(source_name(name)).stem for name in names]
    return OpenedSet(PackedDataset(out), " + ".join(stems), notes)
