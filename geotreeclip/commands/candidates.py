"""The arguments by which commands choose a model and its candidates, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import InputError

if TYPE_CHECKING:
    import argparse

    from geotreeclip.inference import Classifier

__all__ = ["add_candidate_arguments", "add_model_arguments", "candidates", "open_model"]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--model` and `--device`."""
    parser.add_argument(
        "--model",
        help='model directory, "hf-hub:owner/name" or "demo"; by default $GEOTREECLIP_MODEL, else the default model',
    )
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")


def add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--labels`, `--country` and `--region`."""
    parser.add_argument(
        "--labels",
        help='candidates: a table or text file of names, or a restriction such as "genus=Quercus"; by default all '
        "taxa of the model",
    )
    parser.add_argument(
        "--country", metavar="CODE", help="rows of the table --labels whose column country holds this code (DE)"
    )
    parser.add_argument(
        "--region", metavar="NAME",
        help="rows of the table --labels whose column region holds this name; or west,south,east,north in degrees: the "
        "taxa that the model saw there in training (write --region=-10,35,30,60)",
    )  # fmt: skip


def open_model(args: argparse.Namespace, account: dict[str, Any]) -> tuple[Classifier, dict[str, Any]]:
    """Load the model of a command that answers for places, batch by batch.

    Args:
        args: Its arguments; those that name files are its inputs.
        account: Gets the inputs and the model.

    Returns:
        The model, and what the answers depend on.

    Raises:
        GeotreeclipError: If there is no such model, or it is damaged.
    """
    from geotreeclip.commands.places import ROWS
    from geotreeclip.commands.runlog import describe_file
    from geotreeclip.inference import load

    classifier = load(args.model, args.device)
    given = (getattr(args, name, None) for name in ("points", "labels", "prior", "imagery", "rasters"))
    account["inputs"] = [describe_file(Path(path)) for path in given if path and Path(path).exists()]
    account["model"] = {"name": args.model, "fingerprint": classifier.fingerprint}
    options = {name: value for name, value in vars(args).items() if name not in ("run", "log", "out", "device")}
    plan = {"options": options, "inputs": account["inputs"], "model": classifier.fingerprint, "rows": ROWS}
    return classifier, plan


def candidates(args: argparse.Namespace, classifier: Classifier) -> Any:
    """The labels that the arguments ask for.

    Raises:
        InputError: If they do not go together, or name nothing.
    """
    box = _box(args.region)
    if box is not None:
        if args.labels is not None or args.country is not None:
            raise InputError("--region west,south,east,north makes the list itself; leave --labels and --country out")
        return classifier.known_in(*box)
    if args.country is None and args.region is None:
        return args.labels
    if args.labels is None:
        raise InputError(
            "--country and --region NAME choose rows of a checklist: name the table with --labels; it needs a column "
            "country or region"
        )
    from geotreeclip.checklists import checklist

    return checklist(args.labels, args.country, args.region)


def _box(region: str | None) -> tuple[float, float, float, float] | None:
    numbers = []
    parts = (region or "").split(",")
    for part in parts:
        try:
            numbers.append(float(part))
        except ValueError:
            continue
    if not numbers:
        return None
    if len(numbers) != 4 or len(parts) != 4:
        raise InputError(f"--region {region}: give west,south,east,north in degrees, or the name of a region")
    west, south, east, north = numbers
    return west, south, east, north
