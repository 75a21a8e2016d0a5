"""Commands that are forked instead of started: python -m MODULE without loading the libraries again.

    with forked_commands("dvc", "touchstone.serving"):
        ...          # `touchstone.runtime.processes` runs these modules in forks of this process

Sessions, lifelines, the supervisor and its clearing up stay what they are; only the interpreter's start is saved.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from touchstone.runtime import processes, supervisor

LIFELINE = 3
LAST_DESCRIPTOR = 4096


class Fork:
    """As much of `subprocess.Popen` as those need who wait for a fork."""

    def __init__(self, pid: int, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            time.sleep(0.005)
        return code


@contextlib.contextmanager
def forked_commands(*modules: str) -> Iterator[None]:
    """Within, commands `python -m MODULE` of these modules are forks of whoever starts them."""
    original = processes._supervised

    @contextlib.contextmanager
    def supervised(
        command: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
        output: int,
        errors: int | None = None,
        source: int = subprocess.DEVNULL,
    ) -> Iterator[Any]:
        if list(command[:2]) != [sys.executable, "-m"] or command[2] not in modules:
            with original(command, cwd, env, output, errors, source) as process:
                yield process
            return
        lifeline, our_end = os.pipe()
        process = None
        try:
            process = _fork(command, cwd, env, output, errors, source, lifeline)
            os.close(lifeline)
            yield process
        finally:
            os.close(our_end)
            if process is not None:
                processes._wait(process)  # type: ignore[arg-type]
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()

    processes._supervised = supervised  # type: ignore[assignment]
    try:
        yield
    finally:
        processes._supervised = original


def _fork(
    command: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    output: int,
    errors: int | None,
    source: int,
    lifeline: int,
) -> Fork:
    """A supervisor in a session of its own, with the command below it."""
    read_from, write_to = os.pipe() if source == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), -1)
    read_back, written = os.pipe() if output == subprocess.PIPE else (-1, output)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            _descriptors(read_from, written, written if errors is None else errors, lifeline)
            supervisor.subprocess = SimpleNamespace(Popen=_popen(command, cwd, env))  # type: ignore[attr-defined]
            code = supervisor.main(LIFELINE, processes.GRACE_SECONDS, list(command))
        finally:
            os._exit(code)
    os.close(read_from)
    if output == subprocess.PIPE:
        os.close(written)
    stdin = os.fdopen(write_to, "wb", buffering=0) if write_to >= 0 else None
    return Fork(pid, stdin, os.fdopen(read_back, "rb", buffering=0) if read_back >= 0 else None)


def _popen(command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None) -> Any:
    """What the supervisor calls instead of `subprocess.Popen`: a fork that is the command."""

    def popen(_: Sequence[str], preexec_fn: Any) -> Fork:
        pid = os.fork()
        if pid:
            return Fork(pid)
        preexec_fn()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.closerange(LIFELINE, LAST_DESCRIPTOR)  # the lifeline is the supervisor's alone
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.argv = [command[2], *command[3:]]
        code: Any = 0
        try:
            runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                sys.stderr.write(code + "\n")
                code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(code or 0))

    return popen


def _descriptors(source: int, output: int, errors: int, lifeline: int) -> None:
    """Let the descriptors be 0, 1, 2 and LIFELINE, and close all others: one more lifeline would keep others alive."""
    kept = [os.dup(number) for number in (source, output, errors, lifeline)]
    high = [os.dup2(number, LAST_DESCRIPTOR + place, inheritable=False) for place, number in enumerate(kept)]
    os.closerange(0, LAST_DESCRIPTOR)
    for place, number in enumerate(high):
        os.dup2(number, place)
        os.close(number)
