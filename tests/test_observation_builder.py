"""The observation builder: whatever a user has becomes the same masked batch."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from geotreeclip.errors import InputError
from geotreeclip.inputs.bands import band_name
from geotreeclip.inputs.common import InputWarning
from geotreeclip.inputs.environment import variable_name
from geotreeclip.observation_builder import build_observations
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, MONTH_DAYS, VARIABLE_INDEX, VARIABLE_NAMES

# Typical digital numbers over forest, in the order of BANDS.
FOREST = np.array([300, 500, 350, 3200, 800, 2300, 2900, 3300, 1700, 900], dtype=np.float64)


def forest(samples: int = 3, steps: int = 12, size: int = 5, seed: int = 0) -> np.ndarray:
    """Digital numbers [N, T, 10, size, size] that look like forest."""
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, (samples, steps, len(BANDS), size, size))
    return np.round(FOREST[None, None, :, None, None] * noise)


def assert_same(one: ObservationBatch, other: ObservationBatch, rtol: float = 0.0) -> None:
    for field, left, right in zip(ObservationBatch._fields, one, other, strict=True):
        assert left.shape == right.shape, field
        assert torch.isfinite(left).all(), field
        torch.testing.assert_close(left, right, rtol=rtol, atol=0.0, msg=f"{field} differs")


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        yield


# -- shapes, bands, steps ---------------------------------------------------------------------------------------------


def test_plain_images_pass_through_unchanged():
    images = forest()
    batch = build_observations(images)
    np.testing.assert_array_equal(batch.images.numpy(), images.astype(np.float32))
    assert batch.image_valid.all()
    np.testing.assert_array_equal(batch.first_day[1], MONTH_DAYS[:, 0])
    np.testing.assert_array_equal(batch.last_day[1], MONTH_DAYS[:, 1])
    assert not batch.environment_valid.any()


def test_band_order_and_aliases_do_not_matter():
    images = forest()
    order = [7, 0, 9, 3, 1, 8, 2, 6, 4, 5]
    names = ["B08A", "blue", "swir22", "nir", "B03", "B11", "b4", "rededge3", "Red Edge 1", "B06"]
    assert_same(build_observations(images[:, :, order], bands=names), build_observations(images))


def test_missing_bands_are_masked_and_unused_bands_left_out():
    images = forest()
    stack = np.concatenate([images[:, :, [1, 3]], np.full_like(images[:, :, :1], 77.0)], axis=2)
    batch = build_observations(stack, bands=["B3", "B8", "B9"])
    assert batch.image_valid[:, :, [1, 3]].all()
    assert batch.image_valid.sum() == 3 * 12 * 2 * 25
    np.testing.assert_array_equal(batch.images[:, :, 3], images[:, :, 3])


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B13"], "unknown band B13; known are B2 B3 B4 B8"),
        (["B2", "blue", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12"], "B2 is named 2 times"),
        (["B2", "B3"], "10 bands but bands names 2"),
        ("B2", "must be a list"),
    ],
)
def test_wrong_bands_are_refused(bands, message):
    with pytest.raises(InputError, match=message):
        build_observations(forest(), bands=bands)


def test_unnamed_bands_must_be_ten():
    with pytest.raises(InputError, match="images have 4 bands"):
        build_observations(forest()[:, :, :4])


def test_bands_sorted_by_wavelength_are_suspected():
    ascending = [0, 1, 2, 4, 5, 6, 3, 7, 8, 9]
    with pytest.warns(InputWarning, match="B8 fourth"):
        build_observations(forest()[:, :, ascending])


@pytest.mark.parametrize("name", BANDS)
def test_every_band_is_known_by_its_own_and_its_product_name(name):
    assert band_name(name) == name
    assert band_name(name.lower() if name == "B8A" else f"B{int(name[1:]):02d}") == name


def test_months_in_any_order_are_the_year_with_the_rest_masked():
    images = forest()
    masked = images.copy()
    masked[:, [m for m in range(12) if m + 1 not in (7, 3, 10)]] = np.nan
    assert_same(build_observations(images[:, [6, 2, 9]], months=[7, 3, 10]), build_observations(masked))


@pytest.mark.parametrize("months", [[1, 2, 13], [1, 1, 2], [1, 2], [1.5, 2, 3], [0, 1, 2]])
def test_wrong_months_are_refused(months):
    with pytest.raises(InputError, match="months"):
        build_observations(forest()[:, :3], months=months)


def test_other_numbers_of_steps_need_names():
    with pytest.raises(InputError, match="3 time steps; without months= or days="):
        build_observations(forest()[:, :3])


def test_days_for_seasons_and_over_the_turn_of_the_year():
    batch = build_observations(forest()[:, :4], days=[[60, 151], [152, 243], [244, 334], [335, 59]])
    assert batch.images.shape[1] == 4
    np.testing.assert_array_equal(batch.first_day[0], [60, 152, 244, 335])
    np.testing.assert_array_equal(batch.last_day[0], [151, 243, 334, 424])


def test_dates_of_single_scenes_and_absent_scenes():
    dates = np.array([["2021-02-01", "2021-08-31"], ["2020-12-31", "NaT"]], dtype="datetime64[D]")
    batch = build_observations(forest(2, 2), days=np.stack([dates, dates], axis=-1))
    np.testing.assert_array_equal(batch.first_day, [[32, 243], [366, 1]])
    assert batch.image_valid.any(dim=(2, 3, 4)).tolist() == [[True, True], [True, False]]


def test_days_out_of_the_year_are_refused():
    with pytest.raises(InputError, match="sample 0, step 1: 400 is no day of year"):
        build_observations(forest()[:, :2], days=[[1, 31], [32, 400]])


def test_smaller_patches_are_centred_and_single_pixels_accepted():
    images = forest(size=3)
    batch = build_observations(images)
    np.testing.assert_array_equal(batch.images[..., 1:4, 1:4], images)
    assert batch.image_valid.sum() == images.size
    pixel = build_observations(images[:, :, :, 1, 1])
    assert pixel.image_valid.sum() == 3 * 12 * 10
    np.testing.assert_array_equal(pixel.images[..., 2, 2], images[..., 1, 1])
    assert_same(build_observations(images[0, :, :, 1, 1]), pixel.select(slice(0, 1)))


def test_larger_patches_are_cut_with_a_note():
    images = forest(size=9)
    with pytest.warns(InputWarning, match="9 x 9"):
        batch = build_observations(images)
    np.testing.assert_array_equal(batch.images, images[..., 2:7, 2:7])


def test_one_place_without_a_sample_axis():
    images = forest()
    assert_same(build_observations(torch.from_numpy(images[0])), build_observations(images[:1]))


# -- missing values ---------------------------------------------------------------------------------------------------


def test_partly_missing_months_keep_their_good_pixels():
    images = forest()
    images[0, 4, :, 0, 0] = np.nan
    images[1, 5, 2] = 65535
    images[2, 6] = -9999
    images[2, 7, :, 1, 1] = 0  # fill: 0 in all bands
    batch = build_observations(images, nodata=-9999)
    missing = ~batch.image_valid.numpy()
    assert missing[0, 4, :, 0, 0].all()
    assert missing[1, 5, 2].all()
    assert missing[2, 6].all()
    assert missing[2, 7, :, 1, 1].all()
    assert missing.sum() == 10 + 25 + 250 + 10
    assert (batch.images.numpy()[missing] == 0).all()
    assert np.isfinite(batch.images.numpy()).all()


def test_masked_arrays_and_uint16_give_the_same_batch():
    images = forest()
    images[0, 3] = 65535
    hidden = np.ma.masked_array(images, mask=images == 65535)
    assert_same(build_observations(hidden), build_observations(images.astype(np.uint16)))


def test_a_sample_without_any_value_is_named_unless_it_has_environment():
    images = forest()
    images[1] = np.nan
    with pytest.raises(InputError, match="sample 1 has no valid pixel and no environment value"):
        build_observations(images)
    assert build_observations(images, environment={"elevation": 300}).size == 3


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="nothing to look at"):
        build_observations()


# -- scale ------------------------------------------------------------------------------------------------------------


def test_reflectance_equals_digital_numbers():
    images = forest()
    numbers = build_observations(images, scale="dn")
    for scale in ("auto", "reflectance"):
        assert_same(build_observations(images / 10_000, scale=scale), numbers, rtol=1e-6)
    assert_same(build_observations(images, scale="auto"), numbers)


def test_the_offset_is_removed_in_both_scales():
    images = forest()
    assert_same(build_observations(images + 1000, offset=1000), build_observations(images))
    assert_same(build_observations(images / 10_000 + 0.1, offset=1000), build_observations(images), rtol=1e-4)
    by_step = np.zeros(12)
    by_step[6:] = 1000
    late = images + by_step[None, :, None, None, None]
    assert_same(build_observations(late, offset=by_step), build_observations(images))


def test_reflectance_below_zero_becomes_the_smallest_number():
    images = forest() + 1000
    images[0, 0, 0, 0, 0] = 950
    assert build_observations(images, offset=1000).images[0, 0, 0, 0, 0] == 1


def test_an_offset_left_in_is_suspected():
    with pytest.warns(InputWarning, match="pass offset=1000"):
        build_observations(forest() + 1000)


def test_an_offset_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="the offset is not in them; use offset=0"):
        build_observations(forest(), offset=1000)


@pytest.mark.parametrize(
    ("factor", "scale", "message"),
    [
        (1e-4, "dn", "look like reflectance"),
        (1.0, "reflectance", "look like digital numbers"),
        (1e-2, "auto", "percent"),
        (1 / 255, "auto", "divided by 255"),
        (100.0, "auto", "16 bit"),
    ],
)
def test_other_scales_are_refused_by_name(factor, scale, message):
    with pytest.raises(InputError, match=message):
        build_observations(forest() * factor, scale=scale)


def test_pictures_of_eight_bits_are_refused():
    picture = np.clip(forest() / 20, 0, 255).astype(np.uint8)
    with pytest.raises(InputError, match="8-bit"):
        build_observations(picture)
    with pytest.warns(InputWarning, match="8-bit"):
        build_observations(picture, scale="dn")


def test_a_sample_on_another_scale_than_the_rest_is_named():
    images = forest()
    images[2] /= 10_000
    with pytest.raises(InputError, match="sample 2 is 0"):
        build_observations(images)
    images = forest() / 10_000
    images[1, 0, 0, 0, 0] = 3000
    with pytest.raises(InputError, match="sample 1 holds 3000"):
        build_observations(images)


def test_unmarked_no_data_is_refused():
    images = forest()
    images[0, 0, 0, 0, 0] = -9999
    with pytest.raises(InputError, match="pass it as nodata="):
        build_observations(images)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="images must hold numbers"):
        build_observations(np.full((12, 10), "x"))


# -- environment ------------------------------------------------------------------------------------------------------


def test_all_forms_of_environment_agree():
    array = np.full((2, 27), np.nan)
    columns = {"longitude": [10.5, -120.0], "latitude": [50.0, 40.0], "elevation": [300.0, np.nan], "bio01": [9, 12.5]}
    for name, values in columns.items():
        array[:, VARIABLE_INDEX[name]] = values
    expected = build_observations(environment=array)
    assert expected.environment_valid.sum() == 7
    aliases = {"lon": "longitude", "Latitude": "latitude", "elev": "elevation", "wc2.1_10m_bio_1": "bio01"}
    frame = pd.DataFrame({alias: columns[name] for alias, name in aliases.items()})
    assert_same(build_observations(environment=frame), expected)
    assert_same(build_observations(environment=frame.astype("Float64")), expected)
    assert_same(build_observations(environment=columns), expected)
    rest = {name: columns[name] for name in ("elevation", "bio01")}
    apart = build_observations(environment=rest, longitude=columns["longitude"], latitude=columns["latitude"])
    assert_same(apart, expected)
    assert_same(build_observations(environment=frame.iloc[1]), expected.select(slice(1, 2)))


@pytest.mark.parametrize("name", ["bio_1", "BIO1", "bio1", "bio01", "wc2.1_10m_bio_1", "wc2.1_30s_bio_01", "BIO_01"])
def test_names_of_bioclimatic_variables(name):
    assert variable_name(name) == "bio01"


def test_names_of_other_variables():
    assert variable_name("wc2.1_10m_elev") == "elevation"
    assert variable_name("wv0033_0-5cm_mean") == "soil_moisture_0_5cm"
    assert variable_name("decimalLatitude") == "latitude"
    assert all(variable_name(name) == name for name in VARIABLE_NAMES)
    assert variable_name("bio20") is None
    assert variable_name("biome") is None


def test_single_values_are_repeated_for_all_images():
    batch = build_observations(forest(3), environment={"elevation": 100}, longitude=1.0, latitude=2.0)
    assert batch.environment[:, :3].tolist() == [[1.0, 2.0, 100.0]] * 3


def test_numbers_of_samples_must_agree():
    with pytest.raises(InputError, match="elevation has 2 values where the images hold 3"):
        build_observations(forest(3), environment={"elevation": [1, 2]})
    with pytest.raises(InputError, match="bio01 has 3 values where elevation has 2"):
        build_observations(environment={"elevation": [1, 2], "bio01": [1, 2, 3]})


def test_unknown_names_are_an_error_in_a_mapping_and_a_warning_in_a_table():
    with pytest.raises(InputError, match=r"elevaton \(did you mean elevation\?\)"):
        build_observations(environment={"elevaton": 3, "bio01": 4})
    with pytest.warns(InputWarning, match="not used: plot"):
        build_observations(environment=pd.DataFrame({"elevation": [3.0], "plot": ["a"]}))
    with pytest.raises(InputError, match="no known variable"):
        build_observations(environment=pd.DataFrame({"plot": ["a"]}))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"elevation": [10, 9999]}, "sample 1: elevation is 9999, outside its plausible range of -500 to 9000 m"),
        ({"bio05": 236.0}, 'pass worldclim="1"'),
        ({"bio12": -9999}, "no-data value"),
        ({"bio01": 283.15}, "kelvin"),
        ({"slope": 95}, "slope is 95"),
    ],
)
def test_implausible_values_are_refused_by_name(environment, message):
    with pytest.raises(InputError, match=message):
        build_observations(environment=environment)


def test_worldclim_1_is_converted():
    expected = build_observations(environment={"bio01": 9.2, "bio04": 633.6, "bio12": 750.0})
    given = build_observations(environment={"bio01": 92, "bio04": 6336, "bio12": 750}, worldclim="1")
    assert_same(given, expected, rtol=1e-6)


def test_the_other_version_of_worldclim_is_suspected():
    cold = {"bio01": np.arange(-10, 30.0), "bio11": np.arange(-40, 0.0)}
    with pytest.warns(InputWarning, match='pass worldclim="1"'):
        build_observations(environment=cold)
    with pytest.warns(InputWarning, match='pass worldclim="2.1"'):
        build_observations(environment={"bio01": np.arange(5, 20, 0.37)}, worldclim="1")


@pytest.mark.parametrize(
    ("longitude", "latitude", "message"),
    [
        (45.0, 100.0, "longitude is 45: are the two swapped?"),
        (190.0, 10.0, "subtract 360"),
        (500_000.0, 5_000_000.0, "metres of a projection"),
        (10.0, None, "latitude is missing"),
    ],
)
def test_wrong_coordinates_are_refused(longitude, latitude, message):
    with pytest.raises(InputError, match=message):
        build_observations(longitude=longitude, latitude=latitude)


def test_contradicting_coordinates_are_refused():
    with pytest.raises(InputError, match="but environment says 11"):
        build_observations(environment={"longitude": 11.0, "latitude": 50.0}, longitude=10.0, latitude=50.0)


def test_messages_name_samples_as_asked():
    with pytest.raises(InputError, match="row 2: latitude is 99"):
        build_observations(longitude=[100, 100], latitude=[9, 99], name_sample=lambda row: f"row {row + 1}")
