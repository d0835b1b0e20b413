"""What a candidate list that grows costs and takes away: zero-shot scores of one model, from its own taxa to 21,001.

    python benchmarks/candidate_lists.py --model RUN --data SET --names global_tree_search.csv.gz \
        --families plant_lookup.csv.gz --out DIR [--sizes 1000 5000 21001]

Every list holds the taxa of the set and the shorter lists. What fills it up are real species of a table of names, in an
order drawn by seed, each with the family of its genus and a leaf type dealt to its genus; or made-up ones without
`--names`. The samples, the model and the prior (uniform) are the same throughout. Each list is scored by
`eval/zero_shot.py` in a process of its own, whose processor time and peak memory stand beside the scores: the first
time, when the labels are encoded, and again, when they are found in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from geotreeclip.data.packed import PackedDataset
from geotreeclip.evaluation.views import checklist
from geotreeclip.taxonomy import Taxon, Taxonomy

SCRIPT = Path(__file__).parents[1] / "eval" / "zero_shot.py"
BROADLEAF = ("Deciduous Broadleaf", "Evergreen Broadleaf")
NEEDLELEAF = ("Pinaceae", "Cupressaceae", "Taxaceae", "Podocarpaceae", "Araucariaceae", "Sciadopityaceae")
METRICS = ("top1", "top5", "macro_top1")


def fillers(names: Path | None, families: Path | None, seed: int) -> Iterator[Taxon]:
    """Taxa to fill lists up with, in drawn order."""
    if names is None:
        for number in range(100_000):
            genus = f"Genus{number % 2734:04d}"  # as many genera and families as the published data set has
            family = f"Family{number % 2734 % 275:03d}aceae"
            yield Taxon(BROADLEAF[number % 2], family, genus, f"{genus} species{number}")
        return
    binomials = np.unique([name for name in checklist(names, country="") if len(name.split()) == 2])
    of_genus: dict[str, str] = {}
    if families is not None:
        table = pd.read_csv(families, dtype=str).dropna(subset=["genus", "family"])
        of_genus = dict(zip(table["genus"], table["family"], strict=True))
    rng = np.random.default_rng([seed, 21_001])
    leaf: dict[str, str] = {}
    for name in rng.permutation(binomials):
        genus = str(name).split()[0]
        family = of_genus.get(genus, "")
        drawn = BROADLEAF[int(rng.integers(2))]
        kind = leaf.setdefault(genus, "Evergreen Needleleaf" if family in NEEDLELEAF else drawn)
        yield Taxon(kind, family, genus, str(name))


def grown(own: Taxonomy, sizes: list[int], source: Iterator[Taxon]) -> list[Taxonomy]:
    """Lists of these sizes, each the first of the next; the first one is the set's own."""
    taxa = dict.fromkeys(own)
    known = {taxon.species for taxon in own}
    lists = [own]
    for size in sorted(size for size in sizes if size > len(own)):
        while len(taxa) < size:
            taxon = next(source, None)
            if taxon is None:
                raise SystemExit(f"error: the names run out at {len(taxa):,} of {size:,}")
            if taxon.species not in known:
                taxa[taxon] = None
        lists.append(Taxonomy(taxa))
    return lists


def score(arguments: list[str], cache: str) -> tuple[float, float]:
    """Run the script; seconds of processor time, and peak memory in MB."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdout=subprocess.DEVNULL,
        env={**os.environ, "XDG_CACHE_HOME": cache, "GEOTREECLIP_CACHE": cache},
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="packed set")
    parser.add_argument("--names", type=Path, help="table of species names, such as GlobalTreeSearch")
    parser.add_argument("--families", type=Path, help="table with the columns genus and family")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 5000, 21_001])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path, help="folder for lists, reports and lists.json")
    args, more = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = PackedDataset(args.data)
    own = dataset.taxonomy.take(np.unique(dataset.taxa).tolist())
    found = []
    print(
        "| candidates | top-1 | top-5 | macro top-1 | genus top-1 | CPU s, labels encoded | CPU s, cached | peak MB |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for taxa in grown(own, args.sizes, fillers(args.names, args.families, args.seed)):
            table, report = args.out / f"labels-{len(taxa)}.csv", args.out / f"report-{len(taxa)}.json"
            taxa.frame().to_csv(table, index=False)
            arguments = ["--model", args.model, "--data", str(args.data), "--labels", str(table), "--out", str(report),
                         "--prior", "uniform", "--inputs", "all", "--variants", "original", *more]  # fmt: skip
            first, peak = score(arguments, cache)
            second, again = score(arguments, cache)
            rows = [
                row for row in json.loads(report.read_text())["rows"]
                if row["system"] == "geotreeclip" and row["group"] == "all" and row["protocol"] == "published"
            ]  # fmt: skip
            value = {(row["rank"], row["metric"]): row for row in rows}
            cells = [value["species", metric] for metric in METRICS] + [value["genus", "top1"]]
            told = [f"{100 * c['value']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells]
            print(f"| {len(taxa):,} | {' | '.join(told)} | {first:.0f} | {second:.0f} | {max(peak, again):,.0f} |",
                  flush=True)  # fmt: skip
            found.append({"candidates": len(taxa), "rows": cells, "seconds": [first, second], "peak_mb": peak})
    (args.out / "lists.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
