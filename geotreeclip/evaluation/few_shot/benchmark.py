"""Few-shot scores of a model on a packed set: draws, heads, predictions, and their means over draws.

One cell is one method with one number of shots and one seed. Each is kept as a predictions file, so that a stopped run
goes on where it was.

Shape letters: N samples of the set, Q query, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.collect import Truth, named_ranks, truth_of
from geotreeclip.evaluation.few_shot.adapt import knows, text_anchor
from geotreeclip.evaluation.few_shot.episodes import (
    BLOCK_KM,
    MIN_QUERY,
    SEEDS,
    SHOTS,
    Episode,
    Episodes,
    draw_episodes,
)
from geotreeclip.evaluation.few_shot.heads import log_softmax
from geotreeclip.evaluation.few_shot.methods import METHODS, TUNED, Table, fit_method
from geotreeclip.evaluation.few_shot.summary import METRICS, mean_of_draws, paired_difference
from geotreeclip.evaluation.few_shot.tuning import TuneOptions, tune
from geotreeclip.evaluation.metrics import score
from geotreeclip.evaluation.prediction_files import read_predictions, write_predictions
from geotreeclip.evaluation.predictions import Context, Predictions, from_log_prob
from geotreeclip.evaluation.report import Row, make_row
from geotreeclip.models.head import LinearHead
from geotreeclip.sphere import unit_vectors
from geotreeclip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.models.directory import LoadedModel

ZERO_SHOT = "zero-shot"
LOCATION = "location"
"""Two references on the same query: the text embeddings alone, and the label of the nearest support sample."""

DEFAULT_METHODS = (ZERO_SHOT, LOCATION, "prototype", "text", "logistic", "lda", "lda-inputs", "combined")
ALL_METHODS = (ZERO_SHOT, LOCATION, *METHODS, *TUNED)
DRAWS = 5  # fewer say little of the spread between supports
_BATCH = 512


@dataclass(frozen=True)
class Setting:
    """What is drawn and fitted.

    Attributes:
        shots: Numbers of support samples a label.
        seeds: One draw each.
        methods: Of `ALL_METHODS`.
        support: "labels" or "union-of-ranks".
        block_km: Edge of the blocks that support and query do not share.
        min_query: Samples that a label needs beyond its largest support.
    """

    shots: tuple[int, ...] = SHOTS
    seeds: tuple[int, ...] = SEEDS
    methods: tuple[str, ...] = DEFAULT_METHODS
    support: str = "labels"
    block_km: float = BLOCK_KM
    min_query: int = MIN_QUERY

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in ALL_METHODS]
        if unknown or not self.methods:
            raise ConfigError(
                f"few-shot methods {', '.join(unknown) or '(none)'}: choose from {', '.join(ALL_METHODS)}"
            )


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that cells share.

    Attributes:
        loaded: The model.
        dataset: The set.
        indices: int64 [N], its rows that take part in the draws.
        truth: Of these rows.
        episodes: The draws; their rows point into `indices`.
        labels: L taxa, the candidates.
        codes: int64 [N], row of each sample in `labels`, -1 for excluded ones.
        table: Features of the N samples.
        anchor: The head of zero-shot classification.
        context: What all predictions share.
    """

    loaded: LoadedModel
    dataset: PackedDataset
    indices: NDArray[np.int64]
    truth: Truth
    episodes: Episodes
    labels: Taxonomy
    codes: NDArray[np.int64]
    table: Table
    anchor: LinearHead
    context: Context
    support_block: NDArray[np.int64] | None = field(default=None)


