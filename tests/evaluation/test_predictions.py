"""Predictions: ranks and ties by hand, truths that are no candidates, joining, the file."""

from itertools import permutations

import numpy as np
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.prediction_files import read_predictions, write_predictions
from geotreeclip.evaluation.predictions import Context, concatenate, from_log_prob
from geotreeclip.evaluation.ranking import rank_labels
from geotreeclip.taxonomy import Taxon

OAK = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur")
HOLM = Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex")
BEECH = Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica")
PINE = Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo")
CORK = Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus suber")
CANDIDATES = [OAK, HOLM, BEECH, PINE]


def log(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float64))


def test_hits_by_hand():
    p = from_log_prob(
        log([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]]), CANDIDATES, [OAK, BEECH, PINE], "abc"
    )
    assert p.better.tolist() == [0, 2, 3]
    assert p.hits(1).tolist() == [1, 0, 0]
    assert p.hits(3).tolist() == [1, 1, 0]
    np.testing.assert_allclose(np.exp(p.log_prob), [0.4, 0.2, 0.1], rtol=1e-6)
    assert p.top[0].tolist() == [0, 1, 2, 3]


def test_ties_count_with_the_expected_outcome_of_a_fair_draw():
    rows = [[0.25, 0.25, 0.25, 0.25], [0.5, 0.2, 0.2, 0.1], [0.5, 0.2, 0.2, 0.1], [0.2, 0.3, 0.3, 0.2]]
    p = from_log_prob(log(rows), CANDIDATES, [PINE, HOLM, BEECH, OAK], "abcd")
    np.testing.assert_allclose(p.hits(1), [0.25, 0, 0, 0])
    np.testing.assert_allclose(p.hits(2), [0.5, 0.5, 0.5, 0])
    np.testing.assert_allclose(p.hits(3), [0.75, 1, 1, 0.5])
    assert p.tied.tolist() == [4, 2, 2, 2]


def test_ties_equal_the_mean_over_every_order_of_the_equals():
    """Brute force: of all orders of the candidates that the scores allow, how many have the truth among the first k."""
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 3, (30, 4)).astype(float)
    truth = rng.integers(0, 4, 30)
    p = from_log_prob(scores, CANDIDATES, truth, [f"s{i}" for i in range(30)])
    for row in range(30):
        orders = [o for o in permutations(range(4)) if (np.diff(scores[row, list(o)]) <= 0).all()]
        for k in (1, 2, 3, 4):
            share = np.mean([truth[row] in order[:k] for order in orders])
            assert p.hits(k)[row] == pytest.approx(share)


def test_constant_classifier_scores_chance_in_expectation_and_in_the_stored_list():
    size = 4000
    p = from_log_prob(np.zeros((size, 4)), CANDIDATES, np.zeros(size, dtype=int), [f"s{i}" for i in range(size)])
    np.testing.assert_allclose(p.hits(1), 0.25)
    share = np.bincount(p.top[:, 0], minlength=4) / size
    np.testing.assert_allclose(share, 0.25, atol=0.03)  # no label is favoured by its place in the list
    assert p.read_off("genus", 1).mean() == pytest.approx(0.5, abs=0.03)


def test_top_labels_do_not_depend_on_batches_and_are_right_at_a_tied_edge():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (50, 40)).astype(float)
    ids = [f"s{i}" for i in range(50)]
    top, values = rank_labels(scores, ids, 10)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1)[:, :10])
    np.testing.assert_array_equal(np.take_along_axis(scores, top, axis=1), values)
    assert all(len(set(row)) == 10 for row in top.tolist())
    again = np.concatenate([rank_labels(scores[i : i + 7], ids[i : i + 7], 10)[0] for i in range(0, 50, 7)])
    np.testing.assert_array_equal(top, again)


def test_truth_that_is_no_candidate_is_wrong_for_the_species_but_may_be_right_for_the_genus():
    p = from_log_prob(log([[0.7, 0.1, 0.1, 0.1], [0.0, 0.1, 0.1, 0.8]]), CANDIDATES, [CORK, CORK], "ab")
    assert p.hits(4).tolist() == [0, 0]
    assert np.isneginf(p.log_prob).all()
    assert p.classes[p.truth[0]] == CORK
    assert p.candidates == 4
    assert p.read_off("genus", 1).tolist() == [1, 0]
    assert p.read_off("family", 2).tolist() == [1, 1]


def test_published_protocol_reads_ranks_off_the_ranked_species():
    p = from_log_prob(log([[0.3, 0.3001, 0.0999, 0.3]]), CANDIDATES, [OAK], "a")
    assert p.hits(1)[0] == 0
    assert p.read_off("genus", 1)[0] == 1  # Quercus ilex shares the genus
    assert p.read_off("leaf_type", 1)[0] == 0  # but not the leaf type
    assert p.read_off("leaf_type", 4)[0] == 1


