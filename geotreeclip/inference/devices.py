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
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r} is unknown; use cpu or cuda")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps was asked for, but torch finds no such GPU; use device=cpu")
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise ConfigError("device cuda was asked for, but torch finds no GPU; use device=cpu")
        if (chosen.index or 0) >= count:
            raise ConfigError(
                f"device {device} was asked for, but torch finds {count} GPUs, cuda:0 to cuda:{count - 1}"
            )
    return chosen
