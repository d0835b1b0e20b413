"""Unseen species: tables without tell-tale columns, fair hold-outs, words that are broken but keep their tree."""

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.prediction_files import read_predictions
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.unseen.command import ALL, SEEN, UNSEEN, WITHIN, questions
from geotreeclip.evaluation.unseen.fit import Recipe, fit_and_score
from geotreeclip.evaluation.unseen.places import Held, Places, hold_out, places_of_tables
from geotreeclip.evaluation.unseen.renamed import write_renamed
from geotreeclip.evaluation.unseen.text import Labels, permuted_names
from geotreeclip.models.clip import create_model
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxon, Taxonomy

SCRIPT = Path(__file__).parents[2] / "eval" / "unseen.py"
GENERA = {"Abies": 5, "Betula": 10, "Carya": 2, "Davidia": 1}


def make_places(each: int = 30, seed: int = 0) -> Places:
    """Genera live in climates of their own; species of a genus are alike."""
    rng = np.random.default_rng(seed)
    taxa = [
        Taxon("", f"{genus}ceae", genus, f"{genus} sp-{n}") for genus, count in GENERA.items() for n in range(count)
    ]
    taxon = np.repeat(np.arange(len(taxa)), each)
    warmth = np.array([list(GENERA).index(taxa[row].genus) for row in taxon]) * 6.0
    environment = np.full((len(taxon), len(VARIABLES)), np.nan)
    environment[:, :2] = rng.uniform(-60, 60, (len(taxon), 2))
    for number in range(1, 20):
        column = VARIABLE_INDEX[f"bio{number:02d}"]
        environment[:, column] = 5 + (warmth if number < 12 else 0) + rng.normal(0, 1, len(taxon))
    ids = np.array([f"p{number}" for number in range(len(taxon))])
    return Places(Taxonomy(taxa), taxon, environment, ids)


def test_a_fifth_of_every_genus_is_held_out_one_at_least_and_single_species_never() -> None:
    places = make_places()
    held = hold_out(places, seed=1)
    genus = Counter(places.taxonomy[int(row)].genus for row in held.unseen)
    assert genus == {"Abies": 1, "Betula": 2, "Carya": 1}
    assert set(places.taxon[held.unseen_test]) == set(held.unseen)
    assert len(held.unseen_test) == 4 * 30
    assert not set(places.taxon[held.train]) & set(held.unseen)
    blocks = places.block(100)
    assert not set(blocks[held.train]) & set(blocks[held.seen_test])
    assert set(places.taxon[held.seen_test]) <= set(places.taxon[held.train])
    assert hold_out(places, seed=2).unseen.tolist() != held.unseen.tolist()
    single = Places(places.taxonomy[:1], np.zeros(3, int), places.environment[:3], places.sample_id[:3])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no genus has two species"):
        hold_out(single, 0)


def test_permuted_names_keep_the_tree_and_break_the_words() -> None:
    taxonomy = make_places().taxonomy
    permuted = permuted_names(taxonomy, 0)
    assert set(permuted) == set(taxonomy)
    for rank in ("genus", "family"):
        shape = [Counter(Counter(taxon.name(rank) for taxon in table).values()) for table in (taxonomy, permuted)]
        assert shape[0] == shape[1]
    same = np.mean([one.genus == two.genus for one, two in zip(taxonomy, permuted, strict=True)])
    assert same < 0.7  # 39 % by chance here: one genus has 10 of 18 species
    # Rows of one genus no longer share a word
    betula = {permuted[row].genus for row, taxon in enumerate(taxonomy) if taxon.genus == "Betula"}
    assert len(betula) > 1
    assert permuted_names(taxonomy, 1) != permuted


