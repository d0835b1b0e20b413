"""Answers people can use: calibration, back-off, unknown, ranges, sets, explanation, candidates by country."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geotreeclip.checklists import checklist
from geotreeclip.errors import DataError, InputError
from geotreeclip.inference import load
from geotreeclip.models.calibration import Calibration, ConformalThreshold, write_calibration
from geotreeclip.models.directory import load_model
from geotreeclip.observation_builder import build_observations
from geotreeclip.predictions import Predictions
from geotreeclip.ranges import training_ranges
from geotreeclip.schema import BANDS, VARIABLES

N = 6
FOREST = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900])


def places(seed: int = 1) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "images": FOREST[:, None, None] * rng.uniform(0.3, 1.7, (N, 12, len(BANDS), 5, 5)),
        "longitude": rng.uniform(0, 20, N),
        "latitude": rng.uniform(40, 55, N),
        "environment": {f"bio{number:02d}": rng.uniform(5, 20, N) for number in range(1, 20)},
    }


@pytest.fixture(scope="module")
def directory(tiny_model_dir, tmp_path_factory):
    """The tiny model with a calibration and with ranges: every taxon from 0 to 20 E, but the larch in America."""
    directory = tmp_path_factory.mktemp("answers") / "model"
    shutil.copytree(tiny_model_dir, directory)
    loaded = load_model(directory)
    thresholds = tuple(
        ConformalThreshold(rank, 0.9, float(np.log(floor)), "block", "lac", 500)
        for rank, floor in (("species", 0.1), ("genus", 0.9999))
    )
    write_calibration(directory, Calibration(2.0, 0.25, loaded.fingerprint, conformal=thresholds))
    rng = np.random.default_rng(0)
    taxon = np.repeat(np.arange(8), 100)
    where = np.stack([rng.uniform(0, 20, 800) - 100 * (taxon == 7), rng.uniform(40, 55, 800)], axis=1)
    environment = rng.uniform(5, 20, (800, len(VARIABLES))).astype(np.float32)
    training_ranges(loaded.taxonomy, taxon, where, lambda rows: environment[rows]).write(directory)
    return directory


@pytest.fixture(scope="module")
def model(directory):
    return load(directory, "cpu")


def test_calibration_is_applied_by_formula_under_every_prior(model, directory):
    batch = build_observations(**places())
    raw = model.log_probabilities(batch)
    counts = np.array([120, 60, 9, 300, 40, 150, 500, 3]) + 1
    log_prior = np.log(counts / counts.sum())
    for prior, shift in (("training", 0), ("uniform", -log_prior)):
        expected = raw / 2 + 0.25 * log_prior + shift
        expected = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
        found = model.log_probabilities(batch, prior=prior, calibrated=True)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        frame = model.classify_batch(batch, prior=prior, top_k=1).to_pandas()
        assert frame["calibrated"].all()
        np.testing.assert_allclose(frame["probability"], np.exp(expected).max(axis=1), atol=1e-4)
    plain = model.classify_batch(batch, top_k=1, calibrated=False)
    assert not plain.calibrated
    np.testing.assert_allclose(plain.probability[:, 0], np.exp(raw).max(axis=1), atol=1e-5)


def test_weights_as_arrays_go_with_a_calibration_and_promise_no_sets(model):
    batch, weights = build_observations(**places()), np.arange(1.0, 9.0)
    species = [taxon.species for taxon in model.taxonomy]
    expected = model.classify_batch(batch, prior=dict(zip(species, weights, strict=True)))
    assert expected.calibrated
    for prior in (weights, weights.tolist(), pd.Series(weights, species)):
        found = model.classify_batch(batch, prior=prior)
        np.testing.assert_array_equal(found.probability, expected.probability)
        assert found.sets is None


def test_a_model_without_calibration_says_so(tiny_model_dir):
    bare = load(tiny_model_dir, "cpu")
    frame = bare.classify(**places()).to_pandas()
    assert not frame["calibrated"].any()
    assert frame["in_range"].isna().all()
    assert frame["set_90"].isna().all()
    assert frame["applicable"].isna().all()
    with pytest.raises(InputError, match="no calibration"):
        bare.classify(**places(), calibrated=True)
    with pytest.raises(InputError, match="does not know which taxa"):
        bare.known_in(0, 0, 10, 10)


def test_a_calibration_of_other_weights_is_refused(directory, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(directory, copy)
    write_calibration(copy, Calibration(2.0, model_fingerprint="0" * 64))
    with pytest.raises(DataError, match="fitted to weights 000000000000"):
        load(copy, "cpu")


def test_back_off_takes_the_finest_rank_that_passes(model):
    result = model.classify(**places(), top_k=None)
    by_rank = {
        rank: model.classify(**places(), rank=rank, top_k=1).to_pandas().set_index("sample") for rank in
        ("species", "genus", "family", "leaf_type")
    }  # fmt: skip
    for threshold in (0.2, 0.35, 0.5, 0.8, 1.0):
        frame = result.back_off(threshold)
        assert len(frame) == N
        for row in frame.itertuples():
            passing = [rank for rank, best in by_rank.items() if best.loc[row.sample, "probability"] >= threshold]
            if not passing:
                assert (row.back_off_rank, row.back_off_label) == ("", "")
                assert row.unknown.startswith(f"no rank reaches {threshold:g}")
                continue
            best = by_rank[passing[0]].loc[row.sample]
            assert (row.back_off_rank, row.back_off_label) == (passing[0], best["label"])
            assert row.back_off_probability == pytest.approx(best["probability"], abs=1e-6)
            expected = f"{passing[0].replace('_', ' ')} {best['label']}, {best['probability']:.2f}"
            assert row.statement.endswith(expected + ("" if passing[0] == "species" else "; species unsure"))
    with pytest.raises(InputError, match="threshold"):
        result.back_off(1.5)
    table = result.to_pandas(threshold=0.35)
    np.testing.assert_array_equal(table["back_off_label"][::8], result.back_off(0.35)["back_off_label"])


def test_back_off_begins_at_the_rank_asked_for(model):
    frame = model.classify(**places(), rank="family").back_off(0.01)
    assert set(frame["back_off_rank"]) == {"family"}
    assert not frame["statement"].str.contains("unsure").any()


def test_a_strange_climate_is_unknown_and_still_answered(model):
    odd = places()
    odd["environment"]["bio01"] = np.array([39.0, *odd["environment"]["bio01"][1:]])
    for number in range(2, 20):
        odd["environment"][f"bio{number:02d}"][0] = 29
    result = model.classify(**odd)
    frame = result.back_off(0.05)
    assert result.outside().tolist() == [True] + [False] * 5
    table = result.to_pandas().groupby("sample").first()
    assert table["applicable"].tolist() == [False] + [True] * 5
    assert table["dissimilarity"][0] > table["dissimilarity"][1:].max()
    assert frame["unknown"][0].startswith("climate unlike that of training (dissimilarity")
    assert frame["back_off_label"][0]
    assert frame["statement"][0].startswith("unknown: climate")
    assert (frame["unknown"][1:] == "").all()


def test_in_range_is_a_column_and_never_a_filter(model):
    frame = model.classify(**places(), top_k=None).to_pandas()
    assert len(frame) == N * 8
    larch = frame["label"] == "Larix decidua"
    assert (frame.loc[larch, "distance_km"] > 4000).all()
    assert not frame.loc[larch, "in_range"].any()
    assert frame.loc[~larch, "in_range"].mean() > 0.7
    assert (frame.loc[~larch, "distance_km"] < 400).all()


def test_sets_hold_what_passes_and_are_promised_only_where_they_hold(model):
    result = model.classify(**places(), top_k=None)
    for place, members in enumerate(result.set_labels()):
        row = dict(zip([result.taxa[i].species for i in result.index[place]], result.probability[place], strict=True))
        expected = [name for name, probability in row.items() if probability >= 0.1]
        assert members == (expected or [max(row, key=row.get)])
    assert all(len(members) == 1 for members in model.classify(**places(), rank="genus").set_labels())  # never empty
    assert model.classify(**places(), prior="uniform").sets is None
    assert model.classify(**places(), labels="genus=Quercus").sets is None
    assert model.classify(**places(), calibrated=False).sets is None
    assert model.classify(**places(), rank="family").sets is None  # no threshold was fitted


def test_answers_do_not_depend_on_slices(model):
    whole = model.classify(**places()).to_pandas()
    sliced = model.classify(**places(), batch_size=4).to_pandas()
    pd.testing.assert_frame_equal(sliced, whole, rtol=1e-4)
    assert isinstance(Predictions.join([model.classify(**places())] * 2), Predictions)


# -- candidates -------------------------------------------------------------------------------------------------------


def test_candidates_of_a_region_come_from_the_ranges(model):
    assert [taxon.species for taxon in model.known_in(-110, 35, -70, 60)] == ["Larix decidua"]
    frame = model.classify(**places(), labels=model.known_in(-10, 35, 30, 60), top_k=None).to_pandas()
    assert "Larix decidua" not in set(frame["label"])
    assert len(frame) == N * 7


def test_checklists_by_country_and_region(model, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("species,country,region\nQuercus robur,DE;FR,North\nQuercus ilex,FR,South\nPicea abies,NA,\n")
    assert checklist(path, "fr")["species"].tolist() == ["Quercus robur", "Quercus ilex"]
    assert checklist(path, "NA")["species"].tolist() == ["Picea abies"]  # Namibia is no missing value
    assert checklist(path, "FR", "south")["species"].tolist() == ["Quercus ilex"]
    frame = model.classify(**places(), labels=checklist(path, "FR")).to_pandas()
    assert set(frame["label"]) == {"Quercus robur", "Quercus ilex"}
    assert set(frame["family"]) == {"Fagaceae"}
    with pytest.raises(InputError, match="no row of country 'XX'; it has DE, FR, NA"):
        checklist(path, "XX")
    path.write_text("species\nQuercus robur\n")
    with pytest.raises(InputError, match="no column country"):
        checklist(path, "FR")
    with pytest.raises(DataError, match="no such file"):
        checklist(tmp_path / "absent.csv")


# -- explanation ------------------------------------------------------------------------------------------------------


def test_explanation_is_what_hiding_by_hand_gives(model):
    given = places()
    frame = model.explain(**given, sample_ids=list("abcdef")).set_index(["sample", "kind", "hidden"])
    best = model.classify(**given, top_k=1).to_pandas()
    assert frame.groupby("sample")["label"].first().tolist() == best["label"].tolist()
    given["images"] = given["images"].copy()
    given["images"][:, 6] = np.nan
    hidden = model.classify(**given, top_k=None).to_pandas().set_index(["sample", "label"])["probability"]
    for number, name in enumerate("abcdef"):
        row = frame.loc[(name, "month", "Jul")]
        assert row["probability_without"] == pytest.approx(hidden.loc[(number, best["label"][number])], abs=1e-5)
        assert row["change"] == pytest.approx(row["probability"] - row["probability_without"])


def test_explanation_has_every_part_that_is_there_and_no_other(model):
    given = places()
    given["images"][:, :3] = np.nan
    frame = model.explain(**given, label="Fagus sylvatica")
    assert set(frame["label"]) == {"Fagus sylvatica"}
    first = frame[frame["sample"] == 0]
    assert first.groupby("kind").size().to_dict() == {"band": 10, "group": 3, "month": 9, "variable": 19}
    assert first["log_odds"].is_monotonic_decreasing
    with pytest.raises(InputError, match="none of the 8 candidates"):
        model.explain(**given, label="Abies alba")


def test_what_is_all_that_a_place_has_is_not_hidden(model):
    assert len(model.explain(longitude=[10.0, 11], latitude=[50.0, 51])) == 0
    frame = model.explain(longitude=10, latitude=50, environment={"bio01": 9})
    assert set(frame["hidden"]) == {"location", "climate", "bio01"}


def test_an_explanation_that_a_planted_rule_is_found(model):
    """A score that depends on one band in one month alone is explained by them."""
    from geotreeclip.explanation import explain

    def score(batch):
        seen = batch.images[:, 6, 3].mean(dim=(1, 2)) > 0
        first = torch.where(seen, 0.9, 0.2)
        return torch.stack([first, 1 - first], dim=1).numpy()

    frame = explain(score, build_observations(**places()), ["a", "b"], ["image", "climate"], samples=range(N))
    assert set(frame.loc[frame["log_odds"] > 0.1, "hidden"]) == {"image", "Jul", "B8"}
    assert set(frame.loc[frame["log_odds"] > 0.1, "label_without"]) == {"b"}


def test_fields_default_to_what_is_not_known(model):
    bare = replace(model.classify(**places()), ranks=None, plausibility=None, dissimilarity=None, sets=None)
    assert bare.to_pandas()["in_range"].isna().all()
    assert not bare.outside().any()
    with pytest.raises(InputError, match="one rank only"):
        bare.back_off()
