"""Runs a notebook as somebody would from its first cell to its last.

    .venv-docs/bin/python scripts/notebook.py examples/pairs_to_decision.ipynb           # fails where a cell does
    .venv-docs/bin/python scripts/notebook.py --update examples/pairs_to_decision.ipynb  # and keeps what was printed

It needs .venv-docs/ (`make docs`); the commands in its cells are those of .venv/.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Execute, and write the outputs where that is wanted; else print them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--update", action="store_true", help="write the outputs into the file")
    parser.add_argument("--project", type=Path, default=ROOT, help="the checkout that it copies")
    given = parser.parse_args()
    commands = Path(os.environ.get("TOUCHSTONE_VENV", ROOT / ".venv")) / "bin"
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"
    notebook = nbformat.read(given.notebook, as_version=4)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")  # no port that others could reach
    place = {"metadata": {"path": str(given.project)}}
    client = NotebookClient(notebook, km=kernel, timeout=1800, resources=place)
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the clock
    if given.update:
        notebook.metadata["language_info"] = {"name": "python"}  # and not the version of this machine's
        nbformat.write(notebook, given.notebook)
        return
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            sys.stdout.write(output.get("text", ""))


if __name__ == "__main__":
    main()
