"""`touchstone bench`: measure, and write benchmarks/results/."""

from __future__ import annotations

import os
import sys

import typer

from touchstone import settings

app = typer.Typer(help="Measure, and write benchmarks/results/.", no_args_is_help=True)


@app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train_command(context: typer.Context) -> None:
    """Pairs per second of training beside TRL; options after -- go to `python -m benchmarks.training`.

    Example: touchstone bench train --only hh --repeats 1
    """
    os.chdir(settings.checked_root())
    # The benchmarks stand beside this package, so they are started, not imported.
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.training", *context.args])  # noqa: S606


@app.command("data", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def data_command(context: typer.Context) -> None:
    """Import, validate and split a million generated groups; options after -- go to `python -m benchmarks.data`.

    Example: touchstone bench data --groups 20000
    """
    os.chdir(settings.checked_root())
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.data", *context.args])  # noqa: S606


@app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve_command(context: typer.Context) -> None:
    """Requests per second beside other servers; options after -- go to `python -m benchmarks.serving`.

    Example: touchstone bench serve --quick --only mlflow
    """
    os.chdir(settings.checked_root())
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.serving", *context.args])  # noqa: S606
