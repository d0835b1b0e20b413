"""A packed set under other names, so that training and every evaluation run on it as they are.

Shards, samples and splits are those of the set (hard links where the file system has them); the taxonomy alone differs,
row by row: names dealt out among the species, or a code for each that shares no word with any other.

S species.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from geotreeclip.data.manifest import MANIFEST
from geotreeclip.data.packed import PackedDataset
from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.unseen.text import permuted_names
from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = ["codes", "write_renamed"]

_LETTERS = np.array(list("bcdfghjklmnpqrstvwxz"))
_TAXONOMY = "taxonomy.parquet"


def codes(taxonomy: Taxonomy, seed: int) -> Taxonomy:
    """A code of ten consonants for each row, drawn by seed: text that is a name to the text tower and nothing else."""
    rng = np.random.default_rng([seed, 0xC0DE])
    found: dict[str, None] = {}
    while len(found) < len(taxonomy):
        found["".join(rng.choice(_LETTERS, 10))] = None
    return Taxonomy(Taxon(species=code) for code in found)


def write_renamed(dataset: PackedDataset, out: Path, text: str, seed: int = 0) -> Path:
    """Write a packed set with other names beside the original.

    Args:
        dataset: The set.
        out: Directory to write; it must not exist.
        text: "permuted" (`permuted_names`), or "identity" (`codes`: then train with ``--loss.coarse_weight 0``, as
            there is no rank above).
        seed: Of the names.

    Raises:
        ConfigError: Another text.
        DataError: The directory exists.
    """
    if text not in ("permuted", "identity"):
        raise ConfigError(f"text {text!r}: a set can be renamed to permuted or identity")
    if out.exists():
        raise DataError(f"{out}: exists already; give another directory, or remove it")
    taxonomy = (permuted_names if text == "permuted" else codes)(dataset.taxonomy, seed)
    aside = out.with_name(f".partial-{out.name}")
    shutil.rmtree(aside, ignore_errors=True)
    for source in sorted(path for path in dataset.directory.rglob("*") if path.is_file()):
        inside = source.relative_to(dataset.directory)
        # The ceiling stays true at the rank of species alone, so it is left out with the manifest and the names
        if inside.name not in (MANIFEST, _TAXONOMY, "ceiling.json"):
            _link(source, aside / inside)
    taxonomy.write(aside / _TAXONOMY)
    manifest = json.loads((dataset.directory / MANIFEST).read_text(encoding="utf-8"))
    content = (aside / _TAXONOMY).read_bytes()
    manifest["files"][_TAXONOMY] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["source"] = f"{manifest.get('source', '')}; names {text}, seed {seed}"
    write_atomically(aside / MANIFEST, lambda path: path.write_text(json.dumps(manifest), encoding="utf-8"))
    aside.rename(out)
    return out


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
