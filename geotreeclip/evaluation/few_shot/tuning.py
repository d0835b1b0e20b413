"""Fine-tuning of the observation tower on a support: low-rank updates or all weights, for as long as the support bears.

Shape letters: S support, B batch, L labels, D embedding, R rank.

The regularisation is early stopping: the number of epochs is chosen on inner folds of the support, 0 among them, which
leaves the tower and the starting head as they are. The tower is then tuned on the whole support for so many epochs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from geotreeclip.errors import ConfigError, InputError
from geotreeclip.evaluation.few_shot.heads import balanced_log_loss, inner_folds
from geotreeclip.models.head import LinearHead

if TYPE_CHECKING:
    from geotreeclip.models.clip import GeoTreeCLIP
    from geotreeclip.observations import ObservationBatch

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

KINDS = ("low-rank", "full")
FOLDS = 3  # tuning is slow, so fewer inner folds than for heads
EPOCHS = (0, 2, 5, 10, 20, 40)
RATES = {"low-rank": 2e-3, "full": 2e-4}
_DECAY = 0.01
_BATCH = 64


@dataclass(frozen=True)
class TuneOptions:
    """How the tower is tuned.

    Attributes:
        kind: "low-rank" or "full".
        epochs: numbers of epochs to choose from, 0 first.
        rate: learning rate of AdamW; that of the kind by default.
        rank: R of the low-rank updates.
        seed: of their initial values and of the order of samples.
    """

    kind: str = "low-rank"
    epochs: tuple[int, ...] = EPOCHS
    rate: float = 0.0
    rank: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"tuning {self.kind!r}: choose from {', '.join(KINDS)}")
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 0 or self.rank < 1:
            raise ConfigError(
                f"tuning: epochs {self.epochs} must grow from 0 or more, and rank {self.rank} be at least 1"
            )


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned model: its head reads its embedding.

    Attributes:
        model: a copy of the model with other weights; the original is as it was.
        head: over the D numbers of the embedding.
        setting: the choice in words.
        loss: log loss (nats) of the held-out support, NaN where a single shot leaves none.
    """

    model: GeoTreeCLIP
    head: LinearHead
    setting: str
    loss: float


