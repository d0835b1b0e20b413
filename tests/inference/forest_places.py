"""What the tests of inference ask: names of their places and answers as an array."""

from __future__ import annotations

import numpy as np

from geotreeclip.inference import Classifier

N = 6
SPECIES = [
    "Quercus robur",
    "Quercus petraea",
    "Quercus ilex",
    "Fagus sylvatica",
    "Betula pendula",
    "Pinus sylvestris",
    "Picea abies",
    "Larix decidua",
]


def row(places: dict, index: int) -> dict:
    """One of the places alone."""
    return {
        **{name: places[name][index : index + 1] for name in ("images", "longitude", "latitude")},
        "environment": {name: values[index : index + 1] for name, values in places["environment"].items()},
    }


def all_probabilities(model: Classifier, places: dict, **options) -> np.ndarray:
    """[N, 8], species in the order of the taxonomy."""
    frame = model.classify(**places, top_k=None, **options).to_pandas()
    return frame.pivot(index="sample", columns="label", values="probability")[SPECIES].to_numpy()
