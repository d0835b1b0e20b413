"""Spatial folds: which samples train, validate and test, so that neighbours do not leak from one to the other.

Nearby trees share climate, species and often the very same place, so a random split rewards a model for remembering
places. Here the Earth is cut into blocks of nearly equal area, whole blocks go to folds, and training samples closer
than a buffer to any test sample are put aside. Longitudes and latitudes are WGS 84 degrees everywhere; distances are
great-circle kilometres on a sphere of :data:`geotreeclip.sphere.EARTH_RADIUS_KM`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.sphere import EARTH_RADIUS_KM, chord_to_km, search_tree, unit_vectors

if TYPE_CHECKING:
    import pandas as pd

PLACE_DECIMALS = 5
"""Coordinates that agree to this many decimals of a degree (about a metre) are one place."""

ROLES = ("train", "validation", "test", "buffer")
"""What a sample is in a fold; ``buffer`` samples take no part in it."""


def check_coordinates(longitude: ArrayLike, latitude: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give coordinates back as float64 [N], longitude wrapped to [-180, 180).

    Raises:
        DataError: The shapes differ, or a coordinate is missing or impossible; names the first such row.
    """
    lon = np.asarray(longitude, dtype=np.float64)
    lat = np.asarray(latitude, dtype=np.float64)
    if lon.ndim != 1 or lon.shape != lat.shape:
        raise DataError(f"longitude {lon.shape} and latitude {lat.shape} must be two columns of one length")
    wrong = ~(np.isfinite(lon) & np.isfinite(lat) & (np.abs(lon) <= 360) & (np.abs(lat) <= 90))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{int(wrong.sum())} of {len(lon)} samples have no usable coordinates, first in row {row}: longitude "
            f"{lon[row]}, latitude {lat[row]}; give WGS 84 degrees, or drop these samples before splitting"
        )
    return (lon + 180.0) % 360.0 - 180.0, lat


def nearest_km(
    longitude: ArrayLike, latitude: ArrayLike, to_longitude: ArrayLike, to_latitude: ArrayLike
) -> NDArray[np.float64]:
    """Great-circle kilometres from each point to the nearest of the others, [N]; infinite where there are none."""
    return nearest(longitude, latitude, to_longitude, to_latitude)[0]


