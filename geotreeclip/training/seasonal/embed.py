"""Embed samples with a pretrained encoder or the published SeCo-Eco, for the probes: `eval/embed_seasonal.py`.

The file (npz) holds embedding float32 [N, D], sample_id, longitude and latitude [N], and JSON of what made it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.errors import DataError

__all__ = ["embed_set", "main"]

_BATCH = 256


def embed_set(data: Path, rows: Any, embed: Callable[[Any], Any], out: Path, about: dict[str, Any]) -> tuple[int, int]:
    """Write the embeddings of some samples; those without any are left out.

    Args:
        data: Packed set.
        rows: int64 [N], rows of the set; None for all.
        embed: ObservationBatch to [B, D].
        out: File to write.
        about: JSON-able account.

    Returns:
        Samples written, and left out.
    """
    import torch
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.data.shardfile import write_atomically
    from geotreeclip.observations import from_packed

    dataset = PackedDataset(data)
    rows = np.arange(len(dataset)) if rows is None else rows
    with torch.inference_mode(), tqdm(total=len(rows), desc="embedding", unit=" samples", disable=None) as bar:
        parts = []
        for packed in sequential(dataset, rows, _BATCH):
            parts.append(embed(from_packed(packed)).float().numpy())
            bar.update(len(packed.index))
    values = np.concatenate(parts)
    good = np.isfinite(values).all(axis=1)
    if not good.any():
        raise DataError(f"{data}: none of {len(values)} samples has an embedding; do they have imagery?")
    table = dataset.samples().iloc[rows[good]]

    def save(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez(
                file,
                embedding=values[good],
                sample_id=table["sample_id"].astype(str).to_numpy().astype(np.str_),
                longitude=table["longitude"].to_numpy(dtype=float),
                latitude=table["latitude"].to_numpy(dtype=float),
                about=np.array(json.dumps(about)),
            )

    write_atomically(out, save)
    return int(good.sum()), int((~good).sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `eval/embed_seasonal.py`."""
    parser = argparse.ArgumentParser(
        prog="eval/embed_seasonal.py", description="Embed places with a seasonally pretrained encoder, for the probes."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--encoder", metavar="RUN", help="run of train/seasonal.py")
    which.add_argument("--seco-eco", metavar="FILE", help="local checkpoint of the published SeCo-Eco ResNet-50")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="packed set with imagery")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="npz to write")
    parser.add_argument("--scale", type=float, default=255.0, help="SeCo-Eco: divides digital numbers (%(default)g)")
    parser.add_argument("--size", type=int, default=64, help="SeCo-Eco: side of the enlarged patch (%(default)s)")
    args = parser.parse_args(argv)
    embed: Callable[[Any], Any]
    if args.encoder:
        from geotreeclip.models.observation_encoder import half_year_south
        from geotreeclip.training.seasonal.output import read_encoder

        pretrained = read_encoder(args.encoder)
        encoder = pretrained.build()
        turned = pretrained.config.observation.season == "hemisphere"

        def embed(batch: Any) -> Any:
            turn = half_year_south(batch) if turned else 0.0  # the encoder does not read the place, as in pretraining
            return encoder(batch._replace(first_day=batch.first_day + turn, last_day=batch.last_day + turn))

        about = {"encoder": str(args.encoder), "inputs": list(pretrained.config.observation.inputs)}
    else:
        from geotreeclip.models.seco_resnet import CHANNELS, load_seco_eco

        embed = load_seco_eco(args.seco_eco, args.scale, args.size)
        about = {"seco_eco": Path(args.seco_eco).name, "channels": list(CHANNELS), "scale": args.scale}
        about["size"] = args.size
    print(f"embedding {args.data} with {args.encoder or args.seco_eco} -> {args.out}")
    written, left_out = embed_set(args.data, None, embed, args.out, about)
    print(f"{written:,} samples written to {args.out}" + (f", {left_out:,} left out without imagery" * bool(left_out)))
    return 0
