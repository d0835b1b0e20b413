"""Sites of the planted forest and their environment: smooth fields of longitude and latitude, rough local terrain.

Letters: M sites, V variables (27), Q zones of phenology (6).

Monthly temperature and rain are sums of a few waves over the map,

    T(month) = T_year(lon, lat) - 6 K/km x elevation - A(lon, lat) cos(2 pi (month - coldest) / 12)
    P(month) = P_year(lon, lat) (1 + a(lon, lat) cos(2 pi (month - wettest(lon, lat)) / 12)) / 12,

and the 19 bioclimatic variables are computed from them by their definitions, in WorldClim 2.1 units, so that they agree
with one another and with the schema. Elevation, slope and soil water are drawn for each site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotreeclip.demo.species import REGIONS
from geotreeclip.schema import VARIABLE_INDEX

__all__ = ["KM_PER_DEGREE", "LOGARITHMIC", "NOISE", "ZONES", "Sites", "bioclim", "draw_sites", "monthly_climate"]

FloatArray = NDArray[np.float64]

KM_PER_DEGREE = 111.2
"""Kilometres of one degree of latitude."""

ZONES = 6
"""Zones of phenology: northern cold, mild, warm, then southern cold, mild, warm."""

_ZONE_EDGES = (6.0, 13.0)  # annual mean temperature, degC

LOGARITHMIC: tuple[int, ...] = tuple(
    VARIABLE_INDEX[name] for name in ("slope", "bio12", "bio13", "bio14", "bio16", "bio17", "bio18", "bio19")
)
"""Columns whose noise is multiplicative: log values are observed with normal errors."""

_NOISE = {
    "elevation": 40.0, "slope": 0.3, "aspect": np.inf, "soil_moisture_0_5cm": 15.0, "soil_moisture_5_15cm": 12.0,
    "soil_moisture_15_30cm": 12.0, "bio01": 0.3, "bio02": 0.3, "bio03": 1.0, "bio04": 20.0, "bio05": 0.4,
    "bio06": 0.4, "bio07": 0.4, "bio08": 0.5, "bio09": 0.5, "bio10": 0.3, "bio11": 0.3, "bio12": 0.04, "bio13": 0.05,
    "bio14": 0.08, "bio15": 2.0, "bio16": 0.05, "bio17": 0.08, "bio18": 0.06, "bio19": 0.06,
}  # fmt: skip
NOISE: FloatArray = np.array([np.nan, np.nan, *_NOISE.values()])
"""[27] standard deviation of an observed value about its site (of its log where `LOGARITHMIC`). Longitude and latitude
are NaN, their scatter is in kilometres; aspect is infinite, it is drawn evenly and tells nothing."""


@dataclass(frozen=True)
class Sites:
    """Places of the world.

    Attributes:
        environment: [M, 27] values at the site, published order and units.
        region: [M] position of its continent in `REGIONS`.
        zone: [M] zone of phenology.
        niche: [M, 6] standardised axes on which niches are defined: annual temperature, log rain, seasonality of
            temperature and of rain, log elevation, soil water.
        temperature_scale: Mean and standard deviation of annual temperature over the sites, degC.
    """

    environment: FloatArray
    region: NDArray[np.int64]
    zone: NDArray[np.int64]
    niche: FloatArray
    temperature_scale: tuple[float, float]

    def __len__(self) -> int:
        return len(self.zone)

    @property
    def longitude(self) -> FloatArray:
        """[M] degrees."""
        return self.environment[:, 0]

    @property
    def latitude(self) -> FloatArray:
        """[M] degrees."""
        return self.environment[:, 1]


def draw_sites(count: int, rng: np.random.Generator) -> Sites:
    """Draw sites evenly over the continents' ellipses, continents by their area."""
    regions = list(REGIONS.values())
    area = np.array([region.half_width * region.half_height for region in regions])
    region = rng.choice(len(regions), size=count, p=area / area.sum())
    radius, angle = np.sqrt(rng.random(count)), 2 * np.pi * rng.random(count)
    box = np.array([tuple(r)[1:] for r in regions], dtype=np.float64)[region]
    longitude = box[:, 0] + box[:, 2] * radius * np.cos(angle)
    latitude = box[:, 1] + box[:, 3] * radius * np.sin(angle)
    relief = rng.standard_normal(count)
    elevation = np.clip(np.exp(5.6 + 0.9 * relief), 5, 3500)
    slope = np.clip(np.exp(1.2 + 0.5 * relief + 0.5 * rng.standard_normal(count)), 0.2, 20)
    low, high, rain = monthly_climate(longitude, latitude, elevation)
    climate = bioclim(low, high, rain)
    dryness = 0.5 * np.log(climate[:, 11] / 900) - 0.2 * relief
    soil = np.clip(300 + 60 * (dryness + 0.8 * rng.standard_normal(count)), 60, 560)
    layers = soil[:, None] + np.array([15.0, 0.0, -12.0]) + 8 * rng.standard_normal((count, 3))
    environment = np.column_stack([longitude, latitude, elevation, slope, np.zeros(count), layers, climate])
    warmth = climate[:, 0]
    raw = np.column_stack(
        [warmth, np.log(climate[:, 11]), climate[:, 3], climate[:, 14], np.log(elevation), layers.mean(axis=1)]
    )
    return Sites(
        environment=environment,
        region=region,
        zone=np.digitize(warmth, _ZONE_EDGES) + 3 * (latitude < 0),
        niche=(raw - raw.mean(axis=0)) / raw.std(axis=0),
        temperature_scale=(float(warmth.mean()), float(warmth.std())),
    )


