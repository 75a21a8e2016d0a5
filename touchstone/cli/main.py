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
from typing import Annotated

import typer

from touchstone import settings as settings_module
from touchstone.cli import models, release
from touchstone.errors import TouchstoneError
from touchstone.runtime.files import pretty_json, write_atomic

app = typer.Typer(
    help="Human preference comparisons in, trustworthy reward models out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Bring comparisons into data/, and look at them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
bench_app = typer.Typer(help="Measure, and write benchmarks/results/.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="group=choice and key=value, as in configs/: data=hh_rlhf train.seed=18", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for another program.")]


def _settings(overrides: list[str] | None) -> settings_module.Settings:
    """The checkout's params.yaml with overrides laid over it, as `retrain` does."""
    from touchstone.pipeline.overrides import apply

    root = settings_module.checked_root()
    current = settings_module.load(root / "params.yaml")
    return apply(current, overrides, root / "configs") if overrides else current


def _import(overrides: list[str] | None) -> None:
    from touchstone.pipeline.data import import_data

    root, chosen = settings_module.checked_root(), _settings(overrides)
    summary = import_data(chosen, root)
    typer.echo(summary)
    if settings_module.load(root / "params.yaml").data != chosen.data:
        words = " ".join(overrides or [])
        typer.echo(
            f"params.yaml still names another source: `touchstone configure {words}` makes this one the default"
        )


@data_app.command("import")
def data_import(
    source: Annotated[
        str | None, typer.Argument(help="A choice in configs/data/; default: the one in params.yaml")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Read a source into data/ and write data.dvc.

    Example: touchstone data import ukpconvarg1 data.path=../ukpconvarg1
    """
    if source is not None and "=" in source:
        raise typer.BadParameter(f"{source} is a setting, not a source: name the source first", param_hint="SOURCE")
    _import([f"data={source}", *(overrides or [])] if source else None)


@data_app.command("sandbox")
def data_sandbox(overrides: Overrides = None) -> None:
    """Generate the sandbox into data/ and write data.dvc.

    Example: touchstone data sandbox data.label_noise=0.1
    """
    _import(["data=sandbox", *(overrides or [])])


@data_app.command("page")
def data_page(
    previous: Annotated[
        str | None, typer.Option(help="Also say what has changed since this git revision, run or folder.")
    ] = None,
) -> None:
    """Write the data page: what came in, what was set aside, who judged, what the seven sets hold.

    Example: touchstone data page --previous HEAD~1
    """
    from touchstone.pipeline.data_versions import write_page

    typer.echo(f"data page: {write_page(settings_module.checked_root(), _settings(None), previous)}")


@data_app.command("diff")
def data_diff(
    previous: Annotated[str, typer.Argument(help="A git revision, a run's id, or a folder with groups.parquet.")],
    current: Annotated[str | None, typer.Argument(help="The same; default: build/.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say what has changed between two versions of the data: groups, labels, leaks, drift.

    Example: touchstone data diff HEAD~1
    """
    from touchstone.pipeline.data_versions import differ

    found = differ(settings_module.checked_root(), previous, current)
    typer.echo(pretty_json(found.to_json()) if json else found.render(), nl=not json)


@bench_app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench_train(context: typer.Context) -> None:
    """Pairs per second of training beside TRL; options after -- go to `python -m benchmarks.training`.

    Example: touchstone bench train --only hh --repeats 1
    """
    os.chdir(settings_module.checked_root())
    # The benchmarks stand beside this package, so they are started, not imported.
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.training", *context.args])  # noqa: S606


@bench_app.command("data", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench_data(context: typer.Context) -> None:
    """Import, validate and split a million generated groups; options after -- go to `python -m benchmarks.data`.

    Example: touchstone bench data --groups 20000
    """
    os.chdir(settings_module.checked_root())
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.data", *context.args])  # noqa: S606


@app.command()
def configure(overrides: Overrides = None) -> None:
    """Compose configs/ into params.yaml, the configuration that `dvc repro` and the schedule use.

    Example: touchstone configure data=hh_rlhf data.path=../hh-rlhf train.seed=18
    """
    root = settings_module.checked_root()
    composed = settings_module.compose(overrides or [], root / "configs")
    write_atomic(root / "params.yaml", settings_module.dump(composed))
    typer.echo(f"params.yaml: {composed.name}, data {composed.data.source}, model {composed.model.kind}")


@app.command()
def plan(overrides: Overrides = None, json: Json = False) -> None:
    """Say what `retrain` would run, and why, without running it.

    Example: touchstone plan train.learning_rate=5e-4
    """
    from touchstone.pipeline.plan import plan as make_plan

    made = make_plan(settings_module.checked_root(), overrides or [])
    typer.echo(pretty_json(made.to_json()) if json else made.render(), nl=not json)


@app.command()
def retrain(
    overrides: Overrides = None,
    plain: Annotated[bool, typer.Option("--plain", help="Run the steps here, without Prefect.")] = False,
) -> None:
    """Run the whole pipeline: data to a judged, registered, promoted and served reward model.

    Example: touchstone retrain data=ukpconvarg1 data.path=../ukpconvarg1
    """
    root = settings_module.checked_root()
    if not plain:
        # The flow stands above this package, so it is started, not imported; its exit code is ours.
        command = [sys.executable, "-m", "flows.retrain", *(overrides or [])]
        os.chdir(root)
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    from touchstone.pipeline.retrain import retrain_plain

    raise typer.Exit(retrain_plain(root, overrides or []).code)


app.command()(models.seal)
app.command()(models.judge)
app.registered_commands += release.app.registered_commands


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    name: Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")] = None,
) -> None:
    """Serve the champion, and follow it when it changes.

    Example: touchstone serve --port 8200
    """
    from touchstone.serving import serve as run_server

    root, chosen = settings_module.checked_root(), _settings(None)
    run_server(root, chosen, name=name or chosen.name, host=host or chosen.serve.host, port=port or chosen.serve.port)


def main() -> None:
    """Run the command; an expected error is one sentence on stderr and exit code 1."""
    try:
        app()
    except TouchstoneError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        typer.echo(f"error: {error.cmd[0]} ended with exit code {error.returncode}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
