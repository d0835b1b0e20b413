"""Did the pipeline give back the planted samples? `python -m geotreeclip.demo.raw.check WORLD --packed DIR`.

N samples of the truth that were packed, V the 27 variables.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geotreeclip.errors import DataError, run_main

__all__ = ["Comparison", "compare", "main"]

_SHOWN = 5


@dataclass(slots=True)
class Comparison:
    """What was compared, and every difference in words.

    Attributes:
        samples: Samples in both.
        unseen: Samples of the truth that no look ever saw clear, and that were left out for that.
        values: Digital numbers compared.
        refused: Rows that were rightly refused.
        differences: What is not as planted.
    """

    samples: int = 0
    unseen: int = 0
    values: int = 0
    refused: int = 0
    differences: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The comparison for a terminal."""
        lines = [f"{self.samples} samples came back, {self.values:,} digital numbers compared"]
        if self.unseen:
            lines.append(f"{self.unseen} samples were never seen clear and are left out")
        if self.refused:
            lines.append(f"{self.refused} rows refused, each for its reason")
        if not self.differences:
            return "\n".join([*lines, "all as planted: images, environment, taxa, places"])
        return "\n".join([*lines, *(f"DIFFERENT: {text}" for text in self.differences)])


def compare(world: str | Path, packed: str | Path, refused: str | Path | None = None) -> Comparison:
    """Compare a packed set with the truth of a folder of raw files.

    Args:
        world: The folder that `geotreeclip.demo.raw` made.
        packed: The packed set that was made of it.
        refused: `refused.parquet` of the cleaning, to compare the reasons too.

    Raises:
        DataError: One of them is absent or no such thing.
    """
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_NAMES

    truth, made = PackedDataset(Path(world) / "truth"), PackedDataset(packed)
    result = Comparison()
    wanted, got = truth.samples(), made.samples()
    place = {name: row for row, name in enumerate(got["sample_id"])}
    whole = truth.read(np.arange(len(truth)))
    seen = (whole.images != MISSING_DN).any(axis=(1, 2, 3, 4))
    there = wanted["sample_id"].isin(place).to_numpy()
    result.unseen = int((~there & ~seen).sum())
    _note(result, "samples are missing", wanted["sample_id"][~there & seen].tolist())
    _note(result, "samples were never planted", sorted(set(place) - set(wanted["sample_id"])))
    rows = np.flatnonzero(there)
    found = made.read(np.array([place[name] for name in wanted["sample_id"][there]], dtype=np.int64))
    result.samples = len(rows)
    if not len(rows):
        return result
    ids = wanted["sample_id"].to_numpy()[rows]
    images = whole.images[rows]
    if found.images.shape != images.shape:
        raise DataError(f"{packed}: its images are not those of 12 months, {len(BANDS)} bands and 5 x 5 pixels")
    result.values = images.size
    for band, name in enumerate(BANDS):
        wrong = found.images[:, :, band] != images[:, :, band]
        if wrong.any():
            _note(
                result, f"samples differ in {name} ({int(wrong.sum())} values)", ids[wrong.any(axis=(1, 2, 3))].tolist()
            )
    environment = whole.environment[rows]
    same = (found.environment == environment) | (np.isnan(found.environment) & np.isnan(environment))
    for column, name in enumerate(VARIABLE_NAMES):
        if not same[:, column].all():
            _note(result, f"samples differ in {name}", ids[~same[:, column]].tolist())
    taxa = [made.taxonomy[a] == truth.taxonomy[b] for a, b in zip(found.taxon, whole.taxon[rows], strict=True)]
    _note(result, "samples have another taxon", ids[~np.array(taxa)].tolist())
    table = got.set_index("sample_id").loc[ids]
    for name in ("longitude", "latitude", "year", "country", "source"):
        wrong = table[name].to_numpy() != wanted[name].to_numpy()[rows]
        _note(result, f"samples have another {name}", ids[wrong].tolist())
    if refused is not None:
        _compare_refused(Path(world) / "truth" / "refused.csv", Path(refused), result)
    return result


def _compare_refused(wanted: Path, got: Path, result: Comparison) -> None:
    import pandas as pd

    try:
        with wanted.open(encoding="utf-8", newline="") as stream:
            expected = sorted((row["sample_id"], row["reason"]) for row in csv.DictReader(stream))
        table = pd.read_parquet(got, columns=["sample_id", "reason"])
    except (OSError, ValueError) as error:
        raise DataError(f"rows refused cannot be compared: {error}") from error
    seen = sorted(zip(table["sample_id"], table["reason"], strict=True))
    result.refused = len(set(seen) & set(expected))
    _note(result, "rows should have been refused", [f"{a} ({b})" for a, b in sorted(set(expected) - set(seen))])
    _note(result, "rows should not have been refused", [f"{a} ({b})" for a, b in sorted(set(seen) - set(expected))])


def _note(result: Comparison, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        result.differences.append(f"{len(names)} {what}: {', '.join(map(str, names[:_SHOWN]))}{more}")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m geotreeclip.demo.raw.check`; 1 where something is not as planted."""
    parser = argparse.ArgumentParser(
        prog="python -m geotreeclip.demo.raw.check",
        description="Compare a packed set with what was planted in the raw files that it was made of.",
    )
    parser.add_argument("world", metavar="WORLD", help="folder of the raw files")
    parser.add_argument("--packed", required=True, metavar="DIR", help="packed set made of them")
    parser.add_argument("--refused", metavar="FILE", help="refused.parquet of the cleaning, to compare reasons too")
    args = parser.parse_args(argv)
    result = compare(args.world, args.packed, args.refused)
    print(result.text())
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
