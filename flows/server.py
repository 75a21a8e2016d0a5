"""A Prefect server for one command, where nobody has named one.

Prefect would start it by itself, but in our own process group: Ctrl-C in a terminal would end it first, and Prefect
then spends minutes trying to tell it of the interruption. And a SIGKILL of us would leave it running.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, get_current_settings, temporary_settings

from touchstone.errors import PipelineError
from touchstone.runtime import processes

START_SECONDS = 120.0
"""The first start migrates a fresh database: 75 seconds were seen on a busy machine."""

LOG_SECONDS = 5.0
"""How long logs may take to reach the server at the end."""


@contextlib.contextmanager
def server(root: Path) -> Iterator[None]:
    """Within, Prefect has a server: the one of PREFECT_API_URL, or one that ends with this block.

    Raises:
        PipelineError: it doesn't start, or doesn't answer.
    """
    if url := PREFECT_API_URL.value():
        fault = get_client(sync_client=True).api_healthcheck()
        if fault is not None:
            raise PipelineError(
                f"no Prefect server answers at PREFECT_API_URL={url} ({fault}); start it (`prefect server start`), "
                "unset the variable for a server of this command's own, or run with `--plain`, without one"
            )
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The command and environment of prefect.server.api.server.SubprocessASGIServer, prefect 3.8.8.
    application = ["--factory", "prefect.server.api.server:create_app"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    command = [sys.executable, "-m", "uvicorn", *application, *place]
    server_settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    env = {**os.environ, **server_settings, **get_current_settings().to_environment_variables(exclude_unset=True)}
    log = Path(PREFECT_HOME.value()) / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/api"
    with processes.background(command, cwd=root, env=env, log=log) as exit_code:
        end = time.monotonic() + START_SECONDS
        while not _healthy(url):
            if exit_code() is not None or time.monotonic() > end:
                raise PipelineError(f"Prefect's server doesn't start, see {log}; `--plain` runs without it")
            time.sleep(0.1)
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:
                APILogWorker.drain_all(timeout=LOG_SECONDS)  # what was logged last comes before the server's end


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