def test_labels_read_their_names_those_of_others_or_nothing() -> None:
    places = make_places(each=2)
    model = create_model("tiny", places.statistics(np.arange(len(places))))
    rows = torch.arange(len(places.taxonomy))
    names, permuted, identity = (Labels(text, places.taxonomy, model, 3) for text in ("names", "permuted", "identity"))
    order = [places.taxonomy.index_of(taxon) for taxon in permuted_names(places.taxonomy, 3)]
    model.eval()
    torch.testing.assert_close(permuted(rows), names(rows)[order])
    assert identity.vectors is not None
    assert identity(rows).norm(dim=1).tolist() == pytest.approx([1.0] * len(rows))
    assert [len(group.tokens) for group in names.groups] == [4, 4]
    assert identity.groups == []
    with pytest.raises(ConfigError, match="unknown"):
        Labels("latin", places.taxonomy, model, 3)


def test_text_tells_the_genus_of_unseen_species_and_permuted_names_do_not() -> None:
    places = make_places(each=15)
    held = hold_out(places, seed=0)
    recipe = Recipe(inputs=("climate",), steps=30, batch_size=32)
    macro = {}
    for text in ("names", "permuted"):
        logits = fit_and_score(places, held, text, 0, recipe)
        asked = questions(places, held, logits, Context(set="test"), text, 0)
        macro[text] = {item.question: item.macro for item in asked}
    assert macro["names"][UNSEEN] > 0.8
    assert macro["permuted"][UNSEEN] < 0.6


def test_the_four_questions_on_scores_made_by_hand() -> None:
    taxa = Taxonomy(
        Taxon(genus=g, species=f"{g} {s}") for g, s in [("A", "a"), ("A", "b"), ("A", "c"), ("B", "d"), ("B", "e")]
    )
    environment = np.zeros((4, len(VARIABLES)))
    environment[:, 0] = [0, 20, 40, 60]
    places = Places(taxa, np.array([0, 1, 2, 4]), environment, np.array(["s", "u", "v", "w"]))
    held = Held(np.array([1, 2, 4]), np.array([0]), np.array([0]), np.array([1, 2, 3]))
    logits = np.array([[1, 9, 0, 0, 0], [5, 2, 3, 0, 4], [0, 1, 2, 0, 0], [7, 6, 0, 0, 1]], dtype=np.float32)
    found = {item.question: item for item in questions(places, held, logits, Context(set="x"), "names", 0)}
    assert found[SEEN].predictions.hits(1).tolist() == [1]  # species a is the only seen one
    assert found[UNSEEN].predictions.read_off("genus", 1).tolist() == [0, 1, 0]  # e is first, c, then b
    assert found[UNSEEN].macro == pytest.approx((0.5 + 0) / 2)
    assert found[UNSEEN].chance == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found[ALL].predictions.read_off("genus", 1).tolist() == [1, 1, 0]  # a, c, a
    assert found[WITHIN].predictions.hits(1).tolist() == [0, 1]  # B has one unseen species: nothing to choose
    assert found[WITHIN].chance == pytest.approx(1 / 2)


def write_tables(folder: Path) -> list[Path]:
    """Two tables: one states families and leaf types, the other genus and species alone; both have two variables."""
    rng = np.random.default_rng(0)
    columns = {
        "longitude": rng.uniform(-60, 60, 60),
        "latitude": rng.uniform(-50, 50, 60),
        "bio1": rng.normal(100, 30, 60),
    }
    first = pd.DataFrame(
        {
            **columns,
            "bio12": 800.0,
            "level3_species": np.repeat(["Abies alba", "Abies nordmanniana", "Carya ovata"], 20),
        }
    )
    first["level1_family"], first["level0"] = "Pinaceae", "Evergreen Needleleaf"
    second = pd.DataFrame(
        {**columns, "bio012": 1.0, "bio12": 500.0, "species": np.repeat(["Betula nana", "absence", "Betula lenta"], 20)}
    )
    first.to_csv(folder / "first.csv", index=False)
    second.to_parquet(folder / "second.parquet")
    pd.DataFrame({"genus": ["Betula"], "family": ["Betulaceae"]}).to_csv(folder / "genera.csv", index=False)
    return [folder / "first.csv", folder / "second.parquet"]


