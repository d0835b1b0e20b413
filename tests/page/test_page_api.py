"""What the page is told: the nearest place, its series and cycle, answers with inputs hidden, the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from page_values import HOSTILE, SEASON, TESTED

from geotreeclip.data.packed import PackedWriter
from geotreeclip.errors import DataError, InputError
from geotreeclip.page.places import Places
from geotreeclip.page.table import COLUMNS, MAX_ROWS, read_points
from geotreeclip.schema import VARIABLES


def probabilities(answer):
    return {item["label"]: item["probability"] for item in answer["answers"]}


# -- places -----------------------------------------------------------------------------------------------------------


def test_only_test_samples_are_shown(api):
    world = api.world()
    assert world["places"] == 12
    assert world["role"] == "test"
    assert sum(count for *_, count in world["cells"]) == 12
    assert min(longitude for longitude, *_ in world["cells"]) > TESTED


def test_the_nearest_place_is_found_across_the_date_line_and_at_home(api):
    here = api.place({"longitude": "15.2", "latitude": "50"})
    assert (here["row"], here["sample_id"], here["longitude"]) == (15, "p15", 15.0)
    assert here["distance_km"] == pytest.approx(0.2 * 111.195 * np.cos(np.radians(50)), abs=0.1)
    assert api.place({"longitude": "15", "latitude": "50"})["distance_km"] == 0
    assert api.place({"longitude": "-179", "latitude": "50"})["row"] == 23  # over 180 degrees east
    assert api.place({"longitude": "-150", "latitude": "50"})["row"] == 12  # the shorter way is over the pole
    assert api.place({"longitude": "0", "latitude": "-90"})["distance_km"] == pytest.approx(140 * 111.195, rel=1e-3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"longitude": "east", "latitude": "1"}, "longitude is 'east', not a number"),
        ({"longitude": "1"}, "latitude is '', not a number"),
        ({"longitude": "181", "latitude": "1"}, "longitude is 181; give degrees from -180 to 180"),
        ({"longitude": "nan", "latitude": "1"}, "longitude is nan"),
        ({"longitude": "1", "latitude": "-1e9"}, "latitude is -1e"),
    ],
)
def test_places_off_the_earth_are_refused(api, query, message):
    with pytest.raises(InputError, match=message):
        api.place(query)


def test_the_series_is_what_was_stored(api):
    images = api.place({"longitude": "12", "latitude": "50"})["images"]
    assert images["steps"][:2] == ["Jan", "Feb"]
    assert images["valid"][:2] == [0, 1]
    assert images["bands"]["B8"][0] is None
    np.testing.assert_allclose(images["bands"]["B8"][1:], SEASON[1:] + 0.0014, atol=0.002)
    nir, red = np.array(images["bands"]["B8"][1:]), np.array(images["bands"]["B4"][1:])
    np.testing.assert_allclose(images["index"]["NDVI"][1:], (nir - red) / (nir + red), atol=0.01)
    np.testing.assert_allclose(images["index"]["EVI2"][1:], 2.5 * (nir - red) / (nir + 2.4 * red + 1), atol=0.01)


def test_the_cycle_has_its_dates_in_order_or_a_reason(api):
    cycle = api.place({"longitude": "16", "latitude": "50"})["images"]["cycle"]
    assert cycle["found"]
    dates = list(cycle["dates"].values())
    assert dates == sorted(dates)
    assert 166 <= cycle["dates"]["peak"] <= 228  # about the middle of July
    curve = dict(map(tuple, cycle["curve"]))
    assert max(curve, key=curve.get) == pytest.approx(cycle["dates"]["peak"], abs=16)
    bare = api.place({"longitude": "13", "latitude": "50"})["images"]
    assert set(bare["valid"]) == {0}
    assert bare["cycle"] == {"found": False, "why": "too few clear months"}


def test_dials_show_the_value_among_the_places(api):
    place = api.place({"longitude": "12", "latitude": "50"})
    dials = {dial["name"]: dial for dial in place["environment"]}
    assert dials["elevation"]["value"] is None
    assert not place["known"]["terrain"]
    assert place["known"]["climate"]
    assert dials["bio01"]["low"] <= dials["bio01"]["value"] <= dials["bio01"]["high"]
    soil = api.places.data.read([12]).environment[0, 5]
    assert dials["soil_moisture_0_5cm"]["value"] == pytest.approx(soil / 10, abs=0.05)  # stored in 0.001 cm3/cm3


def test_everything_told_is_json_without_nan(api):
    for longitude in range(12, 24):
        json.dumps(api.place({"longitude": str(longitude), "latitude": "50"}), allow_nan=False)
    json.dumps([api.world(), api.classify({"row": 13})], allow_nan=False)


def test_a_set_without_coordinates_has_no_map(tmp_path):
    environment = np.full((2, len(VARIABLES)), np.nan)
    environment[:, 2] = 100
    with PackedWriter(tmp_path / "set", has_images=False) as writer:
        writer.add(None, environment, [("", "", "Quercus", "")] * 2, ["a", "b"])
    with pytest.raises(DataError, match="no sample has coordinates"):
        Places(tmp_path / "set")


def test_a_set_without_images_or_split_is_shown_whole(tmp_path, classifier):
    environment = np.full((2, len(VARIABLES)), np.nan)
    environment[:, :2] = [[1, 2], [3, 4]]
    with PackedWriter(tmp_path / "set", has_images=False) as writer:
        writer.add(None, environment, [("", "", "Quercus", "")] * 2, ["a", "b"])
    places = Places(tmp_path / "set")
    assert (len(places), places.role) == (2, "all")
    assert places.describe(0)["images"] is None
    assert places.truth(1)["label"] == "Quercus"


def test_a_series_of_dated_scenes_is_named_by_its_days(tmp_path):
    days = np.repeat(np.arange(10, 360, 12.0), 2)[: 2 * 29]  # two scenes on each day
    season = 2500 - 2000 * np.cos(2 * np.pi * (days - 15) / 365)
    images = np.full((1, len(days), 10, 5, 5), 400, np.uint16)
    images[0, :, 3] = season[:, None, None]
    environment = np.full((1, len(VARIABLES)), np.nan)
    environment[:, :2] = [10, 50]
    with PackedWriter(tmp_path / "set", steps=len(days), has_days=True) as writer:
        writer.add(images, environment, [("", "", "Quercus", "")], ["a"], days=np.stack([days, days], axis=-1)[None])
    places = Places(tmp_path / "set")
    told = places.describe(0)["images"]
    assert told["steps"][0] in ("day 9", "day 10")  # the middle of day 10 lies half a day behind its start
    assert told["cycle"]["found"]
    assert 180 < told["cycle"]["dates"]["peak"] < 215
    assert None not in [value for _, value in told["cycle"]["curve"]]
    assert places.observe(0, ["image"], [0, 1]).image_valid.flatten(2).any(-1).sum() == len(days) - 2


# -- answers ----------------------------------------------------------------------------------------------------------


def test_the_answer_is_that_of_the_classifier(api, classifier):
    answer = api.classify({"row": 16})
    found = classifier.classify_batch(api.places.observe(16, api.world()["inputs"]), top_k=8)
    assert [item["label"] for item in answer["answers"]] == [item.label for item in found]
    np.testing.assert_allclose(list(probabilities(answer).values()), found.probability[0], atol=1e-4)
    assert answer["statement"] == found.back_off()["statement"][0]
    frame = found.to_pandas()
    assert [item["in_range"] for item in answer["answers"]] == frame["in_range"].tolist()
    assert [rank["rank"] for rank in answer["ranks"]] == ["species", "genus", "family", "leaf_type"]
    assert answer["envelope"]["label"] == found[0].label


@pytest.mark.parametrize("group", ["image", "terrain", "soil", "climate", "location"])
def test_an_input_switched_off_changes_the_answer(api, group):
    rest = [name for name in api.world()["inputs"] if name != group]
    whole, part = (probabilities(api.classify({"row": 16, "inputs": names})) for names in ([*rest, group], rest))
    assert max(abs(whole[label] - part[label]) for label in whole) > 1e-3


def test_a_month_switched_off_is_a_month_that_is_missing(api):
    whole, part = api.classify({"row": 16}), api.classify({"row": 16, "hidden": [6]})
    assert part["valid_months"] == whole["valid_months"] - 1 == 11
    assert probabilities(whole) != probabilities(part)
    assert probabilities(api.classify({"row": 12, "hidden": [0]})) == probabilities(api.classify({"row": 12}))


def test_plausibility_looks_at_the_place_also_when_the_model_may_not(api):
    whole, blind = api.classify({"row": 16}), api.classify({"row": 16, "inputs": ["image"]})
    near = {item["label"]: item["distance_km"] for item in whole["answers"]}
    assert all(distance is not None for distance in near.values())
    assert {item["label"]: item["distance_km"] for item in blind["answers"]} == near


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([], "give"),
        ({}, "give"),
        ({"row": 16, "model": "/etc"}, "give"),
        ({"row": "16"}, "row must be the number of a place"),
        ({"row": True}, "row must be the number of a place"),
        ({"row": 3}, "place 3 is none of the 12 places"),  # a training sample
        ({"row": -1}, "place -1 is none"),
        ({"row": 10**30}, "is none of the 12 places"),
        ({"row": 16, "inputs": ["smell"]}, "inputs must be a list of image"),
        ({"row": 16, "inputs": "image"}, "inputs must be"),
        ({"row": 16, "hidden": [12]}, "step 12 cannot be hidden"),
        ({"row": 16, "hidden": [-1]}, "step -1 cannot be hidden"),
        ({"row": 16, "hidden": [0.5]}, "hidden must be"),
        ({"row": 16, "inputs": []}, "nothing is left that this model reads"),
        ({"row": 13, "inputs": ["image"]}, "nothing is left"),  # a place without images
        ({"row": 16, "inputs": ["image"], "hidden": list(range(12))}, "nothing is left"),
    ],
)
def test_bad_questions_are_refused(api, question, message):
    with pytest.raises(InputError, match=message):
        api.classify(question)


def test_the_truth_is_told_when_asked_for(api):
    assert api.truth({"row": "17"})["label"] == api.classifier.taxonomy[1].species
    for row in ("", "x", "-1", "3", "²", "9" * 20):
        with pytest.raises(InputError):
            api.truth({"row": row})


# -- tables -----------------------------------------------------------------------------------------------------------


def test_points_get_the_answers_of_the_classifier(api, classifier):
    text = '\ufeffid;Lon;lat;elev;bio_1;remark\n007;10.5;50.1;300;8.5;"wet; cold"\n12;-3.2;40;;14.25;\n\n'
    answer = api.table(text.encode(), {"name": "C:\\tmp\\my points.csv"})
    assert answer["name"] == "my points.csv"
    expected = classifier.classify(
        longitude=[10.5, -3.2], latitude=[50.1, 40], environment={"elevation": [300, None], "bio01": [8.5, 14.25]}
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in answer["rows"]]
    assert [row["sample"] for row in rows] == ["007", "12"]
    assert [row["longitude"] for row in rows] == [10.5, -3.2]
    assert [row["label"] for row in rows] == [item.label for item in expected.best()]
    assert [row["probability"] for row in rows] == pytest.approx(
        [item.probability for item in expected.best()], abs=1e-4
    )
    assert [row["statement"] for row in rows] == expected.back_off()["statement"].tolist()
    assert {type(row["in_range"]) for row in rows} <= {bool}
    assert answer["notes"][0] == "columns not used: remark"


def test_location_alone_is_said(api):
    answer = api.table(b"longitude,latitude\n1,2\n", {})
    assert answer["rows"][0][0] == "1"
    assert any("location alone" in note for note in answer["notes"])


def test_worldclim_1_is_converted(api):
    old = api.table(b"lon,lat,bio01,bio05\n5,50,85,231\n", {"worldclim": "1"})
    new = api.table(b"lon,lat,bio01,bio05\n5,50,8.5,23.1\n", {})
    assert old["rows"] == new["rows"]


def test_the_example_is_taken(api):
    example = api.example()
    answer = api.table(example.encode(), {"name": "example.csv"})
    assert len(answer["rows"]) == 12
    assert HOSTILE in [row[0] for row in answer["rows"]]
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "points.csv: the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"longitude,latitude\n", "has a header but no rows"),
        (b"x,y\n1,2\n", r"no column longitude and no column latitude \(found: x, y\)"),
        (b"lon,y\n1,2\n", r"no column latitude \(found: lon, y\)"),
        (b"lon,lat\n1,2\n3,abc\n", r"points.csv: row 2 \(line 3\): lat is 'abc', not a number"),
        (b"lon,lat\n1,2\n\n\n3,\n", r"row 2 \(line 5\): lat is empty"),
        (b"lon;lat\n1;2,5\n", r"row 1 \(line 2\): lat is '2,5', not a number; write decimals with a point"),
        (b"lon,lat\n1,2,3\n", r"row 1 \(line 2\): 3 fields, the header has 2"),
        (b"lon,lat\n1,95\n", r"row 1 \(line 2\): latitude is 95, outside"),
        (b"lon,lat,bio01\n1,2,8\n1,2,999\n", r"row 2 \(line 3\): bio01 is 999, outside"),
        (b"lon,lat,bio01\n1,2,inf\n", r"row 1 \(line 2\): bio01 is 'inf'; leave the field empty"),
        (b"lon,longitude,lat\n1,1,2\n", "'lon' and 'longitude' both hold longitude"),
        (b'lon,lat\n1,"2\n', "cannot be read as CSV"),
        (b"PK\x03\x04\x00\x00", "no text but some other kind of file"),
        (b"lon,lat\n1,2\xff\n", r"no text in UTF-8 \(byte 11\)"),
        (b"lon,lat\n" + b"1,2\n" * (MAX_ROWS + 1), "more than 5,000 rows"),
        (b"lon,lat\n1," + b"x" * 200_000 + b"\n", "cannot be read as CSV|not a number"),
    ],
)
def test_a_bad_file_is_named_with_row_and_field(api, content, message):
    with pytest.raises(InputError, match=message) as caught:
        api.table(content, {"name": "points.csv"})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_largest_table_is_taken():
    points = read_points(b"lon,lat\n" + b"1,2\n" * MAX_ROWS)
    assert len(points.samples) == MAX_ROWS
