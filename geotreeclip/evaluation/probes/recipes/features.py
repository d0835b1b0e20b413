"""What stands in for an embedding, or is embedded: rasters at points, patches of one date, monthly series.

Shape letters: N samples, F features, T steps, C bands, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.probes.sources import Embedding
from geotreeclip.inputs.common import listed
from geotreeclip.prep.phenology import Cycles
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.evaluation.probes.recipes.recipe import MonthlySeries, Recipe

__all__ = ["SERIES_FEATURES", "embed_patches", "fill_year", "raster_features", "series_features"]

Floats = NDArray[np.float64]
SERIES_FEATURES = ("months", "cycles")
_BATCH = 256
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")


def raster_features(table: pd.DataFrame, rasters: Sequence[str]) -> Embedding:
    """Values of rasters at the places of samples; samples that any raster lacks are left out.

    Args:
        table: sample_id, longitude, latitude.
        rasters: Files of one band.

    Raises:
        DataError: A raster cannot be read, or no place has a value in all of them.
    """
    from geotreeclip.prep.rasters import Raster

    lon, lat = (table[name].to_numpy(dtype=float) for name in ("longitude", "latitude"))
    values = np.full((len(table), len(rasters)), np.nan)
    for number, location in enumerate(rasters):
        with Raster(location) as raster:
            column, row = raster.grid.place(lon, lat)
            inside = raster.grid.inside(column, row)
            values[inside, number] = raster.cells(*raster.grid.holding(column[inside], row[inside]))
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        raise DataError(f"{rasters[0]} and others: none of {len(table)} places has a value in all of {len(rasters)}")
    kept = table[known].reset_index(drop=True)
    name = "climate" if len(rasters) > 1 else Path(rasters[0]).stem
    return Embedding(
        values[known], kept["sample_id"].tolist(), kept, ("climate", "terrain"), name, f"{len(rasters)} rasters"
    )


def embed_patches(
    recipe: Recipe, table: pd.DataFrame, folder: Path, model: str, *, progress: bool = False
) -> Embedding:
    """Embeddings of the patches of samples by a model, from imagery alone; samples without a file are left out.

    Args:
        recipe: Says what the files hold.
        table: Samples; the name of a file is the sample id (without the name of the recipe) and .tif.
        folder: Of GeoTIFFs, searched with all folders beneath.
        model: Training run or model directory.
        progress: Whether to show a bar.

    Raises:
        ConfigError: The task has no patches.
        DataError: None is found, or one is damaged.
    """
    from tqdm import tqdm

    from geotreeclip.evaluation.inputs import mask_inputs
    from geotreeclip.evaluation.probes.sources import _model
    from geotreeclip.inference import Classifier
    from geotreeclip.observation_builder import build_observations

    if recipe.patches is None:
        raise ConfigError(f"recipe {recipe.name} has no patches; take imagery from data_prep/sentinel2.py (--points)")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of patches")
    files = {path.stem: path for path in sorted(folder.rglob("*.tif"))}
    names = table["sample_id"].str.removeprefix(f"{recipe.name}-")
    found = names.isin(list(files)).to_numpy()
    if not found.any():
        raise DataError(f"{folder}: holds no patch such as {names.iloc[0]}.tif ({len(files)} other files of that kind)")
    kept = table[found].reset_index(drop=True)
    paths = [files[name] for name in names[found]]
    loaded, saw = _model(model, "image")
    classifier, parts = Classifier(loaded), []
    read = [at for at, band in enumerate(recipe.patches.bands) if band in BANDS]
    bands = [recipe.patches.bands[at] for at in read]
    for start in tqdm(range(0, len(kept), _BATCH), desc="patches", disable=None if progress else True):
        some = paths[start : start + _BATCH]
        images = np.stack([_patch(path, len(recipe.patches.bands))[read] for path in some])[:, None]
        when = (
            {"months": [recipe.patches.month]} if recipe.patches.month else {"days": np.stack([_day(p) for p in some])}
        )
        place = kept.iloc[start : start + _BATCH]
        batch = build_observations(
            images, bands=bands, scale="dn", offset=recipe.patches.offset,
            longitude=place["longitude"].to_numpy(), latitude=place["latitude"].to_numpy(), **when,
        )  # fmt: skip
        parts.append(classifier.embed_batch(mask_inputs(batch, "image")))
    values = np.concatenate(parts).astype(np.float64)
    return Embedding(values, kept["sample_id"].tolist(), kept, saw, "geotreeclip", "image", loaded.fingerprint)


def series_features(recipe: Recipe, table: pd.DataFrame, path: Path, kind: str, *, screen: bool = False) -> Embedding:
    """Features of the monthly series that a label file holds.

    "months": logarithm of every band in each calendar month and EVI2, months that are missing filled between their
    neighbours around the year. "cycles": the dates of the vegetation cycle on the circle (0 where there is none), its
    amplitude and number, and the range of EVI2.

    Args:
        recipe: With the columns of the series.
        table: Samples as the recipe reads them, row by row those of the file.
        path: The file.
        kind: Of `SERIES_FEATURES`.
        screen: Leave out single bright steps, clouds that a mask missed.

    Raises:
        ConfigError: The task has no series, or the kind is unknown.
    """
    from geotreeclip.evaluation.probes.sources import read_table
    from geotreeclip.prep.phenology.cycles import PhenologyConfig
    from geotreeclip.prep.phenology.fit import fit_cycles
    from geotreeclip.prep.phenology.index import MONTH_MIDDLES, evi2, screen_spikes
    from geotreeclip.schema import REFLECTANCE_SCALE

    if recipe.series is None:
        raise ConfigError(f"recipe {recipe.name}: its file holds no series; take --rasters, --model or --embedding")
    if kind not in SERIES_FEATURES:
        raise ConfigError(f"--series {kind}: choose from {', '.join(SERIES_FEATURES)}")
    bands = calendar_year(recipe.series, read_table(path), path)
    red, nir = (bands[name] / REFLECTANCE_SCALE for name in ("B4", "B8"))
    index = evi2(red, nir)
    spikes = np.zeros(index.shape, bool)
    if screen:
        kept = screen_spikes(index, red)
        spikes, index = np.isnan(kept) & ~np.isnan(index), kept
    if kind == "months":
        logs = [np.log(np.where(spikes, np.nan, np.maximum(values, 1.0))) for values in bands.values()]
        values = np.concatenate([fill_year(each) for each in (*logs, index)], axis=1)
    else:
        days = np.broadcast_to(MONTH_MIDDLES, index.shape)
        cycles = fit_cycles(index, days, table["latitude"].to_numpy(dtype=float), PhenologyConfig())
        values = np.concatenate([_on_circle(cycles), *_ranges(index)], axis=1)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        raise DataError(f"{path}: no sample has a value in any month of all bands")
    kept_rows = table[known].reset_index(drop=True)
    name = f"{kind}, spikes screened" if screen else kind
    return Embedding(values[known], kept_rows["sample_id"].tolist(), kept_rows, ("image",), name, "image")


def calendar_year(series: MonthlySeries, frame: pd.DataFrame, path: Path) -> dict[str, Floats]:
    """Bands of a table in the order of calendar months, {band: [N, 12]}, NaN where missing."""
    import pandas as pd

    first: NDArray[np.int64] = np.zeros(len(frame), np.int64)
    if series.start:
        if series.start not in frame:
            raise DataError(f"{path}: has no column {series.start!r}, which says when the series begin")
        months = pd.to_datetime(frame[series.start], errors="coerce").dt.month
        if months.isna().any():
            row = int(np.argmax(months.isna().to_numpy()))
            raise DataError(f"{path}: row {row}: {series.start} is {str(frame[series.start].iloc[row])!r}, no date")
        first = np.asarray(months.to_numpy(dtype=np.int64) - 1, dtype=np.int64)
    slot = (np.arange(MONTHS)[None, :] - first[:, None]) % MONTHS  # of each calendar month
    bands = {}
    for band in (name for name in BANDS if name in series.columns):
        names = [series.columns[band].format(number) for number in range(MONTHS)]
        lacking = [name for name in names if name not in frame]
        if lacking:
            raise DataError(
                f"{path}: lacks the column {lacking[0]} of {band} (found {listed(list(map(str, frame)), 8)})"
            )
        values = frame[names].to_numpy(dtype=float, na_value=np.nan)
        bands[band] = np.take_along_axis(np.where(values == MISSING_DN, np.nan, values), slot, axis=1)
    return bands


def fill_year(values: Floats) -> Floats:
    """Missing steps of [N, T] filled linearly between their neighbours around the year; rows of NaN stay."""
    steps = values.shape[1]
    filled = values.copy()
    place = np.arange(steps)
    for row in np.flatnonzero(np.isnan(values).any(axis=1)):
        known = np.flatnonzero(~np.isnan(values[row]))
        if len(known):
            filled[row] = np.interp(place, known, values[row, known], period=steps)
    return filled


def _on_circle(cycles: Cycles) -> Floats:
    """Sine and cosine of the five dates, amplitude, number of cycles, [N, 12]; 0 where there is no cycle."""
    angle = 2 * np.pi * cycles.dates / 365
    parts = [np.sin(angle), np.cos(angle), cycles.amplitude[:, None], cycles.n_cycles[:, None].astype(float)]
    return np.asarray(np.nan_to_num(np.concatenate(parts, axis=1)))


def _ranges(index: Floats) -> list[Floats]:
    """Lowest, middle and highest EVI2 of each sample, [N, 1] each; NaN without any."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without a value
        return [np.nanpercentile(index, share, axis=1)[:, None] for share in (5, 50, 95)]


def _patch(path: Path, count: int) -> NDArray[np.float64]:
    """A GeoTIFF as [C, H, W], NaN where it has no data."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise ConfigError("reading patches needs rasterio: pip install 'geotreeclip[prep]'") from error
    try:
        with rasterio.open(path, driver="GTiff") as source:
            if source.count != count:
                raise DataError(f"{path}: has {source.count} bands, the recipe says {count}")
            return np.asarray(source.read(masked=True).astype(np.float64).filled(np.nan))
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as GeoTIFF: {error}") from error


def _day(path: Path) -> NDArray[np.datetime64]:
    """The date in the name of a file, as first and last day of its one step, [1, 2]."""
    match = _DATE.search(path.stem)
    if match is None:
        raise DataError(
            f"{path}: its name holds no date such as 20180714; state the month in the recipe (patches.month)"
        )
    try:
        return np.array([["-".join(match.groups())] * 2], dtype="datetime64[D]")
    except ValueError as error:
        raise DataError(f"{path}: {match[0]} in its name is no date") from error
