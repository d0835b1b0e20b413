"""Embeddings of the samples of a set: the file, the command that writes it, and the projection to the plane.

Shape letters: N samples, D embedding.

The file is an ``.npz`` without pickles: ``embedding`` float32 [N, D], ``sample_id`` text [N], and a text column [N] for
every rank (``species``, ``genus``, ``family``, ``leaf_type``).
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import RANKS

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset

MOST = 1500
"""Samples that are projected: more cost minutes and hide one another."""


class Embeddings(NamedTuple):
    """Embeddings [N, D] of samples, and their names at each rank [N], "" where not stated."""

    embedding: NDArray[np.float32]
    sample_id: NDArray[np.str_]
    names: dict[str, NDArray[np.str_]]


def write_embeddings(
    path: Path, embedding: NDArray[np.floating[Any]], sample_id: Sequence[str], names: Mapping[str, Sequence[str]]
) -> Path:
    """Write the file, whole or not at all."""
    columns: dict[str, Any] = {rank: np.asarray(list(values), dtype=str) for rank, values in names.items()}

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:  # a name would get .npz appended
            np.savez_compressed(
                stream, embedding=embedding.astype(np.float32), sample_id=np.asarray(list(sample_id), str), **columns
            )

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)
    return path


def read_embeddings(path: Path) -> Embeddings:
    """Read the file.

    Raises:
        DataError: it is missing, damaged, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as embeddings (.npz without pickles): {error}") from error
    embedding, ids = arrays.get("embedding"), arrays.get("sample_id")
    if embedding is None or embedding.ndim != 2 or ids is None or len(ids) != len(embedding):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(f"{path}: embeddings hold embedding [N, D] and sample_id [N]; this has {shapes}")
    if not np.isfinite(embedding).all():
        raise DataError(f"{path}: row {int(np.argmin(np.isfinite(embedding).all(axis=1)))} is not finite")
    names = {rank: arrays[rank].astype(str) for rank in RANKS if rank in arrays and len(arrays[rank]) == len(ids)}
    return Embeddings(embedding.astype(np.float32), ids.astype(str), names)


def project(embedding: NDArray[np.floating[Any]], seed: int = 0, most: int = MOST) -> tuple[NDArray[Any], NDArray[Any]]:
    """The plane by t-SNE (van der Maaten and Hinton 2008) on cosine distances, started from the principal components.

    Args:
        embedding: [N, D].
        seed: of the samples drawn where there are more than `most`.
        most: samples to project.

    Returns:
        points [M, 2] and the rows [M] that they are of.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ConfigError("the projection needs scikit-learn: pip install 'geotreeclip[eval]'") from error
    rows = np.arange(len(embedding))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, 8]).permutation(rows)[:most])
    values = np.asarray(embedding[rows], dtype=np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    width = min(30, *values.shape)
    reduced = PCA(width, random_state=seed).fit_transform(values)
    if len(rows) < 10 or width < 2:
        return reduced[:, :2] if width > 1 else np.repeat(reduced, 2, axis=1), rows
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed, max_iter=750)
    return tsne.fit_transform(reduced), rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/embed.py``."""
    parser = argparse.ArgumentParser(
        prog="embed.py", description="Embed samples of a packed set, for plots and probes."
    )
    parser.add_argument("--model", required=True, metavar="RUN", help="training run or model directory")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="packed set")
    parser.add_argument("--out", required=True, type=Path, metavar="NAME.embeddings.npz", help="file to write")
    parser.add_argument("--split", metavar="NAME", help="embed its test samples; default as in eval/zero_shot.py")
    parser.add_argument("--fold", type=int, metavar="K", help="fold of the split")
    parser.add_argument(
        "--limit", type=int, default=MOST, help="samples at most, drawn by seed; 0 for all (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="torch device; default: a GPU where there is one")
    args = parser.parse_args(argv)
    if args.out.suffix != ".npz":
        raise ConfigError(f"--out {args.out}: embeddings are written to a file that ends in .npz")
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.selection import select, trained_with
    from geotreeclip.evaluation.zero_shot import model_directory
    from geotreeclip.inference import Classifier
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model

    dataset = PackedDataset(args.data)
    loaded = load_model(find_model(model_directory(args.model)))
    chosen = select(dataset, args.split, args.fold, trained_with(loaded.training, dataset))
    rows = chosen.indices
    if args.limit and len(rows) > args.limit:
        rows = np.sort(np.random.default_rng([args.seed, 9]).permutation(rows)[: args.limit])
    print(f"Embedding {len(rows):,} of {chosen.words}.", flush=True)
    embedding = embed(Classifier(loaded, args.device), dataset, rows)
    taxa = [dataset.taxonomy[int(row)] for row in dataset.taxa[rows]]
    ids = dataset.samples()["sample_id"].astype(str).to_numpy()[rows].tolist()
    names = {rank: [getattr(taxon, rank) for taxon in taxa] for rank in RANKS}
    print(f"Embeddings: {write_embeddings(args.out, embedding, ids, names)}")
    return 0


def embed(classifier: Any, dataset: PackedDataset, rows: NDArray[np.int64], size: int = 512) -> NDArray[np.float32]:
    """Embeddings [N, D] of some rows of a set."""
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.observations import from_packed

    parts = []
    with tqdm(total=len(rows), unit=" samples", desc="embedding", disable=not sys.stderr.isatty()) as bar:
        for packed in sequential(dataset, rows, size):
            parts.append(classifier.embed_batch(from_packed(packed, classifier.device)))
            bar.update(len(packed.taxon))
    return np.concatenate(parts)
