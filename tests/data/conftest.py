"""A small set of samples with missing months, pixels and variables, in every form that the data modules know."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest

from geotreeclip.data.packed import PackedDataset, PackedWriter
from geotreeclip.data.published import PublishedSample
from geotreeclip.schema import MISSING_DN, VARIABLE_NAMES
from geotreeclip.taxonomy import Taxon, Taxonomy

TAXA = [
    Taxon("Deciduous Broadleaf", "Fagaceae", "Quercus", "Quercus robur"),
    Taxon("Deciduous Broadleaf", "Fagaceae", "Fagus", "Fagus sylvatica"),
    Taxon("Evergreen Needleleaf", "Pinaceae", "Pinus", "Pinus sylvestris"),
]


def climate(rng, count):
    """Environment [count, 27] in WorldClim 2.1 units, with missing values."""
    environment = rng.uniform(5, 20, (count, 27))
    environment[:, 0] = rng.uniform(-180, 180, count)
    environment[:, 1] = rng.uniform(-60, 60, count)
    environment[:, VARIABLE_NAMES.index("bio04")] = rng.uniform(300, 900, count)
    environment[:, VARIABLE_NAMES.index("bio07")] = rng.uniform(15, 40, count)
    environment[rng.random((count, 27)) < 0.1] = np.nan
    environment[:, VARIABLE_NAMES.index("bio07")] = rng.uniform(15, 40, count)
    return environment


def to_worldclim1(environment):
    environment = environment.copy()
    for number in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11):
        environment[:, VARIABLE_NAMES.index(f"bio{number:02d}")] *= 10
    return environment


@pytest.fixture(scope="session")
def samples():
    """45 samples as arrays."""
    rng = np.random.default_rng(3)
    count = 45
    images = rng.integers(0, 12000, (count, 12, 10, 5, 5)).astype(np.uint16)
    images[rng.random((count, 12)) < 0.2] = MISSING_DN
    images[rng.random(images.shape) < 0.01] = MISSING_DN
    return SimpleNamespace(
        count=count,
        images=images,
        environment=climate(rng, count).astype(np.float32),
        taxa=rng.integers(0, len(TAXA), count),
        ids=[f"s{number}" for number in range(count)],
        taxonomy=Taxonomy(TAXA),
    )


@pytest.fixture
def write_packed(samples):
    """Writes the samples in uneven calls, in chunks of 8 and shards of 16."""

    def write(directory, **options):
        options = {"taxonomy": samples.taxonomy, "chunk_samples": 8, "shard_samples": 16, **options}
        with PackedWriter(directory, options.pop("taxonomy"), **options) as writer:
            for start in range(0, samples.count, 7):
                part = slice(start, start + 7)
                writer.add(samples.images[part], samples.environment[part], samples.taxa[part], samples.ids[part])
        return directory

    return write


@pytest.fixture
def packed(write_packed, tmp_path):
    return PackedDataset(write_packed(tmp_path / "packed"))


@pytest.fixture(scope="session")
def published_samples():
    """Makes samples as published: WorldClim 1 units, half digital numbers, NaN where missing."""

    def make(count, first=0, seed=5):
        rng = np.random.default_rng([seed, first])
        environment = to_worldclim1(climate(rng, count))
        result = []
        for row in range(count):
            images = rng.integers(0, 24000, (12, 10, 5, 5)) / 2
            images[rng.random(12) < 0.2] = np.nan
            images[rng.random(images.shape) < 0.01] = np.nan
            key = str(first + row)
            result.append(PublishedSample(key, images, environment[row], TAXA[row % 3], key, ""))
        return result

    return make


class Tar:
    """Writes a published shard member by member, so that any of them can be wrong."""

    def __init__(self, path):
        self.path = path
        self.archive = tarfile.open(path, "w")  # noqa: SIM115 - closed by close()

    def member(self, name, data=b"", **fields):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        self.archive.addfile(info, io.BytesIO(data) if data else None)
        return self

    def parts(self, sample):
        """The three members of a sample, as suffix -> bytes."""
        import torch

        stream = io.BytesIO()
        torch.save(torch.from_numpy(np.array(sample.images)), stream)
        values = {name: None if np.isnan(v) else v for name, v in zip(VARIABLE_NAMES, sample.environment, strict=True)}
        ranks = ("level0", "level1_family", "level2_genus", "level3_species")
        return {
            "images.pth": stream.getvalue(),
            "text.json": json.dumps(dict(zip(ranks, sample.taxon, strict=True))).encode(),
            "auxiliary.json": json.dumps({"sample_id": sample.sample_id, **values}).encode(),
        }

    def sample(self, sample, **changed):
        """A sample; `images=`, `text=`, `auxiliary=` replace a member, None leaves it out."""
        for suffix, data in self.parts(sample).items():
            data = changed.get(suffix.split(".")[0], data)
            if data is not None:
                self.member(f"{sample.key}.{suffix}", data)
        return self

    def close(self):
        self.archive.close()
        return self.path


@pytest.fixture
def tar(tmp_path):
    return Tar(tmp_path / "GGT-000.tar")
