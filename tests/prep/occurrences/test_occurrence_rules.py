"""Each rule refuses what it is about, counts it, and can be skipped."""

from __future__ import annotations

import numpy as np
import pytest
from occurrence_helpers import clean, reasons, records, simple_csv, text

from geotreeclip.errors import ConfigError
from geotreeclip.prep.occurrences.rules import BITS, RULES, RuleOptions, first_reason, is_rounded, names_of

CASES: dict[str, tuple[dict[str, str], str]] = {
    "coordinates": ({"decimalLatitude": ""}, "missing"),
    "coordinates, no number": ({"decimalLongitude": "9,54321"}, "9,54321, 51.12345"),
    "coordinates, infinite": ({"decimalLongitude": "inf"}, "inf, 51.12345"),
    "range": ({"decimalLatitude": "-90.1"}, "9.54321, -90.1"),
    "zero": ({"decimalLatitude": "0", "decimalLongitude": "0.0"}, "0.0, 0.0"),
    "equal": ({"decimalLatitude": "-9.54321"}, "9.54321, -9.54321"),
    "issue": ({"issue": "COORDINATE_ROUNDED;ZERO_COORDINATE;TAXON_MATCH_NONE"}, "TAXON_MATCH_NONE;ZERO_COORDINATE"),
    "obscured": ({"coordinateUncertaintyInMeters": "28000"}, "28000 m"),
    "uncertainty": ({"coordinateUncertaintyInMeters": "1000.5"}, "1000.5 m"),
    "rounded": ({"decimalLatitude": "51.12", "decimalLongitude": "9.5400"}, "9.54, 51.12"),
    "rounded, minutes": ({"decimalLatitude": "51.016667", "decimalLongitude": "9.5833"}, "9.5833, 51.016667"),
    "basis": ({"basisOfRecord": "PRESERVED_SPECIMEN"}, "PRESERVED_SPECIMEN"),
    "presence": ({"occurrenceStatus": "absent"}, "absent"),
    "year": ({"year": "2014"}, "2014"),
    "year, none": ({"year": "", "eventDate": ""}, "missing"),
    "kingdom": ({"kingdom": "Fungi"}, "Fungi"),
    "rank": ({"taxonRank": "GENUS", "species": "", "speciesKey": ""}, "rank GENUS"),
    "rank, own key": ({"speciesKey": "5", "genusKey": "5"}, "key 5 is its own genus key"),
    "name": ({"species": "Albizia sp"}, "Albizia sp: left open by 'sp'"),
    "key": ({"speciesKey": "5015"}, "key 5015 is below 100,000, where GBIF numbers kingdoms to families"),
}


@pytest.fixture(scope="module")
def all_cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    rows = [
        row | {"genusKey": row.get("genusKey", "")} for row in records(*(change for change, _ in CASES.values()), {})
    ]
    rows = [row | ({"decimalLatitude": "51.12345"} if "decimalLatitude" not in change else {}) | change
            for row, (change, _) in zip(rows, [*CASES.values(), ({}, "")], strict=True)]  # fmt: skip
    return clean(folder / "out", simple_csv(folder / "a.zip", rows), rules=RuleOptions(skip=("duplicate",)))


@pytest.mark.parametrize("case", CASES)
def test_each_rule_gives_reason_and_value(case, all_cases):
    _, _, refused = all_cases
    row = refused.set_index("sample_id").loc[str(100 + list(CASES).index(case))]
    assert (row["reason"], row["value"]) == (case.partition(",")[0], CASES[case][1])


def test_the_good_record_is_kept_and_the_report_adds_up(all_cases):
    report, kept, refused = all_cases
    assert list(kept["sample_id"]) == [str(100 + len(CASES))]
    assert report.read == len(CASES) + 1 == report.kept + report.refused
    counted = {rule.name: rule.refused for rule in report.rules if rule.refused}
    assert counted == refused["reason"].value_counts().to_dict()
    alone = {rule.name: rule.alone for rule in report.rules}
    assert alone["uncertainty"] == 2  # the obscured one too
    assert alone["name"] == 2  # the genus too
    found = refused.set_index("reason")["also"]
    assert found["obscured"] == "uncertainty"


