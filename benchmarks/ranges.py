"""How well `in_range` tells true labels from others, by the distance and the climate that it asks for.

    python benchmarks/ranges.py --occurrences OCCURRENCES.csv --rasters worldclim/ --out ranges.json

Ranges are those of the training folds, as a model directory keeps them; places are those of the fold left out, at
random or in whole spatial blocks. Each place is asked about its true label, about all other labels, and about those of
the same genus. The columns are shares of places that are in range; J (Youden 1950) is the share for true labels less
that for others. No model is involved.

N places, S taxa.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.evaluation.splits import assign_folds, spatial_blocks
from geotreeclip.prep.environment import sample_environment
from geotreeclip.prep.raster_files import find_rasters
from geotreeclip.ranges import MILD, training_ranges
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon, Taxonomy

DISTANCES = (0.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0, np.inf)
CLIMATES = (0.0, 0.8, 0.9, 1.0)
FOLDS = 5


def read(path: Path) -> tuple[Taxonomy, NDArray[np.int64], NDArray[np.float64]]:
    """Taxa, the taxon of each record [N], and places [N, 2]."""
    frame = pd.read_csv(path, keep_default_na=False).rename(columns=PUBLISHED_RANK_FIELDS)
    listed = [Taxon(*values) for values in frame[list(Taxon._fields)].itertuples(index=False)]
    taxonomy = Taxonomy(dict.fromkeys(listed))
    row = {taxon: place for place, taxon in enumerate(taxonomy)}
    taxon = np.array([row[entry] for entry in listed], np.int64)
    return taxonomy, taxon, frame[["longitude", "latitude"]].to_numpy(np.float64)


def folds(places: NDArray[np.float64], size_km: float, seed: int) -> NDArray[np.int64]:
    """Fold of each place, [N]."""
    return assign_folds(spatial_blocks(places[:, 0], places[:, 1], size_km), FOLDS, seed)


def judged(
    taxonomy: Taxonomy, taxon: NDArray[np.int64], environment: NDArray[np.float32], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance and climate of each place to every label, [N, S], from the ranges of the other folds."""
    distance = np.full((len(taxon), len(taxonomy)), np.nan, np.float32)
    inside = distance.copy()
    for number in range(FOLDS):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        known = training_ranges(
            taxonomy,
            taxon[train],
            environment[train, :2].astype(np.float64),
            lambda rows, t=train: environment[t[rows]],
        )
        asked = np.tile(np.arange(len(taxonomy)), (len(test), 1))
        found = known.plausibility(list(taxonomy), asked, environment[test])
        distance[test], inside[test] = found.distance_km, found.climate_inside
    return distance, inside


def shares(
    distance: NDArray[np.float32],
    inside: NDArray[np.float32],
    taxon: NDArray[np.int64],
    genus: NDArray[np.int64],
    rarity: NDArray[np.object_],
) -> Iterator[dict[str, Any]]:
    """A row for each distance and climate asked for."""
    true = np.arange(distance.shape[1]) == taxon[:, None]
    kin = (genus == genus[taxon][:, None]) & ~true
    for kilometres in DISTANCES:
        for share in CLIMATES:
            with np.errstate(invalid="ignore"):
                near = np.isnan(distance) | (distance <= kilometres)
                passing = near & (np.isnan(inside) | (inside >= share))
            passing &= ~(np.isnan(distance) & np.isnan(inside))  # a label that training never saw
            row = {"km": kilometres, "climate": share, "true": passing[true].mean(), "other": passing[~true].mean()}
            row["same_genus"] = passing[kin].mean()
            row |= {f"true_{name}": passing[true][rarity == name].mean() for name in ("Rare", "Common", "Frequent")}
            row["j"], row["j_same_genus"] = row["true"] - row["other"], row["true"] - row["same_genus"]
            yield {name: float(value) for name, value in row.items()}


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--occurrences", type=Path, required=True, help="table as published, with Category")
    parser.add_argument("--rasters", type=Path, required=True, nargs="+", help="WorldClim rasters")
    parser.add_argument("--blocks-km", type=float, nargs="+", default=[0, 100, 500], help="0 is at random (0 100 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()

    taxonomy, taxon, places = read(args.occurrences)
    rarity = pd.read_csv(args.occurrences, usecols=["Category"])["Category"].to_numpy(object)
    environment = sample_environment(*places.T, find_rasters(args.rasters)).values.astype(np.float32)
    genus = np.unique([entry.genus for entry in taxonomy], return_inverse=True)[1]
    known = np.isfinite(environment[:, [VARIABLE_NAMES.index("bio01")]]).mean()
    print(f"{len(taxon):,} places, {len(taxonomy)} taxa, {len(set(genus.tolist()))} genera; climate of {known:.1%}")
    rows = []
    for size in args.blocks_km:
        found = judged(taxonomy, taxon, environment, folds(places, size, args.seed))
        print(f"\n{'random' if size == 0 else f'blocks of {size:g} km'}: share in range, per cent")
        print(f"{'km':>6} {'climate':>8} {'true':>6} {'other':>6} {'genus':>6} {'J':>6}  {'rare':>6} {'freq.':>6}")
        for row in shares(*found, taxon, genus, rarity):
            rows.append({"blocks_km": size, **row, "km": None if np.isinf(row["km"]) else row["km"]})
            if row["climate"] in (0.0, MILD):
                cells = [100 * row[name] for name in ("true", "other", "same_genus", "j", "true_Rare", "true_Frequent")]
                numbers = " ".join(f"{cell:6.1f}" for cell in cells)
                print(f"{row['km']:6.0f} {row['climate']:8.1f} {numbers}")
    text = json.dumps(rows, indent=1) + "\n"
    write_atomically(args.out, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
