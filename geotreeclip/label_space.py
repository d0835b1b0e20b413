"""Label lists made ready for comparison: read, embedded once, kept in memory and on disk.

Shapes: L candidate labels, G labels of a rank, D embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geotreeclip.candidates import Labels, label_priors, read_labels, seen_in_training
from geotreeclip.label_cache import LabelCache, label_key, read_embeddings
from geotreeclip.models.directory import LoadedModel
from geotreeclip.taxonomy import Taxon, Taxonomy
from geotreeclip.unseen_labels import LabelFacts, UnseenLabels

__all__ = ["LabelList", "LabelSpace"]

_BATCH = 1024
_KEPT = 8  # lists that stay in memory


@dataclass(frozen=True, eq=False)
class LabelList:
    """Candidate labels: what they are, where they lie in the space, how common each was in training.

    Attributes:
        labels: The L candidates.
        embeddings: [L, D] of unit length, on the model's device.
        prior: [L] float64, see `geotreeclip.candidates.label_priors`.
        unseen: What makes scores of labels that training never saw comparable; None where it saw all, or where the
            model does not know how its places lie.
    """

    labels: Taxonomy
    embeddings: Tensor
    prior: npt.NDArray[np.float64]
    unseen: UnseenLabels | None = None
    _ranks: dict[str, tuple[list[Taxon], Tensor | None]] = field(default_factory=dict)

    def at_rank(self, rank: str) -> tuple[list[Taxon], Tensor | None]:
        """Labels of a rank, and the group of each candidate.

        Candidates that bear the same name at the rank form one label; those that do not state the rank, because they
        are coarser, stay by themselves.

        Args:
            rank: One of `geotreeclip.schema.RANKS`.

        Returns:
            G taxa, and int64 [L] on the model's device, or None where every candidate is a group of its own.
        """
        if rank not in self._ranks:
            self._ranks[rank] = self._group(rank)
        return self._ranks[rank]

    def _group(self, rank: str) -> tuple[list[Taxon], Tensor | None]:
        stating = [row for row, taxon in enumerate(self.labels) if taxon.name(rank)]
        coarser = [row for row, taxon in enumerate(self.labels) if not taxon.name(rank)]
        taxa: list[Taxon] = []
        groups = np.empty(len(self.labels), dtype=np.int64)
        if stating:
            taxa, groups[stating] = self.labels.take(stating).names(rank)
        groups[coarser] = len(taxa) + np.arange(len(coarser))
        taxa = [*taxa, *(self.labels[row] for row in coarser)]
        if bool((groups == np.arange(len(groups))).all()):
            return taxa, None
        return taxa, torch.from_numpy(groups).to(self.embeddings.device)


class LabelSpace:
    """The text side of a model, with what it has read before.

    Args:
        loaded: The model, on `device`.
        device: Where to encode and to keep embeddings.
        cache: Embeddings on disk; by default in the user's cache.
    """

    def __init__(self, loaded: LoadedModel, device: torch.device, cache: LabelCache | None = None) -> None:
        self._loaded = loaded
        self._device = device
        self._cache = cache or LabelCache()
        self._lists: OrderedDict[Hashable, LabelList] = OrderedDict()

    def ready(self, labels: Labels) -> LabelList:
        """Make a label list ready: from memory, else from the model directory or the cache, else by encoding it."""
        key = _memory_key(labels)
        if key is not None and key in self._lists:
            self._lists.move_to_end(key)
            return self._lists[key]
        known = self._loaded.taxonomy
        chosen = read_labels(labels, known)
        ready = self._unseen(
            LabelList(chosen, self._embeddings(chosen), label_priors(chosen, known, self._loaded.counts))
        )
        if key is not None:
            self._lists[key] = ready
            if len(self._lists) > _KEPT:
                self._lists.popitem(last=False)
        return ready

    def encode(self, labels: Taxonomy, *, normalize: bool = True) -> Tensor:
        """Encode the prompts of labels, [L, D] on the device."""
        model, prompts, parts = self._loaded.model, labels.prompts(), []
        encode = model.encode_text if normalize else model.text_encoder
        for start in range(0, len(prompts), _BATCH):
            tokens = model.tokenize(prompts[start : start + _BATCH]).to(self._device)
            with torch.inference_mode():
                parts.append(encode(tokens).float())
        return torch.cat(parts)

    def _unseen(self, ready: LabelList) -> LabelList:
        """The list with what its unseen labels need."""
        loaded = self._loaded
        if loaded.places is None or loaded.head is not None or not loaded.counts.any():
            return ready
        seen = seen_in_training(ready.labels, loaded.taxonomy, loaded.counts)
        if bool(seen.all()):
            return ready
        known = ready if ready.labels is loaded.taxonomy else self.ready(None)
        unseen = UnseenLabels.of(
            LabelFacts(ready.labels, ready.embeddings, np.log(ready.prior), seen),
            LabelFacts(loaded.taxonomy, known.embeddings, np.log(known.prior), loaded.counts > 0),
            loaded.places, loaded.model.logit_scale.detach(), carried=loaded.scores_carry_prior,
        )  # fmt: skip
        return replace(ready, unseen=unseen)

    def _embeddings(self, labels: Taxonomy) -> Tensor:
        model = self._loaded.model
        key = label_key(self._loaded.fingerprint, labels.prompts(), model.text_encoder.context_length)
        shape = (len(labels), self._loaded.config.embed_dim)
        found = None
        if self._loaded.directory is not None:
            found = read_embeddings(self._loaded.directory / "label_embeddings.safetensors", key, shape)
        if found is None:
            found = self._cache.get(key, shape)
        if found is None:
            found = self.encode(labels)
            self._cache.put(key, found)
        # Stored by column: a single place is compared three times faster with [D, L] in memory than with [L, D].
        return found.to(self._device).T.contiguous().T


def _memory_key(labels: Labels) -> Hashable | None:
    """What tells one label list from another in memory; None for those that are read anew each time."""
    if labels is None:
        return "all"
    if isinstance(labels, Taxonomy):
        return (Taxonomy, id(labels))  # the list kept in memory holds the table, so its identity is not given away
    if isinstance(labels, str):
        return None if Path(labels).suffix else (str, labels)
    if isinstance(labels, Mapping):
        names = ((rank, (of,) if isinstance(of, str) else tuple(map(str, of))) for rank, of in labels.items())
        return (Mapping, *names)
    if isinstance(labels, list | tuple) and all(isinstance(label, str | Taxon) for label in labels):
        return tuple(labels)
    return None
