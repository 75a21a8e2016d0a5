"""What several commands share: their arguments, and the settings with overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone import settings
from touchstone.errors import SettingsError
from touchstone.settings import suggestions


def complete_override(context: typer.Context, incomplete: str) -> list[str]:
    """How a half-typed override may go on, for the shell.

    bash takes `=` for a word: of `data=pre` it hands us `data`, `=` and `pre`, and wants the last part alone.
    """
    configs = settings.project_root() / "configs"
    if not (configs / "config.yaml").is_file():
        return []
    words = context.params.get("overrides") or []
    if words[-1:] == ["="] and len(words) > 1:
        return [choice.partition("=")[2] for choice in suggestions.completions(f"{words[-2]}=", configs)]
    return suggestions.completions(incomplete, configs)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="group=choice and key=value, as in configs/: data=hh_rlhf train.seed=18",
        show_default=False,
        autocompletion=complete_override,
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for another program.")]


def settings_or_committed() -> tuple[Path, settings.Settings]:
    """The project and its settings; the committed ones, said so, where params.yaml is broken.

    For commands that look back or must work at night: `dvc exp run -S` leaves a wrong value in params.yaml, which they
    have no use for.

    Raises:
        SettingsError: there is no project, or no commit with sound settings either.
    """
    try:
        return settings.load_project()
    except SettingsError as error:
        from touchstone.pipeline.workspace import file_at

        root = settings.checked_root()
        text = file_at(root, "HEAD", "params.yaml")
        if text is None:
            raise
        committed = settings.parse_text(text, "the committed params.yaml")
        typer.echo(f"{error}; the committed ones are used (`git checkout params.yaml` brings them back)", err=True)
        return root, committed


def current_settings(overrides: list[str] | None) -> settings.Settings:
    """The checkout's params.yaml with overrides laid over it, as `retrain` does."""
    from touchstone.pipeline.overrides import apply

    root = settings.checked_root()
    current = settings.load(root / "params.yaml")
    return apply(current, overrides, root / "configs") if overrides else current
