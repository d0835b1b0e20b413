"""A small packed set, and runs in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geotreeclip.data.writer import PackedWriter
from geotreeclip.taxonomy import Taxon

TAXA = [Taxon("a", f"F{i // 4}", f"G{i // 2}", f"G{i // 2} s{i}") for i in range(8)]


@pytest.fixture(autouse=True)
def _denormals():
    """Training on a processor rounds denormal numbers to 0 for the whole process; other tests need them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """160 samples of 8 taxa that differ in brightness; some months and variables are missing."""
    path = tmp_path_factory.mktemp("packed") / "data"
    generator = np.random.default_rng(0)
    taxon = generator.integers(0, 8, 160)
    images = generator.normal(1000 + 300 * taxon[:, None, None, None, None], 80, (160, 12, 10, 5, 5))
    images = images.clip(1, 9000).astype(np.uint16)
    images[generator.random((160, 12)) < 0.2] = 65535
    environment = generator.random((160, 27)).astype(np.float32) * 30
    environment[generator.random((160, 27)) < 0.1] = np.nan
    environment[:, :2] = generator.uniform(-60, 60, (160, 2))
    with PackedWriter(path, None, chunk_samples=64) as writer:
        writer.add(images, environment, [TAXA[i] for i in taxon], [f"s{i}" for i in range(160)])
    return path


@pytest.fixture
def forked(data):
    """Runs a task of `forked.py`; gives what it printed last as JSON, and what it wrote to standard error."""

    def run(task, out):
        command = [sys.executable, str(Path(__file__).with_name("forked.py")), task, str(data), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run
