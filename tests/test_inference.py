"""The classifier: answers that do not depend on batch mates, priors, ranks, labels of any kind, cached embeddings."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import geotreeclip
from geotreeclip import inference
from geotreeclip.cache import keep_demo_model
from geotreeclip.errors import DataError, InputError
from geotreeclip.inference import Classifier, load
from geotreeclip.inputs.common import InputWarning
from geotreeclip.label_cache import LabelCache, label_key, read_embeddings, write_embeddings
from geotreeclip.model_sources import DEFAULT_MODEL
from geotreeclip.models.directory import load_model
from geotreeclip.observation_builder import build_observations
from geotreeclip.schema import BANDS
from geotreeclip.taxonomy import Taxon, Taxonomy

N = 6
SPECIES = [
    "Quercus robur",
    "Quercus petraea",
    "Quercus ilex",
    "Fagus sylvatica",
    "Betula pendula",
    "Pinus sylvestris",
    "Picea abies",
    "Larix decidua",
]


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory) -> Classifier:
    return Classifier(load_model(tiny_model_dir), "cpu", LabelCache(tmp_path_factory.mktemp("labels")))


@pytest.fixture
def places() -> dict:
    rng = np.random.default_rng(1)
    forest = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900])
    images = forest[:, None, None] * rng.uniform(0.3, 1.7, (N, 12, len(BANDS), 5, 5))
    images[1, 3:6] = np.nan
    images[2, :, :, 0] = np.nan
    return {
        "images": images,
        "longitude": rng.uniform(-20, 40, N),
        "latitude": rng.uniform(30, 60, N),
        "environment": {"bio01": rng.uniform(-5, 20, N), "elevation": rng.uniform(0, 2000, N), "aspect": [90.5] * N},
    }


def row(places: dict, index: int) -> dict:
    """One of the places alone."""
    return {
        **{name: places[name][index : index + 1] for name in ("images", "longitude", "latitude")},
        "environment": {name: values[index : index + 1] for name, values in places["environment"].items()},
    }


def all_probabilities(model: Classifier, places: dict, **options) -> np.ndarray:
    """[N, 8], species in the order of the taxonomy."""
    frame = model.classify(**places, top_k=None, **options).to_pandas()
    return frame.pivot(index="sample", columns="label", values="probability")[SPECIES].to_numpy()


@pytest.fixture(autouse=True)
def _no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        yield


# -- one place and many -----------------------------------------------------------------------------------------------


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


# -- the answers ------------------------------------------------------------------------------------------------------


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


# -- priors -----------------------------------------------------------------------------------------------------------


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


# -- labels -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "order"}, "rank must be one of species, genus"),
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"sample_ids": ["a"]}, "1 identifiers for 6 places"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_refused(model, places, options, message):
    with pytest.raises(InputError, match=message):
        model.classify(**places, **options)


def test_messages_name_samples_by_their_identifier(model, places):
    places["latitude"][2] = 95
    with pytest.raises(InputError, match="sample plot-2: latitude is 95"):
        model.classify(**places, sample_ids=[f"plot-{index}" for index in range(N)])


# -- embeddings and their cache ---------------------------------------------------------------------------------------


def test_embeddings_are_unit_length_or_raw(model, places):
    unit, raw = model.embed(**places), model.embed(**places, normalize=False)
    assert unit.shape == (N, 32)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-6)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 1e-3
    unit, raw = model.embed_labels(["Quercus", "Larix decidua"]), model.embed_labels(["Quercus"], normalize=False)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(raw[0] / np.linalg.norm(raw[0]), unit[0], atol=1e-5)


def count_encoding(monkeypatch, model: Classifier) -> list[int]:
    """Lengths of the lists that the text tower is asked to encode."""
    asked: list[int] = []
    encode = model._labels.encode

    def encode_and_count(labels: Taxonomy, **options):
        asked.append(len(labels))
        return encode(labels, **options)

    monkeypatch.setattr(model._labels, "encode", encode_and_count)
    return asked


def test_a_label_list_is_encoded_once_and_found_on_disk(tiny_model_dir, tmp_path, places, monkeypatch):
    cache = LabelCache(tmp_path)
    first = Classifier(load_model(tiny_model_dir), "cpu", cache)
    asked = count_encoding(monkeypatch, first)
    labels = ["Quercus robur", "Betula"]
    expected = first.embed_labels(labels)
    first.classify(**places, labels=labels)
    assert asked == [2]
    assert len(list(tmp_path.iterdir())) == 1

    second = Classifier(load_model(tiny_model_dir), "cpu", cache)
    asked = count_encoding(monkeypatch, second)
    np.testing.assert_array_equal(second.embed_labels(labels), expected)
    assert asked == []
    second.embed_labels(labels[::-1])  # another order is another list
    assert asked == [2]


def test_other_weights_prompts_or_lengths_have_other_keys():
    prompts = ["Fagaceae / Quercus", "Pinaceae"]
    keys = {
        label_key("a", prompts, 32),
        label_key("b", prompts, 32),
        label_key("a", prompts[::-1], 32),
        label_key("a", ["Fagaceae / Quercus Pinaceae"], 32),
        label_key("a", prompts, 31),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("damage", ["truncated", "other shape", "not finite"])
def test_a_damaged_cache_is_reported_and_mended(tiny_model_dir, tmp_path, damage):
    cache = LabelCache(tmp_path)
    labels = ["Quercus robur", "Betula"]
    expected = Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        wrong = torch.full((2, 32), torch.nan) if damage == "not finite" else torch.zeros(2, 3)
        write_embeddings(path, wrong, path.stem)
    with pytest.warns(UserWarning, match=path.name):
        again = Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    np.testing.assert_array_equal(again, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(load_model(tiny_model_dir), "cpu", cache).embed_labels(labels)
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_does_not_stop_work(tiny_model_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = Classifier(load_model(tiny_model_dir), "cpu", LabelCache(tmp_path / "file" / "labels"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert model.embed_labels(["Betula"]).shape == (1, 32)


def test_embeddings_of_the_model_directory_are_used_only_if_they_match(tiny_model_dir, tmp_path, monkeypatch):
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    loaded = load_model(directory)
    key = label_key(loaded.fingerprint, loaded.taxonomy.prompts(), loaded.model.text_encoder.context_length)
    planted = torch.nn.functional.normalize(torch.ones(8, 32), dim=1)
    path = directory / "label_embeddings.safetensors"
    write_embeddings(path, planted, key)
    assert read_embeddings(path, "another", (8, 32)) is None
    model = Classifier(loaded, "cpu", LabelCache(tmp_path / "empty"))
    np.testing.assert_array_equal(model.embed_labels(), planted)
    write_embeddings(path, planted, "of other weights")
    model = Classifier(load_model(directory), "cpu", LabelCache(tmp_path / "empty"))
    assert np.abs(model.embed_labels() - planted.numpy()).max() > 0.01


# -- loading ----------------------------------------------------------------------------------------------------------


def test_one_call_form_loads_once(tiny_model_dir, places, monkeypatch):
    loads: list[object] = []
    monkeypatch.setattr(inference, "load_model", lambda path: loads.append(path) or load_model(path))
    monkeypatch.setattr(inference, "_loaded", type(inference._loaded)())
    first = geotreeclip.classify(**places, model=tiny_model_dir, device="cpu").to_pandas()
    monkeypatch.setenv("GEOTREECLIP_MODEL", str(tiny_model_dir))
    second = geotreeclip.classify(**places, device="cpu").to_pandas()
    pd.testing.assert_frame_equal(first, second)
    assert len(loads) == 1


def test_load_by_path_demo_and_hub(tiny_model_dir, monkeypatch, tmp_path):
    assert load(tiny_model_dir, "cpu").taxonomy[0].species == "Quercus robur"
    monkeypatch.setenv("GEOTREECLIP_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="make demo"):
        load("demo")
    for _ in range(2):  # the second replaces the first
        assert keep_demo_model(tiny_model_dir) == tmp_path / "demo-model"
    assert [path.name for path in tmp_path.iterdir()] == ["demo-model"]
    assert len(load("demo", "cpu").taxonomy) == 8

    asked: list[tuple] = []

    def download(repository, revision=None, allow_patterns=None):
        asked.append((repository, revision, allow_patterns))
        return str(tiny_model_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert len(load("hf-hub:someone/trees@v1", "cpu").taxonomy) == 8
    load(None, "cpu")
    assert [entry[:2] for entry in asked] == [("someone/trees", "v1"), (DEFAULT_MODEL.removeprefix("hf-hub:"), None)]
    assert not any("py" in pattern or pattern == "*" for pattern in asked[0][2])


def test_no_model_is_one_line_that_names_the_ways_out(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("GEOTREECLIP_MODEL", DEFAULT_MODEL, "no network", 'model="demo"'):
        assert part in message
    monkeypatch.setenv("GEOTREECLIP_MODEL", "/nowhere/at/all")
    with pytest.raises(InputError, match=r"\$GEOTREECLIP_MODEL names '/nowhere/at/all': no model"):
        load()


def test_a_file_or_an_unknown_device_is_refused(tiny_model_dir):
    with pytest.raises(DataError, match=r"is a file; give the model directory"):
        load(tiny_model_dir / "model.safetensors")
    with pytest.raises(InputError, match="device 'gpu'"):
        load(tiny_model_dir, "gpu")


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


def test_taxon_lists_are_labels(model):
    label = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus alba")
    np.testing.assert_allclose(model.embed_labels([label]), model.embed_labels([label.prompt()]), atol=1e-6)
