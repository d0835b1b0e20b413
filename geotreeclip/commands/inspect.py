"""`geotreeclip inspect PATH`: what is in a model, a packed set, a shard, imagery or a table, and whether it is sane."""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["add_arguments", "run"]

_SAMPLES = 2000  # of a set whose values are looked at
_BLIND = 0.1  # share of samples without a pixel that is odd
_TABLES = (".csv", ".tsv", ".parquet", ".geoparquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "path", type=Path, help="model directory or GGT_6M.pth, packed set, shard (tar), imagery directory, or table"
    )
    parser.add_argument("--verify", action="store_true", help="hash every file of a packed set")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if nothing odd was found, 1 if something was.

    Raises:
        GeotreeclipError: If it cannot be read at all.
    """
    path: Path = args.path
    look = _kind(path)
    lines, problems = look(path, args)
    print("\n".join(lines))
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("sane" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return 1 if problems else 0


_Found = tuple[list[str], list[str]]


def _kind(path: Path) -> Callable[[Path, argparse.Namespace], _Found]:
    if path.is_dir():
        if (path / "model" / "config.json").is_file():  # a training run, which has a configuration of its own too
            return lambda run, args: _model(run / "model", args)
        for name, look in (("manifest.json", _packed), ("config.json", _model), ("imagery.json", _imagery)):
            if (path / name).is_file():
                return look
        raise DataError(
            f"{path}: neither a model (config.json), a packed set (manifest.json) nor imagery (imagery.json)"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix.lower() in (".pth", ".pt", ".ckpt", ".bin"):
        return _model
    if path.suffix.lower() == ".tar":
        return _shard
    if path.suffix.lower() in _TABLES:
        return _table
    raise DataError(f"{path}: nothing is known of files like this; give a model, a packed set, a .tar, or a table")


def _model(path: Path, _: argparse.Namespace) -> _Found:
    import numpy as np

    from geotreeclip.inference import Classifier
    from geotreeclip.models.directory import load_model

    loaded = load_model(path)
    classifier = Classifier(loaded, "cpu")
    weights = sum(value.numel() for value in loaded.model.parameters())
    counted = int((loaded.counts > 0).sum())
    lines = [
        f"{path}: model {loaded.config.name!r}, {weights:,} weights, SHA-256 {loaded.fingerprint[:16]}",
        f"reads: {', '.join(loaded.config.observation.inputs)}; embedding of {loaded.config.embed_dim} dimensions",
        f"labels: {len(loaded.taxonomy):,} taxa, {counted:,} with samples, {int(loaded.counts.sum()):,} in all",
    ]
    if loaded.head is not None:
        lines.append(f"adapted: answers by a head of its own over {', '.join(loaded.head.features)}")
    calibration, ranges = classifier.calibration, classifier.ranges
    lines.append(
        "calibration: none, probabilities are not calibrated (eval/calibrate.py)"
        if calibration is None
        else f"calibration: temperature {calibration.temperature:.3f}, sets of {len(calibration.conformal)} kinds"
    )
    if ranges is None:
        lines.append("ranges: none, so in_range stays empty")
    else:
        cells = len(np.unique(np.concatenate(ranges.cells))) if ranges.cells else 0
        lines.append(f"ranges: {sum(map(len, ranges.cells)):,} occupied cells of labels, {cells:,} distinct")
    if loaded.head is None:
        lines.append(
            "labels never seen: compared by their text alone"
            if loaded.places is None
            else f"labels never seen: put on one scale with the others by {len(loaded.places.share)} centres of places"
        )
    problems = []
    if not len(loaded.taxonomy):
        problems.append("it carries no list of taxa: name candidates with --labels")
    if path.is_dir() and not (path / "README.md").is_file():
        problems.append("no README.md, the model card")
    if ranges is not None and [*ranges.taxa] != [*loaded.taxonomy]:
        problems.append("ranges.parquet is of other taxa than taxonomy.parquet")
    return lines, problems


def _packed(path: Path, args: argparse.Namespace) -> _Found:
    import numpy as np

    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.schema import BANDS, MISSING_DN, VARIABLES

    dataset = PackedDataset(path)
    problems: list[str] = []
    if args.verify:
        dataset.verify()
    counts = np.bincount(dataset.taxa, minlength=len(dataset.taxonomy)) if len(dataset) else np.zeros(0, np.int64)
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    lines = [
        f"{path}: packed set of {len(dataset):,} samples in {len(dataset.manifest.shards)} shards, {size / 1e6:,.1f} MB"
        f"{', every hash right' if args.verify else ''}",
        f"taxa: {len(dataset.taxonomy):,}, {int((counts > 0).sum()):,} with samples, the commonest with "
        f"{int(counts.max(initial=0)):,}",
        f"imagery: {f'{dataset.steps} steps' if dataset.has_images else 'none'}",
    ]
    splits = sorted(entry.stem for entry in (path / "splits").glob("*.parquet"))
    lines.append(f"splits: {', '.join(splits) or 'none'}")
    if not len(dataset):
        return lines, ["the set is empty"]
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_SAMPLES])
    batch = dataset.read(rows)
    if dataset.has_images:
        valid = batch.images != MISSING_DN
        lines.append(f"{len(rows):,} samples looked at: {valid.mean():.1%} of the pixel values are there")
        medians = [
            float(np.median(batch.images[:, :, band][valid[:, :, band]])) if valid[:, :, band].any() else np.nan
            for band in range(len(BANDS))
        ]
        lines.append(
            "medians: " + ", ".join(f"{name} {value:,.0f}" for name, value in zip(BANDS, medians, strict=True))
        )
        problems += [f"band {name} has no value" for name, value in zip(BANDS, medians, strict=True) if np.isnan(value)]
        blind = ~valid.any(axis=(1, 2, 3, 4))
        lines.append(f"samples without a pixel: {int(blind.sum()):,} of {len(rows):,}")
        if blind.mean() > _BLIND:
            problems.append(f"{blind.mean():.0%} of the samples have no pixel")
        if np.nanmax(medians) < 2:
            problems.append("values look like reflectance (0 to 1), not digital numbers")
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    problems += _implausible(batch.environment, low, high)
    return lines, problems


def _implausible(values: npt.NDArray[np.float32], low: Any, high: Any) -> list[str]:
    import numpy as np

    from geotreeclip.schema import VARIABLES

    found = []
    for column, variable in enumerate(VARIABLES):
        known = values[:, column][np.isfinite(values[:, column])]
        outside = known[(known < low[column]) | (known > high[column])]
        if len(outside):
            found.append(
                f"{variable.name}: {len(outside):,} values outside {low[column]:g} to {high[column]:g} "
                f"{variable.unit}, such as {outside[0]:g}"
            )
    return found


def _shard(path: Path, _: argparse.Namespace) -> _Found:
    """A published shard, sample by sample; of a packed shard its columns."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except tarfile.TarError as error:
        raise DataError(f"{path}: cannot be read as a tar ({error}); fetch it again") from error
    if first is None:
        return [f"{path}: an empty tar"], ["it holds nothing"]
    if first.name.endswith(".npy"):
        return _packed_shard(path)

    import numpy as np

    from geotreeclip.data.published import Refusal, read_published
    from geotreeclip.schema import VARIABLES

    samples, refusals, species, environment = 0, [], set(), []
    missing = 0.0
    for item in read_published(path):
        if isinstance(item, Refusal):
            refusals.append(str(item))
            continue
        samples += 1
        species.add(item.taxon)
        missing += float(np.isnan(np.asarray(item.images, dtype=np.float64)).mean())
        environment.append(np.asarray(item.environment, dtype=np.float32))
    lines = [f"{path}: published shard of {samples:,} samples, {len(species):,} taxa"]
    problems = [f"{len(refusals):,} samples are not right, first: {refusals[0]}"] if refusals else []
    if not samples:
        return lines, [*problems, "no sample can be read"]
    lines.append(f"{missing / samples:.1%} of the pixel values are missing")
    tenths = np.array([variable.worldclim1_factor for variable in VARIABLES])  # published sets hold version 1
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) * tenths for end in ("low", "high"))
    return lines, problems + _implausible(np.stack(environment), low, high)


