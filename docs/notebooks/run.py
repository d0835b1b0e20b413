"""Run the notebooks of this folder and keep what they print: python docs/notebooks/run.py [NAME.ipynb ...].

Progress, warnings and rich tables are left out, so that files stay small and differ only where answers do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
_KEPT = ("image/png", "text/plain")


def executed(path: Path, folder: Path) -> Any:
    """The notebook with fresh outputs; raises CellExecutionError where a cell fails.

    Args:
        path: The notebook; it is not changed.
        folder: Where it runs.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return tidied(notebook)


def tidied(notebook: Any) -> Any:
    """The notebook with text and pictures as its only outputs, and no trace of when it ran."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "data" in output:
                kind = next((kind for kind in _KEPT if kind in output.data), None)
                output.data = {kind: output.data[kind]} if kind else {}
                output.metadata = {}
            if "execution_count" in output:
                output.execution_count = None
    return notebook


def main(names: list[str]) -> int:
    """Run all notebooks, or those named, and write them."""
    import nbformat

    for path in [Path(name) for name in names] or NOTEBOOKS:
        print(f"{path.name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
