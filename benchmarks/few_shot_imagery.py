"""Few labelled places of real Sentinel-2 imagery: the heads of `eval/few_shot.py` beside what needs no model.

    python benchmarks/few_shot_imagery.py polygons --data pixels_6_species_one_date.parquet --model RUN [--seeds 10]
    python benchmarks/few_shot_imagery.py series --data monthly_500_points.parquet --model RUN [--seeds 5]

`polygons`: pixels of one August day; a polygon is a sample, up to 25 of its pixels, drawn by seed, as a patch. So many
polygons of each species are the support, all others the query. Beside the heads stands shrinkage discriminant analysis
(Ledoit and Wolf 2004, as in scikit-learn) on log band means, alone and with the deviations of the pixels.

`series`: twelve monthly composites of single pixels, land cover in five groups, folds of whole blocks of 5 degrees.
Beside the heads stand extremely randomised trees on the series. `frozen encoder` reads nothing but the encoder: which
of its layers, and which head with which setting, is chosen by macro-F1 on folds of the training blocks.

Scores are macro-F1: mean over seeds, and paired differences with 95 % t intervals over seeds (the seeds share the data,
so that these intervals tell of the draws, not of other regions); for `series` also with bootstrap intervals over the
blocks, which tell of other regions.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import t
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from geotreeclip.evaluation.few_shot.adapt import feature_table
from geotreeclip.evaluation.few_shot.episodes import draw_episodes
from geotreeclip.evaluation.few_shot.heads import lda_path, logistic_path
from geotreeclip.evaluation.few_shot.methods import fit_method
from geotreeclip.evaluation.splits import assign_folds
from geotreeclip.evaluation.zero_shot import model_directory
from geotreeclip.inputs.common import InputWarning
from geotreeclip.model_sources import find_model
from geotreeclip.models.directory import LoadedModel, load_model
from geotreeclip.models.features import common_slots
from geotreeclip.observation_builder import build_observations
from geotreeclip.observations import ObservationBatch

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
SHOTS = (3, 5, 10, 20)
METHODS = ("prototype", "lda", "lda-inputs", "combined")
FROZEN = "frozen encoder"
COVER = {10: 0, 20: 1, 30: 1, 40: 2, 50: 3, 60: 3, 80: 4, 90: 4, 95: 4}
"""WorldCover class -> trees; shrubs and grass; crops; built and bare; water and wetland."""

Scores = dict[tuple[str, str], list[float]]
Answers = dict[str, list[np.ndarray]]
Head = Callable[[np.ndarray], np.ndarray]


def polygons(frame: pd.DataFrame, loaded: LoadedModel, seeds: int) -> Scores:
    """Macro-F1 of every head and rival, by number of shots."""
    scores: Scores = {}
    groups = list(frame.groupby("PolygonID", sort=True))
    names, codes = np.unique([group["scientific"].iloc[0] for _, group in groups], return_inverse=True)
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 25])
        patches = np.full((len(groups), len(BANDS), 25), np.nan, dtype=np.float32)
        for row, (_, group) in enumerate(groups):
            pixels = group[list(BANDS)].to_numpy(np.float32)
            chosen = rng.permutation(len(pixels))[:25]
            patches[row, :, : len(chosen)] = pixels[chosen].T
        batch = build_observations(patches.reshape(len(groups), 1, len(BANDS), 5, 5), months=[8], scale="dn")
        table = feature_table(loaded, batch, common_slots(batch))
        mean = np.log(np.nanmean(patches, axis=2))
        rivals = {
            "LDA, log means": mean,
            "LDA, log means and deviations": np.c_[mean, np.nanstd(np.log(patches), axis=2)],
            "LDA, means of logs": np.nanmean(np.log(patches), axis=2),
        }
        for shots in SHOTS:
            (episode,) = draw_episodes(codes, None, shots=(shots,), seeds=(seed,), min_query=10).episodes
            support, query = episode.support, episode.query
            said = {}
            for name, values in rivals.items():
                model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(6, 1 / 6))
                said[name] = model.fit(values[support], codes[support]).predict(values[query])
            for method in METHODS:
                fit = fit_method(method, table, support, codes[support], len(names))
                said[method] = fit.head.logits(table.all()[query]).argmax(axis=1)
            for name, answer in said.items():
                score = f1_score(codes[query], answer, average="macro")
                scores.setdefault((name, f"{shots} polygons"), []).append(float(score))
    return scores


def series(frame: pd.DataFrame, loaded: LoadedModel, seeds: int) -> tuple[Scores, dict[str, list[float]]]:
    """Macro-F1 over all points, each predicted from other blocks of 5 degrees; differences with block intervals."""
    values = np.full((len(frame), 12, len(BANDS)), np.nan)
    for column, band in enumerate(BANDS):
        metres = 10 if band in ("B02", "B03", "B04", "B08") else 20
        for step in range(12):
            values[:, step, column] = frame[f"OPTICAL-{band}-ts{step}-{metres}m"]
    values[values == 65535] = np.nan
    first = pd.to_datetime(frame["start_date"]).dt.month.to_numpy() - 1  # slot 0 is the month of start_date
    calendar = np.stack([np.roll(row, month, axis=0) for row, month in zip(values, first, strict=True)])
    code = frame["WORLDCOVER-LABEL-10m"].map(COVER).to_numpy(np.int64)
    block = (np.floor((frame["lat"] + 90) / 5) * 72 + np.floor((frame["lon"] + 180) / 5)).to_numpy(np.int64)
    batch = build_observations(calendar, scale="dn")
    table, layers = feature_table(loaded, batch, common_slots(batch)), encoder_layers(loaded, batch)
    answers: Answers = {}
    for seed in range(seeds):
        fold = assign_folds(block, 5, seed)
        said: dict[str, np.ndarray] = {}
        for k in range(5):
            train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            for name, told in (("series", values), ("calendar series", calendar)):
                filled = np.nan_to_num(told.reshape(len(told), -1), nan=-1)
                trees = ExtraTreesClassifier(300, random_state=seed).fit(filled[train], code[train])
                said.setdefault(f"ExtraTrees, {name}", code * 0)[test] = trees.predict(filled[test])
            for method in METHODS:
                fit = fit_method(method, table, train, code[train], 5, groups=block[train])
                said.setdefault(method, code * 0)[test] = fit.head.logits(table.all()[test]).argmax(axis=1)
            answer, setting = chosen_head(layers, code, block, train, test, seed)
            said.setdefault(FROZEN, code * 0)[test] = answer
            print(f"seed {seed}, fold {k}: {FROZEN} reads {setting}", flush=True)
        for name, answer in said.items():
            answers.setdefault(name, []).append(answer)
    scores: Scores = {
        (name, "blocks of 5 degrees"): [float(f1_score(code, answer, average="macro")) for answer in found]
        for name, found in answers.items()
    }
    return scores, block_differences(answers, code, block)


def encoder_layers(loaded: LoadedModel, batch: ObservationBatch) -> dict[str, np.ndarray]:
    """What a frozen encoder makes of places, by layer: [N, width] each.

    `embedding` has unit length, `before the norm` has not; `summary` is the summary token after the last block,
    `months` mean, largest value and two harmonics over the year of the month tokens there; `all` the last three.
    """
    encoder = loaded.model.observation_encoder
    kept: list[torch.Tensor] = []
    handle = encoder.blocks[-1].register_forward_hook(lambda *given: kept.append(given[2]))  # type: ignore[union-attr]
    with torch.inference_mode():
        before = encoder(batch)
    handle.remove()
    months = batch.images.shape[1]
    hidden = kept[0][:, 1 : 1 + months]  # the summary token stands first, then the steps
    seen = batch.image_valid.flatten(2).any(dim=-1).unsqueeze(-1)
    count = seen.sum(1).clamp(min=1)
    mean = torch.where(seen, hidden, 0.0).sum(1) / count
    highest = torch.where(seen, hidden, -torch.inf).amax(1)
    angle = 2 * np.pi * torch.arange(months).view(1, -1, 1) / months
    around = torch.where(seen, hidden - mean.unsqueeze(1), 0.0)
    waves = [(around * wave(h * angle)).sum(1) / count for h in (1, 2) for wave in (torch.cos, torch.sin)]
    found = {
        "embedding": torch.nn.functional.normalize(before, dim=-1),
        "before the norm": before,
        "summary": kept[0][:, 0],
        "months": torch.cat([mean, torch.where(highest.isfinite(), highest, 0.0), *waves], dim=1),
    }
    found["all"] = torch.cat([found["before the norm"], found["summary"], found["months"]], dim=1)
    return {name: layer.double().numpy() for name, layer in found.items()}


def heads_of(features: np.ndarray, code: np.ndarray) -> dict[str, Head]:
    """Heads fitted to [N, F], by name and setting."""
    everything = np.arange(code.max() + 1)
    heads: dict[str, Head] = {}
    for kind, path in (("LDA", lda_path), ("logistic", logistic_path)):
        for setting, head in path(features, code, everything):
            heads[f"{kind}, {setting}"] = lambda x, head=head: head.logits(x).argmax(axis=1)  # type: ignore[misc]
    for cost in (0.3, 1.0, 3.0, 10.0, 30.0):
        machine = make_pipeline(StandardScaler(), SVC(C=cost, class_weight="balanced"))
        heads[f"SVM, C {cost:g}"] = machine.fit(features, code).predict
    return heads


def chosen_head(
    layers: dict[str, np.ndarray], code: np.ndarray, block: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> tuple[np.ndarray, str]:
    """Answers on the test samples of the layer, head and setting with the best macro-F1 on folds of training blocks."""
    inner = assign_folds(block[train], 5, seed)
    said: dict[tuple[str, str], np.ndarray] = {}
    for layer, features in layers.items():
        for k in range(5):
            fit, held = train[inner != k], inner == k
            for name, head in heads_of(features[fit], code[fit]).items():
                said.setdefault((layer, name), code[train] * 0)[held] = head(features[train[held]])
    best = max(said, key=lambda pair: f1_score(code[train], said[pair], average="macro"))
    features = layers[best[0]]
    return heads_of(features[train], code[train])[best[1]](features[test]), ", ".join(best)


def block_differences(answers: Answers, code: np.ndarray, block: np.ndarray) -> dict[str, list[float]]:
    """Method minus ExtraTrees on the series, mean over seeds: value and 95 % interval of a bootstrap over blocks."""
    blocks, place = np.unique(block, return_inverse=True)
    weight = np.random.default_rng(0).multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), 2000)
    weight = np.concatenate([np.ones((1, len(blocks)), dtype=np.int64), weight])

    def macro_f1(found: list[np.ndarray]) -> np.ndarray:
        values = []
        for answer in found:
            share = []
            for label in range(code.max() + 1):
                twice = np.bincount(place, 2.0 * ((code == label) & (answer == label)), len(blocks))
                size = np.bincount(place, 1.0 * (code == label) + (answer == label), len(blocks))
                share.append(weight @ twice / np.maximum(weight @ size, 1))
            values.append(np.mean(share, axis=0))
        return np.asarray(np.mean(values, axis=0))

    rival = "ExtraTrees, series"
    against = macro_f1(answers[rival])
    differences = {}
    for name in answers:
        if not name.startswith("ExtraTrees"):
            gap = macro_f1(answers[name]) - against
            low, high = np.quantile(gap[1:], [0.025, 0.975])
            differences[f"{name} - {rival}; over blocks"] = [float(gap[0]), float(low), float(high)]
    return differences


def differences(scores: Scores, rivals: list[str]) -> dict[str, list[float]]:
    """Method minus rival, paired over seeds: mean, low, high."""
    found = {}
    for (name, column), values in scores.items():
        for rival in rivals:
            if name in (*METHODS, FROZEN) and (rival, column) in scores:
                gap = np.array(values) - np.array(scores[rival, column])
                half = t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.nan
                found[f"{name} - {rival}; {column}"] = [
                    float(gap.mean()),
                    float(gap.mean() - half),
                    float(gap.mean() + half),
                ]
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("polygons", "series"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON of all scores")
    args = parser.parse_args()
    warnings.simplefilter("ignore", InputWarning)
    loaded = load_model(find_model(model_directory(args.model)))
    frame, by_block = pd.read_parquet(args.data), dict[str, list[float]]()
    if args.what == "polygons":
        scores = polygons(frame, loaded, args.seeds)
    else:
        scores, by_block = series(frame, loaded, args.seeds)
    columns = list(dict.fromkeys(column for _, column in scores))
    print(f"macro-F1, mean of {args.seeds} seeds; model {loaded.fingerprint[:12]}")
    print(f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name in dict.fromkeys(name for name, _ in scores):
        print(f"| {name} | {' | '.join(f'{np.mean(scores[name, column]):.3f}' for column in columns)} |")
    rivals = [name for name in dict.fromkeys(name for name, _ in scores) if name not in (*METHODS, FROZEN)]
    gaps = differences(scores, rivals) | by_block
    for name, (mean, low, high) in gaps.items():
        if name.startswith(("combined", FROZEN)) or "lda - " in name:
            print(f"{name}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    if args.out:
        table = {f"{name}; {column}": values for (name, column), values in scores.items()}
        args.out.write_text(json.dumps({"model": loaded.fingerprint, "scores": table, "differences": gaps}, indent=1))


if __name__ == "__main__":
    main()
