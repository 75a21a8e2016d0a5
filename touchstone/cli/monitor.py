"""`touchstone monitor`: one look at the served champion."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli.options import Json, settings_or_committed
from touchstone.runtime.files import pretty_json


def monitor_command(
    canary: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Judged groups (Parquet); default: the newest canary set.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="The endpoint's store of samples; default: serve.samples.folder.",
            show_default=False,
        ),
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Where it says RETRAIN, retrain.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Look at nothing; show what was seen before.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Look at the served champion once: canary, drift, and whether to train again (OK, WARN or RETRAIN).

    What was seen stands in runs/monitor/: a ledger, a page, and metrics for Prometheus.

    Example: touchstone monitor

    Example: touchstone monitor --history
    """
    from touchstone.operations.monitoring import history as past

    root, chosen = settings_or_committed() if history else settings.load_project()
    if history:
        entries = past.read(root, chosen.name)
        typer.echo(
            pretty_json([e.model_dump(mode="json") for e in entries]) if json else past.table(entries), nl=not json
        )
        return
    from touchstone.operations.monitoring.look import look

    window = look(root, chosen, canary_file=canary, traffic=samples)
    typer.echo(pretty_json(window.model_dump(mode="json")) if json else past.words_of(window), nl=not json)
    if retrain and window.state == "RETRAIN":
        # The flow stands above this package, so it is started; it enters beginning and end into the history.
        os.chdir(root)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "flows.monitor", "--retrain"])  # noqa: S606 - no shell
