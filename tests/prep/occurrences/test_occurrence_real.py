"""Real downloads, and the published 90-species set through the rules of taxa."""

from __future__ import annotations

import pandas as pd
import pytest
from occurrence_helpers import REAL, clean

from geotreeclip.prep.occurrences.rules import RuleOptions
from geotreeclip.prep.occurrences.taxa import TaxonTables

GBIF, TAXONOMY = REAL / "gbif", REAL / "taxonomy"
TREES = TAXONOMY / "global_tree_search_trees_1_3.csv.gz"
GROWTH = TAXONOMY / "growth_form.csv.gz"
PUBLISHED = REAL / "GlobalGeoTree-10kEval-90.csv"

need_gbif = pytest.mark.skipif(not GBIF.is_dir(), reason="the real GBIF downloads are not here")
need_published = pytest.mark.skipif(
    not (PUBLISHED.is_file() and TREES.is_file() and GROWTH.is_file()),
    reason="the published evaluation set and the lists of trees are not here",
)


@need_gbif
def test_all_downloads_are_read_whole(tmp_path):
    report, kept, refused = clean(tmp_path / "out", *sorted(GBIF.iterdir()))
    rows = {table["label"].partition("_0")[0]: table["rows"] for table in report.tables}
    assert rows == {
        "dwca_plants_2015": 443, "gbif-results-lacks-s-metadata": 158, "gbif-results-whitespace-in-xml": 158,
        "simplecsv_plants": 91, "simplecsv_yucca_brevifolia": 4509,
    }  # fmt: skip
    assert report.read == 5359 == len(kept) + len(refused)
    refusing = {rule.name: (rule.refused, rule.alone) for rule in report.rules}
    # The archive of 2015 has no coordinates at all; those of 2013 are one download twice, fish from museums, at 0, 0.
    assert refusing["coordinates"] == (960, 960)
    assert refusing["zero"] == (14, 14)
    assert refusing["repeated"][1] == 158
    assert refusing["kingdom"][1] == 93 + 2 * 158
    assert refusing["readable"] == (0, 0)
    archive = refused[refused["file"].str.startswith("dwca")]
    assert len(archive) == 443
    assert archive["also"].str.contains("obscured").sum() == 3  # "mask coordinates"
    yucca = refused[refused["file"].str.startswith("simplecsv_yucca")]
    assert (yucca["reason"] == "obscured").sum() > 100  # stated as some 28 km
    assert set(kept["species"]) == {"Delphinium fissum", "Yucca brevifolia"}
    assert set(kept["precision"]) == {"imagery", "environment", "unknown"}
    assert kept["sample_id"].is_unique
    assert kept["year"].between(2015, 2025).all()


@need_published
def test_the_published_set_through_rank_and_tree_rules(tmp_path):
    tables = TaxonTables(trees=(TREES,), growth=(GROWTH,))
    report, kept, refused = clean(tmp_path / "out", PUBLISHED, tables=tables)
    assert report.read == 9930 == len(kept) + len(refused)
    # Of the classes named in the literature as higher taxa, this set holds one: it spreads from Ireland to Taiwan.
    assert [entry["name"] for entry in report.refused_species["key"]] == ["Sorbus aria"]
    assert report.refused_species["key"][0]["rows"] == 181
    warned = {entry["name"]: entry["why"] for entry in report.warned_species}
    assert "rounded" in warned["Psoralea congesta"]
    assert "genus Quadrella" in warned["Capparis indica"]
    no_trees = {entry["name"]: entry["why"] for entry in report.refused_species["tree"]}
    herbs = {
        "Medicago lupulina", "Medicago marina", "Sonchus asper", "Oxalis hirta", "Oxalis drummondii",
        "Oxalis macrantha", "Malva moschata", "Erigeron strigosus", "Ruellia strepens", "Ipomoea cristulata",
        "Sambucus ebulus", "Alternanthera sessilis", "Desmodium perplexum", "Nabalus asper", "Lobelia tomentosa",
    }  # fmt: skip
    dwarfs = {"Vaccinium oxycoccos", "Vaccinium myrtillus", "Vaccinium angustifolium"}
    assert herbs | dwarfs <= set(no_trees)
    assert no_trees["Medicago lupulina"].startswith("herb")
    assert no_trees["Ipomoea cristulata"].startswith("climber")
    trees = {"Castanea sativa", "Thuja plicata", "Abies religiosa", "Quercus rotundifolia", "Prunus mahaleb"}
    assert not trees & set(no_trees)
    assert trees <= set(kept["species"])
    share = pd.read_csv(PUBLISHED)["level3_species"].isin(herbs).mean()
    assert share > 0.17


@need_published
def test_only_what_is_shown_to_be_no_tree(tmp_path):
    tables = TaxonTables(trees=(TREES,), growth=(GROWTH,))
    rules = RuleOptions(tree_evidence="excluded")
    report, _, _ = clean(tmp_path / "out", PUBLISHED, tables=tables, rules=rules)
    no_trees = {entry["name"] for entry in report.refused_species["tree"]}
    assert {"Medicago lupulina", "Sonchus asper", "Ipomoea cristulata", "Medicago marina"} <= no_trees
    assert "Vaccinium myrtillus" not in no_trees  # woody
