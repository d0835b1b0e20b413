import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.taxonomy import Taxon, Taxonomy, log_sum_groups

ROBUR = Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur")
ILEX = Taxon("Evergreen Broadleaf", "Fagaceae", "Quercus", "Quercus ilex")
FAGUS = Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica")
PINUS = Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus mugo")
TABLE = Taxonomy([ROBUR, ILEX, FAGUS, PINUS])


def test_prompt_states_the_known_parts_coarse_to_fine():
    assert ROBUR.prompt() == "Deciduous Broadleaf / Fagaceae / Quercus / Quercus robur"
    assert ROBUR.at("family").prompt() == "Deciduous Broadleaf / Fagaceae"
    assert Taxon(genus="Acer").prompt() == "Acer"
    assert ROBUR.at("genus").rank == "genus"


def test_groups_follow_the_whole_prefix_and_names_the_name():
    prefixes, _ = TABLE.groups("genus")
    assert ROBUR.at("genus") in prefixes
    assert ILEX.at("genus") in prefixes
    names, rows = TABLE.names("genus")
    assert rows[0] == rows[1] != rows[2]
    assert names[rows[0]] == Taxon("", "Fagaceae", "Quercus")  # its leaf type is not shared


def test_roll_up_sums_probabilities_by_name_and_keeps_one():
    log_prob = np.log([[0.1, 0.2, 0.3, 0.4]])
    genus, taxa = TABLE.roll_up(log_prob, "genus")
    found = dict(zip([taxon.genus for taxon in taxa], np.exp(genus[0]), strict=True))
    assert found == pytest.approx({"Quercus": 0.3, "Fagus": 0.3, "Pinus": 0.4})
    for rank in ("leaf_type", "family", "genus", "species"):
        assert np.exp(TABLE.roll_up(log_prob, rank)[0]).sum() == pytest.approx(1)


def test_roll_up_survives_extremes():
    values = np.array([[-2000.0, -2000.0, -np.inf, 0.0]])
    rolled = log_sum_groups(values, np.array([0, 0, 1, 2]), 3)
    assert rolled[0, 0] == pytest.approx(-2000 + np.log(2))
    assert rolled[0, 1] == -np.inf
    assert rolled[0, 2] == 0


def test_names_people_type_are_resolved():
    found = TABLE.resolve(["quercus ROBUR", "Fagaceae", "Quercus", "Quercus suber", "Acer campestre"])
    assert found[0] == ROBUR
    assert found[1].rank == "family"
    assert found[2].rank == "genus"
    assert found[3] == Taxon("", "Fagaceae", "Quercus", "Quercus suber")  # leaf type of the genus is not unique
    assert found[4] == Taxon(genus="Acer", species="Acer campestre")


@pytest.mark.parametrize(("label", "message"), [("", "empty"), ("Quercuss", "spelling")])
def test_unusable_labels_are_refused(label, message):
    with pytest.raises(InputError, match=message):
        TABLE.resolve([label])


def test_doubled_and_empty_rows_are_refused():
    with pytest.raises(InputError, match="more than once"):
        Taxonomy([ROBUR, ROBUR])
    with pytest.raises(InputError, match="no rank"):
        Taxonomy([Taxon()])


def test_tables_round_trip_and_published_column_names_are_read(tmp_path):
    TABLE.write(tmp_path / "t.parquet")
    assert Taxonomy.read(tmp_path / "t.parquet") == TABLE
    published = pd.DataFrame(
        {"level0": ["a", "a"], "level1_family": ["F", "F"], "level2_genus": ["G", "G"], "level3_species": ["G s", None]}
    )
    published.to_csv(tmp_path / "t.csv", index=False)
    assert list(Taxonomy.read(tmp_path / "t.csv")) == [Taxon("a", "F", "G", "G s"), Taxon("a", "F", "G")]
    with pytest.raises(DataError, match="no such file"):
        Taxonomy.read(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="no column"):
        Taxonomy.from_frame(pd.DataFrame({"x": [1]}))
