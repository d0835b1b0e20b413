"""Label files as their authors publish them, read into one table: sample_id, longitude, latitude and targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.inputs.common import listed

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.evaluation.probes.recipes.recipe import Recipe

__all__ = ["ENGLISH_GENERA", "GENERA", "SPECIES", "read_eu_forest", "read_plain", "read_treesatai"]

_PLACES = {
    "sample_id": ("sample_id", "ind", "id"),
    "longitude": ("longitude", "lon"),
    "latitude": ("latitude", "lat"),
}

GENERA = (
    "Abies", "Acer", "Alnus", "Betula", "Carpinus", "Castanea", "Cornus", "Corylus", "Crataegus", "Eucalyptus", "Fagus",
    "Frangula", "Fraxinus", "Ilex", "Juglans", "Juniperus", "Larix", "Malus", "Ostrya", "Picea", "Pinus", "Populus",
    "Prunus", "Pseudotsuga", "Pyrus", "Quercus", "Robinia", "Salix", "Sorbus", "Tilia", "Ulmus",
)  # fmt: skip
"""The 31 genera of the SSL4Eco task `euforest`."""

SPECIES = (
    "Picea abies", "Pinus sylvestris", "Fagus sylvatica", "Quercus robur", "Fraxinus excelsior", "Carpinus betulus",
    "Betula pendula", "Quercus petraea", "Acer pseudoplatanus", "Betula pubescens", "Sorbus aucuparia",
    "Castanea sativa", "Abies alba", "Populus tremula", "Alnus glutinosa", "Pseudotsuga menziesii", "Larix decidua",
    "Prunus avium", "Salix caprea", "Alnus incana", "Acer campestre", "Pinus pinaster", "Quercus pubescens",
    "Corylus avellana", "Picea sitchensis", "Quercus ilex", "Larix kaempferi", "Robinia pseudoacacia", "Tilia cordata",
    "Quercus cerris", "Acer platanoides", "Sorbus aria", "Pinus nigra", "Fraxinus ornus", "Sorbus torminalis",
    "Frangula alnus", "Prunus padus", "Populus nigra", "Crataegus monogyna", "Ulmus minor", "Quercus rubra",
    "Quercus pyrenaica", "Ostrya carpinifolia", "Pinus halepensis", "Quercus suber", "Tilia platyphyllos",
    "Eucalyptus camaldulensis", "Pinus contorta", "Ilex aquifolium", "Ulmus glabra", "Pinus radiata", "Quercus faginea",
    "Acer opalus", "Fraxinus angustifolia", "Salix alba", "Prunus serotina", "Pinus pinea", "Abies grandis",
    "Salix atrocinerea", "Abies procera", "Populus alba", "Pyrus pyraster", "Pinus mugo", "Juglans nigra",
)  # fmt: skip
"""The 64 species of the SSL4Eco task `euforestsp`, which the publication reports."""

ENGLISH_GENERA = {
    "european beech": "Fagus", "cherry": "Prunus", "european ash": "Fraxinus", "linden": "Tilia",
    "sycamore maple": "Acer", "english oak": "Quercus", "red oak": "Quercus", "sessile oak": "Quercus",
    "alder": "Alnus", "birch": "Betula", "poplar": "Populus", "douglas fir": "Pseudotsuga", "silver fir": "Abies",
    "european larch": "Larix", "japanese larch": "Larix", "black pine": "Pinus", "scots pine": "Pinus",
    "weymouth pine": "Pinus", "norway spruce": "Picea", "cleared": "Cleared",
}  # fmt: skip
"""English species of the TreeSatAI archive -> its genera."""


def read_plain(recipe: Recipe, path: Path) -> pd.DataFrame:
    """A row a sample (CSV or Parquet), columns and values as the recipe says; ids are row numbers where there are none.

    Raises:
        DataError: It cannot be read, lacks a column, repeats an id, or holds a value that is no class.
    """
    import pandas as pd

    table = _table(path)
    found = {name: _column(recipe, table, path, name) for name in ("longitude", "latitude", *recipe.targets)}
    ids = _column(recipe, table, path, "sample_id", needed=False)
    names = np.arange(len(table)).astype(str) if ids is None else table[ids].astype(str).to_numpy()
    result = pd.DataFrame({"sample_id": [f"{recipe.name}-{name}" for name in names]})
    if result["sample_id"].duplicated().any():
        twice = result["sample_id"][result["sample_id"].duplicated()].iloc[0]
        raise DataError(f"{path}: sample {twice!r} comes twice; ids must be unique")
    for name, column in found.items():
        values = table[column]
        if name not in recipe.targets:
            result[name] = values.to_numpy(dtype=float, na_value=np.nan)
        else:
            result[name] = _classes(recipe, path, name, values) if recipe.classes else values.to_numpy()
    return result


def read_eu_forest(recipe: Recipe, path: Path) -> pd.DataFrame:
    """EU-Forest, a row a place: labels `species` and `genus` with semicolons between.

    Reads the index of SSL4Eco (ind, lon, lat, genus, species; labels with commas between) and the original files, a row
    a record: X and Y (EPSG:3035) or lon and lat, and "SPECIES NAME". Records of one 1 km cell become one sample.
    Species and genera other than those of the task are left out; places without any label stay out.
    """
    import pandas as pd

    table = _table(path)
    lower = {str(name).lower().strip(): str(name) for name in table.columns}
    named = next((lower[name] for name in ("species name", "species_name") if name in lower), None)
    if named is not None:
        lon, lat = _degrees(table, lower, path)
        cells = pd.Series(lon).round(5).astype(str) + " " + pd.Series(lat).round(5).astype(str)
        code, _ = pd.factorize(cells)
        first = np.unique(code, return_index=True)[1]
        texts = table[named].astype(str).str.strip()
        species = [sorted(set(part)) for _, part in texts.groupby(code)]
        genus = [sorted({name.split()[0] for name in names}) for names in species]
        ids, lon, lat = np.arange(len(first)).astype(str), lon[first], lat[first]
    else:
        columns = {name: _column(recipe, table, path, name) for name in ("longitude", "latitude", "species", "genus")}
        lon, lat = (table[columns[name]].to_numpy(dtype=float) for name in ("longitude", "latitude"))
        species, genus = (
            [[part.strip() for part in str(text).split(",")] for text in table[columns[name]].fillna("")]
            for name in ("species", "genus")
        )
        ids = table[lower["ind"]].astype(str).to_numpy() if "ind" in lower else np.arange(len(table)).astype(str)
    result = pd.DataFrame({
        "sample_id": [f"{recipe.name}-{name}" for name in ids], "longitude": lon, "latitude": lat,
        "species": [";".join(name for name in names if name in SPECIES) for names in species],
        "genus": [";".join(name for name in names if name in GENERA) for names in genus],
    })  # fmt: skip
    kept = (result["species"] != "") & (result["genus"] != "")
    if not kept.any():
        raise DataError(f"{path}: none of {len(result)} places has a species of the task, such as {SPECIES[0]!r}")
    return result[kept].reset_index(drop=True)


def read_treesatai(recipe: Recipe, path: Path) -> pd.DataFrame:
    """TreeSatAI: the archive's multi-label JSON with `p.GeoJSON` of the places beside it, or a table of points.

    The JSON maps file names to pairs of genus and share of the area; every genus with a share above 0 is a label. The
    GeoJSON (in `.`, `..` or `../geojson`) names them by IMG_ID, in degrees. A table of points has lon, lat and the
    English species in `l3_species` (one label a point), or `genus` with semicolons.
    """
    import pandas as pd

    if path.suffix.lower() != ".json":
        table = _table(path)
        english = next((name for name in ("l3_species", "species") if name in table), None)
        if "genus" in table:
            genus = table["genus"].astype(str)
        elif english is not None:
            genus = table[english].astype(str).str.strip().str.lower().map(ENGLISH_GENERA)
            if genus.isna().any():
                row = int(np.argmax(genus.isna().to_numpy()))
                raise DataError(
                    f"{path}: row {row}: {english} is {str(table[english].iloc[row])!r}, no species of the archive "
                    f"({listed(list(ENGLISH_GENERA), 6)})"
                )
        else:
            raise DataError(f"{path}: has neither genus nor l3_species (found {listed(list(map(str, table)), 12)})")
        lower = {str(name).lower(): str(name) for name in table.columns}
        lon, lat = _degrees(table, lower, path)
        ids = [f"{recipe.name}-{row}" for row in range(len(table))]
        return pd.DataFrame({"sample_id": ids, "longitude": lon, "latitude": lat, "genus": genus.to_numpy()})
    labels = _json(path)
    beside = next((path.parent / to / "p.GeoJSON" for to in (".", "..", "../geojson", "geojson")
                   if (path.parent / to / "p.GeoJSON").is_file()), None)  # fmt: skip
    if beside is None:
        raise DataError(f"{path}: p.GeoJSON, which holds the places, is not beside it; unpack geojson.zip there")
    places = {}
    for feature in _json(beside).get("features", []):
        name = str(feature.get("properties", {}).get("IMG_ID", ""))
        places[name.removesuffix(".tif")] = feature["geometry"]["coordinates"][:2]
    rows = []
    for file, shares in labels.items():
        name = file.removesuffix(".tif")
        if name not in places:
            raise DataError(f"{beside}: has no place of {name!r}, which {path.name} labels")
        if genera := sorted(genus for genus, share in shares if share > 0):
            rows.append((name, *places[name], ";".join(genera)))
    frame = pd.DataFrame(rows, columns=["sample_id", "longitude", "latitude", "genus"])
    if not frame[["longitude", "latitude"]].abs().le([180, 90]).all(axis=None):
        raise DataError(f"{beside}: places are no degrees; give the GeoJSON of the archive, which is in EPSG:4326")
    return frame


# -- parts -------------------------------------------------------------------------------------------------------------


def _table(path: Path) -> pd.DataFrame:
    from geotreeclip.evaluation.probes.sources import read_table

    table = read_table(path)
    if not len(table):
        raise DataError(f"{path}: has no rows")
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _column(recipe: Recipe, table: pd.DataFrame, path: Path, name: str, *, needed: bool = True) -> str | None:
    """The column of the file that holds something."""
    lower = {str(column).lower().strip(): str(column) for column in table.columns}
    usual = (*recipe.columns.get(name, ()), *_PLACES.get(name, ()), name)
    found = next((lower[text.lower()] for text in usual if text.lower() in lower), None)
    if found is None and needed:
        raise DataError(
            f"{path}: recipe {recipe.name} needs a column {' or '.join(dict.fromkeys(usual))} "
            f"(found {listed(list(map(str, table.columns)), 12)})"
        )
    return found


def _classes(recipe: Recipe, path: Path, name: str, values: pd.Series) -> Any:
    """Values of the file as classes; missing ones stay missing."""
    import pandas as pd

    texts = values.map(lambda value: None if pd.isna(value) else _text(value))
    known = {**recipe.classes, **{name: name for name in recipe.classes.values()}}  # names themselves are fine too
    wrong = texts.notna() & ~texts.isin(list(known))
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise DataError(
            f"{path}: row {row}: {name} is {texts.iloc[row]!r}, which recipe {recipe.name} does not know "
            f"({listed(list(recipe.classes), 20)})"
        )
    return texts.map(known).to_numpy(dtype=object)


def _text(value: Any) -> str:
    """A value as text; whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _degrees(table: pd.DataFrame, lower: dict[str, str], path: Path) -> tuple[Any, Any]:
    """Longitude and latitude of a table of records; X and Y are ETRS89-LAEA (EPSG:3035)."""
    for names in (("lon", "lat"), ("longitude", "latitude")):
        if all(name in lower for name in names):
            return tuple(table[lower[name]].to_numpy(dtype=float) for name in names)  # type: ignore[return-value]
    if not {"x", "y"} <= set(lower):
        raise DataError(f"{path}: has neither lon and lat nor X and Y (found {listed(list(map(str, table)), 12)})")
    try:
        from pyproj import Transformer
    except ImportError as error:
        raise ConfigError("places in EPSG:3035 need pyproj: pip install 'geotreeclip[prep]'") from error
    turn = Transformer.from_crs("EPSG:3035", "EPSG:4326", always_xy=True)
    lon, lat = turn.transform(table[lower["x"]].to_numpy(dtype=float), table[lower["y"]].to_numpy(dtype=float))
    return np.asarray(lon), np.asarray(lat)
