"""Command line of `eval/seasons.py`: pictures of cycles, of their dates on a map, and of embeddings by season."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geotreeclip.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geotreeclip.evaluation.season_figures import DrawnSeries
    from geotreeclip.prep.phenology.series import Series

__all__ = ["main"]

MOST = 6
"""Series that are drawn where nobody names them."""

DATE_NAMES = ("greenup", "maturity", "peak", "senescence", "dormancy")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/seasons.py``."""
    args = _parser().parse_args(argv)
    figure, told = {"cycle": _cycle, "map": _map, "embedding": _embedding}[args.picture](args)
    from geotreeclip.evaluation.season_figures import save_figure

    print(f"{told} -> {save_figure(figure, args.out)}")
    return 0


def _cycle(args: argparse.Namespace) -> tuple[Any, str]:
    from geotreeclip.evaluation.season_figures import draw_cycles
    from geotreeclip.prep.phenology.cycles import Cycles, PhenologyConfig
    from geotreeclip.prep.phenology.job import fit_series
    from geotreeclip.prep.phenology.series import packed_series, table_series

    columns = {name: getattr(args, name) for name in ("red", "nir", "index", "start", "scale")}
    _, parts = packed_series(args.data) if args.data is not None else table_series(args.table, **columns)
    config = PhenologyConfig(smoother=args.smoother, screen=args.screen)
    wanted, drawn, cycles = set(args.samples), [], []
    for series in parts:
        rows = [row for row, name in enumerate(series.sample_id) if name in wanted] if wanted else _spread(series, args)
        if not rows:
            continue
        some = _rows(series, rows)
        fitted, _ = fit_series(some, config)
        drawn += _drawn(some, config)
        cycles.append(fitted)
        if not wanted:
            break
    found = {one.title.split(" (")[0] for one in drawn}
    if lost := sorted(wanted - found):
        raise DataError(f"{args.data or args.table}: has no sample {lost[0]!r} (of {len(wanted)} asked for)")
    if not drawn:
        raise DataError(f"{args.data or args.table}: has no samples to draw")
    return draw_cycles(drawn, Cycles.joined(cycles), config), f"{len(drawn)} fitted cycles of {args.data or args.table}"


def _spread(series: Series, args: argparse.Namespace) -> list[int]:
    """Some samples of the first batch, drawn by seed."""
    rng = np.random.default_rng(args.seed)
    return sorted(rng.permutation(len(series.sample_id))[: args.number].tolist())


def _rows(series: Series, rows: list[int]) -> Series:
    from dataclasses import fields

    parts = {each.name: getattr(series, each.name) for each in fields(series)}
    taken: dict[str, Any] = {name: part[rows] for name, part in parts.items() if name != "sample_id"}
    return type(series)(sample_id=[series.sample_id[row] for row in rows], **taken)


def _drawn(series: Series, config: Any) -> list[DrawnSeries]:
    from geotreeclip.evaluation.season_figures import DrawnSeries
    from geotreeclip.prep.phenology.index import screen_spikes

    values = screen_spikes(series.values, series.red) if config.screen else series.values
    return [
        DrawnSeries(
            f"{name} ({latitude:.2f}°, {longitude:.2f}°)", series.days[row], series.values[row],
            np.isnan(values[row]) & ~np.isnan(series.values[row]), float(latitude),
        )
        for row, (name, longitude, latitude) in enumerate(
            zip(series.sample_id, series.longitude, series.latitude, strict=True)
        )
    ]  # fmt: skip


def _map(args: argparse.Namespace) -> tuple[Any, str]:
    from geotreeclip.evaluation.probes.sources import read_table
    from geotreeclip.evaluation.season_figures import draw_map

    table = read_table(args.phenology)
    lacking = [name for name in ("longitude", "latitude", "source", args.date) if name not in table]
    if lacking:
        raise DataError(f"{args.phenology}: lacks the columns {', '.join(lacking)}; data_prep/phenology.py writes them")
    lon, lat, days = (
        table[name].to_numpy(dtype=float, na_value=np.nan) for name in ("longitude", "latitude", args.date)
    )
    return draw_map(
        lon, lat, days, table["source"].astype(str).tolist(), args.date
    ), f"{args.date} of {len(table):,} places"


