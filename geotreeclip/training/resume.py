"""The state of a run, and what a checkpoint must agree with, so that going on from it is the run never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.training.config import RunConfig

if TYPE_CHECKING:
    from geotreeclip.training.loop import Trainer

__all__ = ["check_same_run", "load_run_state", "run_identity", "run_state", "surroundings"]

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


def _stamp(trainer: Trainer) -> dict[str, Any]:
    return {
        "identity": run_identity(trainer.config, trainer.dataset.fingerprint()),
        "surroundings": surroundings(trainer.accelerator.num_processes, trainer.device, trainer.config.compile),
    }


def run_state(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run needs to go on. Random draws follow from seed and step, so the step is all they need."""
    cache, scaler = trainer.objective.cache, trainer.accelerator.scaler
    return {
        "step": trainer.step,
        "steps": trainer.steps,
        "stamp": json.dumps(_stamp(trainer), sort_keys=True),
        "model": trainer.plain.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "average": trainer.average.state(),
        "text_cache": cache.rows if cache else None,
        "scaler": scaler.state_dict() if scaler else None,
        "best": trainer.best,
        "history": trainer.history,
    }


def _check_state(state: dict[str, Any]) -> None:
    """Refuse what would only be noticed steps later."""
    step, steps, best, weights = (state[key] for key in ("step", "steps", "best", "model"))
    if type(step) is not int or type(steps) is not int or not 0 <= step <= steps:
        raise ValueError(f"step {step!r:.40} of {steps!r:.40}")
    if not isinstance(best, dict) or set(best) != {"score", "step", "validation", "weights"}:
        raise ValueError(f"best is {best!r:.80}")
    if not isinstance(best["score"], float) or not isinstance(best["weights"], dict):
        raise ValueError(f"best has score {best['score']!r:.40}")
    if not isinstance(state["history"], list) or not all(isinstance(entry, dict) for entry in state["history"]):
        raise ValueError(f"history is {state['history']!r:.80}")
    if broken := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{broken[0]} is not finite")


_KEYS = {"step", "steps", "stamp", "model", "optimizer", "average", "text_cache", "scaler", "best", "history"}


def load_run_state(trainer: Trainer, state: dict[str, Any], path: Path) -> str:
    """Bring a run to where a checkpoint was written.

    Args:
        trainer: The run.
        state: What `run_state` gave.
        path: The checkpoint, for messages.

    Returns:
        "" or, with `resume: elastic`, what is different around the run.

    Raises:
        ConfigError: If it is of another run, or cannot be continued exactly.
        DataError: If it is not what it should be.
    """
    if absent := sorted(_KEYS - set(state)):
        raise DataError(f"{path}: has no {', '.join(absent)}: not a checkpoint of this release; start anew")
    elastic = trainer.config.resume == "elastic"
    try:
        _check_state(state)
        told = check_same_run(str(path), json.loads(state["stamp"]), _stamp(trainer), elastic=elastic)
        trainer.plain.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.average.load(state["average"])
        if trainer.objective.cache and state["text_cache"] is not None:
            trainer.objective.cache.rows = state["text_cache"].to(trainer.device)
        if trainer.accelerator.scaler and state["scaler"]:
            trainer.accelerator.scaler.load_state_dict(state["scaler"])
        trainer.step, trainer.steps = int(state["step"]), int(state["steps"])
        trainer.best, trainer.history = state["best"], state["history"]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path}: does not hold the state of this run ({error!s:.200}); remove it") from error
    return told