def test_tables_share_words_and_units_so_that_nothing_tells_which_table_a_record_is_from(tmp_path: Path) -> None:
    tables = write_tables(tmp_path)
    places = places_of_tables(tables, taxonomy=tmp_path / "genera.csv", worldclim="1")
    assert len(places) == 100  # absences are no species
    assert Taxon("", "Betulaceae", "Betula", "Betula nana") in list(places.taxonomy)
    assert {taxon.leaf_type for taxon in places.taxonomy} == {""}
    known = np.isfinite(places.environment).all(axis=0)
    assert np.flatnonzero(known).tolist() == [0, 1, VARIABLE_INDEX["bio01"], VARIABLE_INDEX["bio12"]]
    assert np.abs(places.environment[:, VARIABLE_INDEX["bio01"]]).max() < 30  # tenths of degrees became degrees
    assert set(places.environment[:, VARIABLE_INDEX["bio12"]]) == {800.0, 500.0}
    assert {taxon.family for taxon in places_of_tables(tables).taxonomy} == {""}
    pd.DataFrame({"species": ["Abies alba"], "longitude": [1.0]}).to_csv(tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"bad.csv: lacks latitude"):
        places_of_tables([tmp_path / "bad.csv"])
    pd.DataFrame({"species": ["Abies alba"], "longitude": [1.0], "latitude": [2.0]}).to_csv(tmp_path / "bare.csv")
    with pytest.raises(ConfigError, match="no variable in common"):
        places_of_tables([tmp_path / "bare.csv"])


def test_the_command_writes_report_predictions_and_summary(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    tables = write_tables(tmp_path)
    out = tmp_path / "out" / "report.json"
    arguments = [
        "--points",
        *tables,
        "--steps",
        2,
        "--seeds",
        0,
        1,
        "--inputs",
        "climate",
        "--out",
        out,
        "--resamples",
        20,
    ]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    assert "| unseen species | genus |" in capsys.readouterr().out
    items = read_predictions(out.with_suffix(".predictions.parquet"))
    assert {item.context.system for item in items} == {"text: names", "text: permuted", "text: identity"}
    rows = json.loads(out.read_text())["rows"]
    assert any(row["system"] == "text: names - permuted" and row["metric"] == "macro_top1_difference" for row in rows)
    assert out.with_suffix(".md").read_text().startswith("# Unseen species")


@pytest.mark.parametrize("text", ["permuted", "identity"])
def test_a_renamed_set_is_the_set_but_for_its_names(tmp_path: Path, text: str) -> None:
    taxonomy = make_places().taxonomy
    rng = np.random.default_rng(0)
    taxa = rng.integers(0, len(taxonomy), 20)
    with PackedWriter(tmp_path / "set", taxonomy, has_images=False, shard_samples=16, chunk_samples=8) as writer:
        writer.add(None, rng.normal(size=(20, 27)).astype(np.float32), taxa, [f"s{number}" for number in range(20)])
    (tmp_path / "set" / "ceiling.json").write_text("[]")
    original = PackedDataset(tmp_path / "set")
    renamed = PackedDataset(write_renamed(original, tmp_path / "renamed", text, seed=3))
    renamed.verify()
    rows = np.arange(20)
    np.testing.assert_array_equal(renamed.read(rows).environment, original.read(rows).environment)
    np.testing.assert_array_equal(renamed.taxa, original.taxa)
    assert renamed.fingerprint() != original.fingerprint()
    assert not (tmp_path / "renamed" / "ceiling.json").exists()
    original.verify()  # links must not have carried anything back
    if text == "permuted":
        assert list(renamed.taxonomy) == list(permuted_names(taxonomy, 3))
    else:
        words = [word for prompt in renamed.taxonomy.prompts() for word in prompt.split()]
        assert len(words) == len(set(words)) == len(taxonomy)
    with pytest.raises(DataError, match="exists already"):
        write_renamed(original, tmp_path / "renamed", text)
