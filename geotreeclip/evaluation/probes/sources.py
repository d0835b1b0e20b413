"""Embeddings and targets from files and models, joined sample by sample.

Shape letters: N samples, F features, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.inputs import INPUT_SETS, mask_inputs
from geotreeclip.evaluation.probes.run import MIN_SAMPLES, Problem
from geotreeclip.evaluation.splits import spatial_blocks
from geotreeclip.inputs.common import listed
from geotreeclip.models.config import INPUTS
from geotreeclip.schema import RANKS, VARIABLE_INDEX

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.observations import ObservationBatch

Floats = NDArray[np.float64]
IDS = ("sample_id", "id", "sample")
PLACES = {"longitude": ("longitude", "lon", "x_wgs84"), "latitude": ("latitude", "lat", "y_wgs84")}
_BATCH = 512


@dataclass(frozen=True, eq=False)
class Embedding:
    """A frozen embedding of N samples.

    Attributes:
        values: float64 [N, F].
        sample_id: N texts, or None where the file has none.
        table: what else the file holds (coordinates, targets), N rows.
        saw: inputs that it was made from, or None where nobody knows.
        name: of the system in the report.
        inputs: set of inputs in the report.
        fingerprint: of the model, or None.
    """

    values: Floats
    sample_id: list[str] | None
    table: pd.DataFrame
    saw: tuple[str, ...] | None
    name: str
    inputs: str = "all"
    fingerprint: str | None = None


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table. Raises DataError where it cannot be read."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # ParserError, ArrowInvalid and UnicodeDecodeError are ValueErrors
        raise DataError(f"{path}: cannot be read as a table ({error})") from error


def read_embedding(path: Path, saw: tuple[str, ...] | None = None, prefix: str = "") -> Embedding:
    """An embedding from a file.

    Args:
        path: npz with an array `embedding` [N, F] (and any of sample_id, longitude, latitude, targets [N]), or Parquet
            with a list column `embedding`, or with columns of numbers that start with `prefix`.
        saw: inputs that it was made from.
        prefix: of the columns of a Parquet file; "e" followed by digits ("e0", "e001") by default.

    Raises:
        DataError: the file holds no embedding, or one with missing values.
    """
    import pandas as pd

    if path.suffix.lower() == ".npz":
        values, table = _from_npz(path)
    else:
        table = read_table(path)
        if "embedding" in table.columns:
            lengths = {len(row) for row in table["embedding"]}
            if len(lengths) != 1:
                raise DataError(
                    f"{path}: the column embedding has lists of {sorted(lengths)[:3]} numbers; they must agree"
                )
            values = np.stack([np.asarray(row, dtype=np.float64) for row in table["embedding"]])
            table = table.drop(columns="embedding")
        else:
            columns = [c for c in map(str, table.columns) if _is_feature(c, prefix)]
            if not columns:
                wanted = f"columns that start with {prefix!r}" if prefix else "columns e0, e1, ... or --prefix"
                raise DataError(
                    f"{path}: no column embedding, and no {wanted} (found {listed(list(table.columns), 12)})"
                )
            values = table[columns].to_numpy(dtype=np.float64)
            table = table.drop(columns=columns)
    _check_finite(values, str(path))
    ids = next((table[name].astype(str).tolist() for name in IDS if name in table.columns), None)
    return Embedding(values, ids, pd.DataFrame(table), saw, path.stem)


def _is_feature(column: str, prefix: str) -> bool:
    return column.startswith(prefix) if prefix else column[:1] == "e" and column[1:].isdigit()


def _from_npz(path: Path) -> tuple[Floats, pd.DataFrame]:
    import zipfile

    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an npz archive of plain arrays ({error})") from error
    found = arrays.pop("embedding", None)
    if found is None or found.ndim != 2:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError(f"{path}: no array embedding [N, F] (found {shapes or 'nothing else'})")
    columns = {name: array for name, array in arrays.items() if array.shape == (len(found),)}
    return found.astype(np.float64), pd.DataFrame(columns, index=range(len(found)))


def _check_finite(values: Floats, where: str) -> None:
    if not len(values):
        raise DataError(f"{where}: the embedding has no rows")
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise DataError(
            f"{where}: the embedding of row {int(np.flatnonzero(broken)[0])} is not finite, and of "
            f"{int(broken.sum()) - 1} more; leave these rows out"
        )


def embed_packed(model: str, data: Path, inputs: str, *, progress: bool = False) -> Embedding:
    """The embedding of a packed set by a model that is given a set of inputs (see `INPUT_SETS`).

    The table holds the ranks of the taxa, the environmental variables and the columns of samples.parquet.
    """
    from tqdm import tqdm

    from geotreeclip.data.loader import sequential
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.inference import Classifier
    from geotreeclip.observations import from_packed
    from geotreeclip.prep.phase import check_days

    loaded, saw = _model(model, inputs)
    dataset = PackedDataset(data)
    check_days(dataset.directory, loaded.config)
    classifier = Classifier(loaded)
    rows = np.arange(len(dataset), dtype=np.int64)
    parts, environment = [], []
    bar = tqdm(total=len(rows), desc="embedding", unit=" samples", disable=None if progress else True)
    with bar:
        for packed in sequential(dataset, rows, _BATCH):
            batch = mask_inputs(from_packed(packed, classifier.device), inputs)
            parts.append(classifier.embed_batch(batch))
            environment.append(packed.environment)
            bar.update(len(packed.environment))
    table = dataset.samples().reset_index(drop=True).copy()
    variables = np.concatenate(environment)
    for name, column in VARIABLE_INDEX.items():
        if name not in table.columns:
            table[name] = variables[:, column]
    for rank in RANKS:
        names = np.array([taxon.name(rank) for taxon in dataset.taxonomy], dtype=object)
        table[rank] = names[dataset.taxa]
    if not dataset.has_images:
        saw = tuple(name for name in saw if name != "image")
    ids = table["sample_id"].astype(str).tolist()
    return Embedding(
        np.concatenate(parts).astype(np.float64), ids, table, saw, "geotreeclip", inputs, loaded.fingerprint
    )


def embed_table(model: str, path: Path, inputs: str, worldclim: str = "2.1") -> Embedding:
    """The embedding of a table's places and environmental variables; other columns stay as possible targets."""
    from geotreeclip.inference import Classifier
    from geotreeclip.inputs.environment import variable_name
    from geotreeclip.observation_builder import build_observations

    loaded, saw = _model(model, inputs)
    table = read_table(path)
    lon, lat = coordinates(table, str(path))
    known = {column: variable_name(str(column)) for column in table.columns}
    variables = [column for column, name in known.items() if name not in (None, "longitude", "latitude")]
    environment = table[variables] if variables else None
    batch: ObservationBatch = mask_inputs(
        build_observations(environment=environment, longitude=lon, latitude=lat, worldclim=worldclim), inputs
    )
    values = Classifier(loaded).embed_batch(batch).astype(np.float64)
    ids = next((table[name].astype(str).tolist() for name in IDS if name in table.columns), None)
    given = {group for group in saw if group == "location"} | {_group(known[column]) for column in variables}
    return Embedding(values, ids, table, tuple(s for s in saw if s in given), "geotreeclip", inputs, loaded.fingerprint)


