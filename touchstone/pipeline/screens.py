"""Servers of screens for people, kept until somebody stops them: on loopback, and nothing left of them afterwards."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from touchstone.errors import PipelineError
from touchstone.registry import screen
from touchstone.runtime import processes

MODELS = "/#/experiments?workflowType=machine_learning"
"""MLflow's own start is about language models and their traces."""

START_SECONDS = 180.0
"""Prefect migrates a fresh database: more than a minute was seen on a busy machine."""


@dataclass(frozen=True)
class Screen:
    """A server to start.

    Attributes:
        env: what to add to its environment.
        health: the path that answers once it is up.
        page: the path that a person wants.
    """

    name: str
    port: int
    command: Sequence[str]
    env: Mapping[str, str]
    health: str
    page: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


def mlflow_screen(root: Path, port: int) -> Screen | str:
    """MLflow's screen over the project's registry, or its address where the registry is a server already.

    Raises:
        RegistryError: the registry's database can't be made, or is damaged.
    """
    if (address := screen.address(root)) is not None:
        return address
    command, env = screen.server(root, port)
    return Screen("MLflow", port, command, env, "/health", MODELS)


def show(root: Path, screens: Mapping[str, Screen | str], say: Callable[[str], object]) -> None:
    """Start those that are no address yet, say where all of them are, and keep them until this is interrupted.

    Args:
        screens: by name.

    Raises:
        PipelineError: a port is taken, or a server doesn't start or has ended.
        KeyboardInterrupt: Ctrl-C or SIGTERM; nothing is left of them.
    """
    wanted = [found for found in screens.values() if isinstance(found, Screen)]
    for server in wanted:
        _check_free(server)
    logs = root / "runs" / "ui"
    logs.mkdir(parents=True, exist_ok=True)
    with processes.stopped_by_sigterm(), ExitStack() as stack:
        running = [(server, stack.enter_context(_started(server, root, _log(logs, server)))) for server in wanted]
        for server, code in running:
            _wait(server, code, _log(logs, server))
        for name, found in screens.items():
            say(f"{name:<9}{found.url + found.page if isinstance(found, Screen) else found}")
        if running:
            say("Ctrl-C stops what was started here")
        while running:
            for server, code in running:
                if code() is not None:
                    raise PipelineError(f"{server.name}'s server has ended; see {_log(logs, server)}")
            time.sleep(0.5)


def _started(server: Screen, root: Path, log: Path) -> AbstractContextManager[Callable[[], int | None]]:
    return processes.background(server.command, cwd=root, env={**os.environ, **server.env}, log=log)


def _log(folder: Path, server: Screen) -> Path:
    return folder / f"{server.name.lower()}.log"


def _check_free(server: Screen) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", server.port))
        except OSError:
            raise PipelineError(
                f"port {server.port} is taken; name another one with --{server.name.lower()}-port"
            ) from None


def _wait(server: Screen, code: Callable[[], int | None], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while code() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{server.url}{server.health}", timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise PipelineError(f"{server.name}'s server doesn't start; see {log}")
