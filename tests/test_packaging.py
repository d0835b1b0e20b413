"""What is installed is what is in the source: modules, the page's files, the mark of typed packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_needed(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "geotreeclip", source / "geotreeclip", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("geotreeclip-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("geotreeclip/")}
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "geotreeclip = geotreeclip.cli:main" in archive.read(metadata).decode()
        assert (
            archive.read("geotreeclip/page/static/index.html")
            == (ROOT / "geotreeclip/page/static/index.html").read_bytes()
        )
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "geotreeclip").rglob("*") if path.is_file()}
    wanted = {name for name in kept if "__pycache__" not in name}
    assert inside == wanted
