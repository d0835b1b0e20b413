"""``calibration.json`` of a model directory: how its scores become probabilities that mean what they say.

Shape letters: N samples, L candidates.

The scores s of a model carry the prior p of its training set. Calibrated scores are ``s / T + b log p``: one
temperature T (Guo et al. 2017, "On Calibration of Modern Neural Networks") and, where it was fitted, a weight b of the
log prior. Another prior p' then enters as it does without calibration, as ``log p' - log p``. The order within a row
changes only through b. Reading needs neither torch nor the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError

__all__ = ["FILE", "Calibration", "ConformalThreshold", "read_calibration", "write_calibration"]

FILE = "calibration.json"
FORMAT = "geotreeclip-calibration"
VERSION = 1

Scores = TypeVar("Scores")


@dataclass(frozen=True)
class ConformalThreshold:
    """The smallest probability that a label in a prediction set may have.

    Attributes:
        rank: rank of the labels.
        level: coverage that is promised, 0.9.
        log_prob: labels at least this (calibrated, training prior) log-probability form the set; None where too few
            samples were there to promise anything but the set of all labels.
        unit: what was exchangeable: "sample", or "block" for a sample in a block never seen before.
        method: name of the score, "lac".
        samples: how many samples it rests on.
        blocks: how many spatial blocks these lie in; None where unknown.
    """

    rank: str
    level: float
    log_prob: float | None
    unit: str
    method: str
    samples: int
    blocks: int | None = None


@dataclass(frozen=True)
class Calibration:
    """What calibrates one model.

    Attributes:
        temperature: T > 0; above 1 the model was too sure of itself.
        prior_weight: b.
        model_fingerprint: SHA-256 of the weights that it was fitted to.
        fitted_on: account of the samples: data fingerprint, split, fold, role, samples, blocks, ...
        scores: log loss and calibration error before and after, by cross-fitting over blocks.
        conformal: thresholds of prediction sets.
    """

    temperature: float
    prior_weight: float = 0.0
    model_fingerprint: str = ""
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    conformal: tuple[ConformalThreshold, ...] = ()

    def apply(self, scores: Scores, log_prior: Any) -> Scores:
        """Calibrated scores, before the softmax and before a change of prior.

        Args:
            scores: [N, L] logits or log-probabilities under the training prior; a numpy array or a torch tensor.
            log_prior: [L] log prior of the candidates in training, of the same kind; used where b is not 0.
        """
        scaled: Any = scores
        scaled = scaled / self.temperature
        result: Scores = scaled + self.prior_weight * log_prior if self.prior_weight else scaled
        return result

    def threshold(self, rank: str = "species", unit: str = "block") -> ConformalThreshold | None:
        """The threshold of the prediction sets of a rank, or None where there is none."""
        for item in self.conformal:
            if (item.rank, item.unit) == (rank, unit):
                return item
        return None


def write_calibration(directory: str | Path, calibration: Calibration) -> Path:
    """Write ``calibration.json`` into a model directory, whole or not at all, and return its path."""
    path = Path(directory) / FILE
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such directory; a calibration belongs into the directory of its model")
    content = {"format": FORMAT, "version": VERSION, **asdict(calibration)}
    text = json.dumps(content, indent=1, allow_nan=False, default=str) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return path


def read_calibration(directory: str | Path, model_fingerprint: str | None = None) -> Calibration | None:
    """Read the calibration of a model directory.

    Args:
        directory: of the model.
        model_fingerprint: SHA-256 of the weights as loaded; a calibration of other weights is refused.

    Returns:
        The calibration, or None where the directory holds none.

    Raises:
        DataError: the file is damaged, of another version, or belongs to other weights.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    mend = "fit it again with eval/calibrate.py, or remove it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {mend}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise DataError(f"{path}: no calibration of format {FORMAT} version {VERSION}; {mend}")
    known = {item.name for item in fields(Calibration)}
    values = {name: value for name, value in content.items() if name in known}
    try:
        values["conformal"] = tuple(ConformalThreshold(**item) for item in values.get("conformal", ()))
        calibration = Calibration(**values)
        numbers = (float(calibration.temperature), float(calibration.prior_weight))
        levels = [float(item.level) for item in calibration.conformal]
        levels += [float(item.log_prob) for item in calibration.conformal if item.log_prob is not None]
        names = [calibration.model_fingerprint, *(f for item in calibration.conformal for f in (item.rank, item.unit))]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {error}; {mend}") from error
    plain = isinstance(calibration.fitted_on, dict) and isinstance(calibration.scores, dict)
    if not (plain and all(isinstance(name, str) for name in names) and not any(math.isnan(level) for level in levels)):
        raise DataError(f"{path}: holds a value of another type than expected; {mend}")
    if not (math.isfinite(numbers[0]) and numbers[0] > 0 and math.isfinite(numbers[1])):
        raise DataError(
            f"{path}: temperature {numbers[0]}, prior weight {numbers[1]}: the first must be above 0; {mend}"
        )
    stored = calibration.model_fingerprint
    calibration = replace(calibration, temperature=numbers[0], prior_weight=numbers[1])
    if model_fingerprint and stored and stored != model_fingerprint:
        raise DataError(f"{path}: was fitted to weights {stored[:12]}, these are {model_fingerprint[:12]}; {mend}")
    return calibration
