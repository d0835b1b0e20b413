"""`geotreeclip convert GGT_6M.pth DIR`: the published checkpoint as a model directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from geotreeclip.taxonomy import Taxonomy

__all__ = ["add_arguments", "read_taxa", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("checkpoint", type=Path, help="the published GGT_6M.pth, or a state dict of that architecture")
    parser.add_argument("out", type=Path, metavar="DIR", help="model directory to write")
    parser.add_argument(
        "--data", type=Path, metavar="PACKED",
        help="packed set whose ranges the inputs are scaled by, at best of the published training samples; without it "
        "rough ranges of the world's forests are taken. It gives the taxa too, unless --taxonomy does",
    )  # fmt: skip
    parser.add_argument(
        "--taxonomy", type=Path, metavar="TABLE",
        help="CSV or Parquet of the taxa to answer with: one row a taxon, or one row a training sample "
        "(GlobalGeoTree.csv), whose numbers then make the prior",
    )  # fmt: skip
    parser.add_argument(
        "--skip-label-embeddings", action="store_true",
        help="do not encode the taxa now (the 21,001 of the published set take minutes without a GPU); the first use "
        "does it then",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the batches that --data's ranges are averaged over")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        GeotreeclipError: If the checkpoint, a table or the target is not right.
    """
    if not args.checkpoint.is_file():
        raise DataError(f"{args.checkpoint}: no such file; give the published checkpoint, GGT_6M.pth")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"{args.out} exists already; name a new directory, or delete it first")

    import numpy as np

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.data.statistics import Statistics
    from geotreeclip.model_card_texts import published_card
    from geotreeclip.models.directory import load_published, save_model
    from geotreeclip.models.published_ranges import TRAINING_BATCH, batch_ranges
    from geotreeclip.taxonomy import Taxonomy

    dataset = None if args.data is None else PackedDataset(args.data)
    taxonomy = Taxonomy([]) if dataset is None else dataset.taxonomy
    counts = np.zeros(len(taxonomy), dtype=np.int64)
    if args.taxonomy is not None:
        taxonomy, counts = read_taxa(args.taxonomy)
    print(f"Reading {args.checkpoint} ...", flush=True)
    ranges, origin = None, "defaults of geotreeclip.models.published_ranges"
    if dataset is not None:
        ranges = batch_ranges(dataset, seed=args.seed)
        size = min(TRAINING_BATCH, len(dataset))
        origin = f"mean over random batches of {size} of {dataset.directory.resolve().name}, seed {args.seed}"
    loaded = load_published(args.checkpoint, ranges)
    training: dict[str, Any] = {
        **loaded.training,
        "source_sha256": loaded.fingerprint,
        "ranges": origin,
        "ranges_fingerprint": None if dataset is None else dataset.fingerprint(),
        "prompt": "leaf_type / family / genus / species",
        "context_length": loaded.config.text.context_length,
    }
    print(
        f"Writing {args.out}: {sum(value.numel() for value in loaded.model.parameters()):,} weights, {len(taxonomy):,} "
        f"taxa{f', {int(counts.sum()):,} samples counted' if counts.any() else ''}; ranges: {origin} ...",
        flush=True,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.is_dir():
        args.out.rmdir()  # empty
    statistics = Statistics.empty() if dataset is None else dataset.statistics
    card = published_card(loaded.training["source"], loaded.fingerprint, len(taxonomy), origin)
    save_model(
        args.out, loaded.model, taxonomy, counts, statistics, training, card,
        label_embeddings=not args.skip_label_embeddings, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(f'Written: {args.out}. geotreeclip.load("{args.out}") reads it, `geotreeclip classify --model` too.')
    if not len(taxonomy):
        print("It carries no list of taxa: name the candidates with labels= or --labels, or convert with --taxonomy.")


def read_taxa(path: Path) -> tuple[Taxonomy, npt.NDArray[np.int64]]:
    """Taxa of a table, and how many rows each has; 0 for all where the table lists each once.

    Args:
        path: CSV or Parquet, with rank columns as `Taxonomy.from_frame` takes them.

    Raises:
        DataError: If it cannot be read, or has no rank column.
    """
    import numpy as np
    import pandas as pd

    from geotreeclip.schema import PUBLISHED_RANK_FIELDS, RANKS
    from geotreeclip.taxonomy import Taxonomy

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ranks = {*RANKS, *PUBLISHED_RANK_FIELDS}
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, dtype=str, usecols=lambda name: name in ranks, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    columns = [name for name in frame.columns if name in ranks]
    if not columns:
        raise DataError(f"{path}: no column of {', '.join(RANKS)} or {', '.join(PUBLISHED_RANK_FIELDS)}")
    sizes = frame[columns].fillna("").groupby(columns, sort=False).size()
    distinct = sizes.index.to_frame(index=False)
    taxonomy = Taxonomy.from_frame(distinct, str(path))
    if len(taxonomy) != len(distinct):
        raise DataError(f"{path}: some names differ only in the blanks around them; clean the table")
    counts = np.array(sizes, dtype=np.int64)
    if len(counts) and counts.max() == 1:  # a list of taxa tells nothing of how common they are
        counts = np.zeros_like(counts)
    return taxonomy, counts
