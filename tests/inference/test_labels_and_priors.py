"""Candidates of any kind, and how common they are taken to be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from forest_places import SPECIES, all_probabilities

from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import InputWarning
from geotreeclip.observation_builder import build_observations
from geotreeclip.taxonomy import Taxon


def test_priors_differ_by_the_log_prior_alone(model, places):
    batch = build_observations(**places)
    training = model.log_probabilities(batch)
    uniform = model.log_probabilities(batch, prior="uniform")
    counts = np.array([120, 60, 9, 300, 40, 150, 500, 3])
    log_prior = np.log((counts + 1) / (counts + 1).sum())
    difference = training - uniform - log_prior
    np.testing.assert_allclose(difference, difference[:, :1].repeat(8, axis=1), atol=1e-4)
    np.testing.assert_allclose(np.exp(training).sum(axis=1), 1, atol=1e-5)
    for table in (counts + 1.0, dict(zip(SPECIES, counts + 1.0, strict=True)), pd.Series(counts + 1.0, SPECIES)):
        np.testing.assert_allclose(model.log_probabilities(batch, prior=table), training, atol=1e-4)


def test_a_weight_of_zero_excludes(model, places):
    weights = dict.fromkeys(SPECIES, 1.0) | {"Picea abies": 0.0}
    frame = model.classify(**places, top_k=None, prior=weights).to_pandas()
    assert (frame.loc[frame["label"] == "Picea abies", "probability"] == 0).all()
    np.testing.assert_allclose(frame.groupby("sample")["probability"].sum(), 1, atol=1e-5)


def test_a_label_above_species_has_the_prior_of_its_members(model, places):
    batch, labels = build_observations(**places), ["Quercus", "Fagus sylvatica", "Abies alba"]
    with pytest.warns(InputWarning, match="never saw the genus Abies"):
        training = model.log_probabilities(batch, labels)
    uniform = model.log_probabilities(batch, labels, prior="uniform")
    ratio = (training - training[:, 1:2]) - (uniform - uniform[:, 1:2])
    np.testing.assert_allclose(ratio[0], np.log([192 / 301, 1, 1 / 301]), atol=1e-4)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"Quercus robur": 1.0}, "no weight for Quercus petraea"),
        ([1.0, 2.0], "shape"),
        ([-1.0] * 8, "negative"),
        ([0.0] * 8, "all 0"),
        ("unform", 'neither "training" nor "uniform"'),
    ],
)
def test_wrong_priors_are_refused(model, places, prior, message):
    with pytest.raises(InputError, match=message):
        model.classify(**places, prior=prior)


def test_a_restriction_renormalises(model, places):
    whole = all_probabilities(model, places)
    for labels in ("genus=Quercus", {"genus": "quercus"}, {"level2_genus": ["Quercus"]}, SPECIES[:3]):
        frame = model.classify(**places, labels=labels, top_k=None).to_pandas()
        found = frame.pivot(index="sample", columns="label", values="probability")[SPECIES[:3]]
        np.testing.assert_allclose(found, whole[:, :3] / whole[:, :3].sum(axis=1, keepdims=True), atol=1e-5)


def test_labels_never_seen_and_labels_of_mixed_rank(model, places):
    frame = model.classify(**places, labels=["Quercus pontica", "Betula", "Pinaceae"], top_k=None).to_pandas()
    assert set(zip(frame["label"], frame["rank"], frame["family"], strict=True)) == {
        ("Quercus pontica", "species", "Fagaceae"),
        ("Betula", "genus", "Betulaceae"),
        ("Pinaceae", "family", "Pinaceae"),
    }
    families = model.classify(**places, labels=["Quercus pontica", "Betula", "Pinaceae"], rank="family", top_k=None)
    assert {label.label for label in families} == {"Fagaceae", "Betulaceae", "Pinaceae"}


def test_all_forms_of_a_label_list_agree(model, places, tmp_path):
    names = SPECIES[2:5]
    expected = model.embed_labels(names)
    taxonomy = model.taxonomy.take([2, 3, 4])
    pd.DataFrame({"species": names}).to_csv(tmp_path / "species.csv", index=False)
    pd.DataFrame({"name": names}).to_csv(tmp_path / "names.tsv", index=False, sep="\t")
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    taxonomy.write(tmp_path / "taxa.parquet")
    paths = [tmp_path / name for name in ("species.csv", "names.tsv", "names.txt", "taxa.parquet")]
    for labels in (taxonomy, list(taxonomy), tuple(names), np.array(names), taxonomy.frame(), str(paths[0]), *paths):
        np.testing.assert_array_equal(model.embed_labels(labels), expected)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ("genus=Qercus", InputError, "knows no genus 'Qercus'; did you mean Quercus"),
        ("clade=Rosids", InputError, "'clade' is no rank"),
        ("genus=Quercus,family=Pinaceae", InputError, "meets all of"),
        ([], InputError, "list is empty"),
        (["Quercus robur", "Quercus robur"], InputError, "more than once"),
        (["Qercus"], InputError, "'Qercus' is no"),
        ("absent.csv", DataError, "absent.csv: no such file"),
        (pd.DataFrame({"a": [1], "b": [2]}), InputError, "no column of"),
    ],
)
def test_wrong_labels_are_refused(model, places, labels, error, message):
    with pytest.raises(error, match=message):
        model.classify(**places, labels=labels)


def test_taxon_lists_are_labels(model):
    label = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus alba")
    np.testing.assert_allclose(model.embed_labels([label]), model.embed_labels([label.prompt()]), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("label,weight\nQuercus robur,many\n", "row 1: weight of Quercus robur is 'many', not a number"),
        ("label,weight\nQuercus robur,1\nquercus robur,2\n", "'quercus robur' has several weights"),
        ("a,b\n1,2\n", "needs a column of names"),
        ("", "cannot be read as a table"),
    ],
)
def test_wrong_files_of_weights_are_refused(model, places, tmp_path, rows, message):
    (tmp_path / "prior.csv").write_text(rows)
    with pytest.raises((InputError, DataError), match=message):
        model.classify(**places, prior=tmp_path / "prior.csv")


def test_long_restrictions_that_differ_in_the_middle_are_different_lists(model):
    """Long arrays are written with dots in the middle, so their text is no key."""
    one, two = np.array(["Quercus"] * 4000), np.array(["Quercus"] * 4000)
    two[2000] = "Fagus"
    assert str(one) == str(two)
    assert len(model.embed_labels({"genus": one})) == 3
    assert len(model.embed_labels({"genus": two})) == 4
