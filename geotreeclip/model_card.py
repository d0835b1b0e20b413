"""The card of a model, written from what lies beside its weights and from reports of its evaluation.

Every figure comes from a file; what no file tells is said to be unknown. Cards of models without a run are in
`geotreeclip.model_card_texts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.schema import BANDS, RANKS

if TYPE_CHECKING:
    from geotreeclip.models.calibration import Calibration
    from geotreeclip.models.directory import LoadedModel
    from geotreeclip.ranges import Ranges

__all__ = ["SECTIONS", "card_head", "model_card", "read_report"]

SECTIONS: tuple[str, ...] = (
    "Use", "Licences", "Inputs", "Training", "Scores", "Probabilities and ranges", "Limits", "Citation",
)  # fmt: skip
"""Headings that every card has."""

_METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_top1": "macro top-1",
    "log_loss": "log loss",
    "ece": "calibration error",
}
_PLAIN = ("log_loss",)  # no percentage


def read_report(path: Path, fingerprint: str) -> dict[str, Any]:
    """An evaluation report of this very model.

    Raises:
        DataError: If it is no report.
        ConfigError: If it is of other weights.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a report ({error}); `geotreeclip evaluate` writes one") from error
    if (
        not isinstance(report, dict)
        or not isinstance(report.get("rows"), list)
        or not isinstance(report.get("meta"), dict)
    ):
        raise DataError(f"{path}: is no report; `geotreeclip evaluate` writes one")
    found = str(report["meta"].get("model_fingerprint") or "")
    if found != fingerprint:
        raise ConfigError(f"{path}: is of weights {found[:12] or 'unknown'}, the model has {fingerprint[:12]}")
    return report


