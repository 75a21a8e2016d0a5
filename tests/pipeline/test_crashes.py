"""A handful of cells of the crash matrix (`python -m benchmarks.crashes` runs them all)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "count"),
    [
        (["release", "--every", "12"], 3),
        (["inbox", "--every", "6"], 2),
        # Landed, and killed before anything says so: the run that finishes it is another than the one that landed.
        pytest.param(["release", "--at", "steps:release"], 2, marks=pytest.mark.long),
        # A move of the champion that was decided, and not made.
        pytest.param(["release", "--at", "set_registered_model_alias"], 4, marks=pytest.mark.long),
        # A command of a person, who gives it again.
        pytest.param(["promote", "--at", "create_model_version"], 1, marks=pytest.mark.long),
    ],
)
def test_a_rerun_makes_good_what_a_kill_left(tmp_path: Path, cells: list[str], count: int) -> None:
    files = ["--result", str(tmp_path / "r"), "--page", str(tmp_path / "p")]
    command = [sys.executable, "-m", "benchmarks.crashes", "--only", *cells, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    answer = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    assert answer == f"RESULT cells={count} right={count} orphans=0", done.stdout + done.stderr[-3000:]
