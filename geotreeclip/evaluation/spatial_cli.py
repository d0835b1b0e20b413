"""Command line of `eval/spatial.py`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.report import Row, describe_run, write_report
from geotreeclip.evaluation.spatial import NETWORK, RIVAL, Benchmark, report_rows, run_benchmark
from geotreeclip.evaluation.spatial_plot import curve, plot_curve


def main(argv: Sequence[str] | None = None) -> int:
    """Fit and score network and baselines on spatial folds; write report, page and plot."""
    parser = argparse.ArgumentParser(
        prog="eval/spatial.py",
        description="Score a network beside baselines on spatial folds: the curve over block sizes, and the main "
        "figure with a buffer. A stopped run goes on with the same command.",
        epilog="Options that are not listed are settings of train/clip.py for the network, such as --epochs 40.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed directory with coordinates")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="predictions, report.json, .md, .png")
    parser.add_argument("--config", metavar="YAML", help="settings of the network; without, the baselines run alone")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0, 100, 250, 500, 1000], metavar="KM")
    parser.add_argument("--main-size", type=float, default=500, metavar="KM", help="blocks of the main figure")
    parser.add_argument("--buffer-km", type=float, default=100, metavar="KM", help="buffer of the main figure")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the fits; the folds stay the same")
    parser.add_argument("--split-seed", type=int, default=0, help="of the folds (%(default)s)")
    parser.add_argument("--validation", type=float, default=0.1, help="share of training for validation, by blocks")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time (%(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (%(default)s)")
    parser.add_argument("--keep-models", action="store_true", help="keep the run directory of every network")
    args, settings = parser.parse_known_args(argv)
    if settings and not args.config:
        raise ConfigError(f"{settings[0]}: settings of the network need --config YAML")
    if len(set(args.seeds)) < len(args.seeds) or min(args.jobs, args.folds - 1) < 1:
        raise ConfigError("--seeds must differ, --jobs be at least 1 and --folds at least 2")
    benchmark = Benchmark(
        data=args.data,
        out=args.out,
        sizes=tuple(args.sizes),
        main_size=args.main_size,
        buffer_km=args.buffer_km,
        folds=args.folds,
        seeds=tuple(args.seeds),
        split_seed=args.split_seed,
        validation=args.validation,
        recipe=("--config", args.config, *settings) if args.config else (),
        jobs=args.jobs,
        keep_models=args.keep_models,
    )
    if benchmark.jobs > 1:  # read by numerical libraries as they start in the processes of the cells
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // benchmark.jobs)))
    pooled = run_benchmark(benchmark, say=lambda text: print(text, flush=True))
    rows = report_rows(benchmark, pooled, args.resamples)
    meta = describe_run(
        data_fingerprint=_fingerprint(args.data),
        folds=f"{args.folds}, the same for all systems and seeds; seed {args.split_seed}",
        validation=f"{args.validation:g} of the training part, by blocks; baselines learn from it too",
        intervals=f"95 % bootstrap over blocks (those of the folds, at least 100 km), {args.resamples} resamples",
        network=" ".join(benchmark.recipe) or None,
    )
    report, page = write_report(rows, args.out / "report.json", meta)
    plot = plot_curve(rows, benchmark, args.out / "curve.png")
    summary = summarise(rows, benchmark)
    page.write_text(f"{summary}\n![curve]({plot.name})\n\n{page.read_text(encoding='utf-8')}", encoding="utf-8")
    print(f"\n{summary}\nReport: {report}\nPage: {page}\nPlot: {plot}")
    return 0


def summarise(rows: Sequence[Row], benchmark: Benchmark) -> str:
    """The curve as a Markdown table, and the paired differences below it."""
    names = [geometry.name for geometry in benchmark.geometries]
    lines = ["# Spatial benchmark", "", "Species top-1 in percent, pooled over folds, mean over seeds.", ""]
    lines.append(f"| system | {' | '.join(names)} |")
    lines.append(f"| --- | {' | '.join('---:' for _ in names)} |")
    for system, parts in curve(rows, benchmark).items():
        lines.append(f"| {system} | {' | '.join(_cell(parts.get(name)) for name in names)} |")
    found = {
        row["split"]: row
        for row in rows
        if row["metric"] == "top1_difference" and row["method"] == "mean of seeds" and row["fold"] is None
    }
    if found:
        lines.append(f"| {NETWORK} - {RIVAL} | {' | '.join(_cell(found.get(name), '+') for name in names)} |")
    return "\n".join([*lines, ""])


def _cell(row: Row | None, sign: str = "") -> str:
    if row is None:
        return ""
    value = format(100 * row["value"], f"{sign}.1f")
    if row["low"] is None:
        return value
    return f"{value} [{format(100 * row['low'], f'{sign}.1f')}, {format(100 * row['high'], f'{sign}.1f')}]"


def _fingerprint(directory: Path) -> str:
    from geotreeclip.data.packed import PackedDataset

    return PackedDataset(directory).fingerprint()
