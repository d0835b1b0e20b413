"""Confusion among relatives, pairs, error matrices and class accuracies, by hand and by brute force."""

import numpy as np
import pytest

from geotreeclip.errors import InputError
from geotreeclip.evaluation.confusion import class_accuracy, confused_pairs, error_matrix, kinship, relatives
from geotreeclip.evaluation.predictions import from_log_prob
from geotreeclip.taxonomy import Taxon

OAK = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur")
HOLM = Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex")
BEECH = Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica")
BIRCH = Taxon("Deciduous Broadleaf", "Betulaceae", "Betula", "Betula pendula")
PINE = Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo")
BARE = Taxon("", "", "", "Nomen nudum")
TAXA = [OAK, HOLM, BEECH, BIRCH, PINE, BARE]


def predict(pairs, **columns):
    """Predictions whose first label of each (truth, predicted) pair is given."""
    scores = np.full((len(pairs), len(TAXA)), -5.0)
    for row, (_, said) in enumerate(pairs):
        scores[row, TAXA.index(said)] = -0.1
    return from_log_prob(scores, TAXA, [truth for truth, _ in pairs], [f"s{i}" for i in range(len(pairs))], **columns)


PAIRS = [(OAK, OAK), (OAK, HOLM), (OAK, BEECH), (OAK, BIRCH), (OAK, PINE), (BARE, OAK), (BARE, BARE), (HOLM, OAK)]


def test_steps_of_kinship_by_hand():
    assert kinship(predict(PAIRS)).tolist() == [0, 1, 2, 3, 4, 4, 0, 1]
    ladder = relatives(predict(PAIRS))
    assert [step.rank for step in ladder] == ["species", "genus", "family", "leaf_type", "none"]
    np.testing.assert_allclose([step.share.value for step in ladder], np.array([2, 2, 1, 1, 2]) / 8)
    np.testing.assert_allclose([step.of_errors.value for step in ladder[1:]], np.array([2, 1, 1, 2]) / 6)
    assert ladder[0].of_errors is None


def test_chance_is_that_of_a_wrong_candidate_drawn_at_random():
    rng = np.random.default_rng(0)
    pairs = [(TAXA[a], TAXA[b]) for a, b in rng.integers(0, 6, (3000, 2))]
    ladder = relatives(predict(pairs))
    for step in ladder[1:]:
        assert step.of_errors.value == pytest.approx(step.by_chance, abs=0.03), step.rank
    assert sum(step.by_chance for step in ladder[1:]) == pytest.approx(1)
    # Wrong answers for an oak: holm oak shares the genus, beech the family, birch the leaf type, pine and bare nothing
    np.testing.assert_allclose([step.by_chance for step in relatives(predict([(OAK, PINE)]))[1:]], [0.2, 0.2, 0.2, 0.4])


def test_all_right_has_no_errors_to_share_out():
    ladder = relatives(predict([(OAK, OAK)] * 6))
    assert ladder[0].share.value == 1
    assert all(step.of_errors is None for step in ladder)


def test_pairs_and_matrix():
    item = predict([*PAIRS, (OAK, HOLM)])
    assert confused_pairs(item)[0] == ("Quercus robur", "Quercus ilex", 2, 2 / 6)
    names, matrix = error_matrix(item, "family")
    assert names == ["Betulaceae", "Fagaceae", "Pinaceae"]
    assert matrix.sum() == 7  # a truth without a family cannot be tabled
    assert matrix[names.index("Pinaceae"), names.index("Fagaceae")] == 1  # rows are what was said
    assert np.trace(matrix) == matrix[1, 1] == 5
    with pytest.raises(InputError, match="unknown"):
        error_matrix(item, "order")


def test_class_accuracy_is_precision_and_recall():
    rng = np.random.default_rng(1)
    pairs = [(TAXA[a], TAXA[b]) for a, b in rng.integers(0, 5, (400, 2))]
    item = predict(pairs, block=np.arange(400) // 8)
    found = {row.name: row for row in class_accuracy(item, "genus")}
    said = np.array([b.genus for _, b in pairs])
    real = np.array([a.genus for a, _ in pairs])
    for name, row in found.items():
        both = ((said == name) & (real == name)).sum()
        assert row.users.value == pytest.approx(both / (said == name).sum())
        assert row.producers.value == pytest.approx(both / (real == name).sum())
        assert (row.truths, row.predicted) == ((real == name).sum(), (said == name).sum())
        assert row.users.low < row.users.value < row.users.high
    sizes = [row.truths for row in class_accuracy(item)]
    assert sizes == sorted(sizes, reverse=True)
