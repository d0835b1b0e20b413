"""Command line of `eval/few_shot.py`: scores on a packed set, or `--adapt` to a person's own samples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.commands.adapt import adapt_model, add_sample_arguments, names, numbers
from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.few_shot.episodes import BLOCK_KM, MIN_QUERY, SEEDS, SHOTS, SUPPORTS

INTERVAL_KM = 100.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/few_shot.py``."""
    args = _parser().parse_args(argv)
    if args.adapt is not None:
        return adapt_model(args.adapt, args)
    return _score(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="few_shot.py",
        description="Score heads fitted to a few labelled samples of a packed set (--data), or adapt a model to your "
        "own labels and images (--adapt).",
    )
    parser.add_argument("--model", required=True, metavar="RUN", help="training run or model directory")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH",
                        help="report.json to write (.md and .predictions.parquet beside it); with --adapt the "
                        "directory of the adapted model")  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="packed set to draw supports and queries from")
    what.add_argument("--adapt", type=Path, metavar="FILE", help="npz, csv or parquet of your labelled samples")
    drawn = parser.add_argument_group("scores on a packed set")
    drawn.add_argument("--shots", type=numbers, default=SHOTS, metavar="A,B", help="support samples a label (1,3,5,10)")
    drawn.add_argument("--seeds", type=numbers, default=SEEDS, metavar="A,B", help="draws (0,1,2,3,4)")
    drawn.add_argument("--methods", type=names, metavar="A,B", help="zero-shot, location, prototype, text, logistic, "
                       "lda, lda-inputs, combined, low-rank, full; default: all but the last two")  # fmt: skip
    drawn.add_argument("--support", choices=SUPPORTS, default=SUPPORTS[0], help="union-of-ranks: so many of each "
                       "species, genus and family, as in the published scripts (default: of each label)")  # fmt: skip
    drawn.add_argument("--block-km", type=float, default=BLOCK_KM, help="blocks that support and query do not share")
    drawn.add_argument(
        "--min-query", type=int, default=MIN_QUERY, help="samples a label needs beyond its largest support"
    )
    drawn.add_argument("--split", metavar="NAME", help="draw from its test samples; default as in zero_shot.py")
    drawn.add_argument("--fold", type=int, metavar="K", help="fold of the split")
    drawn.add_argument("--all-rows", action="store_true", help="draw from all samples, whatever the splits")
    drawn.add_argument("--name", help="name of the set in the report; default: name of its directory")
    drawn.add_argument("--system", default="geotreeclip", help="name of the model in the report")
    add_sample_arguments(parser.add_argument_group("adapting"))
    return parser


def _score(args: argparse.Namespace) -> int:
    """Score on a packed set, write the report and the predictions, print the page."""
    if args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    print(f"Loading {args.model} and {args.data} ...", flush=True)
    import numpy as np

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.collect import named_ranks
    from geotreeclip.evaluation.few_shot.benchmark import (
        DEFAULT_METHODS,
        DRAWS,
        Setting,
        draw_rows,
        mean_rows,
        prepare,
        run_cells,
    )
    from geotreeclip.evaluation.few_shot.ceiling import ceiling_rows
    from geotreeclip.evaluation.prediction_files import write_predictions
    from geotreeclip.evaluation.predictions import Context
    from geotreeclip.evaluation.report import describe_run, markdown, write_report
    from geotreeclip.evaluation.selection import Selection, select, trained_on, trained_with
    from geotreeclip.evaluation.zero_shot import model_directory
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model

    setting = Setting(
        tuple(args.shots), tuple(args.seeds), tuple(args.methods or DEFAULT_METHODS), args.support, args.block_km,
        args.min_query,
    )  # fmt: skip
    dataset = PackedDataset(args.data)
    loaded = load_model(find_model(model_directory(args.model)))
    if args.all_rows:
        selection = Selection(np.arange(len(dataset), dtype=np.int64), None, None, "all samples")
    else:
        selection = select(dataset, args.split, args.fold, trained_with(loaded.training, dataset))
    name = args.name or dataset.directory.resolve().name
    print(f"Drawing from {selection.words}: {len(selection.indices):,} samples.", flush=True)
    context = Context(set=name, split=selection.split, fold=selection.fold, system=args.system)
    progress = sys.stderr.isatty()
    work = prepare(
        loaded, dataset, selection.indices, setting, context, interval_km=max(INTERVAL_KM, args.block_km),
        progress=progress,
    )  # fmt: skip
    print(f"{work.episodes.words()}; blocks of {setting.block_km:g} km.")
    print(f"{', '.join(setting.methods)}; shots {_list(setting.shots)}; seeds {_list(setting.seeds)}.", flush=True)
    notes = []
    seen = trained_on(loaded.training, dataset, selection.indices)
    if seen:
        notes.append(f"the model was trained or validated on {seen:,} of the {len(selection.indices):,} samples")
    if len(setting.seeds) < DRAWS:
        notes.append(f"{len(setting.seeds)} draws only: {DRAWS} or more give an interval worth the name")
    if work.support_block is None:
        notes.append("no coordinates are known, so support and query may be neighbours")
    for note in notes:
        print(f"Note: {note}")
    cells = run_cells(work, setting, args.out.with_suffix(".cells"), progress=progress)
    means = [*mean_rows(cells, named_ranks(work.labels)), *ceiling_rows(work)]
    meta = describe_run(
        model_fingerprint=loaded.fingerprint,
        data_fingerprint=dataset.fingerprint(),
        drawn_from=selection.words,
        labels=work.episodes.words(),
        excluded={reason: len(found) for reason, found in work.episodes.excluded.items()},
        support=f"{setting.support}; support and query in different blocks of {setting.block_km:g} km",
        draws=f"seeds {_list(setting.seeds)}",
        intervals="95 %: variance over draws, and over blocks of the intervals, added",
        notes="; ".join(notes) or None,
    )
    report, page = write_report([*means, *draw_rows(cells)], args.out, meta)
    text = markdown(means, meta)  # the page shows means; single draws are in the JSON
    page.write_text(text, encoding="utf-8")
    stored = write_predictions(args.out.with_suffix(".predictions.parquet"), cells)
    print()
    print(markdown(means))
    print(f"Report: {report}\nPage: {page}\nPredictions: {stored}")
    return 0


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
