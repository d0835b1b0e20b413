"""Names, ranks, keys, backbones, trees and leaf types, judged for each distinct taxon."""

from __future__ import annotations

import gzip
import zipfile

import pytest

from geotreeclip.errors import DataError
from geotreeclip.prep.occurrences.backbone import read_backbone
from geotreeclip.prep.occurrences.fields import TAXON_FIELDS
from geotreeclip.prep.occurrences.names import binomial, name_key, read_table, why_no_species
from geotreeclip.prep.occurrences.normalise import SEPARATOR
from geotreeclip.prep.occurrences.rules import BITS, RuleOptions
from geotreeclip.prep.occurrences.taxa import TaxonTables, judge_taxa

CROSS = "\u00d7"  # the sign of hybrids
HEADER = (
    "taxonID\tacceptedNameUsageID\tscientificName\tcanonicalName\ttaxonRank\ttaxonomicStatus\tkingdom\tfamily\tgenus"
)
BACKBONE = f"""{HEADER}
2878688\t\tQuercus robur L.\tQuercus robur\tspecies\taccepted\tPlantae\tFagaceae\tQuercus
2878700\t2878688\tQuercus pedunculata Ehrh.\tQuercus pedunculata\tspecies\tsynonym\tPlantae\tFagaceae\tQuercus
2877951\t\tQuercus L.\tQuercus\tgenus\taccepted\tPlantae\tFagaceae\tQuercus
5015\t\tRosaceae\tRosaceae\tfamily\taccepted\tPlantae\tRosaceae\t
8000001\t\tAria edulis (Willd.) M.Roem.\tAria edulis\tspecies\taccepted\tPlantae\tRosaceae\tAria
8000002\t8000001\tSorbus aria (L.) Crantz\tSorbus aria\tspecies\tsynonym\tPlantae\tRosaceae\tAria
8000003\t8000004\tAcer saccharophorum K.Koch\tAcer saccharophorum\tspecies\tsynonym\tPlantae\tSapindaceae\tAcer
8000004\t\tAcer saccharum subsp. saccharum\tAcer saccharum saccharum\tsubspecies\taccepted\tPlantae\tSapindaceae\tAcer
8000005\t\tAcer saccharum Marshall\tAcer saccharum\tspecies\taccepted\tPlantae\tSapindaceae\tAcer
8000006\t\tPlatanus {CROSS}hispanica Mill. & Münchh.\tPlatanus hispanica\tspecies\taccepted\tPlantae\tX\tPlatanus
8000007\t\tMorus alba A\tMorus alba\tspecies\taccepted\tPlantae\tMoraceae\tMorus
8000008\t\tMorus alba B\tMorus alba\tspecies\taccepted\tAnimalia\tSulidae\tMorus
broken line
8000009\t8000010\tPinus twins\tPinus gemina\tspecies\tsynonym\tPlantae\tPinaceae\tPinus
8000010\t\tPinus one\tPinus una\tspecies\taccepted\tPlantae\tPinaceae\tPinus
8000011\t8000012\tPinus twins 2\tPinus gemina\tspecies\tsynonym\tPlantae\tPinaceae\tPinus
8000012\t\tPinus two\tPinus altera\tspecies\taccepted\tPlantae\tPinaceae\tPinus
"""


def judge(*taxa: dict[str, str], tables: TaxonTables | None = None, rows=None, **options):
    """Judge taxa given by their fields."""
    texts = [SEPARATOR.join(taxon.get(name, "") for name in TAXON_FIELDS) for taxon in taxa]
    return judge_taxa(texts, rows or [1] * len(texts), tables or TaxonTables(), RuleOptions(**options))


def failing(frame, rule):
    return [bool(bits & BITS[rule]) for bits in frame["failing"]]


def test_names():
    assert [
        why_no_species(name)
        for name in ("Quercus robur", f"Platanus {CROSS} hispanica", "Acer x freemanii", "Crataegus uva-ursi")
    ] == [""] * 4
    for name in ("", "Hymenaea", "Albizia sp", "Asimina spec", "Anacardium spec.", "Quercus cf. robur", "Quercus L.",
                 "quercus robur", "SH1234.08FU", "Quercus ROBUR", "Acer aff. rubrum"):  # fmt: skip
        assert why_no_species(name), name
    assert binomial("Acer rubrum var. rubrum L.") == "Acer rubrum"
    assert binomial(f"Platanus {CROSS}hispanica Mill.") == f"Platanus {CROSS} hispanica"
    assert binomial("Quercus L.") == ""
    assert name_key("Diploön  cuspidatum") == name_key("diploon cuspidatum")
    assert name_key(f"Platanus {CROSS}hispanica") == name_key("Platanus x hispanica") == name_key("Platanus hispanica")


