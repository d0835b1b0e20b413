"""Zero-shot scoring with fake classifiers on small packed sets: nothing lost, nothing flattered."""

import json

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.collect import Collector, Truth, batch_size_for, truth_of
from geotreeclip.evaluation.inputs import INPUT_SETS, distinct_inputs, mask_inputs
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.scoring import evaluate, majority
from geotreeclip.evaluation.selection import candidate_list, select, trained_on
from geotreeclip.evaluation.zero_shot import model_directory
from geotreeclip.schema import GROUPS, VARIABLE_INDEX
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = Taxonomy(
    [
        Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
        Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex"),
        Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica"),
        Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo"),
        Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus nigra"),
    ]
)
SIZE = 53  # not a multiple of any batch size below


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small set whose elevation is the row of the taxon and whose first band tells it too."""
    rng = np.random.default_rng(0)
    taxa = rng.integers(0, 4, SIZE)  # Pinus nigra is in the taxonomy, never in the set
    environment = rng.normal(size=(SIZE, 27)).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-10, 30, SIZE), rng.uniform(40, 60, SIZE)
    environment[:, VARIABLE_INDEX["elevation"]] = taxa
    images = np.full((SIZE, 12, 10, 5, 5), 500, dtype=np.uint16)
    images[:, 0, 0] = taxa[:, None, None]
    out = tmp_path_factory.mktemp("zero") / "small"
    with PackedWriter(out, TAXA, shard_samples=16, chunk_samples=8) as writer:
        writer.add(images, environment, taxa, [f"s{i}" for i in range(SIZE)])
    return PackedDataset(out)


class Fake:
    """Reads the taxon off a column: sure of it, or of nothing where the column is masked."""

    def __init__(self, confidence=0.9, shift=0):
        self.confidence, self.shift = confidence, shift
        self.batches = []

    def log_probabilities(self, batch, labels=None, prior="training", batch_size=1024):
        self.batches.append(batch.size)
        column = VARIABLE_INDEX["elevation"]
        seen = batch.environment_valid[:, column].numpy()
        row = (batch.environment[:, column].numpy().astype(int) + self.shift) % len(TAXA)
        names = [TAXA[i] for i in row]
        rest = (1 - self.confidence) / (len(labels) - 1)
        prob = np.full((batch.size, len(labels)), rest)
        for sample, taxon in enumerate(names):
            index = labels.index_of(taxon)
            if index is not None:
                prob[sample, index] = self.confidence
        prob[~seen] = 1
        return np.log(prob / prob.sum(axis=1, keepdims=True)).astype(np.float32)


def run(dataset, classifier, candidates=None, **changes):
    indices = np.arange(SIZE)
    candidates = candidates or candidate_list(dataset)[0]
    truth = truth_of(dataset, indices, block_km=100)
    options = {"context": Context(set="small"), "resamples": 50, "batch_size": 10, **changes}
    return evaluate(classifier, dataset, indices, candidates, truth, **options)


def value(rows, metric="top1", **wanted):
    wanted = {"system": "geotreeclip", "inputs": "all", "prior": "uniform", "rank": "species", "group": "all", **wanted}
    found = [row for row in rows if row["metric"] == metric and all(row[k] == v for k, v in wanted.items())]
    assert len({row["value"] for row in found}) == 1
    return found[0]["value"]


def test_every_sample_is_counted_the_last_partial_batch_included(dataset):
    fake = Fake()
    result = run(dataset, fake, priors=["uniform"])
    assert fake.batches == [10, 10, 10, 10, 10, 3]
    assert {row["n"] for row in result.rows if row["group"] == "all"} == {SIZE}
    for part in result.predictions:
        assert part.sample_id.tolist() == [f"s{i}" for i in range(SIZE)]


def test_uniform_prior_from_the_scores_under_the_training_prior(dataset):
    prior = np.array([0.7, 0.1, 0.1, 0.1])

    class Trained(Fake):
        def log_probabilities(self, batch, labels=None, prior="training", batch_size=1024):
            assert prior == "training"
            return np.log(np.tile([0.4, 0.3, 0.2, 0.1], (batch.size, 1)))

    result = run(dataset, Trained(), label_prior=prior)
    uniform = np.array([0.4, 0.3, 0.2, 0.1]) / prior
    first, trained = (part for part in result.predictions if part.rank == "species" and part.context.inputs == "all")
    assert (first.context.prior, trained.context.prior) == ("uniform", "training")
    np.testing.assert_allclose(np.exp(first.top_log_prob[0]), np.sort(uniform / uniform.sum())[::-1], rtol=1e-5)
    np.testing.assert_allclose(np.exp(trained.top_log_prob[0]), [0.4, 0.3, 0.2, 0.1], rtol=1e-5)


def test_losing_a_batch_is_an_error(dataset):
    truth = truth_of(dataset, np.arange(SIZE), block_km=100)
    collector = Collector(TAXA, truth, Context())
    collector.add(np.zeros((50, 5)))
    with pytest.raises(InputError, match="50 samples were scored, 53 were to be"):
        collector.finish()


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_scores_do_not_depend_on_the_batch_size(dataset, batch_size):
    rows = run(dataset, Fake(0.4)).rows
    assert run(dataset, Fake(0.4), batch_size=batch_size).rows == rows


def test_perfect_wrong_and_blind_classifiers(dataset):
    perfect = run(dataset, Fake(), inputs=["all", "image"]).rows
    for rank in ("species", "genus", "family", "leaf_type"):
        for protocol in ("published", "rolled-up"):
            assert value(perfect, rank=rank, protocol=protocol) == 1
    blind = value(perfect, inputs="image", protocol="rolled-up")  # says the same of all four candidates
    assert blind == pytest.approx(1 / 4)
    assert value(run(dataset, Fake(shift=2)).rows) < 0.5
    one_off = run(dataset, Fake(0.999, shift=1), candidates=TAXA).rows  # robur for ilex, mugo for nigra, ...
    assert value(one_off) == 0
    same_genus = np.mean(np.isin(dataset.taxa, (0, 3)))
    assert value(one_off, rank="genus", protocol="published") == pytest.approx(same_genus)


def test_summed_genus_differs_from_the_read_off_one(dataset):
    class Spread(Fake):
        def log_probabilities(self, batch, labels=None, prior="training", batch_size=1024):
            prob = np.tile([0.3, 0.3, 0.4, 1e-9], (batch.size, 1))
            return np.log(prob)

    rows = run(dataset, Spread()).rows
    oaks, beeches = np.mean(np.isin(dataset.taxa, (0, 1))), np.mean(dataset.taxa == 2)
    assert value(rows, rank="genus", protocol="rolled-up") == pytest.approx(oaks)
    assert value(rows, rank="genus", protocol="published") == pytest.approx(beeches)
    assert value(rows, rank="family", protocol="rolled-up") == pytest.approx(oaks + beeches)


def test_truths_outside_the_candidates_count_as_wrong(dataset):
    rows = run(dataset, Fake(), candidates=TAXA.take([0, 2])).rows
    inside = np.mean(np.isin(dataset.taxa, (0, 2)))
    assert value(rows) == pytest.approx(inside)
    assert value(rows, "truth_not_candidate", protocol="published") == pytest.approx(1 - inside)
    assert all(row["n"] == SIZE for row in rows if row["group"] == "all" and row["metric"] != "log_loss")


def test_uniform_prior_comes_first_and_majority_is_there(dataset):
    counts = dict(zip(TAXA, (1, 500, 2, 3, 9000), strict=True))
    rows = run(dataset, Fake(), counts=counts).rows
    assert list(dict.fromkeys((row["system"], row["prior"]) for row in rows)) == [
        ("geotreeclip", "uniform"), ("geotreeclip", "training"), ("majority", "set"), ("majority", "training"),
    ]  # fmt: skip
    share = np.bincount(dataset.taxa) / SIZE
    assert value(rows, system="majority", inputs="none", prior="set") == pytest.approx(share.max())
    assert value(rows, system="majority", inputs="none", prior="training") == pytest.approx(share[1])
    genera = np.bincount([0, 0, 1, 2][:4], weights=share)
    assert value(rows, system="majority", inputs="none", prior="set", rank="genus", protocol="rolled-up") == (
        pytest.approx(genera.max())
    )


def test_majority_without_any_known_taxon_is_left_out():
    truth = Truth(np.array(["a"]), [TAXA[4]])
    assert majority(TAXA.take([0, 1]), truth, Context()) == []


def test_labels_table_by_species_name_alone(dataset, tmp_path):
    path = tmp_path / "labels.csv"
    pd.DataFrame({"species": ["Quercus robur", "Pinus mugo", "Abies alba"]}).to_csv(path, index=False)
    candidates, words = candidate_list(dataset, path)
    assert list(candidates) == [TAXA[0], TAXA[3], Taxon(genus="Abies", species="Abies alba")]
    assert words == "3 taxa of labels.csv"


def test_genera_as_candidates(dataset):
    class Genus(Fake):
        def log_probabilities(self, batch, labels=None, prior="training", batch_size=1024):
            row = batch.environment[:, VARIABLE_INDEX["elevation"]].numpy().astype(int)
            names = [taxon.genus for taxon in labels]
            prob = np.full((batch.size, len(labels)), 0.01)
            prob[np.arange(batch.size), [names.index(TAXA[i].genus) for i in row]] = 0.98
            return np.log(prob)

    genera = Taxonomy(
        [Taxon("", "Fagaceae", "Quercus"), Taxon("", "Fagaceae", "Fagus"), Taxon("", "Pinaceae", "Pinus")]
    )
    rows = run(dataset, Genus(), candidates=genera).rows
    assert {row["rank"] for row in rows} == {"genus", "family"}
    assert value(rows, rank="genus", protocol="published") == 1


def test_rarity_by_training_counts_or_as_the_set_states_it(dataset):
    counts = dict(zip(TAXA, (0, 50, 200, 2000, 0), strict=True))
    truth = truth_of(dataset, np.arange(SIZE), block_km=100, counts=counts)
    names = np.array(["unseen", "rare", "common", "frequent"])
    np.testing.assert_array_equal(truth.rarity, names[dataset.taxa])


def test_samples_without_coordinates_are_blocks_of_their_own(tmp_path):
    environment = np.full((6, 27), np.nan, dtype=np.float32)
    environment[:4, :2] = [[10, 50], [10.1, 50.1], [-80, 10], [-80, 10.1]]
    with PackedWriter(tmp_path / "set", TAXA, has_images=False) as writer:
        writer.add(None, environment, np.zeros(6, dtype=int), list("abcdef"))
    block = truth_of(PackedDataset(tmp_path / "set"), np.arange(6), block_km=100).block
    assert len(set(block[:4].tolist())) <= 3
    assert len({*block.tolist()} - {*block[:4].tolist()}) == 2


def test_default_split_is_used_alone_and_folds_must_be_chosen(dataset):
    assert len(select(dataset).indices) == SIZE
    folder = dataset.directory / "splits"
    folder.mkdir()
    try:
        ids = [f"s{i}" for i in range(SIZE)]
        role = np.where(np.arange(SIZE) < 20, "test", "train")
        pd.DataFrame({"sample_id": ids, "fold": 0, "role": role}).to_parquet(folder / "default.parquet")
        chosen = select(dataset)
        assert chosen.indices.tolist() == list(range(20))
        assert (chosen.split, chosen.fold) == ("default", 0)
        assert "default" in chosen.words
        training = {"data_fingerprint": dataset.fingerprint(), "split": "default", "fold": 0}
        assert trained_on(training, dataset, chosen.indices) == 0
        assert trained_on(training, dataset, np.arange(15, 25)) == 5
        assert trained_on({**training, "split": ""}, dataset, chosen.indices) == 20
        assert trained_on({**training, "data_fingerprint": "other"}, dataset, np.arange(SIZE)) == 0
        both = pd.concat([pd.DataFrame({"sample_id": ids, "fold": fold, "role": role}) for fold in (0, 1)])
        both.to_parquet(folder / "blocks.parquet")
        assert select(dataset).split == "default"
        assert select(dataset, trained=("blocks", 1)).fold == 1
        assert "trained" in select(dataset, trained=("blocks", 1)).words
        with pytest.raises(ConfigError, match="folds 0, 1"):
            select(dataset, "blocks")
        assert select(dataset, "blocks", 1).fold == 1
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_masked_inputs(dataset):
    from geotreeclip.observations import from_packed

    batch = from_packed(dataset.read(np.arange(3)))
    image = mask_inputs(batch, "image")
    assert not image.environment_valid.any()
    assert not image.environment.any()
    assert image.image_valid.all()
    environment = mask_inputs(batch, "environment")
    assert not environment.image_valid.any()
    assert environment.environment_valid.all()
    here = mask_inputs(batch, "no-location")
    assert not here.environment_valid[:, list(GROUPS["location"])].any()
    assert here.environment_valid[:, 2:].all()
    assert batch.environment_valid.all()  # the original is as it was
    assert batch.image_valid.all()


def test_input_sets_that_differ():
    everything = ("image", "terrain", "soil", "climate", "location")
    assert distinct_inputs(everything, has_images=True) == list(INPUT_SETS)
    assert distinct_inputs(everything, has_images=False) == ["all", "no-location"]
    assert distinct_inputs(("image", "climate"), has_images=True) == ["all", "image", "environment"]
    assert distinct_inputs(("image",), has_images=True) == ["all"]


def test_batches_shrink_with_the_candidate_list():
    assert batch_size_for(60) == 1024
    assert 21_001 * batch_size_for(21_001) <= 8_000_000
    assert batch_size_for(10**9) == 1


def test_run_or_model_directory(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text(json.dumps({}))
    assert model_directory(str(tmp_path / "run")) == str(tmp_path / "run" / "model")
    assert model_directory(str(tmp_path / "run" / "model")) == str(tmp_path / "run" / "model")
    assert model_directory("hf-hub:owner/name") == "hf-hub:owner/name"
