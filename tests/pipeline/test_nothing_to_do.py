"""A retrain that has nothing to do says so soon."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import make_project
from tests.worlds.registered import NAME, artifact, open_registry
from touchstone.pipeline import runs

SECONDS = 3.0
COMMAND = """
import sys
from flows.__main__ import main
code = main([])
print({"prefect", "mlflow"} & {*sys.modules})
sys.exit(code)
"""


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A project whose run has ended with a version."""
    root = make_project(tmp_path / "project")
    registry = open_registry(root)
    with ExitStack() as stack:
        with runs.drafted(root, []) as draft:
            run = runs.take(draft, stack)
        registry.set_alias(NAME, "champion", registry.publish(NAME, run.fingerprint, artifact(0)).version, None)
        run.note(status="finished", outcome="promoted", reason="it is better")
    return root


def _seconds_of(words: list[str], cwd: Path) -> tuple[float, str]:
    """Processor seconds of a command: how busy the machine is doesn't count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.slow
def test_nothing_to_do_takes_seconds_and_imports_neither_prefect_nor_mlflow(ended: Path) -> None:
    _seconds_of(["-c", COMMAND], ended)  # whatever is compiled or read for the first time
    seconds, answer = _seconds_of(["-c", COMMAND], ended)
    assert answer.startswith(f"Nothing to do: {NAME} version 1 comes from the same data, code and parameters")
    assert answer.endswith("set()\n")
    assert seconds < SECONDS
