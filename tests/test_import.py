"""Importing the package and asking for help load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geotreeclip.cli import COMMANDS

HEAVY = (
    "accelerate", "fsspec", "huggingface_hub", "jsonargparse", "matplotlib", "numpy", "open_clip", "pandas", "pyarrow",
    "rasterio", "safetensors", "scipy", "sklearn", "timm", "torch", "tqdm", "transformers", "xarray", "yaml",
)  # fmt: skip


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def loaded_after(code: str) -> set[str]:
    """Heavy modules in memory after running the code in a fresh process."""
    done = run(f"import sys\n{code}\nprint('MODULES', *sys.modules)")
    assert done.returncode == 0, done.stderr
    modules = done.stdout.rpartition("MODULES")[2].split()
    assert "geotreeclip" in modules
    return {module for module in HEAVY if module in modules}


def test_import_loads_nothing_heavy():
    assert loaded_after("import geotreeclip; dir(geotreeclip)") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments):
    code = f"from geotreeclip.cli import main\ntry: main({arguments})\nexcept SystemExit as end: assert not end.code"
    assert loaded_after(code) == set()


def test_every_public_name_can_be_loaded():
    import geotreeclip

    for name in geotreeclip.__all__:
        assert getattr(geotreeclip, name) is not None
    assert geotreeclip.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'classifi'"):
        _ = geotreeclip.classifi
