"""What an xarray object says of itself: its axes, its variables, its grid and its reference system.

Errors name `where` the object is from and are of the `kind` that the caller raises: DataError for files, InputError for
objects in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geotreeclip.errors import GeotreeclipError
from geotreeclip.inputs.bands import band_name
from geotreeclip.inputs.common import listed

__all__ = ["BAND", "TIME", "X", "Y", "band_variables", "find_axis", "regular_transform", "stated_crs"]

TIME = ("time", "month", "t", "step")
BAND = ("band", "bands", "variable", "wavelength")
Y = ("y", "lat", "latitude", "northing", "row")
X = ("x", "lon", "longitude", "easting", "column")
"""Names that dimensions go by, in lower case."""


def find_axis(array: Any, known: tuple[str, ...], where: str, kind: type[GeotreeclipError]) -> str:
    """The dimension of a DataArray that goes by one of these names.

    Raises:
        GeotreeclipError: If there is none.
    """
    for name in array.dims:
        if str(name).lower() in known:
            return str(name)
    raise kind(f"{where}: no dimension is called {' or '.join(known[:3])} (found: {listed(array.dims)})")


def band_variables(data: Any, where: str, kind: type[GeotreeclipError]) -> tuple[str, list[str]]:
    """The variable of a Dataset that has four dimensions, or "" and the names of those of three that are bands.

    Raises:
        GeotreeclipError: If there is neither.
    """
    four = [str(name) for name, array in data.data_vars.items() if array.ndim == 4]
    if len(four) == 1:
        return four[0], []
    three = [str(name) for name, array in data.data_vars.items() if array.ndim == 3 and band_name(str(name))]
    if not three or four:
        found = ", ".join(f"{name} {tuple(array.dims)}" for name, array in data.data_vars.items())
        raise kind(
            f"{where}: needs one variable of time, band, y and x, or one of time, y and x for each band, named like "
            f"B04; found: {found or 'no variable'}"
        )
    return "", three


def regular_transform(
    array: Any, y: str, x: str, where: str, kind: type[GeotreeclipError]
) -> tuple[float, float, float, float, float, float] | None:
    """The affine map from column and row to coordinates, a to f, by the pixel centres of y and x.

    Returns:
        The six numbers, or None where y or x has no coordinates.

    Raises:
        GeotreeclipError: If the centres are not evenly spaced (to a hundredth of a pixel).
    """
    edges: list[tuple[float, float]] = []
    for name in (x, y):
        if name not in array.coords or array.sizes[name] < 2:
            return None
        centres = np.asarray(array[name].values, dtype=np.float64)
        step = float((centres[-1] - centres[0]) / (len(centres) - 1))
        if step == 0 or np.abs(np.diff(centres) - step).max() > 0.01 * abs(step):
            raise kind(f"{where}: the coordinates of {name} are not evenly spaced; warp to a regular grid")
        edges.append((step, float(centres[0]) - step / 2))
    (a, c), (e, f) = edges
    return (a, 0.0, c, 0.0, e, f)


def stated_crs(data: Any, array: Any) -> str:
    """The reference system by the CF conventions (`grid_mapping`), or as rioxarray, odc-stac and GDAL write it.

    Args:
        data: The Dataset, or the DataArray itself.
        array: The DataArray.

    Returns:
        What is stated, "" where nothing is.
    """
    known = data.variables if hasattr(data, "variables") else data.coords
    names = [array.attrs.get("grid_mapping"), array.encoding.get("grid_mapping"), "spatial_ref", "crs"]
    places = [known[name].attrs for name in names if name and name in known]
    for attributes in (*places, array.attrs, data.attrs):
        for key in ("crs_wkt", "spatial_ref", "crs"):
            text = str(attributes.get(key) or "").strip()
            if text:
                return f"EPSG:{text}" if text.isdigit() else text
    return ""
