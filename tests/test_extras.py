"""A minimal install: what it cannot do, it says with the extra that is missing; no command ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from geotreeclip.errors import EXTRAS, run_main

ROOT = Path(__file__).parents[1]
BLOCK = """
import sys

class Absent:
    # Other libraries look whether a module is installed and then want it, so only this package is kept from it.
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while 'importlib' in frame.f_code.co_filename:
            frame = frame.f_back
        if name.partition('.')[0] in {missing!r} and frame.f_globals.get('__name__', '').startswith('geotreeclip'):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Absent())
sys.argv = {argv!r}
"""
CLI = "from geotreeclip.cli import main; sys.exit(main(sys.argv[1:]))"


def without(*missing: str, argv: list[str], start: str = CLI, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where modules cannot be imported."""
    code = BLOCK.format(missing=set(missing), argv=["geotreeclip", *argv]) + start
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)


def script(name: str) -> str:
    return f"import runpy; runpy.run_path({str(ROOT / name)!r}, None, '__main__')"


def test_the_table_of_extras_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    always = {entry.split(">")[0].split("[")[0].casefold() for entry in project["dependencies"]}
    modules: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(distribution.casefold(), set()).add(module)
    listed = {
        name: {entry.split(">")[0].split("[")[0].casefold() for entry in entries} for name, entries in extras.items()
    }
    for extra in ("train", "prep", "map", "earthengine", "eval"):
        for distribution in listed[extra] - {"geotreeclip"} - always:
            known = modules.get(distribution)
            if known:  # what is not installed here cannot be told
                assert known & EXTRAS.keys(), f"{distribution} of [{extra}] is not in geotreeclip.errors.EXTRAS"
    assert set(EXTRAS.values()) <= extras.keys()


def test_a_missing_library_is_one_line(capsys):
    def needs(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert run_main(lambda: needs("sklearn.ensemble")) == 2
    assert capsys.readouterr().err == "error: this needs sklearn: pip install 'geotreeclip[eval]'\n"
    with pytest.raises(ModuleNotFoundError):  # a defect of ours, not of the install
        run_main(lambda: needs("geotreeclip.nothing"))


@pytest.mark.parametrize(
    ("missing", "argv", "start", "wanted"),
    [
        (("rasterio",), ["map", "stack.tif", "--model", "MODEL", "--out", "map.tif"], CLI, "geotreeclip[map]"),
        (("rasterio",), ["demo", "--region", "--out", "region"], CLI, "geotreeclip[prep]"),
        (("rasterio", "pyproj"), ["demo", "--raw", "--out", "raw"], CLI, "geotreeclip[prep]"),
        (
            ("pystac", "rasterio"),
            ["classify", "points.csv", "--model", "MODEL", "--source", "stac:x", "--year", "2020", "--out", "o.csv"],
            CLI, "geotreeclip[prep]",
        ),
        (
            ("rasterio",), ["classify", "points.csv", "--model", "MODEL", "--rasters", ".", "--out", "o.csv"], CLI,
            "geotreeclip[prep]",
        ),
        (
            ("rasterio",), ["--occurrences", "points.csv", "--rasters", ".", "--table", "env.parquet"],
            script("data_prep/environment.py"), "geotreeclip[prep]",
        ),
    ],
    ids=["map", "region", "raw", "source", "rasters", "environment"],
)  # fmt: skip
@pytest.mark.slow
def test_commands_name_the_extra(missing, argv, start, wanted, tiny_model_dir, tmp_path):
    (tmp_path / "points.csv").write_text("sample_id,longitude,latitude,year\na,10,50,2020\n")
    (tmp_path / "stack.tif").write_bytes(b"II*\0")
    (tmp_path / "bio_1.tif").write_bytes(b"II*\0")
    done = without(
        *missing, argv=[str(tiny_model_dir) if part == "MODEL" else part for part in argv], start=start, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_what_a_minimal_install_can_do(tiny_model_dir, tmp_path):
    (tmp_path / "points.csv").write_text("longitude,latitude,elevation\n10,50,400\n11,51,\n")
    extra_only = sorted(EXTRAS)
    command = ["classify", "points.csv", "--model", str(tiny_model_dir), "--device", "cpu", "--out", "answers.csv"]
    done = without(*extra_only, argv=command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 11
    for command in (["labels", "--model", str(tiny_model_dir)], ["card", "--size", "small"]):
        assert without(*extra_only, argv=command, cwd=tmp_path).returncode == 0
