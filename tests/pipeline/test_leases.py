"""One run of a kind at a time: what a second one does, and what becomes of one that hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.places import ROOT
from tests.worlds.projects import edit, make_project, taken
from touchstone.errors import BusyError
from touchstone.pipeline import lease, runs
from touchstone.pipeline.opening import DONE, Outcome, opened
from touchstone.pipeline.runs import Run

HOLD = """
import sys, time
from pathlib import Path
from touchstone.pipeline import lease
from touchstone.runtime.processes import run, stopped_by_sigterm
with stopped_by_sigterm(), lease.hold(Path(sys.argv[1]), "key", "a run"):
    print("held", flush=True)
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    run([sys.executable, "-c", child, sys.argv[2]], cwd=Path("/"))
"""


ASK = """
import sys
from pathlib import Path
from touchstone.pipeline import lease
print(flush=True)
while True:
    lease.is_free(Path(sys.argv[1]), "key")
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lease and waits for a child that never ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), str(tmp_path / "child")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    end = time.monotonic() + 30
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lease_that_has_not_expired_is_left_alone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert not lease.expire(tmp_path, "key", 1.0)
    assert not lease.wait(tmp_path, "key", 0.3)
    assert holder.poll() is None


@pytest.mark.parametrize("hangs", [False, True])
def test_a_run_whose_lease_has_expired_is_ended_with_all_that_it_started(
    tmp_path: Path, holder: subprocess.Popen[str], hangs: bool
) -> None:
    if hangs:
        holder.send_signal(signal.SIGSTOP)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    time.sleep(1.1)  # the note has whole seconds
    assert lease.expire(tmp_path, "key", 1e-6, grace=1.0 if hangs else 30.0)
    assert not psutil.pid_exists(holder.pid)
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    with lease.hold(tmp_path, "key", "the next run"):
        pass


def test_who_asks_whether_a_lease_is_free_keeps_nobody_from_it(tmp_path: Path) -> None:
    with lease.hold(tmp_path, "key", "a run"):
        pass
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", ASK, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        for _ in range(20):
            with lease.hold(tmp_path, "key", "a run"):
                pass
    finally:
        process.kill()
        process.communicate()


# What a second run of the same does.


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project", symlinks=True))


@pytest.mark.slow
def test_a_second_run_of_the_same_is_left_to_the_first(project: Path) -> None:
    with taken(project) as first, opened(project, []) as second:
        assert isinstance(second, Outcome)
        assert (second.code, second.verdict) == (DONE, "nothing")
        assert second.reason.startswith("Nothing to do: a run of the same data, code and parameters")
    assert first.record()["status"] == "running", "the second touches nothing of the first"


@pytest.mark.slow
def test_a_second_run_of_the_same_may_wait_for_the_first(project: Path) -> None:
    edit(project / "params.yaml", "when_busy: leave", "when_busy: wait")
    with ExitStack() as stack:
        with runs.drafted(project, []) as draft:
            first = runs.take(draft, stack)
        threading.Timer(2.0, stack.pop_all().close).start()
        with opened(project, []) as second:
            assert isinstance(second, Run)
            assert second.id != first.id
            assert not first.workspace.exists()


@pytest.mark.slow
def test_a_second_run_does_not_wait_for_ever(project: Path) -> None:
    edit(project / "params.yaml", "when_busy: leave", "when_busy: wait")
    edit(project / "params.yaml", "wait_minutes: 720.0", "wait_minutes: 0.01")
    with taken(project), pytest.raises(BusyError, match="is under way"), opened(project, []):
        pass
