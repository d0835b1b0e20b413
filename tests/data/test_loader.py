import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotreeclip.data.loader import Loader, epoch_order, sequential
from geotreeclip.errors import ConfigError, DataError


def take(iterator, count):
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def stream(loader, start, count):
    return np.concatenate([batch.index for batch in take(loader.batches(start), count)])


def test_order_is_a_fixed_function_of_seed_and_epoch():
    assert epoch_order(8, 0, 0).tolist() == epoch_order(8, 0, 0).tolist()
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    # Pinned: a change of the order would silently break the resuming of old runs.
    assert epoch_order(8, 1, 2).tolist() == [4, 2, 0, 6, 1, 5, 7, 3]


def test_positions_are_uniform():
    places = np.array([epoch_order(10, seed, 0)[0] for seed in range(2000)])
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_every_sample_exactly_once_an_epoch(packed):
    chosen = np.arange(2, 41)  # 39 samples, batches of 6 span epochs
    found = stream(Loader(packed, chosen, 6, seed=4), 0, 13)  # 78 samples: two epochs
    assert sorted(found[:39]) == list(chosen)
    assert sorted(found[39:]) == list(chosen)
    assert list(found[:39]) != list(found[39:])


@pytest.mark.parametrize("world", [2, 4])
def test_world_size_does_not_change_the_stream(packed, world):
    chosen = np.arange(39)
    whole = stream(Loader(packed, chosen, 8, seed=4), 0, 12)
    parts = [
        stream(Loader(packed, chosen, 8, seed=4, rank=rank, world_size=world), 0, 12).reshape(12, 8 // world)
        for rank in range(world)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1).reshape(-1), whole)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    size=st.integers(1, 45),
    share=st.integers(1, 6),
    world=st.integers(1, 5),
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 30),
)
def test_the_stream_is_a_function_of_seed_and_epoch_alone(size, share, world, seed, start):
    """Whatever the processes and the batch: epochs laid end to end, each a permutation, and all agree on the batch."""
    indices, batch = np.arange(100, 100 + size), share * world
    epochs = [indices[epoch_order(size, seed, epoch)] for epoch in range((start + 3) * batch // size + 2)]
    stream = np.concatenate(epochs)
    assert all(sorted(epoch) == list(indices) for epoch in epochs)
    loaders = [Loader(None, indices, batch, seed, rank, world) for rank in range(world)]
    for offset in range(start * batch, (start + 2) * batch, batch):
        parts = [loader.rows(offset) for loader in loaders]
        assert list(np.concatenate(parts)) == list(stream[offset : offset + batch])
        assert all(list(loader.global_rows(offset)) == list(np.concatenate(parts)) for loader in loaders)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resume_continues_the_stream(packed, prefetch):
    loader = Loader(packed, np.arange(39), 8, seed=4, prefetch=prefetch)
    np.testing.assert_array_equal(stream(loader, 48, 6), stream(loader, 0, 12)[48:])


def test_epochs_of_rows(packed):
    loader = Loader(packed, np.arange(10), 8, seed=0, rank=1, world_size=2)
    assert loader.epochs(0).tolist() == [0, 0, 0, 0]
    assert loader.epochs(8).tolist() == [1, 1, 1, 1]
    assert Loader(packed, np.arange(10), 8).epochs(8).tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_batches_hold_the_rows_they_name(packed, samples):
    batch = take(Loader(packed, np.arange(45), 8, seed=1).batches(), 1)[0]
    np.testing.assert_array_equal(batch.images, samples.images[batch.index])
    np.testing.assert_array_equal(batch.taxon, samples.taxa[batch.index])


def test_exception_of_the_thread_reaches_the_caller(packed):
    loader = Loader(packed, np.arange(40, 60), 4, seed=0, prefetch=2)  # rows beyond the set
    batches = loader.batches()
    with pytest.raises(DataError, match="asked for, the set has 45"):
        list(batches)
    assert threads() == 0


def threads():
    return sum(thread.name == "geotreeclip-loader" for thread in threading.enumerate())


def test_closing_or_dropping_the_iterator_ends_the_thread(packed):
    batches = Loader(packed, np.arange(45), 4, prefetch=2).batches()
    next(batches)
    assert threads() == 1
    batches.close()
    assert threads() == 0
    batches = Loader(packed, np.arange(45), 4, prefetch=2).batches()
    next(batches)
    time.sleep(0.05)  # the thread now waits for room
    del batches
    gc.collect()
    assert threads() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 6, "world_size": 4}, "multiple of the 4 processes"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2"),
        ({"batch_size": 4, "seed": -1}, "seed -1"),
    ],
)
def test_wrong_arguments(packed, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Loader(packed, np.arange(45), **arguments)


def test_empty_split_and_offset_between_batches(packed):
    with pytest.raises(ConfigError, match="at least one sample"):
        Loader(packed, [], 4)
    with pytest.raises(ConfigError, match="no multiple of the global batch"):
        Loader(packed, np.arange(45), 4).batches(6)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_sequential_reads_all_in_order(packed, prefetch):
    rows = np.array([5, 3, 44, 0, 7])
    found = list(sequential(packed, rows, 2, prefetch=prefetch))
    assert [len(batch.index) for batch in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([batch.index for batch in found]), rows)
    assert list(sequential(packed, [], 2, prefetch=prefetch)) == []
