"""`eval/few_shot.py` from end to end: scores on a packed set, and an adapted model through the public call."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import geotreeclip
from geotreeclip.data.packed import PackedWriter
from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.few_shot.adapt import adapt, save_adapted, text_anchor
from geotreeclip.evaluation.few_shot.heads import balanced_log_loss
from geotreeclip.evaluation.few_shot.tuning import TuneOptions, tune
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.report import read_report
from geotreeclip.models.directory import load_model
from geotreeclip.models.features import FEATURES, common_slots, read_features
from geotreeclip.models.head import HEAD_FILE, AdaptedHead
from geotreeclip.observation_builder import build_observations
from geotreeclip.schema import BANDS
from geotreeclip.taxonomy import Taxon, Taxonomy

SCRIPT = Path(__file__).parents[3] / "eval" / "few_shot.py"
SHARED = Path(__file__).parents[4] / "shared" / "data" / "sentinel2"
SIZE = 160


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def pictures(labels, seed=0, contrast=0.15):
    """Images [N, 12, 10, 5, 5] whose level in the red edge tells the label."""
    rng = np.random.default_rng(seed)
    images = rng.integers(800, 1200, (len(labels), 12, len(BANDS), 5, 5)).astype(np.float32)
    images[:, :, 3:8] *= (1 + contrast * np.asarray(labels))[:, None, None, None, None]
    return images


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny_model_dir):
    rng = np.random.default_rng(0)
    taxonomy = Taxonomy.read(tiny_model_dir / "taxonomy.parquet")
    taxon = np.arange(SIZE) % 4
    taxon[:3] = 5  # too few for any support
    environment = np.full((SIZE, 27), np.nan, np.float32)
    environment[:, 0], environment[:, 1] = rng.uniform(0, 3, SIZE), rng.uniform(45, 48, SIZE)
    out = tmp_path_factory.mktemp("few") / "set"
    with PackedWriter(out, taxonomy, shard_samples=64, chunk_samples=32) as writer:
        writer.add(pictures(taxon).astype(np.uint16), environment, taxon, [f"s{i}" for i in range(SIZE)])
    return out


def test_scores_predictions_and_resume(packed, tiny_model_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "report.json"
    methods = "zero-shot,location,prototype,text,lda,lda-inputs,combined"
    arguments = ["--model", tiny_model_dir, "--data", packed, "--out", out, "--shots", "1,3", "--seeds", "0,1",
                 "--methods", methods]  # fmt: skip
    assert call(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "1 excluded with 3 of 160 samples" in printed
    assert "2 draws only" in printed
    meta, rows = read_report(out)
    assert meta["excluded"] == {"have fewer than 13 samples": 1, "lie in too few blocks": 0}
    means = {(row["method"], row["shots"]): row for row in rows if row["metric"] == "macro_f1" and row["seed"] is None}
    assert set(means) == {(m, k) for m in methods.split(",")[1:] for k in (1, 3)} | {("zero-shot", 0)}
    assert means["lda-inputs", 3]["value"] > 0.9
    assert means["combined", 3]["value"] > 0.9
    single = [row["value"] for row in rows if row["metric"] == "top1" and row["seed"] is not None
              and row["method"] == "lda" and row["shots"] == 3 and row["rank"] == "species"]  # fmt: skip
    mean = next(row for row in rows if row["metric"] == "top1" and row["seed"] is None and row["method"] == "lda"
                and row["shots"] == 3 and row["rank"] == "species")  # fmt: skip
    assert mean["value"] == pytest.approx(np.mean(single))
    stored = read_predictions(tmp_path / "report.predictions.parquet")
    by_seed = {}
    for part in stored:
        by_seed.setdefault(part.context.seed, []).append(part.sample_id.tolist())
    assert all(len(set(map(tuple, ids))) == 1 for ids in by_seed.values())  # all methods on the same query
    cells = sorted((tmp_path / "report.cells").glob("*.parquet"))
    times = [path.stat().st_mtime_ns for path in cells]
    cells[0].unlink()
    assert call(monkeypatch, *arguments) == 0
    assert [path.stat().st_mtime_ns for path in cells][1:] == times[1:]  # the others were kept
    again = read_report(out)[1]
    assert [row["value"] for row in again] == [row["value"] for row in rows]
    capsys.readouterr()
    assert call(monkeypatch, *arguments[:-4], "--shots", "1", *arguments[-2:]) == 2
    assert "another shots" in capsys.readouterr().err


def test_adapted_model_answers_through_the_public_call(tiny_model_dir, tmp_path, monkeypatch, capsys):
    labels = np.repeat(np.arange(3), 12)
    names = np.array(["spruce", "Fagus sylvatica", "Quercus robur"])
    images = pictures(labels)[:, 5:8]
    images[0, 1] = np.nan
    np.savez(tmp_path / "mine.npz", images=images, species=names[labels], months=[6, 7, 8])
    out = tmp_path / "adapted"
    assert call(monkeypatch, "--model", tiny_model_dir, "--adapt", tmp_path / "mine.npz", "--out", out) == 0
    assert "Right when held out" in capsys.readouterr().out
    query = np.repeat(np.arange(3), 5)
    asked = {"months": [6, 7, 8], "model": out}
    answers = geotreeclip.classify(pictures(query, 1)[:, 5:8], top_k=1, **asked)
    assert [answer.label for answer in answers] == names[query].tolist()
    assert answers[10].family == "Fagaceae"  # the rest of its name comes from the model
    # one place alone, in any order of months, gets the same answer
    alone = geotreeclip.classify(pictures(query, 1)[4:5, [7, 5, 6]], months=[8, 6, 7], model=out, top_k=3)
    whole = geotreeclip.classify(pictures(query, 1)[:, 5:8], top_k=3, **asked)
    assert [row.label for row in alone] == [row.label for row in list(whole)[12:15]]
    assert [row.probability for row in alone] == pytest.approx(
        [row.probability for row in list(whole)[12:15]], abs=1e-5
    )
    two = geotreeclip.classify(
        pictures(query, 1)[:1, 5:8], labels=["Fagus sylvatica", "Quercus robur"], top_k=2, **asked
    )
    assert sum(row.probability for row in two) == pytest.approx(1)
    with pytest.raises(InputError, match="was adapted to"), pytest.warns(UserWarning, match="never saw"):
        geotreeclip.classify(pictures(query, 1)[:1, 5:8], labels=["Pinus sylvestris"], **asked)
    account = json.loads((out / "training.json").read_text())["adapted"]
    assert account["samples"] == 36
    assert "spruce" in (out / "README.md").read_text()
    assert call(monkeypatch, "--model", tiny_model_dir, "--adapt", tmp_path / "mine.npz", "--out", out) == 0  # again
    (tmp_path / "other").mkdir()
    assert (
        call(monkeypatch, "--model", tiny_model_dir, "--adapt", tmp_path / "mine.npz", "--out", tmp_path / "other") == 2
    )
    assert "no adapted model" in capsys.readouterr().err


def test_prior_of_the_support_enters_when_asked_for(tiny_model_dir, tmp_path):
    labels = np.repeat([0, 1], [30, 6])
    loaded = load_model(tiny_model_dir)
    batch = build_observations(pictures(labels * 0))  # the labels cannot be told apart
    taxa = [Taxon(species="common"), Taxon(species="rare")]
    out = save_adapted(tmp_path / "m", adapt(loaded, batch, [taxa[k] for k in labels], method="lda"), {})
    model = geotreeclip.load(out)
    scores = {prior: model.log_probabilities(batch, prior=prior) for prior in ("uniform", "training")}
    gap = (scores["training"][:, 0] - scores["training"][:, 1]) - (scores["uniform"][:, 0] - scores["uniform"][:, 1])
    assert np.allclose(gap, np.log(31 / 7), atol=1e-4)  # (n + 1) / (N + L)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["low-rank", "full"])
def test_tuning_learns_leaves_the_model_alone_and_repeats(tiny_model_dir, kind):
    loaded = load_model(tiny_model_dir)
    labels = np.repeat(np.arange(3), 4)
    batch = build_observations(pictures(labels, contrast=0.6))
    anchor = text_anchor(loaded, loaded.taxonomy.take(range(3)))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    options = TuneOptions(kind=kind, epochs=(0, 10), rate=1e-2)
    first, again = (tune(loaded.model, batch, labels, anchor, options) for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in loaded.model.state_dict().items())
    assert set(first.model.state_dict()) == set(before)  # merged: a model like any other
    assert np.array_equal(first.head.weight, again.head.weight)
    changed = [name for name, value in first.model.state_dict().items() if not torch.equal(before[name], value)]
    assert changed == [name for name in changed if name.startswith("observation_encoder")]
    assert first.setting == "10 epochs"
    assert changed
    after = first.head.logits(first.model.encode_observations(batch).numpy())
    start = anchor.logits(loaded.model.encode_observations(batch).detach().numpy())
    assert balanced_log_loss(after, labels) < 0.8 * balanced_log_loss(start, labels)
    assert first.loss < balanced_log_loss(start, labels)  # held out, too


def test_no_epoch_at_all_is_the_text_head(tiny_model_dir):
    loaded = load_model(tiny_model_dir)
    labels = np.repeat(np.arange(3), 4)
    anchor = text_anchor(loaded, loaded.taxonomy.take(range(3)))
    batch = build_observations(pictures(labels))
    tuned = tune(loaded.model, batch, labels, anchor, TuneOptions(epochs=(0,)))
    with torch.inference_mode():
        same = tuned.model.encode_observations(batch)
        assert torch.allclose(same, loaded.model.encode_observations(batch), atol=1e-6)
    assert np.allclose(tuned.head.weight, anchor.weight, atol=1e-6)


def test_zero_shot_is_that_of_the_classifier_under_a_uniform_prior(tiny_model_dir):
    loaded = load_model(tiny_model_dir)
    batch = build_observations(pictures(np.arange(4)))
    classifier = geotreeclip.load(tiny_model_dir)
    ours = text_anchor(loaded, loaded.taxonomy).logits(classifier.embed_batch(batch))
    theirs = classifier.log_probabilities(batch, prior="uniform")
    assert np.allclose(ours - ours[:, :1], theirs - theirs[:, :1], atol=1e-4)


def test_features_do_not_depend_on_batch_mates_and_follow_the_days(tiny_model_dir):
    model = load_model(tiny_model_dir).model
    images = pictures(np.arange(4))
    images[1, 3] = np.nan
    batch = build_observations(images)
    slots = common_slots(batch)
    with torch.inference_mode():
        whole = read_features(model, batch, FEATURES, slots)
        alone = read_features(model, batch.select(slice(1, 2)), FEATURES, slots)
    assert torch.allclose(whole[1:2], alone, atol=1e-5, equal_nan=True)
    # three-month means of months that are constant in time are what the months say
    steady = build_observations(np.repeat(images[:1, :1], 12, axis=1))
    season = build_observations(images[:1, :1], days=[[60, 151]])
    three = common_slots(season)
    with torch.inference_mode():
        a, b = (read_features(model, one, ["inputs"], three) for one in (steady, season))
    assert torch.allclose(a, b, atol=1e-4)


def test_a_damaged_or_foreign_head_is_refused(tiny_model_dir, tmp_path):
    loaded = load_model(tiny_model_dir)
    labels = np.repeat([0, 1], 5)
    adapted = adapt(loaded, build_observations(pictures(labels)), [loaded.taxonomy[k] for k in labels], method="lda")
    other = tmp_path / "model"
    shutil.copytree(tiny_model_dir, other)
    adapted.head.write(other / HEAD_FILE)  # two labels for a model of eight
    with pytest.raises(DataError, match="different models"):
        load_model(other)
    (other / HEAD_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        load_model(other)
    adapted.head.head.weight[0, 0] = np.nan
    adapted.head.write(other / HEAD_FILE)
    with pytest.raises(DataError, match="not finite"):
        AdaptedHead.read(other / HEAD_FILE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="real imagery is not here")
def test_real_seasonal_patches_go_through_as_they_are(tiny_model_dir, tmp_path, monkeypatch, capsys):
    source = SHARED / "tree_patches_3_species.npz"
    out = tmp_path / "oaks"
    arguments = ["--model", tiny_model_dir, "--adapt", source, "--out", out, "--offset", 1000, "--method", "lda-inputs"]
    assert call(monkeypatch, *arguments) == 0
    assert "482 samples" in capsys.readouterr().out
    stored = AdaptedHead.read(out / HEAD_FILE)
    assert stored.slots.tolist() == [[60, 151], [152, 243], [244, 334]]
    with np.load(source) as archive:
        images, bands, species = archive["reflectance"], archive["bands"].tolist(), archive["species"]
    answers = geotreeclip.classify(
        images, bands=bands, days=stored.slots.numpy(), offset=1000, model=out, top_k=1, prior="uniform"
    )
    said = np.array([answer.label for answer in answers])
    recall = [float((said[species == name] == name).mean()) for name in np.unique(species)]
    assert np.mean(recall) > 0.45  # three species, two of them oaks that hybridise: chance is 0.33
