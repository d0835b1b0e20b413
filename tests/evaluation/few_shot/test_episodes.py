"""Support and query: disjoint, apart, counted, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.few_shot.episodes import draw_episodes
from geotreeclip.taxonomy import Taxon


def world(seed=0, labels=5, samples=60, blocks=40):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, labels, samples * labels)
    return label, rng.integers(0, blocks, len(label)) * 7 - 3


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    labels=st.integers(2, 6),
    samples=st.integers(20, 60),
    blocks=st.integers(20, 300),
    support=st.sampled_from(["labels", "union-of-ranks"]),
)
def test_support_and_query_share_no_sample_and_no_block(seed, labels, samples, blocks, support):
    label, block = world(seed, labels, samples, blocks)
    taxa = [Taxon("", f"family {row // 4}", f"genus {row // 2}", f"species {row}") for row in range(labels)]
    try:
        drawn = draw_episodes(label, block, shots=(1, 3), seeds=(0, 7), min_query=5, support=support, taxa=taxa)
    except DataError:
        return
    assert len(drawn.episodes) == 4
    for episode in drawn.episodes:
        assert not np.intersect1d(episode.support, episode.query).size
        assert not np.intersect1d(block[episode.support], block[episode.query]).size
        assert np.isin(label[episode.query], drawn.labels).all()
        count = np.bincount(label[episode.support], minlength=labels)[drawn.labels]
        assert (count == episode.shots).all() if support == "labels" else (count >= episode.shots).all()
        assert (np.bincount(label[episode.query], minlength=labels)[drawn.labels] >= 5).all()
        left_out = sum(map(len, drawn.excluded.values()))
        assert left_out + len(drawn.labels) == len(np.unique(label))
        most = max((e for e in drawn.episodes if e.seed == episode.seed), key=lambda e: e.shots)
        inside = np.isin(label, drawn.labels).sum()
        if support == "labels":
            assert inside == len(episode.query) + len(most.support) + drawn.withheld[episode.seed]
        assert drawn.rows_excluded == len(label) - inside


def test_fewer_shots_are_the_first_of_more_and_ask_the_same_query():
    label, block = world()
    drawn = draw_episodes(label, block, shots=(1, 3, 5), seeds=(4,))
    one, three, five = drawn.episodes
    assert set(one.support) < set(three.support) < set(five.support)
    assert np.array_equal(one.query, five.query)


def test_the_seed_decides_and_other_labels_do_not():
    label, block = world()
    first, again = (draw_episodes(label, block, shots=(3,), seeds=(1, 2)) for _ in range(2))
    for one, two in zip(first.episodes, again.episodes, strict=True):
        assert np.array_equal(one.support, two.support)
        assert np.array_equal(one.query, two.query)
    assert not np.array_equal(first.episodes[0].support, first.episodes[1].support)
    keep = label != 0
    fewer = draw_episodes(label[keep], block[keep], shots=(3,), seeds=(1,))
    kept = np.flatnonzero(keep)
    whole = first.episodes[0].support
    assert np.array_equal(kept[fewer.episodes[0].support], whole[label[whole] != 0])


def test_exclusions_are_counted_by_reason():
    label = np.repeat([0, 1, 2, 3], [30, 30, 12, 30])
    block = np.arange(len(label))
    block[label == 3] = 500  # all in one block: support there leaves no query
    drawn = draw_episodes(label, block, shots=(1, 5), seeds=(0, 1, 2), min_query=10)
    assert drawn.labels.tolist() == [0, 1]
    assert drawn.excluded == {"have fewer than 15 samples": [2], "lie in too few blocks": [3]}
    assert drawn.rows_excluded == 42
    assert "2 excluded with 42 of 102 samples" in drawn.words()


def test_support_comes_from_as_many_blocks_as_there_are():
    label = np.repeat([0, 1], 100)
    block = np.tile(np.arange(20), 10)
    block[label == 1] += 100
    support = draw_episodes(label, block, shots=(10,), seeds=(0,)).episodes[0].support
    assert len(np.unique(block[support])) == 20


def test_union_of_ranks_adds_samples_of_genus_and_family():
    label = np.repeat(np.arange(4), 200)
    block = np.arange(800) // 10
    taxa = [Taxon("", "F", "G" if row < 2 else "H", f"s{row}") for row in range(4)]
    plain, union = (
        draw_episodes(label, block, shots=(3,), seeds=(0,), support=support, taxa=taxa).episodes[0]
        for support in ("labels", "union-of-ranks")
    )
    assert set(plain.support) < set(union.support)
    assert len(union.support) <= 4 * 3 + 2 * 3 + 3
    assert np.array_equal(plain.query, union.query)


@pytest.mark.parametrize("wrong", [{"shots": ()}, {"shots": (0,)}, {"seeds": (1, 1)}, {"support": "all"}])
def test_impossible_draws_are_refused(wrong):
    label, block = world()
    with pytest.raises(ConfigError):
        draw_episodes(label, block, **wrong)


def test_too_few_labels_say_what_to_do():
    with pytest.raises(DataError, match="smaller blocks"):
        draw_episodes(np.repeat([0, 1], 20), np.zeros(40), shots=(1,), seeds=(0,))