def test_the_classes_of_the_published_set_that_are_no_species():
    published = {
        "Sorbus aria": (5015, "Rosaceae"), "Acacia polyphylla": (5386, "Fabaceae"),
        "Citrus polyandra": (2396, "Rutaceae"),
        "Phyllanthus albus": (8807, "Phyllanthaceae"), "Schefflera macrophylla": (8800, "Araliaceae"),
        "Kibara macrophylla": (2494, "Monimiaceae"), "Securidaca volubilis": (1370, "Polygalaceae"),
        "Pereskia bleo": (2519, "Cactaceae"), "Weinmannia minutiflora": (2405, "Cunoniaceae"),
        "Rhamnus alpina": (2407, "Rhamnaceae"), "Pleroma pulchrum": (6683, "Melastomataceae"),
        "Cinnamomum cassia": (6688, "Lauraceae"),
    }  # fmt: skip
    taxa = [{"species": name, "species_key": f"{key}.0", "family": family} for name, (key, family) in published.items()]
    open_names = [{"species": name, "species_key": "2972897.0"} for name in ("Albizia sp", "Asimina spec", "Hymenaea")]
    frame = judge(*taxa, *open_names, {"species": "Quercus robur", "species_key": "2878688.0"})
    assert failing(frame, "key") == [True] * 12 + [False] * 4
    assert failing(frame, "name") == [False] * 12 + [True] * 3 + [False]


def test_keys_that_only_warn_and_keys_that_refuse():
    frame = judge(
        {"species": "Didymocheton alpinus", "species_key": "11600000", "family": "Meliaceae"},
        {"species": "Didymocheton roseus", "species_key": "11600000", "family": "Meliaceae"},
        {"species": "Psoralea congesta", "species_key": "10700000.0"},
        {"species": "Acer rubrum", "species_key": "3189834", "family": "Sapindaceae"},
        {"species": "Quercus rubra", "species_key": "3189834", "family": "Fagaceae"},
        {"species": "Salix una", "species_key": "3000001", "family": "Salicaceae"},
        {"species": "Salix altera", "species_key": "3000001", "family": "Salicaceae"},
        {"species": "Eucalyptus camaldulensis", "species_key": "3176716"},
        {"species": "Eucalyptus camaldulensis", "species_key": "3176717"},
        {"species": "Capparis indica", "species_key": "5602118", "genus": "Quadrella"},
        {"species": "Docynia delavayi", "species_key": "3001068", "genus": "Docynia"},
        {"species": "Malus sylvestris", "species_key": "3001509", "genus": "Malus", "genus_key": "3001068"},
    )
    refused = [True, True, False, True, True, False, False, False, False, False, True, False]
    assert failing(frame, "key") == refused
    saw = frame["saw_key"].tolist()
    assert saw[0].endswith("and rounded")
    assert saw[3].endswith("of several families")
    assert saw[10] == "key 3001068 is the genus Malus elsewhere in the records"
    warned = frame["warnings"].tolist()
    assert "rounded" in warned[2]
    assert "shared by Salix altera, Salix una" in warned[5]
    assert "has keys 3176716, 3176717" in warned[7]
    assert "not of its genus Quadrella" in warned[9]


def test_species_of_lower_taxa_are_kept_and_gbifs_old_columns_understood():
    frame = judge(
        {"species": "Yucca brevifolia", "rank": "VARIETY", "taxon_key": "4270200", "species_key": "2775592"},
        {"genus": "Tetraodon", "epithet": "Tetraodon fluviatilis"},
        {"genus": "Acer", "epithet": "rubrum"},
        {"scientific_name": "Acer rubrum var. rubrum L.", "rank": "variety"},
        {"scientific_name": "Acer L.", "rank": "genus", "taxon_key": "3189834"},
    )
    assert frame["species"].tolist() == ["Yucca brevifolia", "Tetraodon fluviatilis", "Acer rubrum", "Acer rubrum", ""]
    assert frame["taxon_key"].tolist()[0] == 2775592
    assert failing(frame, "rank") == [False] * 4 + [True]
    assert frame["given"].tolist()[4] == "Acer L."


@pytest.fixture(params=["tsv", "gz", "zip"])
def backbone(request, tmp_path):
    path = tmp_path / f"Taxon.{request.param}"
    if request.param == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("backbone/Taxon.tsv", BACKBONE)
            packed.writestr("backbone/VernacularName.tsv", "x")
    else:
        data = BACKBONE.encode()
        path.write_bytes(gzip.compress(data) if request.param == "gz" else data)
    return path