def monthly_climate(
    longitude: FloatArray, latitude: FloatArray, elevation: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean daily minimum and maximum temperature (degC) and rain (mm), each [M, 12], January first."""
    lon, lat = np.asarray(longitude), np.asarray(latitude)
    north = 1 / (1 + np.exp(-lat / 3))
    year = 27 - 0.0080 * lat**2 + 3.5 * north * np.exp(-(((lon - 5) / 30) ** 2)) + 1.2 * np.sin(lon / 17 + lat / 11)
    year = year - 0.0060 * elevation
    swing = 1 + np.abs(lat) * (0.10 + 0.13 * north) * (0.9 + 0.3 * np.sin(lon / 14 + 0.5))
    month = np.arange(12)
    coldest = np.where(lat >= 0, 0.5, 6.5)
    mean = year[:, None] - swing[:, None] * np.cos(2 * np.pi * (month - coldest[:, None]) / 12)
    daily = 9.5 + 2.5 * np.sin(lon / 11 + lat / 9)
    rain_year = np.exp(
        6.8 + 0.45 * np.sin(lon / 9 + 1.3) * np.cos(lat / 7) + 0.3 * np.sin(lat / 5 - lon / 13)
        + 0.2 * np.cos(lat / 3.5 + lon / 6) + 0.00015 * elevation
    )  # fmt: skip
    season = 0.15 + 0.55 * np.sin(lon / 16 + lat / 8) ** 2
    wettest = np.where(lat >= 0, 6.5, 0.5) + 5 * np.sin(lon / 21 - lat / 12)
    wave = 1 + season[:, None] * np.cos(2 * np.pi * (month - wettest[:, None]) / 12)
    return mean - daily[:, None] / 2, mean + daily[:, None] / 2, rain_year[:, None] * wave / 12


def bioclim(low: FloatArray, high: FloatArray, rain: FloatArray) -> FloatArray:
    """The 19 bioclimatic variables by their WorldClim definitions.

    Args:
        low: [M, 12] mean daily minimum temperature, degC.
        high: [M, 12] mean daily maximum temperature, degC.
        rain: [M, 12] precipitation, mm.

    Returns:
        [M, 19], WorldClim 2.1 units (bio04 is 100 times the standard deviation of the monthly means). Quarters are the
        12 runs of three consecutive months, across the new year too.
    """
    mean = (low + high) / 2
    runs = np.stack([np.roll(mean, -i, axis=1) for i in range(3)]).mean(axis=0)
    wet = np.stack([np.roll(rain, -i, axis=1) for i in range(3)]).sum(axis=0)
    rows = np.arange(len(mean))
    warmest, coldest = runs.argmax(axis=1), runs.argmin(axis=1)
    wettest, driest = wet.argmax(axis=1), wet.argmin(axis=1)
    daily = (high - low).mean(axis=1)
    top, bottom = high.max(axis=1), low.min(axis=1)
    return np.column_stack([
        mean.mean(axis=1), daily, 100 * daily / (top - bottom), 100 * mean.std(axis=1, ddof=1), top, bottom,
        top - bottom, runs[rows, wettest], runs[rows, driest], runs[rows, warmest], runs[rows, coldest],
        rain.sum(axis=1), rain.max(axis=1), rain.min(axis=1),
        100 * rain.std(axis=1, ddof=1) / (1 + rain.mean(axis=1)),
        wet[rows, wettest], wet[rows, driest], wet[rows, warmest], wet[rows, coldest],
    ])  # fmt: skip
