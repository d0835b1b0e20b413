"""Errors of the phenology fit on years with known dates, and its speed: python benchmarks/phenology.py [--out FILE].

Years are double logistics with greenup anywhere in the year; a sensor looks every five days through clouds and noise,
and the fit sees monthly medians. Evergreens have a range of 0.04, double crops two equal bumps 180 days apart.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import run_main
from geotreeclip.prep.phenology import MONTH_MIDDLES, Cycles, PhenologyConfig, fit_cycles, season_weights
from geotreeclip.prep.phenology.circular import YEAR, wrap
from geotreeclip.prep.phenology.synthetic import double_logistic, monthly_medians

CASES = ((0.0, 1.0, 0), (0.02, 0.5, 0), (0.02, 0.5, 1), (0.02, 0.5, 2), (0.02, 0.5, 3), (0.02, 0.5, 4), (0.04, 0.35, 2))
DAILY = np.arange(0, YEAR, 0.1)


def accuracy(number: int, seed: int, smoother: str) -> list[dict[str, Any]]:
    """Mean absolute errors in days, and the share of months in their season, by noise, clear looks and lost months."""
    truth = double_logistic(number, seed)
    exact = Cycles.empty(number)
    exact.dates[:] = truth.dates
    season = season_weights(exact).argmax(2)
    rows = []
    for noise, clear, missing in CASES:
        series = monthly_medians(truth.daily, seed + 1, noise=noise, clear=clear, missing=missing)
        cycles = fit_cycles(series, MONTH_MIDDLES, None, PhenologyConfig(smoother=smoother))
        apart = wrap(cycles.dates - truth.dates)[cycles.known][:, [0, 1, 3, 4]]
        same = (season_weights(cycles).argmax(2) == season)[cycles.known]
        rows.append(
            {
                "smoother": smoother, "noise": noise, "clear": clear, "missing": missing, "fitted": cycles.known.mean(),
                "error_days": np.abs(apart).mean(0).round(1).tolist(), "bias_days": apart.mean(0).round(1).tolist(),
                "months_in_season": same.mean(),
            }
        )  # fmt: skip
    return rows


def counted(daily: NDArray[np.float64], cycles: int, seed: int, smoother: str, noise: float, clear: float) -> float:
    """Share of years in which the fit finds so many cycles."""
    series = monthly_medians(daily, seed, noise=noise, clear=clear)
    return float(
        (fit_cycles(series, MONTH_MIDDLES, None, PhenologyConfig(smoother=smoother)).n_cycles == cycles).mean()
    )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--years", type=int, default=300, help="drawn for each row (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the figures")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    start = rng.uniform(0, YEAR, (args.years, 1))
    evergreen = 0.45 + 0.02 * np.cos(2 * np.pi * (DAILY - start) / YEAR)
    double = 0.1 + sum(0.35 * np.exp(-((wrap(DAILY - start - shift) / 35) ** 2)) for shift in (0, 180))
    figures: dict[str, Any] = {"years": args.years, "seed": args.seed, "accuracy": [], "cycles": []}
    print("errors of greenup, maturity, senescence, dormancy in days")
    for smoother in ("pchip", "binomial"):
        for row in accuracy(args.years, args.seed, smoother):
            figures["accuracy"].append(row)
            errors = " ".join(f"{error:5.1f}" for error in row["error_days"])
            print(
                f"{smoother:<9} noise {row['noise']:.2f} clear {row['clear']:.2f} missing {row['missing']}: {errors}"
                f"   months in season {row['months_in_season']:.3f}   fitted {row['fitted']:.3f}"
            )
    for smoother in ("pchip", "binomial"):
        for noise, clear in ((0.0, 1.0), (0.02, 0.5), (0.04, 0.5), (0.04, 0.35)):
            false = 1 - counted(evergreen, 0, args.seed, smoother, noise, clear)
            found = counted(double, 2, args.seed, smoother, noise, clear)
            figures["cycles"].append(
                {"smoother": smoother, "noise": noise, "clear": clear, "false_evergreen": false, "double_found": found}
            )
            print(
                f"{smoother:<9} noise {noise:.2f} clear {clear:.2f}: evergreens with a cycle {false:.3f}, "
                f"double crops found {found:.3f}"
            )
    series = monthly_medians(double_logistic(2000, 0).daily, 0, noise=0.02, clear=0.5, missing=2)
    begin = time.perf_counter()
    fit_cycles(np.tile(series, (5, 1)), MONTH_MIDDLES)
    figures["series_per_second"] = 10_000 / (time.perf_counter() - begin)
    print(f"{figures['series_per_second']:,.0f} monthly series/s, one process")
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
