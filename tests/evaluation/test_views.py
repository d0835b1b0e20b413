"""Views of a set: other samples and candidates from the same scores, equal to scoring them alone."""

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.collect import truth_of
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.scoring import evaluate
from geotreeclip.evaluation.selection import candidate_list, country_list
from geotreeclip.evaluation.views import (
    View,
    binomial,
    checklist,
    is_no_species,
    read_names,
    union_of,
    variants_of,
)
from geotreeclip.taxonomy import Taxon, Taxonomy

ROBUR = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur")
ILEX = Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex")
ARIA = Taxon("Deciduous Broadleaf", "Rosaceae", "Sorbus", "Sorbus aria")
ALBIZIA = Taxon("Deciduous Broadleaf", "Fabaceae", "Albizia", "Albizia sp")
CLOVER = Taxon("Deciduous Broadleaf", "Fabaceae", "Medicago", "Medicago lupulina")
TAXA = Taxonomy([ROBUR, ILEX, ARIA, ALBIZIA, CLOVER])
SIZE = 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    taxa = np.arange(SIZE) % 5
    environment = rng.normal(size=(SIZE, 27)).astype(np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(-10, 30, SIZE), rng.uniform(40, 60, SIZE)
    environment[:, 2] = taxa
    table = pd.DataFrame({"country": np.where(np.arange(SIZE) < 12, "DE", "FR")})
    out = tmp_path_factory.mktemp("views") / "set"
    with PackedWriter(out, TAXA, shard_samples=16, chunk_samples=8) as writer:
        writer.add(
            np.full((SIZE, 12, 10, 5, 5), 500, np.uint16),
            environment,
            taxa,
            [f"s{i}" for i in range(SIZE)],
            samples=table,
        )
    return PackedDataset(out)


class Scores:
    """Seeded scores for each label, the same whatever the list."""

    calls = 0

    def log_probabilities(self, batch, labels=None, prior="training", batch_size=1024):
        self.calls += 1
        logits = np.stack(
            [
                np.sin(7 * batch.environment[:, 3].numpy() + 3 * TAXA.index_of(taxon))
                + (batch.environment[:, 2].numpy() == TAXA.index_of(taxon))
                for taxon in labels
            ],
            axis=1,
        )
        return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def score(dataset, views=(), candidates=TAXA, indices=None, scorer=None):
    indices = np.arange(SIZE) if indices is None else indices
    truth = truth_of(dataset, indices, block_km=100)
    return evaluate(
        scorer or Scores(), dataset, indices, candidates, truth, context=Context(set="small", candidates="all"),
        views=views, priors=["training"], resamples=20, batch_size=7,
    )  # fmt: skip


def test_a_view_is_what_scoring_it_alone_gives(dataset):
    samples = dataset.taxa < 3
    view = View("cleaned", samples, np.array([2, 0, 1]), "three")
    scorer = Scores()
    both = score(dataset, [View("", np.ones(SIZE, dtype=bool), np.arange(5), "all"), view], scorer=scorer)
    assert scorer.calls == 5  # each sample once, for both views
    alone = score(dataset, candidates=Taxonomy([ARIA, ROBUR, ILEX]), indices=np.flatnonzero(samples))

    def top(result, name):
        return {
            (row["system"], row["protocol"], row["rank"], row["metric"], row["prior"]): (row["value"], row["n"])
            for row in result.rows
            if row["set"] == name
        }

    expected, found = top(alone, "small"), top(both, "small, cleaned")
    assert expected.keys() == found.keys()
    for key, (value, n) in expected.items():
        assert found[key][0] == pytest.approx(value, abs=1e-6), key
        assert found[key][1] == n
    assert {row["candidates"] for row in both.rows if row["set"] == "small, cleaned"} == {"three"}
    whole = top(score(dataset), "small")
    assert top(both, "small") == whole


def test_classes_that_are_no_species():
    assert [is_no_species(taxon) for taxon in TAXA] == [False, False, True, True, False]
    assert is_no_species(Taxon(species="Hymenaea"))
    assert is_no_species(Taxon(species="Asimina spec."))
    assert is_no_species(Taxon(genus="Pinus"))
    assert is_no_species(ROBUR, frozenset({"quercus robur"}))


def test_variants_stand_beside_the_original_where_they_differ(dataset):
    truth = [TAXA[row] for row in dataset.taxa.tolist()]
    whole = View("", np.ones(SIZE, dtype=bool), np.arange(5), "5 taxa")
    trees = frozenset({"quercus robur", "quercus ilex", "sorbus aria"})
    seen = frozenset({ROBUR, ARIA, ALBIZIA, CLOVER})
    found = {view.label: view for view in variants_of(whole, TAXA, truth, trees=trees, seen=seen)}
    assert list(found) == ["", "rank-cleaned", "trees", "unseen-species"]
    assert found["rank-cleaned"].candidates.tolist() == [0, 1, 4]
    assert found["rank-cleaned"].words == "5 taxa but 2"
    assert found["rank-cleaned"].samples.sum() == 18
    assert found["trees"].candidates.tolist() == [0, 1, 2]
    assert found["unseen-species"].samples.tolist() == [taxon == ILEX for taxon in truth]
    assert len(found["unseen-species"].candidates) == 5  # to be found among all
    clean = View("", dataset.taxa < 2, np.array([0, 1]), "2 taxa")
    assert [view.label for view in variants_of(clean, TAXA, truth)] == [""]
    for wanted, message in [("trees", "--trees TABLE"), ("shrubs", "choose from"), ("unseen-species", "it saw")]:
        with pytest.raises(ConfigError, match=message):
            variants_of(whole, TAXA, truth, wanted=[wanted])
    with pytest.raises(ConfigError, match="no sample or no candidate"):
        variants_of(whole, TAXA, truth, wanted=["trees"], trees=frozenset({"pinus nigra"}))


def test_union_keeps_each_taxon_once():
    union, places = union_of([[ROBUR, ILEX], [ARIA, ILEX]])
    assert list(union) == [ROBUR, ILEX, ARIA]
    assert [place.tolist() for place in places] == [[0, 1], [2, 1]]


def test_names_of_tables(tmp_path):
    assert binomial("Salix \u00d7 fragilis L.") == binomial("Salix x fragilis") == "salix fragilis"
    latin = tmp_path / "trees.csv"
    latin.write_bytes("Taxon name,Author\nQuercus robur,L.\nAbies alba,Mill\xe9r\n".encode("latin-1"))
    assert read_names(latin) == {"quercus robur", "abies alba"}
    pd.DataFrame({"a": ["x"], "b": ["y"]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError, match="no column of species names"):
        read_names(tmp_path / "other.csv")
    with pytest.raises(DataError, match="no such file"):
        read_names(tmp_path / "absent.csv")


def test_species_of_a_country(dataset, tmp_path):
    taxa, here, words = country_list(dataset, "de")
    assert here.sum() == 12
    assert set(taxa) == set(TAXA)
    path = tmp_path / "list.csv"
    path.write_text("country,species\nDE,Quercus robur\nDE,Quercus petraea\nFR,Sorbus aria\nDE,Abies alba\n")
    assert checklist(path, "FR") == ["Sorbus aria"]
    taxa, _, words = country_list(dataset, "DE", path)
    petraea = Taxon("", "", "Quercus", "Quercus petraea")  # the oaks of the set disagree in leaf type
    assert list(taxa) == [ROBUR, petraea, Taxon(genus="Abies", species="Abies alba")]
    assert words == "3 taxa of list.csv, DE"
    with pytest.raises(ConfigError, match="the set has DE, FR"):
        country_list(dataset, "PE")
    with pytest.raises(DataError, match="names no species of country PE"):
        checklist(path, "PE")


def test_candidates_of_the_model(dataset):
    known = Taxonomy([ROBUR, Taxon(genus="Abies", species="Abies alba")])
    assert candidate_list(dataset, "model", known) == (known, "2 taxa of the model")
    with pytest.raises(ConfigError, match="carries no list"):
        candidate_list(dataset, "model", Taxonomy([]))
