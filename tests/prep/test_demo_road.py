"""The whole road: raw files of the planted forest to packed shards, which must equal what was planted."""

import shutil

import numpy as np
import pandas as pd
import pytest

from geotreeclip.data.packed import PackedDataset
from geotreeclip.demo.raw.check import compare
from geotreeclip.demo.raw.check import main as check
from geotreeclip.prep.environment_cli import main as environment
from geotreeclip.prep.imagery.command import main as sentinel2
from geotreeclip.prep.imagery_store import ImageryStore
from geotreeclip.prep.occurrences import main as occurrences
from geotreeclip.prep.pack_cli import main as pack

pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def road(raw_world, tmp_path_factory):
    """The commands as a user gives them; returns the folder of what they wrote."""
    out = tmp_path_factory.mktemp("road")
    table, rasters = out / "clean" / "occurrences.parquet", raw_world / "rasters"
    names = ["--backbone", raw_world / "taxonomy.csv", "--trees", raw_world / "trees.csv", "--require-backbone"]
    catalog = ["--catalog", raw_world / "stac" / "catalog.json", "--year", "nearest"]
    inputs = ["--imagery", out / "imagery", "--environment", out / "env.parquet", "--without-imagery", "keep"]
    for main, arguments in (
        (occurrences, [raw_world / "occurrences.zip", *names, "--out", out / "clean"]),
        (sentinel2, ["--occurrences", table, *catalog, "--out", out / "imagery"]),
        (environment, ["--occurrences", table, "--rasters", rasters, "--table", out / "env.parquet"]),
        (pack, ["--occurrences", table, *inputs, "--no-report", "--out", out / "packed"]),
    ):
        assert not main([str(argument) for argument in arguments])
    return out


def test_planted_samples_come_back(raw_world, road, capsys):
    result = compare(raw_world, road / "packed", road / "clean" / "refused.parquet")
    assert result.differences == []
    assert (result.samples, result.unseen, result.refused) == (36, 0, 26)
    assert result.values == 36 * 12 * 10 * 25
    refused = str(road / "clean" / "refused.parquet")
    assert check([str(raw_world), "--packed", str(road / "packed"), "--refused", refused]) == 0
    assert "all as planted" in capsys.readouterr().out


def test_store_tells_of_the_looks(raw_world, road):
    store = ImageryStore(road / "imagery")
    looks = pd.read_parquet(raw_world / "truth" / "looks.parquet").set_index("sample_id")
    table = store.table().set_index("sample_id").loc[looks.index]
    for name in ("epsg", "x", "y", "clipped"):
        np.testing.assert_array_equal(table[name], looks[name], err_msg=name)
    for name in ("year_used", "year_difference"):
        np.testing.assert_array_equal(table[name].fillna(-9999), looks[name].fillna(-9999), err_msg=name)
    np.testing.assert_array_equal(np.stack(table["scenes"]), np.stack(looks["scenes"]))
    np.testing.assert_allclose(np.stack(table["snow"]), np.stack(looks["snow"]), atol=1e-6)


def test_synonyms_came_back_under_their_accepted_names(raw_world, road):
    """No name of the packed set is a synonym, and the records had some."""
    backbone = pd.read_csv(raw_world / "taxonomy.csv", dtype=str).set_index("name")
    data = PackedDataset(road / "packed")
    species = {taxon.species for taxon in data.taxonomy}
    assert (backbone.loc[sorted(species), "status"] == "ACCEPTED").all()


def test_a_difference_is_found(raw_world, road, tmp_path, capsys):
    """The comparison itself: one digital number, one value and one reason that are not as planted."""
    from geotreeclip.data.writer import PackedWriter

    data = PackedDataset(road / "packed")
    batch, table = data.read(np.arange(len(data))), data.samples()
    images, values = batch.images.copy(), batch.environment.copy()
    images[3, 5, 7, 2, 2] ^= 1
    values[4, 10] += 0.5
    with PackedWriter(tmp_path / "spoilt", data.taxonomy) as writer:
        columns = table[["longitude", "latitude", "year", "country", "source"]]
        writer.add(images, values, batch.taxon, table["sample_id"].tolist(), columns)
    reasons = pd.read_parquet(road / "clean" / "refused.parquet")
    reasons.loc[0, "reason"] = "tree" if reasons.loc[0, "reason"] != "tree" else "zero"
    reasons.to_parquet(tmp_path / "refused.parquet")
    result = compare(raw_world, tmp_path / "spoilt", tmp_path / "refused.parquet")
    assert len(result.differences) == 4
    assert table["sample_id"][3] in result.differences[0]
    assert "B8A (1 values)" in result.differences[0]
    assert "differ in bio03" in result.differences[1]
    shutil.copy(tmp_path / "refused.parquet", tmp_path / "again.parquet")
    spoilt = [str(raw_world), "--packed", str(tmp_path / "spoilt"), "--refused", str(tmp_path / "again.parquet")]
    assert check(spoilt) == 1
    assert "DIFFERENT" in capsys.readouterr().out
