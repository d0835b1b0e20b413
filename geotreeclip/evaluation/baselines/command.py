"""Baselines on the rows and folds of a split, a random split of the same sizes beside it: `eval/baselines.py`.

Every fit is kept as a file, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.baselines.clip import ClipModel, load_clip
from geotreeclip.evaluation.baselines.features import monthly_series, read_environment
from geotreeclip.evaluation.baselines.fold import Fold
from geotreeclip.evaluation.baselines.kept import KeptFits
from geotreeclip.evaluation.baselines.permutation import BINS, CLIMATE, Exchange, what_images_add
from geotreeclip.evaluation.baselines.systems import (
    DEFAULT,
    SYSTEMS,
    WITH_IMAGES,
    clip_predictions,
    predictions_of,
    usable,
)
from geotreeclip.evaluation.baselines.trees import Budget
from geotreeclip.evaluation.collect import Truth, truth_of
from geotreeclip.evaluation.metrics import bootstrap_of, difference, difference_row, score
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.prediction_files import read_predictions, write_predictions
from geotreeclip.evaluation.predictions import Context, Predictions, concatenate
from geotreeclip.evaluation.report import Row, describe_run, markdown, read_ceiling, write_report

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

BLOCK_KM = 100.0
DEFAULT_BUDGET = Budget()
REFERENCES = {"all": ("environment", "no-location", "image"), "environment": ("no-location",)}
"""Inputs of gradient boosting and those that it is compared with: what the rest adds."""


@dataclass(frozen=True, eq=False, slots=True)
class Roles:
    """Rows of one fold of one split.

    Attributes:
        split: Name of the split.
        fold: Its fold.
        train: int64, training and validation samples, ascending.
        validation: int64, those of them that settings are chosen on.
        test: int64, ascending.
    """

    split: str
    fold: int
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def random_beside(named: Sequence[Roles], seed: int = 0) -> list[Roles]:
    """The samples of the folds dealt anew by seed, as many in every role; whatever lies in a buffer of all stays out.

    A sample is a test sample of one fold at most.
    """
    rows = np.unique(np.concatenate([part for roles in named for part in (roles.train, roles.test)]))
    dealt = np.random.default_rng([seed, 0x5EED]).permutation(rows)
    folds, start = [], 0
    for roles in named:
        rest = np.roll(dealt, -start)
        start += len(roles.test)
        test, train = np.split(rest[: len(roles.test) + len(roles.train)], [len(roles.test)])
        held = np.sort(train[: len(roles.validation)])
        folds.append(Roles(f"random-beside-{roles.split}", roles.fold, np.sort(train), held, np.sort(test)))
    return folds


def roles_of(dataset: PackedDataset, split: str, fold: int) -> Roles:
    """The rows of a fold.

    Raises:
        DataError: No such split or fold, or it lacks training or test samples.
    """
    train, validation, test = (dataset.split(split, fold, role) for role in ("train", "validation", "test"))
    if not len(train) or not len(test):
        raise DataError(
            f"{dataset.directory}: split {split}, fold {fold} has {len(train)} training and {len(test)} test samples; "
            "baselines need both"
        )
    return Roles(split, fold, np.sort(np.concatenate([train, validation])), validation, test)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="packed set")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="predictions.parquet, report.json, .md")
    parser.add_argument("--split", default="default", metavar="NAME", help="split of the set (%(default)s)")
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="folds; default: all, pooled")
    parser.add_argument(
        "--systems",
        metavar="A,B",
        default=",".join(DEFAULT),
        help=f"of {', '.join(SYSTEMS)}; none (default: %(default)s)",
    )
    parser.add_argument(
        "--clip", nargs="+", default=[], metavar="NAME@WEIGHTS",
        help="also open_clip models on true-colour composites: ViT-B-16@openai, ViT-B-32@RemoteCLIP-ViT-B-32.pt",
    )  # fmt: skip
    parser.add_argument("--device", help="torch device of --clip; default: a GPU where there is one")
    parser.add_argument(
        "--permute-images", metavar="MODEL",
        help="also score this model with its own images and with those of like places: what images add",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="permutations of the images (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="of the fits (%(default)s)")
    parser.add_argument(
        "--no-random", action="store_true", help="leave out the random split of the same sizes beside the named one"
    )
    parser.add_argument("--rounds", type=int, default=DEFAULT_BUDGET.rounds, help="of boosting, at most (%(default)s)")
    parser.add_argument(
        "--trees", type=int, default=DEFAULT_BUDGET.trees, help="of boosting, at most, rounds x taxa (%(default)s)"
    )
    parser.add_argument(
        "--train-samples", type=int, default=DEFAULT_BUDGET.samples, metavar="N",
        help="tree ensembles learn from at most so many, drawn by seed (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--buffer-km", type=float, default=0.0, help="buffer of the split, kept in inner choices too")
    parser.add_argument("--block-km", type=float, default=BLOCK_KM, help="edge of the blocks of intervals and choices")
    parser.add_argument("--jobs", type=int, default=1, help="threads of the forests (%(default)s)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (%(default)s)")
    parser.add_argument("--name", help="name of the set in the report; default: name of its directory")


def run(args: argparse.Namespace) -> int:
    """Fit what is not there yet, write predictions and report, print the page."""
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.leaks import fold_numbers

    dataset = PackedDataset(args.data)
    name = args.name or dataset.directory.resolve().name
    names, left_out = _asked(args.systems, dataset)
    folds = args.fold if args.fold is not None else fold_numbers(dataset, args.split)
    named = [roles_of(dataset, args.split, fold) for fold in folds]
    splits = [named] if args.no_random else [random_beside(named), named]
    budget = Budget(args.rounds, args.trees, args.train_samples)
    settings = {"budget": asdict(budget), "buffer_km": args.buffer_km, "block_km": args.block_km, "name": name}
    kept = KeptFits(args.out, {"data": dataset.fingerprint(), **settings})
    if not names and not args.permute_images and not args.clip:
        raise ConfigError("--systems none: nothing to do; name baselines, --clip, or a model with --permute-images")
    print(
        f"Fitting {len(names)} baselines on {name}, split {args.split}, fold {', '.join(map(str, folds))}"
        f"{'' if args.no_random else ', and on random splits of the same sizes'}.",
        flush=True,
    )
    for line in left_out:
        print(f"Left out: {line}.")
    inputs = _Inputs(dataset, args, images=any(SYSTEMS[key].inputs in WITH_IMAGES for key in names))
    pooled: list[Predictions] = []
    for split in splits:
        for key in names:
            try:
                for seed in args.seeds if SYSTEMS[key].seeded else args.seeds[:1]:
                    fits = [_fit(kept, key, roles, seed, inputs, budget, name) for roles in split]
                    pooled += _join(fits)
            except ConfigError as error:  # too many taxa for the budget: the other baselines go on
                left_out.append(f"{key} on {split[0].split}: {error}")
                print(f"Left out: {left_out[-1]}", flush=True)
    for text in args.clip:
        clip = load_clip(text, args.device)
        for split in splits:
            fits = [_score(kept, clip, text, roles, inputs, name) for roles in split]
            pooled += _join(fits)
    rows = report_rows(pooled, args.resamples)
    if args.permute_images:
        exchanged, said = _permuted(args, dataset, named, name)
        rows += exchanged.rows
        pooled += [
            item for scored in (exchanged.intact, exchanged.masked, *exchanged.permuted) for item in scored.all()
        ]
        left_out += [said]
        print(f"{said}.")
    if not pooled:
        raise ConfigError("no baseline could be fitted; the reasons are above")
    rows += read_ceiling(dataset.directory / "ceiling.json", name)
    meta = describe_run(
        data_fingerprint=dataset.fingerprint(),
        split=f"{args.split}, fold {', '.join(map(str, folds))}",
        random=None if args.no_random else "the samples of the split dealt anew by seed, as many in every role",
        intervals=f"{bootstrap_of(pooled[-1], resamples=args.resamples).describe()}; blocks of {args.block_km:g} km",
        seeds=", ".join(map(str, args.seeds)),
        notes="; ".join(left_out) or None,
    )
    stored = write_predictions(args.out / "predictions.parquet", pooled)
    report, page = write_report(rows, args.out / "report.json", meta)
    print()
    print(markdown(rows))
    print(f"Report: {report}\nPage: {page}\nPredictions: {stored}")
    return 0


def report_rows(pooled: Sequence[Predictions], resamples: int = RESAMPLES) -> list[Row]:
    """Rows of both protocols at every rank, and what each kind of input adds to gradient boosting.

    Args:
        pooled: Of each system, split, prior and seed: the predictions of its finest rank first, then those that were
            summed to other ranks.
        resamples: Of the bootstrap.
    """
    rows: list[Row] = []
    listed: dict[Context, Predictions] = {}
    ranks: dict[Context, list[str]] = {}
    for item in pooled:
        listed.setdefault(item.context, item)
        ranks.setdefault(item.context, []).append(item.rank)
    for item in pooled:
        bootstrap = bootstrap_of(item, resamples=resamples)
        if listed[item.context] is item:
            for rank in dict.fromkeys(ranks[item.context]):
                rows += score(item, protocol="published", rank=rank, bootstrap=bootstrap)
        rows += score(item, protocol="rolled-up", bootstrap=bootstrap)
    for context, item in listed.items():
        if context.system != "gradient boosting":
            continue
        for other, reference in listed.items():
            same = replace(other, inputs=context.inputs, method=context.method) == context
            if same and other.inputs in REFERENCES.get(context.inputs, ()):
                between = difference(item, reference, resamples=resamples)
                rows.append(difference_row(item.with_context(method=None), reference, between, rank=item.rank))
    return rows


def _permuted(args: argparse.Namespace, dataset: PackedDataset, named: list[Roles], name: str) -> tuple[Exchange, str]:
    """What images add to the model that was asked for, and how many samples could be given others."""
    from geotreeclip.evaluation.selection import candidate_list
    from geotreeclip.evaluation.zero_shot import model_directory
    from geotreeclip.inference import Classifier
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model

    if len(named) > 1:
        raise ConfigError("--permute-images: a model belongs to one fold; name it with --fold K")
    loaded = load_model(find_model(model_directory(args.permute_images)))
    classifier = Classifier(loaded)
    counts = dict(zip(loaded.taxonomy, loaded.counts.tolist(), strict=True)) if loaded.counts.any() else None
    (roles,) = named
    truth = truth_of(dataset, roles.test, block_km=args.block_km, counts=counts)
    candidates, words = candidate_list(dataset)
    context = Context(set=name, split=roles.split, fold=roles.fold, candidates=words)
    exchanged = what_images_add(
        classifier, dataset, roles.test, candidates, truth, context, repeats=args.repeats,
        prior="training" if counts else "uniform", resamples=args.resamples, device=classifier.device,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    said = (
        f"Images of {int(exchanged.moved.sum()):,} of {len(truth):,} test samples could be exchanged within blocks of "
        f"{args.block_km:g} km and {BINS} x {BINS} bins of {' and '.join(CLIMATE)}"
    )
    return exchanged, said


def _asked(text: str, dataset: PackedDataset) -> tuple[list[str], list[str]]:
    if text == "none":
        return [], []
    asked = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [key for key in asked if key not in SYSTEMS]
    if unknown or not asked:
        raise ConfigError(
            f"--systems {text}: {', '.join(unknown) or 'nothing'} is unknown; there are {', '.join(SYSTEMS)}"
        )
    names, left_out = usable(asked, has_images=dataset.has_images, has_countries=countries_of(dataset) is not None)
    if not names:
        raise ConfigError(f"--systems {text}: none has its inputs in this set ({'; '.join(left_out)})")
    return names, left_out


def countries_of(dataset: PackedDataset) -> NDArray[np.str_] | None:
    """Country of every sample as the set states it, or None where it states none at all."""
    table = dataset.samples()
    if "country" not in table.columns:
        return None
    values = np.asarray(table["country"].fillna("").astype(str).tolist(), dtype=str)
    return values if (values != "").any() else None


class _Inputs:
    """What the baselines read of a set, read once."""

    def __init__(self, dataset: PackedDataset, args: argparse.Namespace, *, images: bool) -> None:
        self.dataset = dataset
        self.args = args
        everything = np.arange(len(dataset))
        self.environment = read_environment(dataset)
        self.country = countries_of(dataset)
        self.series = monthly_series(dataset, progress=sys.stderr.isatty()) if images and dataset.has_images else None
        block = truth_of(dataset, everything, block_km=args.block_km).block
        self.block = everything if block is None else block

    def fold(self, roles: Roles, seed: int) -> Fold:
        return Fold(
            environment=self.environment, taxon=self.dataset.taxa, block=self.block, train=roles.train, test=roles.test,
            buffer_km=self.args.buffer_km, seed=seed, jobs=self.args.jobs, validation=roles.validation,
            series=self.series, country=self.country,
        )  # fmt: skip

    def truth(self, roles: Roles) -> Truth:
        taxa, counts = np.unique(self.dataset.taxa[roles.train], return_counts=True)
        records = {self.dataset.taxonomy[int(row)]: int(count) for row, count in zip(taxa, counts, strict=True)}
        return truth_of(self.dataset, roles.test, block_km=self.args.block_km, counts=records)


def _fit(
    kept: KeptFits, key: str, roles: Roles, seed: int, inputs: _Inputs, budget: Budget, name: str
) -> list[Predictions]:
    """Predictions of one baseline on one fold, fitted unless they are kept."""
    path = kept.path(f"{roles.split}-fold{roles.fold}-{key}-seed{seed}")
    if not path.is_file():
        started = time.monotonic()
        context = Context(set=name, split=roles.split, fold=roles.fold)
        scored = predictions_of(
            key, inputs.fold(roles, seed), inputs.dataset, inputs.truth(roles), context, budget=budget
        )
        write_predictions(path, [item for each in scored for item in each.all()])
        said = f"top-1 {scored[-1].listed.hits(1).mean():.1%} in {time.monotonic() - started:.1f} s"
        print(f"{roles.split} fold {roles.fold}: {key} {said}", flush=True)
    return read_predictions(path)


def _score(kept: KeptFits, clip: ClipModel, text: str, roles: Roles, inputs: _Inputs, name: str) -> list[Predictions]:
    """Predictions of an open_clip model on one fold, scored unless they are kept."""
    path = kept.path(f"{roles.split}-fold{roles.fold}-clip-{re.sub(r'[^A-Za-z0-9.-]+', '_', text)}")
    if not path.is_file():
        context = Context(set=name, split=roles.split, fold=roles.fold)
        scored = clip_predictions(
            clip, inputs.fold(roles, 0), inputs.dataset, inputs.truth(roles), context, progress=sys.stderr.isatty()
        )
        write_predictions(path, [item for each in scored for item in each.all()])
        print(f"{roles.split} fold {roles.fold}: {clip.name} top-1 {scored[0].listed.hits(1).mean():.1%}", flush=True)
    return read_predictions(path)


def _join(fits: Sequence[Sequence[Predictions]]) -> list[Predictions]:
    """The folds of a system joined: predictions of one prior and rank that every fold has."""
    keyed: list[dict[tuple[str | None, str, bool], Predictions]] = []
    for fold in fits:
        found: dict[tuple[str | None, str, bool], Predictions] = {}
        for item in fold:
            key = (item.context.prior, item.rank)
            # The finest rank comes twice where several candidates share a name: as listed, then summed
            found[(*key, (*key, False) in found)] = item
        keyed.append(found)
    shared = [key for key in keyed[0] if all(key in found for found in keyed)]
    groups = [[found[key] for found in keyed] for key in shared]
    return [concatenate(same, **_pooled(same)) for same in groups]


def _pooled(parts: Sequence[Predictions]) -> dict[str, Any]:
    """The context of several folds as one."""
    if len(parts) == 1:
        return {}
    methods = {part.context.method for part in parts}
    method = methods.pop() if len(methods) == 1 else "settings chosen in each fold"
    return {"fold": None, "method": method, "candidates": "taxa of the training part of each fold"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/baselines.py``."""
    parser = argparse.ArgumentParser(prog="baselines.py", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))