def nearest(
    longitude: ArrayLike, latitude: ArrayLike, to_longitude: ArrayLike, to_latitude: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Kilometres to the nearest of the others and its row, each [N]; infinite and -1 where there are none."""
    points, others = unit_vectors(longitude, latitude), unit_vectors(to_longitude, to_latitude)
    if len(others) == 0:
        return np.full(len(points), np.inf), np.full(len(points), -1)
    chord, row = search_tree(others).query(points, k=1)
    return chord_to_km(chord), np.asarray(row, dtype=np.int64)


def places(longitude: ArrayLike, latitude: ArrayLike) -> NDArray[np.int64]:
    """Number the distinct places, [N]: the same number for coordinates that agree to about a metre."""
    snapped = _snapped(longitude, latitude)
    # One whole number a place: sorting pairs takes thirty times as long. 6.5e14 at most, far from overflow.
    key = snapped[:, 0] * (360 * 10**PLACE_DECIMALS) + snapped[:, 1]
    return np.unique(key, return_inverse=True)[1].reshape(-1).astype(np.int64)


def spatial_blocks(longitude: ArrayLike, latitude: ArrayLike, size_km: float) -> NDArray[np.int64]:
    """Number the block of each sample, int64 [N], in a fixed grid of nearly equal-area blocks.

    The Earth is cut from pole to pole into rows about ``size_km`` high, and row ``r`` into
    ``max(1, round(2 pi R cos(middle latitude) / size_km))`` columns that start at the antimeridian, so no block is cut
    by a pole and +180 and -180 degrees are one place. Rounding leaves single blocks a few per cent off, most beside the
    poles. A size of 0 makes every distinct place its own block, which turns spatial folds into a random split by place.

    Args:
        longitude: Degrees, [N].
        latitude: Degrees, [N].
        size_km: Edge of a block in kilometres, or 0.

    Raises:
        ConfigError: The size is negative or not a number.
        DataError: A coordinate is missing or impossible.
    """
    if not (np.isfinite(size_km) and size_km >= 0):
        raise ConfigError(f"block size is {size_km} km; give 0 (a random split by place) or a positive number")
    if size_km == 0:
        return places(longitude, latitude)
    columns = block_columns(size_km)
    # On whole steps of the place grid, so that one place can never lie on both sides of a block edge.
    snapped = _snapped(longitude, latitude) / 10**PLACE_DECIMALS
    row = np.minimum((snapped[:, 0] / 180 * len(columns)).astype(np.int64), len(columns) - 1)
    column = np.minimum((snapped[:, 1] / 360 * columns[row]).astype(np.int64), columns[row] - 1)
    first = np.concatenate([[0], np.cumsum(columns)[:-1]])
    return np.asarray(first[row] + column, dtype=np.int64)


def block_columns(size_km: float) -> NDArray[np.int64]:
    """Number of blocks in each row of the grid, south to north."""
    rows = max(1, round(np.pi * EARTH_RADIUS_KM / size_km))
    middle = np.radians(-90 + (np.arange(rows) + 0.5) * 180 / rows)
    return np.maximum(1, np.round(2 * np.pi * EARTH_RADIUS_KM * np.cos(middle) / size_km)).astype(np.int64)


def assign_folds(block: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Give whole blocks to folds: the largest block first, each to the fold with the fewest samples; [N].

    Blocks of one size come in an order drawn from ``seed``, and so does the fold where several are least filled.

    Raises:
        ConfigError: There are fewer blocks than folds, or fewer than two folds.
    """
    values, rows, sizes = np.unique(block, return_inverse=True, return_counts=True)
    if folds < 2 or len(values) < folds:
        raise ConfigError(
            f"{len(values)} blocks cannot make {folds} folds: take at least two folds and at most one a block, "
            "with smaller blocks if need be"
        )
    rng = np.random.default_rng([seed, 1])
    order = np.lexsort((rng.random(len(values)), -sizes))
    filled = np.zeros(folds)
    fold_of = np.empty(len(values), dtype=np.int64)
    for position in order:
        fold = int(rng.choice(np.flatnonzero(filled == filled.min())))
        fold_of[position] = fold
        filled[fold] += sizes[position]
    return fold_of[rows.reshape(-1)]


def fold_roles(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    block: NDArray[np.int64],
    test: NDArray[np.bool_],
    *,
    seed: int,
    buffer_km: float = 0.0,
    validation: float = 0.1,
    validation_buffer_km: float = 0.0,
) -> NDArray[np.object_]:
    """Role of each sample in one fold, [N]; see :func:`spatial_folds` for the arguments."""
    roles = np.full(len(block), "train", dtype=object)
    roles[test] = "test"
    if buffer_km > 0:
        roles[_within(lon, lat, ~test, test, buffer_km)] = "buffer"
    left = roles == "train"
    values, sizes = np.unique(block[left], return_counts=True)
    if validation > 0 and len(values) > 1:
        order = np.random.default_rng([seed, 2]).permutation(len(values))
        filled = np.cumsum(sizes[order])
        count = int(np.searchsorted(filled, validation * filled[-1])) + 1
        chosen = values[order[: min(count, len(values) - 1)]]
        roles[left & np.isin(block, chosen)] = "validation"
        if validation_buffer_km > 0:
            drop = _within(lon, lat, roles == "train", roles == "validation", validation_buffer_km)
            roles[drop] = "buffer"
    if not (roles == "train").any():
        raise ConfigError(
            f"no training sample is left outside the buffer of {buffer_km:g} km around {int(test.sum())} test samples; "
            "take a smaller buffer or smaller blocks"
        )
    return roles


def spatial_folds(
    longitude: ArrayLike,
    latitude: ArrayLike,
    size_km: float,
    folds: int = 5,
    seed: int = 0,
    buffer_km: float = 0.0,
    validation: float = 0.1,
    sample_id: Sequence[str] | None = None,
    validation_buffer_km: float = 0.0,
) -> pd.DataFrame:
    """Split samples into spatial folds.

    Every sample is a test sample of exactly one fold. In a fold, the other samples within ``buffer_km`` of any of its
    test samples are ``buffer``, and the ``validation`` share of what is left is drawn by whole blocks. So validation
    never comes from test blocks and keeps the same distance from the test as training does. Training samples stay
    next to validation samples unless ``validation_buffer_km`` says otherwise: a buffer there costs training data in
    every fold, and a validation score only has to rank steps of one run, not to stand as a result.

    Args:
        longitude: Degrees, [N].
        latitude: Degrees, [N].
        size_km: Edge of a block, see :func:`spatial_blocks`; 0 splits at random by place.
        folds: Number of folds.
        seed: Of tie-breaks and of the choice of validation blocks.
        buffer_km: Distance from the test below which samples are put aside; 0 for none.
        validation: Share of the samples left for training that validate, 0 for none.
        sample_id: Names of the samples; their row numbers without.
        validation_buffer_km: The same distance between training and validation.

    Returns:
        A row per fold and sample, in the order of the samples: ``sample_id`` (str), ``fold`` (int64), ``role`` (one of
        :data:`ROLES`), ``block`` (int64).

    Raises:
        ConfigError: Fewer blocks than folds, an impossible share or distance, or no training sample left.
        DataError: Coordinates are missing or impossible, or the sample ids are not one to a sample.
    """
    import pandas as pd

    if not 0 <= validation < 1:
        raise ConfigError(f"validation share is {validation}; give a number from 0 up to, not including, 1")
    if buffer_km < 0 or validation_buffer_km < 0:
        raise ConfigError(f"buffers are {buffer_km} and {validation_buffer_km} km; give 0 or more")
    lon, lat = check_coordinates(longitude, latitude)
    names = [str(row) for row in range(len(lon))] if sample_id is None else [str(name) for name in sample_id]
    if len(names) != len(lon) or len(set(names)) != len(names):
        raise DataError(f"{len(names)} sample ids, {len(set(names))} of them distinct, for {len(lon)} samples")
    block = spatial_blocks(lon, lat, size_km)
    fold_of = assign_folds(block, folds, seed)
    frames = []
    for fold in range(folds):
        roles = fold_roles(
            lon,
            lat,
            block,
            fold_of == fold,
            seed=seed * 1_000 + fold,
            buffer_km=buffer_km,
            validation=validation,
            validation_buffer_km=validation_buffer_km,
        )
        frames.append(pd.DataFrame({"sample_id": names, "fold": fold, "role": roles, "block": block}))
    return pd.concat(frames, ignore_index=True)


def leak_report(frame: pd.DataFrame, longitude: ArrayLike, latitude: ArrayLike) -> pd.DataFrame:
    """What could leak from training to test, a row per fold.

    Args:
        frame: As :func:`spatial_folds` returns it, samples in the order of the coordinates within each fold.
        longitude: Degrees, [N].
        latitude: Degrees, [N].

    Returns:
        Columns ``fold``, the count of each role, ``test_blocks``, ``shared_blocks`` and ``shared_places`` (test samples
        whose block or place also trains or validates), and the kilometres from test samples to the nearest training
        or validation sample: ``nearest_min``, ``nearest_q10``, ``nearest_median``.
    """
    import pandas as pd

    lon, lat = check_coordinates(longitude, latitude)
    place = places(lon, lat)
    rows: list[dict[str, Any]] = []
    for fold, part in frame.groupby("fold", sort=True):
        if len(part) != len(lon):
            raise DataError(f"fold {fold} lists {len(part)} samples, the coordinates {len(lon)}")
        role, block = part["role"].to_numpy(), part["block"].to_numpy()
        test, used = role == "test", (role == "train") | (role == "validation")
        near = nearest_km(lon[test], lat[test], lon[used], lat[used])
        low, tenth, median = (float(np.quantile(near, q)) if len(near) else np.nan for q in (0.0, 0.1, 0.5))
        rows.append(
            {
                "fold": fold,
                **{name: int((role == name).sum()) for name in ROLES},
                "test_blocks": len(np.unique(block[test])),
                "shared_blocks": int(np.isin(block[test], block[used]).sum()),
                "shared_places": int(np.isin(place[test], place[used]).sum()),
                "nearest_min": low,
                "nearest_q10": tenth,
                "nearest_median": median,
            }
        )
    return pd.DataFrame(rows)


def write_split(directory: str | os.PathLike[str], name: str, frame: pd.DataFrame) -> Path:
    """Write ``DIRECTORY/splits/NAME.parquet`` in one step and return its path.

    Raises:
        ConfigError: The name is no plain file name.
        DataError: A column is missing or a role unknown.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"split name {name!r} must be a plain file name such as 'blocks100'")
    missing = [column for column in ("sample_id", "fold", "role", "block") if column not in frame.columns]
    if missing:
        raise DataError(f"split {name!r} lacks the columns {', '.join(missing)}")
    unknown = sorted(set(frame["role"]) - set(ROLES))
    if unknown:
        raise DataError(f"split {name!r} has unknown roles {', '.join(map(str, unknown))}; known: {', '.join(ROLES)}")
    path = Path(directory) / "splits" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    frame.to_parquet(partial, index=False)
    partial.replace(path)
    return path


def _snapped(longitude: ArrayLike, latitude: ArrayLike) -> NDArray[np.int64]:
    """Coordinates in whole steps of the place grid from the south pole and the antimeridian, [N, 2] (row, column)."""
    lon, lat = check_coordinates(longitude, latitude)
    scale = 10**PLACE_DECIMALS
    row = np.round((lat + 90) * scale).astype(np.int64)
    column = np.round((lon + 180) * scale).astype(np.int64) % (360 * scale)
    column[(row == 0) | (row == 180 * scale)] = 0  # a pole is one place whatever its longitude
    return np.stack([row, column], axis=1)


def _within(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    candidates: NDArray[np.bool_],
    around: NDArray[np.bool_],
    km: float,
) -> NDArray[np.bool_]:
    """Which of the candidate samples lie within so many kilometres of any of the others, [N]."""
    result = np.zeros(len(lon), dtype=bool)
    result[candidates] = nearest_km(lon[candidates], lat[candidates], lon[around], lat[around]) <= km
    return result
