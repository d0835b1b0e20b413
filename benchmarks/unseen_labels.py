"""How much of a name never seen is text, how much its relatives: the weights of `geotreeclip.unseen_labels`, measured.

    python benchmarks/unseen_labels.py --points TABLE ... --rasters DIR --taxonomy CSV [--seeds 0 1 2]

A fifth of the species of every genus with several is held out, as in `eval/unseen.py`, and a small model learns climate
and names of the others. For each pair of weights the table has, of places of held-out species,

    likelihood   mean of log p(place | true species) / p(place), in nats: 0 says no more than that a place is a place
    among all    mean of -log p(true species) with all species as candidates, uniform prior
    genus        accuracy of the genus among held-out species alone, mean over genera

and of places of seen species, top-1 with all species as candidates. `scores as they are` is without any of this.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geotreeclip.errors import run_main
from geotreeclip.evaluation.unseen.fit import Recipe, fit
from geotreeclip.evaluation.unseen.places import Held, Places, hold_out, places_of_tables
from geotreeclip.models.place_centres import PlaceCentres
from geotreeclip.unseen_labels import LabelFacts, UnseenLabels

WEIGHTS = ((1.0, 0.0), (0.5, 0.0), (0.3, 0.0), (0.1, 0.0), (0.0, 0.0), (0.0, 0.5), (0.0, 0.7), (0.1, 0.3), (0.1, 0.5),
           (0.1, 0.7), (0.2, 0.5), (0.3, 0.3))  # fmt: skip
PLACES = 8192


def scored(places: Places, held: Held, text: str, seed: int, steps: int) -> dict[str, NDArray[np.float64]]:
    """Figures of one fit, a row of four for each pair of weights."""
    model, labels = fit(places, held, text, seed, Recipe(inputs=("climate",), steps=steps))
    model.eval()
    with torch.inference_mode():
        texts = labels(torch.arange(len(places.taxonomy)))
        rows = np.random.default_rng(seed).permutation(held.train)[:PLACES]
        centres = PlaceCentres.fit(_encoded(model, places, rows), seed)
        if centres is None:
            raise SystemExit("error: too few places")
        tested = np.concatenate([held.seen_test, held.unseen_test])
        own = _encoded(model, places, tested)
        scale = model.logit_scale
        plain = scale * own @ texts.T
    seen = ~np.isin(np.arange(len(places.taxonomy)), held.unseen)
    facts = LabelFacts(list(places.taxonomy), texts, np.zeros(len(seen)), seen)
    genus = np.array([taxon.genus for taxon in places.taxonomy])
    truth, count = places.taxon[tested], len(held.seen_test)
    found = {"scores as they are": _figures(plain.double().numpy(), None, truth, count, held.unseen, genus)}
    for weights in WEIGHTS:
        unseen = UnseenLabels.of(facts, facts, centres, scale, carried=False, weights=weights)
        scores = unseen(own, plain).double().numpy()
        name = "text {:g}, relatives {:g}".format(*weights)
        found[name] = _figures(scores, float(unseen.base[0]), truth, count, held.unseen, genus)
    return found


def _encoded(model: torch.nn.Module, places: Places, rows: NDArray[np.int64]) -> torch.Tensor:
    parts = np.array_split(rows, max(1, len(rows) // 1024))
    return torch.cat([model.encode_observations(places.batch(part)) for part in parts]).float()  # type: ignore[operator]


def _figures(
    scores: NDArray[np.float64],
    base: float | None,
    truth: NDArray[np.int64],
    count: int,
    unseen: NDArray[np.int64],
    genus: NDArray[np.str_],
) -> NDArray[np.float64]:
    peak = scores.max(axis=1, keepdims=True)
    log_p = scores - peak - np.log(np.exp(scores - peak).sum(axis=1, keepdims=True))
    rows = np.arange(count, len(truth))
    likelihood = np.nan if base is None else (scores[rows, truth[rows]] - base).mean()
    own = genus[truth[rows]]
    right = genus[unseen][scores[rows][:, unseen].argmax(axis=1)] == own
    of_genus = np.mean([right[own == name].mean() for name in np.unique(own)])
    top1 = (scores[:count].argmax(axis=1) == truth[:count]).mean()
    return np.array([likelihood, -log_p[rows, truth[rows]].mean(), 100 * of_genus, 100 * top1])


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", type=Path, required=True, help="records with species and coordinates")
    parser.add_argument("--rasters", nargs="+", default=[], help="climate rasters")
    parser.add_argument("--taxonomy", type=Path, help="genus and family")
    parser.add_argument("--texts", nargs="+", default=["names", "permuted"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-species", type=int, default=150)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    places = places_of_tables(args.points, args.rasters, taxonomy=args.taxonomy, worldclim="2.1")
    places = places.thinned(args.per_species, 0)
    print(f"{len(places):,} places, {places.taxonomy!r}, seeds {args.seeds}", flush=True)
    for text in args.texts:
        found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for seed in args.seeds:
            for name, figures in scored(places, hold_out(places, seed), text, seed, args.steps).items():
                found[name].append(figures)
        print(f"\n{text}\n\n| of an unseen label | likelihood | among all | genus | top-1 of seen |")
        print("|---|---:|---:|---:|---:|")
        for name, rows in found.items():
            mean = np.mean(rows, axis=0)
            likelihood = "" if np.isnan(mean[0]) else f"{mean[0]:+.2f}"
            print(f"| {name} | {likelihood} | {mean[1]:.2f} | {mean[2]:.1f} | {mean[3]:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