class LowRank(nn.Module):
    """W + B A of rank R (Hu et al. 2022): A starts at random, B at zero, so that nothing changes at first."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """[rows, columns] to the same."""
        return weight + self.up @ self.down


def tune(
    model: GeoTreeCLIP,
    batch: ObservationBatch,
    labels: Integers,
    anchor: LinearHead,
    options: TuneOptions,
    groups: NDArray[np.int64] | None = None,
) -> Tuned:
    """Tune a copy of a model on a support.

    Args:
        model: the model; it is not changed.
        batch: S places, on the model's device.
        labels: int64 [S], 0 to L - 1.
        anchor: where the head starts, such as that of zero-shot classification; its biases stay.
        options: what to tune.
        groups: [S] blocks of the support; inner folds keep them whole.

    Returns:
        The tuned model. Same seed, same result.
    """
    if len(anchor.bias) <= int(labels.max()) or batch.size != len(labels):
        raise InputError(
            f"tuning: {batch.size} places, {len(labels)} labels up to {labels.max()}, {len(anchor.bias)} anchors"
        )
    folds = inner_folds(labels, groups, folds=FOLDS)
    epochs, loss, words = options.epochs[0], float("nan"), "not chosen: one shot"
    if folds is not None:
        losses = np.zeros(len(options.epochs))
        for number in np.unique(folds.few):
            held = folds.few == number
            rows = torch.from_numpy(np.flatnonzero(held))
            for at, scores in enumerate(_course(model, batch, labels, ~held, rows, anchor, options)):
                losses[at] += balanced_log_loss(scores, labels[held]) * held.sum() / len(labels)
        best = int(losses.argmin())
        epochs, loss, words = options.epochs[best], float(losses[best]), f"{options.epochs[best]} epochs"
    tuned, weight = _train(model, batch, labels, anchor, options, (epochs,))[-1]
    size = anchor.weight.shape[1]
    return Tuned(tuned, LinearHead(weight, anchor.bias, np.zeros(size)), words, loss)


def _course(
    model: GeoTreeCLIP,
    batch: ObservationBatch,
    labels: Integers,
    learn: NDArray[np.bool_],
    held: Tensor,
    anchor: LinearHead,
    options: TuneOptions,
) -> list[Floats]:
    """Scores of held-out places after each number of epochs."""
    rows = np.flatnonzero(learn)
    course = _train(model, batch.select(torch.from_numpy(rows)), labels[rows], anchor, options, options.epochs)
    part = batch.select(held)
    with torch.inference_mode():
        return [
            tuned.encode_observations(part).double().cpu().numpy() @ weight.T + anchor.bias for tuned, weight in course
        ]


def _train(
    model: GeoTreeCLIP,
    batch: ObservationBatch,
    labels: Integers,
    anchor: LinearHead,
    options: TuneOptions,
    stops: tuple[int, ...],
) -> list[tuple[GeoTreeCLIP, Floats]]:
    """Copies of the model, and head weights [L, D], after each of the numbers of epochs."""
    generator = torch.Generator().manual_seed(options.seed)
    tuned = copy.deepcopy(model).eval()  # dropout is off: a support is too small to spare values
    tuned.requires_grad_(False)
    device = batch.environment.device
    head = nn.Parameter(torch.from_numpy(anchor.weight).float().to(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        layers = _adapt(tuned.observation_encoder, options)
    weights = [weight for weight in tuned.observation_encoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([*weights, head], lr=options.rate or RATES[options.kind], weight_decay=0.0)
    start = [weight.detach().clone() for weight in weights]
    offset = torch.from_numpy(anchor.bias).float().to(device)
    target = torch.from_numpy(labels).to(device)
    share = torch.bincount(target, minlength=len(anchor.bias)).float().reciprocal()
    kept: list[tuple[GeoTreeCLIP, Floats]] = []
    for epoch in range(max(stops) + 1):
        if epoch in stops:
            kept.append((_merged(model, tuned, layers), head.detach().double().cpu().numpy().copy()))
        if epoch == max(stops):
            break
        order = torch.randperm(len(labels), generator=generator)
        for rows in order.split(_BATCH):
            rows = rows.to(device)
            scores = tuned.encode_observations(batch.select(rows)) @ head.T + offset
            loss = functional.cross_entropy(scores, target[rows], weight=share) / share[target[rows]].sum()
            if options.kind == "full":  # decay towards the pretrained weights, not towards zero
                drift = sum((weight - old).square().sum() for weight, old in zip(weights, start, strict=True))
                loss = loss + _DECAY * drift
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*weights, head], 1.0)
            optimizer.step()
    return kept


def _adapt(encoder: nn.Module, options: TuneOptions) -> list[str]:
    """Open the weights to tune; returns the names of the layers with low-rank updates."""
    if options.kind == "full":
        encoder.requires_grad_(True)
        return []
    names = []
    for name, layer in list(encoder.named_modules()):
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) > options.rank:
            rows, columns = layer.weight.shape
            update = LowRank(rows, columns, options.rank).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", update)
            names.append(name)
    return names


def _merged(model: GeoTreeCLIP, tuned: GeoTreeCLIP, layers: list[str]) -> GeoTreeCLIP:
    """A copy of the model with the tuned weights, low-rank updates added in: a model like any other."""
    merged = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        if not layers:
            merged.load_state_dict(tuned.state_dict())
        for name in layers:
            updated = tuned.observation_encoder.get_submodule(name).weight
            merged.observation_encoder.get_submodule(name).weight.copy_(updated)  # type: ignore[operator, arg-type, union-attr]
    return merged
