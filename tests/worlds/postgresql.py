"""A real PostgreSQL on a loopback port, from an empty folder, and the servers of the compose files over it.

with cluster() as postgres:
    postgres.create("mlflow")
    with mlflow_server(postgres, folder) as variables: ...     # what a client's environment must say
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
import yaml

from tests.places import ROOT
from touchstone.runtime import processes

PASSWORD = "made-for-a-test"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container; here loopback takes its place
START_SECONDS = 600.0
"""Servers migrate an empty database when they first start: a minute on a busy machine."""


@dataclass(frozen=True)
class Postgres:
    """Where it listens; its superuser is postgres."""

    port: int

    def query(self, database: str, words: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query of the superuser gives."""
        with contextlib.closing(
            psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", password=PASSWORD, dbname=database)
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(words, values)
                return list(cursor.fetchall()) if cursor.description else []

    def create(self, name: str) -> None:
        """An empty database, owned by a user of the same name."""
        self.query("postgres", f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        self.query("postgres", f"CREATE DATABASE {name} OWNER {name}")


@contextlib.contextmanager
def cluster() -> Iterator[Postgres]:
    """A running server with nothing in it; the test is skipped, with the reason, where there is no PostgreSQL."""
    binaries = _binaries()
    # It refuses to run as root.
    who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="touchstone-postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if who:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        data, port = folder / "data", free_port()

        def run(program: str, *words: str) -> None:
            command = [str(binaries / program), "--pgdata", str(data), *words]
            # Its own server would keep a pipe open.
            with (folder.parent / f"{folder.name}.log").open("a") as log:
                subprocess.run(command, cwd="/", check=True, stdout=log, stderr=log, **who)

        secrets = ["--username", "postgres", "--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
        try:
            run("initdb", *secrets, "--encoding", "UTF8", "--locale", "C", "--no-sync")
            run("pg_ctl", "--wait", "--options", options, "--log", str(folder / "log"), "start")
            yield Postgres(port)
        finally:
            if (data / "postmaster.pid").exists():
                run("pg_ctl", "--wait", "--mode", "immediate", "stop")
            (folder.parent / f"{folder.name}.log").unlink()


def _binaries() -> Path:
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    found = shutil.which("initdb")
    if not known and not found:
        pytest.skip("PostgreSQL isn't installed: `apt-get install postgresql` brings it")
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL doesn't run as root, and there is no user postgres")
    return known[-1] if known else Path(str(found)).parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(postgres: Postgres, folder: Path) -> Iterator[dict[str, str]]:
    """The server of mlflow/compose.yaml, by the command of its image, with a folder for the object store.

    Gives the environment of a client: the first administrator's.
    """
    port = free_port()
    variables = _variables(
        "mlflow/compose.yaml",
        "mlflow",
        {"POSTGRES_PASSWORD": PASSWORD, "MLFLOW_ADMIN": "ada", "MLFLOW_ADMIN_PASSWORD": PASSWORD},
        {"database:5432": f"127.0.0.1:{postgres.port}", ":5000": f":{port}"},
    )
    variables = {name: value for name, value in variables.items() if not name.startswith("AWS_")}
    ini = (ROOT / "mlflow" / "auth.ini").read_text().replace("database:5432", f"127.0.0.1:{postgres.port}")
    (folder / "auth.ini").write_text(ini)
    variables["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "auth.ini")
    words = re.findall(r'"([^"]*)"', (ROOT / "mlflow" / "Dockerfile").read_text().split("\nCMD ")[1])
    changed = {EVERYWHERE: "127.0.0.1", "5000": str(port), "s3://mlflow/artifacts": str(folder / "artifacts")}
    changed["2"] = "1"  # workers: a second one takes as long to start again
    with _running([changed.get(word, word) for word in words], variables, folder, f"http://127.0.0.1:{port}/health"):
        yield {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "MLFLOW_TRACKING_USERNAME": "ada",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }


@contextlib.contextmanager
def prefect_server(postgres: Postgres, folder: Path) -> Iterator[dict[str, str]]:
    """The server of deploy/compose.yaml; gives the environment of a client."""
    port = free_port()
    variables = _variables(
        "deploy/compose.yaml",
        "prefect",
        {"POSTGRES_PASSWORD": PASSWORD, "PREFECT_AUTH": f"ada:{PASSWORD}"},
        {"database:5432": f"127.0.0.1:{postgres.port}"},
    )
    folders = {"HOME": ".", "PREFECT_HOME": "prefect", "PREFECT_UI_STATIC_DIRECTORY": "pages"}
    variables |= {name: str(folder / inside) for name, inside in folders.items()}
    command = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["prefect"]["command"]
    changed = {EVERYWHERE: "127.0.0.1", "4200": str(port)}
    url = f"http://127.0.0.1:{port}/api"
    with _running([changed.get(word, word) for word in command], variables, folder, f"{url}/health"):
        yield {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": f"ada:{PASSWORD}"}


def _variables(file: str, service: str, env: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service, filled in as the engine does it, with other places."""
    stated = yaml.safe_load((ROOT / file).read_text())["services"][service]["environment"]
    variables = {}
    for name, value in stated.items():
        filled = re.sub(r"(?<!\$)\$\{(\w+)[^}]*\}", lambda match: env.get(match[1], PASSWORD), value)
        filled = filled.replace("$$", "$")
        for before, after in places.items():
            filled = filled.replace(before, after)
        variables[name] = filled
    return variables


@contextlib.contextmanager
def _running(command: list[str], variables: Mapping[str, str], folder: Path, health: str) -> Iterator[None]:
    """A server's command, until it answers and then as long as the block."""
    folder.mkdir(exist_ok=True)
    log = folder / f"{command[0]}.log"
    env = {**os.environ, **variables}
    with processes.background([sys.executable, "-m", *command], cwd=folder, env=env, log=log) as exit_code:
        end = time.monotonic() + START_SECONDS
        while not _healthy(health):
            assert exit_code() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.3)
        yield


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).is_success
    except httpx.HTTPError:
        return False
