"""Spatial blocks and folds: geometry at the edges of the map, and what must never leak."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import haversine_distances

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation import splits


def sphere(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points uniform on the sphere, longitude and latitude in degrees."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


def test_blocks_join_the_two_sides_of_the_antimeridian_as_one_longitude() -> None:
    lon = np.array([180.0, -180.0, 179.99999999, -179.999999999, 540.0 - 360.0, 179.0, -179.0])
    block = splits.spatial_blocks(lon, np.full(7, 12.0), 100)
    assert len(set(block[:5])) == 1
    assert block[5] != block[0]  # the line itself is a block edge
    assert np.array_equal(splits.spatial_blocks([350.0], [5.0], 100), splits.spatial_blocks([-10.0], [5.0], 100))


@pytest.mark.parametrize("size", [0, 1, 100, 1000, 30_000])
def test_a_pole_is_one_place_and_every_block_number_is_inside_the_grid(size: float) -> None:
    lon = np.linspace(-180, 180, 37)
    for pole in (-90.0, 90.0):
        assert len(set(splits.spatial_blocks(lon, np.full(37, pole), size))) == 1
    if size:
        block = splits.spatial_blocks(*sphere(2_000), size)
        assert block.dtype == np.int64
        assert block.min() >= 0
        assert block.max() < splits.block_columns(size).sum()


@pytest.mark.parametrize("size", [100.0, 500.0, 1000.0])
def test_blocks_have_equal_areas(size: float) -> None:
    columns = splits.block_columns(size)
    edges = np.sin(np.radians(np.linspace(-90, 90, len(columns) + 1)))
    area = 2 * np.pi * splits.EARTH_RADIUS_KM**2 * np.diff(edges) / columns
    np.testing.assert_allclose(area[3:-3], size**2, rtol=0.06)
    np.testing.assert_allclose(area, size**2, rtol=0.15)


def test_counts_of_uniform_points_are_as_even_as_chance_allows() -> None:
    block = splits.spatial_blocks(*sphere(50_000), 2_000)
    counts = np.bincount(block)
    assert len(counts) == splits.block_columns(2_000).sum()
    assert counts.std() / counts.mean() < 0.15


def test_size_zero_is_a_split_by_place() -> None:
    block = splits.spatial_blocks([10, 10.000001, 10.1, 180, -180], [50, 50, 50, 0, 0], 0)
    assert block[0] == block[1] != block[2]
    assert block[3] == block[4]


@pytest.mark.parametrize("size", [0, 100, 500])
def test_each_sample_is_tested_once_and_no_place_or_block_is_split(size: float) -> None:
    lon, lat = sphere(1_500)
    lon, lat = np.concatenate([lon, lon[:300]]), np.concatenate([lat, lat[:300]])  # 300 places twice
    frame = splits.spatial_folds(lon, lat, size, folds=5, seed=3, validation=0.1)
    assert set(frame.query("role == 'test'").groupby("sample_id").size()) == {1}
    assert frame.query("role == 'test'").shape[0] == len(lon)
    report = splits.leak_report(frame, lon, lat)
    assert (report[["shared_blocks", "shared_places", "buffer"]] == 0).all(axis=None)
    assert report["test"].max() - report["test"].min() <= 0.05 * len(lon)
    for _, part in frame.groupby("fold"):
        blocks = {role: set(rows["block"]) for role, rows in part.groupby("role")}
        assert not blocks["validation"] & (blocks["test"] | blocks["train"])
        share = (part["role"] == "validation").sum() / part["role"].isin(["train", "validation"]).sum()
        assert 0.09 < share < 0.14


def test_no_training_sample_within_the_buffer_across_the_dateline_and_at_the_pole() -> None:
    rng = np.random.default_rng(1)
    lon = np.concatenate([rng.uniform(176, 184, 400) % 360, rng.uniform(-180, 180, 400)])
    lat = np.concatenate([rng.uniform(-20, -14, 400), rng.uniform(84, 90, 400)])
    frame = splits.spatial_folds(lon, lat, 100, folds=4, buffer_km=40, validation=0.2, validation_buffer_km=20)
    radians = np.radians(np.stack([lat, lon], axis=1))
    km = haversine_distances(radians) * splits.EARTH_RADIUS_KM
    across = (lon[:, None] < 180) & (lon[None] > 180) & (km < 40)
    seen_across = False
    for _, part in frame.groupby("fold"):
        role = part["role"].to_numpy()
        test, used = role == "test", np.isin(role, ["train", "validation"])
        assert km[np.ix_(used, test)].min() > 40
        assert km[np.ix_(role == "train", role == "validation")].min() > 20
        # nothing is put aside without need
        needless = km[np.ix_(role == "buffer", test | (role == "validation"))].min(axis=1)
        assert needless.max() <= 40
        seen_across |= bool(
            across[np.ix_(role == "buffer", test)].any() or across[np.ix_(test, role == "buffer")].any()
        )
    assert seen_across
    nearest = splits.leak_report(frame, lon, lat)["nearest_min"]
    assert (nearest > 40).all()


def test_folds_are_a_function_of_the_seed() -> None:
    lon, lat = sphere(300)
    first, again = (splits.spatial_folds(lon, lat, 500, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(splits.spatial_folds(lon, lat, 500, seed=6))


def test_nearest_distance_is_great_circle() -> None:
    degree = np.pi * splits.EARTH_RADIUS_KM / 180
    np.testing.assert_allclose(splits.nearest_km([179.5, 0], [0, 89], [-179.5, 180], [0, 89]), [degree, 2 * degree])
    assert np.isinf(splits.nearest_km([1.0], [1.0], [], [])).all()


def test_write_split_keeps_what_it_was_given_and_leaves_no_part(tmp_path) -> None:
    lon, lat = sphere(50)
    frame = splits.spatial_folds(lon, lat, 0, sample_id=[f"s{i}" for i in range(50)])
    path = splits.write_split(tmp_path, "random", frame)
    assert path == tmp_path / "splits" / "random.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    assert [file.name for file in path.parent.iterdir()] == ["random.parquet"]
    with pytest.raises(ConfigError, match="plain file name"):
        splits.write_split(tmp_path, "../out", frame)
    with pytest.raises(DataError, match="unknown roles hold-out"):
        splits.write_split(tmp_path, "x", frame.assign(role="hold-out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_km": -1}, "block size is -1"),
        ({"size_km": 30_000}, "cannot make 5 folds"),
        ({"validation": 1.0}, "validation share"),
        ({"buffer_km": 21_000}, "no training sample is left"),
        ({"sample_id": ["a"] * 60}, "60 sample ids, 1 of them distinct"),
        ({"latitude": np.full(60, 91.0)}, "60 of 60 samples have no usable coordinates, first in row 0"),
        ({"longitude": np.r_[np.zeros(59), np.nan]}, "1 of 60 samples .* row 59"),
    ],
)
def test_impossible_requests_say_what_is_wrong(change: dict, message: str) -> None:
    lon, lat = sphere(60)
    with pytest.raises((ConfigError, DataError), match=message):
        splits.spatial_folds(**({"longitude": lon, "latitude": lat, "size_km": 200} | change))
