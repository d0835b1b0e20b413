"""Where a model computes."""

from __future__ import annotations

import torch

from geotreeclip.errors import ConfigError, InputError

__all__ = ["choose_device"]


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default a GPU if there is one.

    Raises:
        InputError: If torch knows no such device.
        ConfigError: If it is a GPU and there is none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch finds no GPU; use device=cpu")
    return chosen
