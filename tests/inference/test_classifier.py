"""The classifier: answers that do not depend on batch mates, sorted tables, ranks, embeddings, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from forest_places import SPECIES, N, all_probabilities, row

from geotreeclip.errors import InputError
from geotreeclip.inference import Classifier
from geotreeclip.inputs.common import InputWarning
from geotreeclip.models.directory import load_model
from geotreeclip.schema import BANDS


def test_answers_do_not_depend_on_batch_mates_or_batch_size(model, places):
    together = all_probabilities(model, places)
    np.testing.assert_allclose(all_probabilities(model, places, batch_size=4), together, atol=1e-5)
    for index in range(N):
        np.testing.assert_allclose(all_probabilities(model, row(places, index))[0], together[index], atol=1e-5)


def test_missing_values_of_one_sample_change_no_other(model, places):
    before, before_embedding = all_probabilities(model, places), model.embed(**places)
    places["images"][0] = np.nan
    places["environment"]["bio01"][0] = np.nan
    after, after_embedding = all_probabilities(model, places), model.embed(**places)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-6)
    np.testing.assert_allclose(after_embedding[1:], before_embedding[1:], atol=1e-6)
    assert np.abs(after[0] - before[0]).max() > 1e-4


def test_the_inputs_matter(model, places):
    """Guards the tests above against a model that ignores what it is given."""
    whole = model.embed(**places)
    for name in ("images", "environment", "longitude"):
        rest = {key: value for key, value in places.items() if key != name and not (name == key == "latitude")}
        if name == "longitude":
            rest.pop("latitude")
        assert np.abs(model.embed(**rest) - whole).max() > 1e-3, name


def test_band_order_and_months_do_not_matter(model, places):
    order = np.random.default_rng(2).permutation(len(BANDS))
    whole = all_probabilities(model, places)
    shuffled = {**places, "images": places["images"][:, :, order]}
    np.testing.assert_array_equal(all_probabilities(model, shuffled, bands=[BANDS[i] for i in order]), whole)
    masked = places["images"].copy()
    masked[:, [0, 1, 2, 3, 4, 10, 11]] = np.nan
    some = {**places, "images": places["images"][:, [9, 5, 6, 7, 8]]}
    np.testing.assert_array_equal(
        all_probabilities(model, some, months=[10, 6, 7, 8, 9]),
        all_probabilities(model, {**places, "images": masked}),
    )


def test_reflectance_and_offset_do_not_matter(model, places):
    whole = all_probabilities(model, places)
    reflectance = {**places, "images": places["images"] / 10_000 + 0.1}
    np.testing.assert_allclose(all_probabilities(model, reflectance, offset=1000), whole, atol=1e-5)


def test_predictions_are_a_sorted_table(model, places):
    result = model.classify(**places, top_k=3, sample_ids=list("abcdef"))
    frame = result.to_pandas()
    columns = ["sample", "rank", "label", "genus", "family", "probability", "valid_months", "leaf_type"]
    assert list(frame.columns)[: len(columns)] == columns
    assert frame["sample"].tolist() == [name for name in "abcdef" for _ in range(3)]
    assert (frame.groupby("sample")["probability"].apply(lambda p: p.is_monotonic_decreasing)).all()
    assert set(frame["rank"]) == {"species"}
    assert frame.groupby("sample")["valid_months"].first().tolist() == [12, 9, 12, 12, 12, 12]
    assert [tuple(row) for row in result] == list(frame[columns].itertuples(index=False, name=None))
    assert [best.label for best in result.best()] == frame["label"].tolist()[::3]
    assert len(result) == 18
    assert result[-1] == list(result)[-1]
    assert "6 places, top 3 of 8 labels" in repr(result)
    assert frame["label"][0] in repr(result)


def test_ties_and_more_answers_than_labels(model, places):
    frame = model.classify(**row(places, 0), top_k=99).to_pandas()
    assert sorted(frame["label"]) == sorted(SPECIES)
    assert frame["probability"].sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("rank", "count"), [("genus", 6), ("family", 3), ("leaf_type", 4)])
def test_roll_up_sums_to_one_and_over_its_members(model, places, rank, count):
    species = model.classify(**places, top_k=None).to_pandas()
    rolled = model.classify(**places, rank=rank, top_k=None).to_pandas()
    assert set(rolled["rank"]) == {rank}
    assert rolled.groupby("sample").size().tolist() == [count] * N
    np.testing.assert_allclose(rolled.groupby("sample")["probability"].sum(), 1, atol=1e-5)
    expected = species.groupby(["sample", rank])["probability"].sum()
    np.testing.assert_allclose(rolled.set_index(["sample", "label"])["probability"].sort_index(), expected, atol=1e-6)


def test_rolled_up_labels_keep_what_their_members_share(model, places):
    frame = model.classify(**places, rank="genus", top_k=None).to_pandas().set_index("label")
    assert set(frame.loc["Quercus", "family"]) == {"Fagaceae"}
    assert set(frame.loc["Quercus", "leaf_type"]) == {""}  # deciduous and evergreen oaks
    assert set(frame.loc["Fagus", "leaf_type"]) == {"Deciduous Broadleaf"}


def test_embeddings_are_unit_length_or_raw(model, places):
    unit, raw = model.embed(**places), model.embed(**places, normalize=False)
    assert unit.shape == (N, 32)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-6)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 1e-3
    unit, raw = model.embed_labels(["Quercus", "Larix decidua"]), model.embed_labels(["Quercus"], normalize=False)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(raw[0] / np.linalg.norm(raw[0]), unit[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "order"}, "rank must be one of species, genus"),
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"sample_ids": ["a"]}, "1 identifiers for 6 places"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1, got 2.5"),
        ({"top_k": True}, "top_k must be a whole number from 1, or None for all, got True"),
    ],
)
def test_wrong_arguments_are_refused(model, places, options, message):
    with pytest.raises(InputError, match=message):
        model.classify(**places, **options)


def test_messages_name_samples_by_their_identifier(model, places):
    places["latitude"][2] = 95
    with pytest.raises(InputError, match="sample plot-2: latitude is 95"):
        model.classify(**places, sample_ids=[f"plot-{index}" for index in range(N)])


def test_a_model_that_reads_something_else_says_so(tiny_model_dir, places):
    loaded = load_model(tiny_model_dir)
    observation = loaded.config.observation
    narrow = type(observation)(inputs=("image", "climate"), width=observation.width, heads=observation.heads)
    config = type(loaded.config)(name="x", embed_dim=32, observation=narrow, text=loaded.config.text)
    model = Classifier(loaded._replace(config=config), "cpu")
    with pytest.raises(InputError, match="sample 0 has nothing that this model reads, which is image, climate"):
        model.embed(longitude=1.0, latitude=2.0)
    with pytest.warns(InputWarning, match="terrain, location given but not used"):
        model.embed(**places)
