"""`touchstone inbox`: comparisons that come in by files, or a hub revision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli.options import Json
from touchstone.runtime.files import pretty_json

app = typer.Typer(help="Comparisons that come in by files, or a hub revision.", no_args_is_help=True)


@app.callback()
def inbox() -> None:
    """Comparisons that come in by files, or a hub revision."""


@app.command("take")
def take_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Holds files of the settings' source; default: inbox/.", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Take this revision of the settings' hub data set instead.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Try what was refused before, too.")] = False,
    json: Json = False,
) -> None:
    """Make a version of the data of each new file: checked, data.dvc moved, and said what has changed.

    A file that can't be used is refused with its reason, and the others go on (exit code 3 where all were refused).

    Example: touchstone inbox take ../from-labelling
    """
    from touchstone.pipeline.inbox import BatchRefused, take

    root, chosen = settings.load_project()
    outcome = take(root, chosen, folder.resolve() if folder is not None else None, revision=revision, again=again)
    facts = {
        "entries": [entry.model_dump(mode="json") for entry in outcome.entries],
        "known": outcome.known,
        "difference": outcome.difference and outcome.difference.to_json(),
    }
    typer.echo(pretty_json(facts) if json else outcome.render(), nl=not json)
    refused = [entry for entry in outcome.entries if isinstance(entry, BatchRefused)]
    raise typer.Exit(3 if refused and len(refused) == len(outcome.entries) else 0)
