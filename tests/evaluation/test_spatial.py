"""The spatial benchmark: cells, resuming, pooling and differences, on a tiny set with known structure."""

from pathlib import Path

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import ConfigError, GeotreeclipError
from geotreeclip.evaluation import baselines, spatial, spatial_cli
from geotreeclip.evaluation.report import read_report
from geotreeclip.schema import VARIABLE_INDEX, VARIABLES
from geotreeclip.taxonomy import Taxon

QUICK = {"sizes": (0.0,), "main_size": 1500.0, "buffer_km": 50.0, "folds": 3, "seeds": (0, 1)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clumps of 6 trees whose taxon follows a climate variable."""
    rng = np.random.default_rng(0)
    clump = np.repeat(np.arange(40), 6)
    environment = np.full((len(clump), len(VARIABLES)), np.nan, dtype=np.float32)
    environment[:, 0] = rng.uniform(-120, 120, 40)[clump] + rng.normal(0, 0.05, len(clump))
    environment[:, 1] = rng.uniform(-50, 50, 40)[clump] + rng.normal(0, 0.05, len(clump))
    warmth = rng.uniform(0, 4, 40)[clump]
    environment[:, VARIABLE_INDEX["bio01"]] = warmth
    taxa = [Taxon(genus="Acer", species=f"Acer sp{int(value)}") for value in warmth]
    out = tmp_path_factory.mktemp("packed") / "clumps"
    with PackedWriter(out, has_images=False, shard_samples=100, chunk_samples=50) as writer:
        writer.add(None, environment, taxa, [f"s{number}" for number in range(len(clump))])
    return out


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(baselines.FOREST, "n_estimators", 10)


def oracle(cell: spatial.Cell, dataset: PackedDataset, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A network that is right, but for every fourth sample with seed 1."""
    log_prob = np.full((len(test), len(labels)), -9.0, dtype=np.float32)
    column = np.searchsorted(labels, dataset.taxa[test])
    wrong = (test % 4 == 0) & (cell.seed == 1)
    log_prob[np.arange(len(test)), np.where(wrong, (column + 1) % len(labels), column)] = 0
    return log_prob


def test_a_run_pools_folds_compares_and_does_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\n")
    fitted = []
    monkeypatch.setattr(spatial, "_network", lambda *given: (fitted.append(given[0]), oracle(*given))[1])
    benchmark = spatial.Benchmark(data=data, out=tmp_path / "out", recipe=("--config", str(recipe)), **QUICK)
    pooled = spatial.run_benchmark(benchmark, say=lambda text: None)
    assert len(fitted) == 2 * 3 * 2  # geometries, folds, seeds
    for item in pooled:
        assert sorted(item.sample_id) == sorted(PackedDataset(data).samples()["sample_id"])
        assert item.context.fold is None
    rows = spatial.report_rows(benchmark, pooled, resamples=100)
    main = [row for row in rows if row["split"] == "blocks1500-buffer50" and row["rank"] == "species"]
    top1 = {
        (row["system"], row["seed"], row["method"]): row["value"]
        for row in main
        if row["metric"] == "top1" and row["fold"] is None and row["group"] == "all"
    }
    forest = [
        top1["random forest", seed, text] for (name, seed, text) in top1 if name == "random forest" and seed in (0, 1)
    ]
    network = [top1["geotreeclip", seed, None] for seed in (0, 1)]
    assert network == [1, pytest.approx(0.75)]
    difference = {
        row["seed"]: (row["value"], row["low"], row["high"]) for row in main if row["metric"] == "top1_difference"
    }
    assert difference[0][0] == pytest.approx(1 - forest[0])
    assert difference[None][0] == pytest.approx(0.875 - np.mean(forest))
    assert difference[None][1] <= difference[None][0] <= difference[None][2]
    assert top1["geotreeclip", None, "mean of seeds"] == pytest.approx(0.875)
    by_fold = [row for row in main if row["fold"] is not None and row["system"] == "geotreeclip"]
    assert len(by_fold) == 6

    (lost,) = [cell for cell in benchmark.cells() if cell.system == "geotreeclip" and cell.fold == 2 and cell.seed == 1
               and cell.geometry == benchmark.main]  # fmt: skip
    before = {cell.path: cell.path.stat().st_mtime_ns for cell in benchmark.cells() if cell != lost}
    lost.path.unlink()
    fitted.clear()
    again = spatial.run_benchmark(benchmark, say=lambda text: None)
    assert fitted == [lost]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for one, two in zip(pooled, again, strict=True):
        np.testing.assert_array_equal(one.hits(1), two.hits(1))


def test_the_command_writes_report_page_and_plot(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--out", str(out), "--sizes", "0", "--main-size", "1500", "--buffer-km", "50"]
    assert spatial_cli.main([*arguments, "--folds", "3", "--seeds", "0", "--resamples", "50"]) == 0
    assert "| random forest" in capsys.readouterr().out
    meta, rows = read_report(out / "report.json")
    assert {row["system"] for row in rows} == set(baselines.BASELINES)
    assert meta["folds"].startswith("3, the same")
    assert (out / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "![curve](curve.png)" in (out / "report.md").read_text()
    with pytest.raises(ConfigError, match="holds a benchmark with another folds"):
        spatial_cli.main([*arguments, "--folds", "4", "--seeds", "0"])
    with pytest.raises(ConfigError, match=r"need --config"):
        spatial_cli.main([*arguments, "--epochs", "3"])


def test_a_split_of_the_same_name_with_other_folds_is_refused(data: Path, tmp_path: Path) -> None:
    benchmark = spatial.Benchmark(data=data, out=tmp_path / "out", **{**QUICK, "main_size": 2000.0})
    dataset = PackedDataset(data)
    path = spatial.ensure_split(dataset, benchmark, benchmark.main)
    assert path.name == "blocks2000-buffer50.parquet"
    assert spatial.ensure_split(dataset, benchmark, benchmark.main) == path
    other = spatial.Benchmark(data=data, out=tmp_path / "out", split_seed=9, **{**QUICK, "main_size": 2000.0})
    with pytest.raises(GeotreeclipError, match="is another split"):
        spatial.ensure_split(dataset, other, other.main)


def test_cells_leave_nothing_of_the_test_in_training(data: Path, tmp_path: Path) -> None:
    benchmark = spatial.Benchmark(data=data, out=tmp_path, **QUICK)
    dataset = PackedDataset(data)
    spatial.ensure_split(dataset, benchmark, benchmark.main)
    cell = spatial.Cell(data, tmp_path, benchmark.main, 1, "location neighbours", None)
    (part,) = spatial.read_predictions(spatial.fit_cell(cell).path)
    test = dataset.split(benchmark.main.name, 1, "test")
    assert part.sample_id.tolist() == dataset.sample_ids(test)
    assert part.block is not None
    train = np.concatenate([dataset.split(benchmark.main.name, 1, role) for role in ("train", "validation")])
    assert not set(train) & set(test)