def _group(name: str | None) -> str:
    from geotreeclip.schema import VARIABLES

    return VARIABLES[VARIABLE_INDEX[str(name)]].group


def _model(model: str, inputs: str) -> tuple[Any, tuple[str, ...]]:
    """A loaded model, and which of the inputs given it reads."""
    from geotreeclip.evaluation.zero_shot import model_directory
    from geotreeclip.model_sources import find_model
    from geotreeclip.models.directory import load_model

    if inputs not in INPUT_SETS:
        raise ConfigError(f"--inputs {inputs}: choose from {', '.join(INPUT_SETS)}")
    loaded = load_model(find_model(model_directory(model)))
    read = set(loaded.config.observation.inputs) & INPUT_SETS[inputs]
    if not read:
        raise ConfigError(f"--inputs {inputs}: this model reads {', '.join(loaded.config.observation.inputs)} only")
    return loaded, tuple(name for name in INPUTS if name in read)


def coordinates(table: pd.DataFrame, where: str) -> tuple[Floats, Floats]:
    """Longitude and latitude of a table. Raises DataError where it has none."""
    lower = {str(column).lower(): column for column in table.columns}
    found = []
    for name, usual in PLACES.items():
        column = next((lower[key] for key in usual if key in lower), None)
        if column is None:
            columns = listed([str(column) for column in table.columns], 12)
            raise DataError(f"{where}: no column of {name} ({', '.join(usual)}; found {columns}); probes need places")
        found.append(table[column].to_numpy(dtype=np.float64, na_value=np.nan))
    return found[0], found[1]


def join(embedding: Embedding, table: pd.DataFrame | None, where: str) -> tuple[Floats, pd.DataFrame]:
    """Rows of the embedding and of a table that belong together: by sample id, else in order where lengths agree.

    Raises:
        DataError: nothing belongs together, or ids are not unique.
    """
    if table is None:
        return embedding.values, embedding.table
    key = next((name for name in IDS if name in table.columns), None)
    if embedding.sample_id is None or key is None:
        if len(table) != len(embedding.values):
            raise DataError(
                f"{where}: {len(table)} rows for an embedding of {len(embedding.values)}; they must agree, or both "
                "have a column sample_id"
            )
        return embedding.values, table.reset_index(drop=True)
    place = {name: row for row, name in enumerate(embedding.sample_id)}
    if len(place) != len(embedding.sample_id):
        raise DataError("the embedding has sample ids that stand more than once")
    rows = [place.get(name, -1) for name in table[key].astype(str)]
    kept = np.array(rows) >= 0
    if not kept.any():
        raise DataError(f"{where}: none of its {len(table)} sample ids is in the embedding")
    return embedding.values[np.array(rows)[kept]], table[kept].reset_index(drop=True)


