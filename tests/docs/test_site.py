"""The documentation site: built without a warning, whole, and without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="pip install '.[docs]' brings what builds the site")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    offline = os.environ | {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def test_every_page_is_there(site):
    pages = re.findall(r"(\S+)\.(?:md|ipynb)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pages) > 20
    assert [name for name in pages if not (site / f"{name}.html").is_file()] == []


def test_nothing_comes_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"?https?:|<link[^>]+href=\"?https?:[^>]*>|url\(\"?https?:"
    )
    found = {
        path.name: hits
        for path in [*site.rglob("*.html"), *site.rglob("*.css")]
        if (hits := loads.findall(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_reference_shows_functions_and_their_arguments(site):
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for word in ("load", "classify", "top_k", "back_off", "build_observations"):
        assert word in page
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert "--explain" in commands
    notebook = (site / "notebooks" / "classify.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in notebook
