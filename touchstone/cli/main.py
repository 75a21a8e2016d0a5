"""The `touchstone` command.

    touchstone retrain                            # data to a promoted champion
    touchstone retrain train.learning_rate=5e-4   # one run with another parameter
    touchstone plan                               # what would run, and why

Exit codes: 0 done (also "nothing to do"), 1 error, 2 wrong use, 3 blocked by a gate.
Heavy libraries are imported inside the commands: `--help` answers at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli import bench, data, gate, inbox, labels, models, release
from touchstone.cli.budget import budget_command
from touchstone.cli.monitor import monitor_command
from touchstone.cli.options import Json, Overrides
from touchstone.cli.refresh import refresh_command
from touchstone.cli.score import score_command
from touchstone.cli.serve import serve_command
from touchstone.cli.ui import ui_command
from touchstone.errors import TouchstoneError, os_words
from touchstone.runtime.files import pretty_json

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"touchstone {version('touchstone-rm')}")
        raise typer.Exit


@app.callback()
def touchstone_command(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Human preference comparisons in, trustworthy reward models out."""


app.add_typer(data.app, name="data")
app.add_typer(inbox.app, name="inbox")
app.add_typer(labels.app, name="labels")
app.add_typer(bench.app, name="bench")
app.add_typer(gate.app, name="gate")


AsOf = Annotated[
    str | None,
    typer.Option(
        help="Take the data of this git revision or run, with today's code, under a name of its own.",
        show_default=False,
    ),
]


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder; with --update a project's own.")] = Path(),
    update: Annotated[
        bool, typer.Option("--update", help="Bring a project's files to the installed version; changed ones stay.")
    ] = False,
) -> None:
    """Make a project from the installed package: configuration, stages, flows, and a first commit.

    Example: touchstone init demo
    """
    from touchstone.pipeline.project import make
    from touchstone.pipeline.project import update as bring_up_to_date

    typer.echo(bring_up_to_date(folder) if update else make(folder))


@app.command("configure")
def configure_command(
    overrides: Overrides = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Compose configs/ anew: every setting that isn't named gets its default.")
    ] = False,
    json: Json = False,
) -> None:
    """Change params.yaml, the configuration that `dvc repro` and the schedule use, and say what has changed.

    What isn't named stays as it is. A group (data, model, objective, train, gates, serve) replaces its sections.

    Example: touchstone configure data=hh_rlhf data.path=../hh-rlhf train.seed=18
    """
    from touchstone.pipeline.overrides import configure

    configured = configure(settings.checked_root(), overrides or [], reset=reset)
    typer.echo(pretty_json(configured.to_json()) if json else configured.render(), nl=not json)


@app.command("plan")
def plan_command(overrides: Overrides = None, as_of: AsOf = None, json: Json = False) -> None:
    """Say what `retrain` would run, and why, without running it.

    Example: touchstone plan train.learning_rate=5e-4
    """
    from touchstone.pipeline.plan import plan

    steps = plan(settings.checked_root(), overrides or [], as_of=as_of)
    typer.echo(pretty_json(steps.to_json()) if json else steps.render(), nl=not json)


@app.command("retrain")
def retrain_command(
    overrides: Overrides = None,
    plain: Annotated[bool, typer.Option("--plain", help="Run the steps here, without Prefect.")] = False,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Run the whole pipeline: data to a judged, registered, promoted and served reward model.

    Example: touchstone retrain data=ukpconvarg1 data.path=../ukpconvarg1

    Example: touchstone retrain --as-of v1.2
    """
    root = settings.checked_root()
    if not plain:
        # The flow stands above this package, so it is started, not imported; its exit code is ours.
        past = [] if as_of is None else ["--as-of", as_of]
        form = ["--json"] if json else []
        command = [sys.executable, "-m", "flows", *past, *form, *(overrides or [])]
        os.chdir(root)
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    from touchstone.pipeline.retrain import retrain_plain

    raise typer.Exit(retrain_plain(root, overrides or [], as_of=as_of, json=json).code)


app.command("seal")(models.seal_command)
app.command("judge")(models.judge_command)
app.command("budget")(budget_command)
app.command("refresh")(refresh_command)
app.command("serve")(serve_command)
app.command("score")(score_command)
app.command("monitor")(monitor_command)
app.command("ui")(ui_command)
app.registered_commands += release.app.registered_commands


def main() -> None:
    """Run the command; an expected error is one sentence on stderr and exit code 1."""
    try:
        app()
    except TouchstoneError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a file or folder of the project that isn't what it must be
        typer.echo(f"error: {os_words(error)}", err=True)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        typer.echo(f"error: {error.cmd[0]} ended with exit code {error.returncode}", err=True)
        sys.exit(1)
