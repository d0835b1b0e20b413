"""Real scenes: a static catalog with dead links, rasters without georeference, and an offset that is not to be applied.

Skipped where the data are absent.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from imagery_world import at, occurrences, served

pytest.importorskip("rasterio")
pytest.importorskip("pystac")
import rasterio

from geotreeclip.prep.imagery.job import ImageryOptions, sample_imagery
from geotreeclip.prep.imagery.store import ImageryStore
from geotreeclip.schema import BANDS, MISSING_DN

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
STAC = REAL / "sentinel2" / "stac"
SCENES = ("S2A_33TWM_20230815_0_L2A", "S2B_33TWM_20230810_0_L2A", "S2B_33TWM_20230820_0_L2A")


@pytest.mark.skipif(not STAC.is_dir(), reason=f"no real scenes at {STAC}")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_two_hundred_points_over_http_equal_direct_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Pixels of 10 m of the tile 33TWM, whose corner is (499980, 5200020); in one square of 100 km.
    pixels = np.stack([rng.integers(60, 9990, 200), rng.integers(60, 9990, 200)], axis=1)
    lon, lat = at([tuple(pixel) for pixel in pixels], left=499_980, top=5_200_020)
    table = occurrences(tmp_path / "occurrences.parquet", lon, lat, 2023)
    bands = ("B2", "B3", "B4", "B8")
    with served(STAC) as (url, _):
        report = sample_imagery(
            table, tmp_path / "out", ImageryOptions(f"{url}/catalog.json", bands=bands), progress=False, retries=0
        )
    assert len(report.dead) == 7
    assert not report.lost
    assert report.scenes == 3
    assert list(report.offsets) == ["boa_offset_applied is true, +0"]
    store = ImageryStore(tmp_path / "out")
    images = dict(zip(store.sample_ids, store.read(np.arange(200)), strict=True))

    rasters = {}
    for scene in SCENES:
        for band in ("B02", "B03", "B04", "B08", "SCL"):
            with rasterio.open(next(STAC.glob(f"*/{scene}/{band}.tif"))) as source:
                assert source.shape == (915, 915)
                rasters[scene, band] = source.read(1)
    filled = 0
    for number, (column, row) in enumerate(pixels):
        # Twelve pixels of 10 m to a cell of 120 m, counted in integers.
        reach = np.arange(-6, 7)
        i, j = np.meshgrid((row + reach) // 12, (column + reach) // 12, indexing="ij")
        stack = []
        for scene in SCENES:
            classes = rasters[scene, "SCL"][i, j]
            hidden = np.zeros((5, 5), bool)
            for down in range(-4, 5):
                for right in range(-4, 5):
                    if down * down + right * right <= 16:
                        moved = classes[4 + down : 9 + down, 4 + right : 9 + right]
                        hidden |= (moved == 3) | (moved == 8) | (moved == 9)
            inner = classes[4:9, 4:9]
            clear = ~hidden & ~np.isin(inner, (0, 1, 3, 8, 9, 10, 11)) & (inner < 12)
            values = np.stack([rasters[scene, name][i[4:9, 4:9], j[4:9, 4:9]] for name in ("B02", "B03", "B04", "B08")])
            stack.append(np.where(clear & (values > 0), values, np.nan))
        known = ~np.isnan(stack).all(axis=0)
        median = np.full(known.shape, float(MISSING_DN))
        median[known] = np.rint(np.nanmedian(np.array(stack)[:, known], axis=0))
        np.testing.assert_array_equal(images[f"p{number}"][7, :4], median)
        filled += int(known.any())
    every = np.stack(list(images.values()))
    assert (every[:, 7, 4:] == MISSING_DN).all()
    assert (every[:, [month for month in range(12) if month != 7]] == MISSING_DN).all()
    assert filled > 150
    assert store.document["bands"] == list(BANDS)
