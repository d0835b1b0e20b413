"""A person's own labelled samples as a file: an npz archive, or a CSV or Parquet table with images beside it.

Shape letters: N samples, T time steps, C bands, H W pixels.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.errors import DataError, InputError
from geotreeclip.inputs.common import listed
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, RANKS
from geotreeclip.taxonomy import Taxon, Taxonomy, taxa_of_frame

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ("species", "label", "labels", "scientific", "scientific_name", "taxon", "class", "y")
IMAGE_ARRAYS = ("images", "reflectance", "image", "x")
IMAGE_COLUMNS = ("image", "images", "image_path", "path")
STEP_ARRAYS = ("days", "dates", "seasons", "months", "steps", "time")
ID_COLUMNS = ("sample_id", "id", "sample")


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """What such a file holds, as `geotreeclip.build_observations` takes it.

    Attributes:
        names: N labels as they are written, or none where `taxa` states them.
        taxa: N taxa where the file has columns of ranks, else empty.
        images: [N, T, C, H, W] or None.
        options: bands, months or days as far as the file states them.
        environment: DataFrame of N rows, or None.
        longitude: [N] degrees, or None.
        latitude: [N] degrees, or None.
        sample_id: N identifiers.
    """

    names: list[str]
    taxa: list[Taxon]
    images: NDArray[Any] | None
    options: dict[str, Any] = field(default_factory=dict)
    environment: pd.DataFrame | None = None
    longitude: NDArray[np.float64] | None = None
    latitude: NDArray[np.float64] | None = None
    sample_id: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.taxa) or len(self.names)

    def labelled(self, known: Taxonomy) -> list[Taxon]:
        """Taxon of each sample; names that a taxonomy knows get their higher ranks from it, others stand alone.

        Raises:
            InputError: a label is empty.
        """
        if self.taxa:
            return self.taxa
        return [_as_taxon(name, known) for name in self.names]


def read_samples(path: Path, *, label: str | None = None, images: Path | None = None) -> LabelledSamples:
    """Read a person's samples.

    An npz archive holds images [N, T, C, H, W] (or [N, T, C]) as images, reflectance, image or x, and labels [N] as
    text under species, label, ...; where there, also bands [C] (names in their order), one of days, dates, seasons or
    months [T] ("2022-08-15", "2022-03..05", "2022-07", 7), longitude and latitude. A table has one sample a row: a
    label column or columns of ranks, longitude, latitude and environmental variables where known, and a column image
    of paths of npy files [T, C, H, W]; or all images come as one npy file `images` in the order of the rows.

    Args:
        path: npz, csv or parquet.
        label: name of the array or column of labels; the first of the usual names by default.
        images: npy file [N, T, C, H, W] for a table.

    Raises:
        DataError: the file cannot be read, or has no labels.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an npz, csv or parquet file of labelled samples")
    if path.suffix.lower() == ".npz":
        if images is not None:
            raise DataError(f"{path}: an npz archive holds its images itself; leave --images out")
        return _read_npz(path, label)
    return _read_table(path, label, images)


def _read_npz(path: Path, label: str | None) -> LabelledSamples:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an npz archive of plain arrays ({error})") from error
    by_name = {name.lower(): array for name, array in arrays.items()}
    pictures = next((by_name[name] for name in IMAGE_ARRAYS if name in by_name), None)
    found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    if pictures is None or pictures.ndim not in (3, 5):
        raise DataError(f"{path}: no array images of shape [N, T, C, H, W] or [N, T, C]; found {found}")
    names = _label_array(path, arrays, label, len(pictures), found)
    options: dict[str, Any] = {}
    if "bands" in by_name:
        options["bands"] = [str(name) for name in by_name["bands"]]
    elif pictures.shape[2] != 10:
        raise DataError(f"{path}: {pictures.shape[2]} bands but no array bands of their names; add it")
    for name in STEP_ARRAYS:
        if name in by_name:
            options.update(read_steps(by_name[name], f"{path}: {name}"))
            break
    place = {}
    for name, usual in (("longitude", ("longitude", "lon")), ("latitude", ("latitude", "lat"))):
        place[name] = next((by_name[key].astype(np.float64) for key in usual if key in by_name), None)
    ids = next((by_name[key] for key in ID_COLUMNS if key in by_name), np.arange(len(names)))
    return LabelledSamples(
        names, [], pictures, options, None, place["longitude"], place["latitude"], [str(key) for key in ids]
    )


def _label_array(path: Path, arrays: dict[str, NDArray[Any]], label: str | None, size: int, found: str) -> list[str]:
    wanted = [label] if label else list(LABEL_COLUMNS)
    lower = {name.lower(): array for name, array in arrays.items()}
    for name in wanted:
        array = arrays.get(name, lower.get(name.lower()))
        if array is not None:
            if array.shape != (size,):
                raise DataError(f"{path}: {name} has shape {array.shape}, expected one label for each of {size} images")
            return [str(value) for value in array]
    raise DataError(f"{path}: no array of labels called {' or '.join(wanted)}; found {found}")


