"""What a recipe says. See `Recipe.from_file` for a task of your own."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MonthlySeries", "Patches", "Reader", "Recipe"]

TASKS = ("multiclass", "multilabel", "regression")
Reader = Callable[["Recipe", Path], "pd.DataFrame"]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Patches of one date, a GeoTIFF a sample.

    Attributes:
        bands: Names of the bands in the order of the files; names unknown to the package are not read.
        month: Calendar month of all of them; 0 where the names of the files hold dates.
        offset: Digital numbers to take away.
    """

    bands: tuple[str, ...]
    month: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.month <= 12:
            raise ConfigError(f"patches: month is {self.month}; give 1 to 12, or 0 where file names hold dates")


@dataclass(frozen=True, kw_only=True)
class MonthlySeries:
    """Twelve monthly values of each band in the columns of the label file itself.

    Attributes:
        columns: Band of the package -> name of its columns, with {} for the number of the slot.
        start: Column with the date of the first slot; empty for January.
    """

    columns: Mapping[str, str]
    start: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A downstream task.

    Attributes:
        name: What `--recipe` calls it.
        title: In words.
        fetch: Where the files are published, a line each.
        licence: Of the labels.
        task: "multiclass", "multilabel" or "regression".
        targets: Columns that are asked, as the reader names them.
        score: The score to read first, as in the task's publication.
        columns: Name here -> names it may have in the file; sample_id, longitude, latitude, and targets.
        classes: Value in the file -> class; empty takes values as they are. A value that is not listed is an error.
        units: Of quantities.
        block_km: Edge of the blocks of the blocked split.
        min_samples: Of a class that takes part.
        published: How the task was split and scored by its authors, with what they report.
        notes: What to know before believing a score.
        patches: Imagery of the samples in files of their own, where the task has such.
        series: Imagery of the samples in the label file, where it has such.
        reader: Reads the file into sample_id, longitude, latitude and targets; None reads a plain table.
    """

    name: str
    title: str
    fetch: tuple[str, ...]
    licence: str
    task: str
    targets: tuple[str, ...]
    score: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    block_km: float = 500.0
    min_samples: int = 10
    published: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    patches: Patches | None = None
    series: MonthlySeries | None = None
    reader: Reader | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"recipe {self.name}: task {self.task!r} is unknown; choose from {', '.join(TASKS)}")
        if not self.targets:
            raise ConfigError(f"recipe {self.name}: names no targets; give targets = ['column']")

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """A recipe of your own, as TOML.

            name = "my-plots"
            title = "Plots of my region"
            task = "multiclass"                          # or "multilabel" (labels with ; between) or "regression"
            targets = ["stand"]
            fetch = ["plots.csv, from the forest office"]
            licence = "CC BY 4.0"
            score = "macro_f1"
            block_km = 100
            [columns]                                    # name here = names it may have in the file
            stand = ["STAND_TYPE"]
            longitude = ["x"]
            latitude = ["y"]
            [classes]                                    # leave out to take values as they are
            1 = "beech"
            2 = "spruce"
            [patches]                                    # only where a folder of GeoTIFFs comes with the labels
            bands = ["B2", "B3", "B4", "B8"]
            month = 7                                    # leave out where file names hold dates such as 20180714
            [series]                                     # only where the table holds monthly values itself
            start = "start_date"
            columns = { B4 = "red_{}", B8 = "nir_{}" }

        Raises:
            DataError: It cannot be read.
            ConfigError: It names something unknown, or lacks a field.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as TOML: {error}") from error
        known = {entry.name for entry in dataclasses.fields(cls)} - {"reader"}
        lacking = [name for name in ("name", "task", "targets") if name not in values]
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if lacking:
            raise ConfigError(f"{path}: lacks {', '.join(lacking)}")
        given: dict[str, Any] = {"title": values["name"], "fetch": (), "licence": "not stated", "score": "", **values}
        for name in ("targets", "fetch", "published", "notes"):
            given[name] = _texts(path, name, given.get(name, ()))
        columns = given.get("columns", {})
        given["columns"] = {name: _texts(path, f"columns.{name}", names) for name, names in columns.items()}
        given["classes"] = {str(key): str(value) for key, value in given.get("classes", {}).items()}
        if "patches" in given:
            stated = dict(given["patches"])
            if extra := sorted(set(stated) - {"bands", "month", "offset"}):
                raise ConfigError(f"{path}: unknown key patches.{extra[0]}; known are bands, month, offset")
            given["patches"] = Patches(**{**stated, "bands": _texts(path, "patches.bands", stated.get("bands", ()))})
        if "series" in given:
            stated = dict(given["series"])
            if set(stated) - {"columns", "start"} or not stated.get("columns"):
                raise ConfigError(f"{path}: series holds {', '.join(stated)}; give columns, and start if not January")
            given["series"] = MonthlySeries(**stated)
        return cls(**given)

    def read(self, path: Path) -> pd.DataFrame:
        """The samples of a file: sample_id, longitude, latitude and targets.

        Raises:
            DataError: It cannot be read, lacks a column, or holds a value that the recipe does not know.
        """
        from geotreeclip.evaluation.probes.recipes.labels import read_plain

        return (self.reader or read_plain)(self, path)

    def account(self) -> dict[str, str]:
        """What a report says of it."""
        told = {"labels": self.fetch, "published": self.published, "notes": self.notes}
        return {"recipe": self.title, "first_score": self.score, "licence_of_labels": self.licence} | {
            name: "; ".join(texts) for name, texts in told.items() if texts
        }

    def describe(self) -> str:
        """The recipe in words."""
        lines = [f"{self.name}: {self.title}", f"  task       {self.task} of {', '.join(self.targets)}; {self.score}"]
        if self.units:
            lines.append(f"  units      {', '.join(f'{name} {unit}' for name, unit in self.units.items())}")
        if self.classes:
            lines.append(f"  classes    {', '.join(dict.fromkeys(self.classes.values()))}")
        lines.append(f"  split      at random and in blocks of {self.block_km:g} km, side by side")
        parts = {"fetch": self.fetch, "licence": (self.licence,), "published": self.published, "note": self.notes}
        for word, texts in parts.items():
            lines += [f"  {word:<10} {text}" for text in texts]
        return "\n".join(lines)


def _texts(path: Path, name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{path}: {name} is {value!r}; give a list of texts")
    return tuple(value)
