"""`touchstone gate`: what the gate would decide, before there is anything to judge."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli.options import Json, Overrides, current_settings
from touchstone.runtime.files import pretty_json

app = typer.Typer(help="What the gate would decide, before there is anything to judge.", no_args_is_help=True)


@app.callback()
def gate() -> None:
    """What the gate would decide, before there is anything to judge."""


@app.command("preview")
def preview_command(
    overrides: Overrides = None,
    discordance: Annotated[
        float, typer.Option(min=0.005, max=0.5, help="Share of pairs that two equal models order differently.")
    ] = 0.10,
    label_noise: Annotated[float, typer.Option(min=0.0, max=0.4, help="Share of the labels that are wrong.")] = 0.0,
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=1.0,
            help="The champion's agreement with the labels; default: of the model evaluated last, or 10 points above "
            "the best baseline.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[int | None, typer.Option(min=2, help="Simulated decisions per line.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say how likely PROMOTE, REJECT and INCONCLUSIVE are on data like this project's, by the candidate's true gain.

    By simulation through the gate's own checks, at the holdout's size, twice and four times that. It needs the sets of
    `dvc repro split` and neither an artifact nor the holdout's labels.

    Example: touchstone gate preview --discordance 0.15

    Example: touchstone gate preview gates=refresh --label-noise 0.1 --json
    """
    from rich.console import Console

    from touchstone.gate.preview import DRAWS, preview

    root, chosen = settings.checked_root(), current_settings(overrides)
    found = preview(
        root / "build",
        chosen,
        discordance=discordance,
        label_noise=label_noise,
        accuracy=accuracy,
        draws=draws or DRAWS,
    )
    if json:
        typer.echo(pretty_json(found.to_json()), nl=False)
        return
    Console().print(found.table())
    typer.echo(found.assumptions())
