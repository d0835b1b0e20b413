"""Command line of `train/clip.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import run_main
from geotreeclip.training.config import RunConfig
from geotreeclip.training.settings_help import USAGE, Option, show_help, wants_help

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["main", "parse"]

_DESCRIPTION = "Train both encoders with the contrastive loss on packed shards; start with `accelerate launch`."
_OPTIONS: tuple[Option, ...] = (
    (("--dry_run", "--dry-run"), {"action": "store_true", "help": "print steps, memory and hours, then stop"}),
    (("--plan_samples",), {"type": int, "default": 0, "help": "dry run without data: training samples"}),
    (("--plan_taxa",), {"type": int, "default": 0, "help": "dry run without data: distinct taxa"}),
    (("--plan_processes",), {"type": int, "default": 1, "help": "dry run: devices"}),
    (("--plan_tflops",), {"type": float, "default": 100.0, "help": "dry run: sustained TFLOP/s of a device"}),
)


def parse(argv: Sequence[str] | None = None, prog: str = "train/clip.py") -> tuple[RunConfig, Namespace]:
    """Read the configuration: defaults, then `--config` files, then single settings, the last one wins.

    Args:
        argv: Arguments; None takes those of the process.
        prog: How the program is called in its help.

    Returns:
        The configuration, and the parsed namespace with the options of the dry run.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if wants_help(words):
        show_help(prog, _DESCRIPTION, RunConfig, _OPTIONS)
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, usage=USAGE, description=_DESCRIPTION)
    parser.add_argument("--config", action="config", help="YAML file of settings; later options override it")
    for flags, keywords in _OPTIONS:
        parser.add_argument(*flags, **keywords)
    parser.add_class_arguments(RunConfig, None)
    given = parser.parse_args(_with_values(words))
    ready: Any = parser.instantiate(given)
    fields = RunConfig.__dataclass_fields__
    return RunConfig(**{name: ready[name] for name in fields}), given


def _with_values(argv: Sequence[str]) -> list[str]:
    """Options that are true or false may stand alone: `--stream` is `--stream=true`."""
    switches = {f"--{name}" for name, kind in RunConfig.__dataclass_fields__.items() if kind.type in (bool, "bool")}
    following = [*argv, "--"][1:]
    return [
        f"{word}=true" if word in switches and after.startswith("--") else word
        for word, after in zip(argv, following, strict=True)
    ]


def main(argv: Sequence[str] | None = None, prog: str = "train/clip.py") -> int:
    """Run the command line; returns the exit code."""
    # Threads that spin while they wait stall each other tenfold as soon as anything else runs on a core of theirs.
    # This is read when torch is first imported, which is why nothing above imports it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def job() -> None:
        config, options = parse(argv, prog)
        if options.dry_run:
            _dry_run(config, options)
            return
        from geotreeclip.training.loop import train

        train(config)

    return run_main(job)


def _dry_run(config: RunConfig, options: Namespace) -> None:
    from geotreeclip.training.dry_run import plan

    samples, taxa = options.plan_samples, options.plan_taxa
    if config.data:
        import numpy as np

        from geotreeclip.training.open_data import open_data
        from geotreeclip.training.samples import choose_samples

        dataset = open_data(config, print)
        rows = choose_samples(dataset, config).train
        samples, taxa = len(rows), len(np.unique(dataset.taxa[rows]))
    if not (samples and taxa):
        from geotreeclip.errors import ConfigError

        raise ConfigError("a dry run needs --data DIR, or --plan_samples and --plan_taxa")
    print(plan(config, samples, taxa, options.plan_processes, options.plan_tflops).text())


if __name__ == "__main__":
    sys.exit(main())
