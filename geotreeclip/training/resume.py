"""What a checkpoint must agree with, so that going on from it is the run that was never stopped."""

from __future__ import annotations

import json
from typing import Any

import torch

from geotreeclip.errors import ConfigError
from geotreeclip.training.config import RunConfig

__all__ = ["check_same_run", "run_identity", "surroundings"]

_FREE = ("out", "resume", "trackers", "prefetch", "threads", "compile", "cache", "verify", "lenient_share")
"""Settings that do not touch a single number of the result."""
_FREE_SCHEDULE = ("checkpoints", "keep")

_WHY = {
    "processes": "each draws its own dropout and sums are rounded in another order",
    "threads": "sums are rounded in another order",
    "device": "its arithmetic rounds differently",
    "torch": "its arithmetic may round differently",
    "compile": "compiled arithmetic rounds differently",
}


def run_identity(config: RunConfig, fingerprint: str) -> dict[str, Any]:
    """The settings that decide the result, with the data named by its contents rather than its place."""
    plain = config.to_dict()
    for key in _FREE:
        plain.pop(key, None)
    for key in _FREE_SCHEDULE:
        plain["schedule"].pop(key)
    plain["data"] = fingerprint
    same: dict[str, Any] = json.loads(json.dumps(plain, sort_keys=True))  # tuples become lists, as in a stored one
    return same


def surroundings(processes: int, device: torch.device, compiled: bool) -> dict[str, Any]:
    """What beside the settings decides the last bits of the result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return {
        "processes": processes,
        "threads": threads,
        "device": name,
        "torch": torch.__version__,
        "compile": compiled,
    }


def check_same_run(where: str, then: dict[str, Any], now: dict[str, Any], *, elastic: bool) -> str:
    """Compare what a checkpoint was made with and what it shall go on with.

    Args:
        where: The checkpoint, for messages.
        then: {"identity": ..., "surroundings": ...} of the checkpoint.
        now: The same of this run.
        elastic: Whether other surroundings are accepted: the samples, their order and augmentation stay the same, the
            last bits do not.

    Returns:
        "" or, if accepted, what is different.

    Raises:
        ConfigError: If it is another run, or cannot be continued exactly.
    """
    changed = _changed(then["identity"], now["identity"])
    if changed:
        raise ConfigError(
            f"{where}: was written by a run with another {', '.join(changed)}; go on with the same settings, or start "
            "anew with --resume never or another --out"
        )
    other = [key for key in now["surroundings"] if then["surroundings"].get(key) != now["surroundings"][key]]
    if not other:
        return ""
    told = "; ".join(
        f"{key} {then['surroundings'].get(key)!r} then, {now['surroundings'][key]!r} now ({_WHY[key]})" for key in other
    )
    if not elastic:
        raise ConfigError(
            f"{where}: going on would not give the run that was never stopped: {told}; restore that, or accept it with "
            "--resume elastic (same samples, order and augmentation, other last digits)"
        )
    return told


def _changed(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of the settings that differ, with both values, dotted as on the command line."""
    result = []
    for key in sorted({*then, *now}):
        first, second = then.get(key), now.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            result += _changed(first, second, f"{prefix}{key}.")
        elif first != second:
            result.append(f"{prefix}{key} ({first!r:.70} then, {second!r:.70} now)")
    return result
