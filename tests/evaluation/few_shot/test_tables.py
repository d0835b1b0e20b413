"""People's own files: arrays, tables, steps as they are written, and what is wrong with the rest."""

import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.few_shot.tables import read_samples, read_steps
from geotreeclip.taxonomy import Taxon, Taxonomy

KNOWN = Taxonomy([Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur")])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["2022-03..05", "2022-12..02"], {"days": [[60, 151], [335, 59]]}),
        (["2022-08-15", "2022-09-01"], {"days": [[227, 227], [244, 244]]}),
        (["2022-06-01..2022-08-31"], {"days": [[152, 243]]}),
        (["6", "07", "2022-08"], {"months": [6, 7, 8]}),
        ([6, 7, 8], {"months": [6, 7, 8]}),
        ([152, 243], {"days": [152, 243]}),
    ],
)
def test_steps_as_people_write_them(written, expected):
    found = read_steps(np.array(written))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(found[key], value)


@pytest.mark.parametrize("wrong", ["spring", "2022-13", "2022-02-30", ""])
def test_a_step_that_is_none_is_named(wrong):
    with pytest.raises(InputError, match="steps"):
        read_steps(np.array([wrong, "2022-08-15"]))


def test_npz_with_all_it_can_hold(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(
        path, images=np.ones((4, 2, 3, 5, 5), np.float32), species=["Quercus robur", "oak", "oak", "Acer campestre"],
        bands=["B2", "B3", "B4"], months=[6, 7], lon=[1.0, 2, 3, 4], lat=[5.0, 6, 7, 8],
    )  # fmt: skip
    samples = read_samples(path)
    assert samples.options == {"bands": ["B2", "B3", "B4"], "months": [6, 7]}
    assert samples.longitude.tolist() == [1, 2, 3, 4]
    taxa = samples.labelled(KNOWN)
    assert taxa[0].family == "Fagaceae"
    assert taxa[1] == Taxon(species="oak")
    assert taxa[3] == Taxon(genus="Acer", species="Acer campestre")


def test_table_with_a_file_for_each_row(tmp_path):
    for row in range(3):
        np.save(tmp_path / f"{row}.npy", np.full((2, 10, 5, 5), row))
    frame = pd.DataFrame({"label": list("aab"), "image": [f"{row}.npy" for row in range(3)], "elevation": [1.0, 2, 3]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    samples = read_samples(tmp_path / "mine.csv")
    assert samples.images[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
    assert list(samples.environment.columns) == ["elevation"]
    assert samples.names == ["a", "a", "b"]


def test_classes_of_ones_own_keep_their_spelling(tmp_path):
    names = ["class A", "wet meadow", "quercus robur", "Ziziphus mauritiana", "Quercus alba"]
    pd.DataFrame({"label": names, "longitude": range(5), "latitude": range(5)}).to_csv(tmp_path / "mine.csv")
    taxa = read_samples(tmp_path / "mine.csv").labelled(KNOWN)
    assert [taxon.species for taxon in taxa] == [*names[:2], "Quercus robur", *names[3:]]
    assert [taxon.genus for taxon in taxa] == ["", "", "Quercus", "Ziziphus", "Quercus"]


def test_table_with_ranks_needs_no_label(tmp_path):
    frame = pd.DataFrame({"genus": ["Quercus", "Acer"], "species": ["Quercus robur", ""], "lon": [1, 2], "lat": [3, 4]})
    frame.to_parquet(tmp_path / "mine.parquet")
    taxa = read_samples(tmp_path / "mine.parquet").labelled(KNOWN)
    assert taxa == [Taxon(genus="Quercus", species="Quercus robur"), Taxon(genus="Acer")]


def test_wrong_files_say_what_is_wrong(tmp_path):
    path = tmp_path / "mine.npz"
    with pytest.raises(DataError, match="no such file"):
        read_samples(path)
    np.savez(path, images=np.ones((4, 12, 10, 5, 5)))
    with pytest.raises(DataError, match="no array of labels"):
        read_samples(path)
    np.savez(path, images=np.ones((4, 12, 10, 5, 5)), species=["a", "b"])
    with pytest.raises(DataError, match="4 images"):
        read_samples(path)
    np.savez(path, images=np.ones((4, 12, 10, 5, 5)), species=np.array([{}, {}, {}, {}], dtype=object))
    with pytest.raises(DataError, match="plain arrays"):
        read_samples(path)
    np.savez(path, images=np.ones((4, 12, 4, 5, 5)), species=list("abcd"))
    with pytest.raises(DataError, match="bands"):
        read_samples(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(path)
    table = tmp_path / "mine.csv"
    table.write_text("label\na\nb\n")
    with pytest.raises(DataError, match="nothing to look at"):
        read_samples(table)
    table.write_text("label,image\na,x.npy\nb,\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(table)
    np.save(tmp_path / "x.npy", np.ones((2, 10)))
    with pytest.raises(DataError, match="row 2"):
        read_samples(table)
