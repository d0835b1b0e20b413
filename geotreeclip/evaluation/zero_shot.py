"""Zero-shot scores of a model on a set, beside baselines and, where it is known, the ceiling.

Every sample is counted, the last partial batch included. The candidates are the taxa of the set (the closed list of the
published protocol), all taxa of the model, a table, or the species of a country; several lists stand side by side, and
so do variants of the set (see `geotreeclip.evaluation.views`). Sets drawn by quota have another prior than the training
data, so the uniform prior comes first. Protocol `published-exact` counts as the published script does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.collect import Truth, named_ranks, truth_of
from geotreeclip.evaluation.inputs import INPUT_SETS, distinct_inputs
from geotreeclip.evaluation.metrics import CALIBRATION_BINS
from geotreeclip.evaluation.prediction_files import write_predictions
from geotreeclip.evaluation.predictions import Context
from geotreeclip.evaluation.ranking import locate
from geotreeclip.evaluation.report import describe_run, markdown, read_ceiling, write_report
from geotreeclip.evaluation.scoring import PRIORS, evaluate
from geotreeclip.evaluation.selection import (
    Selection,
    candidate_list,
    country_list,
    select,
    trained_on,
    trained_with,
)
from geotreeclip.evaluation.views import View, read_names, union_of, variants_of
from geotreeclip.evaluation.zero_shot_arguments import add_arguments, check_arguments
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.models.directory import LoadedModel


def run(args: argparse.Namespace) -> int:
    """Score, write the report and the predictions, print the page."""
    check_arguments(args)
    print(f"Loading {args.model} and {' '.join(args.data)} ...", flush=True)
    from geotreeclip.candidates import label_priors
    from geotreeclip.evaluation.sets import open_set
    from geotreeclip.inference import Classifier
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model
    from geotreeclip.prep.phase import check_days

    dataset, name, remarks = open_set(args.data, args.samples, progress=sys.stderr.isatty())
    name = args.name or name
    path = find_model(model_directory(args.model))
    loaded = load_model(path)
    check_days(dataset.directory, loaded.config)
    classifier = Classifier(loaded, args.device)
    selection = select(dataset, args.split, args.fold, trained_with(loaded.training, dataset))
    # A model that counted no samples of any taxon has no prior, and no taxon that it knowingly never saw
    counts = dict(zip(loaded.taxonomy, loaded.counts.tolist(), strict=True)) if loaded.counts.any() else None
    truth = truth_of(dataset, selection.indices, block_km=args.block_km, counts=counts)
    union, views = _views(args, dataset, selection, truth, loaded, counts)
    distinct = distinct_inputs(loaded.config.observation.inputs, has_images=dataset.has_images)
    inputs = _asked(args.inputs, distinct)
    priors = PRIORS if args.prior == "both" else (args.prior,)
    if counts is None and args.prior == "both":
        priors = ("uniform",)
    notes = remarks + _notes(loaded.training, dataset, selection, truth, union)
    print(f"Scoring {path} on {name}: {selection.words}; inputs {', '.join(inputs)}; prior {', '.join(priors)}.")
    for view in views:
        print(f"{view.label or 'whole set'}: {int(view.samples.sum()):,} samples, {view.words}.")
    for note in notes:
        print(f"Note: {note}")
    context = Context(
        set=name, split=selection.split, fold=selection.fold, system=args.system, candidates=views[0].words,
        seed=loaded.training.get("config", {}).get("seed"),
    )  # fmt: skip
    result = evaluate(
        classifier, dataset, selection.indices, union, truth, context=context, views=views, inputs=inputs,
        priors=priors, counts=counts, label_prior=label_priors(union, loaded.taxonomy, loaded.counts),
        resamples=args.resamples, seed=args.seed, batch_size=args.batch_size, device=classifier.device,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    rows = [*result.rows, *read_ceiling(dataset.directory / "ceiling.json", name)]
    exact: dict[str, Any] = {}
    if args.published_exact:
        found, exact = _exact(loaded, dataset, selection, truth, context, args.device)
        rows += found
    meta = describe_run(
        model_fingerprint=loaded.fingerprint,
        data_fingerprint=dataset.fingerprint(),
        samples=len(truth),
        samples_scored=len(result.predictions[0]),
        truth_not_among_candidates=int((~result.predictions[0].truth_is_candidate).sum()),
        scored=selection.words,
        candidates="; ".join(dict.fromkeys(view.words for view in views)),
        variants="; ".join(f"{view.label or 'whole set'} {int(view.samples.sum()):,} samples" for view in views),
        intervals=f"{result.intervals}; blocks of {args.block_km:g} km"
        if truth.block is not None
        else result.intervals,
        calibration=f"{CALIBRATION_BINS} bins of equal mass",
        notes="; ".join(notes) or None,
        **exact,
    )
    report, page = write_report(rows, args.out, meta)
    stored = write_predictions(args.out.with_suffix(".predictions.parquet"), result.predictions)
    print()
    print(markdown(rows))
    if exact:
        print(f"Published-exact: {exact['published_exact']}\n")
    print(f"Report: {report}\nPage: {page}\nPredictions: {stored}")
    return 0


def _views(
    args: argparse.Namespace,
    dataset: PackedDataset,
    selection: Selection,
    truth: Truth,
    loaded: LoadedModel,
    counts: dict[Any, int] | None,
) -> tuple[Taxonomy, list[View]]:
    """All candidates, and what of the set is scored against which of them."""
    everywhere = np.ones(len(truth), dtype=bool)
    lists = args.labels or ([] if args.country else ["set"])
    given: list[tuple[str, Any, Taxonomy, str]] = [
        ("", everywhere, *candidate_list(dataset, labels, loaded.taxonomy)) for labels in lists
    ]
    for country in args.country:
        taxa, here, words = country_list(dataset, country, args.checklist, loaded.taxonomy)
        given.append((country, here[selection.indices], taxa, words))
    if args.checklist and not args.country:
        raise ConfigError("--checklist goes with --country; a table of candidates alone is --labels TABLE")
    union, places = union_of(taxa for *_, taxa, _ in given)
    wanted = None if args.variants is None else [part.strip() for part in args.variants.split(",") if part.strip()]
    views: list[View] = []
    for (label, samples, _, words), rows in zip(given, places, strict=True):
        if not samples.any():
            raise ConfigError(f"--country {label}: none of the samples to score lies in it")
        views += variants_of(
            View(label, samples, rows, words), union, truth.taxa, wanted=wanted,
            excluded=read_names(args.exclude_species) if args.exclude_species else frozenset(),
            trees=read_names(args.trees) if args.trees else None,
            seen=frozenset(taxon for taxon, count in counts.items() if count) if counts else None,
        )  # fmt: skip
    return union, views


def _exact(
    loaded: LoadedModel, dataset: PackedDataset, selection: Selection, truth: Truth, context: Context, device: Any
) -> tuple[list[Any], dict[str, Any]]:
    """Rows and words of protocol published-exact."""
    from geotreeclip.evaluation.exact import count_exactly, exact_rows, in_words, scorer
    from geotreeclip.inference import Classifier

    published = loaded.config.architecture == "published"
    classifier = Classifier(loaded, device, normalisation="batch" if published else "statistics")
    candidates, words = candidate_list(dataset)
    runs = count_exactly(
        scorer(classifier, dataset, selection.indices, candidates), candidates, truth.taxa,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    prior = "training" if loaded.scores_carry_prior else "uniform"
    rows = exact_rows(runs, Context(**{**vars(context), "prior": prior, "candidates": words}))
    each = {run.seed: {f"{rank} top-{k}": value for (rank, k), value in run.top.items()} for run in runs}
    return rows, {"published_exact": in_words(runs, len(truth)), "published_exact_runs": each}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/zero_shot.py``."""
    parser = argparse.ArgumentParser(prog="zero_shot.py", description="Zero-shot scores of a model on a set.")
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
            f"the truth of {outside:,} of {len(truth):,} samples is not among any candidates; they count as wrong"
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
