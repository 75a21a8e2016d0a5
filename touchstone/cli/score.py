"""`touchstone score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import Json
from touchstone.runtime.files import pretty_json


def score_command(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Rows with a prompt and completions: JSON lines, Parquet ..."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or the folder of a sealed artifact.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The Parquet file to write.")],
    prompt: Annotated[str, typer.Option(help="The field that holds the prompt: a text, or chat messages.")] = "prompt",
    completion: Annotated[
        str | None,
        typer.Option(help="The field that holds the completion or completions.", show_default="completion(s)"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: what suits the model.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Score a file of any size: raw and centred rewards, percentiles, what was truncated.

    A run that was interrupted goes on where it was. Rows that can't be scored are set aside with the reason.

    Example: touchstone score rollouts.jsonl.gz --model models:/reward-sandbox@champion --out scores.parquet
    """
    from touchstone.pipeline.score import find_model, score_file, summary

    sealed = find_model(model)
    report = score_file(file, sealed, out, prompt_field=prompt, completion_field=completion, threads=threads or "auto")
    typer.echo(pretty_json(report.to_json()) if json else summary(report, sealed, out), nl=not json)
