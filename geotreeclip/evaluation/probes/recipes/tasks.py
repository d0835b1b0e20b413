"""The recipes: tasks of SSL4Eco (arXiv 2504.18256) whose labels are tables, and land cover of monthly series.

Numbers of samples, classes and scores under `published` are those of the publication (linear probe / nearest neighbours
of SeCo-Eco), from random folds: they are no targets for folds in blocks, nor for patches of 50 m.
"""

from __future__ import annotations

from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.evaluation.probes.recipes.labels import read_eu_forest, read_treesatai
from geotreeclip.evaluation.probes.recipes.recipe import MonthlySeries, Patches, Recipe

__all__ = ["ARCTIC_TYPES", "RECIPES", "find_recipe"]

_INDEX = "github.com/PlekhanovaElena/ssl4eco (c8077d1), index_files/"
_RANDOM = "random 10-fold, one Sentinel-2 image of 15 July (January in the south), 2.6 km wide"
_TWINS = "about 5 % of the rows have a twin with the very same coordinates: folds here keep a place together"

BIOMES = {
    "1": "tropical moist broadleaf forest", "2": "tropical dry broadleaf forest", "3": "tropical coniferous forest",
    "4": "temperate broadleaf and mixed forest", "5": "temperate conifer forest", "6": "boreal forest",
    "7": "tropical grassland and savanna", "8": "temperate grassland", "9": "flooded grassland",
    "10": "montane grassland", "11": "tundra", "12": "mediterranean forest and scrub", "13": "desert and xeric shrub",
    "14": "mangrove", "98": "lake", "99": "rock and ice",
}  # fmt: skip
"""BIOME of Terrestrial Ecoregions of the World (Olson et al. 2001)."""

_BIOME_NAMES = {
    "Tropical & Subtropical Moist Broadleaf Forests": "1", "Tropical & Subtropical Dry Broadleaf Forests": "2",
    "Tropical & Subtropical Coniferous Forests": "3", "Temperate Broadleaf & Mixed Forests": "4",
    "Temperate Conifer Forests": "5", "Boreal Forests/Taiga": "6",
    "Tropical & Subtropical Grasslands, Savannas & Shrublands": "7", "Temperate Grasslands, Savannas & Shrublands": "8",
    "Flooded Grasslands & Savannas": "9", "Montane Grasslands & Shrublands": "10", "Tundra": "11",
    "Mediterranean Forests, Woodlands & Scrub": "12", "Deserts & Xeric Shrublands": "13", "Mangroves": "14",
}  # fmt: skip

ARCTIC_TYPES = {
    **dict.fromkeys(("1", "2", "3", "4", "5"), "barren"),
    **dict.fromkeys(("21", "22", "23", "24"), "graminoid tundra"),
    **dict.fromkeys(("31", "32"), "prostrate-shrub tundra"),
    **dict.fromkeys(("33", "34"), "erect-shrub tundra"),
    **dict.fromkeys(("41", "42", "43"), "wetland"),
}
"""Code of the Raster CAVM (Raynolds et al. 2019) -> its five broad types."""

_COVER = {
    "10": "tree cover", "20": "shrubland", "30": "grassland", "40": "cropland", "50": "built-up", "60": "bare",
    "70": "snow and ice", "80": "water", "90": "herbaceous wetland", "95": "mangrove", "100": "moss and lichen",
}  # fmt: skip
"""ESA WorldCover."""

_WORLDCEREAL = {
    f"B{n}": f"OPTICAL-B{n:02d}-ts{{}}-{'10' if n in (2, 3, 4, 8) else '20'}m" for n in (2, 3, 4, 8, 5, 6, 7)
}
_WORLDCEREAL |= {band: f"OPTICAL-{band}-ts{{}}-20m" for band in ("B8A", "B11", "B12")}

