"""The composites that the imagery job wrote: see :mod:`geotreeclip.prep.imagery.store`."""

from geotreeclip.prep.imagery.store import ImageryStore

__all__ = ["ImageryStore"]
