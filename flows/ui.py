"""The command behind `touchstone ui`: MLflow's and Prefect's own screens over this project, on loopback.

    python -m flows.ui

Both end with this command, however it ends. Nothing reports home. Where MLFLOW_TRACKING_URI or PREFECT_API_URL names a
server, its address is printed and none is started.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from flows.entry import exit_code
from touchstone.errors import PipelineError
from touchstone.registry import screen
from touchstone.runtime import processes
from touchstone.settings import checked_root

MODELS = "/#/experiments?workflowType=machine_learning"
"""MLflow's own start is about language models and their traces."""

START_SECONDS = 180.0
"""Prefect migrates a fresh database: more than a minute was seen on a busy machine."""


@dataclass(frozen=True)
class _Server:
    """A server to start.

    Attributes:
        env: what to add to its environment.
        health: the path that answers once it is up.
        page: the path that a person wants.
    """

    name: str
    port: int
    command: list[str]
    env: dict[str, str]
    health: str
    page: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def servers(root: Path, *, mlflow_port: int, prefect_port: int) -> tuple[list[_Server], dict[str, str]]:
    """The servers to start, and the addresses of those that run elsewhere.

    Raises:
        RegistryError: the registry's database can't be made, or is damaged.
    """
    elsewhere: dict[str, str] = {}
    wanted: list[_Server] = []
    if (mlflow := screen.address(root)) is not None:
        elsewhere["MLflow"] = mlflow
    else:
        command, env = screen.server(root, mlflow_port)
        wanted.append(_Server("MLflow", mlflow_port, command, env, "/health", MODELS))
    if prefect := os.environ.get("PREFECT_API_URL"):
        elsewhere["Prefect"] = prefect.removesuffix("/").removesuffix("/api")
        return wanted, elsewhere
    home = Path(os.environ["PREFECT_HOME"])  # set by the package
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
    env = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{prefect_port}/api",  # where the page in the browser asks
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),  # its own default lies among the installed packages
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    wanted.append(_Server("Prefect", prefect_port, command, env, "/api/health"))
    return wanted, elsewhere


def show(root: Path, *, mlflow_port: int, prefect_port: int, say: Callable[[str], object]) -> None:
    """Start the servers, say where they are, and keep them until this is interrupted.

    Raises:
        PipelineError: a port is taken, or a server doesn't start or has ended.
        KeyboardInterrupt: Ctrl-C or SIGTERM; nothing is left of them.
    """
    wanted, addresses = servers(root, mlflow_port=mlflow_port, prefect_port=prefect_port)
    for server in wanted:
        _check_free(server)
    logs = root / "runs" / "ui"
    logs.mkdir(parents=True, exist_ok=True)
    with processes.stopped_by_sigterm(), ExitStack() as stack:
        running = [(server, stack.enter_context(_started(server, root, _log(logs, server)))) for server in wanted]
        for server, code in running:
            _wait(server, code, _log(logs, server))
            addresses[server.name] = server.url + server.page
        for name in ("MLflow", "Prefect"):
            say(f"{name:<9}{addresses[name]}")
        if "PREFECT_API_URL" not in os.environ:
            say(f"runs of other terminals show up at once after: export PREFECT_API_URL={addresses['Prefect']}/api")
        if running:
            say("Ctrl-C stops what was started here")
        while running:
            for server, code in running:
                if code() is not None:
                    raise PipelineError(f"{server.name}'s server has ended; see {_log(logs, server)}")
            time.sleep(0.5)


def _started(server: _Server, root: Path, log: Path) -> AbstractContextManager[Callable[[], int | None]]:
    return processes.background(server.command, cwd=root, env={**os.environ, **server.env}, log=log)


def _log(folder: Path, server: _Server) -> Path:
    return folder / f"{server.name.lower()}.log"


def _check_free(server: _Server) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", server.port))
        except OSError:
            raise PipelineError(
                f"port {server.port} is taken; name another one with --{server.name.lower()}-port"
            ) from None


def _wait(server: _Server, code: Callable[[], int | None], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while code() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{server.url}{server.health}", timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise PipelineError(f"{server.name}'s server doesn't start; see {log}")


def main() -> int:
    """Show the screens until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    arguments = parser.parse_args()

    def work() -> tuple[str, int]:
        def say(line: str) -> None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

        try:
            show(checked_root(), mlflow_port=arguments.mlflow_port, prefect_port=arguments.prefect_port, say=say)
        except processes.Terminated:
            raise
        except KeyboardInterrupt:
            return "\nstopped", 0
        return "nothing was started here", 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