def test_a_gbif_backbone_resolves_names_and_judges_keys(backbone):
    frame = judge(
        {"species": "Quercus pedunculata", "species_key": "2878688"},
        {"species": "Sorbus aria", "species_key": "8000002", "family": "Rosaceae"},
        {"species": "Sorbus aria", "species_key": "5015"},
        {"species": "Acer saccharophorum"},
        {"species": "Platanus x hispanica"},
        {"species": "Morus alba"},
        {"species": "Quercus robur", "species_key": "2877951"},
        {"species": "Quercus robur", "species_key": "8000005"},
        {"species": "Quercus rubor", "species_key": "2878688"},
        {"species": "Pinus gemina"},
        {"species": "Nothing knowni", "species_key": "7999999"},
        tables=TaxonTables(backbone),
        require_backbone=True,
    )
    assert frame["species"].tolist() == [
        "Quercus robur", "Aria edulis", "Aria edulis", "Acer saccharum", "Platanus hispanica", "Morus alba",
        "Quercus robur", "Quercus robur", "Quercus robur", "Pinus gemina", "Nothing knowni",
    ]  # fmt: skip
    assert frame["genus"].tolist()[1] == "Aria"
    assert frame["taxon_key"].tolist()[:4] == [2878688, 8000001, 8000001, 8000005]
    assert frame["resolution"].tolist() == [
        "synonym", "synonym", "synonym", "synonym", "accepted", "accepted", "accepted", "accepted", "by key",
        "ambiguous", "unknown",
    ]  # fmt: skip
    assert failing(frame, "key") == [False, False, True, False, False, False, True, True, False, False, False]
    assert frame["saw_key"].tolist()[2] == "key 5015 is the family Rosaceae in the backbone"
    assert frame["saw_key"].tolist()[7] == "key 8000005 is Acer saccharum in the backbone, not Quercus robur"
    assert failing(frame, "backbone") == [False] * 10 + [True]
    assert "ambiguous" in frame["warnings"].tolist()[9]
    assert not any("has keys" in words for words in frame["warnings"])


def test_keys_of_the_catalogue_of_life_are_no_numbers(tmp_path):
    path = tmp_path / "Taxon.tsv"
    path.write_text(
        "dwc:taxonID\tdwc:acceptedNameUsageID\tdwc:scientificName\tdwc:taxonRank\tdwc:taxonomicStatus\n"
        "4R7LM\t\tQuercus robur L.\tspecies\taccepted\n5E4\t\tFagaceae Dumort.\tfamily\taccepted\n"
        "7BCDF\t4R7LM\tQuercus pedunculata Ehrh.\tspecies\tsynonym\n"
    )
    taxa = [
        {"species": "Quercus pedunculata", "species_key": "4R7LM"}, {"species": "Quercus alba", "species_key": "5E4"},
        {"species": "Fagus una", "species_key": "62X", "genus_key": "62X"},
        {"species": "Tilia cordata", "species_key": "5E5"},
    ]  # fmt: skip
    frame = judge(*taxa, tables=TaxonTables(path))
    assert frame["species"].tolist()[0] == "Quercus robur"
    assert frame["taxon_key"].isna().all()
    assert failing(frame, "key") == [False, True, False, False]
    assert failing(frame, "rank") == [False, False, True, False]
    assert frame["given_key"].tolist()[3] == "5E5"


def test_only_what_concerns_the_records_is_held(backbone):
    held = read_backbone(backbone, ["Quercus pedunculata"], [])
    assert sorted(held.by_id) == ["2878688", "2878700"]
    assert held.damaged == 1


def test_a_simple_backbone(tmp_path):
    path = tmp_path / "taxonomy.csv"
    path.write_text(
        "name,accepted_name,family,genus,leaf_type\n"
        "Quercus robur,Quercus robur,Fagaceae,Quercus,Deciduous Broadleaf\n"
        "Quercus pedunculata,Quercus robur,Fagaceae,Quercus,\n"
        "Sorbus aria,Aria edulis,Rosaceae,,Deciduous Broadleaf\n"
    )
    names = ["Quercus pedunculata", "Sorbus aria", "Aria edulis", "Pinus mugo"]
    frame = judge(*({"species": name} for name in names), tables=TaxonTables(path))
    assert frame["species"].tolist() == ["Quercus robur", "Aria edulis", "Aria edulis", "Pinus mugo"]
    assert frame["genus"].tolist() == ["Quercus", "Aria", "Aria", "Pinus"]
    assert frame["leaf_type"].tolist() == ["Deciduous Broadleaf"] * 3 + [""]
    assert frame["taxon_key"].isna().all()


def trees_of(tmp_path):
    (tmp_path / "list.csv").write_bytes(
        "Taxon name,Author,,Citation\nAcer rubrum,L.\nDiploön cuspidatum,(Hoehne) Cronquist\nAria edulis,x,,more\n"
        .encode("latin-1")
    )  # fmt: skip
    (tmp_path / "growth.csv").write_text(
        "sp,support,woodiness\nMedicago lupulina,F,H\nIpomoea cristulata,C,NA\nVaccinium myrtillus,F,W\n"
        "Oxalis a,F,H\nOxalis b,F,H\nOxalis c,F,H\nFicus costaricana,H,W\nAcer rubrum,F,H\n"
    )
    return TaxonTables(trees=(tmp_path / "list.csv",), growth=(tmp_path / "growth.csv",))