_ALL = (
    Recipe(
        name="biomes", title="Biomes of the world", task="multiclass", targets=("biome",), score="macro_f1",
        fetch=(_INDEX + "biomes_labels_with_image_ids.csv (ind, lon, lat, biome, ecoregion, image_id_1)",),
        licence="that of the repository; ecoregions: cite Olson et al. 2001",
        columns={"biome": ("biome", "biogeo_biome")},
        classes={**BIOMES, **{name: BIOMES[code] for name, code in _BIOME_NAMES.items()}},
        published=("52,000 places, 15 classes, macro F1 56.1 / 51.1 (season-invariant MoCo-Eco 58.4)", _RANDOM),
        notes=(_TWINS, "biomes follow climate and place: an embedding that saw either answers from them"),
    ),
    Recipe(
        name="arctic", title="Arctic vegetation, five types", task="multiclass", targets=("vegetation",),
        score="macro_f1", block_km=300.0,
        fetch=(_INDEX + "arctic_labels_with_image_ids.csv (ind, lon, lat, type, five_types, image_id_1)",),
        licence="that of the repository; Raster CAVM: cite Raynolds et al. 2019",
        columns={"vegetation": ("type",)}, classes=ARCTIC_TYPES,
        published=("79,000 places, 5 classes, macro F1 59.4 / 59.5", _RANDOM),
        notes=("about a quarter of the published patches overlap another one; patches of 50 m do not",),
    ),
    Recipe(
        name="eu-forest", title="Trees of Europe on a 1 km grid", task="multilabel", targets=("species",),
        score="micro_f1", block_km=100.0, reader=read_eu_forest,
        fetch=(
            _INDEX + "euforest_labels_with_image_ids.csv (ind, lon, lat, genus, species, image_id_1)",
            "or the records: EUForestspecies.csv, figshare 10.6084/m9.figshare.c.3288407 (X, Y, SPECIES NAME)",
        ),
        licence="CC BY 4.0 (Mauri, Strona and San-Miguel-Ayanz 2017)",
        published=("51,802 places, 64 species (31 genera: --target genus), micro F1 35.7 / 32.4", _RANDOM),
        notes=(
            "only presences: a species that was not recorded may stand there",
            "in the index some places carry genera whose species are none of the 64 (Eucalyptus), and the other way",
            "species follow climate and place; give the climate alone as a control (--rasters)",
        ),
    ),
    Recipe(
        name="treesatai", title="Genera of Lower Saxony", task="multilabel", targets=("genus",), score="micro_f1",
        block_km=20.0, reader=read_treesatai, patches=Patches(
            bands=("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12", "B1", "B9"), month=8),
        fetch=("TreeSatAI Benchmark Archive, doi.org/10.5281/zenodo.6778154: labels.zip, geojson.zip, s2.zip (60 m)",),
        licence="CC BY 4.0 (Ahlswede et al. 2023)",
        published=("50,381 patches, 15 genera, micro F1 42.7 / 40.6 on the official test (10 %)",),
        notes=(
            "the official split is random, so that neighbouring stands fall on both sides; it is not used here",
            "every genus with a share above 0 of a patch is a label, as in the publication",
            "the archive names no date of a patch; a summer month is taken (patches.month)",
        ),
    ),
    Recipe(
        name="chelsa", title="Climate of 1981 to 2010", task="regression", score="r2",
        targets=("chelsa_temperature", "chelsa_precipitation", "chelsa_evapotranspiration", "chelsa_water_balance"),
        fetch=(_INDEX + "climate_labels_50k.csv (ind, lon, lat, biome, ecoregion, temp, prec, evap, swb)",),
        licence="that of the repository; CHELSA 2.1: cite Karger et al. 2017",
        columns={
            "chelsa_temperature": ("temp",), "chelsa_precipitation": ("prec",), "chelsa_evapotranspiration": ("evap",),
            "chelsa_water_balance": ("swb",),
        },
        units={
            "chelsa_temperature": "degC", "chelsa_precipitation": "mm a year",
            "chelsa_evapotranspiration": "mm a month", "chelsa_water_balance": "mm a year",
        },
        published=("52,000 places (those of biomes), mean R2 81.1 / 81.0: 80.7, 70.2, 83.7, 89.6", _RANDOM),
        notes=(_TWINS, "asked of imagery alone: an embedding that read climate, or the place, returns it (refused)"),
    ),
    Recipe(
        name="land-cover", title="Land cover of monthly series", task="multiclass", targets=("cover",),
        score="macro_f1", columns={"cover": ("WORLDCOVER-LABEL-10m",)}, classes=_COVER,
        fetch=("github.com/WorldCereal/presto-worldcereal (84d38e6): Parquet files of monthly composites",),
        licence="CC BY 4.0", series=MonthlySeries(columns=_WORLDCEREAL, start="start_date"),
        notes=(
            "the first slot is the month of start_date (mostly October to December), not January",
            "about a fifth of the rows hold a single bright step, a cloud that the mask missed: compare with --screen",
        ),
    ),
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in _ALL}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a TOML file.

    Raises:
        ConfigError: There is none.
    """
    if name.endswith(".toml"):
        return Recipe.from_file(Path(name))
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; choose from {', '.join(RECIPES)}, or give a TOML file")
    return RECIPES[name]
