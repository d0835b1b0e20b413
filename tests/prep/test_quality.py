"""The quality report: right numbers, violations named, a page that needs nothing but itself."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pyproj")
from pack_helpers import environment, imagery, occurrences

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.errors import DataError
from geotreeclip.prep import pack_cli
from geotreeclip.prep.pack import PackOptions, pack_samples
from geotreeclip.prep.pack_join import Inputs
from geotreeclip.prep.quality import measure_quality
from geotreeclip.prep.quality_page import write_quality
from geotreeclip.schema import BANDS, MISSING_DN, VARIABLE_INDEX, VARIABLE_NAMES, VARIABLES
from geotreeclip.taxonomy import Taxon


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    frame = occurrences(tmp_path / "occurrences.parquet", 90)
    imagery(tmp_path / "imagery", frame.iloc[5:])
    environment(tmp_path / "environment.parquet", frame)
    return Inputs(*(str(tmp_path / name) for name in ("occurrences.parquet", "imagery", "environment.parquet")))


def test_the_numbers_are_those_of_the_set_in_either_format(tmp_path: Path, inputs: Inputs) -> None:
    pack_samples(inputs, tmp_path / "packed", PackOptions(shard_samples=40), progress=False)
    report, arrays = measure_quality(tmp_path / "packed")
    data = PackedDataset(tmp_path / "packed")
    batch, samples = data.read(np.arange(len(data))), data.samples()
    valid = batch.images != MISSING_DN
    np.testing.assert_allclose(arrays.valid, valid.mean(axis=(0, 3, 4)))
    seen = valid.any(axis=(2, 3, 4))
    assert [entry["samples"] for entry in report["imagery"]["steps"].values()] == seen.sum(axis=0).tolist()
    assert report["imagery"]["samples_by_number_of_steps"] == np.bincount(seen.sum(axis=1), minlength=13).tolist()
    b8 = batch.images[:, :, BANDS.index("B8")]
    held = b8[b8 != MISSING_DN]
    entry = report["imagery"]["bands"]["B8"]
    assert (entry["minimum"], entry["maximum"]) == (held.min(), held.max())
    assert entry["p50"] == pytest.approx(np.percentile(held, 50), abs=2)
    assert entry["missing_rate"] == pytest.approx(1 - held.size / b8.size)
    rain = batch.environment[:, VARIABLE_INDEX["bio12"]]
    found = report["environment"]["bio12"]
    assert found["missing_rate"] == pytest.approx(np.isnan(rain).mean())
    assert found["maximum"] == np.nanmax(rain)
    assert found["p50"] == pytest.approx(np.nanmedian(rain), abs=14000 / 40)
    assert report["taxa"]["species"] == 4
    assert report["taxa"]["most_frequent"] == samples["taxon"].map(
        {row: taxon.species for row, taxon in enumerate(data.taxonomy)}
    ).value_counts().to_dict()  # fmt: skip
    assert sum(entry["samples"] for entry in report["taxa"]["rarity_in_this_set"].values()) == 85
    assert report["year_differences"] == {
        str(k): v for k, v in sorted(samples["year_difference"].value_counts().items())
    }
    assert report["places"]["moved_to_land"]["samples"] == (samples["coast_km"] > 0).sum()
    assert report["packing"]["left_out"] == {"no imagery": 5}
    assert report["warnings"] == []
    pack_samples(inputs, tmp_path / "published", PackOptions("published", 40, worldclim1=True), progress=False)
    other, _ = measure_quality(tmp_path / "published")
    assert other["imagery"] == report["imagery"]
    assert other["taxa"] == report["taxa"]
    for name in VARIABLE_NAMES:
        for key in ("minimum", "p50", "maximum", "missing_rate"):
            assert other["environment"][name][key] == pytest.approx(report["environment"][name][key], rel=1e-3)


def test_the_page_needs_nothing_but_itself_and_escapes_what_it_shows(tmp_path: Path, inputs: Inputs, capsys) -> None:
    frame = pd.read_parquet(inputs.occurrences)
    frame["source"] = '<script src="https://example.org/x.js"></script>'
    frame.to_parquet(inputs.occurrences)
    command = ["--occurrences", inputs.occurrences, "--imagery", inputs.imagery, "--environment", inputs.environment]
    assert pack_cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "quality.html").read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == 7
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    bare = re.sub(r"base64,[^\"]*", "", page)
    assert "<script" not in bare
    assert not re.search(r'(?:src|href)="(?!data:)', bare)
    assert "&lt;script" in bare
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["samples"] == 85
    assert "quality of 85 samples" in capsys.readouterr().out
    PackedDataset(tmp_path / "out").verify()


def packed(path: Path, count: int = 40, images: np.ndarray | None = None, **changes: float) -> Path:
    values = np.tile([(variable.low + variable.high) / 2 for variable in VARIABLES], (count, 1))
    values[:, 0] = np.arange(count)
    for name, value in changes.items():
        values[3, VARIABLE_INDEX[name]] = value
    with PackedWriter(path, None, has_images=images is not None) as writer:
        taxa = [Taxon("", "", "Acer", "Acer rubrum" if row % 2 else "Acer negundo") for row in range(count)]
        writer.add(images, values, taxa, [f"s{row}" for row in range(count)])
    return path


def test_values_beyond_the_schema_are_named_with_their_first_sample(tmp_path: Path) -> None:
    report, _ = measure_quality(packed(tmp_path / "out", bio05=253.0, slope=-1.0))
    assert report["environment"]["bio05"]["above"] == report["environment"]["slope"]["below"] == 1
    assert any("bio05: 1 values outside -40 to 56 degC, first at sample s3" in text for text in report["warnings"])
    assert any(text.startswith("slope: 1 values outside") for text in report["warnings"])


def test_an_offset_left_in_zeros_and_empty_months_stand_out(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(1001, 5000, (40, 12, 10, 5, 5)).astype(np.uint16)
    images[:, 1] = MISSING_DN
    report, _ = measure_quality(packed(tmp_path / "offset", images=images))
    assert any("offset of 1000 looks as if it had not been removed" in text for text in report["warnings"])
    assert any("no sample has a clear pixel in Feb" in text for text in report["warnings"])
    images -= np.where(images == MISSING_DN, 0, 1000).astype(np.uint16)
    images[0, 0, 3, 0, 0] = 0
    report, _ = measure_quality(packed(tmp_path / "sound", images=images))
    assert not any("offset" in text for text in report["warnings"])
    assert any("band B8: 1 zeros" in text for text in report["warnings"])


def test_repeated_places_are_counted_by_taxon(tmp_path: Path) -> None:
    values = np.full((4, 27), np.nan)
    values[:, 0], values[:, 1] = [10.00001, 10.00002, 10.00001, -10.0], [5, 5, 5, 5]
    taxa = [Taxon(species="Acer rubrum"), Taxon(species="Acer rubrum"), Taxon(species="Pinus mugo"), Taxon("", "", "A")]
    with PackedWriter(tmp_path / "out", None, has_images=False) as writer:
        writer.add(None, values, taxa, list("abcd"))
    report, _ = measure_quality(tmp_path / "out")
    assert report["duplicates"] == {"sample_ids": 0, "same_place_and_taxon": 1, "same_place_other_taxon": 1}
    assert report["taxa"]["without_species"] == 1
    assert write_quality(tmp_path / "out")["samples"] == 4


def test_what_is_no_finished_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        measure_quality(tmp_path / "absent")
    (tmp_path / "half" / ".pack").mkdir(parents=True)
    with pytest.raises(DataError, match="packing is not finished"):
        measure_quality(tmp_path / "half")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "published.json").write_text("{}")
    with pytest.raises(DataError, match=r"published\.json: cannot be read"):
        measure_quality(tmp_path / "odd")
