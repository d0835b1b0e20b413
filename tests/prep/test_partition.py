"""Partitions: one set a sample, promises kept by every rule, the same whatever the order of rows."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import haversine_distances

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep import partition, partition_job
from geotreeclip.prep.partition import EvaluationSet, PartitionConfig, Records

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TABLE = REAL / "GlobalGeoTree-10kEval-90.csv"
NOTHING = {"evaluation": (), "spatial_share": 0.0, "unseen_share": 0.0, "place_km": 0.0}
SMALL = (EvaluationSet("eval-a", 2, (4, 9, 15)), EvaluationSet("eval-b", 3, (2, 3, 4)))


def world(counts: list[int], seed: int = 0, spread: float = 3.0) -> pd.DataFrame:
    """Records of species 0, 1, ... in genera of three, in clumps, some of them at one place."""
    rng = np.random.default_rng(seed)
    species = np.repeat(np.arange(len(counts)), counts)
    clump = rng.integers(0, 12, len(species))
    lon = rng.uniform(-180, 180, 12)[clump] + rng.normal(0, spread, len(species))
    lat = np.clip(rng.uniform(-80, 80, 12)[clump] + rng.normal(0, spread, len(species)), -89, 89)
    twins = rng.integers(0, len(species), max(1, len(species) // 20))
    lon[twins], lat[twins] = lon[twins[0]], lat[twins[0]]
    return pd.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(len(species))],
            "genus": [f"Genus{number // 3}" for number in species],
            "species": [f"Genus{number // 3} species{number}" for number in species],
            "longitude": (lon + 180) % 360 - 180,
            "latitude": lat,
            "year": rng.integers(2015, 2025, len(species)),
        }
    )


def records_of(frame: pd.DataFrame, seed: int = 0) -> Records:
    codes, names = pd.factorize(frame["species"])
    genus = frame.groupby("species")["genus"].first()
    return Records(
        identity=partition.priorities(frame["sample_id"].tolist(), seed, "sample"),
        species=codes.astype(np.int32),
        longitude=frame["longitude"].to_numpy(),
        latitude=frame["latitude"].to_numpy(),
        year=frame["year"].to_numpy(np.int16),
        species_names=list(names),
        genus_names=[genus[name] for name in names],
    )


def sets_of(frame: pd.DataFrame, config: PartitionConfig) -> pd.Series:
    result = partition.assign(records_of(frame, config.seed), config)
    return pd.Series(np.asarray(result.sets)[result.code], index=frame["sample_id"])


def kilometres(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    return 6371.0088 * haversine_distances(
        np.radians(a[["latitude", "longitude"]]), np.radians(b[["latitude", "longitude"]])
    )


configs = st.builds(
    PartitionConfig,
    seed=st.integers(0, 2**40),
    evaluation=st.sampled_from([(), SMALL]),
    keep=st.integers(0, 6),
    place_km=st.sampled_from([0.0, 0.05, 30.0]),
    spatial_share=st.sampled_from([0.0, 0.1, 0.34]),
    block_km=st.sampled_from([50.0, 400.0]),
    buffer_km=st.sampled_from([0.0, 25.0, 150.0]),
    unseen_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    unseen_from=st.sampled_from([None, 2023]),
)
worlds = st.builds(
    world, st.lists(st.sampled_from([3, 21, 30, 100, 101, 140]), min_size=6, max_size=9), st.integers(0, 9)
)


@settings(max_examples=25, deadline=None)
@given(frame=worlds, config=configs)
def test_every_promise_holds_in_any_world(frame: pd.DataFrame, config: PartitionConfig) -> None:
    try:
        sets = sets_of(frame, config)
    except ConfigError as error:
        assert "left for pretraining" in str(error) or "folds" in str(error)  # noqa: PT017
        return
    assert set(sets) <= set(config.sets)
    train, held = frame[(sets == "pretraining").to_numpy()], frame[sets.isin(config.tests).to_numpy()]
    test = frame[(sets == "spatial-test").to_numpy()]
    if len(test):
        assert kilometres(train, test).min() > config.buffer_km - 1e-9
    if len(held):
        assert kilometres(train, held).min() > config.place_km - 1e-9
        assert not set(zip(train.longitude.round(5), train.latitude.round(5), strict=True)) & set(
            zip(held.longitude.round(5), held.latitude.round(5), strict=True)
        )
    unseen = frame[(sets == "unseen-species").to_numpy()]
    assert not set(unseen["species"]) & set(frame[(sets != "unseen-species").to_numpy()]["species"])
    for genus, part in unseen.groupby("genus"):
        others = frame[(frame["genus"] == genus) & ~frame["species"].isin(part["species"])]
        assert others.groupby("species").size().max() >= config.unseen_min_records
    if config.unseen_from:
        assert (train["year"] < config.unseen_from).all()
    rarity = frame.groupby("species").size()
    for each in config.evaluation:
        counts = frame[(sets == each.name).to_numpy()].groupby("species").size()
        expected = [each.samples[0 if rarity[name] <= 100 else 1] for name in counts.index]
        assert counts.tolist() == expected
        assert (rarity[counts.index] >= 21).all()
        assert sum(rarity[counts.index] <= 100) <= each.species
        assert sum(rarity[counts.index] > 100) <= each.species
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    assert sets_of(shuffled, config).reindex(sets.index).equals(sets)


def test_published_counts_by_class_and_what_is_short_is_said() -> None:
    frame = world([45] * 40 + [120] * 32 + [1500] * 2)
    records = records_of(frame)
    config = PartitionConfig(**{**NOTHING, "evaluation": partition.PUBLISHED_SETS[:1]})
    result = partition.assign(records, config)
    counts = np.bincount(records.species[result.of("eval-90")], minlength=74)
    assert sorted(counts[:40].tolist()) == [0] * 10 + [40] * 30
    assert sorted(counts[40:72].tolist()) == [0] * 2 + [110] * 30
    assert counts[72:].tolist() == [181, 181]
    assert [(draw.rarity, draw.eligible, draw.taken) for draw in result.draws] == [
        ("rare", 40, 30), ("common", 32, 30), ("frequent", 2, 2),
    ]  # fmt: skip
    assert "2 frequent species where 30 were asked for" in result.notes[0]


@pytest.mark.parametrize(("records", "name"), [(20, ""), (21, "r"), (100, "r"), (101, "c"), (1499, "c"), (1500, "f")])
def test_class_bounds_are_the_published_ones(records: int, name: str) -> None:
    frame = world([records], spread=20)
    sets = sets_of(frame, PartitionConfig(**{**NOTHING, "evaluation": (EvaluationSet("e", 1, (1, 2, 3)),)}))
    assert (sets == "e").sum() == {"": 0, "r": 1, "c": 2, "f": 3}[name]


def test_a_species_keeps_records_to_train_on() -> None:
    frame = world([25, 26], spread=20)
    sets = sets_of(frame, PartitionConfig(**{**NOTHING, "evaluation": (EvaluationSet("e", 2, (20, 1, 1)),), "keep": 6}))
    assert frame.loc[(sets == "e").to_numpy(), "species"].unique().tolist() == ["Genus0 species1"]


def test_share_of_unseen_species_is_reached_over_small_genera_and_a_list_is_taken_whole() -> None:
    frame = world([21] * 60)  # 20 genera of 3
    config = PartitionConfig(**{**NOTHING, "unseen_share": 0.1})
    unseen = frame[(sets_of(frame, config) == "unseen-species").to_numpy()]
    assert unseen["species"].nunique() == 6
    assert unseen["genus"].nunique() == 6
    assert len(unseen) == 6 * 21
    named = PartitionConfig(**NOTHING, unseen_species=("Genus0 species1", "Genus5 species15"))
    held = sets_of(frame, named) == "unseen-species"
    assert set(frame.loc[held.to_numpy(), "species"]) == {"Genus0 species1", "Genus5 species15"}
    with pytest.raises(ConfigError, match="Genus0 robur"):
        sets_of(frame, PartitionConfig(**NOTHING, unseen_species=("Genus0 robur",)))


def test_places_may_be_shared_where_that_is_allowed_and_the_report_counts_them() -> None:
    frame = world([60] * 4)
    config = PartitionConfig(**NOTHING, unseen_years=(2020,), allow_shared_places=("unseen-years",))
    records = records_of(frame)
    result = partition.assign(records, config)
    assert not result.of("same-place").any()
    report = partition_job.summary(records, result, config, "table")
    train, test = result.of("pretraining"), result.of("unseen-years")
    expected = np.isin(result.place[test], result.place[train]).sum()
    assert expected > 0
    (row,) = report["leaks"]
    assert row["shared_places"] == expected
    assert row["shared_ids"] == row["known_years"] == 0
    assert row["known_species"] == 1
    near = kilometres(frame[test], frame[train]).min(1)
    assert row["nearest_km"]["0.5"] == pytest.approx(np.median(near), abs=1e-3)
    for km in ("0.05", "1", "10"):
        assert row["within_km"][km] == pytest.approx((near <= float(km)).mean(), abs=1e-4)
    assert any("places that pretraining holds" in note for note in report["notes"])


def test_a_record_without_a_year_does_not_train_when_years_are_held_out() -> None:
    frame = world([60] * 3)
    frame.loc[:4, "year"] = partition.NO_YEAR
    sets = sets_of(frame, PartitionConfig(**NOTHING, unseen_from=2022))
    assert (sets.iloc[:5] == "unknown-year").all()
    assert set(sets_of(frame, PartitionConfig(**NOTHING))) == {"pretraining"}
    with pytest.raises(ConfigError, match="years of the records: 2015 to 2024"):
        sets_of(frame, PartitionConfig(**NOTHING, unseen_years=(1999,)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_share": 0.7}, "spatial share is 0.7"),
        ({"block_km": 0}, "block size"),
        ({"buffer_km": float("nan")}, "buffer is nan"),
        ({"evaluation": (EvaluationSet("buffer", 1, (1, 1, 1)),)}, "names must differ"),
        ({"evaluation": (EvaluationSet("../x", 1, (1, 1, 1)),)}, "use letters"),
        ({"evaluation": (EvaluationSet("x", 1, (1, 0, 1)),)}, "whole numbers from 1"),
        ({"allow_shared_places": ("pretraining",)}, "are unknown"),
    ],
)
def test_impossible_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PartitionConfig(**options)


def run(path: Path, out: Path, *options: str) -> pd.DataFrame:
    assert partition_job.main(["--occurrences", str(path), "--out", str(out), *options]) == 0
    return pd.read_parquet(out / "partition.parquet")


OPTIONS = ("--evaluation", "eval-a=2:4,9,15", "--spatial-share", "0.1", "--unseen-from", "2023", "--seed", "7")


def test_parquet_and_published_csv_in_any_batches_give_the_same_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    frame = world([30, 40, 120, 130, 5, 60])
    frame.loc[3, "species"] = ""
    frame.to_parquet(tmp_path / "a.parquet")
    by_parquet = run(tmp_path / "a.parquet", tmp_path / "a", *OPTIONS)
    assert by_parquet["sample_id"].tolist() == frame["sample_id"].tolist()
    monkeypatch.setattr(partition_job.batches, "__defaults__", (37,))
    monkeypatch.setattr(partition_job.read_records, "__defaults__", (37,))
    theirs = frame.rename(columns={"species": "level3_species", "genus": "level2_genus"})
    theirs.sample(frac=1, random_state=2).to_csv(tmp_path / "b.csv", index=False)
    by_csv = run(tmp_path / "b.csv", tmp_path / "b", *OPTIONS)
    assert by_csv.set_index("sample_id")["set"].reindex(frame["sample_id"]).tolist() == by_parquet["set"].tolist()
    assert "wrote" in capsys.readouterr().out
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert {row["set"]: row["samples"] for row in report["sets"] if row["samples"]} == by_parquet[
        "set"
    ].value_counts().to_dict()
    assert report["without_species"] == 1
    assert "| spatial-test |" in (tmp_path / "a" / "report.md").read_text()
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "a.parquet", tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.parquet", "b", "b.csv"]


def test_evaluation_tables_have_the_published_layout(tmp_path: Path) -> None:
    frame = world([30, 40, 120, 130, 5, 60]).assign(country="NA", taxon_key=pd.array([7] * 385, dtype="Int64"))
    frame["leaf_type"] = 'Evergreen, "Broadleaf"'
    frame.loc[::2, "taxon_key"] = pd.NA
    frame.to_parquet(tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet", tmp_path / "a", *OPTIONS)
    table = pd.read_csv(tmp_path / "a" / "eval-a.csv", keep_default_na=False)
    header = "sample_id,country_code,level0,level1_family,level2_genus,level3_species,location,source,species_key,year"
    assert list(table.columns) == [*header.split(","), "longitude", "latitude", "Category"]
    assert table["sample_id"].tolist() == found.loc[found["set"] == "eval-a", "sample_id"].tolist()
    rows = frame.set_index("sample_id").loc[table["sample_id"]]
    assert np.array_equal(table["longitude"], rows["longitude"])  # exact to the last digit
    assert set(table["country_code"]) == {"NA"}
    assert set(table["level0"]) == {'Evergreen, "Broadleaf"'}
    assert set(table["species_key"]) == {"7", ""}
    counts = frame.groupby("species").size()
    assert table["Category"].tolist() == ["Rare" if counts[n] <= 100 else "Common" for n in table["level3_species"]]
    assert pd.read_csv(tmp_path / "a" / "unseen-species.csv").empty


def broken(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "id twice":
        frame.loc[50, "sample_id"] = "s3"
    if how == "no id":
        frame.loc[50, "sample_id"] = ""
    if how == "word":
        frame["latitude"] = frame["latitude"].astype(object)
        frame.loc[50, "latitude"] = "north"
    if how == "nowhere":
        frame.loc[50, "longitude"] = np.nan
    return frame.drop(columns="species") if how == "no species" else frame.iloc[:0] if how == "empty" else frame


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("id twice", "row 50: sample id 's3' stands in an earlier row"),
        ("no id", "row 50: has no sample id"),
        ("word", "row 50: latitude is 'north'"),
        ("nowhere", "first in row 50"),
        ("no species", "lacks the columns species"),
        ("empty", "no rows"),
    ],
)
def test_broken_tables_are_refused_and_nothing_is_written(tmp_path: Path, how: str, words: str) -> None:
    broken(world([30, 40, 30]), how).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=words):
        run(tmp_path / "a.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_parquet_that_is_none_and_an_output_that_cannot_be_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        run(tmp_path / "a.parquet", tmp_path / "out")
    world([30, 40, 30]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="cannot be written"):
        run(tmp_path / "a.csv", tmp_path / "a.csv" / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is not a partition"):
        run(tmp_path / "a.csv", tmp_path / "mine", "--overwrite")
    with pytest.raises(ConfigError, match="NAME=SPECIES"):
        run(tmp_path / "a.csv", tmp_path / "out", "--evaluation", "eval=3")


@pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE} is absent")
def test_the_published_90_species_set(tmp_path: Path) -> None:
    found = run(TABLE, tmp_path / "out", "--evaluation", "e=30:4,11,19", "--unseen-share", "0.1")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rarity = {row["class"]: row["species"] for row in report["rarity"]}
    assert rarity == {"scarce": 0, "rare": 30, "common": 60, "frequent": 0}  # by its own counts: 40, 110, 181
    frame = pd.read_csv(TABLE, dtype={"sample_id": str}, keep_default_na=False)
    assert found["sample_id"].tolist() == frame["sample_id"].tolist()
    train = frame[(found["set"] == "pretraining").to_numpy()]
    test = frame[(found["set"] == "spatial-test").to_numpy()]
    assert kilometres(test, train).min() > 10
    assert 0.03 < len(test) / len(frame) < 0.07
    unseen = frame[(found["set"] == "unseen-species").to_numpy()]
    assert unseen["level3_species"].nunique() == 2  # 10 % of the 22 species in genera of several
    assert set(unseen["level2_genus"]) <= set(train["level2_genus"])
    assert all(row["shared_places"] == 0 for row in report["leaks"])