def _packed_shard(path: Path) -> _Found:
    columns: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.split(".", 1)[-1]
                columns[name] = columns.get(name, 0) + 1
    except tarfile.TarError as error:
        return [f"{path}: packed shard"], [f"the tar is cut short ({error}); copy it again"]
    lines = [f"{path}: packed shard of {max(columns.values()):,} chunks; columns {', '.join(sorted(columns))}"]
    problems = [] if len(set(columns.values())) == 1 else ["some chunks lack columns; copy it again"]
    if not (path.parent / "manifest.json").is_file():
        problems.append("no manifest.json beside it, so it cannot be read as a set")
    return lines, problems


def _imagery(path: Path, _: argparse.Namespace) -> _Found:
    import numpy as np

    from geotreeclip.prep.imagery import ImageryStore
    from geotreeclip.schema import MISSING_DN

    store = ImageryStore(path)
    rows = np.sort(np.random.default_rng(0).permutation(len(store))[:_SAMPLES])
    images = store.read(rows)
    valid = images != MISSING_DN
    blind = int((~valid.any(axis=(1, 2, 3, 4))).sum())
    lines = [
        f"{path}: composites of {len(store):,} samples, {valid.mean() if valid.size else 0:.1%} of the values known",
        "months with a value, samples: " + " ".join(str(count) for count in valid.any(axis=(2, 3, 4)).sum(axis=0)),
    ]
    return lines, [f"{blind:,} of {len(rows):,} samples looked at have no pixel"] if blind else []