def prepare(
    loaded: LoadedModel, dataset: PackedDataset, indices: NDArray[np.int64], setting: Setting, context: Context,
    *, interval_km: float, progress: bool = False,
) -> Work:  # fmt: skip
    """Draw the episodes and read the features of all samples once.

    Args:
        loaded: the model, on the CPU.
        dataset: the set.
        indices: rows of it that take part.
        setting: what is drawn.
        context: set, system, split.
        interval_km: edge of the blocks of the intervals.
        progress: whether to show it.

    Raises:
        DataError: too few labels are left.
        ConfigError: the set counts days from another day than the model.
    """
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.models.features import FEATURES, has_tokens, read_features
    from geotreeclip.observations import from_packed
    from geotreeclip.prep.phase import check_days
    from geotreeclip.schema import MONTH_DAYS

    check_days(dataset.directory, loaded.config)
    truth = truth_of(dataset, indices, block_km=interval_km)
    support_block = truth_of(dataset, indices, block_km=setting.block_km).block
    taxon = dataset.taxa[indices]
    everything = dataset.taxonomy
    episodes = draw_episodes(
        taxon, support_block, shots=setting.shots, seeds=setting.seeds, min_query=setting.min_query,
        names=everything.prompts(), support=setting.support, taxa=everything,
    )  # fmt: skip
    labels = everything.take(episodes.labels.tolist())
    place = np.full(len(everything), -1, dtype=np.int64)
    place[episodes.labels] = np.arange(len(labels))
    slots = torch.from_numpy(MONTH_DAYS.copy())
    names = [name for name in FEATURES if name != "tokens" or has_tokens(loaded.model)]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    bar = tqdm(total=len(indices), desc="features", unit=" samples", disable=None if progress else True)
    with torch.inference_mode(), bar:
        for packed in sequential(dataset, indices, _BATCH):
            batch = from_packed(packed)
            for name in names:
                parts[name].append(read_features(loaded.model, batch, [name], slots).numpy())
            bar.update(batch.size)
    table = Table({name: np.concatenate(found) for name, found in parts.items()})
    context = replace(context, candidates=f"{len(labels)} labels with enough samples", prior="uniform")
    return Work(
        loaded, dataset, indices, truth, episodes, labels, place[taxon], table, text_anchor(loaded, labels), context,
        support_block,
    )  # fmt: skip


def run_cells(work: Work, setting: Setting, folder: Path, *, progress: bool = False) -> list[Predictions]:
    """Fit what is not yet fitted, and return the predictions of all cells.

    Args:
        work: of `prepare`.
        setting: what is fitted.
        folder: where cells are kept; that of another run is refused.
        progress: whether to show it.

    Raises:
        ConfigError: the folder holds cells of another model, set or setting.
    """
    from tqdm import tqdm

    _claim(work, setting, folder)
    cells = [(method, episode) for episode in work.episodes.episodes for method in setting.methods]
    # Without support all shots are the same: such a cell is scored once a seed.
    least = min(setting.shots)
    cells = [(method, episode) for method, episode in cells if method != ZERO_SHOT or episode.shots == least]
    found = []
    for method, episode in tqdm(cells, desc="fits", unit="", disable=None if progress else True):
        shots = 0 if method == ZERO_SHOT else episode.shots
        path = folder / f"{method}-shots{shots}-seed{episode.seed}.parquet"
        if not path.is_file():
            write_predictions(path, fit_cell(work, method, episode))
        found += read_predictions(path)
    return found


def fit_cell(work: Work, method: str, episode: Episode) -> Predictions:
    """Fit one method to one support and score its query."""
    context = replace(work.context, method=method, shots=episode.shots, seed=episode.seed)
    labels = work.codes[episode.support]
    groups = None if work.support_block is None else work.support_block[episode.support]
    if method == ZERO_SHOT:
        context = replace(context, shots=0)
        scores = work.anchor.logits(work.table.values["embedding"][episode.query])
    elif method == LOCATION:
        scores = _nearest_support(work, episode)
    elif method in TUNED:
        scores = _tuned(work, method, episode, labels, groups)
    else:
        told = work.anchor if method == "text" or knows(work.loaded, work.labels) else None
        fit = fit_method(method, work.table, episode.support, labels, len(work.labels), anchor=told, groups=groups)
        scores = fit.head.logits(work.table.all()[episode.query])
    truth = work.truth
    taxa = [truth.taxa[row] for row in episode.query]
    columns = {
        name: None if array is None else array[episode.query] for name, array in truth.columns(slice(None)).items()
    }
    return from_log_prob(
        log_softmax(scores), work.labels, taxa, truth.sample_id[episode.query], context=context,
        rank=named_ranks(work.labels)[0], **columns,
    )  # fmt: skip


