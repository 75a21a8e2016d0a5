"""`touchstone refresh`: label a policy's completions where the champion is in doubt, and train again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import Overrides, current_settings
from touchstone.errors import DataError
from touchstone.settings import checked_root


def refresh_command(
    overrides: Overrides = None,
    samples: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The policy's completions; default: the sandbox's policy."),
    ] = None,
    labels: Annotated[int, typer.Option(min=1, help="Pairs to label.")] = 500,
    member: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="A further artifact whose doubts count; may be repeated."),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="What people answered to an earlier refresh; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one asks about other prompts.")] = 0,
    train: Annotated[bool, typer.Option(help="Train and judge at once, as `retrain --plain` does.")] = True,
) -> None:
    """Choose pairs of a policy's completions, label them, add them to data/, train from the base, judge.

    The sandbox's annotators answer at once. Otherwise the first call writes questions for people below runs/refresh/,
    and the second takes their answers.

    Example: touchstone refresh --labels 500

    Example: touchstone refresh --samples rollouts.jsonl && touchstone refresh --answers answers.csv
    """
    from touchstone.pipeline import refresh

    root = checked_root()
    settings = current_settings(overrides)
    if not refresh.has_data(root):
        raise DataError("data/ isn't there and in no cache; bring it with `make data`")

    # Labels: those that came back, the sandbox's, or a question to people.
    if answers:
        judged = refresh.answered(root, answers)
        origin = f"answers to a refresh ({', '.join(path.name for path in answers)})"
    else:
        chosen = refresh.choose(root, settings, samples=samples, labels=labels, members=member or [], seed=seed)
        typer.echo(f"chosen     {chosen.count:,} pairs of {sum(map(bool, chosen.pairs)):,} prompts")
        if settings.data.source != "sandbox":
            folder = refresh.ask(root, chosen)
            shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
            typer.echo(f"asked      {shown}: ask.csv, ask.jsonl, label_studio.json, argilla.json")
            typer.echo("next       touchstone refresh --answers FILE")
            return
        judged = refresh.label(settings, chosen, seed)
        origin = f"a refresh on policy, seed {seed}"

    # Data, and the ordinary run.
    count = refresh.add(root, judged, origin)
    typer.echo(f"added      {count:,} groups to data/")
    if not train:
        return
    from touchstone.pipeline.retrain import retrain_plain

    raise typer.Exit(retrain_plain(root, overrides or []).code)
