"""Heads against closed forms and scikit-learn; choices that know the support alone."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.few_shot.heads import (
    Fit,
    anchored_path,
    balanced_log_loss,
    combine,
    fit_path,
    inner_folds,
    lda_path,
    log_softmax,
    logistic_path,
    prototype_path,
)
from geotreeclip.evaluation.few_shot.methods import MEMBERS, METHODS, Table, fit_method
from geotreeclip.models.head import LinearHead

LABELS = np.repeat(np.arange(3), 8)
ALL = np.arange(3)


def features(seed=0, size=24, width=6, distance=2.0):
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(3, width)) * distance
    mixing = rng.normal(size=(width, width))
    return centre[np.arange(size) * 3 // size] + rng.normal(size=(size, width)) @ mixing


@pytest.mark.parametrize("shrinkage", [0.9, 0.5, 0.1])
def test_lda_is_that_of_scikit_learn(shrinkage):
    x = features()
    mean = np.stack([x[label == LABELS].mean(axis=0) for label in ALL])
    scale = np.sqrt(np.square(x - mean[LABELS]).sum(axis=0) / (len(x) - 3))
    # scikit-learn shrinks towards a multiple of the identity: divided by their deviations, features agree with it
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[1 / 3] * 3).fit(x / scale, LABELS)
    ours = dict(lda_path(x, LABELS, ALL))[f"shrinkage {shrinkage:g}"]
    new = features(1, 50)
    # its covariance has the divisor N, ours N - L; scores of the discriminants differ by that factor
    expected = theirs.decision_function(new / scale) * (len(x) - 3) / len(x)
    found = ours.logits(new)
    assert np.allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-8)


def test_lda_needs_no_more_samples_than_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 200))
    x[:, 0] += LABELS
    within = x - np.stack([x[k == LABELS].mean(axis=0) for k in ALL])[LABELS]
    scale = np.sqrt(np.square(within).sum(axis=0) / 21)
    covariance = 0.5 * (within / scale).T @ (within / scale) / 21 + 0.5 * np.eye(200)
    mean = np.stack([x[k == LABELS].mean(axis=0) for k in ALL]) / scale
    weight = np.linalg.solve(covariance, (mean - x.mean(axis=0) / scale).T).T / scale
    head = dict(lda_path(x, LABELS, ALL))["shrinkage 0.5"]
    assert np.allclose(head.weight, weight)


def test_one_sample_a_label_is_the_nearest_in_units_of_the_deviation():
    x = features()[[0, 8, 16]]
    fit = fit_path(lda_path, x, ALL, 3, None)
    assert "one shot" in fit.setting
    assert np.isnan(fit.loss)
    new = features(1)
    distance = np.square((new[:, None] - x) / x.std(axis=0)).sum(axis=2)
    assert np.array_equal(fit.head.logits(new).argmax(axis=1), distance.argmin(axis=1))


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_logistic_is_that_of_scikit_learn(penalty):
    x = features(distance=0.5)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    # C is the inverse of the penalty on the sum of losses; ours is on their mean
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10_000).fit(standard, LABELS)
    ours = dict(logistic_path(x, LABELS, ALL))[f"penalty {penalty:g}"]
    assert np.allclose(log_softmax(ours.logits(x)), theirs.predict_log_proba(standard), atol=2e-3)


def test_prototypes_are_cosines():
    x = features()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    mean = np.stack([x[label == LABELS].mean(axis=0) for label in ALL])
    expected = x @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
    assert np.allclose(prototype_path(x, LABELS, ALL)[0][1].logits(x), expected)


def test_a_head_held_to_its_text_starts_and_stays_there():
    x = features()
    anchor = LinearHead(np.random.default_rng(3).normal(size=(3, 6)), np.array([1.0, 0.0, -1.0]), np.zeros(6))
    path = list(anchored_path(anchor)(x, LABELS, ALL))
    assert path[0][0] == "text alone"
    assert np.array_equal(path[0][1].weight, anchor.weight)
    assert np.array_equal(path[0][1].bias, anchor.bias)
    moved = [float(np.linalg.norm(head.weight - anchor.weight)) for _, head in path[1:]]
    assert moved == sorted(moved)  # the weaker the penalty, the farther
    losses = [balanced_log_loss(head.logits(x), LABELS) for _, head in path]
    assert losses == sorted(losses, reverse=True)


def test_inner_folds_keep_groups_whole_and_hold_out_every_sample():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 4, 300), rng.integers(0, 80, 300)
    folds = inner_folds(labels, groups)
    assert len(np.unique(folds.few)) == 5
    for fold in (folds.few, folds.many):
        assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))
    small = inner_folds(LABELS)
    assert np.array_equal(small.many, np.arange(24))  # left out one by one
    assert inner_folds(ALL) is None


def test_a_label_of_a_single_sample_does_not_stop_the_choice():
    x, labels = features()[:17], LABELS[:17]
    fit = fit_path(lda_path, x, labels, 3, inner_folds(labels).few)
    assert fit.scored.sum() == 16
    assert not fit.scored[16]
    assert np.isfinite(fit.loss)


def test_a_label_without_samples_is_named():
    with pytest.raises(InputError, match="label 2 of 4"):
        fit_path(lda_path, features(), np.where(LABELS == 2, 3, LABELS), 4, None)


def test_held_out_scores_are_of_heads_that_had_not_seen_the_sample():
    def one(x, labels, present):
        return [lda_path(x, labels, present)[4]]

    x = features()
    fold = inner_folds(LABELS).few
    fit = fit_path(one, x, LABELS, 3, fold)
    held = fold == 0
    factor = fit.held_out[held] / one(x[~held], LABELS[~held], ALL)[0][1].logits(x[held])
    assert np.allclose(factor, factor.flat[0])
    assert np.allclose(fit.head.weight, one(x, LABELS, ALL)[0][1].weight * factor.flat[0])


def test_settings_are_averaged_by_how_well_they_did():
    x = features()
    good = lda_path(x, LABELS, ALL)[4][1]
    bad = LinearHead(-good.weight, -good.bias, good.fill)

    def path(*_):
        return [("bad", bad), ("good", good), ("twin", good)]

    fit = fit_path(path, x, LABELS, 3, inner_folds(LABELS).few)
    assert fit.setting == "good (0.50), twin (0.50)"
    ratio = fit.head.weight / good.weight
    assert np.allclose(ratio, ratio.flat[0])


def test_combined_heads_are_one_linear_head():
    x = features()
    columns = (np.arange(3), np.arange(2, 6))
    folds = inner_folds(LABELS)
    fits = []
    for part in columns:
        fit = fit_path(lda_path, x[:, part], LABELS, 3, folds.many)
        fits.append(Fit(fit.head.placed(part, 6), fit.setting, fit.loss, fit.held_out, fit.scored))
    both = combine(fits, ["a", "b"], LABELS)
    weight = np.array([float(part.split()[0]) for part in both.setting.split("; ")])
    assert weight.sum() == pytest.approx(1, abs=0.011)
    mixed = sum(fit.head.logits(x) * w for fit, w in zip(fits, weight, strict=True))
    assert np.array_equal(both.head.logits(x).argmax(axis=1), mixed.argmax(axis=1))
    assert both.loss <= max(fit.loss for fit in fits) + 1e-9


def test_missing_features_are_filled_with_the_mean_of_the_support():
    x = features()
    holes = x.copy()
    holes[0, 2] = np.nan
    head = dict(lda_path(holes, LABELS, ALL))["shrinkage 0.5"]
    assert head.fill[2] == pytest.approx(np.nanmean(holes[:, 2]))
    query = features(1)[:1]
    hidden = query.copy()
    hidden[0, 2] = np.nan
    query[0, 2] = head.fill[2]
    assert np.allclose(head.logits(hidden), head.logits(query))


def table(seed=0, size=60):
    rng = np.random.default_rng(seed)
    label = np.arange(size) % 3
    wide = {"embedding": 8, "tokens": 5, "levels": 4, "inputs": 7, "environment": 3}
    values = {name: rng.normal(size=(size, width)) + label[:, None] * 0.7 for name, width in wide.items()}
    values["embedding"] /= np.linalg.norm(values["embedding"], axis=1, keepdims=True)
    values["environment"][:] = np.nan
    return Table(values), label


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_query_reaches_the_head(method):
    given, label = table()
    support = np.arange(24)
    anchor = LinearHead(np.random.default_rng(1).normal(size=(3, 8)), np.zeros(3), np.zeros(8))
    groups = np.arange(24) // 2
    head = fit_method(method, given, support, label[support], 3, anchor=anchor, groups=groups).head
    query = np.arange(24, 60)
    other = {name: part.copy() for name, part in given.values.items()}
    rng = np.random.default_rng(5)
    for part in other.values():
        part[query] = rng.normal(size=part[query].shape) * 100  # other query features, and with them other labels
    again = fit_method(method, Table(other), support, label[support], 3, anchor=anchor, groups=groups).head
    for name in ("weight", "bias", "fill"):
        assert np.array_equal(getattr(head, name), getattr(again, name))  # to the last bit


def test_combined_leaves_out_what_nobody_has_and_what_is_double():
    given, label = table()
    alike = dict(given.values)
    alike["inputs"] = alike["levels"]
    setting = fit_method("combined", Table(alike), np.arange(60), label, 3).setting
    assert len(setting.split("; ")) == len(MEMBERS) - 1


def test_combined_listens_to_the_text_where_it_is_right():
    given, label = table()
    rng = np.random.default_rng(2)
    direction = np.stack([given.values["embedding"][label == k].mean(axis=0) for k in ALL])
    anchor = LinearHead(20 * direction, np.zeros(3), np.zeros(8))
    noise = LinearHead(20 * rng.normal(size=(3, 8)), np.zeros(3), np.zeros(8))
    share = {}
    for name, told in (("right", anchor), ("wrong", noise)):
        setting = fit_method("combined", given, np.arange(12), label[:12], 3, anchor=told).setting
        share[name] = float(setting.split("; ")[-1].split()[0])
        assert " text (" in setting
    assert share["right"] > share["wrong"]


def test_an_unknown_method_lists_the_known():
    given, label = table()
    with pytest.raises(ConfigError, match="prototype"):
        fit_method("svm", given, np.arange(60), label, 3)


def test_the_head_names_what_it_reads():
    with pytest.raises(InputError, match="reads 2 features"):
        LinearHead(np.ones((3, 2)), np.zeros(3), np.zeros(2)).logits(np.ones((4, 5)))