def test_trees_by_list_and_traits(tmp_path):
    names = ["Acer rubrum", "Diploon cuspidatum", "Medicago lupulina", "Ipomoea cristulata", "Vaccinium myrtillus",
             "Oxalis hirta", "Ficus costaricana", "Nobody knows"]  # fmt: skip
    taxa = [{"species": name} for name in names]
    strict = judge(*taxa, tables=trees_of(tmp_path))
    assert strict["evidence"].tolist() == [
        "listed as a tree", "listed as a tree", "herb, not listed as a tree", "climber, not listed as a tree",
        "woody, not listed as a tree", "genus of herbs, not listed as a tree", "woody, not listed as a tree",
        "growth unknown, not listed as a tree",
    ]  # fmt: skip
    assert failing(strict, "tree") == [False, False, True, True, True, True, True, True]
    lenient = judge(*taxa, tables=trees_of(tmp_path), tree_evidence="excluded")
    assert failing(lenient, "tree") == [False, False, True, True, False, True, False, False]
    by_traits = judge(*taxa, tables=TaxonTables(growth=(tmp_path / "growth.csv",)))
    assert failing(by_traits, "tree") == [True, False, True, True, False, True, False, False]
    assert not any(failing(judge(*taxa), "tree"))


def test_names_are_resolved_before_a_list_is_asked(tmp_path, backbone):
    tables = trees_of(tmp_path)
    taxa = [{"species": "Sorbus aria"}]
    assert failing(judge(*taxa, tables=tables), "tree") == [True]
    assert failing(judge(*taxa, tables=TaxonTables(backbone, tables.trees, tables.growth)), "tree") == [False]
    (tmp_path / "list.csv").write_text("name\nSorbus aria\n")  # and a list of old names
    taxa = [{"species": "Aria edulis"}]
    assert failing(judge(*taxa, tables=TaxonTables(None, tables.trees)), "tree") == [True]
    assert failing(judge(*taxa, tables=TaxonTables(backbone, tables.trees)), "tree") == [False]


def test_leaf_types_by_table_and_majority(tmp_path):
    (tmp_path / "leaves.csv").write_text(
        "species,genus,family,leaf_type\nLarix decidua,,,Deciduous Needleleaf\n,Quercus,,Deciduous Broadleaf\n"
        ",,Pinaceae,Evergreen Needleleaf\nQuercus ilex,,,Evergreen Broadleaf\n"
    )
    taxa = [
        {"species": "Larix decidua", "family": "Pinaceae"}, {"species": "Pinus mugo", "family": "Pinaceae"},
        {"species": "Quercus robur", "leaf_type": "Evergreen Broadleaf"}, {"species": "Quercus ilex"},
        {"species": "Acacia una", "leaf_type": "Evergreen Broadleaf"},
        {"species": "Acacia una", "leaf_type": "Deciduous Broadleaf", "species_key": "3000000"},
    ]  # fmt: skip
    frame = judge(*taxa, tables=TaxonTables(leaf_types=(tmp_path / "leaves.csv",)), rows=[1, 1, 1, 1, 5, 9])
    assert frame["leaf_type"].tolist() == [
        "Deciduous Needleleaf", "Evergreen Needleleaf", "Deciduous Broadleaf", "Evergreen Broadleaf",
        "Deciduous Broadleaf", "Deciduous Broadleaf",
    ]  # fmt: skip
    assert "in the table" in frame["warnings"].tolist()[2]
    assert "several leaf types: Deciduous Broadleaf 9, Evergreen Broadleaf 5" in frame["warnings"].tolist()[4]


def test_broken_tables_end_in_a_clear_message(tmp_path):
    for content, message in (
        ("", "no rows"), ("a,b\n1,2\n", "no column of names"), ("name\n", "no rows"),
    ):  # fmt: skip
        (tmp_path / "list.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            judge({"species": "Acer rubrum"}, tables=TaxonTables(trees=(tmp_path / "list.csv",)))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"name\nAcer rubrum\n" * 999)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "cut.csv.gz")
    with pytest.raises(DataError, match="no such file"):
        judge({"species": "A b"}, tables=TaxonTables(tmp_path / "none.tsv"))
    (tmp_path / "growth.csv").write_text("name,colour\nAcer rubrum,red\n")
    with pytest.raises(DataError, match="no column of growth"):
        judge({"species": "A b"}, tables=TaxonTables(growth=(tmp_path / "growth.csv",)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("readme", "x")
    with pytest.raises(DataError, match=r"no Taxon\.tsv"):
        judge({"species": "A b"}, tables=TaxonTables(tmp_path / "a.zip"))
