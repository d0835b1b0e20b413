import numpy as np
import pytest

from geotreeclip.demo.climate import bioclim, draw_sites
from geotreeclip.demo.config import PRESETS, WorldConfig, world_config
from geotreeclip.demo.ranges import FULL_SIZE, log_ranges, training_counts
from geotreeclip.demo.species import REGIONS, SPECIES, demo_taxonomy
from geotreeclip.demo.spectra import canopy
from geotreeclip.demo.traits import draw_traits, taxonomic_effects
from geotreeclip.demo.world import build_world, draw_environment, draw_images, draw_records, draw_visible
from geotreeclip.errors import ConfigError
from geotreeclip.schema import BANDS, GROUPS, MISSING_DN, RANKS, VARIABLE_INDEX, VARIABLES


@pytest.fixture(scope="module")
def world():
    return build_world(world_config(seed=1, sites=400), 2000)


@pytest.fixture(scope="module")
def drawn(world):
    rng = np.random.default_rng(0)
    records = draw_records(world, rng, species=rng.integers(0, 60, 1200))
    return records, draw_environment(world, records, rng), draw_images(world, records, rng)


def test_taxonomy_is_real_and_has_relatives():
    taxonomy = demo_taxonomy()
    assert len(taxonomy) == 60
    assert {taxon.leaf_type for taxon in taxonomy} == {
        "Deciduous Broadleaf", "Evergreen Broadleaf", "Evergreen Needleleaf", "Deciduous Needleleaf"
    }  # fmt: skip
    assert all(taxon.species.split()[0] == taxon.genus for taxon in taxonomy)
    sizes = [len(taxonomy.names(rank)[0]) for rank in RANKS]
    assert sizes == sorted(sizes)
    assert max(np.bincount(taxonomy.names("genus")[1])) >= 5
    genus_families = {(taxon.genus, taxon.family) for taxon in taxonomy}
    assert len(genus_families) == len({genus for genus, _ in genus_families})


def test_full_size_counts_have_the_published_groups():
    counts = training_counts(None, np.random.default_rng(0))
    assert counts.sum() == FULL_SIZE
    assert 16_000 <= FULL_SIZE <= 20_000
    assert counts.min() >= 21
    assert [(counts >= 1500).sum(), ((counts > 100) & (counts < 1500)).sum(), (counts <= 100).sum()] == [6, 24, 30]


@pytest.mark.parametrize("samples", [75, 500, 2000, 40_000])
def test_counts_of_any_size_sum_up(samples):
    counts = training_counts(samples, np.random.default_rng(0))
    assert counts.sum() == samples
    assert counts.min() >= 1


def test_relatives_share_their_effects():
    taxonomy = demo_taxonomy()
    effects = taxonomic_effects(taxonomy, 20_000, np.random.default_rng(0))
    row = {taxon.species: effects[i] for i, taxon in enumerate(taxonomy)}

    def correlation(first, second):
        return np.corrcoef(row[first], row[second])[0, 1]

    assert correlation("Quercus robur", "Quercus petraea") == pytest.approx(0.6, abs=0.03)
    assert correlation("Quercus robur", "Fagus sylvatica") == pytest.approx(0.25, abs=0.03)
    assert correlation("Quercus robur", "Betula pendula") == pytest.approx(0, abs=0.03)
    assert effects.std() == pytest.approx(1, abs=0.15)


def test_environment_stays_in_the_ranges_of_the_schema(drawn):
    environment = drawn[1]
    for column, variable in zip(environment.T, VARIABLES, strict=True):
        assert variable.low <= np.nanmin(column) <= np.nanmax(column) <= variable.high, variable.name
    assert not np.isnan(environment[:, GROUPS["location"]]).any()
    missing = np.isnan(environment)
    assert 0.01 < missing[:, 2:].mean() < 0.1
    soil = missing[:, GROUPS["soil"]]
    assert soil.all(axis=1).mean() > 0.02  # missing as a group


def test_environment_agrees_with_itself(drawn):
    environment = drawn[1]

    def bio(number):
        return environment[:, VARIABLE_INDEX[f"bio{number:02d}"]]

    assert np.nanmax(np.abs(bio(5) - bio(6) - bio(7))) < 4
    assert (np.nan_to_num(bio(16) - bio(13), nan=1) > 0).all()
    both = np.isfinite(bio(1) + bio(11))
    assert (bio(11) < bio(1))[both].mean() > 0.99


def test_bioclim_by_hand():
    month = np.arange(12)
    low, rain = (
        np.array([month - 5.0]),
        np.array([np.select([month == 0, month == 1, month == 11], [120.0, 15.0, 20.0], 10.0)]),
    )
    got = bioclim(low, low + 10, rain)[0]
    expected = {1: 5.5, 2: 10, 5: 16, 6: -5, 7: 21, 10: 10, 11: 1, 12: 245, 13: 120, 14: 10, 16: 155, 17: 30}
    assert {k: got[k - 1] for k in expected} == pytest.approx(expected)
    assert got[3] == pytest.approx(100 * np.std(month, ddof=1))
    assert got[2] == pytest.approx(100 * 10 / 21)
    assert got[7] == pytest.approx(np.mean([11, 0, 1]))  # December to February: quarters span the new year