def _table(path: Path, _: argparse.Namespace) -> _Found:
    import numpy as np
    import pandas as pd

    from geotreeclip.commands.places import IDENTIFIERS, read_table
    from geotreeclip.inputs.environment import variable_name
    from geotreeclip.schema import RANKS, VARIABLE_INDEX, VARIABLES

    rows, problems = 0, []
    columns: list[str] = []
    ends: dict[str, list[float]] = {}
    empty: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for chunk in read_table(path, IDENTIFIERS, 100_000):
        columns = list(chunk.columns)
        for column in columns:
            if variable_name(column) is None:
                continue
            numbers = pd.to_numeric(chunk[column], errors="coerce").to_numpy(np.float64)
            bad = np.isnan(numbers) & chunk[column].notna().to_numpy()
            if bad.any() and column not in wrong:
                row = int(bad.argmax())
                wrong[column] = f"{column}: row {rows + row + 1} is {chunk[column].iloc[row]!r}, not a number"
            empty[column] = empty.get(column, 0) + int(np.isnan(numbers).sum())
            known = numbers[np.isfinite(numbers)]
            if len(known):
                low, high = ends.get(column, [np.inf, -np.inf])
                ends[column] = [min(low, float(known.min())), max(high, float(known.max()))]
        rows += len(chunk)
    lines = [f"{path}: table of {rows:,} rows and {len(columns)} columns"]
    for column in ends:
        variable = VARIABLES[VARIABLE_INDEX[str(variable_name(column))]]
        low, high = ends[column]
        lines.append(f"  {column}: {low:g} to {high:g} {variable.unit}, {empty[column]:,} empty")
        if low < variable.low or high > variable.high:
            hint = ""
            if variable.worldclim1_factor != 1 and variable.low <= high / 10 <= variable.high:
                hint = "; WorldClim version 1 stores temperatures x10: --worldclim 1"
            problems.append(
                f"{column}: {low:g} to {high:g}, outside {variable.low:g} to {variable.high:g} {variable.unit}{hint}"
            )
    others = [str(column) for column in columns if variable_name(column) is None]
    lines.append(f"  other columns: {', '.join(others) or 'none'}")
    problems += wrong.values()
    names = {variable_name(column) for column in columns}
    if not rows:
        problems.append("the table has no rows")
    elif (
        not {"longitude", "latitude"} <= names
        and not names - {None}
        and not {str(c).lower() for c in columns} & set(RANKS)
    ):
        problems.append("no coordinates, no environment and no taxa: nothing that a command reads")
    return lines, problems