def _nearest_support(work: Work, episode: Episode) -> NDArray[np.float64]:
    """Minus the distance (in Earth radii) to the nearest support sample of each label, [Q, L]."""
    longitude, latitude = work.truth.longitude, work.truth.latitude
    if longitude is None or latitude is None or not np.isfinite(longitude + latitude).all():
        raise DataError("few-shot method location: not all samples have coordinates; leave it out with --methods")
    points = unit_vectors(longitude, latitude)
    distance = np.full((len(episode.query), len(work.labels)), np.inf)
    for row in episode.support:
        one = np.linalg.norm(points[episode.query] - points[row], axis=1)
        label = work.codes[row]
        distance[:, label] = np.minimum(distance[:, label], one)
    return -distance


def _tuned(
    work: Work, kind: str, episode: Episode, labels: NDArray[np.int64], groups: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Scores [Q, L] of a tower tuned on the support."""
    from geotreeclip.data.loader import sequential
    from geotreeclip.observations import from_packed

    batch = from_packed(work.dataset.read(work.indices[episode.support]))
    tuned = tune(work.loaded.model, batch, labels, work.anchor, TuneOptions(kind=kind, seed=episode.seed), groups)
    with torch.inference_mode():
        parts = [
            tuned.model.encode_observations(from_packed(packed)).numpy()
            for packed in sequential(work.dataset, work.indices[episode.query], _BATCH)
        ]
    return tuned.head.logits(np.concatenate(parts))


def _claim(work: Work, setting: Setting, folder: Path) -> None:
    """Make the folder that of this run, or refuse it where it is that of another."""
    identity = {
        "model": work.loaded.fingerprint,
        "data": work.dataset.fingerprint(),
        "split": work.context.split,
        "fold": work.context.fold,
        **{key: value for key, value in asdict(setting).items() if key != "methods"},
    }
    identity = json.loads(json.dumps(identity))
    path = folder / "run.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in identity.items() if known.get(key) != value]
        if changed:
            raise ConfigError(
                f"{folder}: holds a run with another {', '.join(changed)}; give another --out, or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(identity, indent=1), encoding="utf-8")


def draw_rows(cells: Sequence[Predictions]) -> list[Row]:
    """Report rows of every draw, with block-bootstrap intervals."""
    return [row for cell in cells for row in score(cell, by_rarity=False)]


def mean_rows(cells: Sequence[Predictions], ranks: Sequence[str], against: str = "lda-inputs") -> list[Row]:
    """Means over draws for each method and number of shots, and paired differences to the head without the model.

    Args:
        cells: predictions of all cells.
        ranks: ranks to read top-1 at.
        against: the method that the others are compared with, where it was run.
    """
    groups: dict[tuple[str, int], list[Predictions]] = {}
    for cell in sorted(cells, key=lambda cell: cell.context.seed or 0):
        groups.setdefault((cell.context.method or "", cell.context.shots or 0), []).append(cell)
    rows: list[Row] = []
    for (method, shots), items in groups.items():
        about = {**asdict(items[0].context), "seed": None, "fold": items[0].context.fold}
        n = sum(map(len, items)) // len(items)
        for metric in METRICS:
            for rank in ranks if metric == "top1" else (items[0].rank,):
                interval = mean_of_draws(items, metric, rank)
                rows.append(make_row(**about, protocol="published", rank=rank, group="all", metric=metric, n=n,
                                     **interval._asdict()))  # fmt: skip
        rival = groups.get((against, shots))
        if rival and method != against:
            interval = paired_difference(items, rival, "top1")
            rows.append(make_row(**about, protocol="published", rank=items[0].rank, group="all",
                                 metric=f"top1_minus_{against}", n=n, **interval._asdict()))  # fmt: skip
    return rows
