"""Recipes: published label files read as they are, features at their places, and the command from end to end."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.probes.command import main
from geotreeclip.evaluation.probes.recipes.features import (
    embed_patches,
    fill_year,
    raster_features,
    series_features,
)
from geotreeclip.evaluation.probes.recipes.labels import GENERA, SPECIES
from geotreeclip.evaluation.probes.recipes.recipe import Patches, Recipe
from geotreeclip.evaluation.probes.recipes.tasks import ARCTIC_TYPES, RECIPES, find_recipe
from geotreeclip.evaluation.report import read_report
from geotreeclip.models.config import INPUTS
from geotreeclip.prep.occurrence_files import read_occurrences

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

INDEX = {
    "biomes": "ind,lon,lat,biome,ecoregion,image_id_1\n13387,-0.01,42.7,4,Pyrenees,a\n24224,-0.03,22.2,13,Sahara,b\n",
    "arctic": "ind,lon,lat,type,five_types,image_id_1\n0,-107.7,71.3,22,2,a\n1,99.1,71.9,33,4,b\n2,-48.8,61.6,32,3,c\n"
    "3,-121.3,76.4,1,1,d\n5,-165.5,61.9,43,5,e\n17,-106.2,62.7,5,1,f\n",
    "chelsa": '"ind","lon","lat","biome","ecoregion","temp","prec","evap","swb"\n'
    '13387,-0.01,42.7,4,"Pyrenees",5.45,1429.5,84.94,87\n24224,-0.03,22.2,13,"Sahara",27.25,22.4,212.97,-2533\n',
    "eu-forest": 'ind,lon,lat,genus,species,image_id_1\n2,-9.4,38.7,"Eucalyptus, Pinus",Pinus pinaster,a\n'
    '6,-8.8,37.1,"Pinus, Quercus","Pinus pinaster, Quercus suber",b\n',
}


def published(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    path.write_text(INDEX[name])
    return RECIPES[name].read(path)


def test_published_indices_are_read_as_they_are(tmp_path):
    biomes = published(tmp_path, "biomes")
    assert biomes.columns.tolist() == ["sample_id", "longitude", "latitude", "biome"]
    assert biomes["sample_id"].tolist() == ["biomes-13387", "biomes-24224"]
    assert biomes["biome"].tolist() == ["temperate broadleaf and mixed forest", "desert and xeric shrub"]
    climate = published(tmp_path, "chelsa")
    assert climate[list(RECIPES["chelsa"].targets)].to_numpy().tolist()[1] == [27.25, 22.4, 212.97, -2533]
    # a year of precipitation minus twelve months of evapotranspiration is the water balance of a desert
    assert np.isclose(22.4 - 12 * 212.97, -2533, atol=1)
    trees = published(tmp_path, "eu-forest")
    assert trees["species"].tolist() == ["Pinus pinaster", "Pinus pinaster;Quercus suber"]
    assert trees["genus"].tolist() == ["Eucalyptus;Pinus", "Pinus;Quercus"]


def test_arctic_types_are_those_of_the_index(tmp_path):
    stated = pd.read_csv(io.StringIO(INDEX["arctic"]))
    broad = dict(enumerate(dict.fromkeys(ARCTIC_TYPES.values()), start=1))
    assert published(tmp_path, "arctic")["vegetation"].tolist() == stated["five_types"].map(broad).tolist()


def test_numbers_of_labels_are_those_of_the_publication():
    assert (len(set(GENERA)), len(set(SPECIES))) == (31, 64)
    assert len(set(ARCTIC_TYPES.values())) == 5
    # Sorbus and others: every species has its genus among the genera
    assert {name.split()[0] for name in SPECIES} <= set(GENERA)


def test_an_unknown_class_and_a_lacking_column_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ind,lon,lat,type\n0,1,70,22\n1,2,71,77\n")
    with pytest.raises(DataError, match=r"row 1: vegetation is '77'"):
        RECIPES["arctic"].read(path)
    path.write_text("ind,lon,lat,kind\n0,1,70,22\n")
    with pytest.raises(DataError, match=r"column type or vegetation .*found ind, lon, lat, kind"):
        RECIPES["arctic"].read(path)
    with pytest.raises(ConfigError, match=r"biomes, arctic"):
        find_recipe("arctik")


def test_records_of_eu_forest_become_places(tmp_path):
    path = tmp_path / "EUForestspecies.csv"
    path.write_text(
        "X,Y,COUNTRY,SPECIES NAME,DBH\n4207500,2856500,Germany,Abies alba,-9999\n"
        "4207500,2856500,Germany,Picea abies,2\n"
        "4208500,2856500,Germany,Ginkgo biloba,2\n4209500,2856500,Germany,Fagus sylvatica,2\n"
    )
    frame = RECIPES["eu-forest"].read(path)
    assert frame["species"].tolist() == ["Abies alba;Picea abies", "Fagus sylvatica"]
    # the first cell as the places of the German records have it
    assert np.allclose(frame[["longitude", "latitude"]].iloc[0], (8.45507, 48.81109), atol=1e-5)


def test_treesatai_is_read_from_its_archive_and_from_points(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "geojson").mkdir()
    labels = {"Abies_alba_1_834_WEFL_NLF.tif": [["Abies", 0.93], ["Picea", 0.07], ["Larix", 0.0]]}
    (tmp_path / "labels" / "m.json").write_text(json.dumps(labels))
    feature = {"properties": {"IMG_ID": "Abies_alba_1_834_WEFL_NLF"}, "geometry": {"coordinates": [9.83, 53.37]}}
    with pytest.raises(DataError, match=r"p\.GeoJSON"):
        RECIPES["treesatai"].read(tmp_path / "labels" / "m.json")
    (tmp_path / "geojson" / "p.GeoJSON").write_text(json.dumps({"features": [feature]}))
    frame = RECIPES["treesatai"].read(tmp_path / "labels" / "m.json")
    assert frame.to_numpy().tolist() == [["Abies_alba_1_834_WEFL_NLF", 9.83, 53.37, "Abies;Picea"]]
    points = tmp_path / "p.csv"
    points.write_text("l3_species,lon,lat\nsessile oak,9,52\nEuropean larch,10,53\n")
    assert RECIPES["treesatai"].read(points)["genus"].tolist() == ["Quercus", "Larix"]
    points.write_text("l3_species,lon,lat\nginkgo,9,52\n")
    with pytest.raises(DataError, match=r"row 0: l3_species is 'ginkgo'"):
        RECIPES["treesatai"].read(points)


def test_a_task_of_ones_own_needs_no_code(tmp_path):
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntask = "multiclass"\ntargets = ["stand"]\nblock_km = 50\n'
        '[columns]\nstand = ["TYPE"]\nlongitude = ["east"]\nlatitude = ["north"]\n'
        '[classes]\n1 = "beech"\n2 = "spruce"\n'
    )
    (tmp_path / "own.csv").write_text("TYPE,east,north\n1,8,50\n2,9,51\n")
    recipe = find_recipe(str(tmp_path / "own.toml"))
    assert recipe.block_km == 50
    assert recipe.read(tmp_path / "own.csv").to_numpy().tolist() == [
        ["own-0", 8, 50, "beech"],
        ["own-1", 9, 51, "spruce"],
    ]
    (tmp_path / "own.toml").write_text('name = "own"\ntask = "multiclass"\ntargets = ["stand"]\nblock = 50\n')
    with pytest.raises(ConfigError, match=r"unknown key block; known are block_km"):
        find_recipe(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text('name = "own"\ntask = "guess"\ntargets = ["stand"]\n')
    with pytest.raises(ConfigError, match=r"task 'guess' is unknown"):
        find_recipe(str(tmp_path / "own.toml"))


def test_every_recipe_says_where_from_and_what_score():
    for recipe in RECIPES.values():
        assert recipe.fetch
        assert recipe.score
        text = recipe.describe()
        assert recipe.licence in text
        assert all(line in text for line in (*recipe.fetch, *recipe.published, *recipe.notes))


# -- features ----------------------------------------------------------------------------------------------------------


def raster(path: Path, values: np.ndarray, west: float, north: float, step: float, **options) -> Path:
    rasterio = pytest.importorskip("rasterio")
    layers = values[None] if values.ndim == 2 else values
    with rasterio.open(
        path, "w", driver="GTiff", height=layers.shape[1], width=layers.shape[2], count=len(layers),
        dtype=layers.dtype, crs="EPSG:4326", transform=rasterio.transform.from_origin(west, north, step, step),
        **options,
    ) as sink:  # fmt: skip
        sink.write(layers)
    return path


def test_rasters_are_read_at_the_places(tmp_path):
    one = raster(tmp_path / "one.tif", np.arange(4, dtype=np.float32).reshape(2, 2), 0, 50, 1.0, nodata=3.0)
    two = raster(tmp_path / "two.tif", np.full((2, 2), 7, np.float32), 0, 50, 1.0)
    table = pd.DataFrame(
        {"sample_id": list("abcd"), "longitude": [0.5, 1.5, 1.5, 9.0], "latitude": [49.5, 49.5, 48.5, 49.5]}
    )
    found = raster_features(table, [str(one), str(two)])
    assert found.sample_id == ["a", "b"]  # c has no data, d lies outside
    assert found.values.tolist() == [[0, 7], [1, 7]]
    assert "climate" in found.saw


def series_table(path: Path, start: str = "2019-10-01", spike: bool = False) -> Path:
    """A place that greens in northern summer, 12 slots from a month on."""
    first = int(start[5:7]) - 1
    month = (first + np.arange(12)) % 12
    green = 0.5 - 0.5 * np.cos(2 * np.pi * (month + 0.5) / 12)
    columns = {"lon": [10.0], "lat": [50.0], "WORLDCOVER-LABEL-10m": [10], "start_date": [start]}
    for band, pattern in RECIPES["land-cover"].series.columns.items():
        value = 1000 + 3000 * green if band == "B8" else 800 - 400 * green
        if spike:
            value = np.where(month == 6, 6000, value)
        columns |= {pattern.format(slot): [round(float(value[slot]))] for slot in range(12)}
    pd.DataFrame(columns).to_parquet(path)
    return path


@pytest.mark.parametrize("start", ["2019-01-01", "2019-10-01"])
def test_slots_are_months_of_the_calendar(tmp_path, start):
    recipe, path = RECIPES["land-cover"], series_table(tmp_path / "s.parquet", start)
    table = recipe.read(path)
    assert table["cover"].tolist() == ["tree cover"]
    red = series_features(recipe, table, path, "months").values[0].reshape(11, 12)[2]  # B2, B3, B4
    assert red.argmin() in (5, 6)
    assert red.argmax() in (0, 11)


def test_screening_takes_a_single_bright_step_away(tmp_path):
    recipe = RECIPES["land-cover"]
    paths = [series_table(tmp_path / f"{spike}.parquet", spike=spike) for spike in (False, True)]
    clean, struck = (
        [
            series_features(recipe, recipe.read(path), path, "months", screen=screen).values[0]
            for screen in (False, True)
        ]
        for path in paths
    )
    assert np.array_equal(*clean)
    assert np.abs(struck[0] - clean[0]).max() > 1.5
    assert np.abs(struck[1] - clean[0]).max() < 0.1
    cycles = [series_features(recipe, recipe.read(path), path, "cycles", screen=True).values[0] for path in paths]
    assert np.abs(cycles[0] - cycles[1]).max() < 0.35  # the peak is a month that was seen


def test_missing_months_are_filled_around_the_year():
    values = np.array([[np.nan, 1, 2, np.nan, 4, 5, 6, 5, 4, 3, 2, np.nan], [np.nan] * 12])
    filled = fill_year(values)
    assert np.allclose(filled[0, [11, 0, 3]], (5 / 3, 4 / 3, 3))
    assert np.isnan(filled[1]).all()


def test_patches_are_embedded_by_a_model(tmp_path, tiny_model_dir):
    recipe = Recipe(
        name="mine", title="", fetch=(), licence="", task="multiclass", targets=("stand",), score="",
        patches=Patches(bands=("B2", "B3", "B4", "B8", "NDVI")),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for name in ("p1_20180714", "p2_20180120"):
        raster(tmp_path / f"{name}.tif", rng.integers(200, 3000, (5, 6, 6)).astype(np.uint16), 10, 50, 1e-4)
    table = pd.DataFrame({
        "sample_id": ["mine-p1_20180714", "mine-p2_20180120", "mine-p3"], "longitude": 10.0, "latitude": 50.0,
    })  # fmt: skip
    found = embed_patches(recipe, table, tmp_path, str(tiny_model_dir))
    assert found.sample_id == ["mine-p1_20180714", "mine-p2_20180120"]  # no file of the third
    assert found.saw == ("image",)
    assert found.values.shape[0] == 2
    assert np.abs(found.values[0] - found.values[1]).max() > 1e-3
    raster(tmp_path / "p3.tif", np.full((5, 6, 6), 500, np.uint16), 10, 50, 1e-4)
    with pytest.raises(DataError, match=r"p3\.tif: its name holds no date .*patches\.month"):
        embed_patches(recipe, table, tmp_path, str(tiny_model_dir))
    with pytest.raises(ConfigError, match=r"biomes has no patches"):
        embed_patches(RECIPES["biomes"], table, tmp_path, str(tiny_model_dir))


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_lists_writes_places_and_probes(tmp_path, capsys):
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-170, -50, 200), rng.uniform(60, 78, 200)
    kind = np.where(lat > 69, 1, 33)
    pd.DataFrame({"ind": range(200), "lon": lon, "lat": lat, "type": kind}).to_csv(tmp_path / "a.csv", index=False)
    assert main(["--recipes"]) == 0
    assert "Raster CAVM" in capsys.readouterr().out
    base = ["--recipe", "arctic", "--table", str(tmp_path / "a.csv")]
    assert main([*base, "--points", str(tmp_path / "points.csv")]) == 0
    places = pd.read_csv(tmp_path / "points.csv")
    assert places["sample_id"].tolist()[:2] == ["arctic-0", "arctic-1"]
    assert np.allclose(places["latitude"], lat)
    _, taxa, refused = read_occurrences(tmp_path / "points.csv")  # what packing reads
    assert (len(taxa), refused) == (200, {})
    north = np.repeat(np.linspace(80, 58, 22, dtype=np.float32)[:, None], 140, axis=1)
    layer = raster(tmp_path / "north.tif", north, -180, 80, 1.0)
    out = tmp_path / "r.json"
    assert main([*base, "--rasters", str(layer), "--probes", "ridge", "--folds", "3", "--out", str(out)]) == 0
    meta, rows = read_report(out)
    assert meta["recipe"] == "Arctic vegetation, five types"
    assert {row["split"] for row in rows} >= {"random", "blocks300"}
    best = {row["split"]: row["value"] for row in rows if row["metric"] == "macro_f1" and row["fold"] is None}
    assert min(best["random"], best["blocks300"]) > 0.8


def test_the_command_refuses_what_cannot_be(tmp_path):
    (tmp_path / "c.csv").write_text(INDEX["chelsa"])
    out = ["--out", str(tmp_path / "r.json")]
    layer = raster(tmp_path / "x.tif", np.ones((2, 2), np.float32), -1, 43, 30.0)
    base = ["--recipe", "chelsa", "--table", str(tmp_path / "c.csv")]
    with pytest.raises(ConfigError, match=r"chelsa_temperature is climate and the embedding saw climate"):
        main([*base, "--rasters", str(layer), *out])
    with pytest.raises(ConfigError, match=r"its file holds no series"):
        main([*base, "--series", "months", *out])
    with pytest.raises(ConfigError, match=r"--table:\nchelsa: Climate"):
        main(["--recipe", "chelsa", *out])
    with pytest.raises(ConfigError, match=r"--rasters goes with --recipe"):
        main(["--table", "t.csv", "--rasters", "x.tif", *out])
    with pytest.raises(ConfigError, match=r"--target A,B, or take a --recipe"):
        main(["--embedding", "e.npz", *out])
    assert set(raster_features(RECIPES["chelsa"].read(tmp_path / "c.csv"), [str(layer)]).saw) <= set(INPUTS)


@pytest.mark.skipif(not (REAL / "points").is_dir(), reason="no shared data: real points are not beside the checkout")
def test_real_points_are_read():
    trees = RECIPES["eu-forest"].read(REAL / "points" / "euforest_germany.parquet")
    assert len(trees) == 18_927
    assert trees["species"].str.count(";").max() >= 10
    genera = RECIPES["treesatai"].read(REAL / "points" / "treesatai_points_lonlat.parquet")
    assert (len(genera), genera["genus"].nunique()) == (37_907, 14)
    biomes = RECIPES["biomes"].read(REAL / "points" / "environment_30k_world.parquet")
    assert biomes["biome"].value_counts().index[0] == "tropical grassland and savanna"
