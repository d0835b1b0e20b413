"""Groups of samples, continents, means over places, comparisons and splits side by side, the leak audit."""

import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import DataError, InputError
from geotreeclip.evaluation.comparison import compare, side_by_side, split_order, split_words
from geotreeclip.evaluation.continents import CONTINENTS, COUNTRIES, continent_of_country, continent_of_place
from geotreeclip.evaluation.leaks import Samples, audit
from geotreeclip.evaluation.predictions import Context, from_log_prob
from geotreeclip.evaluation.splits import nearest, spatial_blocks, spatial_folds
from geotreeclip.evaluation.strata import by_continent, by_group, by_rarity, countries_of, mean_over_blocks
from geotreeclip.taxonomy import Taxon

TAXA = [Taxon("Broad", "F", "G", f"G {name}") for name in "abcd"]


def predict(right, truth=None, seed=0, split=None, system="one", ids=None, **columns):
    """Predictions that are right where asked."""
    rng = np.random.default_rng(seed)
    right = np.asarray(right, dtype=bool)
    truth = rng.integers(0, 4, len(right)) if truth is None else np.asarray(truth)
    said = np.where(right, truth, (truth + 1) % 4)
    scores = np.log(np.where(np.arange(4) == said[:, None], 0.7, 0.1)) - 1e-6 * np.arange(4)  # no ties: those cost time
    ids = [f"s{i:05d}" for i in range(len(right))] if ids is None else ids
    return from_log_prob(scores, TAXA, truth, ids, context=Context(split=split, system=system), **columns)


@pytest.mark.parametrize(
    ("place", "continent"),
    [
        ((13.4, 52.5), "Europe"), ((-9.1, 38.7), "Europe"), ((-18, 65), "Europe"), ((14.5, 35.9), "Europe"),
        ((25.1, 35.3), "Europe"), ((37.6, 55.8), "Europe"), ((28, 40), "Asia"), ((44.5, 40.2), "Asia"),
        ((82.9, 55), "Asia"), ((35.2, 31.8), "Asia"), ((46.7, 24.7), "Asia"), ((140, 36), "Asia"), ((113, 0), "Asia"),
        ((178, 66), "Asia"), ((31.2, 30), "Africa"), ((10.2, 36.8), "Africa"), ((-7.6, 33.6), "Africa"),
        ((47.5, -19), "Africa"), ((18.4, -34), "Africa"), ((44, 10), "Africa"), ((-74, 4.7), "South America"),
        ((-70, -33), "South America"), ((-66.9, 10.5), "South America"), ((-80, 9), "North America"),
        ((-66, 18.4), "North America"), ((-150, 61), "North America"), ((-40, 65), "North America"),
        ((147, -9.4), "Oceania"), ((151, -34), "Oceania"), ((174.8, -41), "Oceania"), ((-157.9, 21.3), "Oceania"),
        ((178, -18), "Oceania"), ((-178, -18), "Oceania"), ((0, -80), "Antarctica"), ((-30, 0), "South America"),
        ((-140, 45), "North America"), ((75, -30), ""),
    ],
)  # fmt: skip
def test_places_lie_on_their_continent(place, continent):
    assert continent_of_place([place[0]], [place[1]]).tolist() == [continent]
    assert continent_of_place([place[0] + 360], [place[1]]).tolist() == [continent]


def test_countries_know_their_continent():
    assert continent_of_country(["DE", " br", "RU", "XX", "", "TR"]).tolist() == [
        "Europe", "South America", "Europe", "", "", "Asia",
    ]  # fmt: skip
    assert len(COUNTRIES) == 250
    assert set(COUNTRIES.values()) == set(CONTINENTS)


def test_groups_count_every_sample_somewhere():
    right = np.array([1, 1, 0, 0, 1, 0])
    item = predict(right, truth=[0, 1, 0, 0, 2, 2], rarity=["rare", "rare", "frequent", "", "common", "rare"])
    found = by_rarity(item)
    assert [part.name for part in found] == ["rare", "common", "frequent", "unknown"]
    assert sum(part.n for part in found) == 6
    assert found[0].top1.value == pytest.approx(2 / 3)
    assert found[0].macro_top1.value == pytest.approx(2 / 3)
    assert found[0].classes == 3
    with pytest.raises(InputError, match="6 samples"):
        by_group(item, ["a"])


def test_a_country_goes_before_the_place():
    item = predict([1, 0, 1], longitude=[13.4, -159.5, 13.4], latitude=[52.5, 22.0, 52.5])
    samples = pd.DataFrame({"sample_id": ["s00001", "s00000", "s00002"], "country": ["US", "", None]})
    countries = countries_of(item, samples)
    assert countries.tolist() == ["", "US", ""]
    assert {part.name: part.n for part in by_continent(item, countries)} == {"Europe": 2, "North America": 1}
    assert {part.name for part in by_continent(item)} == {"Europe", "Oceania"}
    assert by_continent(predict([1, 0, 1])) == []
    with pytest.raises(DataError, match="another set"):
        countries_of(item, samples.assign(sample_id="x"))
    with pytest.raises(DataError, match="lacks country"):
        countries_of(item, samples.drop(columns="country"))


def test_every_block_counts_alike():
    item = predict([1] * 90 + [0] * 10, block=[0] * 90 + list(range(1, 11)))
    assert item.hits(1).mean() == pytest.approx(0.9)
    assert mean_over_blocks(item).value == pytest.approx(1 / 11)


