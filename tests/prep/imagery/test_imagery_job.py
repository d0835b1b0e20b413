"""The imagery job as a whole: parts, workers, a stop and going on, wrong input, the command."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imagery_runs import gradient, run
from imagery_world import World, at, occurrences

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.imagery import job
from geotreeclip.prep.imagery.command import main
from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS


def plain(folder: Path) -> tuple[list[str], np.ndarray, pd.DataFrame]:
    store = ImageryStore(folder)
    return store.sample_ids, store.read(np.arange(len(store))), store.table()


def many(world: World) -> tuple[Any, Any, list[int]]:
    """Points of two zones, two squares, two years."""
    rng = np.random.default_rng(3)
    for name, year in (("S2A_1", 2020), ("S2A_2", 2021)):
        world.scene(name, f"{year}-03-05T10:00:00Z", value=gradient(year % 100))
        world.scene(f"{name}_34", f"{year}-04-05T10:00:00Z", epsg=32634, left=400_000, value=gradient(5), tile="34TDS")
    lon, lat = at([tuple(pair) for pair in rng.integers(-3, 63, (9, 2))])
    more = at([(10, 10), (40, 40), (41, 40)], left=400_000, epsg=32634)
    return [*lon, *more[0]], [*lat, *more[1]], [2020, 2021, 2021] * 4


def test_the_result_does_not_depend_on_parts_and_workers(world: World) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years)
    whole = plain(out)
    assert len(list((out / "parts").iterdir())) == 3
    shutil.rmtree(out)
    run(world, lon, lat, years, points_per_part=2)
    assert len(list((out / "parts").iterdir())) == 7
    cut = plain(out)
    shutil.rmtree(out)
    run(world, lon, lat, years, workers=2)
    for other in (cut, plain(out)):
        assert whole[0] == other[0]
        np.testing.assert_array_equal(whole[1], other[1])
        pd.testing.assert_frame_equal(whole[2], other[2])


def test_the_order_of_the_table_does_not_matter(world: World) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years)
    whole = plain(out)
    shutil.rmtree(out)
    table = world.folder.parent / "occurrences.parquet"
    pd.read_parquet(table).sample(frac=1, random_state=1).to_parquet(table)
    sample_imagery(table, out, ImageryOptions(str(world.catalog())), progress=False)
    again = plain(out)
    assert whole[0] == again[0]
    np.testing.assert_array_equal(whole[1], again[1])


def test_a_stopped_run_goes_on_and_ends_in_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lon, lat, years = many(world)
    out = world.folder.parent / "out"
    run(world, lon, lat, years, points_per_part=2)
    whole = plain(out)
    shutil.rmtree(out)
    parts: list[int] = []
    real = job.sample_years

    def dies(*args: Any) -> Any:
        if len(parts) == 3:
            raise KeyboardInterrupt
        parts.append(1)
        return real(*args)

    monkeypatch.setattr(job, "sample_years", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world, lon, lat, years, points_per_part=2)
    with pytest.raises(DataError, match="is the imagery job finished"):
        ImageryStore(out)
    monkeypatch.setattr(job, "sample_years", real)
    run(world, lon, lat, years, points_per_part=2)
    again = plain(out)
    assert whole[0] == again[0]
    np.testing.assert_array_equal(whole[1], again[1])
    with pytest.raises(DataError, match="other options"):
        run(world, lon, lat, years, points_per_part=2, year="2020")


def test_a_part_that_fails_does_not_sink_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lon, lat, years = many(world)
    real = job.locate

    def fails(longitude: Any, latitude: Any, epsg: int) -> Any:
        if epsg == 32634:
            raise OSError("disk on fire")
        return real(longitude, latitude, epsg)

    monkeypatch.setattr(job, "locate", fails)
    report, store = run(world, lon, lat, years)
    assert len(store) == 9
    assert "disk on fire" in report.text()
    assert not store.document["complete"]


def test_input_that_cannot_be(world: World, tmp_path: Path) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    catalog = str(world.catalog())
    lon, lat = at([(30, 30)])
    good = occurrences(tmp_path / "good.parquet", lon, lat)

    def fails(
        kind: type[Exception], match: str, table: Path = good, out: Path = tmp_path / "out", **options: Any
    ) -> None:
        with pytest.raises(kind, match=match):
            sample_imagery(table, out, ImageryOptions(**{"catalog": catalog, **options}), progress=False, retries=0)

    fails(DataError, "cannot be read as a table", tmp_path / "none.parquet")
    pd.DataFrame({"longitude": [1.0]}).to_parquet(tmp_path / "bare.parquet")
    fails(DataError, "no column sample_id, latitude", tmp_path / "bare.parquet")
    twice = occurrences(tmp_path / "twice.parquet", [*lon, *lon], [*lat, *lat])
    pd.read_parquet(twice).assign(sample_id="a").to_parquet(twice)
    fails(DataError, "'a' comes more than once", twice)
    fails(DataError, "no sample can be placed", occurrences(tmp_path / "pole.parquet", [0.0], [90.0]))
    fails(ConfigError, "--bands", bands=("B1",))
    fails(ConfigError, "--year", year="2004")
    fails(ConfigError, "--sign", sign="nobody")
    fails(ConfigError, "cannot be loaded", sign="nobody:sign")
    fails(DataError, "--catalog is to be", catalog=str(tmp_path / "no.json"))
    (tmp_path / "file").write_text("")
    fails(DataError, "cannot be written", out=tmp_path / "file")
    fails(DataError, "cannot be written", out=tmp_path / "file" / "below")
    empty = World(tmp_path / "empty")
    fails(DataError, "no scene that can be read among 0 items", catalog=str(empty.catalog()))


def test_the_precision_of_coordinates_decides(world: World) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    lon, lat = at([(30, 30)] * 3)
    table = occurrences(world.folder.parent / "o.parquet", lon, lat, precision=["imagery", "environment", "unknown"])
    report = sample_imagery(
        table, world.folder.parent / "out", ImageryOptions(str(world.catalog())), progress=False
    )  # fmt: skip
    assert report.samples == 2
    assert sum(report.refused.values()) == 1


def test_the_command_reports_and_writes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.scene("S2A_1", "2020-03-05T10:00:00Z")
    world.links = ["./gone.json"]
    lon, lat = at([(30, 30)])
    base = world.folder.parent
    table = base / "points.csv"
    pd.DataFrame({"sample_id": ["a"], "longitude": lon, "latitude": lat, "year": 2020}).to_csv(table, index=False)
    arguments = ["--occurrences", str(table), "--catalog", str(world.catalog()), "--out", str(base / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 points in 1 parts" in printed
    assert "1 links lead nowhere" in printed
    assert "imagery.json" in printed
    document = json.loads((base / "out" / "imagery.json").read_text())
    assert (document["bands"], document["steps"], document["size"]) == (list(BANDS), 12, 5)
    assert document["parts"][0]["rows"] == 1
    (world.folder / "S2A_1.json").unlink()
    with pytest.raises(DataError, match="no scene that can be read"):
        main(arguments)