def _read_table(path: Path, label: str | None, images: Path | None) -> LabelledSamples:
    import pandas as pd

    from geotreeclip.inputs.environment import variable_name

    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
            separator = max(",;\t", key=header.count)
            frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:  # ParserError, ArrowInvalid and UnicodeDecodeError are ValueErrors
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if not len(frame):
        raise DataError(f"{path}: the table has no rows")
    lower = {str(column).lower(): column for column in frame.columns}
    names: list[str] = []
    taxa: list[Taxon] = []
    ranks = [name for name in (*RANKS, *PUBLISHED_RANK_FIELDS) if name in frame.columns]
    if label is None and len(ranks) > 1:
        taxa = taxa_of_frame(frame, str(path))
    else:
        column = label if label in frame.columns else next((lower[n] for n in LABEL_COLUMNS if n in lower), None)
        if column is None or (label and label not in frame.columns):
            wanted = label or ", ".join(LABEL_COLUMNS)
            raise DataError(
                f"{path}: no column of labels ({wanted}); found {listed(list(map(str, frame.columns)), 15)}"
            )
        names = frame[column].fillna("").astype(str).str.strip().tolist()
    numbers = {column: variable_name(str(column)) for column in frame.columns}
    place = {
        name: next((frame[c].to_numpy(np.float64) for c, known in numbers.items() if known == name), None)
        for name in ("longitude", "latitude")
    }
    variables = [c for c, known in numbers.items() if known not in (None, "longitude", "latitude")]
    ids = next((frame[lower[key]] for key in ID_COLUMNS if key in lower), pd.Series(range(len(frame))))
    pictures = _images_of(path, frame, lower, images)
    environment = frame[variables] if variables else None
    if pictures is None and environment is None and place["longitude"] is None:
        raise DataError(
            f"{path}: nothing to look at: give a column image with paths of npy files, --images FILE.npy, "
            "environmental variables, or longitude and latitude"
        )
    return LabelledSamples(
        names, taxa, pictures, {}, environment, place["longitude"], place["latitude"], ids.astype(str).tolist()
    )


def _images_of(path: Path, frame: pd.DataFrame, lower: dict[str, Any], images: Path | None) -> NDArray[Any] | None:
    """Images of a table, from one file for all or from a file for each row."""
    if images is not None:
        pictures = _load_npy(images)
        if len(pictures) != len(frame):
            raise DataError(f"{images}: {len(pictures)} images for the {len(frame)} rows of {path}")
        return pictures
    column = next((lower[name] for name in IMAGE_COLUMNS if name in lower), None)
    if column is None:
        return None
    parts = []
    for row, name in enumerate(frame[column]):
        if not isinstance(name, str) or not name.endswith(".npy"):
            raise DataError(
                f"{path}: row {row + 1}: {column} is {name!r}, expected the path of an npy file [T, C, H, W]"
            )
        parts.append(_load_npy(path.parent / name))
        if parts[-1].shape != parts[0].shape:
            raise DataError(f"{path}: row {row + 1}: {name} has shape {parts[-1].shape}, the first {parts[0].shape}")
    return np.stack(parts)


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an npy file ({error})") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: is no npy file of one array")
    return array


_MONTHS = re.compile(r"(?:\d{4}-)?(\d{1,2})(?:\.\.|/|:)(?:\d{4}-)?(\d{1,2})")
_MONTH = re.compile(r"(?:\d{4}-)?(\d{1,2})")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_PERIOD = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.\.|/)(\d{4}-\d{2}-\d{2})")


def read_steps(values: NDArray[Any], where: str = "steps") -> dict[str, Any]:
    """Time steps as people write them -> the arguments months or days of `geotreeclip.build_observations`.

    Numbers 1 to 12 in one column are months, other numbers days of year ([T], [T, 2] or [N, T, 2]). Text is a date
    ("2022-08-15"), a period ("2022-06-01..2022-08-31"), a month ("2022-07", "7") or a run of months ("2022-03..05").

    Raises:
        InputError: a step that is none of these.
    """
    array = np.asarray(values)
    if array.dtype.kind == "M":
        return {"days": array}
    if array.dtype.kind in "iuf":
        distinct = array.ndim == 1 and len(set(array.tolist())) == len(array)
        if distinct and bool(((array >= 1) & (array <= 12) & (array == np.round(array))).all()):
            return {"months": [int(month) for month in array]}
        return {"days": array}
    texts = [str(value).strip() for value in array.reshape(-1)]
    if array.ndim == 1 and all(_MONTH.fullmatch(text) for text in texts):
        months = [int(_MONTH.fullmatch(text)[1]) for text in texts]  # type: ignore[index]
        if len(set(months)) == len(months):
            return {"months": months}
    return {"days": np.array([_period(text, where) for text in texts], dtype=np.float64)}


def _period(text: str, where: str) -> tuple[float, float]:
    """First and last day of year of one step."""
    if found := _PERIOD.fullmatch(text):
        return _day(found[1], where), _day(found[2], where)
    if _DATE.fullmatch(text):
        return (_day(text, where),) * 2
    found = _MONTHS.fullmatch(text) or _MONTH.fullmatch(text)
    months = [int(part) for part in found.groups()] if found else [0]
    if not all(1 <= month <= 12 for month in months):
        raise InputError(
            f'{where}: {text!r} is no time step; write "2022-08-15", "2022-06-01..2022-08-31", "2022-07" or '
            '"2022-03..05"'
        )
    first, last = months[0], months[-1]
    starts = np.cumsum([0, *(calendar.monthrange(2023, month)[1] for month in range(1, 13))])
    return float(starts[first - 1] + 1), float(starts[last])


def _day(text: str, where: str) -> float:
    try:
        date = np.datetime64(text, "D")
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is no date") from error
    return float((date - date.astype("datetime64[Y]")).astype(int) + 1)


def _as_taxon(name: str, known: Taxonomy) -> Taxon:
    text = " ".join(name.split())
    if not text or text.lower() == "nan":
        raise InputError("a sample has no label; leave it out")
    own = Taxon(species=text)  # the person's own class, as it is written
    try:
        found = known.resolve([text])[0]
    except InputError:  # a single word that the model does not know
        return own
    return own if known.index_of(found) is None and found.species not in ("", text) else found


__all__ = ["LabelledSamples", "read_samples", "read_steps"]
