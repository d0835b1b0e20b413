"""Tree species from space: Sentinel-2 time series, environment and taxonomic text in one embedding space.

>>> import geotreeclip
>>> result = geotreeclip.classify(longitude=8.4, latitude=47.3, environment={"bio01": 9.1}, model="demo")
>>> result.to_pandas()

Importing the package loads neither torch nor pandas; its parts are loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geotreeclip.inference import Classifier, classify, load
    from geotreeclip.observation_builder import build_observations
    from geotreeclip.predictions import Predictions
    from geotreeclip.taxonomy import Taxon, Taxonomy

__all__ = [
    "Classifier",
    "Predictions",
    "Taxon",
    "Taxonomy",
    "__version__",
    "build_observations",
    "classify",
    "load",
]

_HOMES = {
    "Classifier": "geotreeclip.inference",
    "Predictions": "geotreeclip.predictions",
    "Taxon": "geotreeclip.taxonomy",
    "Taxonomy": "geotreeclip.taxonomy",
    "build_observations": "geotreeclip.observation_builder",
    "classify": "geotreeclip.inference",
    "load": "geotreeclip.inference",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module the first time it is asked for."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("geotreeclip")
        except PackageNotFoundError:  # a source tree on the path, not installed
            value = "0+unknown"
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'geotreeclip' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
