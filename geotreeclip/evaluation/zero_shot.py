"""Zero-shot scores of a model on a packed set, beside baselines and, where it is known, the ceiling.

Every sample is counted, the last partial batch included. The candidates are the taxa of the scored samples (the closed
list of the published protocol) or a table. Sets drawn by quota have another prior than the training data, so the
uniform prior comes first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.collect import Truth, named_ranks, truth_of
from geotreeclip.evaluation.inputs import INPUT_SETS, distinct_inputs
from geotreeclip.evaluation.intervals import RESAMPLES
from geotreeclip.evaluation.metrics import CALIBRATION_BINS
from geotreeclip.evaluation.prediction_files import write_predictions
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.ranking import locate
from geotreeclip.evaluation.report import describe_run, markdown, read_ceiling, write_report
from geotreeclip.evaluation.scoring import PRIORS, evaluate
from geotreeclip.evaluation.selection import Selection, candidate_list, select, trained_on, trained_with
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

BLOCK_KM = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--model", required=True, metavar="RUN", help="training run or model directory")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="packed set")
    parser.add_argument("--out", required=True, type=Path, metavar="report.json", help="report to write; .md beside it")
    parser.add_argument("--labels", type=Path, metavar="table.csv", help="candidate taxa; default: taxa of the set")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="score its test samples; default: the split trained with, else default, else all samples",
    )
    parser.add_argument("--fold", type=int, metavar="K", help="fold of the split")
    parser.add_argument(
        "--prior", choices=("uniform", "training", "both"), default="both", help="prior over the labels"
    )
    parser.add_argument(
        "--inputs", metavar="A,B", help=f"sets of inputs: {', '.join(INPUT_SETS)}; default: all that differ"
    )
    parser.add_argument("--block-km", type=float, default=BLOCK_KM, help="edge of the blocks of the intervals")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="resamples of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--batch-size", type=int, help="samples at a time")
    parser.add_argument("--device", help="torch device; default: a GPU where there is one")
    parser.add_argument("--name", help="name of the set in the report; default: name of its directory")
    parser.add_argument("--system", default="geotreeclip", help="name of the model in the report")


def run(args: argparse.Namespace) -> int:
    """Score, write the report and the predictions, print the page."""
    print(f"Loading {args.model} and {args.data} ...", flush=True)
    from geotreeclip.candidates import label_priors
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.inference import Classifier
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model

    if args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    dataset = PackedDataset(args.data)
    path = find_model(model_directory(args.model))
    loaded = load_model(path)
    classifier = Classifier(loaded, args.device)
    selection = select(dataset, args.split, args.fold, trained_with(loaded.training, dataset))
    candidates, words = candidate_list(dataset, args.labels, loaded.taxonomy)
    counts = dict(zip(loaded.taxonomy, loaded.counts.tolist(), strict=True))
    truth = truth_of(dataset, selection.indices, block_km=args.block_km, counts=counts)
    distinct = distinct_inputs(loaded.config.observation.inputs, has_images=dataset.has_images)
    inputs = _asked(args.inputs, distinct)
    priors = PRIORS if args.prior == "both" else (args.prior,)
    name = args.name or dataset.directory.resolve().name
    notes = _notes(loaded.training, dataset, selection, truth, candidates)
    print(f"Scoring {path} on {name}: {selection.words}.")
    print(f"{len(truth):,} samples, {words}; inputs {', '.join(inputs)}; prior {', '.join(priors)}.")
    for note in notes:
        print(f"Note: {note}")
    context = Context(
        set=name, split=selection.split, fold=selection.fold, system=args.system, candidates=words,
        seed=loaded.training.get("config", {}).get("seed"),
    )  # fmt: skip
    result = evaluate(
        classifier, dataset, selection.indices, candidates, truth, context=context, inputs=inputs, priors=priors,
        counts=counts, label_prior=label_priors(candidates, loaded.taxonomy, loaded.counts), resamples=args.resamples,
        seed=args.seed, batch_size=args.batch_size, device=classifier.device, progress=sys.stderr.isatty(),
    )  # fmt: skip
    rows = [*result.rows, *read_ceiling(dataset.directory / "ceiling.json", name)]
    meta = describe_run(
        model_fingerprint=loaded.fingerprint,
        data_fingerprint=dataset.fingerprint(),
        samples=len(truth),
        samples_scored=len(result.predictions[0]),
        truth_not_among_candidates=int((~result.predictions[0].truth_is_candidate).sum()),
        scored=selection.words,
        candidates=words,
        intervals=f"{result.intervals}; blocks of {args.block_km:g} km"
        if truth.block is not None
        else result.intervals,
        calibration=f"{CALIBRATION_BINS} bins of equal mass",
        notes="; ".join(notes) or None,
    )
    report, page = write_report(rows, args.out, meta)
    stored = write_predictions(args.out.with_suffix(".predictions.parquet"), result.predictions)
    print()
    print(markdown(rows))
    print(f"Report: {report}\nPage: {page}\nPredictions: {stored}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/zero_shot.py``."""
    parser = argparse.ArgumentParser(prog="zero_shot.py", description="Zero-shot scores of a model on a packed set.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def model_directory(path: str) -> str:
    """The model of a training run (its folder "model"), or the path itself; names of the hub pass through."""
    inside = Path(path) / "model"
    return str(inside) if (inside / "config.json").is_file() else path


def _asked(text: str | None, distinct: Sequence[str]) -> list[str]:
    if text is None:
        return list(distinct)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in INPUT_SETS]
    if unknown or not asked:
        raise ConfigError(f"--inputs {text}: choose from {', '.join(INPUT_SETS)}")
    return asked


def _notes(
    training: dict[str, Any], dataset: PackedDataset, selection: Selection, truth: Truth, candidates: Taxonomy
) -> list[str]:
    """What a reader of the scores should know."""
    notes = []
    outside = int((locate(candidates, truth.taxa, named_ranks(candidates)[0])[1] >= len(candidates)).sum())
    if outside:
        notes.append(
            f"the truth of {outside:,} of {len(truth):,} samples is not among the candidates; they count as wrong"
        )
    seen = trained_on(training, dataset, selection.indices)
    if seen:
        notes.append(
            f"the model was trained or validated on {seen:,} of the {len(truth):,} samples, so these scores say little "
            "of new places"
        )
    if truth.block is None:
        notes.append("the samples have no coordinates, so intervals resample single samples and are too narrow")
    return notes
