"""How MLflow's own screen is started over the project's registry."""

from __future__ import annotations

import sys
from pathlib import Path

from touchstone.registry.database import connect, is_server

# What an MLflow server of this project is told beside its address: nothing reports home, nothing runs jobs.
_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def address(root: Path) -> str | None:
    """Where the registry is a server already, its address; None where it is a database, which a screen needs one for.

    Raises:
        RegistryError: the database can't be made, or is damaged.
    """
    uri = connect(root)
    return uri if is_server(uri) else None


def server(root: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves the screen on loopback, and what to add to its environment.

    The database is named there, not among the words that every user of the machine can list.

    Raises:
        RegistryError: the database can't be made, or is damaged.
    """
    artifacts = root / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *place, "--artifacts-destination", str(artifacts)]
    return command, {**_QUIET, "MLFLOW_BACKEND_STORE_URI": connect(root)}