def _embedding(args: argparse.Namespace) -> tuple[Any, str]:
    import torch

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.season_figures import draw_embeddings
    from geotreeclip.observations import from_packed
    from geotreeclip.schema import MISSING_DN
    from geotreeclip.training.seasonal.config import DisturbConfig
    from geotreeclip.training.seasonal.output import read_encoder
    from geotreeclip.training.seasonal.seasons import SampleSeasons
    from geotreeclip.training.seasonal.views import Share, draw_seasons, frames

    dataset = PackedDataset(args.data)
    seasons = SampleSeasons.of(dataset, args.phenology)
    rows = np.flatnonzero(seasons.seasonal)
    rows = np.sort(np.random.default_rng([args.seed, 0x5EE]).permutation(rows)[: args.number])
    if len(rows) < 10:
        raise DataError(f"{args.data}: {len(rows)} samples have seasons; a picture needs 10")
    packed = dataset.read(rows)
    share = Share(args.seed, 0, slice(0, len(rows)), len(rows))
    drawn = draw_seasons(
        seasons.weights(packed.index, packed.days, dataset.steps),
        (packed.images != MISSING_DN).any(axis=(2, 3, 4)), 1, share,
    )  # fmt: skip
    kept = drawn.seasons > 0
    view = frames(from_packed(packed), drawn.step[:, 0], 0, False, DisturbConfig(turn=False), share)
    panels = []
    for name in args.encoder:
        encoder = read_encoder(name).build()
        with torch.inference_mode():
            values = encoder(view).numpy().astype(np.float64)[kept]
        points = _plane(values, args.projection, args.seed)
        panels.append((f"{Path(name).name} ({args.projection})", points, drawn.season[kept, 0]))
    return draw_embeddings(panels), f"single steps of {int(kept.sum()):,} places, as {len(panels)} encoder(s) see them"


def _plane(values: NDArray[np.float64], projection: str, seed: int) -> NDArray[np.float64]:
    """Embeddings [N, D] in the plane, [N, 2]."""
    if projection == "tsne":
        from geotreeclip.evaluation.report_page.embeddings import project

        return np.asarray(project(values, seed, most=len(values))[0], dtype=np.float64)
    centred = values - values.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(
        axes[:2, np.abs(axes[:2]).argmax(axis=1)].diagonal()
    )  # a singular vector has no direction of its own
    return np.asarray(centred @ (axes[:2] * sign[:, None]).T)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eval/seasons.py", description="Pictures of seasons.")
    pictures = parser.add_subparsers(dest="picture", metavar="PICTURE", required=True)
    one = pictures.add_parser("cycle", help="fitted cycles over their observations, seasons shaded")
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DIR", help="packed set with imagery")
    where.add_argument("--table", type=Path, metavar="FILE", help="table of series, as data_prep/phenology.py reads it")
    one.add_argument("--samples", nargs="+", default=(), metavar="ID", help="which; some drawn by seed without")
    one.add_argument("--number", type=int, default=MOST, help="how many of these (%(default)s)")
    one.add_argument("--red", default="red", help="columns of a table (%(default)s)")
    one.add_argument("--nir", default="nir", help="(%(default)s)")
    one.add_argument("--index", default="", help="EVI2 itself instead of bands")
    one.add_argument("--start", default="", help="date or month of the first step (January without)")
    one.add_argument("--scale", type=float, default=10_000.0, help="digital numbers per reflectance (%(default)g)")
    one.add_argument("--smoother", choices=("pchip", "binomial"), default="pchip", help="(%(default)s)")
    one.add_argument("--screen", action="store_true", help="leave out single bright steps (missed clouds)")
    one = pictures.add_parser("map", help="a date of the cycle on a map")
    one.add_argument("--phenology", type=Path, required=True, metavar="FILE", help="table of data_prep/phenology.py")
    one.add_argument("--date", choices=DATE_NAMES, default="greenup", help="(%(default)s)")
    one = pictures.add_parser("embedding", help="single steps of places in the plane, by season")
    one.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed set with imagery")
    one.add_argument("--encoder", nargs="+", required=True, metavar="RUN", help="runs of train/seasonal.py")
    one.add_argument("--phenology", default="calendar", metavar="FILE", help="cycles; calendar or steps (%(default)s)")
    one.add_argument("--projection", choices=("pca", "tsne"), default="pca", help="(%(default)s)")
    one.add_argument("--number", type=int, default=1500, help="samples drawn (%(default)s)")
    for command in pictures.choices.values():
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="picture to write")
    return parser
