"""`touchstone data`: bring comparisons into data/, and look at them."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli.options import Json, Overrides, current_settings
from touchstone.runtime.files import pretty_json

app = typer.Typer(help="Bring comparisons into data/, and look at them.", no_args_is_help=True)


SetDefault = Annotated[
    bool, typer.Option("--set-default", help="Write the source into params.yaml: runs and the schedule read it too.")
]


def _import(overrides: list[str], *, replace: bool = False, set_default: bool = False, json: bool = False) -> None:
    from touchstone.pipeline.data import import_data
    from touchstone.pipeline.overrides import configure

    root = settings.checked_root()
    chosen = current_settings([*overrides, "importing.replace=true"] if replace else overrides)
    summary = import_data(chosen, root)
    typer.echo(pretty_json(asdict(summary)) if json else summary.render(), nl=not json)
    if settings.load(root / "params.yaml").data == chosen.data:
        return
    if set_default:
        typer.echo(configure(root, overrides, reset=False).render(), err=json)
    else:
        words = shlex.join(overrides)
        typer.echo(
            f"params.yaml still names another source: `touchstone configure {words}`, or `--set-default` here, makes "
            f"this one the default",
            err=json,
        )


@app.command("import")
def import_command(
    source: Annotated[
        str | None, typer.Argument(help="A choice in configs/data/; default: the one in params.yaml")
    ] = None,
    overrides: Overrides = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The file is the whole truth: rows that it no longer has go.")
    ] = False,
    set_default: SetDefault = False,
    json: Json = False,
) -> None:
    """Read a source into data/ and write data.dvc.

    What it understood is shown; what smells of misreading stops it (importing.suspicion, importing.allow).

    Example: touchstone data import ukpconvarg1 data.path=../ukpconvarg1
    """
    if source is not None and "=" in source:
        raise typer.BadParameter(f"{source} is a setting, not a source: name the source first", param_hint="SOURCE")
    words = [f"data={source}", *(overrides or [])] if source else []
    _import(words, replace=replace, set_default=set_default, json=json)


@app.command("sandbox")
def sandbox_command(overrides: Overrides = None, set_default: SetDefault = False, json: Json = False) -> None:
    """Generate the sandbox into data/ and write data.dvc.

    Example: touchstone data sandbox data.label_noise=0.1
    """
    _import(["data=sandbox", *(overrides or [])], set_default=set_default, json=json)


@app.command("look")
def look_command(
    file: Annotated[str, typer.Argument(help="A file, a folder, or org/name on the Hugging Face hub.")],
    places: Annotated[
        list[str] | None,
        typer.Argument(help="What of it: data.split, data.subset, data.folder, data.revision.", show_default=False),
    ] = None,
) -> None:
    """Say what is in a file, which settings read it, and what would come of them; nothing is written.

    Relative paths count from the project's root. At most 2,000 rows are read.

    Example: touchstone data look ../mine/labels.csv
    """
    from touchstone.data.look.look import PLACES, look
    from touchstone.data.look.screen import render

    named = dict(place.removeprefix("data.").partition("=")[::2] for place in places or [])
    if unknown := sorted(named.keys() - PLACES):
        raise typer.BadParameter(f"{unknown[0]} is none of data.{', data.'.join(sorted(PLACES))}", param_hint="PLACES")
    typer.echo(render(look(file, settings.checked_root(), named)))


@app.command("page")
def page_command(
    previous: Annotated[
        str | None, typer.Option(help="Also say what has changed since this git revision, run or folder.")
    ] = None,
) -> None:
    """Write the data page: what came in, what was set aside, who judged, what the seven sets hold.

    Example: touchstone data page --previous HEAD~1
    """
    from touchstone.pipeline.data_versions import write_page

    typer.echo(f"data page: {write_page(settings.checked_root(), current_settings(None), previous)}")


@app.command("diff")
def diff_command(
    previous: Annotated[str, typer.Argument(help="A git revision, a run's id, or a folder with groups.parquet.")],
    current: Annotated[str | None, typer.Argument(help="The same; default: build/.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say what has changed between two versions of the data: groups, labels, leaks, drift.

    Example: touchstone data diff HEAD~1
    """
    from touchstone.pipeline.data_versions import differ

    difference = differ(settings.checked_root(), previous, current)
    typer.echo(pretty_json(difference.to_json()) if json else difference.render(), nl=not json)
