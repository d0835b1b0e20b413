"""Makes the raw files of a planted forest, and beside them what a pipeline must give back."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.aside import folder_aside
from geotreeclip.demo.config import world_config
from geotreeclip.demo.raw.backbone import write_taxonomy, write_trees
from geotreeclip.demo.raw.catalog import COLLECTION, item_id, make_item, write_catalog, write_json
from geotreeclip.demo.raw.layout import Place, assign, neighbour_of, place, tiles_of
from geotreeclip.demo.raw.occurrences import Record, sample_records, spoil, write_records
from geotreeclip.demo.raw.planting import Datatake, Looks, Planted, draw_looks, plant, schedule
from geotreeclip.demo.raw.rasters import storable, write_rasters
from geotreeclip.demo.raw.scenes import cut, onto, paint, write_scene
from geotreeclip.demo.raw.truth import Composite, composite
from geotreeclip.demo.species import REGIONS
from geotreeclip.demo.world import Records, World, build_world, draw_environment, draw_records
from geotreeclip.errors import ConfigError, DataError

__all__ = ["MARK", "make_raw_world"]

MARK = "world.json"
"""The file that tells a folder of raw files; written last."""

_FORMAT = 1
_STREAM = 300  # of random numbers; the world and its packed samples use smaller ones


def make_raw_world(
    out: str | Path,
    samples: int = 300,
    preset: str = "image-led",
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> World:
    """Render samples of a world as raw files.

    Args:
        out: Folder; appears when it is complete.
        samples: N.
        preset: A key of `geotreeclip.demo.config.PRESETS`.
        seed: The same arguments and seed give the same files.
        overwrite: Whether a finished folder may be replaced.
        progress: Called with a line of text after each step.

    Returns:
        The world.

    Raises:
        ConfigError: Unknown preset or an impossible number.
        DataError: `out` holds something else, or a finished folder; or it cannot be written.
    """
    say = progress or (lambda line: None)
    if not 1 <= samples <= 10_000:  # more would leave the zones of their areas
        raise ConfigError(f"{samples} samples; raw files are made for 1 to 10,000")
    out = Path(out)
    _check(out, overwrite)
    started = time.monotonic()
    world = build_world(world_config(preset, seed=seed))
    with folder_aside(out) as aside:
        counts = _write(aside, world, samples, say)
        write_json(aside / MARK, {"format": _FORMAT, "preset": preset, "config": asdict(world.config), **counts})
    say(f"{out} made in {time.monotonic() - started:.0f} s")
    return world


def _check(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out}: is a file; give a folder")
    if (out / MARK).exists():
        if not overwrite:
            raise DataError(f"{out}: holds raw files of a planted forest; give another folder, or --overwrite")
    elif any(out.iterdir()):
        raise DataError(f"{out}: holds other files; give an empty or a new folder")


def _write(out: Path, world: World, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Draw and write everything; returns counts."""
    rng = np.random.default_rng([world.config.seed, _STREAM])
    species = rng.choice(len(world.counts), size=samples, p=world.prior)
    records = draw_records(world, rng, species=species)
    environment = storable(draw_environment(world, records, rng))
    region = np.array(list(REGIONS))[world.sites.region[records.site]]
    placed = assign(region, world.sites.longitude[records.site], world.sites.latitude[records.site])
    places = [place(area, rows, rng) for area, rows in placed]
    for here in places:
        environment[here.rows, 0], environment[here.rows, 1] = here.longitude, here.latitude
    (out / "stac" / COLLECTION).mkdir(parents=True)
    items: list[dict[str, Any]] = []
    composites = []
    rows: list[Record] = []
    for here in places:
        some = Records(*(field[here.rows] for field in records))
        planted = plant(world, some, here.shift, rng)
        datatakes = schedule(here.area, rng)
        looks = draw_looks(here, planted, datatakes, rng)
        composites.append(composite(here, datatakes, looks))
        items += _write_scenes(out / "stac" / COLLECTION, here, planted, datatakes, looks)
        rows += sample_records(world, records.recorded, here, rng)
        say(f"{here.area.name}, EPSG:{here.area.epsg}, {here.area.year}: {len(here)} samples, {len(datatakes)} passes")
    write_catalog(out / "stac", items)
    write_rasters(out / "rasters", places, environment)
    write_taxonomy(out / "taxonomy.csv")
    write_trees(out / "trees.csv")
    dirty = spoil(rows, rng)
    every = [*rows, *(record for record, _ in dirty)]
    write_records(
        out / "occurrences.zip", [every[i] for i in rng.permutation(len(every))], "0000001-240301000000000.csv"
    )
    (out / "truth").mkdir()
    _write_truth(out / "truth", world, records.recorded, places, composites, environment, rows)
    with (out / "truth" / "refused.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["sample_id", "reason", "what"])
        table.writerows([record["gbifID"], dirt.rule, dirt.name] for record, dirt in dirty)
    say(f"{len(rows)} samples and {len(dirty)} rows to refuse, {len(items)} scenes of {len(places)} areas")
    return {
        "samples": len(rows),
        "refused": len(dirty),
        "scenes": len(items),
        "areas": [p.area._asdict() for p in places],
    }


def _write_scenes(
    folder: Path, here: Place, planted: Planted, datatakes: list[Datatake], looks: Looks
) -> list[dict[str, Any]]:
    """Write the scenes of an area with their items; returns the items."""
    items = []
    own = tiles_of(here)
    for number, datatake in enumerate(datatakes):
        for processing, version in enumerate(datatake.versions):
            scene = paint(here, planted, looks, number, datatake, version)
            parts = [(own[tile], cut(scene, here.tiles[tile])) for tile in datatake.tiles]
            if here.area.beside:
                beside = neighbour_of(here)
                parts.append((beside, onto(scene, here.frame, here.area.epsg, beside)))
            for tile, part in parts:
                name = item_id(tile, datatake, processing)
                write_scene(part, tile, folder / name)
                items.append(make_item(tile, part, datatake, processing))
                write_json(folder / name / f"{name}.json", items[-1])
    return items


def _write_truth(
    out: Path, world: World, recorded: NDArray[np.int64], places: list[Place], composites: list[Composite],
    environment: NDArray[np.float32], rows: list[Record],
) -> None:  # fmt: skip
    """Write the packed set that must come back, in the order of the ids, and `looks.parquet` about its imagery."""
    import pandas as pd

    from geotreeclip.data.writer import PackedWriter

    order = np.argsort(np.concatenate([here.rows for here in places]))
    joined = {
        name: np.concatenate([getattr(part, name) for part in composites])[order]
        for name in ("images", "scenes", "snow", "clipped", "x", "y")
    }
    records = [rows[i] for i in order]
    ids = [record["gbifID"] for record in records]
    samples = pd.DataFrame({
        "sample_id": ids, "longitude": [float(record["decimalLongitude"]) for record in records],
        "latitude": [float(record["decimalLatitude"]) for record in records],
        "year": [int(record["year"]) for record in records], "country": [record["countryCode"] for record in records],
        "source": "planted-forest",
    })  # fmt: skip
    with PackedWriter(
        out, world.taxonomy, source=f"planted forest, seed {world.config.seed}", worldclim="2.1",
        resolution="30 arc-seconds",
    ) as writer:  # fmt: skip
        writer.add(joined["images"], environment, recorded, ids, samples.drop(columns="sample_id"))
    epsg, year = (
        np.concatenate([np.full(len(here), getattr(here.area, name)) for here in places])[order]
        for name in ("epsg", "year")
    )
    used = pd.Series(year, dtype="Int32").where(joined["scenes"].max(axis=1) > 0)  # no year where nothing was ever seen
    pd.DataFrame({
        "sample_id": ids, "epsg": epsg, "x": joined["x"], "y": joined["y"], "year_used": used,
        "year_difference": used - samples["year"], "scenes": list(joined["scenes"]),
        "snow": list(joined["snow"]), "clipped": joined["clipped"],
    }).to_parquet(out / "looks.parquet", index=False)  # fmt: skip
