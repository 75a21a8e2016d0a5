"""`touchstone budget`: how far a version may be optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import Json
from touchstone.runtime.files import pretty_json
from touchstone.settings import load_project


def budget_command(
    which: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="A version or an alias; default: champion.")
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A sealed artifact's folder, instead.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A policy's completions; default: the sandbox's policy."),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A sealed artifact, on another base, that stands for people."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")] = None,
    json: Json = False,
) -> None:
    """Measure up to which best of n, and KL, gold still rises; keep it with the version.

    The sandbox knows its gold reward. Other data needs a file of many completions a prompt (256 by default), each with
    a gold reward, or a second model that gives them. The gate's check `overoptimisation`, the decision page and the
    endpoint use what comes out.

    Example: touchstone budget champion

    Example: touchstone budget 3 --samples rollouts.jsonl --gold build/artifact-held-out
    """
    if which is not None and artifact is not None:
        raise typer.BadParameter("give a version or --artifact, not both")
    from touchstone.pipeline.budget import measure

    root, settings = load_project()
    if name is not None:
        settings = settings.model_copy(update={"name": name})
    measured = measure(root, settings, which=which, artifact=artifact, samples=samples, gold=gold)
    if json:
        typer.echo(pretty_json(measured.budget.model_dump(mode="json")), nl=False)
        return
    typer.echo(measured.summary)
    path = measured.path.relative_to(root) if measured.path.is_relative_to(root) else measured.path
    if measured.quarantined:
        typer.echo(f"set aside    {measured.quarantined:,} lines that can't be used")
    borne = ", ".join(f"version {number}" for number in measured.versions) or "no registered version"
    typer.echo(f"kept         {path}; {path.with_suffix('.png').name}; {borne}")
