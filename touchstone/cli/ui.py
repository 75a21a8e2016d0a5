"""`touchstone ui`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from touchstone import settings


def ui_command(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's screen.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's screen.")] = 4200,
) -> None:
    """Show the project's runs, models and flows in MLflow's and Prefect's own screens, on this machine alone.

    Both servers end with Ctrl-C. Nothing reports home.

    Example: touchstone ui

    Example: touchstone ui --mlflow-port 5050
    """
    os.chdir(settings.checked_root())
    # The flows stand above this package, so they are started, not imported.
    ports = ["--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port)]
    os.execv(sys.executable, [sys.executable, "-m", "flows.ui", *ports])  # noqa: S606 - no shell is wanted
