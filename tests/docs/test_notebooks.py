"""The notebooks: what is kept of them is small and tidy, and they run offline."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys

import pytest
from doc_blocks import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_small_and_tidy(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert f"notebooks/{path.name}" in SITE
    assert "/tmp/" not in text  # noqa: S108 - no trace of where it ran
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["execution_count"] is None
            for output in cell["outputs"]:
                assert output["output_type"] != "error"
                assert output.get("name") != "stderr"
                assert set(output.get("data", {})) <= {"text/plain", "image/png"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_one_after_the_other(path, tmp_path):
    """As plain Python, without the kernel that the slow test below needs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    program = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1", "GEOTREECLIP_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="pip install '.[docs]' brings what runs notebooks")
    pytest.importorskip("ipykernel", reason="pip install '.[docs]' brings the kernel of notebooks")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whatever wants the network finds none
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    notebook = runpy.run_path(str(FOLDER / "run.py"))["executed"](path, tmp_path)
    kept = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for fresh, old in zip(notebook.cells, kept, strict=True):
        if fresh.cell_type == "code":
            assert bool(fresh.outputs) == bool(old["outputs"]), fresh.source
