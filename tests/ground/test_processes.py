"""Commands that are spoken to line by line, and leave nothing behind however the conversation ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.places import ROOT
from touchstone.runtime import processes

ECHO = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)"
FORKING = """
import os, sys, time
if os.fork() == 0: time.sleep(600)
print('ready', flush=True)
sys.stdin.read()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(marker: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or [])]


def test_each_line_is_answered_and_the_command_ends_with_the_block() -> None:
    before = set(psutil.Process().children(recursive=True))
    with processes.dialogue(python(ECHO)) as echo:
        for word in ("pot", "egg timer", "x" * 200_000):
            echo.send(word)
            assert echo.receive() == word[::-1]
        assert echo.receive(0.1) is None
    assert set(psutil.Process().children(recursive=True)) <= before


def test_one_that_has_ended_is_silent_and_says_why() -> None:
    with processes.dialogue(python("import sys; sys.stderr.write('error: no eggs\\n'); sys.exit(3)")) as failing:
        assert failing.receive() is None
        failing.send("anybody there?")
        finished = failing.finish()
    assert (finished.code, finished.complaint) == (3, "no eggs")


def test_what_it_forked_ends_with_its_caller_even_if_that_is_killed(tmp_path: Path) -> None:
    marker = f"dialogue-{tmp_path.name}-{os.getpid()}"
    caller = f"""
import time
from touchstone.runtime import processes
with processes.dialogue({[*python(FORKING), marker]!r}) as command:
    print(command.receive(), flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", caller], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # The supervisor, the command and its child.
        assert len([p for p in alive(marker) if p.pid != process.pid]) == 3
        process.send_signal(signal.SIGKILL)
    until(lambda: not alive(marker))