def test_an_unstated_name_is_never_right():
    nameless = Taxon("Evergreen Broadleaf", "", "", "Sapling")
    p = from_log_prob(log([[0.9, 0.1]]), [nameless, OAK], [nameless], "a")
    assert p.hits(1)[0] == 1
    assert p.read_off("genus", 1)[0] == 0


def test_truth_above_species_is_found_by_name():
    groups = [Taxon("", "Fagaceae", "Quercus"), Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus")]
    p = from_log_prob(log([[0.6, 0.4]] * 3), groups, [HOLM, BEECH, PINE], "abc", rank="genus")
    assert p.hits(1).tolist() == [1, 0, 0]
    assert p.truth_is_candidate.tolist() == [True, True, False]


def test_refuses_what_cannot_be_scored():
    with pytest.raises(InputError, match=r"'b'.*NaN"):
        from_log_prob(np.array([[0.0], [np.nan]]), [OAK], [OAK, OAK], "ab")
    with pytest.raises(InputError, match="shape"):
        from_log_prob(np.zeros((2, 3)), CANDIDATES, [OAK, OAK], "ab")
    with pytest.raises(DataError, match="'a' occurs more than once"):
        from_log_prob(np.zeros((2, 4)), CANDIDATES, [OAK, OAK], "aa")
    with pytest.raises(InputError, match="outside"):
        from_log_prob(np.zeros((1, 4)), CANDIDATES, np.array([4]), "a")


def example(ids, seed=0, candidates=CANDIDATES, **context):
    rng = np.random.default_rng(seed)
    n = len(ids)
    truth = [(*CANDIDATES, CORK)[i] for i in rng.integers(0, 5, n)]
    return from_log_prob(
        np.log(rng.dirichlet(np.ones(len(candidates)), n)), candidates, truth, list(ids),
        context=Context(set="toy", **context), block=rng.integers(0, 3, n), rarity=rng.choice(["rare", ""], n),
        longitude=rng.uniform(-180, 180, n), latitude=rng.uniform(-60, 60, n),
    )  # fmt: skip


def same(one, two):
    assert one.context == two.context
    assert one.classes == two.classes
    for name in ("sample_id", "truth", "top", "top_log_prob", "log_prob", "better", "tied", "block", "rarity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def test_file_keeps_everything(tmp_path):
    first = example("abcdef")
    first = first.with_context(system="one", prior="uniform", fold=2, seed=7)
    second = example("gh", seed=1, candidates=CANDIDATES[:2]).with_context(system="two")
    path = write_predictions(tmp_path / "deep" / "predictions.parquet", [first, second])
    for before, after in zip((first, second), read_predictions(path), strict=True):
        same(before, after)
        np.testing.assert_array_equal(before.longitude, after.longitude)
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.parquet"]


def test_file_reads_as_a_plain_table(tmp_path):
    import pandas as pd

    p = from_log_prob(log([[0.1, 0.2, 0.6, 0.1]] * 2), CANDIDATES, [OAK, CORK], "ab")
    frame = pd.read_parquet(write_predictions(tmp_path / "p.parquet", p))
    assert frame["label"].tolist() == [OAK.prompt(), CORK.prompt()]
    assert frame["predicted"].tolist() == [BEECH.prompt()] * 2
    assert frame["rank_of_truth"].iloc[0] == 3
    assert pd.isna(frame["rank_of_truth"].iloc[1])


def test_file_of_something_else_is_refused(tmp_path):
    import pandas as pd

    path = tmp_path / "other.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(DataError, match="none of predictions"):
        read_predictions(path)
    with pytest.raises(DataError, match="absent"):
        read_predictions(tmp_path / "absent.parquet")


def test_joined_batches_equal_the_whole():
    rng = np.random.default_rng(3)
    scores = np.log(rng.dirichlet(np.ones(4), 10))
    truth = [(*CANDIDATES, CORK)[i] for i in rng.integers(0, 5, 10)]
    ids = [f"s{i}" for i in range(10)]
    whole = from_log_prob(scores, CANDIDATES, truth, ids)
    parts = [from_log_prob(scores[i : i + 4], CANDIDATES, truth[i : i + 4], ids[i : i + 4]) for i in (0, 4, 8)]
    joined = concatenate(parts)
    assert len(joined) == 10
    for k in (1, 2, 5):
        np.testing.assert_array_equal(joined.hits(k), whole.hits(k))
        np.testing.assert_array_equal(joined.read_off("genus", k), whole.read_off("genus", k))
    with pytest.raises(DataError, match="more than once"):
        concatenate([parts[0], parts[0]])


def test_joined_folds_with_other_candidates_keep_their_labels():
    one = from_log_prob(log([[0.9, 0.1]]), [OAK, HOLM], [OAK], "a")
    two = from_log_prob(log([[0.9, 0.1]]), [PINE, OAK], [OAK], "b")
    joined = concatenate([one, two])
    assert [joined.classes[i] for i in joined.top[:, 0]] == [OAK, PINE]
    assert joined.hits(1).tolist() == [1, 0]
