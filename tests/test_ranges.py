"""Ranges: cells that are coarse and equal, envelopes that hold their own, distances that are right."""

from __future__ import annotations

import numpy as np
import pytest

from geotreeclip.applicability import Applicability, read_applicability
from geotreeclip.cells import cell_centres, cells_of
from geotreeclip.errors import DataError, InputError
from geotreeclip.ranges import CLIMATE, FILE, NEAR_KM, _balanced, read_ranges, training_ranges
from geotreeclip.schema import VARIABLES
from geotreeclip.sphere import EARTH_RADIUS_KM, unit_vectors
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = Taxonomy(
    [
        Taxon("D", "Fagaceae", "Quercus", "Quercus robur"),
        Taxon("D", "Fagaceae", "Quercus", "Quercus alba"),
        Taxon("D", "Fagaceae", "Fagus", "Fagus sylvatica"),
    ]
)
N = 600


@pytest.fixture(scope="module")
def samples():
    """Robur in Europe, alba in America, no beech at all; temperature falls with latitude."""
    rng = np.random.default_rng(0)
    taxon = np.repeat([0, 1], N // 2)
    places = np.stack([rng.uniform(0, 20, N) - 90 * taxon, rng.uniform(40, 55, N)], axis=1)
    environment = np.full((N, len(VARIABLES)), np.nan, np.float32)
    environment[:, 0], environment[:, 1] = places.T
    for column in CLIMATE:
        environment[:, column] = 30 - 0.4 * places[:, 1] + rng.normal(0, 0.5, N)
    return taxon, places, environment


@pytest.fixture(scope="module")
def ranges(samples, tmp_path_factory):
    taxon, places, environment = samples
    directory = tmp_path_factory.mktemp("model")
    training_ranges(TAXA, taxon, places, lambda rows: environment[rows]).write(directory)
    return read_ranges(directory)


def test_cells_are_about_100_km_each_way_and_hold_their_centres():
    rng = np.random.default_rng(1)
    z = rng.uniform(-1, 1, 200_000)  # uniform on the sphere
    longitude, latitude = rng.uniform(-180, 180, z.size), np.degrees(np.arcsin(z))
    cells = cells_of(longitude, latitude)
    middle = unit_vectors(*cell_centres(cells))
    apart = EARTH_RADIUS_KM * np.arccos(np.clip((middle * unit_vectors(longitude, latitude)).sum(axis=1), -1, 1))
    assert apart.max() < 100
    assert np.mean(apart) > 30
    counts = np.bincount(cells)
    inner = np.abs(cell_centres(np.arange(len(counts)))[1]) < 60
    assert counts[inner].std() / counts[inner].mean() < 0.6  # Poisson noise of about 4 a cell alone is 0.5
    np.testing.assert_array_equal(cells_of(*cell_centres(np.unique(cells))), np.unique(cells))
    assert cells_of([180, -180, 0, 0, np.nan], [0, 0, 90, -90, 0]).tolist()[-1] == -1
    assert cells_of(180, 0) == cells_of(-180, 0)


def test_places_of_training_are_in_range_and_others_are_not(ranges, samples):
    taxon, _, environment = samples
    found = ranges.plausibility(list(TAXA), taxon[:, None], environment)
    assert (found.distance_km == 0).all()
    assert np.nanmean(found.in_range) > 0.95
    other = ranges.plausibility(list(TAXA), 1 - taxon[:, None], environment)
    assert other.distance_km.min() > 4000
    assert not other.in_range.any()


def test_distance_is_the_great_circle_to_the_nearest_cell(ranges):
    place = np.full((1, len(VARIABLES)), np.nan, np.float32)
    place[0, :2] = 10, 0
    found = ranges.plausibility(list(TAXA), np.array([[0]]), place)
    assert found.distance_km[0, 0] == pytest.approx(40.05 * 111.2, rel=0.02)
    assert np.isnan(found.climate_inside[0, 0])
    assert found.in_range[0, 0] == 0


def test_a_wrong_climate_is_out_of_range_where_the_place_is_not(ranges, samples):
    environment = samples[2][:1].copy()
    environment[0, list(CLIMATE[:4])] += 40
    found = ranges.plausibility(list(TAXA), np.array([[0]]), environment)
    assert found.distance_km[0, 0] == 0
    assert found.climate_inside[0, 0] < 0.8
    assert found.in_range[0, 0] == 0


def test_genera_unite_their_species_and_unknown_labels_have_no_range(ranges, samples):
    labels = [Taxon(genus="Quercus"), Taxon(genus="Acer"), TAXA[2]]
    found = ranges.plausibility(labels, np.tile([0, 1, 2], (N, 1)), samples[2])
    assert (found.distance_km[:, 0] == 0).all()
    assert np.isnan(found.in_range[:, 1]).all()
    assert np.isnan(found.in_range[:, 2]).all()  # no beech was in training


def test_known_in_a_box(ranges):
    assert ranges.known_in(-10, 35, 30, 60) == [0]
    assert ranges.known_in(-100, 35, 30, 60) == [0, 1]
    assert ranges.known_in(170, 35, -60, 60) == [1]  # across 180
    with pytest.raises(InputError, match="west,south,east,north"):
        ranges.known_in(0, 60, 10, 50)
    with pytest.raises(InputError, match="no taxon"):
        ranges.known_in(0, -60, 10, -50)


def test_the_file_holds_no_coordinates_and_no_record_of_its_own(ranges, samples):
    taxon, places, environment = samples
    one = training_ranges(TAXA, taxon[:1], places[:1], lambda rows: environment[rows])
    assert one.cells[0].tolist() == [cells_of(*places[0])]
    assert not np.isin(environment[0, list(CLIMATE)], ranges.low[0]).any()


def test_applicability_tells_new_climates(ranges, samples):
    known = samples[2][:, list(CLIMATE)]
    assert (ranges.applicability.dissimilarity(known) <= ranges.applicability.threshold).mean() > 0.9
    assert (ranges.applicability.dissimilarity(known + 30) > ranges.applicability.threshold).all()
    some = known.copy()
    some[:, :5] = np.nan
    assert np.isfinite(ranges.applicability.dissimilarity(some)).all()
    some[:, :15] = np.nan
    assert np.isnan(ranges.applicability.dissimilarity(some)).all()
    assert Applicability.fit(known[:5].astype(np.float64), np.arange(5, dtype=np.int32)) is None


def test_rare_labels_keep_all_their_samples():
    taxon = np.repeat([0, 1, 2], [1000, 50, 3])
    kept = taxon[_balanced(taxon, 200)]
    assert len(kept) <= 200
    assert np.bincount(kept).tolist() == [147, 50, 3]


def test_damaged_files_say_so(tmp_path):
    assert read_ranges(tmp_path) is None
    assert read_applicability(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"ranges.parquet: cannot be read"):
        read_ranges(tmp_path)
    assert NEAR_KM == 300
