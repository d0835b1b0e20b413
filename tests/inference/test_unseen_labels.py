"""Labels that training never saw among those that it saw: on one scale, and never louder than what is known."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from geotreeclip.candidates import seen_in_training
from geotreeclip.inference import Classifier
from geotreeclip.inference.exporting import PROGRAM, PlaceInputs, example_inputs
from geotreeclip.inputs.common import InputWarning
from geotreeclip.models.directory import load_model
from geotreeclip.models.place_centres import PlaceCentres
from geotreeclip.taxonomy import Taxon, Taxonomy
from geotreeclip.unseen_labels import RELATIVES, TEXT, LabelFacts, UnseenLabels

UNSEEN = (
    Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus cerris"),  # three relatives
    Taxon("Deciduous Broadleaf", "Ulmaceae", "Zelkova", "Zelkova serrata"),  # none
    Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus pinea"),  # one
)


@pytest.fixture(autouse=True)
def _warned_of_strangers(_no_unexpected_warning):
    warnings.simplefilter("ignore", InputWarning)


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    """The small model, its places about its labels."""
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    known = Classifier(load_model(path)).embed_labels()
    PlaceCentres.fit(functional.normalize(torch.from_numpy(known).repeat(100, 1) + unit(800, 32), dim=-1)).write(path)
    return path


def mixed(taxonomy):
    """Seen labels in another order, with unseen ones between."""
    return Taxonomy([UNSEEN[0], *list(taxonomy)[::-1], *UNSEEN[1:]])


@pytest.mark.parametrize("carried", [True, False])
def test_formula(model_dir, carried):
    loaded = load_model(model_dir)
    loaded = loaded._replace(training={**loaded.training, "prior": "training" if carried else "uniform"})
    classifier, batch = Classifier(loaded), example_inputs(6, 12).batch()
    labels = mixed(loaded.taxonomy)
    found = classifier.log_probabilities(batch, labels, "training" if carried else "uniform").astype(np.float64)

    scale = float(loaded.model.logit_scale.detach())
    places = classifier.embed_batch(batch).astype(np.float64)
    texts, known = (classifier.embed_labels(part).astype(np.float64) for part in (labels, None))
    centres, share = (part.double().numpy() for part in loaded.places)

    def mass(label):
        return np.log((share * np.exp(scale * centres @ label)).sum())

    log_p = np.log((loaded.counts + 1) / (loaded.counts.sum() + len(known))) * carried
    ordered = np.sort([mass(label) - prior for label, prior in zip(known, log_p, strict=True)])
    constant = ordered[(len(ordered) - 1) // 2]  # torch takes the lower of two medians
    expected = np.empty((len(places), len(labels)))
    for column, (taxon, text) in enumerate(zip(labels, texts, strict=True)):
        score = scale * places @ text
        if taxon in UNSEEN:
            kin = [row for row, other in enumerate(loaded.taxonomy) if other.genus == taxon.genus]
            ratios = [np.exp(scale * places @ known[row] - constant - log_p[row]) for row in kin]
            relatives = np.mean(ratios, axis=0) if kin else 1.0
            ratio = TEXT * np.exp(score - mass(text)) + RELATIVES * relatives + 1 - TEXT - RELATIVES
            score = constant - carried * np.log(loaded.counts.sum() + len(known)) + np.log(ratio)
        expected[:, column] = score
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_seen_labels_keep_their_proportions(model_dir):
    classifier = Classifier(load_model(model_dir))
    batch = example_inputs(5, 12).batch()
    alone, labels = classifier.log_probabilities(batch), mixed(classifier.taxonomy)
    beside = classifier.log_probabilities(batch, labels)[:, [labels.index_of(taxon) for taxon in classifier.taxonomy]]
    np.testing.assert_allclose(beside - beside[:, :1], alone - alone[:, :1], atol=1e-4)


def test_text_above_all_others_does_not_win(model_dir):
    """The failure that this is for: a text near to every place, which training never pushed away."""
    loaded = load_model(model_dir)
    seen = Classifier(loaded).embed_labels()
    hub = functional.normalize(torch.from_numpy(seen).mean(dim=0, keepdim=True), dim=-1)
    counts, known = loaded.counts, torch.from_numpy(seen)
    log_prior = np.log((counts + 1) / (counts.sum() + len(counts)))
    unseen = UnseenLabels.of(
        LabelFacts([UNSEEN[1]], hub, log_prior.min(keepdims=True), np.array([False])),
        LabelFacts(loaded.taxonomy, known, log_prior, counts > 0), loaded.places, torch.tensor(20.0), carried=True,
    )  # fmt: skip
    places = functional.normalize(known.repeat(50, 1) + unit(400, 32, seed=5), dim=-1)
    score = unseen(places, 20.0 * places @ hub.T)
    ratio = (score - unseen.base).exp()
    assert ratio.min() > 1 - TEXT - 1e-6  # it cannot say that a place is impossible
    assert ratio.mean() < 2  # nor that most places are its own


def test_taxon_that_training_counted_no_samples_of(model_dir):
    loaded = load_model(model_dir)
    counts = loaded.counts.copy()
    counts[2] = 0
    batch = example_inputs(5, 12).batch()
    told = Classifier(loaded._replace(counts=counts)).log_probabilities(batch)
    plain = Classifier(loaded._replace(counts=counts, places=None)).log_probabilities(batch)
    others = [row for row in range(len(counts)) if row != 2]
    np.testing.assert_allclose(told[:, others] - told[:, :1], plain[:, others] - plain[:, :1], atol=1e-4)
    assert np.abs((told - told[:, :1])[:, 2] - (plain - plain[:, :1])[:, 2]).min() > 1e-3


def test_coarser_label_of_seen_taxa_is_seen(model_dir):
    loaded = load_model(model_dir)
    labels = Taxonomy(
        [Taxon("", "", "Quercus", ""), Taxon("", "", "Zelkova", ""), Taxon("", "Pinaceae", "", ""), *loaded.taxonomy]
    )
    seen = seen_in_training(labels, loaded.taxonomy, loaded.counts)
    assert seen.tolist() == [True, False, True, *[True] * 8]


def test_batch_mates_do_not_matter(model_dir):
    classifier, batch = Classifier(load_model(model_dir)), example_inputs(5, 12).batch()
    labels = mixed(classifier.taxonomy)
    together = classifier.log_probabilities(batch, labels)
    alone = [classifier.log_probabilities(batch.select(slice(row, row + 1)), labels)[0] for row in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_uniform_prior_adds_what_the_training_prior_had_not(model_dir):
    classifier, batch = Classifier(load_model(model_dir)), example_inputs(5, 12).batch()
    labels = mixed(classifier.taxonomy)
    training, uniform = (classifier.log_probabilities(batch, labels, prior) for prior in ("training", "uniform"))
    shift = (uniform - training) - (uniform - training)[:, :1]
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-4)
    rows = [labels.index_of(taxon) for taxon in UNSEEN]
    np.testing.assert_allclose(shift[0, rows], 0, atol=1e-5)  # all three had one sample's worth


def test_model_without_centres_compares_texts(tiny_model_dir):
    loaded = load_model(tiny_model_dir)
    classifier, batch = Classifier(loaded), example_inputs(3, 12).batch()
    labels = mixed(loaded.taxonomy)
    scores = (
        float(loaded.model.logit_scale.detach()) * classifier.embed_batch(batch) @ classifier.embed_labels(labels).T
    )
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(classifier.log_probabilities(batch, labels), expected, atol=1e-4)


def test_exported_program_knows_them_too(model_dir, tmp_path):
    classifier = Classifier(load_model(model_dir), "cpu")
    labels = mixed(classifier.taxonomy)
    exported = classifier.export(tmp_path / "program", labels=labels)
    assert exported.difference < 1e-3
    program = torch.export.load(exported.directory / PROGRAM).module()
    inputs = PlaceInputs(*(value[:4] for value in example_inputs(5, 12, seed=3)))
    found = program(*inputs)[1].numpy()
    np.testing.assert_allclose(found, classifier.log_probabilities(inputs.batch(), labels), atol=1e-3)