def test_the_kept_record_has_the_promised_columns(all_cases):
    _, kept, _ = all_cases
    row = kept.iloc[0]
    assert kept.dtypes.astype(str).replace({"str": "object"}).to_dict() == {
        "sample_id": "object", "leaf_type": "object", "family": "object", "genus": "object", "species": "object",
        "taxon_key": "int64", "longitude": "float64", "latitude": "float64", "year": "int32", "month": "int8",
        "day": "int8", "country": "object", "source": "object", "uncertainty_m": "float32", "precision": "object",
        "license": "object", "dataset_key": "object", "rights_holder": "object",
    }  # fmt: skip
    assert (row["family"], row["genus"], row["species"], row["taxon_key"]) == (
        "Fagaceae", "Quercus", "Quercus robur", 2878688,
    )  # fmt: skip
    assert (row["year"], row["month"], row["day"], row["country"], row["source"]) == (2020, 6, 5, "DE", "set-1")
    assert (row["longitude"], row["latitude"], row["uncertainty_m"], row["precision"]) == (
        9.54321,
        51.12345,
        10,
        "imagery",
    )


def test_every_rule_can_be_skipped(tmp_path):
    names = tuple(rule.name for rule in RULES if rule.name != "readable")
    rows = records(*(change for change, _ in CASES.values()), {}, {"gbifID": "100"})
    rows = [row | {"genusKey": row.get("genusKey", "")} for row in rows]
    report, kept, _ = clean(tmp_path / "out", simple_csv(tmp_path / "a.zip", rows), rules=RuleOptions(skip=names))
    assert len(kept) == report.kept == len(rows)
    assert set(kept["precision"]) == {"imagery", "coarse"}
    assert not any(rule.active for rule in report.rules if rule.name != "readable")


def test_what_is_not_said_is_not_refused_but_counted(tmp_path):
    rows = [
        {"longitude": f"9.5432{number}", "latitude": "51.12345", "species": "Quercus robur", "year": "2020"}
        for number in range(3)
    ]
    (tmp_path / "a.csv").write_text(text(rows, ","))
    report, kept, _ = clean(tmp_path / "out", tmp_path / "a.csv")
    assert set(kept["precision"]) == {"unknown"}
    assert sorted(kept["sample_id"]) == ["a-2", "a-3", "a-4"]
    untested = {rule.name: rule.not_testable for rule in report.rules if rule.not_testable}
    assert untested == dict.fromkeys(("issue", "obscured", "uncertainty", "basis", "presence"), 3)
    assert any("'obscured': 3 rows say nothing to test" in note for note in report.notes)


def test_strata_of_precision(tmp_path):
    wanted = {"": "unknown", "0": "unknown", "30": "imagery", "30.5": "environment", "1000": "environment"}
    rows = records(*({"coordinateUncertaintyInMeters": metres} for metres in wanted))
    _, kept, _ = clean(tmp_path / "out", simple_csv(tmp_path / "a.zip", rows))
    found = kept.set_index("sample_id")["precision"].to_dict()
    assert [found[str(100 + number)] for number in range(len(wanted))] == list(wanted.values())


@pytest.mark.parametrize(
    ("column", "words", "hidden"),
    [
        ("informationWithheld", "Coordinate uncertainty increased to 28 km to protect threatened taxon", True),
        ("informationWithheld", "mask coordinates", True),
        ("dataGeneralizations", "Generalised to a 10 km grid", True),
        ("informationWithheld", "name of the collector on request", False),
    ],
)
def test_obscured_by_what_an_archive_says(column, words, hidden, tmp_path):
    rows = [row | {column: row.get(column, "")} for row in records({column: words}, {})]
    report, _, refused = clean(tmp_path / "out", simple_csv(tmp_path / "a.zip", rows))
    assert reasons(refused) == ({"100": "obscured"} if hidden else {})
    assert {rule.name: rule.not_testable for rule in report.rules}["obscured"] == 0


def test_years_come_from_the_date_where_they_are_not_stated(tmp_path):
    dates = {"2021-03-04T05:06:07": (2021, 3, 4), "2021-03": (2021, 3, None), "2021/2022": (2021, None, None)}
    rows = records(*({"year": "", "month": "", "day": "", "eventDate": date} for date in dates))
    _, kept, _ = clean(tmp_path / "out", simple_csv(tmp_path / "a.zip", rows))
    found = kept.sort_values("sample_id")[["year", "month", "day"]].astype(object).where(kept.notna(), None)
    assert [tuple(None if value != value else value for value in row) for row in found.to_numpy()] == list(
        dates.values()
    )


