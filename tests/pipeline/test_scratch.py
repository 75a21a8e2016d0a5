"""Worktrees of single commands: gone at their end, and cleared by the next where somebody was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import make_project
from touchstone.pipeline import scratch, workspace

KILLED = """
import os, signal, sys
from pathlib import Path
from touchstone.pipeline import scratch, workspace
root, where = Path(sys.argv[1]), sys.argv[2]
if where == "before":
    workspace.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with scratch.worktree(root, workspace.head(root)) as place:
    (place.parent / "copies").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("scratch") / "project")


def _is_clear(root: Path) -> bool:
    left = [*(root / "runs").glob(".scratch/*"), *(root / "runs").glob("lease/scratch-*.json")]
    return not left and workspace.git(root, "worktree", "list").count("\n") == 0


def test_a_worktree_ends_with_its_block_and_spares_those_that_are_in_use(project: Path) -> None:
    with scratch.worktree(project, workspace.head(project)) as first:
        with scratch.worktree(project, workspace.head(project)) as second:
            assert (first / "dvc.yaml").is_file()
            assert (second / "dvc.yaml").is_file()
        scratch.clear(project)
        assert scratch.left(project) == []
        assert (first / "dvc.yaml").is_file()
    assert _is_clear(project)


@pytest.mark.parametrize("where", ["before", "within"])
def test_what_a_killed_command_left_is_found_and_cleared(project: Path, where: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(project), where], env=env, check=False)
    assert done.returncode < 0
    assert len(scratch.left(project)) == 1
    scratch.clear(project)
    assert _is_clear(project)