def make_problem(
    values: Floats, table: pd.DataFrame, targets: list[str], task: str | None, where: str, *,
    min_samples: int = MIN_SAMPLES, block_km: float = 100.0,
) -> Problem:  # fmt: skip
    """Targets of a table as a matrix.

    Several labels at once are told in one of three ways: rows that share a place and differ in the target (presence
    records: one sample a place is made of them), a text with semicolons, or several columns of 0 and 1.

    Args:
        values: [N, F].
        table: N rows.
        targets: columns.
        task: of `TASKS`; by default regression for numbers that are not whole or have over 50 values, else multiclass.
        where: name of the table in messages.
        min_samples: classes and labels with fewer samples, or in fewer than two blocks, are left out and counted.
        block_km: edge of these blocks.

    Raises:
        DataError: a column is absent, or nothing is left.
    """
    import pandas as pd

    missing = [name for name in targets if name not in table.columns]
    if missing or not targets:
        columns = listed([str(column) for column in table.columns], 15)
        raise DataError(f"{where}: no column {', '.join(missing) or '(none named)'} (found {columns})")
    lon, lat = coordinates(table, where)
    ids = next((table[name].astype(str).to_numpy(dtype=str) for name in IDS if name in table.columns), None)
    ids = np.arange(len(table)).astype(str) if ids is None else ids
    numeric = all(pd.api.types.is_numeric_dtype(table[name]) for name in targets)
    if task is None:
        whole = numeric and all(
            bool((table[name].dropna() % 1 == 0).all()) and table[name].nunique() <= 50 for name in targets
        )
        task = "regression" if numeric and not whole else "multiclass" if len(targets) == 1 else "multilabel"
    known = np.isfinite(lon) & np.isfinite(lat) & table[targets].notna().all(axis=1).to_numpy(dtype=bool)
    left_out = {"rows without target or place": int((~known).sum())}
    values, lon, lat, ids = values[known], lon[known], lat[known], ids[known]
    frame = table.loc[known, targets].reset_index(drop=True)
    if task == "regression":
        if not numeric:
            raise DataError(f"{where}: {', '.join(targets)}: regression needs numbers")
        return _checked(Problem(task, values, frame.to_numpy(np.float64), targets, lon, lat, ids, left_out), where)
    if task == "multilabel":
        if len(targets) > 1:
            names, target = targets, frame.to_numpy(np.float64)
            if not np.isin(target, (0, 1)).all():
                raise DataError(f"{where}: {', '.join(targets)}: several columns of labels hold 0 and 1 alone")
        else:
            text = frame[targets[0]].astype(str)
            listed_labels = [[part.strip() for part in value.split(";") if part.strip()] for value in text]
            place = np.unique(np.stack([lon, lat]), axis=1, return_inverse=True)[1].reshape(-1)
            first = np.unique(place, return_index=True)[1]
            names = sorted({label for labels in listed_labels for label in labels})
            column = {name: k for k, name in enumerate(names)}
            target = np.zeros((len(first), len(names)))
            for row, labels in zip(place, listed_labels, strict=True):
                target[row, [column[label] for label in labels]] = 1
            left_out["records joined into one sample a place"] = len(place) - len(first)
            values, lon, lat, ids = values[first], lon[first], lat[first], ids[first]
    else:
        if len(targets) > 1:
            raise DataError(f"{where}: {', '.join(targets)}: one column holds the classes; or pass --task multilabel")
        classes, code = np.unique(frame[targets[0]].astype(str).to_numpy(dtype=str), return_inverse=True)
        names, target = classes.tolist(), np.eye(len(classes))[code.reshape(-1)]
    block = spatial_blocks(lon, lat, block_km)
    enough = target.sum(axis=0) >= min_samples
    enough &= np.array([len(np.unique(block[target[:, k] > 0])) > 1 for k in range(target.shape[1])])
    kind = "classes" if task == "multiclass" else "labels"
    left_out[f"{kind} with fewer than {min_samples} samples or in one block"] = int((~enough).sum())
    target = target[:, enough]
    names = [name for name, keep in zip(names, enough, strict=True) if keep]
    if task == "multiclass":
        rows = target.sum(axis=1) > 0
        left_out["rows of such classes"] = int((~rows).sum())
        values, target, lon, lat, ids = values[rows], target[rows], lon[rows], lat[rows], ids[rows]
    return _checked(Problem(task, values, target, names, lon, lat, ids, left_out), where)


def _checked(problem: Problem, where: str) -> Problem:
    least = 1 if problem.task != "multiclass" else 2
    if len(problem) < 2 or problem.target.shape[1] < least:
        raise DataError(
            f"{where}: {len(problem)} samples and {problem.target.shape[1]} targets are left "
            f"({'; '.join(f'{count} {reason}' for reason, count in problem.left_out.items())}); nothing to probe"
        )
    return problem
