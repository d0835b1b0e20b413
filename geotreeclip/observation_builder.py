"""Whatever a user has -> one masked `ObservationBatch`; the place where missing values end.

Shapes: N samples, T time steps, C bands, H W pixels, V = 27 variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch

from geotreeclip.errors import InputError
from geotreeclip.inputs.common import SampleNamer, listed, sample_number
from geotreeclip.inputs.environment import read_environment
from geotreeclip.inputs.imagery import read_imagery
from geotreeclip.observations import ObservationBatch
from geotreeclip.schema import BANDS, PATCH, VARIABLES

__all__ = ["BuilderOptions", "build_observations"]


class BuilderOptions(TypedDict, total=False):
    """How images and environment are to be read: the arguments of `build_observations` beside the data itself."""

    bands: Sequence[str] | None
    months: Iterable[int] | None
    days: Any
    scale: str
    offset: Any
    nodata: float | Iterable[float] | None
    worldclim: str
    implausible: str
    name_sample: SampleNamer


def build_observations(
    images: Any = None,
    *,
    bands: Sequence[str] | None = None,
    months: Iterable[int] | None = None,
    days: Any = None,
    scale: str = "auto",
    offset: Any = 0,
    nodata: float | Iterable[float] | None = None,
    environment: Any = None,
    worldclim: str = "2.1",
    longitude: Any = None,
    latitude: Any = None,
    implausible: str = "refuse",
    name_sample: SampleNamer = sample_number,
) -> ObservationBatch:
    """Make one masked batch of what is known of N places.

    Everything is optional, and parts may be missing: what a model was not given, it does not use. A sample's values
    never depend on the other samples of the call.

    Args:
        images: Sentinel-2 surface reflectance (Level-2A), numpy array, numpy masked array or torch tensor of shape
            [N, T, c, h, w], [T, c, h, w] (one place), [N, T, c] or [T, c] (single pixels). Patches other than 5 x 5
            are centred: smaller ones are surrounded by masked pixels, of larger ones the centre is read.
        bands: Names of the c bands in any order ("B8A", "B08", "nir", ...); bands left out are masked. By default
            the ten of `geotreeclip.schema.BANDS`, in which B8 is the fourth.
        months: Calendar months (1 to 12) of the T steps, any part of the year in any order. By default all twelve
            from January.
        days: Instead of months, the first and last day of year of each step, [T, 2] or [N, T, 2], or single days [T];
            days of year counted from 1, or numpy datetime64. Periods may cross the turn of the year.
        scale: "dn" for digital numbers (10,000 per unit of reflectance), "reflectance" for 0 to 1, "auto" to tell
            from the values, with a refusal in doubt.
        offset: Digital numbers to take away, also from reflectance (where 1000 shows as 0.1): 1000 for products of
            processing baseline 04.00 (25 January 2022 on) that still hold their offset. A number, or [T] or [N, T].
        nodata: Values that mean missing, beside NaN, 65535 and pixels that are 0 in all bands.
        environment: Mapping of variable names to numbers or [N]; pandas DataFrame with one row per sample, further
            columns ignored with a warning; or array [N, 27] or [27] in the order of `geotreeclip.schema.VARIABLES`.
            Names may be written in the usual ways ("bio_1", "wc2.1_10m_bio_1", "elev", "lon"). NaN or None: missing.
        worldclim: "2.1", or "1" where temperatures are stored x10 (as in Earth Engine's WORLDCLIM/V1/BIO).
        longitude: Degrees east (WGS 84), a number or [N].
        latitude: Degrees north.
        implausible: What to do with an environment value outside the plausible range of its variable: "refuse" it with
            an error, or "warn" and take it.
        name_sample: Names the sample of a row in messages.

    Returns:
        ObservationBatch of N samples on the CPU, free of NaN; T is 12 for months, 0 without images.

    Raises:
        InputError: If an argument cannot be right, or a sample has no valid value at all; the message names the
            argument, the sample, the value and the remedy.

    Warns:
        InputWarning: If values are accepted but look like another unit, order or offset.
    """
    imagery = None
    if images is not None:
        imagery = read_imagery(
            images, bands=bands, months=months, days=days, scale=scale, offset=offset, nodata=nodata, name=name_sample
        )
    surroundings = read_environment(
        environment,
        longitude=longitude,
        latitude=latitude,
        worldclim=worldclim,
        samples=None if imagery is None else len(imagery.images),
        implausible=implausible,
        name=name_sample,
    )
    if imagery is None and surroundings is None:
        raise InputError("nothing to look at: give images, environment, or longitude and latitude")
    samples = len(imagery.images) if imagery is not None else len(surroundings.values) if surroundings else 0
    if samples == 0:
        raise InputError("no samples: the arrays given are empty")

    shape = (samples, 0, len(BANDS), PATCH, PATCH)
    pixels = np.zeros(shape, np.float32) if imagery is None else imagery.images
    pixels_valid = np.zeros(shape, bool) if imagery is None else imagery.valid
    periods = np.zeros((samples, 0, 2), np.float32) if imagery is None else imagery.days
    values = np.zeros((samples, len(VARIABLES)), np.float32) if surroundings is None else surroundings.values
    values_valid = np.zeros(values.shape, bool) if surroundings is None else surroundings.valid

    blind = np.flatnonzero(~(pixels_valid.any(axis=(1, 2, 3, 4)) | values_valid.any(axis=1)))
    if blind.size:
        others = "" if blind.size == 1 else f" (so have {blind.size - 1} more: {listed(blind[1:].tolist(), 5)})"
        raise InputError(f"{name_sample(int(blind[0]))} has no valid pixel and no environment value{others}")
    return ObservationBatch(
        images=torch.from_numpy(pixels),
        image_valid=torch.from_numpy(pixels_valid),
        first_day=torch.from_numpy(np.ascontiguousarray(periods[..., 0])),
        last_day=torch.from_numpy(np.ascontiguousarray(periods[..., 1])),
        environment=torch.from_numpy(values),
        environment_valid=torch.from_numpy(values_valid),
    )
