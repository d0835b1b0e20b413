"""The folder of a pretrained encoder: weights, configuration, statistics, and what its numbers mean.

    encoder/encoder.safetensors   weights of `geotreeclip.models.observation_encoder.ObservationEncoder`
    encoder/config.json           the model that it belongs to
    encoder/statistics.json       by which it standardises
    encoder/pretraining.json      bands and their order, scale and offset, objective, seasons, data, losses

Nothing in it is executed, and nothing in it is left to be guessed.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geotreeclip.data.aside import folder_aside
from geotreeclip.data.statistics import Statistics
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.models.config import ModelConfig, config_from_dict
from geotreeclip.models.observation_encoder import ObservationEncoder
from geotreeclip.schema import BANDS, MISSING_DN, PATCH, REFLECTANCE_SCALE

__all__ = ["ENCODER", "PretrainedEncoder", "read_encoder", "write_encoder"]

ENCODER = "encoder"
"""Folder of a run."""

FORMAT, FORMAT_VERSION = "geotreeclip-encoder", 1


class PretrainedEncoder(NamedTuple):
    """A pretrained encoder of places.

    Attributes:
        state: Its weights.
        config: The model that it belongs to; `observation.inputs` is what it reads.
        statistics: By which it standardises.
        account: pretraining.json.
        directory: Where it was read from.
    """

    state: dict[str, Tensor]
    config: ModelConfig
    statistics: Statistics
    account: dict[str, Any]
    directory: Path

    def build(self) -> ObservationEncoder:
        """The encoder itself, in evaluation mode.

        Raises:
            ConfigError: The weights do not fit the configuration.
        """
        statistics = self.statistics
        values = (
            statistics.band_mean, statistics.band_deviation, statistics.variable_mean, statistics.variable_deviation,
        )  # fmt: skip
        encoder = ObservationEncoder(
            self.config.observation, self.config.embed_dim, *(torch.as_tensor(v, dtype=torch.float32) for v in values)
        )
        expected = encoder.state_dict()
        wrong = sorted(
            name
            for name in {*expected, *self.state}
            if name not in expected or name not in self.state or expected[name].shape != self.state[name].shape
        )
        if wrong:
            raise ConfigError(f"{self.directory}: weights do not fit config.json: {len(wrong)} differ, {wrong[:3]}")
        encoder.load_state_dict(self.state)
        return encoder.eval()


def write_encoder(
    directory: Path, encoder: ObservationEncoder, config: ModelConfig, statistics: Statistics, account: dict[str, Any]
) -> Path:
    """Write the folder aside, then rename it.

    Args:
        directory: Where to; an older folder of that name is replaced.
        encoder: The weights.
        config: Its model.
        statistics: Of the training samples.
        account: JSON-able account of the run.

    Raises:
        DataError: If it cannot be written.
    """
    with folder_aside(directory) as aside:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()},
            aside / "encoder.safetensors",
        )
        (aside / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")
        statistics.write(aside / "statistics.json")
        imagery = {
            "bands": list(BANDS),
            "unit": "Sentinel-2 Level-2A digital number, offset removed",
            "per_reflectance": REFLECTANCE_SCALE,
            "offset": 0,
            "range": [0, MISSING_DN - 1],
            "patch": PATCH,
        }
        document = {"format": FORMAT, "version": FORMAT_VERSION, "imagery": imagery, **account}
        (aside / "pretraining.json").write_text(json.dumps(document, indent=1) + "\n")
    return directory


def read_encoder(path: str | Path) -> PretrainedEncoder:
    """Read the encoder of a run of `train/seasonal.py`, or its folder `encoder`.

    Raises:
        DataError: Something is absent or damaged.
        ConfigError: The configuration names something unknown.
    """
    directory = Path(path)
    if (directory / ENCODER).is_dir():
        directory = directory / ENCODER
    weights = directory / "encoder.safetensors"
    if not weights.is_file():
        hint = ": the run is not finished" if (directory / "checkpoints").is_dir() else ""
        raise DataError(f"{directory}: holds no pretrained encoder{hint}; train/seasonal.py writes one")
    account, config = (_json(directory / name) for name in ("pretraining.json", "config.json"))
    if account.get("format") != FORMAT or account.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{directory}/pretraining.json: is {account.get('format')!r} version {account.get('version')!r}, expected "
            f"{FORMAT!r} version {FORMAT_VERSION}"
        )
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise DataError(f"{weights}: damaged ({error}); run train/seasonal.py again") from error
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DataError(f"{weights}: {broken[0]} holds values that are not finite; the file is damaged")
    return PretrainedEncoder(
        state,
        config_from_dict(ModelConfig, config, str(directory / "config.json")),
        Statistics.read(directory / "statistics.json"),
        account,
        directory,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, found {type(value).__name__}")
    return value
