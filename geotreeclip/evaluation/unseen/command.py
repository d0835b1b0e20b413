"""Unseen species: genus accuracy of taxonomic text beside permuted names and learnt vectors: `eval/unseen.py`.

A fifth of the species of every genus with several is held out. The model learns climate and text of the others, and is
asked for places of species that it never saw.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.comparison import compare
from geotreeclip.evaluation.metrics import bootstrap_of, score
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.prediction_files import write_predictions
from geotreeclip.evaluation.predictions import Context, Predictions, from_log_prob
from geotreeclip.evaluation.report import Row, describe_run, make_row, write_report
from geotreeclip.evaluation.unseen.places import Held, Places, hold_out, places_of_packed, places_of_tables

BLOCK_KM = 100.0
UNSEEN, SEEN, ALL, WITHIN = "unseen species", "seen species", "unseen among all species", "unseen within the genus"
"""What is asked: held-out species against each other; tested samples of seen species against seen ones; held-out
species against all; held-out species against those of their own genus."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "--points", nargs="+", type=Path, default=[], metavar="TABLE",
        help="records (CSV, Parquet) with species, longitude, latitude, and family where known",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR", help="packed set instead, imagery included")
    parser.add_argument("--rasters", nargs="+", default=[], metavar="PLACE", help="folders or files of climate rasters")
    parser.add_argument(
        "--taxonomy", type=Path, metavar="CSV", help="genus and family, for tables that state no family"
    )
    parser.add_argument(
        "--worldclim",
        choices=("1", "2.1"),
        default="2.1",
        help="version of the tables' own variables, without --rasters",
    )
    parser.add_argument("--out", type=Path, metavar="report.json", help="report; predictions beside it")
    parser.add_argument("--texts", default="names,permuted,identity", help="what stands for a species (%(default)s)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="of all draws (%(default)s)"
    )
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the species of a genus that is held out (%(default)s)"
    )
    parser.add_argument("--inputs", default="climate,terrain", help="what the model reads (%(default)s)")
    parser.add_argument("--per-species", type=int, default=150, help="records at most, by seed (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each fit (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=96, help="places in a step (%(default)s)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (%(default)s)")
    parser.add_argument(
        "--rename", type=Path, metavar="DIR",
        help="with --data and one of --texts permuted, identity: only write the set so named, to train on",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="name of the set in the report")


def run(args: argparse.Namespace) -> int:
    """Fit, score, write the report and the predictions, print the summary."""
    if bool(args.points) == bool(args.data):
        raise ConfigError("give either --points TABLE... or --data DIR")
    if args.rename:
        return _rename(args)
    if args.out is None or args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    print("Reading places ...", flush=True)
    if args.data:
        from geotreeclip.data.packed import PackedDataset

        whole = places_of_packed(PackedDataset(args.data))
    else:
        whole = places_of_tables(args.points, args.rasters, taxonomy=args.taxonomy, worldclim=args.worldclim)
    name = args.name or (args.data.name if args.data else " + ".join(path.stem for path in args.points))
    texts = [part.strip() for part in args.texts.split(",") if part.strip()]
    whole = whole.thinned(args.per_species, 0)
    for note in whole.notes:
        print(f"Note: {note}")
    print(f"{len(whole):,} places, {whole.taxonomy!r}; {len(args.seeds) * len(texts)} fits of {args.steps} steps.")
    found, seconds = _fits(whole, texts, args, name)
    rows = [row for item in found for row in _rows_of(item, args.resamples)]
    rows += _differences(found, args.resamples)
    lines = summary(found, texts)
    meta = describe_run(
        places=len(whole), species=len(whole.taxonomy), notes="; ".join(whole.notes), share_held_out=args.share,
        records_per_species=f"at most {args.per_species}", inputs=args.inputs, steps=args.steps,
        batch_size=args.batch_size, seeds=", ".join(map(str, args.seeds)), cpu_minutes=round(seconds / 60, 1),
        intervals=f"95 % bootstrap over blocks of {BLOCK_KM:g} km, {args.resamples} resamples",
    )  # fmt: skip
    stored = write_predictions(args.out.with_suffix(".predictions.parquet"), [item.predictions for item in found])
    report, page = write_report(rows, args.out, meta)
    text = "\n".join(lines)
    whole_page = f"{text}\n\n{page.read_text(encoding='utf-8')}"
    write_atomically(page, lambda aside: aside.write_text(whole_page, encoding="utf-8"))
    print(f"\n{text}\n\n{seconds / 60:.1f} minutes of processor time for the fits.")
    print(f"Report: {report}\nPage: {page}\nPredictions: {stored}")
    return 0


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """Answers to one question by one model.

    Attributes:
        question: One of the four.
        text: What stood for a species.
        seed: Of the run.
        predictions: The answers.
        chance: Top-1 of a blind guess among the candidates, at the rank that the question is about, macro over genera.
    """

    question: str
    text: str
    seed: int
    predictions: Predictions
    chance: float

    @property
    def rank(self) -> str:
        """What the question is about: the species of a genus, or the genus."""
        return "species" if self.question in (SEEN, WITHIN) else "genus"

    @property
    def macro(self) -> float:
        """Top-1 at the rank of the question, the mean over genera of the mean within each."""
        item = self.predictions
        hits = item.hits(1) if self.rank == "species" else item.read_off("genus", 1)
        return _over_genera(hits, [item.classes[row].genus for row in item.truth.tolist()])


def questions(
    places: Places, held: Held, logits: NDArray[np.float32], context: Context, text: str, seed: int
) -> list[Asked]:
    """The four questions.

    Args:
        places: The samples, of S species.
        held: What was held out.
        logits: [N, S] of the tested samples, those of seen species first.
        context: Set and split.
        text: What stood for a species.
        seed: Of the run.
    """
    count = len(held.seen_test)
    seen = np.unique(places.taxon[held.train])
    everything = np.arange(len(places.taxonomy))
    genus = np.array([taxon.genus for taxon in places.taxonomy])
    context = replace(context, system=f"text: {text}", seed=seed)
    asked = []
    for question, rows, index, candidates in (
        (SEEN, slice(0, count), held.seen_test, seen),
        (UNSEEN, slice(count, None), held.unseen_test, held.unseen),
        (ALL, slice(count, None), held.unseen_test, everything),
        (WITHIN, slice(count, None), held.unseen_test, held.unseen),
    ):
        scores = logits[rows][:, candidates].astype(np.float64)
        truth = genus[places.taxon[index]]
        same = genus[candidates][None, :] == truth[:, None]
        blind = same.mean(axis=1)
        if question == SEEN:
            blind = np.full(len(index), 1 / len(candidates))
        if question == WITHIN:
            # Relatives alone are candidates, and only where there are several to choose from
            several = same.sum(axis=1) > 1
            scores, index, truth = np.where(same, scores, -np.inf)[several], index[several], truth[several]
            blind = 1 / same[several].sum(axis=1)
        if not len(index):
            continue
        scores = scores - scores.max(axis=1, keepdims=True)
        log_prob = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        predictions = from_log_prob(
            log_prob,
            [places.taxonomy[int(row)] for row in candidates],
            [places.taxonomy[int(row)] for row in places.taxon[index]],
            places.sample_id[index],
            context=replace(context, split=question, candidates=f"{len(candidates)} species"),
            block=places.block(BLOCK_KM)[index],
        )
        asked.append(Asked(question, text, seed, predictions, _over_genera(blind, truth.tolist())))
    return asked


def _rename(args: argparse.Namespace) -> int:
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.unseen.renamed import write_renamed

    if not args.data or args.texts not in ("permuted", "identity"):
        raise ConfigError("--rename DIR goes with --data SET and --texts permuted or --texts identity")
    print(f"Renaming the taxa of {args.data} ({args.texts}, seed {args.seeds[0]}) ...", flush=True)
    print(f"Packed set: {write_renamed(PackedDataset(args.data), args.rename, args.texts, args.seeds[0])}")
    return 0


def _fits(whole: Places, texts: Sequence[str], args: argparse.Namespace, name: str) -> tuple[list[Asked], float]:
    from tqdm import tqdm

    from geotreeclip.evaluation.unseen.fit import Recipe, fit_and_score

    inputs = tuple(part.strip() for part in args.inputs.split(",") if part.strip())
    recipe = Recipe(inputs=inputs, steps=args.steps, batch_size=args.batch_size)
    started, found = time.process_time(), []
    total = len(args.seeds) * len(texts) * args.steps
    with tqdm(total=total, unit=" steps", desc="fitting", disable=not sys.stderr.isatty()) as bar:
        for seed in args.seeds:
            held = hold_out(whole, seed, share=args.share, block_km=BLOCK_KM)
            for text in texts:
                logits = fit_and_score(whole, held, text, seed, recipe, bar.update)
                context = Context(set=name, inputs=" + ".join(inputs), prior="uniform")
                found += questions(whole, held, logits, context, text, seed)
                said = ", ".join(f"{one.question} {one.macro:.1%}" for one in found[-4:] if one.text == text)
                print(f"seed {seed}, {text}: {said}", flush=True)
    return found, time.process_time() - started


def _rows_of(item: Asked, resamples: int) -> list[Row]:
    bootstrap = bootstrap_of(item.predictions, resamples=resamples)
    return [
        row
        for rank in dict.fromkeys(("species", item.rank))
        for row in score(item.predictions, rank=rank, bootstrap=bootstrap)
    ]


def _differences(found: Sequence[Asked], resamples: int) -> list[Row]:
    """Names minus each control, macro over genera or species, paired by sample, seed by seed."""
    rows = []
    for first in (item for item in found if item.text == "names"):
        for second in found:
            if second.text == "names" or (second.question, second.seed) != (first.question, first.seed):
                continue
            for between in compare(
                first.predictions,
                second.predictions,
                rank=first.rank,
                metrics=("top1", "macro_top1"),
                resamples=resamples,
            ):
                context = replace(first.predictions.context, system=f"text: names - {second.text}")
                rows.append(
                    make_row(
                        **asdict(context), protocol="published", rank=first.rank, group="all",
                        metric=f"{between.metric}_difference", n=between.n, **between.interval._asdict(),
                    )
                )  # fmt: skip
    return rows


def summary(found: Sequence[Asked], texts: Sequence[str]) -> list[str]:
    """Macro top-1 over genera, mean over seeds (smallest to largest), as a Markdown table."""
    lines = ["# Unseen species", "", "Top-1 in percent, macro over genera: mean over seeds (smallest to largest).", ""]
    lines += [f"| question | rank | {' | '.join(texts)} | chance |", f"|---|---|{'---:|' * (len(texts) + 1)}"]
    for question in (UNSEEN, ALL, WITHIN, SEEN):
        items = [item for item in found if item.question == question]
        if not items:
            continue
        cells = []
        for text in texts:
            values = [100 * item.macro for item in items if item.text == text]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else "")
        chance = 100 * float(np.mean([item.chance for item in items]))
        lines.append(f"| {question} | {items[0].rank} | {' | '.join(cells)} | {chance:.1f} |")
    lines += ["", f"{ALL.capitalize()}: a seen relative may be named too, which takes no words but likeness of places."]
    return lines


def _over_genera(values: NDArray[np.float64], genus: Sequence[str]) -> float:
    _, code = np.unique(np.asarray(genus), return_inverse=True)
    code = code.reshape(-1)
    return float((np.bincount(code, values) / np.bincount(code)).mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/unseen.py``."""
    parser = argparse.ArgumentParser(prog="unseen.py", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))