def test_paired_interval_covers_the_true_difference_and_is_narrower_than_unpaired():
    """Difficulty varies between blocks and hits both systems alike; the second is right 5 points less often."""
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for run in range(80):
        block = np.repeat(np.arange(40), 25)
        hard = rng.normal(0, 0.15, 40)[block]
        luck = rng.random(1000)
        one, two = luck < 0.6 + hard, (luck + rng.normal(0, 0.05, 1000)) < 0.55 + hard
        first, second = predict(one, seed=1, block=block), predict(two, seed=1, system="two", block=block)
        (found,) = compare(first, second, metrics=["top1"], resamples=300, seed=run)
        truth = 0.05
        covered += found.interval.low <= truth <= found.interval.high
        widths.append(found.interval.high - found.interval.low)
    assert covered >= 71  # 95 % of 80 is 76, its standard error 1.9
    assert np.mean(widths) < 0.05  # top-1 alone has intervals of 0.1


def test_compare_by_hand():
    first = predict([1, 1, 0, 1], truth=[0, 0, 1, 2])
    order = [3, 1, 0, 2]
    second = predict([0, 1, 0, 1], truth=[0, 0, 1, 2], system="two").take(order)
    found = {item.metric: item for item in compare(first, second)}
    assert found["top1"].interval.value == pytest.approx(0.25)
    assert found["macro_top1"].interval.value == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["log_loss"].interval.value == pytest.approx(-np.log(7) / 4, abs=1e-5)  # better is less
    assert found["top5"].interval.value == 0
    with pytest.raises(InputError, match="different samples"):
        compare(first, second.take([0, 1]))
    with pytest.raises(InputError, match="metric"):
        compare(first, second, metrics=["f1"])


def test_splits_side_by_side():
    random = predict([1, 1, 1, 0] * 30, split="blocks0", block=np.arange(120) // 3)
    blocked = predict([1, 0, 1, 0] * 30, split="blocks100", block=np.arange(120) // 6)
    other = predict([1, 0], split="holdout")
    splits, (row,) = side_by_side([blocked, other, random])
    assert splits == ["blocks0", "blocks100", "holdout"]
    assert [row.values[name].value for name in splits] == [0.75, 0.5, 0.5]
    assert row.gap["blocks100"].value == pytest.approx(0.25)
    assert row.gap["blocks100"].low < 0.25 < row.gap["blocks100"].high
    assert row.gap["holdout"] is None
    seeds = [predict([1, 1, 0, 0], split="s", seed=3), predict([1, 0, 0, 0], split="s", seed=3)]
    assert side_by_side(seeds)[1][0].values["s"].value == pytest.approx(3 / 8)
    with pytest.raises(InputError, match="join the folds"):
        side_by_side([seeds[0], predict([1], split="s")])


def test_names_of_splits():
    names = ["default", "blocks500-buffer100", "blocks1000", "blocks0", "blocks500", "random"]
    assert sorted(names, key=split_order) == [
        "random", "blocks0", "blocks500", "blocks500-buffer100", "blocks1000", "default",
    ]  # fmt: skip
    assert split_words("blocks0") == "random, by place"
    assert split_words("blocks500-buffer100") == "500 km blocks, 100 km buffer"
    assert split_words("default") == "default"


def forest(size=600, seed=0):
    """Clusters of one species each: location tells the species nearby, nothing far away."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-60, 60, (120, 2))
    cluster = rng.integers(0, 120, size)
    lon, lat = (centre[cluster] + rng.normal(0, 0.05, (size, 2))).T
    species = rng.integers(0, 12, 120)[cluster]
    return Samples(np.array([f"p{i}" for i in range(size)]), lon, lat, species)


def test_audit_sees_what_location_gives_away():
    """The fingerprint of a place is worth everything on a random split and next to nothing on a blocked one."""
    world = forest()
    for size_km, low, high in ((0.0, 0.85, 1.0), (500.0, 0.0, 0.3)):
        roles = spatial_folds(world.longitude, world.latitude, size_km, validation=0).query("fold == 0")["role"]
        test = (roles == "test").to_numpy()
        found = audit(*(Samples(*(column[rows] for column in world)) for rows in (test, ~test)))
        assert low <= found.neighbour_top1 <= high
        assert found.test + found.train == 600
        assert (found.same_block > 0.9) == (size_km == 0)
    assert found.same_id == found.same_place == 0


def test_audit_counts_shared_ids_and_places_across_the_antimeridian():
    test = Samples(np.array(["a", "b"]), np.array([180.0, 10.0]), np.array([0.0, 10.0]), np.array([1, 2]))
    train = Samples(np.array(["c", "b"]), np.array([-180.0, 40.0]), np.array([0.0, 10.0]), np.array([1, 1]))
    found = audit(test, train)
    assert (found.same_id, found.same_place) == (1, 1)
    assert found.near[0.05] == 0.5
    assert found.neighbour_top1 == 0.5
    with pytest.raises(DataError, match="both are needed"):
        audit(test, Samples(*(column[:0] for column in train)))


def test_nearest_gives_the_row_at_the_pole_and_dateline():
    km, row = nearest([179.9, 0.0], [0.0, 89.9], [0.0, -179.9, 180.0], [0.0, 0.0, 89.9])
    assert row.tolist() == [1, 2]
    np.testing.assert_allclose(km, [22.24, 22.24], atol=0.02)
    assert nearest([0.0], [0.0], [], [])[1].tolist() == [-1]
    assert spatial_blocks([180.0], [5.0], 100).tolist() == spatial_blocks([-180.0], [5.0], 100).tolist()
