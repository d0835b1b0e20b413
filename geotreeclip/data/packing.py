"""`geotreeclip pack`: published shards in, packed shards out.

This module is light to import; the work is in `packjob.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from geotreeclip.errors import run_main

__all__ = ["PackReport", "add_arguments", "main", "pack", "run"]


@dataclass
class PackReport:
    """What packing did; every sample read is in exactly one of packed, refused, duplicates and excluded.

    Attributes:
        sources: shards read.
        read: samples found in them, good or not.
        packed: samples written.
        refused: samples that are not right; each is in refused.parquet with its reason.
        duplicates: samples whose id had come before.
        excluded_ids: samples left out by their id.
        excluded_places: samples left out by their place.
        notices: members outside the format and damage between samples.
        joined: packed samples found in the table of samples.
        taxa: distinct taxa.
        worldclim: WorldClim version that the values come from.
        converted: whether temperatures were divided by ten.
        implausible: packed values outside the plausible range of the schema, by variable.
        never_present: variables without a single value.
        bytes: size of the packed shards.
    """

    sources: int = 0
    read: int = 0
    packed: int = 0
    refused: int = 0
    duplicates: int = 0
    excluded_ids: int = 0
    excluded_places: int = 0
    notices: int = 0
    joined: int = 0
    taxa: int = 0
    worldclim: str = ""
    converted: bool = False
    implausible: dict[str, int] = field(default_factory=dict)
    never_present: list[str] = field(default_factory=list)
    bytes: int = 0

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A report from its JSON text."""
        return cls(**json.loads(text))

    def summary(self) -> str:
        """The report in words, one fact a line."""
        rate = self.bytes / max(self.packed, 1)
        units = "tenths of a degree, converted to degrees" if self.converted else "degrees already"
        lines = [
            f"read      {self.read:>10,} samples of {self.sources} shards",
            f"packed    {self.packed:>10,} of {self.taxa:,} taxa, {rate:,.0f} bytes a sample",
            f"refused   {self.refused:>10,} (refused.parquet says why, by shard and key)",
            f"repeated  {self.duplicates:>10,} sample ids that came before",
            f"excluded  {self.excluded_ids:>10,} by id, {self.excluded_places:,} by place",
            f"notices   {self.notices:>10,} (members outside the format, damage between samples)",
            f"joined    {self.joined:>10,} with the table of samples",
            f"climate   {'WorldClim ' + self.worldclim:>10}, temperatures in {units}",
        ]
        if self.implausible:
            worst = ", ".join(f"{name} {count:,}" for name, count in self.implausible.items())
            lines.append(f"warning: values outside the plausible range, kept: {worst}")
        if self.never_present:
            lines.append(f"warning: no value at all of {', '.join(self.never_present)}")
        return "\n".join(lines)


def pack(
    sources: Sequence[str | Path], out: str | Path, *, samples: Sequence[str | Path] = (),
    exclude: Sequence[str | Path] = (), place_decimals: int = 4, worldclim: str = "auto", resolution: str = "",
    shard_samples: int = 32768, limit: int | None = None, lenient_share: float = 0.01, progress: bool = False,
) -> PackReport:  # fmt: skip
    """Packs published shards, one after the other, and goes on where an interrupted run stopped.

    Args:
        sources: shards or folders of them: paths, `https://...`, `hf://datasets/...`.
        out: the packed directory.
        samples: CSV tables that give year, country, source and rarity by sample id.
        exclude: CSV tables whose sample ids and places stay out.
        place_decimals: decimals of a degree to which two places must agree to be the same.
        worldclim: "1", "2.1", or "auto" to tell by the values.
        resolution: resolution of the environmental rasters, in words, for the record.
        shard_samples: samples per packed shard.
        limit: stop after so many samples.
        lenient_share: refused samples above this share of those read are an error; it may change when a run goes on.
        progress: whether to print counts and a progress bar to standard error.

    Returns:
        The report, also in pack_report.json; refused.parquet lists what was refused.

    Raises:
        DataError: a source cannot be read, too many samples are refused, nothing could be packed, or `out` holds
            something else.
    """
    from geotreeclip.data.packjob import Job, Options

    options = Options(
        tuple(str(source) for source in sources), tuple(str(path) for path in samples),
        tuple(str(path) for path in exclude), place_decimals, worldclim, resolution, shard_samples, limit,
    )  # fmt: skip
    return Job(options, Path(out), progress, lenient_share).run()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `geotreeclip pack`."""
    parser.add_argument("sources", nargs="+", metavar="SRC", help="shards: paths, folders, https://, hf://datasets/...")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="packed directory to write")
    parser.add_argument(
        "--samples", nargs="+", default=[], metavar="CSV", help="tables with year, country, source, rarity by sample_id"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="CSV", help="tables whose sample ids and places stay out"
    )
    parser.add_argument(
        "--place-decimals", type=int, default=4, metavar="N",
        help="decimals of a degree to which excluded places agree (default 4: 11 m)",
    )  # fmt: skip
    parser.add_argument(
        "--worldclim", choices=("auto", "1", "2.1"), default="auto",
        help="units of the temperatures in the sources (default: told by the values)",
    )  # fmt: skip
    parser.add_argument("--resolution", default="", metavar="TEXT", help="resolution of the environmental rasters")
    parser.add_argument("--shard-samples", type=int, default=32768, metavar="N", help="samples per packed shard")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N samples")
    parser.add_argument(
        "--lenient-share", type=float, default=0.01, metavar="SHARE",
        help="stop when more than this share of the samples read is refused (default %(default)g; 1 packs what can be)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs `geotreeclip pack` with parsed arguments."""
    report = pack(
        args.sources, args.out, samples=args.samples, exclude=args.exclude, place_decimals=args.place_decimals,
        worldclim=args.worldclim, resolution=args.resolution, shard_samples=args.shard_samples, limit=args.limit,
        lenient_share=args.lenient_share, progress=True,
    )  # fmt: skip
    print(report.summary())
    print(f"written to {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself: `python -m geotreeclip.data.packing SRC... --out DIR`."""
    parser = argparse.ArgumentParser(prog="geotreeclip pack", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    return run_main(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
