"""An endpoint in a process of its own, for as long as a block runs."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from touchstone.client import Client
from touchstone.errors import ServingError
from touchstone.runtime.files import write_atomic
from touchstone.settings import Settings, dump

START_SECONDS = 180.0
"""How long loading may take."""

STOP_SECONDS = 30.0


@contextlib.contextmanager
def temporary_endpoint(root: Path, settings: Settings, name: str) -> Iterator[Client]:
    """Start an endpoint on a free loopback port, give a client of it, and end it whatever happens.

    It stands in its own process group, and it ends by itself when this process is killed.

    Raises:
        ServingError: it did not start; the message is its own last line.
    """
    with tempfile.TemporaryDirectory(prefix="touchstone-serve-") as folder, tempfile.TemporaryFile() as log:
        params = Path(folder) / "params.yaml"
        write_atomic(params, dump(settings))
        command = [
            *(sys.executable, "-m", "touchstone.serving", "--name", name, "--root", str(root)),
            *("--params", str(params), "--host", "127.0.0.1", "--port", "0", "--until-stdin-closes"),
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            url = _wait_for_url(process)
            if url is None:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1].removeprefix("error: ") if lines else f"exit code {process.poll()}"
                raise ServingError(f"the endpoint did not start: {reason}")
            with Client(url) as client:
                yield client
        finally:
            _end(process)


def _wait_for_url(process: subprocess.Popen[bytes]) -> str | None:
    """The address from the endpoint's first line; None if it ends or stays silent."""
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was opened as a pipe
    end = time.monotonic() + START_SECONDS
    said = b""
    while b"\n" not in said:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not piece:
            return None
        said += piece
    found = re.search(rb"http://\S+", said)
    return found and found[0].decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes the pipes
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
