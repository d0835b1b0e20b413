"""Command that writes the phenology of samples (`data_prep/phenology.py`), fitted or from MODIS MCD12Q2."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.phenology.cycles import Cycles, PhenologyConfig
from geotreeclip.prep.phenology.fallback import fill_missing
from geotreeclip.prep.phenology.fit import fit_cycles
from geotreeclip.prep.phenology.index import screen_spikes
from geotreeclip.prep.phenology.mcd12q2 import VALID_DAYS, cycles_from_mcd12q2
from geotreeclip.prep.phenology.product import WORST_QUALITY, find_layers, read_product
from geotreeclip.prep.phenology.series import Series, packed_series, sample_places, table_series
from geotreeclip.schema import REFLECTANCE_SCALE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit_series", "main", "write_phenology", "write_product"]


def fit_series(series: Series, config: PhenologyConfig) -> tuple[Cycles, np.ndarray]:
    """Cycles of some samples, and how many steps of each were screened out as spikes [n]."""
    values = series.values
    screened = np.zeros(len(values), dtype=np.int16)
    if config.screen:
        values = screen_spikes(values, series.red)
        screened = (np.isnan(values) & ~np.isnan(series.values)).sum(1).astype(np.int16)
    latitude = np.nan_to_num(series.latitude)  # where none is known, no winter is filled
    return fit_cycles(values, series.days, latitude, config), screened


def write_phenology(
    parts: Iterator[Series], out: Path, config: PhenologyConfig, *, source: str, fill: bool = True, total: int = 0
) -> Counter[str]:
    """Fit series and write a row a sample.

    Columns: ``sample_id, longitude, latitude``; the dates ``greenup, maturity, peak, senescence, dormancy`` (days, 0 is
    the first moment of 1 January); ``amplitude, quality, spread, distance_km, n_cycles, filled``; ``source`` and
    ``reason`` in words (see :mod:`.cycles`); ``second_*``, the dates of a second cycle; ``observed`` (steps with a
    value) and ``screened`` (steps left out as spikes). The file's metadata hold the options under ``geotreeclip``.

    Args:
        parts: Series.
        out: File to write; it appears when it is complete.
        config: Options.
        source: Where the series come from, for the metadata.
        fill: Give places without a cycle that of their neighbours or of the calendar.
        total: Number of samples, to show how far the work is; 0 shows nothing.

    Returns:
        How many samples have their cycle from where, and why not from themselves ("calendar (gap)").
    """
    import pandas as pd
    from tqdm import tqdm

    heads: list[pd.DataFrame] = []
    cycles: list[Cycles] = []
    with tqdm(total=total, desc="cycles", unit=" samples", disable=not total) as bar:
        for series in parts:
            fitted, screened = fit_series(series, config)
            observed = (~np.isnan(series.values)).sum(1).astype(np.int16)
            columns = {"sample_id": series.sample_id, "longitude": series.longitude, "latitude": series.latitude}
            heads.append(pd.DataFrame({**columns, "observed": observed, "screened": screened}))
            cycles.append(fitted)
            bar.update(len(fitted))
    if not cycles:
        raise ConfigError(f"{source}: has no samples")
    return _store(pd.concat(heads, ignore_index=True), Cycles.joined(cycles), out, config, source=source, fill=fill)


def write_product(
    places: pd.DataFrame, folder: Path, out: Path, config: PhenologyConfig, *, worst: int, fill: bool = True
) -> Counter[str]:
    """Read cycles from layers of MCD12Q2 at places and write a row a sample, as `write_phenology` does.

    The column `observed` holds the years with a first cycle, `screened` the cycles left out for their quality.

    Args:
        places: sample_id, longitude, latitude.
        folder: GeoTIFFs, see :mod:`.product`.
        out: File to write.
        config: Options of the fall-back.
        worst: Largest QA_Overall that is taken.
        fill: As in `write_phenology`.
    """
    layers = find_layers(folder)
    lon, lat = (places[name].to_numpy(dtype=float, na_value=np.nan) for name in ("longitude", "latitude"))
    product = read_product(layers, lon, lat, worst)
    cycles = cycles_from_mcd12q2(product.days, product.num_cycles, product.amplitude)
    seen = ((product.days[:, :, 0] <= VALID_DAYS[1]).all(2) & (product.num_cycles > 0)).sum(1)
    head = places[["sample_id", "longitude", "latitude"]].reset_index(drop=True)
    head = head.assign(observed=seen.astype(np.int16), screened=product.poor)
    about = {"product": "MCD12Q2", "years": list(layers.years), "worst_quality": worst}
    return _store(head, cycles, out, config, source=folder.name, fill=fill, **about)


def _store(
    head: pd.DataFrame, table: Cycles, out: Path, config: PhenologyConfig, *, source: str, fill: bool, **more: Any
) -> Counter[str]:
    """Fill gaps, write the table with its options, and count where cycles come from."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if fill:
        if head[["longitude", "latitude"]].isna().any(axis=None):
            row = int(np.argmax(head[["longitude", "latitude"]].isna().any(axis=1)))
            raise ConfigError(
                f"{source}: sample {head['sample_id'][row]!r} has no coordinates, which neighbours and calendar need; "
                "add longitude and latitude, or give --no-fill"
            )
        table = fill_missing(table, head["longitude"].to_numpy(), head["latitude"].to_numpy(), config)
    frame = pd.concat([head.iloc[:, :3], table.frame(), head.iloc[:, 3:]], axis=1)
    options = asdict(config)
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
    about = {"phenology": options, "phenology_hash": digest, "source": source, "filled": fill, **more}
    stored = pa.Table.from_pandas(frame, preserve_index=False)
    stored = stored.replace_schema_metadata(
        {**(stored.schema.metadata or {}), b"geotreeclip": json.dumps(about).encode()}
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    write_atomically(out, lambda path: pq.write_table(stored, path))
    words = zip(frame["source"], frame["reason"], strict=True)
    return Counter(f"{came or 'none'} ({why})" if why else came for came, why in words)


def _parser() -> argparse.ArgumentParser:
    usual = PhenologyConfig()
    parser = argparse.ArgumentParser(
        prog="data_prep/phenology.py",
        description="Fit the vegetation cycle of samples from their time series, or read it from MODIS MCD12Q2.",
    )
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DIR", help="packed set with imagery")
    where.add_argument("--table", type=Path, metavar="FILE", help="Parquet or CSV: a row a sample, or a row a look")
    add("--out", type=Path, required=True, metavar="FILE", help="Parquet file to write")
    group = parser.add_argument_group("columns of a table ({} stands for the month where a row is a sample)")
    group.add_argument("--red", default="red", help="red band (%(default)s)")
    group.add_argument("--nir", default="nir", help="near infrared band (%(default)s)")
    group.add_argument("--index", default="", help="EVI2 itself instead of bands")
    group.add_argument("--start", default="", help="date or month of the first step (January without)")
    group.add_argument(
        "--scale", type=float, default=REFLECTANCE_SCALE, help="digital numbers per reflectance (%(default)s)"
    )
    group = parser.add_argument_group("MODIS MCD12Q2 instead of series, at the places of --data or --table")
    group.add_argument("--mcd12q2", type=Path, metavar="DIR", help="GeoTIFFs of its layers (Greenup_1_2019.tif, ...)")
    group.add_argument(
        "--worst-quality", type=int, default=WORST_QUALITY, metavar="N",
        help="largest QA_Overall that is taken: 0 best to 3 poor (%(default)s)",
    )  # fmt: skip
    group = parser.add_argument_group("fit")
    group.add_argument("--smoother", choices=("pchip", "binomial"), default=usual.smoother, help="(%(default)s)")
    group.add_argument("--screen", action="store_true", help="leave out single bright steps (missed clouds)")
    group.add_argument("--min-amplitude", type=float, default=usual.min_amplitude, help="EVI2 (%(default)g)")
    group.add_argument("--min-valid", type=int, default=usual.min_valid, help="steps (%(default)s)")
    group.add_argument("--max-gap-days", type=float, default=usual.max_gap_days, help="(%(default)g)")
    group.add_argument("--no-winter-fill", dest="winter_fill", action="store_false", help="leave polar winters missing")
    group = parser.add_argument_group("places without a cycle of their own")
    group.add_argument("--max-neighbor-km", type=float, default=usual.max_neighbor_km, help="(%(default)g)")
    group.add_argument("--no-fill", dest="fill", action="store_false", help="leave them without")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `data_prep/phenology.py`."""
    args = vars(_parser().parse_args(argv))
    data, table, out, fill = (args.pop(name) for name in ("data", "table", "out", "fill"))
    columns = {name: args.pop(name) for name in ("red", "nir", "index", "start", "scale")}
    product, worst = args.pop("mcd12q2"), args.pop("worst_quality")
    config = PhenologyConfig(**args)
    if product is not None:
        places = sample_places(data or table, packed=data is not None)
        total = len(places)
        print(f"reading MCD12Q2 of {product} at {total:,} places of {data or table} -> {out}")
        counts = write_product(places, product, out, config, worst=worst, fill=fill)
        return _tell(counts, total, out)
    total, parts = packed_series(data) if data is not None else table_series(table, **columns)
    print(f"fitting the cycles of {total:,} samples of {data or table} -> {out}")
    counts = write_phenology(parts, out, config, source=(data or table).name, fill=fill, total=total)
    return _tell(counts, total, out)


def _tell(counts: Counter[str], total: int, out: Path) -> int:
    for words, count in counts.most_common():
        print(f"{words:<28}{count:>12,} {count / total:>7.1%}")
    print(f"wrote {out}")
    return 0
