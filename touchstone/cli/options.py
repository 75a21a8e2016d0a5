"""What several commands share: their arguments, and the settings with overrides."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone import settings

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="group=choice and key=value, as in configs/: data=hh_rlhf train.seed=18", show_default=False),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for another program.")]


def current_settings(overrides: list[str] | None) -> settings.Settings:
    """The checkout's params.yaml with overrides laid over it, as `retrain` does."""
    from touchstone.pipeline.overrides import apply

    root = settings.checked_root()
    current = settings.load(root / "params.yaml")
    return apply(current, overrides, root / "configs") if overrides else current
