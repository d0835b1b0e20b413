"""Command that writes spatial folds beside packed shards (`data_prep/splits.py`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import DataError
from geotreeclip.evaluation.splits import leak_report, spatial_folds, write_split


def read_samples(directory: Path) -> tuple[list[str], list[float], list[float]]:
    """Sample ids, longitudes and latitudes of a packed directory, in the order of its samples.

    Raises:
        DataError: There is no ``samples.parquet``, or it cannot be read or lacks one of the three columns.
    """
    import pandas as pd

    path = directory / "samples.parquet"
    if not path.is_file():
        raise DataError(f"{path}: no such file; a packed directory with coordinates has one")
    try:
        frame = pd.read_parquet(path, columns=["sample_id", "longitude", "latitude"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot read sample_id, longitude and latitude: {error}") from error
    return frame["sample_id"].astype(str).tolist(), frame["longitude"].tolist(), frame["latitude"].tolist()


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``DATA/splits/NAME.parquet`` and print what each fold holds and what could leak."""
    parser = argparse.ArgumentParser(prog="data_prep/splits.py", description="Write spatial folds of a packed set.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed directory with samples.parquet")
    parser.add_argument("--name", default=None, help="name of the split (default: blocksSIZE, with bufferKM if any)")
    parser.add_argument(
        "--size-km", type=float, default=100.0, help="edge of a block; 0 is random by place (%(default)g)"
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (%(default)s)")
    parser.add_argument("--buffer-km", type=float, default=0.0, help="no training sample this close to the test")
    parser.add_argument("--validation", type=float, default=0.1, help="share of training, by blocks (%(default)g)")
    parser.add_argument("--validation-buffer-km", type=float, default=0.0, help="the same between these two")
    parser.add_argument("--seed", type=int, default=0, help="of tie-breaks and validation blocks (%(default)s)")
    args = parser.parse_args(argv)
    names, longitude, latitude = read_samples(args.data)
    frame = spatial_folds(
        longitude,
        latitude,
        args.size_km,
        folds=args.folds,
        seed=args.seed,
        buffer_km=args.buffer_km,
        validation=args.validation,
        sample_id=names,
        validation_buffer_km=args.validation_buffer_km,
    )
    name = args.name or f"blocks{args.size_km:g}" + (f"-buffer{args.buffer_km:g}" if args.buffer_km else "")
    print(leak_report(frame, longitude, latitude).to_string(index=False, float_format="{:.1f}".format))
    print(write_split(args.data, name, frame))
    return 0
