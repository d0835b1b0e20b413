"""What could be known of the samples of a packed planted forest: the posterior of their species, from the true world.

`ceiling.json` beside the samples states the configuration of the world, from which it is built again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.ceiling import bayes_probabilities
from geotreeclip.demo.config import WorldConfig
from geotreeclip.demo.world import World, build_world
from geotreeclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

__all__ = ["known_posterior", "known_world"]

_CHUNK = 512


def known_world(dataset: PackedDataset) -> World | None:
    """The world that a packed set was drawn from; None for any other set.

    Raises:
        DataError: its `ceiling.json` cannot be read, or is that of another set.
    """
    path = dataset.directory / "ceiling.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    config = content.get("meta", {}).get("config") if isinstance(content, dict) else None
    if config is None:
        return None
    try:
        world = build_world(WorldConfig(**config), len(dataset.split("default", 0, "train")))
    except (TypeError, ConfigError) as error:
        raise DataError(f"{path}: not the configuration of a planted forest ({error}); make the set anew") from error
    if set(world.taxonomy) != set(dataset.taxonomy):
        raise DataError(
            f"{path}: its world has other species than {dataset.directory}; remove it, or make the set anew"
        )
    return world


def known_posterior(world: World, dataset: PackedDataset, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """p(recorded species | images, environment) under the uniform prior, [N, S].

    Under another prior q it is this times q, made to sum to one; among some of the species, likewise.

    Args:
        world: of `known_world`.
        dataset: the set.
        indices: N rows of it.

    Returns:
        float64, columns in the order of the set's taxonomy.
    """
    row = {taxon: place for place, taxon in enumerate(world.taxonomy)}
    columns = np.array([row[taxon] for taxon in dataset.taxonomy], dtype=np.int64)
    found = np.zeros((len(indices), len(columns)))
    for start in range(0, len(indices), _CHUNK):
        part = slice(start, start + _CHUNK)
        packed = dataset.read(indices[part])
        told = bayes_probabilities(world, packed.images, packed.environment, "uniform", ("all",))
        found[part] = told["all"][:, columns]
    return found
