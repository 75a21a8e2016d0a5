"""Commands that leave nothing behind, however the caller ends: return, exception, Ctrl-C, SIGTERM, SIGKILL."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_SECONDS = 5.0
"""What a command has between SIGTERM and SIGKILL."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: like Ctrl-C, it must pass every `except Exception`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended: its exit code (128 + n for signal n), and stdout and stderr as one text."""

    code: int
    output: str

    @property
    def complaint(self) -> str:
        """That the disk is full, where it says so; else the command's own last sentence after `error:`, or its last
        line."""
        if full := full_disk(self.output):
            return full
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        complaints = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("error:")]
        return (complaints or lines or [f"exit code {self.code}"])[-1 if not complaints else 0]


def full_disk(output: str) -> str | None:
    """The line of a command's output that says that nothing more can be written; None where there is none."""
    lines = (line.strip() for line in output.splitlines())
    return next((line for line in lines if any(os.strerror(cause) in line for cause in _FULL)), None)


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated` in the main thread; elsewhere than in the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    echo: bool = False,
    unechoed: frozenset[bytes] = frozenset(),
) -> Finished:
    """Run a command in a session of its own and wait for it; whatever ends this call kills all that it started.

    Args:
        env: the whole environment; default: ours.
        log: receives the output as lines, without control sequences, while the command runs.
        echo: pass the output on to stderr at once. If stderr is a terminal the command gets one too, so that its
            progress bars live.
        unechoed: lines that are not passed on.
    """
    source, sink = pty.openpty() if echo and sys.stderr.isatty() else os.pipe()
    try:
        with open(source, "rb", buffering=0) as output, _supervised(command, cwd, env, sink) as process:
            os.close(sink)
            sink = -1
            with log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as file:
                text = _copy(output, file, unechoed if echo else None)
            return Finished(process.wait(), text)
    finally:
        if sink >= 0:
            os.close(sink)


@contextlib.contextmanager
def background(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None, log: Path
) -> Iterator[Callable[[], int | None]]:
    """Within, a command runs beside us, out of reach of the terminal's Ctrl-C; afterwards nothing of it is left.

    Gives a function that returns its exit code, None while it runs. Its output goes to `log`.
    """
    with log.open("wb") as file, _supervised(command, cwd, env, file.fileno()) as process:
        yield process.poll


class Dialogue:
    """A command beside us that reads and writes lines."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._received = b""

    def send(self, line: str) -> None:
        """Write a line to its stdin; one that has ended doesn't get it, which `receive` will tell."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it was opened as a pipe
        with contextlib.suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")

    def receive(self, seconds: float | None = None) -> str | None:
        """The next line of its stdout; None if it ends before, or stays silent for so long."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it was opened as a pipe
        end = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._received:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            chunk = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                return None
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def finish(self, seconds: float | None = None) -> Finished:
        """Wait for its end; the output is what it wrote to stderr.

        Exit code 1 where it hasn't ended after so many seconds.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = 1
        # Read in place: the command's own writes share the file's offset.
        size = os.fstat(self._errors.fileno()).st_size
        return Finished(code, os.pread(self._errors.fileno(), size, 0).decode(errors="replace"))


@contextlib.contextmanager
def dialogue(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Dialogue]:
    """Within, a command runs beside us and can be spoken to; afterwards nothing of it is left.

    Args:
        cwd, env: its folder and its whole environment; default: ours.
    """
    with (
        tempfile.TemporaryFile() as errors,
        _supervised(command, cwd, env, subprocess.PIPE, errors.fileno(), subprocess.PIPE) as process,
    ):
        yield Dialogue(process, errors)


@contextlib.contextmanager
def _supervised(
    command: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    output: int,
    errors: int | None = None,
    source: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor of a command; at the end its lifeline is cut, and its cleaning up awaited."""
    # The supervisor inherits the read end only; when ours closes, even by SIGKILL, it kills what it started.
    lifeline, our_end = os.pipe()
    os.set_inheritable(lifeline, True)
    supervisor = Path(__file__).with_name("supervisor.py")
    process: subprocess.Popen[bytes] | None = None
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(supervisor), str(lifeline), str(GRACE_SECONDS), *command],
                cwd=cwd,
                env=env,
                stdin=source,
                stdout=output,
                stderr=output if errors is None else errors,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
        yield process
    finally:
        os.close(our_end)
        if process is not None:
            _wait(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _copy(output: IO[bytes], log: IO[str] | None, unechoed: frozenset[bytes] | None) -> str:
    """Pass the output on until its end; returns its lines as a person would have read them."""
    lines_read: list[str] = []
    rest = pending = b""
    while chunk := _read(output):
        if unechoed is not None:
            pending = _echo(pending + chunk, unechoed)
        *lines, rest = (rest + chunk).split(b"\n")
        _keep(lines, lines_read, log)
    if rest:
        _keep([rest], lines_read, log)
    return "".join(lines_read)


def _echo(text: bytes, unechoed: frozenset[bytes]) -> bytes:
    """Write what may be written now; gives back the beginning of a line that may turn out to be an unechoed one."""
    *lines, tail = text.split(b"\n")
    shown = [line + b"\n" for line in lines if line.rstrip(b"\r") not in unechoed]
    pending = tail if any(line.startswith(tail) for line in unechoed) else b""
    sys.stderr.buffer.write(b"".join(shown) + tail.removesuffix(pending))
    sys.stderr.buffer.flush()
    return pending


def plain_text(output: bytes) -> str:
    """A command's whole output as a person would have read it."""
    return "".join(map(_as_read, output.removesuffix(b"\n").split(b"\n")))


def _as_read(line: bytes) -> str:
    """A line without control sequences; of one that a progress bar rewrote, what stood there last."""
    return _CONTROL.sub("", line.decode(errors="replace")).rstrip("\r").rpartition("\r")[2] + "\n"


def _keep(lines: list[bytes], lines_read: list[str], log: IO[str] | None) -> None:
    """Add lines as a person would have read them, and write them to the log."""
    texts = list(map(_as_read, lines))
    lines_read.extend(texts)
    if log is not None and texts:
        log.write("".join(texts))
        log.flush()


def _read(output: IO[bytes]) -> bytes:
    try:
        return output.read(1 << 16)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux reports the end of a terminal
            return b""
        raise


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until the supervisor has cleaned up; beyond its time, kill the session."""
    try:
        process.wait(GRACE_SECONDS + 10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
