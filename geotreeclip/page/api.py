"""What the page asks for, as plain functions of JSON: the map, a place, an answer, the truth, a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from geotreeclip.errors import InputError
from geotreeclip.models.config import INPUTS
from geotreeclip.page.places import DIALS, Places, number
from geotreeclip.page.table import classify_points, read_points
from geotreeclip.ranges import CLIMATE
from geotreeclip.schema import GROUPS, VARIABLE_INDEX

if TYPE_CHECKING:
    from geotreeclip.inference import Classifier
    from geotreeclip.observations import ObservationBatch
    from geotreeclip.predictions import Predictions

__all__ = ["Api"]

_SHOWN = 8  # species listed
_THRESHOLD = 0.8


class Api:
    """Answers of the page's server.

    Args:
        classifier: The model.
        places: The places of the map.
        model_name: What the page calls the model.
    """

    def __init__(self, classifier: Classifier, places: Places, model_name: str = "model") -> None:
        self.classifier, self.places, self.model_name = classifier, places, model_name
        # One question at a time: the model uses all cores anyway, and warnings are caught for the whole process.
        self._lock = Lock()

    def world(self) -> dict[str, Any]:
        """What the page shows before a place is chosen."""
        model = self.classifier
        return {
            "places": len(self.places),
            "role": self.places.role,
            "source": self.places.data.manifest.source,
            "cells": self.places.cells(),
            "inputs": list(INPUTS),
            "model": {
                "name": self.model_name,
                "reads": list(model.config.observation.inputs),
                "taxa": len(model.taxonomy),
                "calibrated": model.calibration is not None,
                "ranges": model.ranges is not None,
                "fingerprint": model.fingerprint[:12],
            },
        }

    def place(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The place nearest to `longitude` and `latitude`.

        Raises:
            InputError: If they are no coordinates.
        """
        row, distance = self.places.nearest(*(_degrees(query, name) for name in ("longitude", "latitude")))
        return {**self.places.describe(row), "distance_km": number(distance, 1)}

    def truth(self, query: Mapping[str, str]) -> dict[str, str]:
        """The recorded taxon of place `row`."""
        text = query.get("row", "")
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise InputError(f"row is {text[:40]!r}; give the number of a place")
        return self.places.truth(int(text))

    def classify(self, question: Any) -> dict[str, Any]:
        """Rank the species at a place with some inputs hidden.

        Args:
            question: {"row": the place, "inputs": names left on, "hidden": steps switched off}.

        Raises:
            InputError: If the question is not of this form, or leaves nothing that the model reads.
        """
        row, inputs, hidden = _question(question)
        with self._lock:
            batch = self.places.observe(row, inputs, hidden)
            self._refuse_blindness(batch)
            found = self.classifier.classify_batch(batch, top_k=_SHOWN)
            return self._answer(found, self.places.observe(row, INPUTS))

    def table(self, content: bytes, query: Mapping[str, str]) -> dict[str, Any]:
        """Classify the points of a CSV; `name` is what to call it, `worldclim` the version of its bio variables.

        Raises:
            InputError: If the file is no table of points; the message names row and field.
        """
        name = _file_name(query.get("name", ""))
        points = read_points(content, name)
        with self._lock:
            return {"name": name, **classify_points(self.classifier, points, name, query.get("worldclim", "2.1"))}

    def example(self) -> str:
        """A CSV to try."""
        return self.places.example()

    def _refuse_blindness(self, batch: ObservationBatch) -> None:
        given = {"image": bool(batch.image_valid.any())}
        for group, columns in GROUPS.items():
            valid = batch.environment_valid[:, list(columns)]
            given[group] = bool(valid.all() if group == "location" else valid.any())
        reads = self.classifier.config.observation.inputs
        if not any(given[part] for part in reads):
            raise InputError(f"nothing is left that this model reads; switch on one of {', '.join(reads)}")

    def _answer(self, found: Predictions, whole: ObservationBatch) -> dict[str, Any]:
        """The answer as JSON. Plausibility looks at the whole place, also where the model may not."""
        values = np.where(whole.environment_valid.numpy(), whole.environment.numpy(), np.nan).astype(np.float32)
        ranges = self.classifier.ranges
        known = None if ranges is None else ranges.plausibility(found.taxa, found.index, values)
        answers = []
        for place, item in enumerate(found):
            answer: dict[str, Any] = {
                "label": item.label, "rank": item.rank, "genus": item.genus, "family": item.family,
                "probability": number(item.probability),
            }  # fmt: skip
            if known is not None:
                in_range = float(known.in_range[0, place])
                answer |= {
                    "in_range": None if math.isnan(in_range) else bool(in_range),
                    "distance_km": number(float(known.distance_km[0, place]), 0),
                    "climate_inside": number(float(known.climate_inside[0, place]), 2),
                }
            answers.append(answer)
        back_off = found.back_off(_THRESHOLD).iloc[0]
        members = found.set_labels()[0]
        return {
            "statement": str(back_off["statement"]),
            "unknown": str(back_off["unknown"]),
            "threshold": _THRESHOLD,
            "ranks": self._ranks(found),
            "answers": answers,
            "valid_months": int(found.valid_months[0]),
            "calibrated": found.calibrated,
            "set": None if members is None else {"level": found.set_level, "labels": members},
            "envelope": self._envelope(found),
        }

    @staticmethod
    def _ranks(found: Predictions) -> list[dict[str, Any]]:
        """The likeliest label of every rank, fine to coarse."""
        if found.ranks is None:
            return []
        return [
            {"rank": rank, "label": taxa[int(position)].name(rank), "probability": number(float(probability))}
            for rank, taxa, position, probability in zip(
                found.ranks.ranks, found.ranks.taxa, found.ranks.position[0], found.ranks.probability[0], strict=True
            )
        ]

    def _envelope(self, found: Predictions) -> dict[str, Any] | None:
        """Climate envelope of the likeliest species, for the variables that the page shows."""
        ranges, taxon = self.classifier.ranges, found.taxa[int(found.index[0, 0])]
        if ranges is None or taxon not in ranges.taxa:
            return None
        row = ranges.taxa.index(taxon)
        shown = [(name, CLIMATE.index(VARIABLE_INDEX[name])) for name in DIALS if VARIABLE_INDEX[name] in CLIMATE]
        ends = {
            name: [number(float(ends[row, column]) * DIALS[name].factor, 2) for ends in (ranges.low, ranges.high)]
            for name, column in shown
        }
        return {"label": taxon.name(taxon.rank), "ends": ends}


def _degrees(query: Mapping[str, str], name: str) -> float:
    text = query.get(name, "").strip()
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name} is {text[:40]!r}, not a number; give degrees such as 12.5") from error


def _question(question: Any) -> tuple[int, list[str], list[int]]:
    if not isinstance(question, dict) or not {"row"} <= set(question) <= {"row", "inputs", "hidden"}:
        raise InputError('give {"row": number, "inputs": [names], "hidden": [steps]}')
    row, inputs, hidden = question["row"], question.get("inputs", list(INPUTS)), question.get("hidden", [])
    if type(row) is not int:  # True is an int too
        raise InputError(f"row must be the number of a place, got {str(row)[:40]!r}")
    if not isinstance(inputs, list) or not all(isinstance(name, str) and name in INPUTS for name in inputs):
        raise InputError(f"inputs must be a list of {', '.join(INPUTS)}, got {str(inputs)[:80]}")
    if not isinstance(hidden, list) or not all(type(step) is int for step in hidden):
        raise InputError(f"hidden must be a list of step numbers from 0, got {str(hidden)[:80]}")
    return row, inputs, hidden


def _file_name(name: str) -> str:
    """The last part of a path, without what does not print; for messages only, nothing is opened by it."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:80].strip() or "the file"