def test_species_keep_to_their_continents():
    config = WorldConfig(sites=300)
    rng = np.random.default_rng(0)
    sites = draw_sites(300, rng)
    share = np.exp(log_ranges(sites, config, rng))
    np.testing.assert_allclose(share.sum(axis=1), 1)
    letters = np.array(list(REGIONS))[sites.region]
    for row, species in zip(share, SPECIES, strict=True):
        assert set(letters[row > 0]) <= set(species.regions)
    warmth = share @ sites.environment[:, VARIABLE_INDEX["bio01"]]
    assert np.corrcoef(warmth, [species.temperature for species in SPECIES])[0, 1] > 0.75


def test_the_south_is_half_a_year_on(world):
    mean = world.image.mean  # phases 0 to 4 in the north, 5 to 9 in the south
    np.testing.assert_allclose(np.roll(mean[:, 2], 6, axis=2), mean[:, 7], atol=1e-9)
    assert (world.phase[:3, 5:] == 0).all()
    assert (world.phase[3:, :5] == 0).all()
    np.testing.assert_allclose(world.phase.sum(axis=1), 1)
    np.testing.assert_array_equal(world.sites.zone >= 3, world.sites.latitude < 0)


def test_deciduous_trees_are_green_in_summer():
    taxonomy = demo_taxonomy()
    reflectance = canopy(draw_traits(taxonomy, WorldConfig(), np.random.default_rng(0)))[:, 2]
    red, infrared = reflectance[..., BANDS.index("B4")], reflectance[..., BANDS.index("B8")]
    index = (infrared - red) / (infrared + red)
    change = index[:, 6] - index[:, 0]
    deciduous = np.array([taxon.leaf_type.startswith("Deciduous") for taxon in taxonomy])
    assert change[deciduous].min() > 0.1
    assert change[deciduous].mean() > 2 * change[~deciduous].mean()


def test_digital_numbers_are_plausible(drawn):
    images = drawn[2]
    assert images.dtype == np.uint16
    assert images.shape == (1200, 12, 10, 5, 5)
    seen = images[images != MISSING_DN]
    low, middle, high = np.percentile(seen, [0.5, 50, 99.5])
    assert 50 < low < middle < high < 10_000
    assert (seen >= 20_000).mean() < 1e-5  # where digital numbers are cut off, which the ceiling does not know
    lost = (images == MISSING_DN).all(axis=(2, 3, 4))
    part = (images == MISSING_DN).any(axis=(2, 3, 4)) & ~lost
    assert 0.1 < lost.mean() < 0.3
    assert 0.05 < part.mean() < 0.2
    assert ((images == MISSING_DN).any(axis=2) == (images == MISSING_DN).all(axis=2)).all()


def test_no_clouds_where_none_are_asked_for():
    clear = build_world(world_config(sites=200, cloud=0.0, missing=0.0), 100)
    assert draw_visible(clear, 20, np.random.default_rng(0)).all()
    rng = np.random.default_rng(0)
    records = draw_records(clear, rng, species=np.arange(60))
    assert np.isfinite(draw_environment(clear, records, rng)).all()


def test_the_same_seed_gives_the_same_world():
    first, again, other = (build_world(world_config(seed=seed, sites=200), 100) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.image.mean, again.image.mean)
    np.testing.assert_array_equal(first.log_range, again.log_range)
    np.testing.assert_array_equal(first.counts, again.counts)
    assert not np.array_equal(first.image.mean, other.image.mean)
    assert not np.array_equal(first.sites.environment, other.sites.environment)


def test_wrong_labels_are_as_many_as_asked_for():
    wrong = build_world(world_config(sites=200, wrong_labels=0.25), 100)
    records = draw_records(wrong, np.random.default_rng(0), species=np.repeat(np.arange(60), 100))
    assert (records.recorded != records.species).mean() == pytest.approx(0.25 * 59 / 60, abs=0.02)
    even = draw_records(wrong, np.random.default_rng(0), recorded=np.repeat(np.arange(60), 100))
    assert (np.bincount(even.recorded) == 100).all()
    # A rare species has more wrong records among its own than a frequent one.
    rare, frequent = wrong.counts.argmin(), wrong.counts.argmax()
    error = [(even.species[even.recorded == s] != s).mean() for s in (rare, frequent)]
    assert error[0] > 2 * error[1]


def test_clustering_gathers_records_in_few_places():
    def places(clustering):
        world = build_world(world_config(sites=1000, clustering=clustering), 100)
        share = np.exp(world.log_range)
        return (1 / (share**2).sum(axis=1)).mean()

    assert places(1.5) < 0.6 * places(0.0)


@pytest.mark.parametrize(
    ("knobs", "word"), [({"cloud": 1.0}, "cloud"), ({"colour": 1}, "colour"), ({"sites": 10}, "sites"),
                        ({"pixel_noise": 0}, "pixel_noise"), ({"missing": -1}, "missing")],
)  # fmt: skip
def test_impossible_knobs_are_named(knobs, word):
    with pytest.raises(ConfigError, match=word):
        world_config(**knobs)


def test_unknown_presets_are_named():
    with pytest.raises(ConfigError, match="image-led"):
        world_config("cloudless")
    assert set(PRESETS) == {"image-led", "location-led"}


def test_too_few_samples_for_the_species():
    with pytest.raises(ConfigError, match="60 species"):
        build_world(world_config(sites=200), 59)