def model_card(
    loaded: LoadedModel,
    calibration: Calibration | None,
    ranges: Ranges | None,
    reports: Sequence[Mapping[str, Any]] = (),
    *,
    weights_licence: str = "",
    data_licence: str = "",
) -> str:
    """The card as Markdown with the metadata of the hub.

    Args:
        loaded: The model.
        calibration: Of its directory.
        ranges: Of its directory.
        reports: As `read_report` gives them.
        weights_licence: SPDX identifier of the licence of the weights; "" where nobody stated one.
        data_licence: The licences of the training data, in words.
    """
    from geotreeclip.models.published import PublishedObservationEncoder

    config, training = loaded.config, loaded.training
    published = isinstance(loaded.model.observation_encoder, PublishedObservationEncoder)
    weights = sum(value.numel() for value in loaded.model.parameters())
    known = int((loaded.counts > 0).sum())
    sections = [
        card_head(weights_licence, config.name, reports),
        f"# geotreeclip {config.name}\n\nPlaces and taxa in one embedding space of {config.embed_dim} dimensions; "
        f"{weights:,} weights, SHA-256 `{loaded.fingerprint}`.",
        "## Use\n```python\nimport geotreeclip\n\n"
        'model = geotreeclip.load("DIRECTORY")  # or "hf-hub:owner/name@COMMIT"\n'
        "answers = model.classify(images=images, bands=bands, months=months, longitude=8.4, latitude=47.3)\n```",
        licence_section(weights_licence, data_licence or _record_licences(training)),
        input_section(config.observation.inputs, loaded.statistics.worldclim, published=published),
        _training(training, len(loaded.taxonomy), known, int(loaded.counts.sum())),
        _scores(reports, training),
        _answers(loaded, calibration, ranges),
        _limits(loaded, calibration),
        CITATION,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


CITATION = (
    "## Citation\n`CITATION.cff` of geotreeclip, and the occurrence records that the model was trained on, by the "
    "identifiers that their source asks for."
)


def card_head(licence: str, name: str = "", reports: Sequence[Mapping[str, Any]] = (), **more: Any) -> str:
    """The metadata of the hub between its two lines of dashes.

    Args:
        licence: SPDX identifier of the weights' licence; "" where nobody stated one.
        name: What the hub shows scores under.
        reports: Species scores of all samples with all inputs are told to the hub too.
        **more: Further fields of `huggingface_hub.ModelCardData`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    tags = ["tree-species", "sentinel-2", "clip", "ecology"]
    told = {"license": licence} if licence else {"license": "other", "license_name": "not-stated"}
    results = [
        EvalResult(
            task_type="zero-shot-classification",
            dataset_type=str(row.get("set") or "set"),
            dataset_name=str(report["meta"].get("scored") or "a set"),
            metric_type="accuracy",
            metric_name=f"species {_METRICS[row['metric']]}, {row.get('prior') or 'training'} prior",
            metric_value=round(float(row["value"]), 4),
        )
        for report in reports
        for row in _first_protocol(report["rows"])
        if row["metric"] in ("top1", "top5", "macro_top1")
        and (row.get("system"), row.get("inputs")) == ("geotreeclip", "all")
    ]
    scored = {"model_name": f"geotreeclip {name}", "eval_results": results} if results else {}
    data = ModelCardData(**{**told, **more}, library_name="geotreeclip", tags=tags, **scored)
    return f"---\n{data.to_yaml()}\n---"


def _record_licences(training: Mapping[str, Any]) -> str:
    """Licences of the training records as the run counted them, "" where its set has none."""
    licences = training.get("licences") or {}
    if not licences:
        return ""
    counted = ", ".join(f"{name} {count:,}" for name, count in licences.items())
    sets = (
        f"; {training['datasets']:,} data sets, listed in `datasets.csv` of the packed set"
        if training.get("datasets")
        else ""
    )
    return f"records by licence: {counted}{sets}"


def licence_section(weights: str, data: str) -> str:
    """What may be done with code, weights and data, apart."""
    return (
        "## Licences\n"
        "- Code: Apache-2.0.\n"
        f"- Weights: {weights or 'not stated; ask who made them before you share them'}.\n"
        f"- Training data: {data or 'not stated. Occurrence records of GBIF bear CC0, CC BY or CC BY-NC each'}."
    )


def input_section(inputs: Sequence[str], worldclim: str, *, published: bool = False) -> str:
    """What a model reads, in which units."""
    lines = [
        f"## Inputs\n- Reads: {', '.join(inputs)}; {'all are expected' if published else 'each may be missing'}.",
        f"- Sentinel-2 surface reflectance as digital numbers (reflectance x 10,000, offset removed), bands "
        f"{', '.join(BANDS)} (B8 is the fourth), 5 x 5 pixels of 10 m, monthly medians or other dated steps.",
        f"- Environmental variables in the units of `geotreeclip.schema.VARIABLES` (trained on WorldClim {worldclim}).",
    ]
    return "\n".join(line for line in lines if line)


def _training(training: Mapping[str, Any], taxa: int, known: int, samples: int) -> str:
    lines = [
        f"## Training\n{samples:,} samples of {known:,} taxa; {taxa:,} labels, prompts "
        f"`{training.get('prompt', ' / '.join(RANKS))}`."
    ]
    if "steps" in training:
        run = training.get("config", {})
        size = f" of {run['batch_size']} samples, seed {run.get('seed', '?')}" if "batch_size" in run else ""
        lines.append(
            f"{training['steps']:,} steps{size}; weights of step {training.get('kept_step', '?')}; split "
            f"`{training.get('split') or 'random'}`, fold {training.get('fold', 0)}; data fingerprint "
            f"`{str(training.get('data_fingerprint', ''))[:16]}`."
        )
    if "adapted" in training:
        lines.append(f"Adapted from weights `{str(training['adapted'].get('base_fingerprint', ''))[:16]}`.")
    if "source" in training:
        lines.append(f"Converted from {training['source']}.")
    return "\n".join(lines)


def _scores(reports: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> str:
    lines = ["## Scores"]
    for report in reports:
        meta = report["meta"]
        lines += [
            f"\nOn {meta.get('scored', 'a set')} ({meta.get('samples', '?')} samples), candidates "
            f"{meta.get('candidates', '?')}; "
            f"{meta.get('intervals', '')}.\n",
            *_table(report["rows"]),
        ]
        if meta.get("notes"):
            notes = meta["notes"]
            lines.append(f"\nNote: {notes if isinstance(notes, str) else '; '.join(map(str, notes))}.")
    if not reports:
        score = training.get("validation")
        lines.append(
            f"Only validation samples, which chose the weights and are no test: top-1 {score['top1']:.1%} of "
            f"{score['samples']:,}, log loss {score['log_loss']:.3f}."
            if score
            else "None measured."
        )
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Species, all samples: a line for each system, prior and protocol; columns are metrics with their intervals."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in _first_protocol(rows):
        key = tuple(str(row.get(name) or "") for name in ("system", "inputs", "prior", "candidates"))
        found.setdefault(key, {})[row["metric"]] = _figure(row)
    names = [name for name in _METRICS if any(name in cells for cells in found.values())]
    head = ["system", "inputs", "prior", *(_METRICS[name] for name in names)]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for (system, inputs, prior, _), cells in found.items():
        lines.append(f"| {' | '.join([system, inputs, prior, *(cells.get(name, '') for name in names)])} |")
    return lines


def _first_protocol(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Scores of species over all samples; of several protocols the first, which is the published one."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in rows:
        if row.get("rank") == "species" and row.get("group") == "all" and row.get("metric") in _METRICS:
            key = tuple(str(row.get(name) or "") for name in ("system", "inputs", "prior", "candidates", "metric"))
            found.setdefault(key, row)
    return list(found.values())


def _figure(row: Mapping[str, Any]) -> str:
    factor, digits, unit = (1.0, 3, "") if row["metric"] in _PLAIN else (100.0, 1, " %")
    text = f"{factor * row['value']:.{digits}f}"
    if row.get("low") is not None and row.get("high") is not None:
        text += f" [{factor * row['low']:.{digits}f}, {factor * row['high']:.{digits}f}]"
    return text + unit


def _answers(loaded: LoadedModel, calibration: Calibration | None, ranges: Ranges | None) -> str:
    lines = ["## Probabilities and ranges"]
    if calibration is None:
        lines.append("- Probabilities are not calibrated.")
    else:
        of = calibration.fitted_on.get("samples", "?")
        lines.append(f"- Calibrated by temperature {calibration.temperature:.3f}, fitted on {of} validation samples.")
        for rank in reversed(RANKS):
            threshold = calibration.threshold(rank) or calibration.threshold(rank, "sample")
            if threshold is not None and threshold.log_prob is not None:
                lines.append(
                    f"- Sets of {rank.replace('_', ' ')} promise to hold the truth in {threshold.level:.0%} of cases."
                )
    if ranges is not None:
        lines.append(
            "- `ranges.parquet` keeps where training saw each label in cells of about 100 km, and its climate "
            "envelope; no coordinates."
        )
    if loaded.places is not None:
        lines.append(
            "- `place_centres.safetensors` keeps means of the embeddings of groups of training places, by which names "
            "never seen in training are put on one scale with the others; no place by itself."
        )
    return "\n".join(lines)


def _limits(loaded: LoadedModel, calibration: Calibration | None) -> str:
    prior = (
        'Scores carry the prior of the training set; ask for `prior="uniform"` where species are not distributed '
        "like it."
        if loaded.scores_carry_prior
        else "Scores are free of the prior of a training set."
    )
    lines = [
        f"## Limits\n- {prior}",
        "- Location and climate alone explain much of an occurrence data set: compare with inputs switched off, and "
        "with spatially blocked scores, before trusting a map.",
        "- Labels of occurrence records are weak: positions are uncertain, a pixel holds more than one tree, and "
        "published sets hold classes that are no trees.",
    ]
    if calibration is not None:
        lines.append(
            "- Calibration and sets hold for places like the validation samples, all labels, and the training prior."
        )
    return "\n".join(lines)