def test_rounding_is_looked_for_in_degrees_and_minutes():
    x = np.array([9.54, 9.5, 9.541, 9.5, 10 + 7 / 60, round(10 + 7 / 60, 5), 10.11667])
    y = np.array([51.1, 51.123, 51.12, 51.25, 51 + 1 / 60, round(51 + 1 / 60, 4), 51.01234])
    assert is_rounded(x, y, 3).tolist() == [True, False, False, True, True, True, False]
    assert not is_rounded(x, y, 0).any()
    rng = np.random.default_rng(1)
    x, y = np.round(rng.uniform(-180, 180, (2, 200_000)), 5)
    assert is_rounded(x, y, 3).mean() < 1e-4


def test_the_most_precise_latest_first_record_of_a_place_is_kept(tmp_path):
    place = {"decimalLatitude": "51.12345", "decimalLongitude": "9.54321"}
    rows = records(
        place | {"coordinateUncertaintyInMeters": ""},
        place | {"coordinateUncertaintyInMeters": "20", "year": "2019"},
        place | {"coordinateUncertaintyInMeters": "20", "year": "2021"},
        place | {"coordinateUncertaintyInMeters": "20", "year": "2021"},
        place | {"coordinateUncertaintyInMeters": "5", "year": "2001"},  # refused for its year
        place | {"species": "Quercus petraea", "speciesKey": "2880652", "taxonKey": "2880652"},
        {"decimalLatitude": "51.123454", "decimalLongitude": "9.543212"},  # the same metre
        {"decimalLatitude": "51.12347", "decimalLongitude": "9.54321"},
    )
    report, kept, refused = clean(tmp_path / "out", simple_csv(tmp_path / "a.zip", rows))
    assert sorted(kept["sample_id"]) == ["105", "106", "107"]  # 106 states 10 m
    duplicates = refused[refused["reason"] == "duplicate"]
    assert sorted(duplicates["sample_id"]) == ["100", "101", "102", "103"]
    assert set(duplicates["value"]) == {"106"}
    assert {rule.name: rule.alone for rule in report.rules}["duplicate"] == 5


def test_a_record_that_comes_again_is_refused_unless_the_first_is_bad(tmp_path):
    first = simple_csv(tmp_path / "a.zip", records({}, {"year": "2001"}))
    second = simple_csv(tmp_path / "b.zip", records({}, {}))
    report, kept, refused = clean(tmp_path / "out", first, second)
    assert sorted(kept["sample_id"]) == ["100", "101"]
    found = refused.set_index(["file", "row"])
    assert found.loc[("b", 2), "reason"] == "repeated"
    assert found.loc[("b", 2), "value"] == "row 2 of a"
    assert found.loc[("a", 3), "reason"] == "year"
    assert found.loc[("a", 3), "also"] == "repeated"
    assert report.kept == kept["sample_id"].nunique()


def test_a_mask_refuses_places_below_it_and_without_data(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    cover = np.array([[80, 5], [255, 40]], np.uint8)
    transform = rasterio.transform.from_origin(9, 52, 1, 1)
    with rasterio.open(
        tmp_path / "cover.tif", "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8", nodata=255,
        crs="EPSG:4326", transform=transform,
    ) as target:  # fmt: skip
        target.write(cover, 1)
    places = [("9.54321", "51.12345"), ("10.54321", "51.12345"), ("9.54321", "50.12345"), ("30.54321", "50.12345")]
    rows = records(*({"decimalLongitude": x, "decimalLatitude": y} for x, y in places), {"decimalLatitude": ""})
    _, kept, refused = clean(
        tmp_path / "out",
        simple_csv(tmp_path / "a.zip", rows),
        mask=tmp_path / "cover.tif",
        rules=RuleOptions(mask_min=30),
    )
    assert list(kept["sample_id"]) == ["100"]
    found = refused.set_index("sample_id")
    assert found["value"].to_dict() == {"101": "5", "102": "no data", "103": "no data", "104": "missing"}


def test_options_that_cannot_be():
    for wrong in (
        {"skip": ("nonsense",)}, {"skip": ("readable",)}, {"tree_evidence": "x"}, {"duplicate_decimals": 9},
        {"first_year": 2020, "last_year": 2019}, {"max_uncertainty": 10.0}, {"min_decimals": -1},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            RuleOptions(**wrong)


def test_bits_and_names():
    failing = np.array([0, BITS["tree"], BITS["zero"] | BITS["duplicate"]], np.uint32)
    assert first_reason(failing).tolist() == [-1, [rule.name for rule in RULES].index("tree"), 3]
    assert names_of(int(failing[2])) == "zero, duplicate"
